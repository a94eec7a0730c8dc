"""Sync: admissions and the index of notes follow the source."""

import errno
import json
from datetime import datetime

import duckdb
import pytest
from click.testing import CliRunner

from featurestore import Store, change_source, create_store, sync
from featurestore.cli import main
from featurestore.errors import FeatureStoreError, SourceError
from featurestore.source import comparison
from featurestore.source.sync import diff_source
from tests.hospital import admission, note, own_schema, write_hospital
from tests.timeline import day


@pytest.fixture
def synced(tmp_path):
    """A function that writes admissions and notes to the hospital and syncs the store with it."""

    def write_and_sync(admissions, notes, patients=None, **settings):
        folder = write_hospital(tmp_path / "hospital", admissions, notes, patients)
        path = tmp_path / "ward.duckdb"
        store = Store(path) if path.exists() else create_store(path, folder, "mimic3", **settings)
        return store, sync(store)

    return write_and_sync


def test_all_columns_of_an_admission(synced):
    store, _ = synced(
        [
            admission(
                7,
                3,
                day(0),
                day(5),
                deathtime=day(5),
                admission_type="ELECTIVE",
                discharge_location="DEAD/EXPIRED",
                hospital_expire_flag=1,
                ethnicity="WHITE",
                insurance="Medicare",
            )
        ],
        [note(1, 7, "text", subject_id=3)],
        [{"SUBJECT_ID": 3, "GENDER": "M", "DOB": day(-70 * 365), "DOD": day(5).date()}],
    )
    assert store.sql("FROM admissions").fetchall() == [
        (7, 3, day(0), day(5), day(5), True, "ELECTIVE", True, "DEAD/EXPIRED", day(5).date(), "M",
         69, "WHITE", "Medicare", None, None)
    ]  # fmt: skip


def test_a_date_of_birth_shifted_by_mimic_gives_age_91(synced):
    store, _ = synced(
        [admission(7)],
        [note(1, 7, "text")],
        [{"SUBJECT_ID": 7, "GENDER": "M", "DOB": day(-300 * 365), "DOD": ""}],
    )
    assert store.one("SELECT age FROM admissions") == (91,)


@pytest.mark.parametrize(
    ("dob", "age"),
    [("2080", 70), ("2080-07", 69), ("20800701", 69), ("2080-01-01 00:00:00", 70), ("", None)],
    ids=["a year", "a month", "a number YYYYMMDD", "a time", "unknown"],
)
def test_a_date_of_birth_may_be_incomplete(synced, dob, age):
    patient = {"SUBJECT_ID": 7, "GENDER": "M", "DOB": dob, "DOD": ""}
    store, _ = synced([admission(7, admitted=day(0))], [note(1, 7, "text")], [patient])
    assert store.one("SELECT age FROM admissions") == (age,)


@pytest.mark.parametrize("dob", ["208", "2080-13", "20801301", "PHI_CANARY"])
def test_an_unreadable_date_of_birth_is_refused(synced, dob):
    patient = {"SUBJECT_ID": 7, "GENDER": "M", "DOB": dob, "DOD": ""}
    with pytest.raises(FeatureStoreError, match=r"DOB is not a date in 1 admissions .hadm_id 7"):
        synced([admission(7)], [note(1, 7, "text")], [patient])


def test_a_time_at_midnight_of_its_own_date_is_a_date(synced):
    midnight = note(1, 7, "a", day(2, 0)) | {"STORETIME": ""}
    at_nine = note(2, 7, "b", day(2, 9)) | {"STORETIME": ""}
    stored = note(3, 7, "c", day(2, 9)) | {"STORETIME": day(3, 0)}
    store, _ = synced([admission(7)], [midnight, at_nine, stored])
    assert store.sql(
        "SELECT note_id, available_at, time_basis FROM notes ORDER BY 1"
    ).fetchall() == [
        ("1", day(3, 0), "date"),
        ("2", day(2, 9), "charttime"),
        ("3", day(3, 0), "storetime"),
    ]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        *((value, None) for value in ("0", "0.0", "0 ", "N", "no", "f", "False", "")),
        *((value, "flagged as an error") for value in ("1", "1.0", " 1", "Y", "t", "withdrawn")),
    ],
)
def test_a_flag_is_a_number_or_a_word(synced, value, reason):
    store, _ = synced(
        [admission(7, hospital_expire_flag="0.0")], [note(1, 7, "text", iserror=value)]
    )
    assert store.one("SELECT reason FROM notes") == (reason,)


