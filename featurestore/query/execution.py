"""Run a query on a store: checked first, cancelled after a time, errors without values."""

import contextlib
import re
import threading
from collections.abc import Iterator
from typing import IO, Any

import duckdb

from featurestore.errors import QueryError
from featurestore.query.output import write_parquet, write_rows
from featurestore.query.sandbox import check, see
from featurestore.store.database import is_damage
from featurestore.store.store import Store

MAX_ROWS = 10_000  # rows
_EXPLAIN = re.compile(r"\s*EXPLAIN\b\s*(ANALYZE\b|\(\s*(ANALYZE|FORMAT)\b[\w\s,]*\))?", re.I)
# Raised before any value is read: their messages hold only words of the query and names.
_QUERY_ERRORS = (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException)
_VALUE_ERRORS = {
    "Conversion": "a value{} cannot be converted - TRY_CAST gives NULL instead",
    "Out of Range": "a number{} is out of range - CAST to DOUBLE or HUGEINT first",
    "Invalid Input": "a value{} cannot be taken - leave its row out with WHERE",
    "Out of Memory": "the answer{} needs more memory than there is - ask for less",
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

    `kind` is table, csv, json, or parquet, which needs a binary stream. A query can read the store,
    but no file, network, extension, setting or Python variable. Raises QueryError, whose message
    may hold words of the query and names of tables and columns, but no value.
    """
    with _running(store, query, timeout) as answer:
        result = answer.limit(limit + 1) if limit else answer
        if kind == "parquet":
            return write_parquet(stream, result, limit)
        columns, rows = result.columns, result.fetchall()
    write_rows(stream, kind, columns, rows[:limit] if limit else rows)
    return 0 < limit < len(rows)


@contextlib.contextmanager
def _running(store: Store, query: str, timeout: float) -> Iterator[duckdb.DuckDBPyRelation]:
    """Check a query and yield its result, which can be read until the timeout."""
    con = store.connect()
    plan = _EXPLAIN.match(query)
    reads = query[plan.end() :] if plan else query
    with _stopped_after(con, timeout):
        try:
            check(store, con, reads)
            answer = con.sql(reads)  # binds, and reads nothing yet
        except _QUERY_ERRORS as error:
            raise QueryError(f"{_words(error)} - {see(store)}") from None
        except duckdb.Error as error:
            raise QueryError(_without_values(error, query)) from None
        try:
            yield con.sql(query) if plan else answer
        except (duckdb.Error, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the disk; Arrow wraps an error of DuckDB in one without a number
            raise QueryError(_without_values(error, query)) from None


@contextlib.contextmanager
def _stopped_after(con: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[None]:
    done, late = threading.Event(), threading.Event()

    def stop() -> None:
        wait = seconds
        while not done.wait(wait):
            late.set()
            con.interrupt()  # repeatedly: between two steps there is nothing to interrupt
            wait = 0.1

    clock = threading.Thread(target=stop, daemon=True)
    clock.start()
    try:
        yield
    except QueryError:
        if not late.is_set():
            raise
        raise QueryError(
            f"the query was stopped after {seconds:g} s - ask for less, or give it more time "
            "with --timeout"
        ) from None
    finally:
        done.set()
        clock.join()


def _words(error: duckdb.Error) -> str:
    """Return the message of DuckDB without the kind of error and the quoted query."""
    message = re.split(r"\n+LINE \d+:", str(error))[0].partition("Error: ")[2]
    return " ".join(message.split())[:500]


def _without_values(error: Exception, query: str) -> str:
    """Return a message without the quoted value, and with the column if the query names it."""
    if is_damage(error):
        return "the store is damaged - restore it from a backup"
    kind = str(error).partition(" Error: ")[0]
    column = re.search(r"when casting from source column (\w+)\s*(\n\nLINE|$)", str(error))
    named = column and re.search(rf"\b{column.group(1)}\b", query)
    sentence = _VALUE_ERRORS.get(kind, "the query{} cannot be answered - ask for less at a time")
    return sentence.format(f" of {column.group(1)}" if column and named else "")
