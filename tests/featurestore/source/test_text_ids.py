"""Ids that are texts: the numbers that stand for them, and the errors where they cannot."""

import hashlib

import pytest

from featurestore import Store, create_store, sync
from featurestore.errors import SourceError
from featurestore.source import comparison
from featurestore.store.forget import forget
from featurestore.store.sql_files import read_sql
from tests.hospital import admission, note, own_schema, write_hospital, write_sqlite
from tests.timeline import day


def number(source_id):
    """The first 63 bits of the MD5 of an id, computed without DuckDB."""
    return int.from_bytes(hashlib.md5(source_id.encode()).digest()[:8], "big") >> 1


@pytest.fixture
def synced(tmp_path):
    """A function that syncs a store with a hospital whose ids are texts."""
    schema = own_schema(tmp_path / "schema", "hadm_id,", "hadm_id AS source_hadm_id,")
    for file in schema.iterdir():
        file.write_text(file.read_text().replace("subject_id,", "subject_id AS source_subject_id,"))

    def write_and_sync(admissions, notes):
        folder = write_hospital(tmp_path / "hospital", admissions, notes)
        path = tmp_path / "ward.duckdb"
        store = Store(path) if path.exists() else create_store(path, folder, schema)
        return store, sync(store)

    return write_and_sync


def stay(source_id="E-7/2020", patient="P:ü 漢", **others):
    return admission(source_id, patient, **others)


def note_of(row_id, source_id="E-7/2020", patient="P:ü 漢", text="text"):
    return note(row_id, source_id, text, subject_id=patient)


def test_the_numbers_are_those_that_python_computes_and_the_texts_are_kept(synced):
    store, _ = synced([stay()], [note_of(1)])
    columns = "hadm_id, subject_id, source_hadm_id, source_subject_id"
    assert store.sql(f"SELECT {columns} FROM admissions").fetchall() == [
        (number("E-7/2020"), number("P:ü 漢"), "E-7/2020", "P:ü 漢")
    ]
    assert store.sql("SELECT hadm_id, subject_id, reason FROM notes").fetchall() == [
        (number("E-7/2020"), number("P:ü 漢"), None)
    ]


def test_an_id_of_digits_is_a_text_too(synced):
    # md5sum of 7
    store, _ = synced([stay("7")], [note_of(1, "7")])
    assert store.one("SELECT hadm_id FROM admissions") == (0x8F14E45FCEEA167A >> 1,)


def test_a_second_sync_finds_the_same_numbers(synced):
    rows = [stay(), stay("E-8", "P2")], [note_of(1), note_of(2, "E-8", "P2")]
    synced(*rows)
    _, counts = synced(*rows)
    assert counts["admissions"] == {"total": 2, "new": 0, "changed": 0, "withdrawn": 0}
    assert (counts["notes"]["new"], counts["notes"]["changed"]) == (0, 0)


@pytest.mark.parametrize(
    ("source_id", "patient", "reason"),
    [
        ("E-7/2020", "P2", "admission of another patient"),
        ("E-9", "P:ü 漢", "unknown admission"),
        ("", "P:ü 漢", "no admission"),
        ("E-7/2020", "", None),
    ],
)
def test_notes_are_matched_by_text_ids(synced, source_id, patient, reason):
    row = note_of(1, source_id, patient) | {"SUBJECT_ID": patient}
    store, _ = synced([stay()], [row])
    assert store.one("SELECT reason, subject_id FROM notes") == (
        reason,
        number(patient or "P:ü 漢"),
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [stay(), stay("")],
            "SOURCE_HADM_ID is missing in 1 admissions - correct",
        ),
        (
            [stay(), stay("E-8") | {"SUBJECT_ID": ""}],
            r"SOURCE_SUBJECT_ID is missing in 1 admissions \(source_hadm_id E-8\)",
        ),
        (
            [stay(), stay(admitted=day(3))],
            r"SOURCE_HADM_ID is not unique in 2 admissions \(source_hadm_id E-7/2020\)",
        ),
    ],
    ids=["no id", "no patient", "an id twice"],
)
def test_an_admission_with_an_invalid_id_is_refused(synced, rows, message):
    with pytest.raises(SourceError, match=message):
        synced(rows, [note_of(1)])


@pytest.fixture
def colliding(monkeypatch):
    """A function that gives several ids one number."""

    def collide(*source_ids):
        listed = ", ".join(f"'{source_id}'" for source_id in source_ids)
        forged = f"CREATE MACRO true_{read_sql('sync/stable_id').partition('CREATE MACRO ')[2]}" + (
            "CREATE MACRO stable_id(source_id) AS "
            f"CASE WHEN source_id IN ({listed}) THEN 1 ELSE true_stable_id(source_id) END;"
        )
        monkeypatch.setattr(
            comparison,
            "read_sql",
            lambda name: forged if name == "sync/stable_id" else read_sql(name),
        )

    return collide


@pytest.mark.parametrize("column", ["HADM_ID", "SUBJECT_ID"])
def test_two_ids_with_one_number_are_refused(synced, colliding, column):
    colliding("E-7/2020", "E-8") if column == "HADM_ID" else colliding("P1", "P2")
    with pytest.raises(SourceError, match=f"SOURCE_{column} has the number of another one in 2 ad"):
        synced([stay(patient="P1"), stay("E-8", "P2")], [note_of(1)])


def test_a_note_whose_stay_has_the_number_of_another_one_is_excluded(synced, colliding):
    colliding("E-7/2020", "E-8")
    store, _ = synced([stay()], [note_of(1, "E-8")])
    assert store.one("SELECT reason FROM notes") == ("unknown admission",)


def test_a_note_whose_patient_has_the_number_of_another_one_is_excluded(synced, colliding):
    colliding("P:ü 漢", "P2")
    store, _ = synced([stay()], [note_of(1, patient="P2")])
    assert store.one("SELECT reason FROM notes") == ("admission of another patient",)


def test_a_forgotten_patient_is_excluded_from_the_next_sync(synced):
    rows = [stay(), stay("E-8", "P2")], [note_of(1), note_of(2, "E-8", "P2")]
    store, _ = synced(*rows)
    (subject_id,) = store.one(
        "SELECT subject_id FROM admissions WHERE source_subject_id = $id", id="P:ü 漢"
    )
    receipt = forget(store, [subject_id])
    assert (receipt["rows"]["admissions"], receipt["rows"]["notes"]) == (1, 1)
    for value in ("P:ü 漢", "E-7/2020"):
        assert value.encode() not in store.path.read_bytes()
    store, counts = synced(*rows)
    assert counts["admissions"]["forgotten"] == counts["notes"]["forgotten"] == 1
    assert store.sql("SELECT source_subject_id FROM admissions").fetchall() == [("P2",)]
    assert store.sql("SELECT note_id FROM notes").fetchall() == [("2",)]


def test_text_ids_from_another_database_are_those_of_the_files(synced, tmp_path):
    admissions = [stay(), stay("E-8", "P2")]
    from_files, _ = synced(admissions, [note_of(1), note_of(2, "E-8", "P2"), note_of(3, "E-9")])
    file = write_sqlite(tmp_path / "hospital.sqlite", tmp_path / "hospital")
    store = create_store(tmp_path / "other.duckdb", file, tmp_path / "schema")
    sync(store)
    for table in ("admissions", "notes"):
        query = f"FROM {table} ORDER BY ALL"
        assert store.sql(query).fetchall() == from_files.sql(query).fetchall()
