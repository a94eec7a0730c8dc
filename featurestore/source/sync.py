"""Sync: bring the store's admissions and its index of notes up to date with the source."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from featurestore.errors import SourceError
from featurestore.source.comparison import (
    REQUIRED_TABLES,
    TABLES,
    TableStream,
    compare,
    count_changes,
    end_of_source,
    keep_differences,
    key_columns,
    load_source,
    n_rows,
    open_comparison,
)
from featurestore.source.source import Source, open_source
from featurestore.store.changes import log_changes
from featurestore.store.integrity.checksums import delete_rows, insert_rows
from featurestore.store.schema import OPTIONAL_TABLES
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store
from featurestore.store.transaction import Transaction, translate_disk_errors

_COMPLETE = "complete"
_DAYS_BEFORE = 30  # American hospitals have to complete a record within 30 days (42 CFR 482.24)


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
    since: date | None  # the first day whose notes were read; None for a complete sync

    @property
    def extent(self) -> str:
        """What a run records as `sync`: complete, or the first day whose notes were read."""
        return self.since.isoformat() if self.since else _COMPLETE

    @property
    def not_seen(self) -> list[str]:
        """What a sync of recent notes cannot see: the next complete sync finds it."""
        if not self.since:
            return []
        return [
            "notes that were withdrawn from the source",
            f"notes dated before {self.since} that are new or changed, or whose admission is new, "
            "withdrawn or of another patient",
        ]

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
                transaction.counts.update(diff.counts, sync=diff.extent)
    return diff.counts


def since_last_complete_sync(store: Store, full_every: int, now: datetime) -> date | None:
    """Return the first day whose notes a night has to read; None if a complete sync is due.

    That is so every `full_every` days, after the first sync, after a change of the source, and
    where the last complete sync is in the future by this machine's clock. In between, notes are
    read from 30 days before the last complete sync, so that a night sees what earlier ones missed,
    such as notes that reached the source late or with the clock of another machine.
    """
    (last,) = store.one(read_sql("sync/last_complete_sync"))
    if last is None or last > now or (now.date() - last.date()).days >= full_every:
        return None
    first_day: date = last.date() - timedelta(days=_DAYS_BEFORE)
    return first_day


def record_sync(store: Store, diff: SourceDiff, started_at: datetime) -> int:
    """Record a sync that found nothing, so that the next one knows when it was; return the run."""
    with store.transaction("sync", started_at) as transaction:
        transaction.counts.update(diff.counts, sync=diff.extent)
    return transaction.run_id


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
            n_read = load_source(con, source, since)
            n_forgotten = compare(con, store, since)
            stated_end = end_of_source(con)
            counts = {
                table: count_changes(con, table)
                for table in TABLES
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
            keep_differences(con)
        for table in TABLES:
            _check_deleted(store, table, n_rows(con, f"deleted_{table}"), force)
        for table in REQUIRED_TABLES:
            if n_forgotten is not None:
                counts[table]["forgotten"] = n_forgotten[table]
        if source.not_utf8:
            counts["notes"]["not_utf8"] = source.not_utf8
        live, stored_end = store.one("SELECT live, observed_until FROM settings")
        end = min(started_at, stated_end or started_at) if live else stated_end
        yield SourceDiff(
            counts,
            {table: TableStream(con, f"changed_{table}") for table in TABLES},
            {table: TableStream(con, f"deleted_{table}") for table in TABLES},
            n_rows(con, "changed_notes WHERE status = 'excluded'"),
            end,
            end != stored_end,
            since,
        )


def apply_diff(transaction: Transaction, diff: SourceDiff) -> None:
    """Apply the differences to the next version of the store."""
    for table, rows in diff.rows.items():
        if len(rows) or len(diff.deleted[table]):
            _apply(transaction, table, rows, diff.deleted[table])
    _delete_vectors(transaction, diff.deleted["admissions"])
    if diff.is_end_new:
        transaction.con.execute("UPDATE settings SET observed_until = $1", [diff.observed_until])


def _check_deleted(store: Store, table: str, n_deleted: int, force: bool) -> None:
    """Raise SourceError where more than half of a table is gone, unless forced."""
    (n_stored,) = store.one(f"SELECT count(*) FROM {table}")
    if n_deleted > max(10, n_stored / 2) and not force:
        raise SourceError(
            f"{n_deleted:,} of {n_stored:,} {table} are no longer in the source, as after an "
            "incomplete download; nothing was changed - complete it, or add --force if they "
            "were withdrawn"
        )


def _delete_vectors(transaction: Transaction, withdrawn: TableStream) -> None:
    """Delete the vectors of withdrawn stays of which no row names the patient any more.

    Otherwise forget could not find them until the next run of embed deletes them.
    """
    if not len(withdrawn):
        return
    con = transaction.con
    con.register("withdrawn", withdrawn)
    con.execute(read_sql("sync/unlinked_stays"))
    con.unregister("withdrawn")
    unlinked = "hadm_id IN (FROM unlinked_stays)"
    # A note that was moved to another stay keeps its vectors.
    delete_rows(con, "embeddings", f"{unlinked} AND note_id NOT IN (SELECT note_id FROM notes)")
    for table in ("admission_embeddings", "admission_covariates"):
        delete_rows(con, table, unlinked)


def _apply(transaction: Transaction, table: str, rows: TableStream, deleted: TableStream) -> None:
    con, key = transaction.con, key_columns(table)
    con.register("changed_rows", rows)
    con.register("deleted_keys", deleted)
    outdated = (
        f"({key}) IN (SELECT ({key}) FROM changed_rows UNION ALL SELECT ({key}) FROM deleted_keys)"
    )
    if table in REQUIRED_TABLES:
        columns = "hadm_id, subject_id"
        log_changes(
            con,
            f"SELECT {columns} FROM {table} WHERE {outdated} "
            f"UNION ALL SELECT {columns} FROM changed_rows",
            patients=table == "admissions",
        )
    delete_rows(con, table, outdated)
    insert_rows(con, table, f"SELECT * FROM changed_rows ORDER BY {key}")
    con.unregister("changed_rows")
    con.unregister("deleted_keys")