@pytest.mark.parametrize("value", ["infinity", "-infinity"])
def test_a_time_without_end_is_absurd(synced, value):
    store, _ = synced([admission(7)], [note(1, 7, "text", storetime=value)])
    assert store.one("SELECT reason FROM notes") == ("absurd date",)
    with pytest.raises(FeatureStoreError, match=r"NULL means still in hospital. in 1 admissions"):
        synced([admission(7, discharged=value)], [note(1, 7, "text")])


def source_until(tmp_path, end):
    """A hospital of two stays, in January and in February 2020, whose extract ends at a time."""
    folder = write_hospital(
        tmp_path / "hospital",
        [
            admission(7, 7, datetime(2020, 1, 1), datetime(2020, 1, 10)),
            admission(8, 8, datetime(2020, 1, 1), datetime(2020, 2, 5)),
        ],
        [note(1, 7, "text")],
    )
    return folder, own_schema(
        tmp_path / "own", "    p.dod,", f"    p.dod, {end} AS observed_until,"
    )


@pytest.mark.parametrize("live", [False, True], ids=["an extract", "a live hospital"])
def test_a_source_that_ends_earlier_says_so(tmp_path, live):
    store = create_store(
        tmp_path / "w.duckdb", *source_until(tmp_path, "'2020-03-01 06:00'"), live=live
    )
    sync(store)
    assert store.one("SELECT observed_until FROM settings") == (datetime(2020, 3, 1, 6),)
    assert store.sql(
        "SELECT hadm_id, label, reason FROM readmission_labels() ORDER BY 1"
    ).fetchall() == [(7, False, None), (8, None, "horizon not yet observed")]
    sync(store)
    assert store.one("SELECT count(*) FROM runs WHERE command = 'sync'") == (1,)


def test_a_live_hospital_is_not_observed_beyond_the_sync(tmp_path):
    store = create_store(tmp_path / "w.duckdb", *source_until(tmp_path, "'2199-01-01'"), live=True)
    before = datetime.now()
    sync(store)
    (end,) = store.one("SELECT observed_until FROM settings")
    assert before <= end <= datetime.now()


def test_an_extract_that_no_longer_names_an_end_is_fully_observed(tmp_path):
    folder, own = source_until(tmp_path, "'2020-03-01'")
    store = create_store(tmp_path / "w.duckdb", folder, own)
    sync(store)
    file = own / "admissions.sql"
    file.write_text(file.read_text().replace("'2020-03-01' AS observed_until,", ""))
    sync(store)
    assert store.one("SELECT observed_until FROM settings") == (None,)
    assert store.one("SELECT label FROM readmission_labels() WHERE hadm_id = 8") == (False,)


@pytest.mark.parametrize("end", ["a.dischtime", "'soon'", "'0021-01-01'", "'infinity'"])
def test_an_end_that_is_not_one_time_is_refused(tmp_path, end):
    store = create_store(tmp_path / "w.duckdb", *source_until(tmp_path, end))
    with pytest.raises(FeatureStoreError, match="OBSERVED_UNTIL of admissions is not one time"):
        sync(store)


def test_negative_ids(synced, tmp_path):
    low = -(2**63)
    store, _ = synced(
        [admission(low, -5, day(0), day(5)), admission(-13, -5, day(5), day(9))],
        [note(-1, low, "text", subject_id=-5)],
    )
    labels = store.sql("SELECT hadm_id, label, reason FROM readmission_labels() ORDER BY 1")
    assert labels.fetchall() == [(low, None, "continued by -13"), (-13, False, None)]
    flow = CliRunner().invoke(main, ["labels", str(store.path)])
    assert "continued by the next stay" in flow.output and "-13" not in flow.output
    for command in (["explain", str(store.path), "-13"], ["similar", str(store.path), str(low)]):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 1, result.output  # no scorer, no vectors: but not a usage error
    assert CliRunner().invoke(main, ["forget", str(store.path), "-5"]).exit_code == 0
    assert store.one("SELECT count(*) FROM admissions") == (0,)
    assert CliRunner().invoke(main, ["explain", str(store.path), "-13", "--jsom"]).exit_code == 2


