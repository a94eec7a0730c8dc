"""MariaDB, with the tables of mimic-code's build for MySQL: upper-case names, latin1 columns."""

import csv
import gc

import pytest
import sqlalchemy as sa

from featurestore import create_store, embed_pending, sync, write_hospital
from featurestore.errors import SourceError
from featurestore.source import generic_reader
from featurestore.source.note_texts import text_hash
from featurestore.source.source import Source
from tests.conftest import WordCounter
from tests.featurestore.source.mariadb import is_installed, running_server
from tests.featurestore.source.test_databases import (
    TABLES,
    check_same_rows,
    column_type,
    columns_of,
)
from tests.hospital import own_schema

pytestmark = pytest.mark.slow  # a server is installed and started
CHARACTERS = "38 ° für µ 漢 🙂"


@pytest.fixture(scope="module")
def server():
    if not is_installed():
        pytest.skip("MariaDB is not installed (Debian: mariadb-server)")
    with running_server() as url:
        yield url


def connect(url):
    engine = sa.create_engine(url.replace("mysql:", "mysql+pymysql:"), poolclass=sa.NullPool)
    return engine.connect()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hospital") / "csv"
    write_hospital(folder, patients=60)
    return folder


@pytest.fixture(scope="module")
def loaded(server, folder):
    with connect(server) as con:
        for table in TABLES:
            with (folder / f"{table}.csv").open(newline="") as stream:
                rows = [[value or None for value in row] for row in csv.reader(stream)][1:]
            types = {"INT": "INT", "TEXT": "MEDIUMTEXT", "TIMESTAMP(0)": "DATETIME"}
            columns = columns_of(folder / f"{table}.csv")
            typed = ", ".join(f"{name} {types[column_type(name)]}" for name in columns)
            con.exec_driver_sql(f"CREATE TABLE {table} ({typed})")
            marks = ", ".join(["%s"] * len(columns))
            con.exec_driver_sql(f"INSERT INTO {table} VALUES ({marks})", list(map(tuple, rows)))
        con.commit()
    return server


def test_the_same_rows_as_from_csv(loaded, folder, tmp_path):
    check_same_rows(folder, loaded, tmp_path)


def test_the_session_is_read_only(loaded):
    with (
        Source(loaded, "mimic3")._engine.connect() as con,
        pytest.raises(sa.exc.DBAPIError, match="READ ONLY"),
    ):
        con.execute(sa.text("DELETE FROM NOTEEVENTS"))


def test_characters_zero_dates_and_bytes(server, tmp_path):
    with connect(server.replace("/mimic?", "/?")) as con:
        con.exec_driver_sql("CREATE DATABASE own CHARACTER SET utf8mb4")
        con.exec_driver_sql("USE own")
        con.exec_driver_sql("SET SESSION sql_mode = ''")
        con.exec_driver_sql(
            "CREATE TABLE notes (id BIGINT, kind VARCHAR(9), written DATETIME, body LONGTEXT, "
            "PRIMARY KEY (id))"
        )
        con.exec_driver_sql(
            "INSERT INTO notes VALUES (1, 'a', '2150-01-02 10:00', %s), "
            "(2, 'a', '0000-00-00 00:00', 'pain'), (-3, 'a', '2150-01-02 00:00', 'home')",
            (CHARACTERS,),
        )
        con.commit()
    own = tmp_path / "own"
    own.mkdir()
    (own / "admissions.sql").write_text(
        "SELECT 7 AS hadm_id, -7 AS subject_id, '2150-01-01' AS admittime, "
        "'2150-01-09' AS dischtime, NULL AS deathtime, 0 AS died_in_hospital, "
        "'EMERGENCY' AS admission_type, 0 AS planned, 'HOME' AS discharge_location, NULL AS dod, "
        "1950 AS dob, 'F' AS gender, NULL AS ethnicity, NULL AS insurance"
    )
    (own / "notes.sql").write_text(
        "SELECT id AS note_id, -7 AS subject_id, 7 AS hadm_id, kind AS category, NULL AS chartdate,"
        " written AS charttime, NULL AS storetime, 0 AS is_error, body AS text FROM notes "
        "-- kept: 100% of them, at 10:00"
    )
    store = create_store(tmp_path / "w.duckdb", server.replace("/mimic?", "/own?"), own)
    assert sync(store)["notes"]["excluded"] == {"unreadable date": 1}
    assert store.rows("SELECT note_id, text_hash, time_basis FROM notes ORDER BY 1") == [
        {"note_id": "-3", "text_hash": text_hash("home"), "time_basis": "date"},
        {"note_id": "1", "text_hash": text_hash(CHARACTERS), "time_basis": "charttime"},
        {"note_id": "2", "text_hash": text_hash("pain"), "time_basis": None},
    ]
    assert store.one("SELECT age FROM admissions") == (91,)
    assert embed_pending(store, WordCounter())["embedded"] == 2
    assert embed_pending(store, WordCounter())["pending"] == 0


