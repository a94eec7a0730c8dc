"""Run a query on a store, with a time limit and with error messages that contain no value."""

import contextlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import duckdb

from featurestore.errors import FeatureStoreError, QueryError
from featurestore.query.output import BINARY, write_arrow, write_rows
from featurestore.query.sandbox import check, schema_hint
from featurestore.store.database import is_damage
from featurestore.store.store import Store

MAX_ROWS = 10_000
_EXPLAIN = re.compile(r"\s*EXPLAIN\b\s*(ANALYZE\b|\(\s*(ANALYZE|FORMAT)\b[\w\s,]*\))?", re.I)
# Raised before any value is read: the messages contain only parts of the query and names.
_QUERY_ERRORS = (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException)
# Of the macros; the names are those of the query.
_UNKNOWN_NAME = re.compile(r"unknown (encoder|task|cutoff|scorer) (\S+) - .*")
_VALUE_ERRORS = {
    "Conversion": "a value{} cannot be converted - TRY_CAST gives NULL instead",
    "Out of Range": "a number{} is out of range - CAST to DOUBLE or HUGEINT first",
    "Invalid Input": "a value{} is invalid - exclude its row with WHERE",
    "Out of Memory": "the query{} needs more memory than is available - select less data",
}


def run_query(
    store: Store,
    query: str,
    stream: IO[Any],
    kind: str = "table",
    limit: int = MAX_ROWS,
    timeout: float = 60.0,
) -> bool:
    """Write at most `limit` rows of the result to a stream (0: all); return whether there are more.

    `kind` is table, csv, tsv, json, jsonl, or parquet or arrow, which need a binary stream.
    `timeout` is in seconds. A query can read the store, but no file, network, extension, setting or
    Python variable. Raises QueryError, whose message may quote the query and names of tables and
    columns, but no value.
    """
    with _execute(store, query, timeout) as relation:
        result = relation.limit(limit + 1) if limit else relation
        if kind in BINARY:
            return write_arrow(stream, kind, result, limit)
        columns, rows = result.columns, result.fetchall()
    write_rows(stream, kind, columns, rows[:limit] if limit else rows)
    return 0 < limit < len(rows)


@contextlib.contextmanager
def _execute(store: Store, query: str, timeout: float) -> Iterator[duckdb.DuckDBPyRelation]:
    """Check a query and yield its result, to be read before the timeout."""
    con = store.connect()
    explain = _EXPLAIN.match(query)
    select = query[explain.end() :] if explain else query
    with _cancel_after(con, timeout):
        try:
            check(store, con, select)
            # Binds the query, but reads no data yet; the projection makes equal names unique.
            relation = con.sql(select).project("*")
        except _QUERY_ERRORS as error:
            raise QueryError(f"{_first_line(error)} - {schema_hint(store)}") from None
        except duckdb.Error as error:
            raise QueryError(_without_values(error, query)) from None
        try:
            yield con.sql(query) if explain else relation
        except (duckdb.Error, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the disk; Arrow wraps an error of DuckDB in an OSError without errno
            raise QueryError(_without_values(error, query)) from None


@contextlib.contextmanager
def _cancel_after(con: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[None]:
    done, timed_out = threading.Event(), threading.Event()

    def interrupt() -> None:
        wait = seconds
        while not done.wait(wait):
            timed_out.set()
            con.interrupt()  # repeatedly: an interrupt between two steps has no effect
            wait = 0.1

    timer = threading.Thread(target=interrupt, daemon=True)
    timer.start()
    try:
        yield
    except QueryError:
        if not timed_out.is_set():
            raise
        raise QueryError(
            f"the query was cancelled after {seconds:g} s - select less data, or raise --timeout"
        ) from None
    finally:
        done.set()
        timer.join()


def read_select(file: Path) -> str:
    """Return the SELECT of an .sql file; raise FeatureStoreError if the file is not UTF-8."""
    try:
        return file.read_text(encoding="utf-8-sig").strip().rstrip("; \t\r\n")
    except UnicodeDecodeError:
        raise FeatureStoreError(f"{file} is not UTF-8 - save it as UTF-8") from None


def describe(error: duckdb.Error, query: str) -> str:
    """Return the message of an error of a query, without any value."""
    is_of_query = isinstance(error, _QUERY_ERRORS)
    return _first_line(error) if is_of_query else _without_values(error, query)


def _first_line(error: duckdb.Error) -> str:
    """Return the message of DuckDB without the kind of the error and without the query."""
    message = re.split(r"\n+LINE \d+:", str(error))[0].partition("Error: ")[2]
    return " ".join(message.split())[:500]


def _without_values(error: Exception, query: str) -> str:
    """Return a message without values; it names the column if the query does."""
    if is_damage(error):
        return "the store is damaged - restore it from a backup"
    if (name := _UNKNOWN_NAME.search(str(error))) and f"'{name[2]}'" in query:
        return name[0]
    kind = str(error).partition(" Error: ")[0]
    column = re.search(r"when casting from source column (\w+)\s*(\n\nLINE|$)", str(error))
    is_in_query = column and re.search(rf"\b{column.group(1)}\b", query)
    message = _VALUE_ERRORS.get(kind, "the query{} failed - simplify it, or select less data")
    return message.format(f" of {column.group(1)}" if column and is_in_query else "")
