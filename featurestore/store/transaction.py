"""The next version of a store: copy, change, check, fsync, rename.

A store is never changed in place. A job takes the lock, changes a copy in the private staging
folder, checks it and renames it over the store. Readers keep the version that they have opened.
"""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from featurestore.errors import FeatureStoreError, StoreBusyError, StoreDamagedError
from featurestore.store import failpoints
from featurestore.store.database import attach, is_damage, open_duckdb
from featurestore.store.files import copy, create_private, fsync, private_folder, try_lock
from featurestore.store.integrity.audit_log import (
    changed_since,
    last_run,
    record_run,
    seal_line,
    sealed,
    user_name,
    write_seal,
)
from featurestore.store.integrity.checksums import (
    Checksums,
    begin_changes,
    checksum_mismatches,
    checksums,
    checksums_after_changes,
    checksums_hash,
    duplicate_keys,
    recorded_checksums,
    row_counts,
)
from featurestore.store.schema import TABLES, VIEWS_AND_MACROS, make_objects
from featurestore.version import __version__

_COMMIT_MEMORY = "600MB"
_DUCKDB_DISK_ERRORS = (duckdb.IOException, duckdb.OutOfMemoryException, duckdb.FatalException)
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@dataclass
class Transaction:
    """The next version of a store: a connection to change it and the counts for `runs`.

    `accepts_changes` records what another program changed as if it had been a job.
    """

    con: duckdb.DuckDBPyConnection
    run_id: int
    counts: dict[str, Any] = field(default_factory=dict)
    accepts_changes: bool = False


# --- copy, change, check, fsync, rename


@contextlib.contextmanager
def next_version(
    store: Path, command: str, started_at: datetime, rewrite: bool
) -> Iterator[Transaction]:
    """Yield a transaction on a copy of the store; publish it when the block ends without an error.

    Whatever fails before the rename leaves the old version as it was. `rewrite` writes every row
    into a new file, so that deleted rows do not remain in its free blocks.
    """
    with _draft_file(store) as draft, translate_disk_errors(store):
        failpoints.hit("copy")
        check_no_log(store)
        os.close(create_private(draft))
        copied_by = copy(store, draft)
        with contextlib.closing(_open_draft(draft)) as con:
            previous = last_run(con)
            since = changed_since(store, con, draft)
            con.execute("BEGIN")
            begin_changes(con)
            # No checksum covers views and macros: a changed one lasts until the next job at most.
            make_objects(con, VIEWS_AND_MACROS)
            transaction = Transaction(con, previous[0] + 1)
            yield transaction
            if transaction.accepts_changes:
                contents, since = checksums(con), None
            else:
                contents = checksums_after_changes(con)
            _record(transaction, command, started_at, contents, copied_by, since)
            rows = row_counts(con)
            failpoints.hit("checkpoint")
            con.execute("COMMIT")
            con.execute("CHECKPOINT")  # A damaged write-ahead log can lose a commit silently.
        if rewrite:
            _rewrite(draft)
        status = store.stat()
        # Root may run a job on the store of another user.
        os.chown(draft, status.st_uid if os.getuid() == 0 else -1, status.st_gid)
        draft.chmod(status.st_mode & 0o777)
        _publish(store, draft, transaction.run_id, rows, previous)


def first_version(
    store: Path, settings: dict[str, Any], group_id: int | None, encrypt: bool
) -> None:
    """Make an empty store: 0600, or 0640 for a group. Raises FeatureStoreError if it exists."""
    started_at = datetime.now()
    with job_lock(store, "init"), _draft_file(store) as draft:
        with contextlib.closing(_open_draft(draft, encrypt)) as con:
            make_objects(con, TABLES + VIEWS_AND_MACROS)
            values = ", ".join(f"${column} AS {column}" for column in settings)
            con.execute(f"INSERT INTO settings BY NAME SELECT {values}", settings)
            _record(Transaction(con, 0), "init", started_at, checksums(con))
            rows = row_counts(con)
            con.execute("CHECKPOINT")
        draft.chmod(0o600)
        if group_id is not None:
            os.chown(draft, -1, group_id)
            draft.chmod(0o640)
        if store.exists():
            raise FeatureStoreError(f"{store} exists already - give the new store another name")
        _publish(store, draft, 0, rows)


