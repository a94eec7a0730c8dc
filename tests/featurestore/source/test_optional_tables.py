"""Tables that a source may have beside admissions and notes: read where they are there."""

import csv

import pytest

from featurestore import Store, create_store, forget, sync, verify
from featurestore.cohort.tasks import find_task
from featurestore.errors import NotEnoughDataError, SourceError
from featurestore.source.comparison import compare, load_source, open_comparison
from featurestore.source.source import open_source
from featurestore.store.schema import OPTIONAL_TABLES
from featurestore.store.sql_files import read_sql
from tests.hospital import admission, note, own_schema, write_hospital
from tests.timeline import day

NO_CHANGES = {"new": 0, "changed": 0, "withdrawn": 0}


def write_table(folder, name, header, *rows):
    with (folder / f"{name}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header.upper().split(), *rows])


def icu_stays(folder, *rows):
    write_table(
        folder, "ICUSTAYS", "icustay_id hadm_id subject_id intime outtime first_careunit", *rows
    )


def diagnoses(folder, *rows):
    write_table(folder, "DIAGNOSES_ICD", "hadm_id subject_id icd9_code", *rows)


@pytest.fixture
def hospital(tmp_path):
    return write_hospital(
        tmp_path / "hospital",
        [admission(7, 3), admission(8, 4)],
        [note(1, 7, "text", subject_id=3)],
    )


@pytest.fixture
def store(hospital, tmp_path):
    return create_store(tmp_path / "ward.duckdb", hospital, "mimic3")


def test_a_source_without_them_has_a_store_without_them(store):
    assert sync(store).keys() == {"admissions", "notes"}
    assert store.one("SELECT count(*) FROM icu_stays") == (0,)
    with pytest.raises(NotEnoughDataError, match="no stays in intensive care, which the task icu"):
        find_task(store, "icu_readmission")


def test_stays_in_intensive_care_follow_the_source(store, hospital):
    icu_stays(hospital, (1, 7, 3, day(1), day(2), "MICU"), (2, 7, 3, day(4), day(3), "CCU"))
    counts = sync(store)["icu_stays"]
    assert counts == {"total": 2, "new": 2, "changed": 0, "withdrawn": 0, "omitted": 0}
    assert store.sql("FROM icu_stays ORDER BY 1").fetchall() == [
        ("1", 7, 3, day(1), day(2), "MICU"),
        ("2", 7, 3, day(4), None, "CCU"),  # an end before its beginning is none
    ]
    assert find_task(store, "icu_readmission").own_cutoff == "task:icu_readmission"
    runs = store.one("SELECT count(*) FROM runs")
    assert sync(store)["icu_stays"] == {"total": 2, **NO_CHANGES, "omitted": 0}
    assert store.one("SELECT count(*) FROM runs") == runs
    icu_stays(hospital, (1, 7, 3, day(1), day(3), "MICU"))
    assert sync(store)["icu_stays"] == {
        **{"total": 1, "new": 0, "changed": 1, "withdrawn": 1, "omitted": 0}
    }
    assert store.sql("SELECT outtime FROM icu_stays").fetchall() == [(day(3),)]
    assert not verify(store)


def test_rows_of_nobody_in_the_store_are_omitted_and_counted(store, hospital):
    icu_stays(
        hospital,
        (1, 7, 3, day(1), day(2), "MICU"),
        (2, 9, 3, day(1), day(2), "of an unknown stay"),
        (3, 7, 4, day(1), day(2), "of another patient"),
        (4, 7, 3, "soon", day(2), "of an unknown time"),
        (5, 7, 3, "0001-01-01", day(2), "absurd"),
        (1, 7, 3, day(1), day(3), "twice"),
    )
    assert sync(store)["icu_stays"] == {
        **{"total": 1, "new": 1, "changed": 0, "withdrawn": 0, "omitted": 5}
    }


def test_a_diagnosis_is_stored_once_without_its_dot(store, hospital):
    diagnoses(hospital, (7, 3, "428.0"), (7, 3, "4280"), (7, 3, "v42.1 "), (7, 3, ""))
    sync(store)
    assert store.sql("FROM diagnoses ORDER BY code").fetchall() == [
        (7, 3, "ICD9CM", "4280"),
        (7, 3, "ICD9CM", "V421"),
    ]
    diagnoses(hospital, (7, 3, "4280"), (8, 4, "4280"))
    assert sync(store)["diagnoses"] == {
        **{"total": 2, "new": 1, "changed": 0, "withdrawn": 1, "omitted": 0}
    }


def test_visits_to_the_emergency_department_come_with_the_admissions_of_mimic(tmp_path, hospital):
    with (hospital / "ADMISSIONS.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    times = [(day(0, 3), day(0, 11)), ("", "")]
    write_table(
        hospital,
        "ADMISSIONS",
        " ".join([*header, "EDREGTIME", "EDOUTTIME"]),
        *([*row, *pair] for row, pair in zip(rows, times, strict=True)),
    )
    store = create_store(tmp_path / "ward.duckdb", hospital, "mimic3")
    sync(store)
    assert store.sql("FROM ed_visits").fetchall() == [(3, 7, day(0, 3), day(0, 11))]


def test_tables_that_are_gone_look_like_an_incomplete_download(store, hospital):
    icu_stays(hospital, *((n, 7, 3, day(n), day(n, 13), "MICU") for n in range(11)))
    sync(store)
    (hospital / "ICUSTAYS.csv").unlink()
    with pytest.raises(SourceError, match="11 of 11 icu_stays are no longer in the source"):
        sync(store)
    assert sync(store, force=True)["icu_stays"]["withdrawn"] == 11
    assert sync(store).keys() == {"admissions", "notes"}


def test_forget_deletes_them_and_the_next_sync_does_not_bring_them_back(store, hospital):
    icu_stays(hospital, (1, 7, 3, day(1), day(2), "MICU"), (2, 8, 4, day(1), day(2), "MICU"))
    diagnoses(hospital, (7, 3, "4280"), (8, 4, "4280"))
    sync(store)
    receipt = forget(store, [3])
    assert (receipt["rows"]["icu_stays"], receipt["rows"]["diagnoses"]) == (1, 1)
    sync(store)
    for table in ("icu_stays", "diagnoses"):
        assert store.sql(f"SELECT subject_id FROM {table}").fetchall() == [(4,)]


def test_a_select_of_ones_own_is_not_optional(hospital, tmp_path):
    schema = own_schema(tmp_path / "ours", "", "")
    (schema / "icu_stays.sql").write_text("SELECT * FROM transfers")
    with pytest.raises(SourceError, match=r"cannot run icu_stays.sql of schema .*transfers"):
        create_store(tmp_path / "ward.duckdb", hospital, schema)
    (schema / "icu_stays.sql").write_text("SELECT 1 AS hadm_id")
    with pytest.raises(SourceError, match="does not return ICU_STAY_ID, SUBJECT_ID, INTIME"):
        create_store(tmp_path / "ward.duckdb", hospital, schema)
    (schema / "icu_stays.sql").unlink()
    (schema / "hospital_score_items.sql").write_text(
        "SELECT HADM_ID, SUBJECT_ID, 11.5 AS hemoglobin, 134 AS sodium, 'yes' AS oncology_service, "
        "0 AS had_procedure FROM admissions WHERE HADM_ID = '7'"
    )
    store = create_store(tmp_path / "ward.duckdb", hospital, schema)
    sync(store)
    assert store.sql("FROM hospital_score_items").fetchall() == [(7, 3, 11.5, 134.0, True, False)]
    assert Store(store.path).one("SELECT count(*) FROM admissions") == (2,)


def test_no_table_is_compared_row_by_row_with_the_admissions(store):
    with store.lock("test"), open_comparison(store) as con:
        load_source(con, open_source(store), None)
        compare(con, store, None)
        for table in OPTIONAL_TABLES:
            _, _, select = read_sql(f"sync/optional/incoming_{table}").partition(f"{table} AS\n")
            con.execute(f"INSERT INTO read_{table} (subject_id, hadm_id) VALUES (3, 7)")
            ((_, plan),) = con.execute(f"EXPLAIN {select}").fetchall()
            assert "HASH_JOIN" in plan and "NL_JOIN" not in plan, table
            assert "NESTED_LOOP" not in plan, table
