"""The database in which a source is compared with a store, with little memory."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime
from functools import partial
from typing import Any

import duckdb
import pyarrow as pa

from featurestore.errors import SourceError
from featurestore.source.schemas import COLUMNS
from featurestore.source.source import Source
from featurestore.store.database import attach, open_duckdb
from featurestore.store.files import private_folder
from featurestore.store.forget import forgotten_test
from featurestore.store.schema import KEYS, OPTIONAL_TABLES
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store

REQUIRED_TABLES = ("admissions", "notes")
TABLES = (*REQUIRED_TABLES, *OPTIONAL_TABLES)
_MACROS = (
    *("source/implausible_date", "source/unreadable_date", "source/birth_date", "source/flag"),
    "macros/available_at",
)

_MEMORY, _MEMORY_OF_RESULT = "300MB", "100MB"  # the rest is spilled
_ROWS_AT_ONCE, _PATIENTS_AT_ONCE = 50_000, 10_000


class TableStream:
    """A table of a DuckDB database as an Arrow stream, which can be read more than once.

    Another connection can register it, and `pa.table` reads it into memory.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, table: str) -> None:
        self._con, self._table = con, table
        self._cursors: list[duckdb.DuckDBPyConnection] = []  # of streams that may be open

    def __len__(self) -> int:
        return n_rows(self._con, self._table)

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        self._cursors.append(cursor := self._con.cursor())
        reader = cursor.execute(f"FROM {self._table}").to_arrow_reader(_ROWS_AT_ONCE)
        return reader.__arrow_c_stream__(requested_schema)


@contextlib.contextmanager
def open_comparison(store: Store) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a database in memory that spills to a private folder, with the store attached.

    What it spills is encrypted if the store is. Another job must not run in the meantime.
    """
    spill = store.staging / "sync"
    private_folder(store.staging)
    shutil.rmtree(spill, ignore_errors=True)  # of a job that was killed
    private_folder(spill)
    try:
        with contextlib.closing(open_duckdb(spill)) as con:
            con.execute(f"SET memory_limit = '{_MEMORY}'")
            # Each further thread would need a share of the memory.
            con.execute(f"SET threads = {min(os.cpu_count() or 1, 4)}")
            con.execute("SET preserve_insertion_order = false")
            # Joins hold the side that is written on the right, which is the smaller one: DuckDB
            # would guess from the size of views, and hold all notes.
            con.execute("SET disabled_optimizers = 'build_side_probe_side'")
            attach(con, store.path, "store")
            yield con
    finally:
        shutil.rmtree(spill, ignore_errors=True)
        with contextlib.suppress(OSError):
            store.staging.rmdir()  # It stays if there are shards in it.


def load_source(
    con: duckdb.DuckDBPyConnection, source: Source, since: date | None
) -> dict[str, int]:
    """Create the table read_NAME of each table of the source; return their numbers of rows.

    Tables that the hospital does not have are without rows, and are not among the numbers.
    """
    n_read = {}
    for table in TABLES:
        load = partial(_load_batches, con, f"read_{table}")
        rows = source.read(table, load, since if table == "notes" else None)
        if rows is None:
            columns = ", ".join(f"{column} VARCHAR" for column in COLUMNS[table])
            con.execute(f"CREATE TABLE read_{table} ({columns})")
        else:
            n_read[table] = rows
    return n_read


def _load_batches(
    con: duckdb.DuckDBPyConnection, table: str, batches: Iterator[pa.RecordBatch]
) -> int:
    """Create a table of the rows of a stream, or replace it; return how many there are.

    The first batch, which may have no rows, tells the columns.
    """
    con.execute(f"DROP TABLE IF EXISTS {table}")
    collected = [next(batches)]
    _insert(con, f"CREATE TABLE {table} AS", collected)
    collected = []
    for batch in batches:
        collected.append(batch)
        if sum(map(len, collected)) >= _ROWS_AT_ONCE:
            _insert(con, f"INSERT INTO {table}", collected)
            collected = []
    if collected:
        _insert(con, f"INSERT INTO {table}", collected)
    return n_rows(con, table)


def _insert(
    con: duckdb.DuckDBPyConnection, statement: str, batches: Sequence[pa.RecordBatch]
) -> None:
    con.register("batches", pa.Table.from_batches(batches))
    con.execute(f"{statement} FROM batches")
    con.unregister("batches")


def compare(
    con: duckdb.DuckDBPyConnection, store: Store, since: date | None
) -> dict[str, int] | None:
    """Create the tables incoming_NAME, changed_NAME and deleted_NAME of each table.

    Returns how many rows are excluded because they belong to forgotten patients; None where the
    store has forgotten nobody.
    """
    for name in ("stable_id", "with_number_ids"):
        con.execute(read_sql(f"sync/{name}"))
    for table in TABLES:
        con.execute(f"CREATE VIEW all_{table} AS FROM with_number_ids('read_{table}')")
    is_forgotten = forgotten_test(store)
    _find_forgotten_patients(con, is_forgotten)
    for name in ("forgotten_admissions", "source_admissions", "source_notes"):
        con.execute(read_sql(f"sync/{name}"))
    for name in _MACROS:
        con.execute(read_sql(name))
    _check(con)
    con.execute(read_sql("sync/incoming_admissions"))
    con.execute(read_sql("sync/incoming_notes"), {"partial": since is not None})
    for table in OPTIONAL_TABLES:
        con.execute(read_sql(f"sync/optional/incoming_{table}"))
    for table in TABLES:
        key = key_columns(table)
        con.execute(
            f"CREATE TABLE changed_{table} AS FROM incoming_{table} EXCEPT FROM store.{table}"
        )
        # With `since`, the notes before that day were not read.
        is_complete = not (since and table == "notes")
        con.execute(
            f"CREATE TABLE deleted_{table} AS SELECT {key} FROM store.{table} "
            f"ANTI JOIN incoming_{table} USING ({key}) WHERE {is_complete}"
        )
    if is_forgotten is None:
        return None
    return {
        table: n_rows(con, f"read_{table}") - n_rows(con, f"source_{table}")
        for table in REQUIRED_TABLES
    }


def _find_forgotten_patients(
    con: duckdb.DuckDBPyConnection, is_forgotten: Callable[[int | None], bool] | None
) -> None:
    """Create the table forgotten_patients of the source's patients whom the store has forgotten."""
    con.execute("CREATE TABLE forgotten_patients (subject_id BIGINT)")
    if is_forgotten is None:
        return
    patients = con.cursor().execute(
        "SELECT subject_id FROM all_admissions UNION SELECT subject_id FROM all_notes"
    )
    while rows := patients.fetchmany(_PATIENTS_AT_ONCE):
        forgotten = [(subject_id,) for (subject_id,) in rows if is_forgotten(subject_id)]
        if forgotten:
            con.executemany("INSERT INTO forgotten_patients VALUES ($1)", forgotten)


