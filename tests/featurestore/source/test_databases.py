"""One hospital, five ways: CSV, CSV.gz, Parquet, a DuckDB file and a real PostgreSQL."""

import csv
import gzip
import shutil

import duckdb
import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from featurestore import Store, create_store, embed_pending, info, sync, write_hospital
from featurestore.cli.group import main
from featurestore.errors import SourceError
from featurestore.source.engines import without_password
from featurestore.source.source import Source
from tests.conftest import WordCounter
from tests.hospital import own_schema

TABLES = ("PATIENTS", "ADMISSIONS", "NOTEEVENTS")


def column_type(name):
    """As mimic-code's PostgreSQL build declares MIMIC-III's columns."""
    if name.endswith("TIME") or name in ("DOB", "DOD", "DOD_HOSP", "DOD_SSN", "CHARTDATE"):
        return "TIMESTAMP(0)"
    numbers = ("ROW_ID", "SUBJECT_ID", "HADM_ID", "CGID", "EXPIRE_FLAG", "HOSPITAL_EXPIRE_FLAG")
    return "INT" if name in numbers or name == "HAS_CHARTEVENTS_DATA" else "TEXT"


def columns_of(file):
    with file.open(newline="") as stream:
        return next(csv.reader(stream))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hospitals") / "csv"
    write_hospital(folder, patients=60)
    return folder


@pytest.fixture(scope="module")
def csv_gz(folder):
    there = folder.parent / "csv-gz"
    there.mkdir()
    for file in folder.iterdir():
        (there / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    return there


def load_duckdb(con, folder):
    for table in TABLES:
        file = folder / f"{table}.csv"
        typed = ", ".join(f"{name} {column_type(name)}" for name in columns_of(file))
        con.execute(f"CREATE TABLE {table} ({typed})".replace("(0)", ""))
        con.execute(f"COPY {table} FROM '{file}' (HEADER, QUOTE '\"', ESCAPE '\"')")


@pytest.fixture(scope="module")
def parquet(folder):
    there = folder.parent / "parquet"
    there.mkdir()
    with duckdb.connect() as con:
        load_duckdb(con, folder)
        for table in TABLES:
            con.execute(f"COPY {table} TO '{there / table}.parquet'")
    return there


@pytest.fixture(scope="module")
def duckdb_file(folder):
    """As mimic-code's DuckDB build leaves it: in a schema of its own."""
    file = folder.parent / "mimic.db"
    with duckdb.connect(file) as con:
        con.execute("CREATE SCHEMA mimiciii")
        con.execute("USE mimiciii")
        load_duckdb(con, folder)
    return file


@pytest.fixture(scope="module")
def postgres(folder, server):
    """As mimic-code's PostgreSQL build leaves it: in the schema mimiciii."""
    import psycopg

    with psycopg.connect(server.get_uri()) as con:
        con.execute("CREATE SCHEMA mimiciii")
        for table in TABLES:
            file = folder / f"{table}.csv"
            typed = ", ".join(f"{name} {column_type(name)}" for name in columns_of(file))
            con.execute(f"CREATE TABLE mimiciii.{table} ({typed})")
            with con.cursor().copy(
                f"COPY mimiciii.{table} FROM STDIN (FORMAT csv, HEADER)"
            ) as copy:
                copy.write(file.read_bytes())
    return server.get_uri().replace("postgresql://", "postgresql+psycopg://")


def everything(store):
    embed_pending(store, WordCounter())
    return {
        what: store.sql(f"FROM {what} ORDER BY ALL").fetchall()
        for what in (
            "admissions",
            "notes",
            "readmission_labels()",
            "clinicalbert_labels()",
            "training_set('counter-00000000')",
        )
    }


@pytest.fixture(scope="module")
def from_csv(folder):
    store = create_store(folder.parent / "csv.duckdb", folder, "mimic3")
    sync(store)
    return everything(store)


@pytest.mark.parametrize("kind", ["csv_gz", "parquet", "duckdb_file", "postgres"])
def test_the_same_hospital_gives_the_same_rows(kind, from_csv, tmp_path, request):
    store = create_store(tmp_path / "w.duckdb", request.getfixturevalue(kind), "mimic3")
    sync(store)
    found = everything(store)
    assert len(found["training_set('counter-00000000')"]) > 20
    for what, rows in found.items():
        assert rows == from_csv[what], what
    again = sync(store)
    assert all(again[table]["changed"] == again[table]["new"] == 0 for table in again)


def test_a_text_asked_of_postgres_is_the_only_one_that_comes(postgres):
    source = Source(postgres, "mimic3")
    wanted = source.note_index().column("note_id").to_pylist()[3]
    ((answer,),) = list(source.texts([str(wanted)]))
    assert answer[0] == str(wanted)


def test_a_plain_postgresql_url_will_do(postgres):
    assert Source(postgres.replace("+psycopg", ""), "mimic3").admissions().num_rows > 60


def test_no_value_and_an_empty_one_are_told_apart(postgres, tmp_path):
    own = own_schema(
        tmp_path / "own", "a.insurance", "NULL AS insurance, '' AS ethnicity", tables_in="mimiciii."
    )
    file = own / "admissions.sql"
    file.write_text(file.read_text().replace("a.ethnicity,", ""))
    rows = Source(postgres, own).admissions()
    assert set(rows["ethnicity"].to_pylist()) == {""}
    assert set(rows["insurance"].to_pylist()) == {None}


def test_colons_and_percent_signs_in_a_schema_are_its_own(postgres, tmp_path):
    odd = "    CASE WHEN category LIKE '%' THEN 'at :noon'::varchar END AS category"
    source = Source(
        postgres, own_schema(tmp_path / "own", "    category", odd, tables_in="mimiciii.")
    )
    source.check()
    index = source.note_index()
    assert set(index["category"].to_pylist()) == {"at :noon"}
    assert len(list(source.texts(index["note_id"].to_pylist()[:1]))) == 1


@pytest.mark.parametrize(
    ("select", "said"),
    [
        ("now() AS charttime", r"CHARTTIME of notes has a time zone \(timestamptz\)"),
        ("7 AS charttime", "CHARTTIME of notes is int4, and should be a time"),
    ],
)
def test_a_column_of_postgres_of_another_kind_is_named(postgres, tmp_path, select, said):
    own = own_schema(tmp_path / "own", "    charttime", f"    {select}", tables_in="mimiciii.")
    with pytest.raises(SourceError, match=said):
        Source(postgres, own).check()


def test_nothing_is_written_to_a_database(postgres):
    engine = Source(postgres, "mimic3")._engine
    with engine.connect() as con, pytest.raises(sa.exc.InternalError, match="read-only"):
        con.execute(sa.text("DELETE FROM noteevents"))


def test_a_missing_table_and_column_of_postgres_are_named(postgres, tmp_path):
    with pytest.raises(SourceError, match="has no table DISCHARGE - give the database"):
        Source(postgres, "mimic4").note_index()
    own = own_schema(tmp_path / "own", "a.insurance", "a.payer", tables_in="mimiciii.")
    with pytest.raises(SourceError, match=r"has no column PAYER, which schema .*own reads"):
        Source(postgres, own).check()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://me:PW_CANARY@127.0.0.1:1/mimic",
        "postgresql+psycopg://me@127.0.0.1:1/mimic?password=PW_CANARY",
    ],
)
def test_a_password_is_used_from_the_environment_and_kept_nowhere(url, tmp_path, monkeypatch):
    assert without_password(url) == "postgresql+psycopg://me@127.0.0.1:1/mimic"
    arguments = ["init", str(tmp_path / "w.duckdb"), "--schema", "mimic3"]
    refused = CliRunner().invoke(main, [*arguments, "--source", url])
    assert refused.exit_code == 1
    assert "put the URL into the environment as FEATURESTORE_SOURCE" in refused.output
    monkeypatch.setenv("FEATURESTORE_SOURCE", url)
    unreachable = CliRunner().invoke(main, arguments)
    assert unreachable.exit_code == 1
    assert "could not be reached or closed the connection" in unreachable.output
    assert "PW_CANARY" not in refused.output + unreachable.output
    assert Source("postgresql+psycopg://me@127.0.0.1:1/mimic", "mimic3")._engine.url == (
        sa.make_url(url)
    )