def test_views_are_found_in_either_case(loaded, folder):
    with connect(loaded.replace("/mimic?", "/?")) as con:
        con.exec_driver_sql("CREATE DATABASE views")
        for table in TABLES:
            con.exec_driver_sql(f"CREATE VIEW views.{table} AS SELECT * FROM mimic.{table}")
        con.commit()
    source = Source(loaded.replace("/mimic?", "/views?"), "mimic3")
    source.check()
    assert len(source.read("admissions")) == len(Source(folder, "mimic3").read("admissions"))


def test_bits_are_flags(server, tmp_path):
    flag = "b'0' AS died_in_hospital"
    own = own_schema(tmp_path / "own", "a.hospital_expire_flag AS died_in_hospital", flag)
    (own / "notes.sql").write_text(
        "SELECT 1 AS note_id, hadm_id, subject_id, 'N' AS category, NULL AS chartdate, "
        "admittime AS charttime, NULL AS storetime, b'0' AS is_error, 'x' AS text FROM admissions"
    )
    with connect(server.replace("/mimic?", "/?")) as con:
        con.exec_driver_sql("CREATE DATABASE bits")
        con.exec_driver_sql("USE bits")
        con.exec_driver_sql(
            "CREATE TABLE admissions AS SELECT 7 AS hadm_id, 7 AS subject_id, "
            "'2150-01-01' AS admittime, '2150-01-09' AS dischtime, NULL AS deathtime, "
            "'EMERGENCY' AS admission_type, 'HOME' AS discharge_location, NULL AS ethnicity, "
            "NULL AS insurance"
        )
        con.exec_driver_sql(
            "CREATE TABLE patients AS SELECT 7 AS subject_id, NULL AS dod, 2090 AS dob, "
            "'F' AS gender"
        )
        con.commit()
    store = create_store(tmp_path / "w.duckdb", server.replace("/mimic?", "/bits?"), own)
    assert sync(store)["notes"]["excluded"] == {}
    assert store.one("SELECT died_in_hospital FROM admissions") == (False,)


def test_a_mistake_in_a_select_is_shown_in_the_databases_words(loaded, tmp_path):
    with pytest.raises(
        SourceError, match=r"Unknown column 'p.anchor_year' .*like those of schema mimic3"
    ):
        Source(loaded, "mimic4").check()


def test_a_value_that_the_optimizer_reads_is_not_quoted(loaded, tmp_path):
    # Evaluated, although no row is asked for.
    leak = "EXTRACTVALUE('<a/>', CONCAT('~', (SELECT text FROM NOTEEVENTS LIMIT 1)))"
    own = own_schema(
        tmp_path / "own", "    text\nFROM noteevents", f"    text\nFROM NOTEEVENTS WHERE 1 = {leak}"
    )
    with connect(loaded) as con:
        text = con.exec_driver_sql("SELECT text FROM NOTEEVENTS LIMIT 1").scalar()
        with pytest.raises(sa.exc.DBAPIError, match=f"XPATH syntax error: '~{text[:5]}"):
            con.execute(sa.text(f"SELECT 1 FROM NOTEEVENTS WHERE 1 = 0 AND 1 = {leak}"))
    (own / "admissions.sql").write_text(
        (own / "admissions.sql")
        .read_text()
        .replace("FROM admissions", "FROM ADMISSIONS")
        .replace("JOIN patients", "JOIN PATIENTS")
    )
    with pytest.raises(SourceError, match="could not be read as") as refused:
        Source(loaded, own).check()
    assert text[:5] not in str(refused.value)


# PyMySQL's result asks its closed connection for the rest of the rows.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_lost_connection_is_one_line_and_keeps_what_was_embedded(loaded, tmp_path, monkeypatch):
    store = create_store(tmp_path / "w.duckdb", loaded, "mimic3")
    sync(store)
    rows = generic_reader._rows

    class Small(WordCounter):
        budget = 40  # texts of 20,000 letters at a time

    def cut_off(connection, statement, at_once):
        for number, part in enumerate(rows(connection, statement, 64)):
            yield part
            if number < 2:
                continue
            with connect(loaded) as con:
                for row in con.exec_driver_sql("SHOW PROCESSLIST").fetchall():
                    if row[0] != con.exec_driver_sql("SELECT connection_id()").scalar():
                        con.exec_driver_sql(f"KILL {row[0]}")

    with monkeypatch.context() as patch:
        patch.setattr(generic_reader, "_rows", cut_off)
        with pytest.raises(SourceError, match=r"closed the connection .* finished before is kept"):
            embed_pending(store, Small())
    gc.collect()
    again = embed_pending(store, Small())
    assert again["resumed"] > 0
    assert again["resumed"] + again["embedded"] == again["pending"]
