"""A hospital's data, read through SQLAlchemy and a schema's two SELECTs.

Note text is held in memory only, and no error quotes a value of the database.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import pyarrow as pa
import sqlalchemy as sa

from featurestore.errors import SourceError
from featurestore.source.database_errors import NotUtf8Error, source_error
from featurestore.source.engines import (
    column_types,
    escaped,
    folder_engine,
    open_engine,
    read_table,
)
from featurestore.source.schemas import (
    ADMISSION_COLUMNS,
    NOTE_COLUMNS,
    check_column_kind,
    load_schema,
)
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store

_BLANKS = " \t\r\n\f\v"
_TEXTS_PER_LIST = 256


class Source:
    """A hospital's database or files, seen through a schema.

    `location` is a folder of CSV, CSV.gz or Parquet files (MIMIC as it is downloaded, with its
    subfolders), a DuckDB file, or a SQLAlchemy URL. The password of a URL is used and not kept:
    the attribute `location`, which a store records, has none, and a store reads the complete URL
    from FEATURESTORE_SOURCE. `schema` is the name of a built-in schema, or a folder with
    `admissions.sql` and `notes.sql`. Raises SourceError where either cannot be opened.
    """

    def __init__(self, location: str | Path, schema: str | Path) -> None:
        self.schema = load_schema(schema)
        self.location, self._engine = open_engine(str(location), self.schema.name)
        self.not_utf8: str | None = None  # the first invalid line, once files are repaired

    def check(self) -> None:
        """Raise SourceError unless every table and canonical column exists and has a valid type.

        No row is read.
        """
        for table, select, columns in (
            ("admissions", self.schema.admissions, ADMISSION_COLUMNS),
            ("notes", self.schema.notes, NOTE_COLUMNS),
        ):
            with self._connect() as connection:
                for column, type_name in column_types(connection, select, columns):
                    check_column_kind(self.schema.name, table, column, type_name)

    def admissions(self) -> pa.Table:
        """Return all admissions with ADMISSION_COLUMNS, in the source's own types or as text."""
        columns = ", ".join(ADMISSION_COLUMNS)
        return self._read(
            "admissions", f"SELECT {columns} FROM ({self.schema.admissions}\n) AS admissions"
        )

    def note_index(self, since: date | None = None) -> pa.Table:
        """Return all notes without their text: its MD5 and length are computed by the database.

        With `since`, only the notes stored (else charted) on that day or later, and those without
        a time.
        """
        earliest = f"'{since}'" if since else "NULL"
        query = (
            f"WITH canonical_notes AS ({self.schema.notes}\n), params AS "
            f"(SELECT CAST({earliest} AS VARCHAR) AS since, '{_BLANKS}' AS blanks)\n"
            f"{read_sql('sync/note_index')}"
        )
        return self._read("notes", query, may_be_empty=since is not None)

    def texts(self, note_ids: Sequence[str]) -> Iterator[list[tuple[str, str]]]:
        """Yield lists of (note_id, text) with each of the given notes once, in a single pass."""
        query = (
            f"WITH canonical_notes AS ({escaped(self.schema.notes)}\n)\n"
            f"{read_sql('sync/note_texts')}"
        )
        remaining = set(note_ids)

        def read() -> Iterator[list[tuple[str, str]]]:
            with self._connect() as connection:
                streaming = connection.execution_options(stream_results=True)
                with streaming.execute(sa.text(query), {"note_ids": list(remaining)}) as result:
                    for rows in result.partitions(_TEXTS_PER_LIST):
                        new = {row.note_id: row.text for row in rows if row.note_id in remaining}
                        remaining.difference_update(new)
                        yield list(new.items())

        if remaining:
            try:
                yield from read()
            except NotUtf8Error as error:
                self._repair(error)
                yield from read()

    def _repair(self, error: NotUtf8Error) -> None:
        """From now on, read CSV files with a replacement character for each invalid byte."""
        self.not_utf8 = error.place
        self._engine = folder_engine(Path(self.location), repair=True)

    def _read(self, table: str, query: str, may_be_empty: bool = False) -> pa.Table:
        def read() -> pa.Table:
            with self._connect() as connection:
                return read_table(connection, query)

        try:
            rows = read()
        except NotUtf8Error as error:
            self._repair(error)
            rows = read()
        if not len(rows) and not may_be_empty:
            raise SourceError(
                f"{self.location} has no rows for the {table} of schema {self.schema.name} - check "
                "that the download is complete"
            )
        return rows.rename_columns([name.lower() for name in rows.column_names])

    @contextlib.contextmanager
    def _connect(self) -> Iterator[sa.Connection]:
        """Connect, and raise SourceError, which quotes no value, for every database error."""
        try:
            with self._engine.connect() as connection:
                yield connection
        except (sa.exc.SQLAlchemyError, self._engine.dialect.loaded_dbapi.Error) as error:
            repaired = self.not_utf8 is not None
            raise source_error(error, self.location, self.schema.name, repaired) from None


def create_store(
    path: str | Path,
    source: str | Path,
    schema: str | Path,
    live: bool = False,
    group: str | None = None,
    encrypt: bool = False,
) -> Store:
    """Create an empty store that reads from `source`, after checking its tables and columns.

    `source` and `schema` are those of `Source`. `live` declares a running hospital, whose outcomes
    are observed up to the newest sync, instead of a research extract. The file is private (0600),
    or readable by `group` (0640). `encrypt` encrypts it, and everything beside it, with the key in
    the environment. Raises FeatureStoreError.
    """
    Store.check_new(path, group, encrypt)
    hospital = Source(source, schema)
    hospital.check()
    return Store.create(path, hospital.location, hospital.schema.name, live, group, encrypt)


def open_source(store: Store) -> Source:
    """Return the source that a store reads from."""
    location, schema = store.one("SELECT source, schema_name FROM settings")
    return Source(location, schema)


def text_hash(text: str) -> str:
    """Return the MD5 of a text in hex, as databases compute it; it detects changed notes."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
