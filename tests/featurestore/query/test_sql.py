"""Questions in SQL: what they cannot reach, and how what they can is answered."""

import csv
import io
import json
import socket
import stat
import time
import traceback

import duckdb
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from featurestore import Store, create_store, sync
from featurestore.cli import main
from featurestore.errors import FeatureStoreError
from featurestore.query.catalog import catalog
from featurestore.query.execution import run_query
from featurestore.store.schema import FOLDERS, TABLES, VIEWS_AND_MACROS
from featurestore.store.sql_files import read_sql
from tests.hospital import admission, note, write_hospital

CANARY = "CANARY-lives-alone"  # a value of the data
SECRET = "SECRET-outside"  # what lies beside the store


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store, and beside it what a query must not reach."""
    folder = tmp_path_factory.mktemp("ask")
    stays = [admission(number, admission_type="URGENT") for number in range(1, 301)]
    notes = [note(number, number, "text", category=CANARY) for number in range(1, 301)]
    write_hospital(folder / "hospital", stays, notes)
    sync(create_store(folder / "ward.duckdb", folder / "hospital", "mimic3"))
    (folder / "secret.csv").write_text(f"word\n{SECRET}\n")
    (folder / "secret.json").write_text(f'[{{"word": "{SECRET}"}}]')
    (folder / "link.csv").symlink_to(folder / "secret.csv")
    (folder / "inner").mkdir()
    for name in ("other.duckdb", "secret.parquet"):
        with duckdb.connect() as con:
            con.execute(f"CREATE TABLE words AS SELECT '{SECRET}' AS word")
            if name.endswith("parquet"):
                con.execute(f"COPY words TO '{folder / name}'")
            else:
                con.execute(f"ATTACH '{folder / name}' AS other")
                con.execute("COPY FROM DATABASE memory TO other")
    create_store(folder / "another-ward.duckdb", folder / "hospital", "mimic3")
    return folder


@pytest.fixture
def store(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return Store(folder / "ward.duckdb")


def answer(store, query, kind="json", **how):
    stream = io.StringIO()
    run_query(store, query, stream, kind, **how)
    return json.loads(stream.getvalue()) if kind == "json" else stream.getvalue()


def refusal(store, query, **how):
    stream = io.StringIO()
    with pytest.raises(FeatureStoreError) as refused:
        run_query(store, query, stream, **how)
    assert stream.getvalue() == ""
    told = str(refused.value)
    assert " - " in told and "\n" not in told, told
    traced = "".join(traceback.format_exception(refused.value)).lower()
    assert CANARY.lower() not in traced and SECRET.lower() not in traced
    return told


def contents(folder):
    return {
        path.relative_to(folder): (path.lstat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in folder.rglob("*")
    }


ESCAPES = {
    "a CSV file cannot be read": "FROM read_csv('secret.csv')",
    "nor can it by DuckDB's own guess": "FROM read_csv_auto('secret.csv')",
    "nor sniffed": "FROM sniff_csv('secret.csv')",
    "a text file cannot be read": "FROM read_text('secret.csv')",
    "a file's bytes cannot be read": "FROM read_blob('secret.csv')",
    "a JSON file cannot be read": "FROM read_json('secret.json')",
    "a Parquet file cannot be read": "FROM read_parquet('secret.parquet')",
    "nor its footer": "FROM parquet_metadata('secret.parquet')",
    "another database cannot be read": "FROM read_duckdb('other.duckdb')",
    "files cannot be listed": "FROM glob('*')",
    "a CSV file is no table": "FROM 'secret.csv'",
    "a Parquet file is no table": "FROM 'secret.parquet'",
    "a database is no table": "FROM 'other.duckdb'",
    "the store's own file is no table": "FROM 'ward.duckdb'",
    "a link to a file is no table": "FROM 'link.csv'",
    "a path through a folder and back is no table": "FROM 'inner/../secret.csv'",
    "a file cannot hide in a subquery": "SELECT * FROM notes WHERE note_id IN (FROM 'secret.csv')",
    "a file cannot hide behind a name that is given elsewhere": (
        "SELECT (SELECT count(*) FROM 'secret.csv'), "
        "(WITH \"secret.csv\" AS (SELECT 1) SELECT count(*) FROM 'secret.csv')"
    ),
    "a file cannot be described": "DESCRIBE 'secret.csv'",
    "a file cannot be summarised": "SUMMARIZE 'secret.csv'",
    "a file cannot be explained": "EXPLAIN ANALYZE FROM read_text('secret.csv')",
    "a page cannot be fetched": "FROM 'http://127.0.0.1:PORT/secret.csv'",
    "nor as CSV": "FROM read_csv('http://127.0.0.1:PORT/secret.csv')",
    "nor by https": "FROM read_parquet('https://127.0.0.1:PORT/secret.parquet')",
    "a bucket cannot be read": "FROM 's3://bucket/secret.parquet'",
    "nothing is copied out": "COPY notes TO 'stolen.csv'",
    "nor to standard output": "COPY notes TO '/dev/stdout'",
    "nor a query's answer": "COPY (FROM notes) TO 'stolen.parquet'",
    "nor by an explanation": "EXPLAIN ANALYZE COPY (FROM notes) TO 'stolen.csv'",
    "nothing is copied in": "COPY notes FROM 'secret.csv'",
    "a database is not copied": "COPY FROM DATABASE store TO memory",
    "a database is not exported": "EXPORT DATABASE 'stolen'",
    "a database is not imported": "IMPORT DATABASE 'inner'",
    "no file is attached": "ATTACH 'other.duckdb'",
    "no new file is attached": "ATTACH 'new.duckdb'",
    "no memory is attached": "ATTACH ':memory:' AS scratch",
    "no other store is attached": "ATTACH 'another-ward.duckdb' AS another (READ_ONLY)",
    "the store is not attached again to be written": "ATTACH 'ward.duckdb' AS again",
    "the store is not detached": "DETACH store",
    "no other database is used": "USE memory",
    "no extension is loaded": "LOAD httpfs",
    "no extension is loaded from a file": "LOAD './httpfs.duckdb_extension'",
    "no extension is installed": "INSTALL httpfs",
    "no extension is updated": "UPDATE EXTENSIONS",
    "the memory limit is not set": "SET memory_limit = '1TB'",
    "the spill folder is not set": "SET temp_directory = 'inner'",
    "external access is not given back": "SET enable_external_access = true",
    "nor reset": "RESET enable_external_access",
    "the configuration is not unlocked": "SET lock_configuration = false",
    "Python variables are not given back": "SET python_enable_replacements = true",
    "a pragma is a setting": "PRAGMA memory_limit = '1TB'",
    "a pragma that lists is none either": "PRAGMA database_list",
    "no profile is written": "PRAGMA profiling_output = 'stolen.json'",
    "no variable is set": "SET VARIABLE word = 1",
    "nothing is called": "CALL enable_logging()",
    "nor a checkpoint": "CALL force_checkpoint()",
    "nor as a table": "FROM checkpoint()",
    "no table is made": "CREATE TABLE mine AS FROM notes",
    "no table in memory": "CREATE TABLE memory.main.mine AS FROM notes",
    "no temporary table": "CREATE TEMP TABLE mine AS FROM notes",
    "nor by an explanation of one": "EXPLAIN ANALYZE CREATE TEMP TABLE mine AS SELECT 1",
    "no macro is made": "CREATE TEMP MACRO mine() AS 1",
    "no view is made": "CREATE TEMP VIEW mine AS FROM notes",
    "no secret is made": "CREATE SECRET (TYPE s3, KEY_ID 'a', SECRET 'b')",
    "nothing is inserted": "INSERT INTO notes FROM notes",
    "nothing is updated": "UPDATE notes SET reason = NULL",
    "nothing is deleted": "DELETE FROM notes",
    "nothing is truncated": "TRUNCATE notes",
    "nothing is merged": "MERGE INTO notes USING notes AS n ON TRUE WHEN MATCHED THEN DELETE",
    "nothing is dropped": "DROP TABLE notes",
    "nothing is altered": "ALTER TABLE notes ADD COLUMN mine INTEGER",
    "nothing is commented": "COMMENT ON TABLE notes IS 'mine'",
    "nothing is checkpointed": "FORCE CHECKPOINT store",
    "nothing is vacuumed": "VACUUM",
    "no transaction is begun": "BEGIN",
    "none is committed": "COMMIT",
    "nothing is prepared": "PREPARE mine AS FROM notes",
    "nothing prepared is run": "EXECUTE mine",
    "no environment variable is told": "SELECT getenv('HOME')",
    "no variable is told": "SELECT getvariable('word')",
    "a string is no query": "FROM query('FROM read_text(''secret.csv'')')",
    "a string is no table": "FROM query_table('secret.csv')",
    "not even a table of the store": "FROM query_table('notes')",
    "nor is a serialised query": (
        "FROM json_execute_serialized_sql(json_serialize_sql('FROM read_text(''secret.csv'')'))"
    ),
    "no setting is told": "SELECT current_setting('temp_directory')",
    "no secret's setting is told": "SELECT current_setting('s3_secret_access_key')",
    "whoever writes it large or in quotes": "SELECT \"CURRENT_Setting\"('temp_directory')",
    "nor all settings": "FROM duckdb_settings()",
    "nor in a view of them": "FROM pg_settings",
    "nor in its own schema": "FROM pg_catalog.pg_settings",
    "nor behind a name that is given elsewhere": (
        "FROM pg_settings, (WITH pg_settings AS (SELECT 1) FROM pg_settings)"
    ),
    "no secrets are told": "FROM duckdb_secrets()",
    "nor where databases lie": "FROM duckdb_databases()",
    "nothing is logged": "SELECT write_log('mine')",
    "a Python variable is no table": "FROM a_python_variable",
    "nor is one of a module": "FROM ESCAPES",
    "two queries are not one": "FROM notes; FROM notes",
    "nor is a second that drops": "SELECT 1; DROP TABLE notes",
    "an explanation of one is not two": "EXPLAIN SELECT 1; DROP TABLE notes",
    "a comment hides nothing": "SELECT 1 -- ;\n; DROP TABLE notes",
    "a table whose columns are values is no question": "PIVOT notes ON category USING count(*)",
    "nothing is no question": "",
}


@pytest.fixture(scope="module")
def port():
    """A port of this machine where nobody must call."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES)