def test_a_source_that_moves(synced, tmp_path):
    rows = [note(number, 7, f"text {number}") for number in range(30)]
    store, _ = synced([admission(7)], rows)
    new = write_hospital(tmp_path / "new", [admission(7)], [*rows[:25], note(99, 7, "new")])
    shown = CliRunner().invoke(main, ["source", str(store.path)])
    assert shown.output == f"{tmp_path / 'hospital'} (schema mimic3)\n"
    counts = change_source(store, new)
    assert counts["notes"] | {"excluded": {}} == {
        "total": 26, "new": 1, "changed": 0, "withdrawn": 5, "excluded": {}
    }  # fmt: skip
    assert store.one("SELECT source FROM settings") == (str(new),)
    assert store.one("SELECT count(*) FROM notes") == (30,)
    assert sync(store)["notes"]["withdrawn"] == 5

    other = write_hospital(tmp_path / "other", [admission(7)], rows[:5])
    refused = CliRunner().invoke(main, ["source", str(store.path), str(other)])
    assert refused.exit_code == 1
    assert "21 of 26 notes are no longer in the source" in refused.output
    (other / "NOTEEVENTS.csv").unlink()
    broken = CliRunner().invoke(main, ["source", str(store.path), str(other), "--force"])
    assert broken.exit_code == 1
    assert store.one("SELECT source FROM settings") == (str(new),)
    write_hospital(other, [admission(7)], rows[:5])
    forced = CliRunner().invoke(main, ["source", str(store.path), str(other), "--force"])
    assert forced.exit_code == 0, forced.output
    assert store.one("SELECT source FROM settings") == (str(other),)


def test_a_variable_that_is_not_used_is_an_error(synced, tmp_path, monkeypatch):
    store, _ = synced([admission(7)], [note(1, 7, "text")])
    monkeypatch.setenv("FEATURESTORE_SOURCE", "postgresql://me:PW_CANARY@db/hospital")
    with pytest.raises(FeatureStoreError, match=r"FEATURESTORE_SOURCE is set to .*me@db/hos") as e:
        sync(store)
    assert "PW_CANARY" not in str(e.value)
    monkeypatch.setenv("FEATURESTORE_SOURCE", str(tmp_path / "hospital"))
    sync(store)


def test_all_columns_of_a_note(synced):
    store, _ = synced(
        [admission(7)], [note(1, 7, "chest pain", day(2, 9), storetime=day(2, 11), category="ECG ")]
    )
    # md5sum of "chest pain"
    assert store.sql("FROM notes").fetchall() == [
        ("1", 7, 7, "ECG", day(2, 11), "storetime", "27a0380f35140d1786785f9dfff03f7a", 10, "ready",
         None)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (note(1, 7, "x", iserror="1"), "flagged as an error"),
        (note(1, "", "x"), "no admission"),
        (note(1, 999, "x"), "unknown admission"),
        (note(1, 7, "x", subject_id=8), "admission of another patient"),
        (note(1, 7, "x", charttime="yesterday"), "unreadable date"),
        (note(1, 7, "x", storetime="0021-03-04 10:00:00"), "absurd date"),
        (note(1, 7, "x", chartdate="9999-12-31"), "absurd date"),
        (note(1, 7, "x", chartdate="", charttime="", storetime=""), "no date"),
        (note(1, 7, ""), "empty text"),
        (note(1, 7, " \n\t "), "empty text"),
    ],
)
def test_an_unusable_note_is_excluded_with_a_reason(synced, row, reason):
    store, counts = synced([admission(7)], [row, note(2, 7, "usable")])
    rows = store.sql("SELECT note_id, status, reason FROM notes ORDER BY 1").fetchall()
    assert rows == [("1", "excluded", reason), ("2", "ready", None)]
    assert counts["notes"]["excluded"] == {reason: 1}


def test_different_texts_of_one_note_id_are_excluded_and_equal_texts_count_once(synced):
    store, _ = synced(
        [admission(7)], [note(1, 7, "a"), note(1, 7, "b"), note(2, 7, "c"), note(2, 7, "c")]
    )
    assert store.sql("SELECT note_id, reason FROM notes ORDER BY 1").fetchall() == [
        ("1", "several texts under one note_id"),
        ("2", None),
    ]


