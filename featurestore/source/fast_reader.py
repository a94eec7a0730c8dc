"""Read DuckDB and PostgreSQL, which hash the texts themselves, by their fastest ways."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.csv as pa_csv
import sqlalchemy as sa

from featurestore.source.file_folder import as_text
from featurestore.source.note_texts import BLANKS, TEXTS_PER_LIST
from featurestore.source.schemas import TEXT_IDS, CanonicalTable, check_column_kind, escaped
from featurestore.store.sql_files import read_sql

_CSV_BLOCK = 16 * 1024 * 1024  # bytes of PostgreSQL's CSV that are parsed at once
_ROWS_AT_ONCE = 100_000  # of DuckDB's results


def check_kinds(connection: sa.Connection, schema: str, table: CanonicalTable) -> None:
    """Raise SourceError where the database's type of a column does not fit; read no row.

    Omits columns whose type is unknown: DuckDB gives the literal NULL the type INTEGER.
    """
    driver: Any = connection.connection.driver_connection
    query = f"SELECT {', '.join(table.columns)} FROM ({table.select}\n) AS selected LIMIT 0"
    with connection.execute(sa.text(escaped(query))) as result:
        for column, description in zip(table.columns, result.cursor.description, strict=True):
            if connection.dialect.name == "postgresql":
                type_name = _postgresql_type(driver, description[1])
            else:
                type_name = str(description[1])
                not_null = f"FROM ({table.select}\n) AS t WHERE {column} IS NOT NULL LIMIT 1"
                if type_name == "INTEGER" and not driver.execute(not_null).fetchall():
                    continue
            check_column_kind(schema, table.name, column, type_name)


def _postgresql_type(driver: Any, oid: Any) -> str:
    if known := driver.adapters.types.get(oid):
        return str(known.name)
    # A type of an extension, such as citext, or of the hospital's own.
    row = driver.execute("SELECT typname, typtype FROM pg_type WHERE oid = %s", [oid]).fetchone()
    return "enum" if row[1] == "e" else str(row[0])


def read_rows(connection: sa.Connection, table: CanonicalTable) -> Iterator[pa.RecordBatch]:
    """Yield all rows: from PostgreSQL as text, from DuckDB in its own types."""
    columns = ", ".join(table.columns)
    return _read(connection, f"SELECT {columns} FROM ({table.select}\n) AS {table.name}")


def read_index(
    connection: sa.Connection, notes: CanonicalTable, since: date | None
) -> Iterator[pa.RecordBatch]:
    """Yield all notes without their text: its MD5 and length are computed by the database.

    With `since`, only the notes dated on that day or later, and those without a time.
    """
    number_of = {text: number for number, text in TEXT_IDS.items()}
    columns = ", ".join(
        f"{column} AS {number_of[column]}" if column in number_of else column
        for column in notes.columns
    )
    earliest = f"'{since}'" if since else "NULL"
    query = (
        f"WITH canonical_notes AS (SELECT {columns} FROM ({notes.select}\n) AS notes), params AS "
        f"(SELECT CAST({earliest} AS VARCHAR) AS since, '{BLANKS}' AS blanks)\n"
        f"{read_sql('source/note_index')}"
    )
    for batch in _read(connection, query):
        names = batch.schema.names
        yield batch.rename_columns(
            [TEXT_IDS[name] if TEXT_IDS.get(name) in notes.columns else name for name in names]
        )


def read_texts(
    connection: sa.Connection, notes: CanonicalTable, note_ids: Sequence[str]
) -> Iterator[list[tuple[str, str]]]:
    """Yield lists of (note_id, text) of the given notes, in a single pass."""
    query = f"WITH canonical_notes AS ({escaped(notes.select)}\n)\n{read_sql('source/note_texts')}"
    streaming = connection.execution_options(stream_results=True)
    with streaming.execute(sa.text(query), {"note_ids": list(note_ids)}) as result:
        for rows in result.partitions(TEXTS_PER_LIST):
            yield [(row.note_id, row.text) for row in rows]


def _read(connection: sa.Connection, query: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a result in any order, after a batch without rows."""
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "postgresql":
        with driver.cursor().copy(f"COPY ({query}) TO STDOUT (FORMAT csv, HEADER)") as copy:
            yield from _parse_copy(_CopyStream(copy))
        return
    # In the order of the file, a result would be made on one core.
    driver.execute("SET preserve_insertion_order = false")
    try:
        reader = driver.execute(query).to_arrow_reader(_ROWS_AT_ONCE)
        yield pa.RecordBatch.from_pylist([], reader.schema)
        yield from reader
    except (pa.ArrowException, OSError) as error:
        # What fails in the middle of a result comes through Arrow, with DuckDB's message.
        kind = duckdb.FatalException if "INTERNAL" in str(error) else duckdb.Error
        raise kind(str(error)) from None
    finally:
        with contextlib.suppress(duckdb.TransactionException):  # of a statement that failed
            driver.execute("SET preserve_insertion_order = true")


class _CopyStream(io.RawIOBase):
    """The bytes of a COPY, as a stream."""

    def __init__(self, copy: Any) -> None:
        self._rows = iter(copy)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """Return True: this is a stream to read from."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer with the next bytes."""
        n_filled = 0
        while n_filled < len(buffer):
            if not self._rest:
                self._rest = memoryview(next(self._rows, b""))
                if not self._rest:
                    break
            part = self._rest[: len(buffer) - n_filled]
            buffer[n_filled : n_filled + len(part)] = part
            self._rest = self._rest[len(part) :]
            n_filled += len(part)
        return n_filled


def _parse_copy(stream: io.RawIOBase) -> Iterator[pa.RecordBatch]:
    """Parse PostgreSQL's CSV, in which empty texts are quoted and NULLs are not."""
    buffered = io.BufferedReader(stream, _CSV_BLOCK)
    names = buffered.readline().decode().strip().split(",")
    yield pa.RecordBatch.from_pylist([], pa.schema([(name, pa.string()) for name in names]))
    if not buffered.peek(1):
        return
    with pa_csv.open_csv(
        buffered,
        read_options=pa_csv.ReadOptions(column_names=names, block_size=_CSV_BLOCK),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True),
        convert_options=as_text(names, quoted_null=False),
    ) as reader:
        yield from reader