def test_a_query_reads_the_store_and_nothing_else(store, folder, port, escape):
    a_python_variable = duckdb.sql("SELECT 1")
    before = contents(folder)
    refusal(store, escape.replace("PORT", str(port)))
    assert contents(folder) == before
    assert answer(store, "SELECT count(*) AS n FROM notes") == [{"n": 300}]
    assert a_python_variable is not None


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("select count(*) AS n from Notes", [{"n": 300}]),
        ("FROM store.main.notes SELECT count(*) AS n", [{"n": 300}]),
        ("WITH two AS (FROM notes LIMIT 2) SELECT count(*) AS n FROM two", [{"n": 2}]),
        ("FROM range(2) AS r(n)", [{"n": 0}, {"n": 1}]),
        ("SELECT count(*) AS n FROM readmission_labels(horizon_days := 90)", [{"n": 300}]),
        ("SELECT patient_split(7) AS split;", [{"split": "train"}]),
        ("VALUES (1) -- and no more", [{"col0": 1}]),
        ("SELECT column_name FROM (DESCRIBE runs) LIMIT 1", [{"column_name": "run_id"}]),
        (
            "PIVOT notes ON status IN ('ready') USING count(*) GROUP BY reason",
            [{"reason": None, "ready": 300}],
        ),
    ],
)
def test_what_reads_is_answered(store, query, rows):
    assert answer(store, query) == rows