def test_edits_flags_moves_and_withdrawals_are_applied_and_counted(synced):
    stays = [admission(7), admission(8)]
    unchanged, edited = note(1, 7, "unchanged"), note(2, 7, "before")
    flagged, moved, withdrawn = note(3, 7, "wrong"), note(4, 7, "moved"), note(5, 7, "withdrawn")
    synced(stays, [unchanged, edited, flagged, moved, withdrawn])
    store, counts = synced(
        stays,
        [
            unchanged,
            edited | {"TEXT": "after"},
            flagged | {"ISERROR": 1},
            moved | {"HADM_ID": 8, "SUBJECT_ID": 8},
            note(6, 8, "new"),
        ],
    )
    assert counts["notes"] == {
        "total": 5,
        "new": 1,
        "changed": 3,
        "withdrawn": 1,
        "excluded": {"flagged as an error": 1},
    }
    rows = store.sql("SELECT note_id, hadm_id, status FROM notes ORDER BY 1").fetchall()
    assert rows == [
        ("1", 7, "ready"),
        ("2", 7, "ready"),
        ("3", 7, "excluded"),
        ("4", 8, "ready"),
        ("6", 8, "ready"),
    ]


def test_a_sync_without_changes_writes_nothing(synced):
    store, _ = synced([admission(7)], [note(1, 7, "x")])
    version = store.path.stat().st_mtime_ns
    _, counts = synced([admission(7)], [note(1, 7, "x")])
    assert counts["notes"]["new"] == counts["notes"]["changed"] == 0
    assert store.path.stat().st_mtime_ns == version


def test_a_live_store_is_observed_up_to_the_newest_sync(synced):
    store, _ = synced([admission(7)], [note(1, 7, "x")], live=True)
    (first,) = store.one("SELECT observed_until FROM settings")
    synced([admission(7)], [note(1, 7, "x")])
    (second,) = store.one("SELECT observed_until FROM settings")
    assert first < second


def test_a_sync_is_recorded_as_a_run_with_its_counts(synced):
    store, counts = synced([admission(7)], [note(1, 7, "x")])
    command, status, recorded = store.one(
        "SELECT command, status, counts FROM runs WHERE run_id = 1"
    )
    assert (command, status, json.loads(recorded)) == (
        "sync",
        "done",
        counts | {"sync": "complete"},
    )


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        ({"ADMITTIME": "12/31/2150"}, "ADMITTIME is not a date in 1 admissions (hadm_id 7)"),
        ({"ADMITTIME": ""}, "ADMITTIME is not a date in 1 admissions (hadm_id 7)"),
        ({"DISCHTIME": "soon"}, "DISCHTIME is not a date in 1 admissions (hadm_id 7)"),
        ({"ADMITTIME": "0021-03-04"}, "ADMITTIME is before 1700 or after 2399"),
        ({"DISCHTIME": "9999-12-31"}, "DISCHTIME is before 1700 or after 2399"),
        ({"SUBJECT_ID": "Mr X"}, "SUBJECT_ID is not a number in 1 admissions (hadm_id 7)"),
        ({"HADM_ID": "8"}, "HADM_ID is not unique in 2 admissions (hadm_id 8)"),
    ],
)
def test_an_admission_with_an_invalid_number_or_date_is_refused(synced, invalid, message):
    patients = [{"SUBJECT_ID": 7, "GENDER": "F", "DOB": day(-9999)}]
    store, _ = synced([admission(7), admission(8)], [note(1, 7, "x")], patients)
    before = store.sql("FROM admissions ORDER BY 1").fetchall()
    with pytest.raises(FeatureStoreError) as refused:
        synced([admission(7) | invalid, admission(8)], [note(1, 7, "x")], patients)
    assert str(refused.value).startswith(message)
    assert "nothing was changed" in str(refused.value)
    assert store.sql("FROM admissions ORDER BY 1").fetchall() == before


def test_an_incomplete_download_removes_nothing(synced):
    stays = [admission(number) for number in range(1, 41)]
    notes = [note(number, number, "text") for number in range(1, 41)]
    synced(stays, notes)
    with pytest.raises(FeatureStoreError, match="30 of 40 admissions are no longer in the source"):
        synced(stays[:10], notes)
    with pytest.raises(FeatureStoreError, match="25 of 40 notes are no longer in the source"):
        synced(stays, notes[:15])
    store, _ = synced(stays, notes)
    assert store.one("SELECT count(*) FROM admissions") == (40,)
    write_hospital(store.path.parent / "hospital", stays[:10], notes)
    assert sync(store, force=True)["admissions"]["withdrawn"] == 30


@pytest.mark.parametrize(("flag", "status"), [("0", "ready"), ("", "ready"), ("yes", "excluded")])
def test_any_iserror_value_but_0_flags_an_error(synced, flag, status):
    store, _ = synced([admission(7)], [note(1, 7, "text", iserror=flag)])
    assert store.one("SELECT status FROM notes") == (status,)


# --- the comparison of a large source

