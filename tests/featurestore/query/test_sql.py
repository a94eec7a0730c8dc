"""The `sql` command: sandbox, error messages, output formats and catalog."""

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
from pyarrow import feather

from featurestore import Store, create_store, sync
from featurestore.cli import main
from featurestore.errors import FeatureStoreError
from featurestore.query.catalog import catalog
from featurestore.query.execution import run_query
from featurestore.store.schema import FOLDERS, TABLES, VIEWS_AND_MACROS
from featurestore.store.sql_files import read_sql
from tests.hospital import admission, note, write_hospital

CANARY = "CANARY-lives-alone"  # a value of the data
SECRET = "SECRET-outside"  # a value of files next to the store


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store, next to files that a query must not read."""
    folder = tmp_path_factory.mktemp("query")
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


def query_output(store, query, kind="json", **options):
    stream = io.StringIO()
    run_query(store, query, stream, kind, **options)
    return json.loads(stream.getvalue()) if kind == "json" else stream.getvalue()


def error_message(store, query, **options):
    stream = io.StringIO()
    with pytest.raises(FeatureStoreError) as error:
        run_query(store, query, stream, **options)
    assert stream.getvalue() == ""
    message = str(error.value)
    assert " - " in message and "\n" not in message, message
    trace = "".join(traceback.format_exception(error.value)).lower()
    assert CANARY.lower() not in trace and SECRET.lower() not in trace
    return message


def contents(folder):
    return {
        path.relative_to(folder): (path.lstat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in folder.rglob("*")
    }


ESCAPES = {
    "read_csv": "FROM read_csv('secret.csv')",
    "read_csv_auto": "FROM read_csv_auto('secret.csv')",
    "sniff_csv": "FROM sniff_csv('secret.csv')",
    "read_text": "FROM read_text('secret.csv')",
    "read_blob": "FROM read_blob('secret.csv')",
    "read_json": "FROM read_json('secret.json')",
    "read_parquet": "FROM read_parquet('secret.parquet')",
    "parquet_metadata": "FROM parquet_metadata('secret.parquet')",
    "read_duckdb": "FROM read_duckdb('other.duckdb')",
    "glob": "FROM glob('*')",
    "a CSV file as a table": "FROM 'secret.csv'",
    "a Parquet file as a table": "FROM 'secret.parquet'",
    "a database as a table": "FROM 'other.duckdb'",
    "the file of the store as a table": "FROM 'ward.duckdb'",
    "a symlink to a file as a table": "FROM 'link.csv'",
    "a path with .. as a table": "FROM 'inner/../secret.csv'",
    "a file in a subquery": "SELECT * FROM notes WHERE note_id IN (FROM 'secret.csv')",
    "a file with the name of a CTE in another scope": (
        "SELECT (SELECT count(*) FROM 'secret.csv'), "
        "(WITH \"secret.csv\" AS (SELECT 1) SELECT count(*) FROM 'secret.csv')"
    ),
    "DESCRIBE of a file": "DESCRIBE 'secret.csv'",
    "SUMMARIZE of a file": "SUMMARIZE 'secret.csv'",
    "EXPLAIN ANALYZE of read_text": "EXPLAIN ANALYZE FROM read_text('secret.csv')",
    "a URL as a table": "FROM 'http://127.0.0.1:PORT/secret.csv'",
    "read_csv of a URL": "FROM read_csv('http://127.0.0.1:PORT/secret.csv')",
    "read_parquet of an https URL": "FROM read_parquet('https://127.0.0.1:PORT/secret.parquet')",
    "an S3 bucket as a table": "FROM 's3://bucket/secret.parquet'",
    "COPY to a file": "COPY notes TO 'stolen.csv'",
    "COPY to standard output": "COPY notes TO '/dev/stdout'",
    "COPY of a query to a file": "COPY (FROM notes) TO 'stolen.parquet'",
    "EXPLAIN ANALYZE of COPY": "EXPLAIN ANALYZE COPY (FROM notes) TO 'stolen.csv'",
    "COPY from a file": "COPY notes FROM 'secret.csv'",
    "COPY FROM DATABASE": "COPY FROM DATABASE store TO memory",
    "EXPORT DATABASE": "EXPORT DATABASE 'stolen'",
    "IMPORT DATABASE": "IMPORT DATABASE 'inner'",
    "ATTACH an existing file": "ATTACH 'other.duckdb'",
    "ATTACH a new file": "ATTACH 'new.duckdb'",
    "ATTACH a database in memory": "ATTACH ':memory:' AS scratch",
    "ATTACH another store": "ATTACH 'another-ward.duckdb' AS another (READ_ONLY)",
    "ATTACH the store a second time": "ATTACH 'ward.duckdb' AS again",
    "DETACH the store": "DETACH store",
    "USE another database": "USE memory",
    "LOAD an extension": "LOAD httpfs",
    "LOAD an extension from a file": "LOAD './httpfs.duckdb_extension'",
    "INSTALL an extension": "INSTALL httpfs",
    "UPDATE EXTENSIONS": "UPDATE EXTENSIONS",
    "SET the memory limit": "SET memory_limit = '1TB'",
    "SET the spill folder": "SET temp_directory = 'inner'",
    "SET external access": "SET enable_external_access = true",
    "RESET external access": "RESET enable_external_access",
    "SET lock_configuration": "SET lock_configuration = false",
    "SET access to Python variables": "SET python_enable_replacements = true",
    "a PRAGMA that changes a setting": "PRAGMA memory_limit = '1TB'",
    "a PRAGMA that lists": "PRAGMA database_list",
    "a PRAGMA that writes a profile": "PRAGMA profiling_output = 'stolen.json'",
    "SET VARIABLE": "SET VARIABLE word = 1",
    "CALL enable_logging": "CALL enable_logging()",
    "CALL force_checkpoint": "CALL force_checkpoint()",
    "checkpoint as a table function": "FROM checkpoint()",
    "CREATE TABLE": "CREATE TABLE mine AS FROM notes",
    "CREATE TABLE in memory": "CREATE TABLE memory.main.mine AS FROM notes",
    "CREATE TEMP TABLE": "CREATE TEMP TABLE mine AS FROM notes",
    "EXPLAIN ANALYZE of CREATE TEMP TABLE": "EXPLAIN ANALYZE CREATE TEMP TABLE mine AS SELECT 1",
    "CREATE MACRO": "CREATE TEMP MACRO mine() AS 1",
    "CREATE VIEW": "CREATE TEMP VIEW mine AS FROM notes",
    "CREATE SECRET": "CREATE SECRET (TYPE s3, KEY_ID 'a', SECRET 'b')",
    "INSERT": "INSERT INTO notes FROM notes",
    "UPDATE": "UPDATE notes SET reason = NULL",
    "DELETE": "DELETE FROM notes",
    "TRUNCATE": "TRUNCATE notes",
    "MERGE": "MERGE INTO notes USING notes AS n ON TRUE WHEN MATCHED THEN DELETE",
    "DROP": "DROP TABLE notes",
    "ALTER": "ALTER TABLE notes ADD COLUMN mine INTEGER",
    "COMMENT": "COMMENT ON TABLE notes IS 'mine'",
    "CHECKPOINT": "FORCE CHECKPOINT store",
    "VACUUM": "VACUUM",
    "BEGIN": "BEGIN",
    "COMMIT": "COMMIT",
    "PREPARE": "PREPARE mine AS FROM notes",
    "EXECUTE": "EXECUTE mine",
    "getenv": "SELECT getenv('HOME')",
    "getvariable": "SELECT getvariable('word')",
    "query of a string": "FROM query('FROM read_text(''secret.csv'')')",
    "query_table of a file name": "FROM query_table('secret.csv')",
    "query_table of a table": "FROM query_table('notes')",
    "json_execute_serialized_sql": (
        "FROM json_execute_serialized_sql(json_serialize_sql('FROM read_text(''secret.csv'')'))"
    ),
    "current_setting": "SELECT current_setting('temp_directory')",
    "current_setting of a secret": "SELECT current_setting('s3_secret_access_key')",
    "current_setting in quotes and other case": "SELECT \"CURRENT_Setting\"('temp_directory')",
    "duckdb_settings": "FROM duckdb_settings()",
    "pg_settings": "FROM pg_settings",
    "pg_settings with its schema": "FROM pg_catalog.pg_settings",
    "pg_settings with the name of a CTE in another scope": (
        "FROM pg_settings, (WITH pg_settings AS (SELECT 1) FROM pg_settings)"
    ),
    "duckdb_secrets": "FROM duckdb_secrets()",
    "duckdb_databases": "FROM duckdb_databases()",
    "write_log": "SELECT write_log('mine')",
    "a local Python variable as a table": "FROM a_python_variable",
    "a global Python variable as a table": "FROM ESCAPES",
    "two queries": "FROM notes; FROM notes",
    "a query, then DROP": "SELECT 1; DROP TABLE notes",
    "EXPLAIN, then DROP": "EXPLAIN SELECT 1; DROP TABLE notes",
    "DROP after a comment": "SELECT 1 -- ;\n; DROP TABLE notes",
    "PIVOT with columns from values": "PIVOT notes ON category USING count(*)",
    "an empty query": "",
}


@pytest.fixture(scope="module")
def port():
    """A port of this machine to which no query may connect."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES)
