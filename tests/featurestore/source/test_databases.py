"""The same hospital read from CSV, CSV.gz, Parquet, a DuckDB file and PostgreSQL."""

import csv
import gzip
import shutil

import duckdb
import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from featurestore import Store, create_store, embed_pending, info, sync, write_hospital
from featurestore.cli import main
from featurestore.errors import SourceError
from featurestore.source.source import Source
from featurestore.source.urls import without_password
from tests.conftest import WordCounter
from tests.hospital import own_schema

CHARACTERS = " 38 ° für µ 漢 🙂"
TABLES = ("PATIENTS", "ADMISSIONS", "ICUSTAYS", "DIAGNOSES_ICD", "NOTEEVENTS")


def column_type(name):
    """Return the type that mimic-code's PostgreSQL build gives a column of MIMIC-III."""
    if name.endswith("TIME") or name in ("DOB", "DOD", "DOD_HOSP", "DOD_SSN", "CHARTDATE"):
        return "TIMESTAMP(0)"
    numbers = ("ROW_ID", "SUBJECT_ID", "HADM_ID", "CGID", "EXPIRE_FLAG", "HOSPITAL_EXPIRE_FLAG")
    return "INT" if name in numbers or name == "HAS_CHARTEVENTS_DATA" else "TEXT"


def columns_of(file):
    with file.open(newline="") as stream:
        return next(csv.reader(stream))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every note of the hospital ends with characters of one to four bytes in UTF-8."""
    folder = tmp_path_factory.mktemp("hospitals") / "csv"
    write_hospital(folder, patients=60)
    file = folder / "NOTEEVENTS.csv"
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "TEXT": row["TEXT"] and row["TEXT"] + CHARACTERS} for row in rows)
    return folder


@pytest.fixture(scope="module")
def csv_gz(folder):
    compressed = folder.parent / "csv-gz"
    compressed.mkdir()
    for file in folder.iterdir():
        (compressed / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    return compressed


def tables_of(folder):
    """Return the tables that a hospital has; the small ones of other tests lack some."""
    return [table for table in TABLES if (folder / f"{table}.csv").exists()]


def load_duckdb(con, folder):
    for table in tables_of(folder):
        file = folder / f"{table}.csv"
        typed = ", ".join(f"{name} {column_type(name)}" for name in columns_of(file))
        con.execute(f"CREATE TABLE {table} ({typed})".replace("(0)", ""))
        con.execute(f"COPY {table} FROM '{file}' (HEADER, QUOTE '\"', ESCAPE '\"')")


@pytest.fixture(scope="module")
def parquet(folder):
    parquet_folder = folder.parent / "parquet"
    parquet_folder.mkdir()
    with duckdb.connect() as con:
        load_duckdb(con, folder)
        for table in TABLES:
            con.execute(f"COPY {table} TO '{parquet_folder / table}.parquet'")
    return parquet_folder


@pytest.fixture(scope="module")
def duckdb_file(folder):
    """Write a DuckDB file like mimic-code's build, with the tables in the schema mimiciii."""
    file = folder.parent / "mimic.db"
    with duckdb.connect(file) as con:
        con.execute("CREATE SCHEMA mimiciii")
        con.execute("USE mimiciii")
        load_duckdb(con, folder)
    return file


@pytest.fixture(scope="module")
def postgres(folder, server):
    """Create tables like mimic-code's PostgreSQL build, in the schema mimiciii."""
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


RELATIONS = (
    *("admissions", "notes", "readmission_labels()", "training_set('counter-00000000')"),
    *("icu_stays", "diagnoses", "(FROM ed_visits WHERE hadm_id IS NOT NULL)"),
)


def all_rows(store, relations=(*RELATIONS, "clinicalbert_labels()")):
    embed_pending(store, WordCounter())
    return {
        relation: store.sql(f"FROM {relation} ORDER BY ALL").fetchall() for relation in relations
    }