def test_what_describes_is_answered(store):
    assert {"name": "notes"} in answer(store, "SHOW TABLES")
    assert answer(store, "SUMMARIZE runs")[0]["column_name"] == "run_id"
    for query in (
        "EXPLAIN FROM notes",
        "explain analyze FROM notes",
        "EXPLAIN (FORMAT json) FROM notes",
    ):
        assert answer(store, query, "table").startswith(("┌", "["))


# What is told when a query fails


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("SELECT category::INTEGER FROM notes", "a value of category cannot be converted"),
        ("SELECT hadm_id::UTINYINT FROM notes", "a value of hadm_id cannot be converted"),
        ("SELECT upper(category)::TIMESTAMP FROM notes", "a value cannot be converted"),
        ("SELECT category::JSON FROM notes", "a value of category cannot be converted"),
        ("FROM notes WHERE category = 7", "a value of category cannot be converted"),
        ("SELECT date_part(category, now()) FROM notes", "a value cannot be converted"),
        ("SUMMARIZE SELECT category::DATE FROM notes", "a value of category cannot be converted"),
        ("SELECT error(category) FROM notes", "a value cannot be taken"),
        ("SELECT regexp_matches('', category || '(') FROM notes", "a value cannot be taken"),
        ("SELECT json_extract('{}', '$.[' || category) FROM notes", "a value cannot be taken"),
        ("SELECT format('{' || category, 1) FROM notes", "a value cannot be taken"),
        ("SELECT (SELECT category FROM notes)", "a value cannot be taken"),
        ("SELECT 9223372036854775807 + hadm_id FROM notes", "a number is out of range"),
        (
            "SELECT json_deserialize_sql(json_object(category, 1)) FROM notes",
            "the query cannot be answered",
        ),
        ("SELECT now() AT TIME ZONE category FROM notes", "the query cannot be answered"),
        ("EXPLAIN ANALYZE SELECT category::INTEGER FROM notes", "a value of category cannot"),
    ],
)
def test_an_error_tells_what_and_where_and_no_value(store, query, told):
    message = refusal(store, query)
    assert message.startswith(told)
    assert "9223372036854775807" not in message


