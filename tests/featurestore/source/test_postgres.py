"""PostgreSQL: encodings other than UTF-8, options of the URL, and both ways of reading."""

from datetime import date

import psycopg
import pyarrow as pa
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from sqlalchemy.engine import make_url

from featurestore import create_store, embed_pending, read_texts, sync
from featurestore.cli import main
from featurestore.errors import SourceError
from featurestore.source import fast_reader, generic_reader
from featurestore.source.note_texts import text_hash
from featurestore.source.source import Source
from featurestore.source.urls import has_password, without_password
from tests.conftest import WordCounter
from tests.hospital import own_schema

STAY = (
    "CREATE TABLE admissions AS SELECT 7 AS hadm_id, 7 AS subject_id, "
    "TIMESTAMP '2150-01-01' AS admittime, TIMESTAMP '2150-01-11' AS dischtime, "
    "NULL::timestamp AS deathtime, 0 AS hospital_expire_flag, 'EMERGENCY' AS admission_type, "
    "'HOME' AS discharge_location, 'X' AS ethnicity, 'Y' AS insurance;"
    "CREATE TABLE patients AS SELECT 7 AS subject_id, 'F' AS gender, DATE '2090-01-01' AS dob, "
    "NULL::date AS dod;"
    "CREATE TABLE noteevents (row_id int, subject_id int, hadm_id int, category text, "
    "chartdate date, charttime timestamp, storetime timestamp, iserror char(1), text text)"
)
NOTE = "INSERT INTO noteevents VALUES (%s, 7, 7, 'Nursing', '2150-01-02', %s, NULL, NULL, %s)"


@pytest.fixture
def database(server):
    """Return a function that makes a database with an encoding and one note per given text."""
    names = []

    def make(encoding, *texts, client_encoding="utf8"):
        name = f"in_{encoding.lower()}"
        with psycopg.connect(server.get_uri(), autocommit=True) as con:
            con.execute(
                f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 "
                "LC_COLLATE 'C' LC_CTYPE 'C'"
            )
        names.append(name)
        uri = server.get_uri().replace("/postgres?", f"/{name}?")
        with psycopg.connect(uri, client_encoding=client_encoding, autocommit=True) as con:
            con.execute(STAY)
            for number, text in enumerate(texts, 1):
                con.execute(NOTE, (number, "2150-01-02 10:00", text))
        return uri

    yield make
    with psycopg.connect(server.get_uri(), autocommit=True) as con:
        for name in names:
            con.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_note_with_an_umlaut_in_latin1_is_embedded_once(database, tmp_path):
    store = create_store(tmp_path / "w.duckdb", database("LATIN1", "schläft, 38 °C"), "mimic3")
    sync(store)
    assert store.one("SELECT text_hash, n_chars FROM notes") == (text_hash("schläft, 38 °C"), 14)
    assert embed_pending(store, WordCounter())["embedded"] == 1
    sync(store)
    assert embed_pending(store, WordCounter())["pending"] == 0


def test_a_few_texts_are_read_by_their_index(database, tmp_path):
    url = database("UTF8", "first")
    with psycopg.connect(url, autocommit=True) as con:
        con.execute("ALTER TABLE noteevents ADD PRIMARY KEY (row_id)")
        con.execute(
            "INSERT INTO noteevents SELECT n, 7, 7, 'N', '2150-01-02', NULL, NULL, NULL, "
            "'note ' || n FROM generate_series(2, 20000) AS n"
        )
        con.execute("ANALYZE noteevents")
    store = create_store(tmp_path / "w.duckdb", url, "mimic3")
    sync(store)
    executed = []

    def collect(_con, _cursor, statement, parameters, *_):
        executed.append((statement, parameters))

    sa.event.listen(sa.Engine, "before_cursor_execute", collect)
    try:
        assert read_texts(store, ["17", "20000"]) == {"17": "note 17", "20000": "note 20000"}
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", collect)
    *_, (statement, parameters) = executed
    assert sum(len(values) == 2 for _, values in executed) == 1  # no other query is about the two
    with psycopg.connect(url) as con:
        plan = [line for (line,) in con.execute(f"EXPLAIN {statement}", parameters)]
    assert any("Index Scan" in line and "noteevents" in line for line in plan), plan
    assert not any("Seq Scan" in line for line in plan), plan


