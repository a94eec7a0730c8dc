"""SQLAlchemy engines over databases and folders, read-only where the database can enforce it."""

import logging
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from featurestore.errors import SourceError
from featurestore.source.attachments import create_functions
from featurestore.source.file_folder import RepairedCsv, folder_tables
from featurestore.source.note_texts import utf8_or_bytes
from featurestore.source.urls import DRIVERS, parse_url, public_location, with_secrets
from featurestore.store.database import DUCKDB
from featurestore.store.sql_files import read_sql

# When a connection breaks, the pool logs an error that quotes values of the database.
logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)

# The database schemas in which mimic-code's builds create the tables.
_DATABASE_SCHEMAS = {
    "mimic3": ("mimiciii",),
    "mimic4": ("mimiciv_hosp", "mimiciv_note", "mimiciv_icu", "mimiciv_ed"),
}
# No spilling: note text must not reach the disk.
_DUCKDB_CONFIG = {**DUCKDB, "temp_directory": ""}
_SQLITE_HEADER = b"SQLite format 3\0"
# A server must not end a session that waits while the model works.
_SESSION = {
    "mysql": (
        "SET SESSION TRANSACTION READ ONLY",
        "SET SESSION net_write_timeout = 86400, wait_timeout = 86400",
    ),
}
_SESSION["mariadb"] = _SESSION["mysql"]


def open_engine(location: str, schema: str) -> tuple[str, sa.Engine]:
    """Return a location, as it may be stored and displayed, and an engine that reads from it.

    Secrets of a URL are removed from the location. If the URL has none, they come from the same
    URL in FEATURESTORE_SOURCE. Raises SourceError where the location cannot be opened.
    """
    complete = with_secrets(location)
    public = public_location(location)
    if "://" in location:
        url = parse_url(complete)
        if url.get_backend_name() == "sqlite":
            return public, _sqlite_engine(url.database)
        if url.get_backend_name() == "postgresql":
            return public, _postgresql_engine(url, schema)
        return public, _server_engine(url)
    path = Path(location)
    if path.is_dir():
        return public, folder_engine(path)
    if not path.is_file():
        raise SourceError(
            f"{location} is not a folder, database file or URL - give the location of the "
            "hospital's tables (for MIMIC, the downloaded folder)"
        )
    with path.open("rb") as stream:
        is_sqlite = stream.read(len(_SQLITE_HEADER)) == _SQLITE_HEADER
    return public, _sqlite_engine(public) if is_sqlite else _duckdb_engine(path, schema)


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
        _set_up_duckdb(connection)
        for name, table in tables.items():
            if isinstance(table, RepairedCsv):
                connection.register(name, table)
            else:
                connection.execute(f'CREATE VIEW "{name}" AS SELECT * FROM {table}')

    return engine


def _duckdb_engine(file: Path, schema: str) -> sa.Engine:
    engine = sa.create_engine(
        sa.URL.create("duckdb", database=str(file.resolve())),
        hide_parameters=True,
        poolclass=sa.NullPool,
        connect_args={"read_only": True, "config": _DUCKDB_CONFIG},
    )

    @sa.event.listens_for(engine, "connect")
    def set_search_path(connection: Any, _record: Any) -> None:
        _set_up_duckdb(connection)
        schemas = connection.execute("SELECT schema_name FROM duckdb_schemas()").fetchall()
        path = [name for name in (*_DATABASE_SCHEMAS.get(schema, ()), "main") if (name,) in schemas]
        connection.execute(f"SET search_path = '{','.join(path)}'")

    return engine


def _set_up_duckdb(connection: Any) -> None:
    connection.execute("SET enable_progress_bar = false")
    connection.execute(read_sql("source/convert_to"))
    create_functions(connection)


def _postgresql_engine(url: sa.URL, schema: str) -> sa.Engine:
    settings = {
        "search_path": ",".join(['"$user"', *_DATABASE_SCHEMAS.get(schema, ()), "public"]),
        "datestyle": "ISO",
        "parallel_tuple_cost": "0",  # otherwise only one process would hash the texts
        "idle_in_transaction_session_timeout": "0",
    }
    options = [f"-c{name}={value}" for name, value in settings.items()]
    # Of two values the last one counts: the URL's own options are kept, but not a writable session.
    own = url.query.get("options", ())
    options += [own] if isinstance(own, str) else own
    options.append("-cdefault_transaction_read_only=on")
    engine = _server_engine(
        url.difference_update_query(["options"]), options=" ".join(options), client_encoding="utf8"
    )

    @sa.event.listens_for(engine, "connect")
    def begin_read_only(connection: Any, _record: Any) -> None:
        """Begin every transaction as READ ONLY: a backslash in the URL's options hides the last."""
        connection.read_only = True

    @sa.event.listens_for(engine, "connect")
    def keep_invalid_bytes(connection: Any, _record: Any) -> None:
        """Return a text of a SQL_ASCII database, which holds any bytes, as bytes if not UTF-8."""
        if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
            from featurestore.source.sql_ascii import Utf8OrBytes

            # As UTF-8 the server would refuse to send other bytes.
            connection.execute("SET client_encoding = 'SQL_ASCII'")
            connection.commit()
            for type_name in ("text", "varchar", "bpchar", "name"):
                connection.adapters.register_loader(type_name, Utf8OrBytes)

    return engine


def _server_engine(url: sa.URL, **arguments: Any) -> sa.Engine:
    backend = url.get_backend_name()
    try:
        engine = sa.create_engine(
            url, hide_parameters=True, poolclass=sa.NullPool, connect_args=arguments
        )
    except (ImportError, sa.exc.NoSuchModuleError):
        raise SourceError(
            f"the driver of {url.drivername} is not installed - pip install "
            f'"clinical-featurestore[{DRIVERS[backend][1]}]"'
        ) from None
    except Exception as error:  # some clients look for credentials here, and fail in their own way
        raise SourceError(
            f"the source {url.drivername} could not be opened ({type(error).__name__}) - check the "
            "parameters of its URL and its credentials"
        ) from None

    @sa.event.listens_for(engine, "connect")
    def set_up_session(connection: Any, _record: Any) -> None:
        for statement in _SESSION.get(backend, ()):
            with connection.cursor() as cursor:
                cursor.execute(statement)

    if backend == "oracle":

        @sa.event.listens_for(engine, "begin")
        def begin_read_only(connection: sa.Connection) -> None:
            connection.exec_driver_sql("SET TRANSACTION READ ONLY")

    return engine


def _sqlite_engine(file: str | None) -> sa.Engine:
    """Return a read-only engine, in which a text that is not UTF-8 stays bytes."""
    if not file or not Path(file).is_file():
        raise SourceError(
            f"{file or 'the SQLite file of the URL'} does not exist - write the URL as "
            "sqlite:///FILE, or sqlite:////FOLDER/FILE for an absolute path"
        )

    def connect() -> sqlite3.Connection:
        # A reader in another thread uses the connection.
        connection = sqlite3.connect(
            f"file:{quote(file)}?mode=ro", uri=True, check_same_thread=False
        )
        connection.text_factory = utf8_or_bytes
        connection.execute("PRAGMA query_only = ON")
        return connection

    return sa.create_engine(
        "sqlite://", creator=connect, poolclass=sa.NullPool, hide_parameters=True
    )
