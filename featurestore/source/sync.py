"""Sync: bring the store's admissions and its index of notes up to date with the source."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import duckdb

from featurestore.errors import SourceError
from featurestore.source.comparison import (
    TableStream,
    free_memory,
    load_batches,
    n_rows,
    open_comparison,
)
from featurestore.source.schemas import COLUMNS
from featurestore.source.source import Source, open_source
from featurestore.store.forget import forgotten_test
from featurestore.store.schema import KEYS, OPTIONAL_TABLES
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store
from featurestore.store.transaction import Transaction, translate_disk_errors

_REQUIRED_TABLES = ("admissions", "notes")
_TABLES = (*_REQUIRED_TABLES, *OPTIONAL_TABLES)
_MACROS = (
    *("source/implausible_date", "source/unreadable_date", "source/birth_date", "source/flag"),
    "macros/available_at",
)
_PATIENTS_AT_ONCE = 10_000


@dataclass
class SourceDiff:
    """The differences between the source and the store, by table.

    Rows and keys are Arrow streams from a database that spills: another connection can register
    them, until the block of `diff_source` ends.
    """

    counts: dict[str, Any]
    rows: dict[str, TableStream]  # new or changed, with all columns
    deleted: dict[str, TableStream]  # the keys of rows that are no longer in the source
    n_excluded: int  # of the notes that are new or changed
    observed_until: datetime | None  # NULL for an extract that names no end
    is_end_new: bool  # observed_until is not what the store has

    def __bool__(self) -> bool:
        """Return whether there is anything to apply."""
        any_rows = any(map(len, (*self.rows.values(), *self.deleted.values())))
        return any_rows or self.is_end_new


def sync(store: Store, force: bool = False, since: date | None = None) -> dict[str, Any]:
    """Update the tables of the source and the index of notes; return the counts of each table.

    Rows that are new, changed or withdrawn in the source are added, replaced or deleted in one
    commit; where nothing changed, nothing is written. The outcomes of a live store are observed up
    to the time at which the sync began, or to the source's own `observed_until`. With `since`, only
    the notes dated on that day or later are compared, and withdrawn notes stay until the next
    complete sync.

    Raises SourceError, with nothing changed, if a table or column is missing, if an admission has
    an invalid number or date, or if more than half of the stored rows have disappeared from the
    source, unless `force` is given.
    """
    started_at = datetime.now()
    with store.lock("sync"), diff_source(store, force, since) as diff:
        if diff:
            with store.transaction("sync", started_at) as transaction:
                apply_diff(transaction, diff)
                transaction.counts.update(diff.counts)
    return diff.counts


def change_source(
    store: Store, location: str | Path, force: bool = False
) -> dict[str, dict[str, Any]]:
    """Let a store read from another location of the same schema; return what a sync would change.

    Only the location is stored; the next sync brings the changes. Raises SourceError, with nothing
    changed, if the new location cannot be read as the store's schema, or if more than half of the
    store's admissions or notes are not there, unless `force` is given.
    """
    with store.lock("source"):
        source = Source(location, store.one("SELECT schema_name FROM settings")[0])
        source.check()
        with (
            diff_source(store, force, source=source) as diff,
            store.transaction("source") as transaction,
        ):
            transaction.con.execute("UPDATE settings SET source = $1", [source.location])
            transaction.counts.update(diff.counts)
    return diff.counts


@contextlib.contextmanager
def diff_source(
    store: Store, force: bool = False, since: date | None = None, source: Source | None = None
) -> Iterator[SourceDiff]:
    """Compare the store with its source, or with another one, in a single pass; change nothing.

    Memory does not grow with the number of notes: what was read and what differs is spilled to a
    private folder beside the store until the block ends. The caller holds the store's lock.
    """
    started_at = datetime.now()
    source = source or open_source(store)
    with open_comparison(store) as con:
        with translate_disk_errors(store.path):
            n_read = _load(con, source, since)
            n_forgotten = _compare(con, store, since)
            end_of_source = _end_of_source(con)
            counts = {
                table: _count(con, table)
                for table in _TABLES
                if table in n_read or n_rows(con, f"deleted_{table}")
            }
            for table in OPTIONAL_TABLES:
                if table in n_read:
                    counts[table]["omitted"] = n_read[table] - counts[table]["total"]
            counts["notes"]["excluded"] = dict(
                con.execute(
                    "SELECT reason, count(*) FROM incoming_notes WHERE status = 'excluded' "
                    "GROUP BY ALL ORDER BY ALL"
                ).fetchall()
            )
            _forget_read_rows(con)
        for table in _TABLES:
            _check_deleted(store, table, n_rows(con, f"deleted_{table}"), force)
        for table in _REQUIRED_TABLES:
            if n_forgotten is not None:
                counts[table]["forgotten"] = n_forgotten[table]
        if source.not_utf8:
            counts["notes"]["not_utf8"] = source.not_utf8
        live, stored_end = store.one("SELECT live, observed_until FROM settings")
        end = min(started_at, end_of_source or started_at) if live else end_of_source
        yield SourceDiff(
            counts,
            {table: TableStream(con, f"changed_{table}") for table in _TABLES},
            {table: TableStream(con, f"deleted_{table}") for table in _TABLES},
            n_rows(con, "changed_notes WHERE status = 'excluded'"),
            end,
            end != stored_end,
        )


def apply_diff(transaction: Transaction, diff: SourceDiff) -> None:
    """Apply the differences to the next version of the store."""
    for table, rows in diff.rows.items():
        if len(rows) or len(diff.deleted[table]):
            _apply(transaction, table, rows, diff.deleted[table])
    _delete_vectors(transaction, diff.deleted["admissions"])
    if diff.is_end_new:
        transaction.con.execute("UPDATE settings SET observed_until = $1", [diff.observed_until])


def _load(con: duckdb.DuckDBPyConnection, source: Source, since: date | None) -> dict[str, int]:
    """Create the table read_NAME of each table of the source; return their numbers of rows.

    Tables that the hospital does not have are without rows, and are not among the numbers.
    """
    n_read = {}
    for table in _TABLES:
        load = partial(load_batches, con, f"read_{table}")
        n_rows = source.read(table, load, since if table == "notes" else None)
        if n_rows is None:
            columns = ", ".join(f"{column} VARCHAR" for column in COLUMNS[table])
            con.execute(f"CREATE TABLE read_{table} ({columns})")
        else:
            n_read[table] = n_rows
    return n_read


def _compare(
    con: duckdb.DuckDBPyConnection, store: Store, since: date | None
) -> dict[str, int] | None:
    """Create the tables incoming_NAME, changed_NAME and deleted_NAME of each table.

    Returns how many rows are excluded because they belong to forgotten patients; None where the
    store has forgotten nobody.
    """
    for name in ("stable_id", "with_number_ids"):
        con.execute(read_sql(f"sync/{name}"))
    for table in _TABLES:
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
    for table in _TABLES:
        key = _key(table)
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
        for table in _REQUIRED_TABLES
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


def _end_of_source(con: duckdb.DuckDBPyConnection) -> datetime | None:
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


def _check_deleted(store: Store, table: str, n_deleted: int, force: bool) -> None:
    """Raise SourceError where more than half of a table is gone, unless forced."""
    (n_stored,) = store.one(f"SELECT count(*) FROM {table}")
    if n_deleted > max(10, n_stored / 2) and not force:
        raise SourceError(
            f"{n_deleted:,} of {n_stored:,} {table} are no longer in the source, as after an "
            "incomplete download; nothing was changed - complete it, or add --force if they "
            "were withdrawn"
        )


def _key(table: str) -> str:
    """Return the columns of a table's key, separated by commas."""
    return KEYS[table].strip("()")