def _check(con: duckdb.DuckDBPyConnection) -> None:
    """Raise SourceError where an admission is invalid or a note has no note_id."""
    if problem := con.execute(read_sql("sync/invalid_admissions")).fetchone():
        message, n_admissions, example = problem
        example = f" ({example})" if example else ""
        raise SourceError(
            f"{message} in {n_admissions:,} admissions{example} - correct it in the source; "
            "nothing was changed"
        )
    if n_notes := n_rows(con, "source_notes WHERE note_id IS NULL"):
        raise SourceError(
            f"NOTE_ID is missing in {n_notes:,} notes - complete it in the source; "
            "nothing was changed"
        )


def end_of_source(con: duckdb.DuckDBPyConnection) -> datetime | None:
    """Return the `observed_until` of the source's admissions; None where it has none.

    Raises SourceError unless it is one time.
    """
    if "observed_until" not in con.table("source_admissions").columns:
        return None
    ends = con.execute(read_sql("sync/ends_of_source")).fetchall()
    if len(ends) > 1 or (ends and ends[0][0] is None):
        raise SourceError(
            "OBSERVED_UNTIL of admissions is not one time - return the end of the extract in every "
            "row; nothing was changed"
        )
    end: datetime | None = ends[0][0] if ends else None
    return end


def key_columns(table: str) -> str:
    """Return the columns of a table's key, separated by commas."""
    return KEYS[table].strip("()")


def count_changes(con: duckdb.DuckDBPyConnection, table: str) -> dict[str, Any]:
    changed = n_rows(con, f"store.{table} SEMI JOIN changed_{table} USING ({key_columns(table)})")
    return {
        "total": n_rows(con, f"incoming_{table}"),
        "new": n_rows(con, f"changed_{table}") - changed,
        "changed": changed,
        "withdrawn": n_rows(con, f"deleted_{table}"),
    }


def keep_differences(con: duckdb.DuckDBPyConnection) -> None:
    """Drop everything but the differences, and spill these: other work needs the memory."""
    for table in TABLES:
        con.execute(f"DROP TABLE read_{table}")
        con.execute(f"DROP TABLE incoming_{table}")
    con.execute("DETACH store")
    con.execute(f"SET memory_limit = '{_MEMORY_OF_RESULT}'")


def n_rows(con: duckdb.DuckDBPyConnection, relation: str) -> int:
    """Return the number of rows of a table, or of `TABLE WHERE ...`."""
    (rows,) = con.execute(f"SELECT count(*) FROM {relation}").fetchall()[0]
    return int(rows)