MANY = 200_000
ZSTD_FRAME = b"\x28\xb5\x2f\xfd"
CATEGORY = "CATEGORY_CANARY"


@pytest.fixture
def many_notes(tmp_path, monkeypatch):
    """A function that makes a store of a hospital with many notes, compared in little memory."""
    key = "long enough a key"
    monkeypatch.setenv("FEATURESTORE_KEY", key)
    monkeypatch.setattr(comparison, "_MEMORY", "80MB")
    monkeypatch.setattr(comparison, "_MEMORY_OF_RESULT", "30MB")
    folder = write_hospital(tmp_path / "hospital", [admission(7)], [note(1, 7, "x")])
    (folder / "NOTEEVENTS.csv").unlink()
    with duckdb.connect() as con:
        con.execute(
            "COPY (SELECT i AS ROW_ID, 7 AS SUBJECT_ID, 7 AS HADM_ID, DATE '2150-01-02' AS "
            "CHARTDATE, TIMESTAMP '2150-01-02 09:00' AS CHARTTIME, NULL::TIMESTAMP AS STORETIME, "
            f"'{CATEGORY}' AS CATEGORY, NULL AS ISERROR, 'PHI_CANARY ' || i AS TEXT "
            f"FROM range({MANY}) AS r(i)) TO '{folder / 'NOTEEVENTS.parquet'}'"
        )

    def make_store(encrypt=False):
        return create_store(tmp_path / "w.duckdb", folder, "mimic3", encrypt=encrypt)

    return make_store


@pytest.mark.parametrize("encrypt", [True, False], ids=["encrypted", "plain"])
def test_what_does_not_fit_in_memory_is_spilled_without_text_and_removed(many_notes, encrypt):
    store = many_notes(encrypt)
    spill = store.staging / "sync"
    with store.lock("test"), diff_source(store) as diff:
        files = [path.read_bytes() for path in spill.iterdir()]
        assert sum(map(len, files)) > 1_000_000
        assert spill.stat().st_mode & 0o777 == 0o700
        assert not any(b"PHI_CANARY" in data for data in files)
        # The rest of the index is plain unless the store is encrypted. DuckDB compresses a block
        # where that is faster than writing it, which depends on the load of the machine.
        if encrypt:
            assert not any(CATEGORY.encode() in data for data in files)
        else:
            assert any(CATEGORY.encode() in data or ZSTD_FRAME in data for data in files)
        assert len(diff.rows["notes"]) == MANY
        with duckdb.connect() as con:
            con.register("changed", diff.rows["notes"])  # which can be read twice
            query = "SELECT count(*) FROM changed AS a INNER JOIN changed AS b USING (note_id)"
            assert con.execute(query).fetchone() == (MANY,)
    assert not store.staging.exists()
    assert sync(store)["notes"] == {
        "total": MANY, "new": MANY, "changed": 0, "withdrawn": 0, "excluded": {}
    }  # fmt: skip
    assert store.one("SELECT count(*), count(DISTINCT text_hash) FROM notes") == (MANY, MANY)
    # md5sum of "PHI_CANARY 199999"
    assert store.one("SELECT text_hash FROM notes WHERE note_id = '199999'") == (
        "3715afcc259a383043339afd52dc1855",
    )
    assert sync(store)["notes"]["new"] == 0
    assert not store.staging.exists()


def test_what_a_killed_sync_has_spilled_is_removed_by_the_next_one(synced):
    store, _ = synced([admission(7)], [note(1, 7, "x")])
    store.staging.mkdir()
    (store.staging / "sync").mkdir()
    (store.staging / "sync" / "duckdb_temp_storage_DEFAULT-0.tmp").write_bytes(b"spilled")
    sync(store)
    assert not store.staging.exists()


@pytest.mark.parametrize(
    ("full", "resource"),
    [
        (OSError(errno.ENOSPC, "full"), "disk space"),
        (duckdb.OutOfMemoryException("PHI_CANARY"), "memory"),
    ],
    ids=["disk", "memory"],
)
def test_no_space_for_the_index_is_not_an_error_of_the_source(synced, monkeypatch, full, resource):
    store, _ = synced([admission(7)], [note(1, 7, "x")])

    def fail(*_):
        raise full

    monkeypatch.setattr(comparison, "_insert", fail)
    with pytest.raises(
        FeatureStoreError, match=f"could not be changed .*free some {resource}"
    ) as e:
        sync(store)
    assert not isinstance(e.value, SourceError) and "PHI_CANARY" not in str(e.value)
    assert not store.staging.exists()