def test_the_sandbox_refuses(store, folder, port, escape):
    a_python_variable = duckdb.sql("SELECT 1")
    before = contents(folder)
    error_message(store, escape.replace("PORT", str(port)))
    assert contents(folder) == before
    assert query_output(store, "SELECT count(*) AS n FROM notes") == [{"n": 300}]
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
        ("VALUES (1) -- a comment", [{"col0": 1}]),
        ("SELECT column_name FROM (DESCRIBE runs) LIMIT 1", [{"column_name": "run_id"}]),
        (
            "PIVOT notes ON status IN ('ready') USING count(*) GROUP BY reason",
            [{"reason": None, "ready": 300}],
        ),
    ],
)
def test_a_query_on_the_store_returns_rows(store, query, rows):
    assert query_output(store, query) == rows


def test_show_summarize_and_explain_are_allowed(store):
    assert {"name": "notes"} in query_output(store, "SHOW TABLES")
    assert query_output(store, "SUMMARIZE runs")[0]["column_name"] == "run_id"
    for query in (
        "EXPLAIN FROM notes",
        "explain analyze FROM notes",
        "EXPLAIN (FORMAT json) FROM notes",
    ):
        assert query_output(store, query, "table").startswith(("┌", "["))


# Error messages


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT category::INTEGER FROM notes", "a value of category cannot be converted"),
        ("SELECT hadm_id::UTINYINT FROM notes", "a value of hadm_id cannot be converted"),
        ("SELECT upper(category)::TIMESTAMP FROM notes", "a value cannot be converted"),
        ("SELECT category::JSON FROM notes", "a value of category cannot be converted"),
        ("FROM notes WHERE category = 7", "a value of category cannot be converted"),
        ("SELECT date_part(category, now()) FROM notes", "a value cannot be converted"),
        ("SUMMARIZE SELECT category::DATE FROM notes", "a value of category cannot be converted"),
        ("SELECT error(category) FROM notes", "a value is invalid"),
        ("SELECT regexp_matches('', category || '(') FROM notes", "a value is invalid"),
        ("SELECT json_extract('{}', '$.[' || category) FROM notes", "a value is invalid"),
        ("SELECT format('{' || category, 1) FROM notes", "a value is invalid"),
        ("SELECT (SELECT category FROM notes)", "a value is invalid"),
        ("SELECT 9223372036854775807 + hadm_id FROM notes", "a number is out of range"),
        (
            "SELECT json_deserialize_sql(json_object(category, 1)) FROM notes",
            "the query failed",
        ),
        ("SELECT now() AT TIME ZONE category FROM notes", "the query failed"),
        ("EXPLAIN ANALYZE SELECT category::INTEGER FROM notes", "a value of category cannot"),
    ],
)
def test_an_error_names_the_column_but_no_value(store, query, expected):
    message = error_message(store, query)
    assert message.startswith(expected)
    assert "9223372036854775807" not in message