def test_bytes_that_are_not_utf8_exclude_a_note_of_a_sql_ascii_database(database, tmp_path):
    url = database("SQL_ASCII", "schläft", client_encoding="SQL_ASCII")
    with psycopg.connect(url, client_encoding="SQL_ASCII", autocommit=True) as con:
        con.execute(
            "INSERT INTO noteevents SELECT 2, 7, 7, 'N', chartdate, charttime, NULL, NULL, "
            "convert_from('\\x7363686ce4667420', 'SQL_ASCII') FROM noteevents"
        )
    store = create_store(tmp_path / "w.duckdb", url, "mimic3")
    assert sync(store)["notes"]["excluded"] == {"not UTF-8": 1}
    assert store.rows("SELECT note_id, text_hash FROM notes WHERE status = 'ready'") == [
        {"note_id": "1", "text_hash": text_hash("schläft")}
    ]
    assert embed_pending(store, WordCounter())["embedded"] == 1
    assert sync(store)["notes"]["changed"] == 0


def test_options_of_the_url_are_kept_and_the_session_stays_read_only(database):
    url = database("UTF8", "alone")
    with psycopg.connect(url, autocommit=True) as con:
        con.execute("CREATE SCHEMA cdm")
        for table in ("admissions", "patients", "noteevents"):
            con.execute(f"ALTER TABLE {table} SET SCHEMA cdm")
    with pytest.raises(SourceError, match='relation "admissions" does not exist'):
        Source(url, "mimic3").check()
    for options in (
        "-csearch_path=cdm",
        "-csearch_path=cdm -cdefault_transaction_read_only=off",
        "-csearch_path=cdm -capplication_name=hidden\\",
    ):
        source = Source(
            sa.make_url(url)
            .update_query_dict({"options": options})
            .render_as_string(hide_password=False),
            "mimic3",
        )
        assert len(source.read("admissions")) == 1
        with source._engine.connect() as con, pytest.raises(sa.exc.DBAPIError, match="read-only"):
            con.execute(sa.text("DELETE FROM noteevents"))


def test_a_socket_url_without_a_password_is_accepted_on_the_command_line(database, tmp_path):
    url = database("UTF8", "alone").replace("postgres:@", "postgres@")
    assert "?host=/" in url and not has_password(url)
    for number, same in enumerate((url, url.replace("postgresql:", "postgres:"))):
        arguments = ["init", str(tmp_path / f"{number}.duckdb"), "--schema", "mimic3"]
        result = CliRunner().invoke(main, [*arguments, "--source", same])
        assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgres://me@db/x", "postgresql+psycopg://me@db/x"),
        ("postgresql+psycopg2://me:pw@db/x", "postgresql+psycopg://me@db/x"),
        ("mysql://me:pw@db/x", "mysql+pymysql://me@db/x"),
        ("mssql+pyodbc://me:pw@db/x?driver=ODBC", "mssql+pyodbc://me@db/x?driver=ODBC"),
        ("databricks://token:pw@db?http_path=/sql", "databricks://token@db?http_path=%2Fsql"),
        ("snowflake://me@a/db?token=pw&warehouse=w", "snowflake://me@a/db?warehouse=w"),
        ("bigquery://project/set?credentials_base64=pw", "bigquery://project/set"),
        ("mssql+pyodbc://me@db/x?UID=me&PWD=pw", "mssql+pyodbc://me@db/x?UID=me"),
        ("mssql://db/x?connection_string=PWD%3Dpw", "mssql+mssqlpython://db/x"),
        ("snowflake://me@a/db?passcode=pw&private_key_passphrase=pw", "snowflake://me@a/db"),
        ("oracle://me:pw@db:1521/?service_name=x", "oracle+oracledb://me@db:1521/?service_name=x"),
    ],
)
def test_a_url_is_stored_without_its_secrets(url, expected):
    assert without_password(url) == expected
    assert has_password(url) == ("pw" in url)