def test_a_stored_url_has_no_password_and_reads_all_the_same(postgres, tmp_path, monkeypatch):
    whole = postgres.replace("postgres:@", "postgres:PW_CANARY@")
    monkeypatch.setenv("FEATURESTORE_SOURCE", whole)
    result = CliRunner().invoke(main, ["init", str(tmp_path / "w.duckdb"), "--schema", "mimic3"])
    assert result.exit_code == 0, result.output
    store = Store(tmp_path / "w.duckdb")
    assert sync(store)["admissions"]["total"] > 60
    assert b"PW_CANARY" not in store.path.read_bytes()
    assert "PW_CANARY" not in str(info(store))


def test_a_database_that_goes_away_in_the_middle_keeps_what_is_done(postgres, server, tmp_path):
    store = create_store(tmp_path / "w.duckdb", postgres, "mimic3")
    sync(store)

    class CutOff(WordCounter):
        """The database ends every connection after the first texts were encoded."""

        budget = 40  # texts of 20,000 letters at a time

        def run(self, batch):
            server.psql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = 'postgres'"
            )
            return super().run(batch)

    with pytest.raises(SourceError, match=r"closed the connection .* finished work is kept"):
        embed_pending(store, CutOff())
    again = embed_pending(store, WordCounter())
    assert again["resumed"] > 0
    assert again["resumed"] + again["embedded"] == again["pending"]


def test_another_database_is_read_from_its_files(tmp_path):
    with pytest.raises(SourceError, match=r"mssql is not supported - .* as Parquet"):
        Source("mssql://host/db", "mimic3")
    with pytest.raises(SourceError, match="is not a URL that SQLAlchemy can parse"):
        Source("://", "mimic3")


def test_a_file_that_is_no_duckdb_file(folder, tmp_path):
    shutil.copy(folder / "PATIENTS.csv", tmp_path / "mimic.db")
    with pytest.raises(SourceError, match="could not be re"):
        Source(tmp_path / "mimic.db", "mimic3").check()