def test_a_column_is_named_only_if_the_query_names_it(store):
    message = error_message(store, "SELECT CAST(COLUMNS('cat.*') AS INTEGER) FROM notes")
    assert message == "a value cannot be converted - TRY_CAST gives NULL instead"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELEC 1", 'syntax error at or near "SELEC" - '),
        ("FROM nots", "the store has no table or view nots - "),
        ("SELECT categry FROM notes", 'Referenced column "categry" not found'),
        ("SELECT nope(1)", "Scalar Function with name nope does not exist!"),
        (
            "DROP TABLE notes",
            "a query must be one SELECT, FROM, WITH, DESCRIBE, SHOW, SUMMARIZE or ",
        ),
        ("FROM read_csv('x')", "read_csv() is not allowed in a query - "),
    ],
)
def test_an_invalid_query_is_described_in_its_own_words(store, query, expected):
    assert error_message(store, query).startswith(expected)


def test_an_error_late_in_a_parquet_export_shows_no_value(store, tmp_path):
    query = (
        f"SELECT CASE WHEN range > 900_000 THEN '{CANARY}' || range ELSE '1' END::INTEGER "
        "FROM range(1_000_000)"
    )
    with (tmp_path / "x.parquet").open("wb") as stream, pytest.raises(FeatureStoreError) as error:
        run_query(store, query, stream, "parquet", limit=0)
    assert str(error.value) == "a value cannot be converted - TRY_CAST gives NULL instead"