def _count(con: duckdb.DuckDBPyConnection, table: str) -> dict[str, Any]:
    changed = n_rows(con, f"store.{table} SEMI JOIN changed_{table} USING ({_key(table)})")
    return {
        "total": n_rows(con, f"incoming_{table}"),
        "new": n_rows(con, f"changed_{table}") - changed,
        "changed": changed,
        "withdrawn": n_rows(con, f"deleted_{table}"),
    }


def _forget_read_rows(con: duckdb.DuckDBPyConnection) -> None:
    """Drop what is no longer needed, and spill the rest: other work needs the memory."""
    for table in _TABLES:
        con.execute(f"DROP TABLE read_{table}")
        con.execute(f"DROP TABLE incoming_{table}")
    free_memory(con)


def _delete_vectors(transaction: Transaction, withdrawn: TableStream) -> None:
    """Delete the vectors of withdrawn stays of which no row names the patient any more.

    Otherwise forget could not find them until the next run of embed deletes them.
    """
    transaction.con.register("withdrawn", withdrawn)
    for table in ("embeddings", "admission_embeddings", "admission_covariates"):
        transaction.con.execute(read_sql(f"sync/delete_{table}"))
    transaction.con.unregister("withdrawn")


def _apply(transaction: Transaction, table: str, rows: TableStream, deleted: TableStream) -> None:
    con, key = transaction.con, _key(table)
    con.register("changed_rows", rows)
    con.register("deleted_keys", deleted)
    con.execute(
        f"DELETE FROM {table} WHERE ({key}) IN "
        f"(SELECT ({key}) FROM changed_rows UNION ALL SELECT ({key}) FROM deleted_keys)"
    )
    con.execute(f"INSERT INTO {table} SELECT * FROM changed_rows ORDER BY {key}")
    con.unregister("changed_rows")
    con.unregister("deleted_keys")
