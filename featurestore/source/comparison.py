"""The database in which a source is compared with a store, with little memory."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from featurestore.store.database import attach, open_duckdb
from featurestore.store.files import private_folder
from featurestore.store.store import Store

_MEMORY, _MEMORY_OF_RESULT = "300MB", "100MB"  # the rest is spilled
_ROWS_AT_ONCE = 50_000


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


def free_memory(con: duckdb.DuckDBPyConnection) -> None:
    """Spill what is left in the database, because other work needs the memory."""
    con.execute(f"SET memory_limit = '{_MEMORY_OF_RESULT}'")


def load_batches(
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


def n_rows(con: duckdb.DuckDBPyConnection, relation: str) -> int:
    """Return the number of rows of a table, or of `TABLE WHERE ...`."""
    (rows,) = con.execute(f"SELECT count(*) FROM {relation}").fetchall()[0]
    return int(rows)
