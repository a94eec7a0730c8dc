"""The store: one DuckDB file, read at any time, changed only by replacing it with a new version."""

import contextlib
import errno
import fcntl
import grp
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from featurestore import __version__
from featurestore.errors import FeatureStoreError, StoreBusyError
from featurestore.store import failpoints
from featurestore.store.audit_log import (
    check_seal,
    head,
    is_of,
    read_seal,
    record_run,
    sealed,
    write_seal,
)
from featurestore.store.checksums import (
    changed,
    check_keys,
    contents,
    duplicate_keys,
    store_hash,
    write_manifest,
)
from featurestore.store.database import attach, encryption_key, is_damage, open_duckdb
from featurestore.store.files import copy, fsync, private_folder
from featurestore.store.sql_files import read_sql

TABLES = (
    *("settings", "admissions", "notes", "encoders", "embeddings", "admission_embeddings"),
    *(
        "archived_admission_embeddings",
        "scorers",
        "scorer_admissions",
        "scores",
        "runs",
        "nightly_embedding_stats",
    ),
    *("former_stays", "forgotten", "manifest"),
)
VIEWS = ("episodes", "latest_scores")
# Views and macros; each after those that it is made of.
RULES = (
    *("available_at", "patient_split", "episodes", "readmission_labels", "clinicalbert_labels"),
    *("prediction_times", "known_notes", "admission_windows", "training_set", "score_admissions"),
    *("latest_scores", "similar_admissions", "explain_admission"),
)
KIND = {
    **dict.fromkeys(RULES, "macros"),
    **dict.fromkeys(VIEWS, "views"),
    **dict.fromkeys(TABLES, "tables"),
}
VECTORS = (
    "embeddings",
    "admission_embeddings",
    "archived_admission_embeddings",
    "scorers",
    "nightly_embedding_stats",
)
CUTOFFS = ("24h", "48h", "72h", "discharge")
# A scorer's coefficients, as a hash that the next version of DuckDB computes alike.
COEF_HASH = "sha256(CAST((coef, intercept, calibration_slope, calibration_intercept) AS VARCHAR))"

_COMMIT_MEMORY = "600MB"
_GAVE_OUT = (duckdb.IOException, duckdb.OutOfMemoryException, duckdb.FatalException)
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@dataclass
class Transaction:
    """A new version in the making: its connection, and what its run will be remembered by."""

    con: duckdb.DuckDBPyConnection
    run_id: int
    counts: dict[str, Any] = field(default_factory=dict)