def test_a_column_is_named_only_where_the_query_names_it(store):
    message = refusal(store, "SELECT CAST(COLUMNS('cat.*') AS INTEGER) FROM notes")
    assert message == "a value cannot be converted - TRY_CAST gives NULL instead"


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("SELEC 1", 'syntax error at or near "SELEC" - '),
        ("FROM nots", "the store has no table or view nots - "),
        ("SELECT categry FROM notes", 'Referenced column "categry" not found'),
        ("SELECT nope(1)", "Scalar Function with name nope does not exist!"),
        ("DROP TABLE notes", "a query is one SELECT, FROM, WITH, DESCRIBE, SHOW, SUMMARIZE or "),
        ("FROM read_csv('x')", "read_csv() is beyond a query - "),
    ],
)
def test_a_query_that_is_wrong_is_told_in_its_own_words(store, query, told):
    assert refusal(store, query).startswith(told)


def test_an_error_far_into_a_parquet_file_tells_no_value(store, tmp_path):
    query = (
        f"SELECT CASE WHEN range > 900_000 THEN '{CANARY}' || range ELSE '1' END::INTEGER "
        "FROM range(1_000_000)"
    )
    with (tmp_path / "x.parquet").open("wb") as stream, pytest.raises(FeatureStoreError) as told:
        run_query(store, query, stream, "parquet", limit=0)
    assert str(told.value) == "a value cannot be converted - TRY_CAST gives NULL instead"


# How it is answered


def test_json_is_json_whatever_the_values(store):
    query = """SELECT 'nan'::FLOAT AS a, ['inf'::DOUBLE, 1.5] AS b, {'c': DATE '2020-01-02'} AS c,
        MAP {1: 'x'} AS d, TIMESTAMP '2020-01-02 03:04:05' AS e, 1.25 AS f, 'ab'::BLOB AS g,
        INTERVAL 1 DAY AS h, [1.0, NULL]::FLOAT[2] AS i, NULL AS j, 170141183460469231731::HUGEINT
        AS k, 'infinity'::DATE AS l, TRUE AS m, 1 AS a, 'é"' AS o"""
    stream = io.StringIO()
    run_query(store, query, stream, "json")

    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads(stream.getvalue(), parse_constant=refuse) == [
        {
            **{"a": None, "b": [None, 1.5], "c": {"c": "2020-01-02"}, "d": {"1": "x"}},
            **{"e": "2020-01-02 03:04:05", "f": 1.25, "g": "6162", "h": "1 day, 0:00:00"},
            **{"i": [1.0, None], "j": None, "k": 170141183460469231731, "l": "9999-12-31"},
            **{"m": True, "a_2": 1, "o": 'é"'},
        }
    ]
    assert answer(store, "FROM notes WHERE FALSE") == []


def test_arrays_in_csv_are_json(store):
    query = "SELECT [1, 2]::FLOAT[2] AS v, {'a': ['x, \"y\"']} AS s, NULL AS n, 'two\nlines' AS t"
    rows = list(csv.reader(io.StringIO(answer(store, query, "csv"), newline="")))
    assert rows == [["v", "s", "n", "t"], ["[1.0, 2.0]", '{"a": ["x, \\"y\\""]}', "", "two\nlines"]]


def test_a_table_is_aligned_cut_and_steers_no_terminal(store):
    query = (
        "FROM (VALUES (1, 'plain'), (10, NULL), (100, chr(27) || '[31m' || repeat('x', 50))) "
        "AS t(n, said)"
    )
    assert answer(store, query, "table").splitlines() == [
        "  n  said",
        "---  ----------------------------------------",
        "  1  plain",
        " 10  NULL",
        "100   [31m" + "x" * 34 + "…",
    ]