@pytest.mark.parametrize(
    "url", ["mysql://me:a@b/PW_CANARY@db/x", "oracle://me/PW_CANARY@db:1521/x"]
)
def test_a_password_that_is_parsed_as_a_database_is_refused(url):
    with pytest.raises(SourceError, match="is not a URL that SQLAlchemy can parse") as refused:
        without_password(url)
    assert "PW_CANARY" not in str(refused.value)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("a.insurance", "a.payer", "column a.payer does not exist"),
        ("a.insurance", "subject_id AS insurance", 'column reference "subject_id" is ambiguous'),
        ("a.insurance", "a.insurance, 1 AS insurance", "returns INSURANCE more than once"),
        ("a.insurance", "a.insurance,", 'syntax error at or near "FROM"'),
        ("FROM admissions", "FROM stays", 'relation "stays" does not exist'),
        ("a.hadm_id", "hadm_number(a.hadm_id) AS hadm_id", "function hadm_number.* does not exist"),
        (" AS planned", " AS elective", "does not return PLANNED - add the column"),
        ("a.hadm_id,", 'a.hadm_id AS "HADM_ID",', 'returns "HADM_ID" in quotes - write it without'),
    ],
)
def test_a_mistake_in_an_own_select_is_shown_in_the_databases_words(
    database, tmp_path, old, new, line
):
    own = own_schema(tmp_path / "own", old, new)
    with pytest.raises(SourceError, match=line) as refused:
        create_store(tmp_path / "w.duckdb", database("UTF8", "PHI_CANARY"), own)
    assert "admissions.sql" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_table_that_may_not_be_read_is_named_with_what_to_grant(server, database, tmp_path):
    url = database("UTF8", "PHI_CANARY")
    with psycopg.connect(server.get_uri(), autocommit=True) as con:
        con.execute("CREATE ROLE reader LOGIN PASSWORD 'reads'")
    reader = make_url(url).set(username="reader", password="reads")
    with pytest.raises(SourceError, match=r"permission denied for .* - grant the user") as refused:
        create_store(tmp_path / "w.duckdb", reader.render_as_string(hide_password=False), "mimic3")
    assert "--schema" not in str(refused.value)


def test_an_error_that_a_value_causes_does_not_quote_it(database, tmp_path):
    own = own_schema(tmp_path / "own", "    row_id AS", "    CAST(text AS INT) AS")
    source = Source(database("UTF8", "PHI_CANARY"), own)
    source.check()
    with pytest.raises(
        SourceError, match=r"could not be read as .*InvalidTextRepresentation"
    ) as bad:
        source.read("notes")
    assert "PHI_CANARY" not in str(bad.value)


def test_types_of_the_hospitals_own_are_read(database, tmp_path):
    url = database("UTF8", "alone", "pain")
    with psycopg.connect(url, autocommit=True) as con:
        con.execute("CREATE TYPE kind AS ENUM ('Nursing', 'Other')")
        con.execute("ALTER TABLE noteevents ALTER category TYPE kind USING category::kind")
        con.execute("ALTER TABLE noteevents ALTER row_id TYPE char(9) USING row_id::text")
    store = create_store(tmp_path / "w.duckdb", url, "mimic3")
    sync(store)
    assert store.sql("SELECT note_id, category FROM notes ORDER BY 1").fetchall() == [
        ("1", "Nursing"),
        ("2", "Nursing"),
    ]
    assert embed_pending(store, WordCounter())["embedded"] == 2


def test_a_time_zone_after_the_rows_that_were_checked_is_refused(database):
    url = database("SQL_ASCII", "alone")
    with psycopg.connect(url, autocommit=True) as con:
        con.execute("ALTER TABLE noteevents ALTER storetime TYPE timestamptz")
        con.execute(
            "INSERT INTO noteevents SELECT n, 7, 7, 'N', '2150-01-02', NULL, "
            "CASE WHEN n = 2000 THEN '2150-01-02 09:00+02'::timestamptz END, NULL, 'x' "
            "FROM generate_series(2, 2000) n"
        )
    source = Source(url, "mimic3")
    source.check()
    with pytest.raises(SourceError, match="STORETIME has times with a time zone - select"):
        source.read("notes")