# Output formats, limit and timeout


def test_json_output_is_valid_for_values_of_every_type(store):
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
            **{"m": True, "a_1": 1, "o": 'é"'},
        }
    ]
    assert query_output(store, "FROM notes WHERE FALSE") == []


def test_csv_output_holds_arrays_and_structs_as_json(store):
    query = "SELECT [1, 2]::FLOAT[2] AS v, {'a': ['x, \"y\"']} AS s, NULL AS n, 'two\nlines' AS t"
    rows = list(csv.reader(io.StringIO(query_output(store, query, "csv"), newline="")))
    assert rows == [["v", "s", "n", "t"], ["[1.0, 2.0]", '{"a": ["x, \\"y\\""]}', "", "two\nlines"]]


def test_a_table_is_aligned_and_cut_on_stdout_but_complete_in_a_file(store, tmp_path):
    query = (
        "FROM (VALUES (1, 'plain'), (10, NULL), (100, chr(27) || '[31m' || repeat('x', 50))) "
        "AS t(n, word)"
    )
    run(store.path, query, "-o", tmp_path / "words.txt")
    assert (tmp_path / "words.txt").read_text().splitlines()[-1] == "100   [31m" + "x" * 50
    assert run(store.path, query).stdout.splitlines() == [
        "  n  word",
        "---  ----------------------------------------",
        "  1  plain",
        " 10  NULL",
        "100   [31m" + "x" * 34 + "…",
    ]


def test_parquet_output_keeps_types(store, tmp_path):
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
    with (
        file.open("wb") as stream,
        pytest.raises(FeatureStoreError, match="that Parquet does not support"),
    ):
        run_query(store, "SELECT INTERVAL 1 DAY", stream, "parquet")


@pytest.mark.parametrize(
    ("limit", "shown", "more"), [(2, 2, True), (299, 299, True), (300, 300, False), (0, 300, False)]
)
def test_a_limit_truncates_the_result_and_reports_it(store, tmp_path, limit, shown, more):
    for kind in ("table", "csv", "tsv", "json", "jsonl"):
        stream = io.StringIO()
        assert run_query(store, "SELECT hadm_id FROM notes", stream, kind, limit) is more
        lines = stream.getvalue().splitlines()
        header = {"table": 2, "csv": 1, "tsv": 1, "json": 0, "jsonl": 0}[kind]
        assert shown == (stream.getvalue().count("{") if kind == "json" else len(lines) - header)
    for kind, read in (("parquet", pq.read_table), ("arrow", feather.read_table)):
        with (tmp_path / "x").open("wb") as stream:
            assert run_query(store, "SELECT hadm_id FROM notes", stream, kind, limit) is more
        assert read(tmp_path / "x").num_rows == shown


@pytest.mark.parametrize(
    "query",
    [
        "SELECT count(*) FROM range(10_000_000) a, range(10_000_000) b",
        "SUMMARIZE FROM range(10_000_000) a, range(10_000_000) b",
        "EXPLAIN ANALYZE SELECT count(*) FROM range(10_000_000) a, range(10_000_000) b",
        "SELECT sleep_ms(60_000)",
    ],
)
def test_a_long_query_is_cancelled_and_the_next_one_runs(store, query):
    started = time.monotonic()
    assert error_message(store, query, timeout=0.3) == (
        "the query was cancelled after 0.3 s - select less data, or raise --timeout"
    )
    assert time.monotonic() - started < 20
    assert query_output(store, "SELECT 1 AS n") == [{"n": 1}]


def test_a_long_parquet_export_is_cancelled(store, tmp_path):
    query = "FROM range(10_000_000) a, range(10_000_000) b"
    cancelled = pytest.raises(FeatureStoreError, match="the query was cancelled after")
    with (tmp_path / "x.parquet").open("wb") as stream, cancelled:
        run_query(store, query, stream, "parquet", limit=0, timeout=0.3)


# The catalog


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
        returns_value = entry["kind"] == "macro"
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


# The command line


