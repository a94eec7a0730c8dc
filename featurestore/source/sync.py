"""Sync: bring the store's admissions and its index of notes up to date with the source."""

from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from featurestore.errors import SourceError
from featurestore.source.schemas import COLUMNS
from featurestore.source.source import Source, open_source
from featurestore.store.database import attach, open_duckdb
from featurestore.store.forget import forgotten_test
from featurestore.store.schema import KEYS, OPTIONAL_TABLES
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store
from featurestore.store.transaction import Transaction

_REQUIRED_TABLES = ("admissions", "notes")
_TABLES = (*_REQUIRED_TABLES, *OPTIONAL_TABLES)
_MACROS = (
    *("source/implausible_date", "source/unreadable_date", "source/birth_date", "source/flag"),
    "macros/available_at",
)


@dataclass
class SourceDiff:
    """The differences between the source and the store, by table."""

    counts: dict[str, Any]
    rows: dict[str, pa.Table]  # new or changed, with all columns
    deleted: dict[str, pa.Table]  # the keys of rows that are no longer in the source
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
    with store.lock("sync"):
        diff = diff_source(store, force, since)
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
        diff = diff_source(store, force, source=source)
        with store.transaction("source") as transaction:
            transaction.con.execute("UPDATE settings SET source = $1", [source.location])
            transaction.counts.update(diff.counts)
    return diff.counts


def diff_source(
    store: Store, force: bool = False, since: date | None = None, source: Source | None = None
) -> SourceDiff:
    """Compare the store with its source, or with another one, in a single pass; change nothing."""
    started_at = datetime.now()
    source = source or open_source(store)
    with open_duckdb() as con:
        rows = {"admissions": source.admissions(), "notes": source.note_index(since)}
        optional = source.optional_rows()
        forgotten = _load(con, store, rows | optional, since)
        end_of_source = _end_of_source(con)
        rows = {table: _changed_rows(con, table) for table in _TABLES}
        deleted = {table: _deleted_keys(con, table) for table in _TABLES}
        if since:  # the notes before that day were not read
            deleted["notes"] = deleted["notes"].slice(0, 0)
        counts = {
            table: _count(con, table, rows[table], deleted[table])
            for table in _TABLES
            if table in _REQUIRED_TABLES or table in optional or len(deleted[table])
        }
        for table, read in optional.items():
            counts[table]["omitted"] = len(read) - counts[table]["total"]
        counts["notes"]["excluded"] = dict(
            con.execute(
                "SELECT reason, count(*) FROM incoming_notes WHERE status = 'excluded' "
                "GROUP BY ALL ORDER BY ALL"
            ).fetchall()
        )
    for table, keys in deleted.items():
        (n_stored,) = store.one(f"SELECT count(*) FROM {table}")
        if len(keys) > max(10, n_stored / 2) and not force:
            raise SourceError(
                f"{len(keys):,} of {n_stored:,} {table} are no longer in the source, as after an "
                "incomplete download; nothing was changed - complete it, or add --force if they "
                "were withdrawn"
            )
    for table, n_forgotten in forgotten.items():
        counts[table]["forgotten"] = n_forgotten
    if source.not_utf8:
        counts["notes"]["not_utf8"] = source.not_utf8
    live, stored_end = store.one("SELECT live, observed_until FROM settings")
    end = min(started_at, end_of_source or started_at) if live else end_of_source
    return SourceDiff(counts, rows, deleted, end, end != stored_end)


def apply_diff(transaction: Transaction, diff: SourceDiff) -> None:
    """Apply the differences to the next version of the store."""
    for table, rows in diff.rows.items():
        if len(rows) or len(diff.deleted[table]):
            _apply(transaction, table, rows, diff.deleted[table])
    _delete_vectors(transaction, diff.deleted["admissions"])
    if diff.is_end_new:
        transaction.con.execute("UPDATE settings SET observed_until = $1", [diff.observed_until])