@pytest.mark.parametrize("expression", ["CAST(leak() AS INT)", "raise_note()"])
def test_a_value_that_the_planner_reads_is_not_quoted(database, tmp_path, expression):
    url = database("UTF8", "PHI_CANARY")
    with psycopg.connect(url, autocommit=True) as con:
        # Said to be constant, so both are evaluated before any row is asked for.
        con.execute(
            "CREATE FUNCTION leak() RETURNS text IMMUTABLE LANGUAGE sql "
            "AS 'SELECT text FROM noteevents LIMIT 1'"
        )
        con.execute(
            "CREATE FUNCTION raise_note() RETURNS int IMMUTABLE LANGUAGE plpgsql "
            "AS $$ BEGIN RAISE EXCEPTION '%', leak(); END $$"
        )
    own = own_schema(tmp_path / "own", "a.hadm_id,", f"{expression} AS hadm_id,")
    with pytest.raises(SourceError, match=r"could not be read as") as refused:
        Source(url, own).check()
    assert "PHI_CANARY" not in str(refused.value)


def test_both_readers_return_the_same(database):
    url = database("UTF8", "alone\n at ° home 漢 🙂", " \t\n", "", "pain", None)
    source = Source(url, "mimic3")
    with source._connect() as connection:
        notes = source._table(connection, "notes")
        for since in (None, date(2150, 1, 2), date(2150, 1, 3)):
            fast, generic = (
                pa.Table.from_batches(reader.read_index(connection, notes, since))
                for reader in (fast_reader, generic_reader)
            )
            assert fast.column_names == generic.column_names
            for column in fast.column_names:
                if not column.endswith(("time", "date")):
                    assert fast[column].to_pylist() == generic[column].to_pylist(), column
        for ids in (["1"], ["1", "2", "3", "4", "5"], ["99"]):
            fast, generic = (
                dict(pair for pairs in reader.read_texts(connection, notes, ids) for pair in pairs)
                for reader in (fast_reader, generic_reader)
            )
            assert fast == {no: text for no, text in generic.items() if no in ids}


@pytest.mark.parametrize("cut", ["index", "texts"])
def test_a_connection_that_is_lost_while_rows_are_streamed_is_one_line(
    database, server, tmp_path, monkeypatch, cut
):
    texts = ["alone at home " * 30] * 2_000
    store = create_store(tmp_path / "w.duckdb", database("UTF8", *texts), "mimic3")
    monkeypatch.setattr(Source, "_reader", lambda *_: generic_reader)
    rows, cuts = generic_reader._rows, []

    def cut_off(connection, statement, at_once):
        for number, part in enumerate(rows(connection, statement, at_once)):
            yield part
            if number == 0 and cuts.append(1) is None:
                server.psql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = 'in_utf8' AND pid <> pg_backend_pid()"
                )

    failing = r"closed the connection \(AdminShutdown\).* finished before is kept"
    if cut == "index":
        with monkeypatch.context() as patch, pytest.raises(SourceError, match=failing):
            patch.setattr(generic_reader, "_rows", cut_off)
            sync(store)
        assert store.one("SELECT count(*) FROM notes") == (0,)
        assert sync(store)["notes"]["new"] == 2_000
    else:
        sync(store)

        class Small(WordCounter):
            budget = 8

        with monkeypatch.context() as patch, pytest.raises(SourceError, match=failing):
            patch.setattr(generic_reader, "_rows", cut_off)
            embed_pending(store, Small())
        again = embed_pending(store, Small())
        assert again["resumed"] > 10
        assert again["resumed"] + again["embedded"] == 2_000
    assert cuts


@pytest.mark.parametrize(
    ("login", "says"),
    [
        pytest.param("guarded:rotated", "runs, but refused to connect", id="a wrong password"),
        pytest.param("guarded", "asks for a password, and none was given", id="no password"),
    ],
)
def test_a_refused_login_is_told_from_a_database_that_is_down(server, tmp_path, login, says):
    rules = server.pgdata / "pg_hba.conf"
    before = rules.read_text()
    with psycopg.connect(server.get_uri(), autocommit=True) as con:
        con.execute("CREATE ROLE guarded LOGIN PASSWORD 'right'")
        try:
            rules.write_text("local all guarded scram-sha-256\n" + before)
            con.execute("SELECT pg_reload_conf()")
            folder = con.info.host
            with pytest.raises(SourceError, match=says) as refused:
                create_store(
                    tmp_path / "w.duckdb", f"postgresql://{login}@/postgres?host={folder}", "mimic3"
                )
            assert "rotated" not in str(refused.value)
        finally:
            rules.write_text(before)
            con.execute("SELECT pg_reload_conf()")
            con.execute("DROP ROLE guarded")
