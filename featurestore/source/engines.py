"""SQLAlchemy engines over PostgreSQL, DuckDB files and folders, all of them read-only."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import sqlalchemy as sa

from featurestore.errors import SourceError
from featurestore.source.csv_folder import RepairedCsv, as_text, folder_tables
from featurestore.store.database import DUCKDB

# When a connection breaks, the pool logs an error that quotes values of the database.
logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)

# The database schemas in which mimic-code's builds create the tables.
_DATABASE_SCHEMAS = {"mimic3": ("mimiciii",), "mimic4": ("mimiciv_hosp", "mimiciv_note")}
# No spilling: note text must not reach the disk.
_DUCKDB_CONFIG = {**DUCKDB, "temp_directory": ""}


def open_engine(location: str, schema: str) -> tuple[str, sa.Engine]:
    """Return a location, as it may be stored and displayed, and an engine that reads from it.

    The password of a URL is removed from the location. If the URL has none, it comes from the same
    URL in FEATURESTORE_SOURCE. Raises SourceError where the location cannot be opened.
    """
    if "://" in location:
        public = without_password(location)
        complete = os.environ.get("FEATURESTORE_SOURCE", "")
        if location == public and "://" in complete and without_password(complete) == public:
            location = complete
        return public, _postgresql_engine(location, schema)
    path = Path(location)
    if path.is_dir():
        return str(path.resolve()), folder_engine(path)
    if path.is_file():
        return str(path.resolve()), _duckdb_engine(path, schema)
    raise SourceError(
        f"{location} is not a folder, DuckDB file or URL - give the location of the hospital's "
        "tables (for MIMIC, the downloaded folder)"
    )


def without_password(url: str) -> str:
    """Return a URL without its password; raise SourceError where it cannot be parsed."""
    try:
        parsed = sa.make_url(url)
        # Both are signs of a password that was parsed as something else: an @ in it splits the
        # URL there, and libpq reads a database name that contains = as parameters.
        if "@" in (parsed.host or "") or "=" in (parsed.database or ""):
            raise ValueError
    except (sa.exc.ArgumentError, ValueError):  # ValueError also for a port that is not a number
        raise SourceError(
            "the source is not a URL that SQLAlchemy can parse - write it as "
            "postgresql+psycopg://USER:PASSWORD@HOST/DATABASE, with %40 for an @ in the password"
        ) from None
    # sslpassword decrypts a client's key.
    query = {name: value for name, value in parsed.query.items() if "password" not in name}
    return sa.URL.create(
        parsed.drivername,
        parsed.username,
        host=parsed.host,
        port=parsed.port,
        database=parsed.database,
        query=query,
    ).render_as_string()


def folder_engine(folder: Path, repair: bool = False) -> sa.Engine:
    """Return an engine over an in-memory DuckDB with a view for each file of a folder.

    `repair` reads CSV files, more slowly, with a replacement character for each invalid byte.
    """
    tables = folder_tables(folder, repair)
    engine = sa.create_engine(
        "duckdb:///:memory:", hide_parameters=True, connect_args={"config": _DUCKDB_CONFIG}
    )

    @sa.event.listens_for(engine, "connect")
    def create_views(connection: Any, _record: Any) -> None:
        connection.execute("SET enable_progress_bar = false")
        for name, table in tables.items():
            if isinstance(table, RepairedCsv):
                connection.register(name, table)
            else:
                connection.execute(f'CREATE VIEW "{name}" AS SELECT * FROM {table}')

    return engine


def column_types(
    connection: sa.Connection, select: str, columns: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Yield columns of a SELECT with the names of their types, before any row is fetched.

    Omits those whose type is unknown: DuckDB gives the literal NULL the type INTEGER.
    """
    driver: Any = connection.connection.driver_connection
    query = f"SELECT {', '.join(columns)} FROM ({select}\n) AS selected LIMIT 0"
    with connection.execute(sa.text(escaped(query))) as result:
        for column, description in zip(columns, result.cursor.description, strict=True):
            if connection.dialect.name == "postgresql":
                yield column, driver.adapters.types[description[1]].name
                continue
            not_null = f"FROM ({select}\n) AS selected WHERE {column} IS NOT NULL LIMIT 1"
            if str(description[1]) != "INTEGER" or driver.execute(not_null).fetchall():
                yield column, str(description[1])


def read_table(connection: sa.Connection, query: str) -> pa.Table:
    """Run a query and return its rows, by the fastest method of each database.

    All columns of PostgreSQL are returned as text, those of DuckDB with their own types.
    """
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "postgresql":
        with driver.cursor().copy(f"COPY ({query}) TO STDOUT (FORMAT csv, HEADER)") as copy:
            return _parse_copy(b"".join(copy))
    # DuckDB creates a table on all cores, but returns an ordered result on one.
    driver.execute(f"CREATE OR REPLACE TEMP TABLE query_result AS {query}")
    table = driver.execute("FROM query_result").to_arrow_table()
    driver.execute("DROP TABLE query_result")
    return table


def escaped(query: str) -> str:
    """Return a query in which SQLAlchemy finds no parameters."""
    return query.replace(":", "\\:")


def _postgresql_engine(url: str, schema: str) -> sa.Engine:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "postgresql":
        raise SourceError(
            f"{parsed.drivername} is not supported - use PostgreSQL or a DuckDB file, or write the "
            "tables of another database as Parquet or CSV to a folder, and use that"
        )
    options = {
        "search_path": ",".join(['"$user"', *_DATABASE_SCHEMAS.get(schema, ()), "public"]),
        "default_transaction_read_only": "on",
        "datestyle": "ISO",
        "parallel_tuple_cost": "0",  # otherwise only one process would hash the texts
    }
    arguments = {"options": " ".join(f"-c{name}={value}" for name, value in options.items())}
    try:
        return sa.create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            hide_parameters=True,
            poolclass=sa.NullPool,
            connect_args={} if "options" in parsed.query else arguments,
        )
    except ImportError:
        raise SourceError(
            'the PostgreSQL driver is not installed - pip install "clinical-featurestore[postgres]"'
        ) from None


def _duckdb_engine(file: Path, schema: str) -> sa.Engine:
    engine = sa.create_engine(
        sa.URL.create("duckdb", database=str(file.resolve())),
        hide_parameters=True,
        poolclass=sa.NullPool,
        connect_args={"read_only": True, "config": _DUCKDB_CONFIG},
    )

    @sa.event.listens_for(engine, "connect")
    def set_search_path(connection: Any, _record: Any) -> None:
        connection.execute("SET enable_progress_bar = false")
        schemas = connection.execute("SELECT schema_name FROM duckdb_schemas()").fetchall()
        path = [name for name in (*_DATABASE_SCHEMAS.get(schema, ()), "main") if (name,) in schemas]
        connection.execute(f"SET search_path = '{','.join(path)}'")

    return engine


def _parse_copy(csv_bytes: bytes) -> pa.Table:
    """Parse PostgreSQL's CSV, in which empty texts are quoted and NULLs are not."""
    names = csv_bytes[: csv_bytes.index(b"\n")].decode().split(",")
    return pa_csv.read_csv(
        pa.BufferReader(csv_bytes),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True),
        convert_options=as_text(names, quoted_null=False),
    )
