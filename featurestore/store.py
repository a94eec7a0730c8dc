"""The store: one DuckDB file, read at any time, changed only by replacing it with a new version."""

import contextlib
import errno
import fcntl
import grp
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from featurestore import __version__, steps
from featurestore.errors import FeatureStoreError, StoreBusyError
from featurestore.files import copy, fsync, private_folder

if TYPE_CHECKING:
    from featurestore.source import Source

SQL = Path(__file__).resolve().parent.parent / "sql"

TABLES = (
    *("settings", "admissions", "notes", "encoders", "embeddings", "admission_embeddings"),
    *("past_embeddings", "scorers", "scorer_rows", "scores", "runs", "nights"),
    *("former_stays", "forgotten", "manifest"),
)
# Views and macros; each after those that it is made of.
RULES = (
    *("available_at", "patient_split", "episodes", "readmission_labels", "clinicalbert_labels"),
    *("prediction_times", "known_notes", "admission_windows", "training_set", "score_admissions"),
    *("latest_scores", "similar_admissions", "explain_admission"),
)
# A vector's hash is a column beside it.
_HASHED = ("embeddings", "admission_embeddings", "past_embeddings")
VECTORS = ("embeddings", "admission_embeddings", "past_embeddings", "scorers", "nights")
CUTOFFS = ("24h", "48h", "72h", "discharge")

KEYS = {
    "admissions": "hadm_id",
    "notes": "note_id",
    "encoders": "encoder_id",
    "embeddings": "(encoder_id, note_id, window_no)",
    "admission_embeddings": "(encoder_id, hadm_id, cutoff)",
    "past_embeddings": "(encoder_id, hadm_id, cutoff, vector_hash)",
    "scorers": "scorer_id",
    "scorer_rows": "(scorer_id, hadm_id)",
    "runs": "run_id",
    "nights": "(run_id, encoder_id, category)",
    "former_stays": "hadm_id",
    "forgotten": "patient_hash",
    "manifest": "table_name",
}

_COMMIT_MEMORY = "600MB"
_GAVE_OUT = (duckdb.IOException, duckdb.OutOfMemoryException, duckdb.FatalException)
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

DUCKDB = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
}