class Store:
    """A feature store on disk, opened to read.

    Every read sees one whole version; `change` makes the next one. Raises FeatureStoreError where
    the file does not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.is_symlink():  # else a job would put a store of its own in the link's place
            self.path = self.path.resolve()
        if not self.path.is_file():
            raise FeatureStoreError(
                f'{path} does not exist - "featurestore init {path} --source SOURCE '
                '--schema mimic3" makes it'
            )
        self._reader: duckdb.DuckDBPyConnection | None = None
        self._version_read: tuple[int, int] | None = None
        self._locked = False

    @classmethod
    def create(
        cls,
        path: str | Path,
        source: str,
        schema: str,
        live: bool = False,
        group: str | None = None,
        encrypt: bool = False,
    ) -> "Store":
        """Make an empty store that reads from `source`; `create_store` checks the source first.

        `live` says that the source is a running hospital, whose horizons are observed up to the
        newest sync. The file is private (0600), or readable by `group` (0640). `encrypt` encrypts
        it, and all that lies beside it, with the environment's key.
        """
        started_at = datetime.now()
        path = Path(path)
        gid = cls.check_new(path, group, encrypt)

        store = cls.__new__(cls)
        store.path, store._reader, store._version_read, store._locked = path, None, None, False
        with store.lock("init"), store._draft() as draft:
            with contextlib.closing(store._open_draft(draft, encrypt)) as con:
                make_objects(con, TABLES + RULES)
                con.execute(
                    "INSERT INTO settings VALUES ($source, $schema, $live, NULL, $secret)",
                    {
                        **{"source": source, "schema": schema, "live": live},
                        "secret": secrets.token_bytes(32),
                    },
                )
                _record(Transaction(con, 0), "init", started_at, store_hash([]))
                con.execute("CHECKPOINT")
            draft.chmod(0o600)
            if gid is not None:
                os.chown(draft, -1, gid)
                draft.chmod(0o640)
            if path.exists():
                raise FeatureStoreError(f"{path} exists already - give the new store another name")
            store._publish(draft)
        return store

    @staticmethod
    def check_new(path: str | Path, group: str | None = None, encrypt: bool = False) -> int | None:
        """Check that a store can be made at `path`; return the number of the group.

        Raises FeatureStoreError where the folder, the group or the encryption key is missing.
        """
        path = Path(path)
        if not path.resolve().parent.is_dir():
            raise FeatureStoreError(f"{path.parent} is no folder - make it, or name another")
        if encrypt:
            encryption_key(path)
        return _group_id(group)

    @property
    def staging(self) -> Path:
        """The private folder beside the store where work in progress lies."""
        return self.path.with_name(self.path.name + ".staging")

    def sql(self, query: str, **parameters: Any) -> duckdb.DuckDBPyRelation:
        """Ask the newest version; `$name` in the query takes the parameter of that name."""
        return self.connect().sql(query, params=parameters or None)

    def rows(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        """Every row of a query's answer, by the names of its columns."""
        answer = self.sql(query, **parameters)
        return [dict(zip(answer.columns, row, strict=True)) for row in answer.fetchall()]

    def one(self, query: str, **parameters: Any) -> tuple[Any, ...]:
        """The first row of a query that has one."""
        row = self.connect().execute(query, parameters or None).fetchone()
        assert row is not None
        return row

    def connect(self) -> duckdb.DuckDBPyConnection:
        """A connection to the newest version that can read it and nothing else.

        The same connection is handed out until a new version is there.
        """
        stat = self.path.stat()
        if self._reader is None or self._version_read != (stat.st_ino, stat.st_mtime_ns):
            # An in-memory database that attaches the file: DuckDB hands out an already open
            # database by its path, and would give a process the version it opened first.
            reader = open_duckdb()
            self._check_no_log()
            try:
                attach(reader, self.path, "store")
                self._check_tables(reader)
            except duckdb.Error as error:
                reader.close()
                raise FeatureStoreError(
                    f"{self.path} is damaged - restore it from a backup"
                    if is_damage(error)
                    else f"{self.path} cannot be opened as a store ({type(error).__name__}) - "
                    "name a file that featurestore init made, or restore this one from a backup"
                ) from None
            reader.execute("USE store")
            reader.execute("SET enable_external_access = false")
            reader.execute("SET lock_configuration = true")
            self._reader, self._version_read = reader, (stat.st_ino, stat.st_mtime_ns)
        return self._reader

    def is_encrypted(self) -> bool:
        """Whether the file is encrypted, and so all that a job leaves beside it."""
        return bool(
            self.one("SELECT encrypted FROM duckdb_databases() WHERE database_name = 'store'")[0]
        )

    def secret(self) -> bytes:
        """Random bytes of this store alone, by which it knows what is its own."""
        return bytes(self.one("SELECT secret FROM settings")[0])

    def facts(self) -> dict[str, Any]:
        """What the store holds, for a person or a machine: sizes, encoders, scorers, last runs."""
        source, schema, live, observed_until = self.one(
            "SELECT source, schema_name, live, observed_until FROM settings"
        )
        ready, excluded = self.one(
            "SELECT count(*) FILTER (status = 'ready'), count(*) FILTER (status = 'excluded') "
            "FROM notes"
        )
        return {
            "store": f"{self.path} ({self.path.stat().st_size / 1e6:,.1f} MB)",
            "encrypted": "yes" if self.is_encrypted() else "no",
            "source": f"{source} ({schema})",
            "observed": f"until {observed_until}" if live else "fully (a research extract)",
            "admissions": self.one("SELECT count(*) FROM admissions")[0],
            "notes": f"{ready:,} ready, {excluded:,} excluded",
            "encoders": self.rows(
                "SELECT encoder_id AS encoder, dim, precision, active, "
                "count(e.note_id) AS windows, count(DISTINCT e.note_id) AS notes "
                "FROM encoders LEFT JOIN embeddings AS e USING (encoder_id) GROUP BY ALL ORDER BY 1"
            ),
            "scorers": self.rows(
                "SELECT scorer_id AS scorer, encoder_id AS encoder, cutoff, "
                "horizon_days AS horizon FROM scorers ORDER BY created_at"
            ),
            "nights": self.rows(
                "SELECT run_id AS run, CAST(started_at AS DATE) AS night, "
                "CAST(counts ->> '$.new' AS INTEGER) AS new, "
                "CAST(counts ->> '$.changed' AS INTEGER) AS changed, "
                "CAST(counts ->> '$.withdrawn' AS INTEGER) AS withdrawn, "
                "CAST(counts ->> '$.excluded' AS INTEGER) AS excluded, "
                "CAST(counts ->> '$.windows' AS INTEGER) AS windows, "
                "CAST(counts ->> '$.scored' AS INTEGER) AS scored, "
                "len(CAST(counts -> '$.unusual' AS JSON[])) AS unusual "
                "FROM runs WHERE command = 'nightly' ORDER BY run_id DESC LIMIT 7"
            ),
            "runs": self.rows(
                "SELECT run_id AS run, command, finished_at, counts FROM runs "
                "ORDER BY run_id DESC LIMIT 5"
            ),
        }

    @contextlib.contextmanager
    def lock(self, command: str) -> Iterator[None]:
        """Keep other jobs out while the block runs; readers are never concerned.

        Raises StoreBusyError, naming the holder, where another job has it, and FeatureStoreError
        where the file is not the one that the last job left. Within a job that holds the lock
        already it does nothing.
        """
        if self._locked:
            yield
            return
        path = self.path.with_name(self.path.name + ".lock")
        # A link could lead to any file of the user's, which would be cut to nothing.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(descriptor, 200).decode(errors="replace")
                holder = "".join(filter(str.isprintable, holder)) or "another job"
                raise StoreBusyError(
                    f"{self.path} is being changed by {holder} - wait until it has finished"
                ) from None
            os.ftruncate(descriptor, 0)
            since = datetime.now().isoformat(" ", "seconds")
            os.write(
                descriptor, f"featurestore {command} (pid {os.getpid()}, since {since})".encode()
            )
            if self.path.exists():  # before any work is done on it
                check_seal(self.path, head(self.connect()))
            self._locked = True
            yield
        finally:
            self._locked = False
            os.close(descriptor)

    @contextlib.contextmanager
    def transaction(
        self, command: str, started_at: datetime | None = None, rewrite: bool = False
    ) -> Iterator[Transaction]:
        """Hand out a copy of the store to change; when the block ends well it becomes the store.

        One transaction, checked, checkpointed, fsynced and renamed over the old version. Whatever
        goes wrong before the rename leaves the old version as it was. `anew` writes every row into
        a new file and verifies it: what was deleted is then not in its free blocks either.
        """
        started_at = started_at or datetime.now()
        with self.lock(command), self._draft() as draft, self.writing():
            failpoints.hit("copy")
            self._check_no_log()
            draft.touch(mode=0o600, exist_ok=False)
            copy(self.path, draft)
            with contextlib.closing(self._open_draft(draft)) as con:
                last = head(con)
                con.execute("BEGIN")
                hash_before = store_hash(contents(con))
                # A macro that something else changed is repaired, and a new release's rules apply.
                make_objects(con, RULES)
                transaction = Transaction(con, last[0] + 1)
                yield transaction
                check_keys(con)
                _record(transaction, command, started_at, hash_before)
                failpoints.hit("checkpoint")
                con.execute("COMMIT")
                con.execute("CHECKPOINT")
            if rewrite:
                self._write_anew(draft)
            old = self.path.stat()
            # Of root, who may be another than the one whose jobs run every night.
            os.chown(draft, old.st_uid if os.getuid() == 0 else -1, old.st_gid)
            draft.chmod(old.st_mode & 0o777)
            self._publish(draft, last)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """What a disk or memory that gives out comes to: one sentence."""
        try:
            yield
        except (OSError, *_GAVE_OUT) as error:
            if isinstance(error, OSError) and error.errno not in _DISK:
                raise
            what = "memory" if isinstance(error, duckdb.OutOfMemoryException) else "disk space"
            number = getattr(error, "errno", None)
            kind = os.strerror(number) if number else type(error).__name__
            raise FeatureStoreError(
                f"{self.path} could not be changed ({kind}); the old version stays, and what was "
                f"embedded is kept - see that there is enough {what} beside it, then run this again"
            ) from None

    @contextlib.contextmanager
    def _draft(self) -> Iterator[Path]:
        """A name for the next version, in the private staging folder; nothing is left of it."""
        draft = self.staging / "next.duckdb"
        private_folder(self.staging)
        try:
            self._clear_draft(draft)  # of a job that was killed
            yield draft
        finally:
            self._clear_draft(draft)
            with contextlib.suppress(OSError):
                self.staging.rmdir()  # where no shards wait in it

    def _clear_draft(self, draft: Path) -> None:
        for leftover in (draft, self._anew(draft)):
            leftover.unlink(missing_ok=True)
            leftover.with_name(leftover.name + ".wal").unlink(missing_ok=True)
        shutil.rmtree(self.staging / "spill", ignore_errors=True)

    def _anew(self, draft: Path) -> Path:
        return draft.with_name("anew.duckdb")

    def _write_anew(self, draft: Path) -> None:
        """Write all rows of the draft into another file, verify it, and let that be the draft."""
        failpoints.hit("copy")
        anew = self._anew(draft)
        with contextlib.closing(self._writer()) as con:
            encrypted = attach(con, draft, "draft")
            attach(con, anew, "next", read_only=False, encrypt=encrypted)
            con.execute("USE next")
            anew.chmod(0o600)  # DuckDB opens no empty file; the folder is private
            con.execute("PRAGMA force_compression = 'uncompressed'")  # as commits write vectors
            con.execute("COPY FROM DATABASE draft TO next")
            make_objects(con, RULES)
            failpoints.hit("checkpoint")
            con.execute("CHECKPOINT")
            found = [*duplicate_keys(con), *changed(con)]
            con.execute("USE draft")
            # What was damaged before stays for verify to tell.
            if found and found != [*duplicate_keys(con), *changed(con)]:
                raise FeatureStoreError(
                    f"{draft} could not be written anew: {found[0]}; the old version stays - check "
                    "the disk, then run this again"
                )
        anew.replace(draft)

    def _open_draft(self, draft: Path, encrypt: bool = False) -> duckdb.DuckDBPyConnection:
        con = self._writer()
        attach(con, draft, "next", read_only=False, encrypt=encrypt)
        con.execute("USE next")
        return con

    def _writer(self) -> duckdb.DuckDBPyConnection:
        con = open_duckdb(self.staging / "spill")
        # More than that is spilled; each further thread would need a share of it.
        con.execute(f"SET memory_limit = '{_COMMIT_MEMORY}'")
        con.execute(f"SET threads = {min(os.cpu_count() or 1, 4)}")
        return con

    def _publish(self, draft: Path, last: tuple[int, str] | None = None) -> None:
        """Make the draft the store, durably and at once for every reader that opens it next."""
        if draft.with_name(draft.name + ".wal").exists():
            raise FeatureStoreError(f"{draft} was not written out - run the command again")
        new = sealed(_check_written(draft), draft)
        # Killed before the second seal, the store is either of the two.
        old = [line for line in read_seal(self.path) if last and is_of(line, last)]
        write_seal(self.path, *old, new)
        fsync(draft)
        failpoints.hit("rename")
        draft.replace(self.path)
        fsync(self.path.resolve().parent)
        with contextlib.suppress(OSError):  # the seal of both fits the store too
            write_seal(self.path, new)

    def _check_no_log(self) -> None:
        """Refuse a store that somebody opened to write: a log beside it changes what is read."""
        log = self.path.with_name(self.path.name + ".wal")
        if log.exists():
            raise FeatureStoreError(
                f"{log} lies beside the store, which no job leaves: something opened the store to "
                "write in it - end that program, or remove the log where there is none"
            )

    def _check_tables(self, reader: duckdb.DuckDBPyConnection) -> None:
        rows = reader.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_catalog = 'store'"
        )
        missing = {"settings", "admissions", "notes"} - {name for (name,) in rows.fetchall()}
        if missing:
            raise FeatureStoreError(
                f"{self.path} is a DuckDB file but no feature store: it has no table "
                f"{sorted(missing)[0]} - name a file that featurestore init made"
            )


