"""Questions to a store in SQL: what a query may reach, how long it may take, what it tells."""

import contextlib
import re
import threading
from collections.abc import Iterator
from typing import IO, Any

import duckdb

from featurestore.errors import FeatureStoreError
from featurestore.query.output import write_parquet, write_rows
from featurestore.query.sandbox import check, see
from featurestore.store.database import is_damage
from featurestore.store.store import Store

MAX_ROWS = 10_000  # rows
_EXPLAIN = re.compile(r"\s*EXPLAIN\b\s*(ANALYZE\b|\(\s*(ANALYZE|FORMAT)\b[\w\s,]*\))?", re.I)
# What DuckDB says of a query before it has read a value: the query's words, and names.
_OF_THE_QUERY = (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException)
_OF_A_VALUE = {
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
    """Write the answer to a stream, at most `limit` rows of it (0: all); say whether there is more.

    `kind` is table, csv, json, or parquet, which wants a binary stream. A query reads the store:
    no file, network, extension, setting or Python variable. Raises FeatureStoreError, which holds
    the query's own words and the names of tables and columns, and no value.
    """
    with _running(store, query, timeout) as answer:
        asked = answer.limit(limit + 1) if limit else answer
        if kind == "parquet":
            return write_parquet(stream, asked, limit)
        columns, rows = asked.columns, asked.fetchall()
    write_rows(stream, kind, columns, rows[:limit] if limit else rows)
    return 0 < limit < len(rows)


@contextlib.contextmanager
def _running(store: Store, query: str, timeout: float) -> Iterator[duckdb.DuckDBPyRelation]:
    """The answer to a query that was checked, as long as there is time to read it."""
    con = store.connect()
    plan = _EXPLAIN.match(query)
    reads = query[plan.end() :] if plan else query
    with _stopped_after(con, timeout):
        try:
            check(store, con, reads)
            answer = con.sql(reads)  # binds, and reads nothing yet
        except _OF_THE_QUERY as error:
            raise FeatureStoreError(f"{_words(error)} - {see(store)}") from None
        except duckdb.Error as error:
            raise FeatureStoreError(_without_values(error, query)) from None
        try:
            yield con.sql(query) if plan else answer
        except (duckdb.Error, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk's; one without a number is DuckDB's, by way of Arrow
            raise FeatureStoreError(_without_values(error, query)) from None


@contextlib.contextmanager
def _stopped_after(con: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[None]:
    done, late = threading.Event(), threading.Event()

    def stop() -> None:
        wait = seconds
        while not done.wait(wait):
            late.set()
            con.interrupt()  # again and again: between two steps there is nothing to interrupt
            wait = 0.1

    clock = threading.Thread(target=stop, daemon=True)
    clock.start()
    try:
        yield
    except FeatureStoreError:
        if not late.is_set():
            raise
        raise FeatureStoreError(
            f"the query was stopped after {seconds:g} s - ask for less, or give it more time "
            "with --timeout"
        ) from None
    finally:
        done.set()
        clock.join()


def _words(error: duckdb.Error) -> str:
    """What DuckDB says, without the kind of error before it and the query after it."""
    told = re.split(r"\n+LINE \d+:", str(error))[0].partition("Error: ")[2]
    return " ".join(told.split())[:500]


def _without_values(error: Exception, query: str) -> str:
    """What went wrong, and in which column where the query names it: DuckDB quotes the value."""
    if is_damage(error):
        return "the store is damaged - restore it from a backup"
    kind = str(error).partition(" Error: ")[0]
    column = re.search(r"when casting from source column (\w+)\s*(\n\nLINE|$)", str(error))
    named = column and re.search(rf"\b{column.group(1)}\b", query)
    sentence = _OF_A_VALUE.get(kind, "the query{} cannot be answered - ask for less at a time")
    return sentence.format(f" of {column.group(1)}" if column and named else "")