def _load(
    con: duckdb.DuckDBPyConnection,
    store: Store,
    tables: dict[str, pa.Table],
    since: date | None,
) -> dict[str, int]:
    """Create the table incoming_NAME of each table, and attach the store to compare them with.

    Returns how many rows of each table are excluded because they belong to forgotten patients;
    nothing where the store has forgotten nobody.
    """
    for name in ("stable_id", "with_number_ids"):
        con.execute(read_sql(f"sync/{name}"))
    for table in _TABLES:
        nothing = pa.table({name: pa.array([], pa.string()) for name in COLUMNS[table]})
        con.register(f"read_{table}", tables.get(table, nothing))
        con.execute(f"CREATE VIEW all_{table} AS FROM with_number_ids('read_{table}')")
    forgotten = _forgotten_patients(con, store)
    con.register(
        "forgotten_patients", pa.table({"subject_id": pa.array(forgotten or [], pa.int64())})
    )
    for name in ("forgotten_admissions", "source_admissions", "source_notes"):
        con.execute(read_sql(f"sync/{name}"))
    attach(con, store.path, "store")
    for name in _MACROS:
        con.execute(read_sql(name))
    _check(con)
    con.execute(read_sql("sync/incoming_admissions"))
    con.execute(read_sql("sync/incoming_notes"), {"partial": since is not None})
    for table in OPTIONAL_TABLES:
        con.execute(read_sql(f"sync/optional/incoming_{table}"))
    if forgotten is None:
        return {}
    return {
        table: len(tables[table]) - _n_rows(con, f"source_{table}") for table in _REQUIRED_TABLES
    }


def _forgotten_patients(con: duckdb.DuckDBPyConnection, store: Store) -> list[int] | None:
    """Return the source's patients whom the store has forgotten; None where it forgot nobody."""
    is_forgotten = forgotten_test(store)
    if is_forgotten is None:
        return None
    patients = con.execute(
        "SELECT subject_id FROM all_admissions UNION SELECT subject_id FROM all_notes"
    ).fetchall()
    return [subject_id for (subject_id,) in patients if is_forgotten(subject_id)]


def _check(con: duckdb.DuckDBPyConnection) -> None:
    """Raise SourceError where an admission is invalid or a note has no note_id."""
    if problem := con.execute(read_sql("sync/invalid_admissions")).fetchone():
        message, n_admissions, example = problem
        example = f" ({example})" if example else ""
        raise SourceError(
            f"{message} in {n_admissions:,} admissions{example} - correct it in the source; "
            "nothing was changed"
        )
    if n_notes := _n_rows(con, "source_notes WHERE note_id IS NULL"):
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


def _n_rows(con: duckdb.DuckDBPyConnection, relation: str) -> int:
    (n_rows,) = con.execute(f"SELECT count(*) FROM {relation}").fetchall()[0]
    return int(n_rows)


def _changed_rows(con: duckdb.DuckDBPyConnection, table: str) -> pa.Table:
    return con.execute(f"FROM incoming_{table} EXCEPT FROM store.{table}").to_arrow_table()


def _deleted_keys(con: duckdb.DuckDBPyConnection, table: str) -> pa.Table:
    key = _key(table)
    return con.execute(
        f"SELECT {key} FROM store.{table} ANTI JOIN incoming_{table} USING ({key})"
    ).to_arrow_table()


def _key(table: str) -> str:
    """Return the columns of a table's key, separated by commas."""
    return KEYS[table].strip("()")


def _count(
    con: duckdb.DuckDBPyConnection, table: str, rows: pa.Table, deleted: pa.Table
) -> dict[str, Any]:
    con.register("changed_rows", rows)
    new = _n_rows(con, f"changed_rows ANTI JOIN store.{table} USING ({_key(table)})")
    return {
        "total": _n_rows(con, f"incoming_{table}"),
        "new": new,
        "changed": len(rows) - new,
        "withdrawn": len(deleted),
    }


def _delete_vectors(transaction: Transaction, withdrawn: pa.Table) -> None:
    """Delete the vectors of withdrawn stays of which no row names the patient any more.

    Otherwise forget could not find them until the next run of embed deletes them.
    """
    transaction.con.register("withdrawn", withdrawn)
    for table in ("embeddings", "admission_embeddings", "admission_covariates"):
        transaction.con.execute(read_sql(f"sync/delete_{table}"))
    transaction.con.unregister("withdrawn")


def _apply(transaction: Transaction, table: str, rows: pa.Table, deleted: pa.Table) -> None:
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