def make_objects(con: duckdb.DuckDBPyConnection, names: Sequence[str]) -> None:
    """Make tables, or make views and macros anew, from their files."""
    for name in names:
        con.execute(read_sql(f"{KIND[name]}/{name}"))


def set_width(con: duckdb.DuckDBPyConnection, dim: int) -> None:
    """Make the vector tables `dim` wide; the store must not hold a vector yet."""
    for name in VECTORS:
        con.execute(f"DROP TABLE {name}")
        con.execute(read_sql(f"tables/{name}").replace("[768]", f"[{dim}]"))


def check_question(cutoff: str = "72h", horizon_days: int = 30) -> None:
    """Raise FeatureStoreError unless this is a cutoff and a horizon that labels can have."""
    if cutoff not in CUTOFFS:
        raise FeatureStoreError(f"unknown cutoff {cutoff} - use one of {', '.join(CUTOFFS)}")
    if horizon_days < 1:
        raise FeatureStoreError(f"a horizon of {horizon_days} days is none - give 1 or more")


def _record(transaction: Transaction, command: str, started_at: datetime, hash_before: str) -> None:
    """Write the run and the manifest, the last rows of a commit."""
    con = transaction.con
    held = contents(con)
    versions = {"clinical-featurestore": __version__, "duckdb": duckdb.__version__}
    record_run(
        con,
        run_id=transaction.run_id,
        command=command,
        started_at=started_at,
        counts=json.dumps(transaction.counts),
        versions=json.dumps(versions),
        hash_before=hash_before,
        hash_after=store_hash(held),
    )
    write_manifest(con, held, transaction.run_id)


def _check_written(draft: Path) -> tuple[int, str]:
    """Read back from the file that the commit is in it: nobody is told of one that is not.

    Returns its last run and link.
    """
    with contextlib.closing(open_duckdb()) as con:
        attach(con, draft, "draft")
        con.execute("USE draft")
        last = head(con)
        written = con.execute("SELECT table_name, n_rows, run_id FROM manifest").fetchall()
        for table, rows, of_run in written:
            (count,) = con.execute(f"SELECT count(*) FROM {table}").fetchall()[0]
            if (count, of_run) != (rows, last[0]):
                raise FeatureStoreError(
                    f"{draft} does not hold what was written; the old version stays - check the "
                    "disk, then run this again"
                )
    return last


def _group_id(group: str | None) -> int | None:
    if group is None:
        return None
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise FeatureStoreError(f"there is no group {group} on this machine - name one") from None
