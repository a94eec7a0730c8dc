"""A feature store: one DuckDB file, read at any time, replaced by each job's next version."""

import contextlib
import grp
import hmac
import secrets
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import duckdb

from featurestore.errors import (
    FeatureStoreError,
    StoreChangedWarning,
    StoreDamagedError,
    StoreNotFoundError,
)
from featurestore.store.database import attach, encryption_key, is_damage, open_duckdb
from featurestore.store.integrity.audit_log import (
    changed_since,
    check_seal,
    last_run,
    seal_path,
)
from featurestore.store.integrity.shard_seal import ShardSeal
from featurestore.store.transaction import (
    Transaction,
    check_no_log,
    first_version,
    job_lock,
    lock_path,
    next_version,
    staging_path,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from featurestore.store.vectors import TrainingSet


class Store:
    """A feature store on disk.

    Each query sees one complete version; `transaction` makes the next one. As a context manager it
    closes its connection at the end. Raises StoreNotFoundError if the file does not exist.

    >>> with Store("ward.duckdb") as store:
    ...     print(store)
    ...     data = store.training_set(cutoff="72h", task="readmission")
    ...     table = store.embeddings("window")
    <Store ward.duckdb: 2 admissions, 1 note, encoder counter-00000000>
    >>> print(data)
    <TrainingSet: 1 admission (1 train, 0 valid, 0 test), 1 positive, 4 dimensions>
    >>> table.num_rows, str(table.schema.field("embedding").type)
    (2, 'fixed_size_list<item: float>[4]')
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.is_symlink():  # A job would replace the link by a store of its own.
            self.path = self.path.resolve()
        if self.path.is_dir():
            raise StoreNotFoundError(f"{path} is a folder, not a store - name the file in it")
        if not self.path.is_file():
            raise StoreNotFoundError(
                f'{path} does not exist - "featurestore init {path} --source SOURCE '
                '--schema mimic3" makes it'
            )
        self._reader: duckdb.DuckDBPyConnection | None = None
        self._version_read: tuple[int, int] | None = None
        self._locked = False

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Store {self.path}: {self._summary()}>"

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
        """Make an empty store that reads from `source`; `create_store` also checks the source.

        A `live` source is a running hospital, observed until the newest sync. The file is private
        (0600), or readable by `group` (0640). `encrypt` encrypts it, and the files beside it, with
        the key of the environment.
        """
        path = Path(path)
        group_id = cls.check_new(path, group, encrypt)
        settings = {"source": source, "schema_name": schema, "live": live}
        first_version(path, {**settings, "secret": secrets.token_bytes(32)}, group_id, encrypt)
        return cls(path)

    @staticmethod
    def check_new(path: str | Path, group: str | None = None, encrypt: bool = False) -> int | None:
        """Check that a store can be made at `path` and return the number of the group.

        Raises FeatureStoreError if the folder or the group does not exist, EncryptionKeyError if
        there is no usable key.
        """
        path = Path(path)
        if not path.resolve().parent.is_dir():
            raise FeatureStoreError(f"{path.parent} is not a folder - make it, or name another")
        if encrypt:
            encryption_key(path)
        if group is None:
            return None
        try:
            return grp.getgrnam(group).gr_gid
        except KeyError:
            raise FeatureStoreError(f"there is no group {group} - name an existing one") from None

    @property
    def staging(self) -> Path:
        """The private folder beside the store where work in progress is kept."""
        return staging_path(self.path)

    def output_file(self, file: str | Path, *extensions: str) -> Path:
        """Return the path of a file to write, which has one of these extensions.

        Raises FeatureStoreError for another extension, a folder that does not exist, and the files
        of the store itself.
        """
        file = Path(file)
        own_files = (self.path, seal_path(self.path), lock_path(self.path))
        if (
            any(path.resolve() == file.resolve() or _is_same(path, file) for path in own_files)
            or self.staging.resolve() in file.resolve().parents
        ):
            raise FeatureStoreError(f"{file} belongs to the store - name another file")
        if file.suffix not in extensions or not file.parent.is_dir():
            types = " or ".join(", ".join(extensions).rsplit(", ", 1))
            raise FeatureStoreError(
                f"{file} cannot be written - name a {types} file in an existing folder"
            )
        return file

    def sql(self, query: str, **parameters: Any) -> duckdb.DuckDBPyRelation:
        """Return the result of a query on the newest version; `$name` is the parameter `name`."""
        return self.connect().sql(query, params=parameters or None)

    def rows(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        """Return every row of a result as a dictionary by column name."""
        result = self.sql(query, **parameters)
        return [dict(zip(result.columns, row, strict=True)) for row in result.fetchall()]

    def one(self, query: str, **parameters: Any) -> tuple[Any, ...]:
        """Return the first row of a query that has one."""
        row = self.connect().execute(query, parameters or None).fetchone()
        assert row is not None
        return row

    def connect(self) -> duckdb.DuckDBPyConnection:
        """Return a connection that can read the newest version and nothing else.

        The connection is the same until there is a new version. Raises StoreDamagedError if the
        file is damaged or not a store, EncryptionKeyError if its key is missing or wrong.
        """
        stat = self.path.stat()
        if self._reader is None or self._version_read != (stat.st_ino, stat.st_mtime_ns):
            # An in-memory database that attaches the file: DuckDB identifies an open database by
            # its path, and would return the version that this process opened first.
            reader = open_duckdb()
            check_no_log(self.path)
            try:
                attach(reader, self.path, "store")
                self._check_tables(reader)
            except duckdb.Error as error:
                reader.close()
                raise StoreDamagedError(
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

    def close(self) -> None:
        """Close the connection, and with it the relations that it made; the next query opens one
        again."""
        if self._reader is not None:
            self._reader.close()
        self._reader = None

    def training_set(
        self,
        encoder: str | None = None,
        cutoff: str = "72h",
        task: str = "readmission",
        horizon_days: int | None = None,
    ) -> "TrainingSet":
        """Return the admissions with a mature label and a known note, for any estimator.

        X (float32), y, groups (subject_id), split and hadm_id are numpy arrays, ordered by hadm_id.
        `encoder` defaults to the active one; a task that gives its own prediction times is read at
        these. `horizon_days` defaults to 30 for a task that has a horizon. Raises UnknownNameError,
        which names the known ones, and NotEnoughDataError where there is no such admission.
        """
        from featurestore.store.vectors import read_training_set

        return read_training_set(self, encoder, cutoff, task, horizon_days)

    def embeddings(
        self,
        level: Literal["admission", "window"] = "admission",
        encoder: str | None = None,
        cutoff: str | None = "72h",
    ) -> "pa.Table":
        """Return the vectors of an encoder, by default the active one, as an Arrow table.

        The column `embedding` is a fixed-size list of floats. A row is an admission with the mean
        of its windows, or one of the windows, with hadm_id, subject_id, split and more. Only notes
        that were known at the prediction time of the `cutoff` count; None gives the admissions at
        every cutoff, or all windows. Raises UnknownNameError, which names the known ones, and
        NotEnoughDataError where the store has no encoder.
        """
        from featurestore.store.vectors import read_embeddings

        return read_embeddings(self, level, encoder, cutoff)

    def is_encrypted(self) -> bool:
        """Return whether the file, and with it every file that a job leaves beside it, is
        encrypted."""
        query = "SELECT encrypted FROM duckdb_databases() WHERE database_name = 'store'"
        return bool(self.one(query)[0])

    def shard_seal(self) -> ShardSeal:
        """Return the seal of this store's shards; its key comes from the store's secret."""
        (secret,) = self.one("SELECT secret FROM settings")
        return ShardSeal(hmac.digest(bytes(secret), b"shards", "sha256"), self.is_encrypted())

    def changed_since(self) -> int | None:
        """Return the run after which another program changed the file, until that is accepted."""
        return changed_since(self.path, self.connect(), self.path)

    @contextlib.contextmanager
    def lock(self, command: str) -> Iterator[None]:
        """Keep other jobs out while the block runs; readers are never blocked.

        A job that holds the lock may ask for it again. Raises StoreBusyError if another job holds
        it, StoreDamagedError if the file is not the one that the last job left. Warns with
        StoreChangedWarning if another program has written to it.
        """
        if self._locked:
            yield
            return
        with job_lock(self.path, command):
            check_seal(self.path, last_run(self.connect()))  # before any work is done
            if (since := self.changed_since()) is not None:
                warnings.warn(StoreChangedWarning(self.path, since), stacklevel=1)
            self._locked = True
            try:
                yield
            finally:
                self._locked = False

    @contextlib.contextmanager
    def transaction(
        self, command: str, started_at: datetime | None = None, rewrite: bool = False
    ) -> Iterator[Transaction]:
        """Yield a copy of the store to change; it becomes the store when the block ends well.

        It is one database transaction, checked and durable before it replaces the old version. Any
        error leaves the old version as it was. `rewrite` writes every row into a new file, so that
        deleted rows do not remain in its free blocks.
        """
        started_at = started_at or datetime.now()
        with self.lock(command), next_version(self.path, command, started_at, rewrite) as draft:
            yield draft

    def _summary(self) -> str:
        """Return what the store holds, or why that cannot be read, in a few words."""
        try:
            admissions, notes, encoder = self.one(
                "SELECT (SELECT count(*) FROM admissions), (SELECT count(*) FROM notes), "
                "(SELECT any_value(encoder_id) FROM encoders WHERE active)"
            )
        except (FeatureStoreError, duckdb.Error, OSError) as error:
            return f"cannot be read ({type(error).__name__})"
        return (
            f"{admissions:,} admission{'s' * (admissions != 1)}, {notes:,} note{'s' * (notes != 1)}"
            f", {f'encoder {encoder}' if encoder else 'no encoder'}"
        )

    def _check_tables(self, reader: duckdb.DuckDBPyConnection) -> None:
        rows = reader.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_catalog = 'store'"
        )
        missing = {"settings", "admissions", "notes"} - {name for (name,) in rows.fetchall()}
        if missing:
            raise StoreDamagedError(
                f"{self.path} is a DuckDB file but not a feature store: it has no table "
                f"{sorted(missing)[0]} - name a file that featurestore init made"
            )


def _is_same(path: Path, other: Path) -> bool:
    """Return whether two names are of one existing file, also by a link or in another case."""
    return path.exists() and other.exists() and path.samefile(other)
