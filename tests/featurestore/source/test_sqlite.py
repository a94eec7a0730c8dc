"""SQLite, with the tables as mimic-code's import.py makes them with pandas."""

import contextlib
import sqlite3

import pandas
import pytest
import sqlalchemy as sa

from featurestore import create_store, embed_pending, sync, write_hospital
from featurestore.errors import SourceError
from featurestore.source.note_texts import text_hash
from featurestore.source.source import Source
from featurestore.synthetic.mimic4 import write_mimic4_hospital
from tests.conftest import WordCounter
from tests.featurestore.source.test_databases import check_same_rows, tables_of
from tests.hospital import admission, note, own_schema
from tests.hospital import write_hospital as write_tables
from tests.timeline import day

CHARACTERS = "38 ° für µ 漢 🙂"


def write_sqlite(file, folder):
    """Write the tables of a folder: lower-case names, columns INTEGER, REAL or TEXT, an index."""
    with contextlib.closing(sqlite3.connect(file)) as con:
        for table in tables_of(folder):
            rows = pandas.read_csv(folder / f"{table}.csv", low_memory=False)
            if "ROW_ID" in rows:
                rows = rows.set_index("ROW_ID")
            rows.to_sql(table.lower(), con)
    return file


def execute(file, statement, *values):
    with contextlib.closing(sqlite3.connect(file)) as con, con:
        con.execute(statement, values)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hospital") / "csv"
    write_hospital(folder, patients=40)
    return folder


@pytest.fixture
def small(tmp_path):
    """A database of one stay and four notes; with a NULL, the numbers of stays are REAL."""
    notes = [
        note(1, 7, "lives alone"),
        note(2, 7, CHARACTERS),
        note(3, 7, "of no stay") | {"HADM_ID": ""},
        note(4, 7, "chest pain, went home alone"),
    ]
    return write_sqlite(
        tmp_path / "small.sqlite", write_tables(tmp_path / "csv", [admission(7)], notes)
    )


def test_the_same_rows_as_from_csv(folder, tmp_path):
    file = write_sqlite(tmp_path / "mimic3.db", folder)
    with contextlib.closing(sqlite3.connect(file)) as con:
        types = {name: kind for _, name, kind, *_ in con.execute("PRAGMA table_info(noteevents)")}
    assert (types["ROW_ID"], types["HADM_ID"], types["TEXT"]) == ("INTEGER", "REAL", "TEXT")
    check_same_rows(folder, f"sqlite:///{file}", tmp_path)


def test_mimic4_gives_the_same_rows_as_from_csv(tmp_path):
    folder = tmp_path / "csv"
    write_mimic4_hospital(folder, 30)
    file = tmp_path / "mimic4.db"
    with contextlib.closing(sqlite3.connect(file)) as con:
        for table in folder.rglob("*.csv.gz"):
            rows = pandas.read_csv(table, low_memory=False)
            rows.to_sql(table.name.removesuffix(".csv.gz"), con, index=False)
    stores = []
    for name, location in (("csv", folder), ("sqlite", file)):
        stores.append(create_store(tmp_path / f"{name}.duckdb", location, "mimic4"))
        sync(stores[-1])
    for table in ("admissions", "notes"):
        from_csv, from_sqlite = (
            store.sql(f"FROM {table} ORDER BY ALL").fetchall() for store in stores
        )
        assert from_sqlite == from_csv and len(from_csv) > 30


def test_the_path_of_a_file_is_read_like_its_url(small):
    source = Source(small, "mimic3")
    source.check()
    index = {row["note_id"]: row for row in source.read("notes").to_pylist()}
    assert [index[note_id]["hadm_id"] for note_id in "1234"] == ["7", "7", None, "7"]
    # printf '38 ° für µ 漢 🙂' | md5sum
    assert index["2"]["text_hash"] == "9d917b183dec22d502b9e3a9446faba3" == text_hash(CHARACTERS)
    assert list(source.texts(["2"])) == [[("2", CHARACTERS)]]