def test_parquet_keeps_types(store, tmp_path):
    file = tmp_path / "notes.parquet"
    query = "SELECT hadm_id, available_at, [1, 2]::FLOAT[2] AS v FROM notes ORDER BY 1"
    with file.open("wb") as stream:
        assert run_query(store, query, stream, "parquet", limit=2)
    table = pq.read_table(file)
    assert table.num_rows == 2
    assert [str(kind) for kind in table.schema.types] == [
        "int64",
        "timestamp[us]",
        "fixed_size_list<element: float>[2]",
    ]
    with file.open("wb") as stream, pytest.raises(FeatureStoreError, match="that Parquet lacks"):
        run_query(store, "SELECT INTERVAL 1 DAY", stream, "parquet")


@pytest.mark.parametrize(
    ("limit", "shown", "more"), [(2, 2, True), (299, 299, True), (300, 300, False), (0, 300, False)]
)
def test_a_limit_cuts_and_says_so(store, tmp_path, limit, shown, more):
    for kind in ("table", "csv", "json"):
        stream = io.StringIO()
        assert run_query(store, "SELECT hadm_id FROM notes", stream, kind, limit) is more
        lines = stream.getvalue().splitlines()
        assert shown == {"table": len(lines) - 2, "csv": len(lines) - 1}.get(
            kind, stream.getvalue().count("{")
        )
    with (tmp_path / "x.parquet").open("wb") as stream:
        assert run_query(store, "SELECT hadm_id FROM notes", stream, "parquet", limit) is more
    assert pq.read_table(tmp_path / "x.parquet").num_rows == shown


@pytest.mark.parametrize(
    "query",
    [
        "SELECT count(*) FROM range(10_000_000) a, range(10_000_000) b",
        "SUMMARIZE FROM range(10_000_000) a, range(10_000_000) b",
        "EXPLAIN ANALYZE SELECT count(*) FROM range(10_000_000) a, range(10_000_000) b",
        "SELECT sleep_ms(60_000)",
    ],
)
def test_a_query_without_end_is_stopped_and_the_next_one_answered(store, query):
    begun = time.monotonic()
    assert refusal(store, query, timeout=0.3) == (
        "the query was stopped after 0.3 s - ask for less, or give it more time with --timeout"
    )
    assert time.monotonic() - begun < 20
    assert answer(store, "SELECT 1 AS n") == [{"n": 1}]


def test_a_file_without_end_is_stopped_too(store, tmp_path):
    query = "FROM range(10_000_000) a, range(10_000_000) b"
    stopped = pytest.raises(FeatureStoreError, match="the query was stopped after")
    with (tmp_path / "x.parquet").open("wb") as stream, stopped:
        run_query(store, query, stream, "parquet", limit=0, timeout=0.3)


# What there is to ask


def test_the_catalog_describes_every_object(store):
    entries = {entry["name"]: entry for entry in catalog(store)}
    assert set(entries) == {*TABLES, *VIEWS_AND_MACROS}
    assert entries["known_notes"] == {
        "kind": "table macro",
        "name": "known_notes",
        "parameters": ["cutoff"],
        "comment": "known_notes(cutoff := '72h'): which notes may a prediction use?\n"
        "One row per note known at the prediction time of its admission (note_id).",
        "columns": [
            {"name": "hadm_id", "type": "BIGINT", "comment": None},
            {"name": "prediction_time", "type": "TIMESTAMP", "comment": None},
            {"name": "note_id", "type": "VARCHAR", "comment": None},
            {"name": "text_hash", "type": "VARCHAR", "comment": None},
            {"name": "available_at", "type": "TIMESTAMP", "comment": None},
        ],
    }
    assert entries["notes"]["columns"][-2] == {
        "name": "status",
        "type": "VARCHAR",
        "comment": "ready, or excluded with a reason.",
    }
    for name, entry in entries.items():
        returns_value = name in ("available_at", "patient_split")
        assert ("\nOne row" in entry["comment"]) == bool(entry["columns"]) != returns_value, name


def test_the_comment_of_an_object_agrees_with_the_header_of_its_file(store):
    for entry in catalog(store):
        header = read_sql(f"{FOLDERS[entry['name']]}/{entry['name']}").splitlines()[0]
        first_line = entry["comment"].splitlines()[0]
        if "macro" not in entry["kind"]:
            first_line = f"{entry['name']}: {first_line[0].lower()}{first_line[1:]}"
        assert header == f"-- {first_line}"