def run(*arguments, code=0):
    result = CliRunner().invoke(main, ["sql", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def test_the_command_reports_a_truncated_result_on_stderr(store):
    result = run(store.path, "SELECT hadm_id FROM notes ORDER BY 1", "--limit", 1)
    assert result.stdout == "hadm_id\n-------\n      1\n"
    assert result.stderr == "only the first 1 rows are shown - --limit 0 shows all\n"
    result = run(store.path, "FROM range(10_001)", "--format", "csv")
    assert len(result.stdout.splitlines()) == 10_001
    assert result.stderr == "only the first 10,000 rows are shown - --limit 0 shows all\n"


@pytest.mark.parametrize(
    "name", ["x.csv", "x.tsv", "x.json", "x.jsonl", "x.parquet", "x.arrow", "x.txt"]
)
def test_an_output_file_is_private_complete_and_in_the_format_of_its_extension(
    store, tmp_path, name
):
    file = tmp_path / name
    file.write_text("an older file that everybody may read")
    file.chmod(0o666)
    result = run(store.path, "FROM range(10_001) AS r(n)", "-o", file)
    assert result.output == f"{file} is written\n"
    assert stat.filemode(file.stat().st_mode) == "-rw-------"
    with duckdb.connect() as con:
        if name == "x.txt":
            assert len(file.read_text().splitlines()) == 10_003
        elif name == "x.arrow":
            assert feather.read_table(file).column("n").to_pylist() == [*range(10_001)]
        else:
            assert con.sql(f"SELECT count(*), max(n) FROM '{file}'").fetchone() == (10_001, 10_000)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_failed_query_leaves_an_existing_file_unchanged(store, tmp_path):
    for extension in ("txt", "csv", "tsv", "json", "jsonl", "parquet", "arrow"):
        file = tmp_path / f"x.{extension}"
        file.write_text("older")
        result = run(store.path, "SELECT category::INTEGER FROM notes", "-o", file, code=1)
        assert result.stderr.startswith("Error: a value of category cannot be converted - ")
        assert [path.name for path in tmp_path.iterdir()] == [file.name]
        assert file.read_text() == "older"
        file.unlink()


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("x.xlsx", [], "x.xlsx cannot be written - name a .csv, .tsv, .json, .jsonl, .parquet, "),
        ("x", [], "x cannot be written - name a .csv"),
        ("x", ["--format", "csv"], "x cannot be written - name a .csv"),
        ("x.csv", ["--format", "json"], "x.csv is a file of the format csv, not json - "),
        ("x.txt", ["--format", "csv"], "x.txt is a file of the format table, not csv - "),
        ("no/x.csv", [], "x.csv cannot be written - name a .csv"),
    ],
)
def test_a_file_of_an_unknown_or_another_type_is_not_written(
    store, tmp_path, name, options, problem
):
    assert problem in run(store.path, "FROM notes", "-o", tmp_path / name, *options, code=1).stderr
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "name",
    [
        "ward.duckdb",
        "inner/../ward.duckdb",
        "ward.duckdb.lock",
        "ward.duckdb.seal",
        "ward.duckdb.staging/x.csv",
        "same.csv",
    ],
)
def test_the_output_never_replaces_a_file_of_the_store(store, folder, name):
    if name == "same.csv":  # another name of the store
        (folder / name).hardlink_to(store.path)
    before = contents(folder)
    result = run(store.path, "FROM notes", "-o", folder / name, code=1)
    assert "belongs to the store - name another file" in result.stderr
    assert contents(folder) == before
    (folder / "same.csv").unlink(missing_ok=True)


def test_a_symlink_in_place_of_the_partial_file_is_not_followed(store, tmp_path):
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


def test_a_folder_is_no_store(tmp_path):
    result = run(tmp_path, "FROM notes", code=1)
    assert result.stderr == f"Error: {tmp_path} is a folder, not a store - name the file in it\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["FROM notes", "--schema"],
        ["FROM notes", "--format", "parquet"],
        ["FROM notes", "--format", "arrow"],
        ["FROM notes", "--limit", "-1"],
        ["FROM notes", "--timeout", "0"],
    ],
)
def test_invalid_combinations_of_arguments_are_usage_errors(store, arguments):
    run(store.path, *arguments, code=2)


def test_the_timeout_option_limits_the_time_of_a_query(store):
    query = "SELECT count(*) FROM range(10_000_000) a, range(10_000_000) b"
    result = run(store.path, query, "--timeout", "0.5", code=1)
    assert result.stderr.startswith("Error: the query was cancelled after 0.5 s - ")
    assert len(result.stderr.splitlines()) == 1