def test_bytes_that_are_not_utf8_exclude_their_note_and_stop_nothing(small, tmp_path):
    execute(
        small,
        "UPDATE noteevents SET text = CAST(? AS TEXT) WHERE row_id = 1",
        b"PHI_CANARY caf\xe9",
    )
    execute(small, "UPDATE patients SET gender = CAST(? AS TEXT)", b"\xff")
    store = create_store(tmp_path / "w.duckdb", f"sqlite:///{small}", "mimic3")
    assert sync(store)["notes"]["excluded"] == {"no admission": 1, "not UTF-8": 1}
    assert store.sql("SELECT note_id, reason FROM notes ORDER BY 1").fetchall() == [
        ("1", "not UTF-8"),
        ("2", None),
        ("3", "no admission"),
        ("4", None),
    ]
    assert store.one("SELECT gender FROM admissions") == ("\ufffd",)
    assert embed_pending(store, WordCounter())["embedded"] == 2


def test_empty_texts_of_an_imported_csv_file_are_null(small, tmp_path):
    # sqlite3's .import, which mimic-code uses too, makes TEXT columns and no NULL.
    execute(small, "UPDATE noteevents SET storetime = '', iserror = ''")
    execute(small, "UPDATE admissions SET deathtime = ''")
    execute(small, "UPDATE patients SET dod = ''")
    store = create_store(tmp_path / "w.duckdb", small, "mimic3")
    assert sync(store)["notes"]["excluded"] == {"no admission": 1}
    assert store.one("SELECT deathtime, dod FROM admissions") == (None, None)
    assert store.one("SELECT DISTINCT time_basis FROM notes") == ("charttime",)


def test_a_number_without_end_is_no_stay_and_no_crash(small, tmp_path):
    execute(small, "UPDATE noteevents SET hadm_id = 9e999 WHERE row_id = 1")
    store = create_store(tmp_path / "w.duckdb", small, "mimic3")
    assert sync(store)["notes"]["excluded"] == {"no admission": 2}


@pytest.mark.parametrize(
    "value",
    ["CAST(row_id AS TEXT)", "CAST(row_id AS BLOB)", "'0' || row_id", "row_id + 0.5"],
    ids=["texts", "bytes", "texts with a zero", "fractions"],
)
def test_note_ids_of_several_types_are_found_by_id(tmp_path, value):
    notes = [note(number, 7, f"text {number}") for number in range(1, 10)]
    file = write_sqlite(
        tmp_path / "mixed.sqlite", write_tables(tmp_path / "csv", [admission(7)], notes)
    )
    own = own_schema(
        tmp_path / "own", "row_id AS", f"CASE WHEN row_id < 5 THEN row_id ELSE {value} END AS"
    )
    source = Source(file, own)
    ids = source.read("notes")["note_id"].to_pylist()
    assert len(set(ids)) == 9
    for number, note_id in enumerate(ids, 1):  # one note is less than half: not read in one pass
        assert list(source.texts([note_id])) == [[(note_id, f"text {number}")]]


@pytest.mark.parametrize(
    ("old", "column"),
    [("row_id AS note_id", "note_id"), ("a.subject_id,", "source_subject_id")],
)
def test_a_binary_id_is_refused(small, tmp_path, old, column):
    comma = "," if old.endswith(",") else ""
    own = own_schema(tmp_path / "own", old, f"CAST(x'FF00' AS BLOB) AS {column}{comma}")
    with pytest.raises(SourceError, match=f"{column.upper()} of .* is binary - make a text of it"):
        Source(small, own).check()