@dataclass
class Change:
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
    ) -> "Store":
        """Make an empty store that reads from `source`, once its tables and columns are checked.

        `live` says that the source is a running hospital, whose horizons are observed up to the
        newest sync. The file is private (0600), or readable by `group` (0640).
        """
        from featurestore.source import Source

        path = Path(path)
        if not path.resolve().parent.is_dir():
            raise FeatureStoreError(f"{path.parent} is no folder - make it, or name another")
        gid = _group_id(group)
        checked = Source(source, schema)
        checked.check()

        store = cls.__new__(cls)
        store.path, store._reader, store._version_read, store._locked = path, None, None, False
        with store.lock("init"), store._draft() as draft:
            with contextlib.closing(open_duckdb(draft)) as con:
                make_objects(con, TABLES + RULES)
                con.execute(
                    "INSERT INTO settings VALUES ($source, $schema, $live, NULL)",
                    {"source": checked.location, "schema": checked.schema, "live": live},
                )
                con.execute("CHECKPOINT")
            draft.chmod(0o600)
            if gid is not None:
                os.chown(draft, -1, gid)
                draft.chmod(0o640)
            if path.exists():
                raise FeatureStoreError(f"{path} exists already - give the new store another name")
            store._publish(draft)
        return store

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
            try:
                reader.execute(f"ATTACH {quoted(self.path)} AS store (READ_ONLY)")
            except duckdb.Error as error:
                reader.close()
                raise FeatureStoreError(
                    f"{self.path} cannot be opened as a store ({type(error).__name__}) - "
                    "name a file that featurestore init made"
                ) from None
            reader.execute("USE store")
            reader.execute("SET enable_external_access = false")
            reader.execute("SET lock_configuration = true")
            self._reader, self._version_read = reader, (stat.st_ino, stat.st_mtime_ns)
            self._check_tables()
        return self._reader

    def has_table(self, name: str) -> bool:
        """Whether a table is there; one that came since gets into a store with its next change."""
        query = "SELECT count(*) FROM duckdb_tables() WHERE (database_name, table_name) = ($d, $t)"
        return bool(self.one(query, d="store", t=name)[0])

    def facts(self) -> dict[str, Any]:
        """What the store holds, for a person or a machine: sizes, encoders, scorers, last runs."""
        ((source, schema, live, observed_until),) = self.sql("FROM settings").fetchall()
        ready, excluded = self.one(
            "SELECT count(*) FILTER (status = 'ready'), count(*) FILTER (status = 'excluded') "
            "FROM notes"
        )
        return {
            "store": f"{self.path} ({self.path.stat().st_size / 1e6:,.1f} MB)",
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

    def source(self) -> "Source":
        """The hospital that this store reads from."""
        from featurestore.source import Source

        location, schema = self.one("SELECT source, schema_name FROM settings")
        return Source(location, schema)

    @contextlib.contextmanager
    def lock(self, command: str) -> Iterator[None]:
        """Keep other jobs out while the block runs; readers are never concerned.

        Raises StoreBusyError, naming the holder, where another job has it. Within a job that
        holds the lock already it does nothing.
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
                holder = os.read(descriptor, 200).decode(errors="replace") or "another job"
                raise StoreBusyError(
                    f"{self.path} is being changed by {holder} - wait until it has finished"
                ) from None
            os.ftruncate(descriptor, 0)
            since = datetime.now().isoformat(" ", "seconds")
            os.write(
                descriptor, f"featurestore {command} (pid {os.getpid()}, since {since})".encode()
            )
            self._locked = True
            yield
        finally:
            self._locked = False
            os.close(descriptor)

    @contextlib.contextmanager
    def change(
        self, command: str, started_at: datetime | None = None, anew: bool = False
    ) -> Iterator[Change]:
        """Hand out a copy of the store to change; when the block ends well it becomes the store.

        One transaction, checked, checkpointed, fsynced and renamed over the old version. Whatever
        goes wrong before the rename leaves the old version as it was. `anew` writes every row into
        a new file and verifies it: what was deleted is then not in its free blocks either.
        """
        started_at = started_at or datetime.now()
        with self.lock(command), self._draft() as draft, self.writing():
            steps.step("copy")
            draft.touch(mode=0o600, exist_ok=False)
            copy(self.path, draft)
            with contextlib.closing(self._open_draft(draft)) as con:
                con.execute("BEGIN")
                _renew(con)
                (last_run,) = con.execute("SELECT coalesce(max(run_id), 0) FROM runs").fetchall()[0]
                change = Change(con, last_run + 1)
                yield change
                _record_run(change, command, started_at)
                _check_keys(con)
                _write_manifest(con, change.run_id)
                steps.step("checkpoint")
                con.execute("COMMIT")
                con.execute("CHECKPOINT")
            if anew:
                self._write_anew(draft)
            _check_written(draft, change.run_id)
            old = self.path.stat()
            os.chown(draft, -1, old.st_gid)
            draft.chmod(old.st_mode & 0o777)
            self._publish(draft)

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

    def verify(self) -> list[str]:
        """What is wrong with the newest version, a sentence each; none where it is whole.

        Counts, keys and the hash of every row are compared with the manifest of the last commit,
        and every vector with the hash that it was written with.
        """
        return _faults(self.connect())

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
        steps.step("copy")
        anew = self._anew(draft)
        with contextlib.closing(self._open_draft(anew)) as con:
            anew.chmod(0o600)  # DuckDB opens no empty file; the folder is private
            con.execute("PRAGMA force_compression = 'uncompressed'")  # as commits write vectors
            con.execute(f"ATTACH {quoted(draft)} AS draft (READ_ONLY)")
            con.execute("COPY FROM DATABASE draft TO anew")
            make_objects(con, RULES)
            steps.step("checkpoint")
            con.execute("CHECKPOINT")
            found = _faults(con)
            con.execute("USE draft")
            # What was damaged before stays for verify to tell.
            if found and found != _faults(con):
                raise FeatureStoreError(
                    f"{draft} could not be written anew: {found[0]}; the old version stays - check "
                    "the disk, then run this again"
                )
        anew.replace(draft)

    def _open_draft(self, draft: Path) -> duckdb.DuckDBPyConnection:
        con = open_duckdb(draft, str(self.staging / "spill"))
        # More than that is spilled; each further thread would need a share of it.
        con.execute(f"SET memory_limit = '{_COMMIT_MEMORY}'")
        con.execute(f"SET threads = {min(os.cpu_count() or 1, 4)}")
        return con

    def _publish(self, draft: Path) -> None:
        """Make the draft the store, durably and at once for every reader that opens it next."""
        if draft.with_name(draft.name + ".wal").exists():
            raise FeatureStoreError(f"{draft} was not written out - run the command again")
        fsync(draft)
        steps.step("rename")
        draft.replace(self.path)
        fsync(self.path.resolve().parent)

    def _check_tables(self) -> None:
        rows = self.connect().execute(
            "SELECT table_name FROM information_schema.tables WHERE table_catalog = 'store'"
        )
        missing = {"settings", "admissions", "notes"} - {name for (name,) in rows.fetchall()}
        if missing:
            self._reader = None
            raise FeatureStoreError(
                f"{self.path} is a DuckDB file but no feature store: it has no table "
                f"{sorted(missing)[0]} - name a file that featurestore init made"
            )


def open_duckdb(file: Path | str = ":memory:", spill: str = "") -> duckdb.DuckDBPyConnection:
    """A database that loads nothing, sees no Python variable, and spills nowhere unless told."""
    con = duckdb.connect(file, config={**DUCKDB, "temp_directory": spill})
    con.execute("SET enable_progress_bar = false")  # it would write to stdout
    return con


def make_objects(con: duckdb.DuckDBPyConnection, names: Sequence[str]) -> None:
    """Make tables, or make views and macros anew, from their files."""
    for name in names:
        con.execute((SQL / f"{name}.sql").read_text())


def set_width(con: duckdb.DuckDBPyConnection, dim: int) -> None:
    """Make the vector tables `dim` wide; the store must not hold a vector yet."""
    for name in VECTORS:
        con.execute(f"DROP TABLE {name}")
        con.execute(_table(name, dim))


def _table(name: str, dim: int) -> str:
    return (SQL / f"{name}.sql").read_text().replace("[768]", f"[{dim}]")


def check_question(cutoff: str = "72h", horizon_days: int = 30) -> None:
    """Raise FeatureStoreError unless this is a cutoff and a horizon that labels can have."""
    if cutoff not in CUTOFFS:
        raise FeatureStoreError(f"unknown cutoff {cutoff} - use one of {', '.join(CUTOFFS)}")
    if horizon_days < 1:
        raise FeatureStoreError(f"a horizon of {horizon_days} days is none - give 1 or more")


def _record_run(change: Change, command: str, started_at: datetime) -> None:
    versions = {"clinical-featurestore": __version__, "duckdb": duckdb.__version__}
    change.con.execute(
        "INSERT INTO runs VALUES ($run, $command, $start, $end, 'done', $counts, $versions)",
        {
            "run": change.run_id,
            "command": command,
            "start": started_at,
            "end": datetime.now(),
            "counts": json.dumps(change.counts),
            "versions": json.dumps(versions),
        },
    )


def _renew(con: duckdb.DuckDBPyConnection) -> None:
    """Give a store that an older version made today's rules, and the tables that came since."""
    there = {
        name
        for (name,) in con.execute(
            "SELECT table_name FROM duckdb_tables() WHERE database_name = current_database()"
        ).fetchall()
    }
    (width,) = con.execute("SELECT max(dim) FROM encoders").fetchall()[0]
    for name in set(TABLES) - there:
        con.execute(_table(name, width or 768))
    _add_columns(con)
    make_objects(con, RULES)


def _add_columns(con: duckdb.DuckDBPyConnection) -> None:
    """Give tables the columns that came since; new ones stand last in their files."""
    columns = (
        "SELECT table_name, column_name, data_type, column_default FROM duckdb_columns() "
        "WHERE NOT internal AND database_name = current_database() ORDER BY column_index"
    )
    there = {tuple(row[:2]) for row in con.execute(columns).fetchall()}
    with contextlib.closing(open_duckdb()) as today:
        make_objects(today, TABLES)
        for table, column, kind, default in today.execute(columns).fetchall():
            if (table, column) not in there:
                given = f" DEFAULT {default}" if default else ""
                con.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}{given}")