def check_same_rows(folder, location, tmp_path):
    """Assert that a MIMIC-III source gives the rows of the CSV files in a folder, also twice."""
    rows = []
    for number, source in enumerate((folder, location)):
        store = create_store(tmp_path / f"{number}.duckdb", source, "mimic3")
        sync(store)
        rows.append(all_rows(store))
        again = sync(store)
        assert all(again[table]["changed"] == again[table]["new"] == 0 for table in again)
    from_csv, from_source = rows
    assert len(from_csv["training_set('counter-00000000')"]) > 20
    for relation in from_csv:
        assert from_source[relation] == from_csv[relation], relation


@pytest.fixture(scope="module")
def from_csv(folder):
    store = create_store(folder.parent / "csv.duckdb", folder, "mimic3")
    sync(store)
    return all_rows(store)


@pytest.mark.parametrize("kind", ["csv_gz", "parquet", "duckdb_file", "postgres"])
def test_every_format_gives_the_same_rows(kind, from_csv, tmp_path, request):
    store = create_store(tmp_path / "w.duckdb", request.getfixturevalue(kind), "mimic3")
    sync(store)
    rows = all_rows(store)
    assert len(rows["training_set('counter-00000000')"]) > 20
    for relation in rows:
        assert rows[relation] == from_csv[relation], relation
    again = sync(store)
    assert all(again[table]["changed"] == again[table]["new"] == 0 for table in again)
    assert embed_pending(store, WordCounter())["pending"] == 0


def test_postgres_returns_only_the_requested_texts(postgres):
    source = Source(postgres, "mimic3")
    requested = source.read("notes").column("note_id").to_pylist()[3]
    (((note_id, _),),) = list(source.texts([str(requested)]))
    assert note_id == str(requested)


def test_a_url_that_names_no_driver_is_accepted(postgres):
    assert Source(postgres.replace("+psycopg", ""), "mimic3").read("admissions").num_rows > 60


def test_null_and_empty_text_of_postgres_stay_different(postgres, tmp_path):
    own = own_schema(
        tmp_path / "own", "a.insurance", "NULL AS insurance, '' AS ethnicity", tables_in="mimiciii."
    )
    file = own / "admissions.sql"
    file.write_text(file.read_text().replace("a.ethnicity,", ""))
    rows = Source(postgres, own).read("admissions")
    assert set(rows["ethnicity"].to_pylist()) == {""}
    assert set(rows["insurance"].to_pylist()) == {None}


def test_colons_and_percent_signs_in_a_schema_are_not_parameters_of_postgres(postgres, tmp_path):
    odd = "    CASE WHEN category LIKE '%' THEN 'at :noon'::varchar END AS category"
    source = Source(
        postgres, own_schema(tmp_path / "own", "    category", odd, tables_in="mimiciii.")
    )
    source.check()
    index = source.read("notes")
    assert set(index["category"].to_pylist()) == {"at :noon"}
    assert len(list(source.texts(index["note_id"].to_pylist()[:1]))) == 1


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ("now() AS charttime", r"CHARTTIME of notes has a time zone \(timestamptz\)"),
        ("7 AS charttime", "CHARTTIME of notes is int4, and should be a time"),
    ],
)
def test_a_postgres_column_of_an_unsuitable_type_is_named(postgres, tmp_path, select, message):
    own = own_schema(tmp_path / "own", "    charttime", f"    {select}", tables_in="mimiciii.")
    with pytest.raises(SourceError, match=message):
        Source(postgres, own).check()


def test_a_postgres_session_is_read_only(postgres):
    engine = Source(postgres, "mimic3")._engine
    with engine.connect() as con, pytest.raises(sa.exc.InternalError, match="read-only"):
        con.execute(sa.text("DELETE FROM noteevents"))