def test_a_note_that_is_stored_late_is_found_where_old_notes_have_no_such_time(tmp_path):
    old = [note(number, 7, "text") | {"STORETIME": ""} for number in range(1_100)]
    late = note(2_000, 7, "late", day(1)) | {"STORETIME": day(50)}
    file = write_sqlite(
        tmp_path / "late.sqlite", write_tables(tmp_path / "csv", [admission(7)], [*old, late])
    )
    since = Source(file, "mimic3").read("notes", since=day(40).date())
    assert since["note_id"].to_pylist() == ["2000"]
    execute(file, "UPDATE noteevents SET storetime = '', charttime = '', chartdate = ''")
    assert len(Source(file, "mimic3").read("notes", since=day(40).date())) == 1_101


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b""], ids=["a mark of Windows", "no mark"])
@pytest.mark.parametrize("end", [";\r\n-- the end; of it\r\n", " ;\n;", "\n/* ; */", ""])
def test_the_end_of_a_file_with_a_select(small, tmp_path, mark, end):
    own = own_schema(tmp_path / "own", "a.ethnicity,", "'it''s; \\' AS ethnicity, -- ; not the end")
    file = own / "admissions.sql"
    file.write_bytes(mark + file.read_bytes().replace(b"\n", b"\r\n") + end.encode())
    assert Source(small, own).read("admissions")["ethnicity"].to_pylist() == ["it's; \\"]


@pytest.mark.parametrize("second", ["; DELETE FROM noteevents", ") AS x; COMMIT; SELECT (1"])
def test_a_second_statement_is_refused(small, tmp_path, second):
    own = own_schema(tmp_path / "own", "ON a.subject_id = p.subject_id", "USING (subject_id)")
    file = own / "admissions.sql"
    file.write_text(file.read_text() + second)
    with pytest.raises(SourceError, match="sql contains more than one statement - leave"):
        Source(small, own)


def test_a_folder_with_the_name_of_a_schema_is_no_schema(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mimic3").mkdir()
    execute(small, "DROP TABLE patients")
    with pytest.raises(SourceError, match="no such table: patients - give the database that"):
        Source(small, "mimic3").check()


def test_the_database_is_only_read(small):
    engine = Source(f"sqlite:///{small}", "mimic3")._engine
    with (
        engine.connect() as con,
        pytest.raises(sa.exc.OperationalError, match="attempt to write a readonly database"),
    ):
        con.execute(sa.text("DELETE FROM noteevents"))


def test_a_database_that_is_being_written_can_be_read(small):
    with contextlib.closing(sqlite3.connect(small)) as con:
        con.execute("PRAGMA journal_mode = WAL")
        con.execute("DELETE FROM noteevents")  # not committed
        assert len(Source(small, "mimic3").read("notes")) == 4


@pytest.mark.slow  # SQLite waits for five seconds
def test_a_database_that_is_locked_is_one_line(small):
    with contextlib.closing(sqlite3.connect(small, isolation_level=None)) as con:
        con.execute("BEGIN EXCLUSIVE")
        with pytest.raises(SourceError, match="is locked by a program that writes to it - run"):
            Source(small, "mimic3").check()


def test_a_file_that_is_deleted_meanwhile_is_one_line(small):
    source = Source(small, "mimic3")
    small.unlink()
    with pytest.raises(SourceError, match="cannot be opened - check that it is still there and"):
        source.check()
    assert not small.exists()


def test_a_file_of_another_kind_is_refused(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("PHI_CANARY " * 1_000)
    with pytest.raises(SourceError, match=r"notes.txt cannot be opened as a DuckDB or SQLite file"):
        Source(file, "mimic3").check()


def test_a_missing_file_is_refused_and_not_created(tmp_path):
    missing = tmp_path / "missing.sqlite"
    with pytest.raises(SourceError, match=r"missing.sqlite does not exist - write the URL as sqli"):
        Source(f"sqlite:///{missing}", "mimic3")
    assert not missing.exists()


def test_a_file_that_is_not_sqlite_is_refused(tmp_path):
    file = tmp_path / "notes.sqlite"
    file.write_text("PHI_CANARY " * 1_000)
    with pytest.raises(SourceError, match="file is not a database") as refused:
        Source(f"sqlite:///{file}", "mimic3").check()
    assert "PHI_CANARY" not in str(refused.value)


def test_a_damaged_file_is_one_line_that_quotes_nothing(small):
    data = bytearray(small.read_bytes())
    data[4096:] = b"PHI_CANARY" * (len(data[4096:]) // 10)
    small.write_bytes(data)
    with pytest.raises(SourceError, match=r"could not be read as mimic3 \(\w+\)") as refused:
        Source(small, "mimic3").check()
    assert "PHI_CANARY" not in str(refused.value) and "\n" not in str(refused.value)