def _keys(con: duckdb.DuckDBPyConnection) -> Iterator[tuple[str, int, int]]:
    """Of each table how many rows it has, and how many of them are one of a kind."""
    for table, key in KEYS.items():
        query = f"SELECT count(*), count(DISTINCT {key}) FROM {table}"
        rows, keys = con.execute(query).fetchall()[0]
        yield table, rows, keys


def _check_keys(con: duckdb.DuckDBPyConnection) -> None:
    """Refuse a version in which something stands twice."""
    for table, rows, keys in _keys(con):
        if rows != keys:
            raise FeatureStoreError(
                f"{table} would hold {rows - keys} rows twice (by {KEYS[table]}); nothing was "
                "changed - please report this"
            )


def _contents(con: duckdb.DuckDBPyConnection) -> Iterator[tuple[str, int, int]]:
    """Of each table but the manifest its rows, and a hash of them in which no order shows."""
    for table in TABLES:
        if table != "manifest":
            # The hash of a vector stands beside it: a commit need not read every vector again.
            vectors = " EXCLUDE (embedding)" if table in _HASHED else ""
            rows, content_hash = con.execute(
                "SELECT count(*), coalesce(sum(hash(t)), 0) "
                f"FROM (SELECT *{vectors} FROM {table}) AS t"
            ).fetchall()[0]
            yield table, rows, content_hash