def test_a_missing_table_or_column_of_postgres_is_named(postgres, tmp_path):
    message = 'relation "discharge" does not exist - .*schema mimic3: use --schema mimic3'
    with pytest.raises(SourceError, match=message):
        Source(postgres, "mimic4").read("notes")
    own = own_schema(tmp_path / "own", "a.insurance", "a.payer", tables_in="mimiciii.")
    with pytest.raises(
        SourceError, match=r"own: column a.payer does not exist - correct .*own/admissions.sql"
    ):
        Source(postgres, own).check()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://me:PW_CANARY@127.0.0.1:1/mimic",
        "postgresql+psycopg://me@127.0.0.1:1/mimic?password=PW_CANARY",
    ],
)
def test_a_password_is_read_from_the_environment_and_stored_nowhere(url, tmp_path, monkeypatch):
    assert without_password(url) == "postgresql+psycopg://me@127.0.0.1:1/mimic"
    arguments = ["init", str(tmp_path / "w.duckdb"), "--schema", "mimic3"]
    refused = CliRunner().invoke(main, [*arguments, "--source", url])
    assert refused.exit_code == 1
    assert "set FEATURESTORE_SOURCE to the complete URL and omit --source" in refused.output
    monkeypatch.setenv("FEATURESTORE_SOURCE", url)
    unreachable = CliRunner().invoke(main, arguments)
    assert unreachable.exit_code == 1
    assert "could not be reached or closed the connection" in unreachable.output
    assert "PW_CANARY" not in refused.output + unreachable.output
    assert Source("postgresql+psycopg://me@127.0.0.1:1/mimic", "mimic3")._engine.url == (
        sa.make_url(url)
    )


def test_a_store_records_the_url_without_the_password_and_can_still_sync(
    postgres, tmp_path, monkeypatch
):
    complete = postgres.replace("postgres:@", "postgres:PW_CANARY@")
    monkeypatch.setenv("FEATURESTORE_SOURCE", complete)
    result = CliRunner().invoke(main, ["init", str(tmp_path / "w.duckdb"), "--schema", "mimic3"])
    assert result.exit_code == 0, result.output
    store = Store(tmp_path / "w.duckdb")
    assert sync(store)["admissions"]["total"] > 60
    assert b"PW_CANARY" not in store.path.read_bytes()
    assert "PW_CANARY" not in str(info(store))


def test_a_lost_connection_keeps_the_notes_that_were_embedded(postgres, server, tmp_path):
    store = create_store(tmp_path / "w.duckdb", postgres, "mimic3")
    sync(store)

    class CutOff(WordCounter):
        """Ends every connection of the database after the first texts were encoded."""

        budget = 40  # texts of 20,000 letters at a time

        def run(self, batch):
            server.psql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = 'postgres'"
            )
            return super().run(batch)

    with pytest.raises(SourceError, match=r"closed the connection .* finished before is kept"):
        embed_pending(store, CutOff())
    again = embed_pending(store, WordCounter())
    assert again["resumed"] > 0
    assert again["resumed"] + again["embedded"] == again["pending"]


def test_an_unsupported_database_and_an_invalid_url_are_refused(tmp_path):
    with pytest.raises(SourceError, match=r"access is not supported - use sqlite, .* as Parquet"):
        Source("access://host/db", "mimic3")
    with pytest.raises(SourceError, match="is not a URL that SQLAlchemy can parse"):
        Source("://", "mimic3")
    with pytest.raises(SourceError, match=r"postgresql\+psycopg could not be opened \(Argument"):
        Source("postgresql://me:PW_CANARY@/db?host=a:1&host=b&port=2&port=3", "mimic3")


@pytest.mark.parametrize(
    "url",
    [
        "mysql://me:PW_CANARY@127.0.0.1:1/x?nosuch=1",
        "mysql://me:PW_CANARY@127.0.0.1:1/x?charset=nosuch",
        "mysql://me:PW_CANARY@127.0.0.1:1/x?ssl_ca=/nosuch",
        "mssql://me:PW_CANARY@127.0.0.1:1/x?Nosuch=1",
    ],
)
def test_a_parameter_that_a_driver_does_not_take_is_one_line(url):
    with pytest.raises(
        SourceError, match=r"could not be opened \(\w+\) - check the para"
    ) as refused:
        Source(url, "mimic3").check()
    assert "PW_CANARY" not in str(refused.value)


def test_a_file_that_is_not_a_duckdb_file_is_refused(folder, tmp_path):
    shutil.copy(folder / "PATIENTS.csv", tmp_path / "mimic.db")
    with pytest.raises(SourceError, match="cannot be opened as a DuckDB or SQLite file"):
        Source(tmp_path / "mimic.db", "mimic3").check()