def _record(
    transaction: Transaction,
    command: str,
    started_at: datetime,
    contents: Checksums,
    copied_by: str | None = None,
    since: int | None = None,
) -> None:
    """Append the run with the checksums of the tables, the last row of a commit."""
    versions = {"clinical-featurestore": __version__, "duckdb": duckdb.__version__}
    record_run(
        transaction.con,
        run_id=transaction.run_id,
        command=command,
        started_at=started_at,
        counts=json.dumps(transaction.counts),
        versions=json.dumps(versions | {"copied_by": copied_by}),
        hash_after=checksums_hash(contents),
        changed_since=since,
        contents=json.dumps(contents),
    )


def _rewrite(draft: Path) -> None:
    """Copy all rows of the draft into a new file, check it, and put it in the draft's place."""
    failpoints.hit("copy")
    rewritten = _rewritten(draft)
    with contextlib.closing(_open_writer(draft.parent)) as con:
        encrypted = attach(con, draft, "draft")
        attach(con, rewritten, "next", read_only=False, encrypt=encrypted)
        con.execute("USE next")
        rewritten.chmod(0o600)  # DuckDB does not open an empty file; the folder is private.
        con.execute("PRAGMA force_compression = 'uncompressed'")  # as commits write vectors
        con.execute("COPY FROM DATABASE draft TO next")
        make_objects(con, VIEWS_AND_MACROS)
        failpoints.hit("checkpoint")
        con.execute("CHECKPOINT")
        findings = [*duplicate_keys(con), *checksum_mismatches(con)]
        con.execute("USE draft")
        # Earlier damage is left for verify to report.
        if findings and findings != [*duplicate_keys(con), *checksum_mismatches(con)]:
            raise FeatureStoreError(
                f"{draft} could not be rewritten: {findings[0]}; the old version stays - check "
                "the disk, then run this again"
            )
    rewritten.replace(draft)


def _publish(
    store: Path,
    draft: Path,
    run_id: int,
    rows: dict[str, int],
    previous: tuple[int, str] | None = None,
) -> None:
    """Rename the draft over the store, durably: whoever opens it next sees the new version.

    `rows` are the numbers of rows that were written.
    """
    if draft.with_name(draft.name + ".wal").exists():
        raise FeatureStoreError(f"{draft} was not written completely - run the command again")
    new = seal_line(_check_written(draft, run_id, rows), draft)
    # If the job is killed before the second seal, the store is one of the two.
    write_seal(store, *(sealed(store, previous) if previous else ()), new)
    fsync(draft)
    failpoints.hit("rename")
    draft.replace(store)
    fsync(store.resolve().parent)
    with contextlib.suppress(OSError):  # The seal with two lines is valid too.
        write_seal(store, new)


def _check_written(draft: Path, run_id: int, rows: dict[str, int]) -> tuple[int, str]:
    """Read the last run back from the file and return it; raise if the commit is not in it."""
    with contextlib.closing(open_duckdb()) as con:
        attach(con, draft, "draft")
        con.execute("USE draft")
        run = last_run(con)
        written, _ = recorded_checksums(con)
        rows_written = row_counts(con)
    if run[0] != run_id or not written or rows_written != rows:
        raise FeatureStoreError(
            f"{draft} does not hold what was written; the old version stays - check the disk, then "
            "run this again"
        )
    return run


# --- lock, staging folder and disk


