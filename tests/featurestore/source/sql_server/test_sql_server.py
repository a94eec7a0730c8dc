"""SQL Server, read by its real driver from a stand-in: see tds_server."""

from datetime import date

import duckdb
import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from featurestore import Store, create_store, embed_pending, sync, write_hospital
from featurestore.cli import main
from featurestore.errors import SourceError
from featurestore.source.note_texts import text_hash
from featurestore.source.source import Source
from tests.conftest import WordCounter
from tests.featurestore.source.sql_server.tds_server import LONE_SURROGATE, TdsServer
from tests.featurestore.source.test_databases import all_rows, load_duckdb
from tests.hospital import own_schema

CHARACTERS = "38 ° für µ 漢 🙂"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hospital") / "csv"
    write_hospital(folder, patients=60)
    return folder


@pytest.fixture(scope="module")
def file(folder):
    file = folder.parent / "clinic.duckdb"
    with duckdb.connect(file) as con:
        load_duckdb(con, folder)
    return file


@pytest.fixture(scope="module")
def server(file):
    with TdsServer(file) as server:
        yield server


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A server of one admission and five notes, one of which has half a character of UTF-16."""
    file = tmp_path_factory.mktemp("small") / "small.duckdb"
    with duckdb.connect(file) as con:
        con.execute(
            "CREATE TABLE patients AS SELECT 7 AS subject_id, 'F' AS gender, "
            "DATE '2080-01-01' AS dob, CAST(NULL AS DATE) AS dod"
        )
        con.execute(
            "CREATE TABLE admissions AS SELECT 7 AS hadm_id, 7 AS subject_id, 'EMERGENCY' AS "
            "admission_type, TIMESTAMP '2150-01-01' AS admittime, TIMESTAMP '2150-01-09' AS "
            "dischtime, CAST(NULL AS TIMESTAMP) AS deathtime, 0 AS hospital_expire_flag, "
            "'HOME' AS discharge_location, 'WHITE' AS ethnicity, 'Medicare' AS insurance"
        )
        con.execute(
            "CREATE TABLE noteevents AS SELECT row_id, 7 AS subject_id, 7 AS hadm_id, 'Nursing' "
            "AS category, DATE '2150-01-02' AS chartdate, CAST(NULL AS TIMESTAMP) AS charttime, "
            "CAST(NULL AS TIMESTAMP) AS storetime, CAST(NULL AS VARCHAR) AS iserror, text "
            "FROM (VALUES (1, $characters), (2, $surrogate), (-3, 'C:\\x20 \\ home'), (4, ''), "
            "(5, NULL)) "
            "AS t (row_id, text)",
            {"characters": CHARACTERS, "surrogate": f"PHI_CANARY {LONE_SURROGATE} home"},
        )
    with TdsServer(file) as server:
        yield server


@pytest.fixture
def open_store(tmp_path, monkeypatch):
    """Return a function that makes a store over a server; the environment has its password."""

    def create(server):
        monkeypatch.setenv("FEATURESTORE_SOURCE", server.url)
        return create_store(tmp_path / "sql-server.duckdb", server.url, "mimic3")

    return create


def execute(server, statement, **parameters):
    """Run a statement on a connection of its own; return its rows."""
    engine = sa.create_engine(server.url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        return connection.execute(sa.text(statement), parameters).fetchall()


def test_the_same_rows_as_from_csv(server, folder, tmp_path, open_store):
    store = create_store(tmp_path / "csv.duckdb", folder, "mimic3")
    sync(store)
    from_csv = all_rows(store)
    assert len(from_csv["training_set('counter-00000000')"]) > 20
    store = open_store(server)
    sync(store)
    rows = all_rows(store)
    for relation in rows:
        assert rows[relation] == from_csv[relation], relation
    again = sync(store)
    assert all(again[table]["changed"] == again[table]["new"] == 0 for table in again)


def test_a_few_texts_are_asked_for_by_250_numbers_at_a_time(server, folder):
    source = Source(server.url, "mimic3")
    note_ids = source.read("notes")["note_id"].to_pylist()[:270]
    n_before = len(server.statements())
    texts = dict(pair for pairs in source.texts(note_ids) for pair in pairs)
    from_csv = dict(pair for pairs in Source(folder, "mimic3").texts(note_ids) for pair in pairs)
    assert texts == from_csv and len(texts) == 270
    parameters = [ids for _, ids in server.statements()[n_before:] if ids]
    assert [len(ids) for ids in parameters] == [250, 20]
    assert all(isinstance(number, int) for ids in parameters for number in ids)


def test_the_notes_of_the_last_days_are_asked_for_by_a_time_of_the_column_s_type(server, folder):
    def index(location):
        rows = Source(location, "mimic3").read("notes", since=date(2150, 1, 1)).to_pylist()
        return {row["note_id"]: row["text_hash"] for row in rows}

    recent = index(server.url)
    assert server.statements()[-1][1] == ["2150-01-01 00:00:00"] * 3
    assert recent == index(folder) and 0 < len(recent) < 553


def test_a_note_with_characters_of_all_lengths_keeps_them(small):
    source = Source(small.url, "mimic3")
    index = {row["note_id"]: row for row in source.read("notes").to_pylist()}
    # printf '38 ° für µ 漢 🙂' | md5sum
    assert index["1"]["text_hash"] == text_hash(CHARACTERS) == "9d917b183dec22d502b9e3a9446faba3"
    assert index["1"]["n_chars"] == "14"
    assert dict(pair for pairs in source.texts(["1", "-3"]) for pair in pairs) == {
        "1": CHARACTERS,
        "-3": "C:\\x20 \\ home",
    }


def test_half_a_character_excludes_its_note_and_stops_nothing(small, open_store, capfd):
    store = open_store(small)
    assert sync(store)["notes"]["excluded"] == {"empty text": 2, "not UTF-8": 1}
    assert store.sql("SELECT note_id, status, reason FROM notes ORDER BY 1").fetchall() == [
        ("-3", "ready", None),
        ("1", "ready", None),
        ("2", "excluded", "not UTF-8"),
        ("4", "excluded", "empty text"),
        ("5", "excluded", "empty text"),
    ]
    assert embed_pending(store, WordCounter())["embedded"] == 2
    assert "PHI_CANARY" not in "".join(capfd.readouterr())


def test_a_connection_that_is_lost_during_the_index_is_one_line_and_changes_nothing(
    server, open_store
):
    store = open_store(server)
    server.break_after(200)  # the admissions and some notes
    try:
        with pytest.raises(SourceError, match=r"closed the connection .* finished before is kept"):
            sync(store)
    finally:
        server.break_after(None)
    assert store.one("SELECT count(*) FROM admissions") == (0,)
    assert sync(store)["notes"]["new"] == 553


def test_a_connection_that_is_lost_during_texts_keeps_the_notes_that_were_embedded(
    server, open_store
):
    store = open_store(server)
    sync(store)
    encoder = WordCounter()
    encoder.budget = 40  # texts of 20,000 letters at a time
    server.break_after(300)
    try:
        with pytest.raises(SourceError, match=r"closed the connection .* finished before is kept"):
            embed_pending(store, encoder)
    finally:
        server.break_after(None)
    again = embed_pending(store, WordCounter())
    assert again["resumed"] > 0
    assert again["resumed"] + again["embedded"] == again["pending"]


def test_a_missing_table_is_reported_with_the_server_s_own_line(server, tmp_path):
    with pytest.raises(SourceError, match=r"Invalid column name 'anchor_year' - .*schema mimic3"):
        Source(server.url, "mimic4").check()
    own = own_schema(tmp_path / "own", "FROM noteevents", "FROM documents")
    with pytest.raises(SourceError, match=r"Invalid object name 'documents' - correct .*notes.sql"):
        Source(server.url, own).check()


def test_the_password_comes_from_the_environment_and_is_never_shown(
    server, tmp_path, monkeypatch, capfd
):
    public = server.url.replace(":secret", "")
    monkeypatch.setenv("FEATURESTORE_SOURCE", server.url)
    result = CliRunner().invoke(main, ["init", str(tmp_path / "w.duckdb"), "--schema", "mimic3"])
    assert result.exit_code == 0, result.output
    store = Store(tmp_path / "w.duckdb")
    assert store.one("SELECT source FROM settings") == (public,)
    assert b":secret" not in store.path.read_bytes()
    assert sync(store)["admissions"]["total"] > 60

    wrong = server.url.replace("secret", "PW_CANARY")
    monkeypatch.setenv("FEATURESTORE_SOURCE", wrong)
    refused = CliRunner().invoke(main, ["sync", str(store.path)])
    assert refused.exit_code == 1
    assert "could not be reached or closed the connection" in refused.output
    assert len(refused.output.strip().splitlines()) == 1
    assert "PW_CANARY" not in refused.output + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("SELECT row_id FROM noteevents LIMIT 3", "Incorrect syntax near 'LIMIT'"),
        ("SELECT row_id = 1 AS flag FROM noteevents", "Incorrect syntax near '='"),
        ("SELECT row_id FROM noteevents WHERE 1 = TRUE", "Invalid column name 'TRUE'"),
        ("SELECT text || 'x' FROM noteevents", r"Incorrect syntax near '\|\|'"),
        (
            "SELECT * FROM (WITH n AS (SELECT 1 AS a) SELECT a FROM n) AS x",
            "Incorrect syntax near the keyword 'WITH'",
        ),
        ("SELECT * FROM (SELECT row_id FROM noteevents ORDER BY 1) AS x", "ORDER BY clause"),
        ("SELECT nothing FROM noteevents", "Invalid column name 'nothing'"),
    ],
)
def test_the_stand_in_refuses_what_sql_server_refuses(small, statement, message):
    with pytest.raises(sa.exc.DBAPIError, match=message):
        execute(small, statement)


def test_the_stand_in_refuses_more_than_2100_parameters(small):
    marks = ", ".join(f":p{number}" for number in range(2_101))
    numbers = {f"p{number}": number for number in range(2_101)}
    with pytest.raises(sa.exc.DBAPIError, match=r"Too many parameters|COUNT field"):
        execute(small, f"SELECT row_id FROM noteevents WHERE row_id IN ({marks})", **numbers)