def _faults(con: duckdb.DuckDBPyConnection) -> list[str]:
    """What is not as the manifest says, a sentence each."""
    found = [
        f"{table} holds {rows - keys} rows twice (by {KEYS[table]})"
        for table, rows, keys in _keys(con)
        if rows != keys
    ]
    written = {
        row[0]: row[1:]
        for row in con.execute(
            "SELECT table_name, n_rows, content_hash, duckdb_version FROM manifest"
        ).fetchall()
    }
    for table, rows, content_hash in _contents(con):
        if table not in written:
            found.append(f"{table} is not in the manifest")
        elif rows != written[table][0]:
            found.append(f"{table} has {rows:,} rows, its manifest says {written[table][0]:,}")
        elif (content_hash, duckdb.__version__) != written[table][1:]:
            found.append(
                f"{table} is not as it was written"
                if duckdb.__version__ == written[table][2]
                else f"{table} was written by DuckDB {written[table][2]}, whose hashes "
                f"{duckdb.__version__} cannot compare"
            )
    for table in _HASHED:
        (spoilt,) = con.execute(
            f"SELECT count(*) FROM {table} WHERE hash(embedding) <> vector_hash"
        ).fetchall()[0]
        if spoilt:
            found.append(f"{table} holds {spoilt:,} vectors that are not as they were written")
    return found


def _write_manifest(con: duckdb.DuckDBPyConnection, run_id: int) -> None:
    con.execute("DELETE FROM manifest")
    for table, rows, content_hash in list(_contents(con)):
        con.execute(
            "INSERT INTO manifest VALUES ($1, $2, $3, $4, $5)",
            [table, rows, content_hash, run_id, duckdb.__version__],
        )


def _check_written(draft: Path, run_id: int) -> None:
    """Read back from the file that the commit is in it: nobody is told of one that is not."""
    with contextlib.closing(duckdb.connect(draft, read_only=True, config={**DUCKDB})) as con:
        written = con.execute("SELECT table_name, n_rows, run_id FROM manifest").fetchall()
        for table, rows, of_run in written:
            (count,) = con.execute(f"SELECT count(*) FROM {table}").fetchall()[0]
            if (count, of_run) != (rows, run_id):
                raise FeatureStoreError(
                    f"{draft} does not hold what was written; the old version stays - check the "
                    "disk, then run this again"
                )


def _group_id(group: str | None) -> int | None:
    if group is None:
        return None
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise FeatureStoreError(f"there is no group {group} on this machine - name one") from None


def quoted(path: Path) -> str:
    """A path as a string of SQL."""
    return "'" + str(path).replace("'", "''") + "'"