def test_the_comment_of_a_macro_names_its_parameters(store):
    for entry in catalog(store):
        if "macro" in entry["kind"]:
            inside = entry["comment"].partition("(")[2].partition("):")[0]
            parameters = [part.partition(":=")[0].strip() for part in inside.split(",")]
            assert parameters == entry["parameters"], entry["name"]


def test_other_duckdb_programs_see_the_comments(store):
    with duckdb.connect(store.path, read_only=True) as con:
        query = "SELECT comment FROM duckdb_tables() WHERE table_name = 'admissions'"
        assert con.execute(query).fetchall() == [
            ("Hospital stays as the source records them.\nOne row per admission (hadm_id).",)
        ]


# The command


def run(*arguments, code=0):
    result = CliRunner().invoke(main, ["sql", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def test_the_command_says_on_stderr_that_there_is_more(store):
    result = run(store.path, "SELECT hadm_id FROM notes ORDER BY 1", "--limit", 1)
    assert result.stdout == "hadm_id\n-------\n      1\n"
    assert result.stderr == "only the first 1 rows are shown - --limit 0 shows all\n"
    result = run(store.path, "FROM range(10_001)", "--format", "csv")
    assert len(result.stdout.splitlines()) == 10_001
    assert result.stderr == "only the first 10,000 rows are shown - --limit 0 shows all\n"


@pytest.mark.parametrize("name", ["x.csv", "x.json", "x.parquet", "x.txt"])
def test_a_file_is_private_whole_and_of_the_kind_that_its_name_says(store, tmp_path, name):
    file = tmp_path / name
    file.write_text("an older answer that everybody may read")
    file.chmod(0o666)
    result = run(store.path, "FROM range(10_001) AS r(n)", "-o", file)
    assert result.output == ""
    assert stat.filemode(file.stat().st_mode) == "-rw-------"
    with duckdb.connect() as con:
        if name == "x.txt":
            assert len(file.read_text().splitlines()) == 10_003
        else:
            assert con.sql(f"SELECT count(*), max(n) FROM '{file}'").fetchone() == (10_001, 10_000)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_query_that_fails_leaves_the_file_as_it_was(store, tmp_path):
    file = tmp_path / "x.csv"
    file.write_text("older")
    for kind in ("table", "csv", "json", "parquet"):
        query = "SELECT category::INTEGER FROM notes"
        result = run(store.path, query, "-o", file, "--format", kind, code=1)
        assert result.stderr.startswith("Error: a value of category cannot be converted - ")
        assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]
        assert file.read_text() == "older"


@pytest.mark.parametrize("name", ["ward.duckdb", "inner/../ward.duckdb", "ward.duckdb.lock"])
def test_an_answer_never_replaces_the_store(store, folder, name):
    before = contents(folder)
    result = run(store.path, "FROM notes", "-o", folder / name, code=1)
    assert "is the store's own - name another file" in result.stderr
    assert contents(folder) == before


def test_a_link_in_the_way_of_a_file_is_not_followed(store, tmp_path):
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / ".x.csv.partial").symlink_to(tmp_path / "theirs")
    run(store.path, "SELECT 1 AS n", "-o", tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text() == "n\n1\n"
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert stat.filemode((tmp_path / "x.csv").lstat().st_mode) == "-rw-------"


def test_schema_prints_the_catalog_as_text_and_json(store):
    text = run(store.path, "--schema").stdout
    assert "table macro known_notes(cutoff := '72h'): which notes may a prediction use?\n" in text
    assert "table runs: Every job that changed this store.\n  One row per run (run_id" in text
    assert "    started_at             TIMESTAMP    Local time.\n" in text
    assert json.loads(run(store.path, "--schema", "--format", "json").stdout) == catalog(store)
    assert (
        "cannot be written as csv" in run(store.path, "--schema", "--format", "csv", code=1).stderr
    )


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["FROM notes", "--schema"],
        ["FROM notes", "--format", "parquet"],
        ["FROM notes", "--limit", "-1"],
        ["FROM notes", "--timeout", "0"],
    ],
)
def test_what_is_asked_wrongly_is_a_usage_error(store, arguments):
    run(store.path, *arguments, code=2)


def test_the_time_is_the_users_to_give(store):
    query = "SELECT count(*) FROM range(10_000_000) a, range(10_000_000) b"
    result = run(store.path, query, "--timeout", "0.5", code=1)
    assert result.stderr.startswith("Error: the query was stopped after 0.5 s - ")
    assert len(result.stderr.splitlines()) == 1