@contextlib.contextmanager
def job_lock(store: Path, command: str) -> Iterator[None]:
    """Keep other jobs out while the block runs; raise StoreBusyError, naming the holder."""
    # A link could lead to any file of the user, which would be truncated.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    try:
        descriptor = os.open(lock_path(store), flags, 0o600)
    except PermissionError:
        raise FeatureStoreError(
            f"{store} is changed by the jobs of {user_name(store.stat().st_uid)} only - "
            "ask for what you need, or make a store of your own; commands that only read, such as "
            "info and sql, work"
        ) from None
    try:
        if not try_lock(descriptor):
            holder = os.read(descriptor, 200).decode(errors="replace")
            holder = "".join(filter(str.isprintable, holder)) or "another job"
            raise StoreBusyError(
                f"{store} is being changed by {holder} - wait until it has finished"
            )
        os.ftruncate(descriptor, 0)
        since = datetime.now().isoformat(" ", "seconds")
        holder = f"featurestore {command} (pid {os.getpid()}, since {since})"
        os.write(descriptor, holder.encode())
        yield
    finally:
        os.close(descriptor)


def lock_path(store: Path) -> Path:
    """Return the path of the lock of a store."""
    return store.with_name(store.name + ".lock")


def staging_path(store: Path) -> Path:
    """Return the path of the private folder beside a store, for drafts and finished windows."""
    return store.with_name(store.name + ".staging")


def check_no_log(store: Path) -> None:
    """Raise StoreDamagedError if a write-ahead log lies beside the store: DuckDB would apply it."""
    log = store.with_name(store.name + ".wal")
    if log.exists():
        raise StoreDamagedError(
            f"{log} is a write-ahead log, which no job leaves: another program opened the store to "
            "write - end that program, or remove the log if there is none"
        )


@contextlib.contextmanager
def translate_disk_errors(store: Path) -> Iterator[None]:
    """Raise FeatureStoreError if disk space or memory runs out, StoreDamagedError for damage."""
    try:
        yield
    except (OSError, *_DUCKDB_DISK_ERRORS) as error:
        if isinstance(error, OSError) and error.errno not in _DISK_ERRORS:
            raise
        if is_damage(error):
            raise StoreDamagedError(f"{store} is damaged - restore it from a backup") from None
        resource = "memory" if isinstance(error, duckdb.OutOfMemoryException) else "disk space"
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number else type(error).__name__
        raise FeatureStoreError(
            f"{store} could not be changed ({reason}); the old version and all finished windows "
            f"are kept - free some {resource}, then run this again"
        ) from None


@contextlib.contextmanager
def _draft_file(store: Path) -> Iterator[Path]:
    """Yield the path of the next version in the staging folder, and remove what is left of it."""
    staging = staging_path(store)
    draft = staging / "next.duckdb"
    private_folder(staging)
    try:
        _remove_draft(draft)  # of a job that was killed
        yield draft
    finally:
        _remove_draft(draft)
        with contextlib.suppress(OSError):
            staging.rmdir()  # It stays if there are shards in it.


def _remove_draft(draft: Path) -> None:
    for file in (draft, _rewritten(draft)):
        file.unlink(missing_ok=True)
        file.with_name(file.name + ".wal").unlink(missing_ok=True)
    shutil.rmtree(draft.parent / "spill", ignore_errors=True)


def _rewritten(draft: Path) -> Path:
    return draft.with_name("rewritten.duckdb")


def _open_draft(draft: Path, encrypt: bool = False) -> duckdb.DuckDBPyConnection:
    con = _open_writer(draft.parent)
    attach(con, draft, "next", read_only=False, encrypt=encrypt)
    con.execute("USE next")
    return con


def _open_writer(staging: Path) -> duckdb.DuckDBPyConnection:
    con = open_duckdb(staging / "spill")
    # The rest is spilled. Each further thread would need a share of the memory.
    con.execute(f"SET memory_limit = '{_COMMIT_MEMORY}'")
    con.execute(f"SET threads = {min(os.cpu_count() or 1, 4)}")
    return con
