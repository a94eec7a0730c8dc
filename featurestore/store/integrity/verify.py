"""Verify a store: is it complete, consistent, and what the last job left?"""

import contextlib
import stat
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import numpy as np
import pyarrow as pa

from featurestore.errors import FeatureStoreError
from featurestore.store.changes import find_changed_stays, log_all_changed, names_up_to_date
from featurestore.store.database import attach, open_duckdb
from featurestore.store.integrity.audit_log import (
    broken_chain,
    check_seal,
    last_run,
    read_seal,
    seal_path,
    user_name,
)
from featurestore.store.integrity.checksums import (
    COEF_HASH,
    VECTOR_TABLES,
    broken_tables,
    changed_rows,
    duplicate_keys,
    recorded_checksums,
    wrong_widths,
)
from featurestore.store.integrity.shard_seal import SUFFIX
from featurestore.store.schema import TABLES, VECTORS, VIEWS_AND_MACROS, make_objects
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store
from featurestore.store.transaction import lock_path
from featurestore.version import __version__


def verify(store: Store, accept: bool = False) -> list[str]:
    """Return what is wrong with the newest version of a store, a sentence each; empty if nothing.

    Checks the modes of the files, that there is no write-ahead log, the seal (the last run), the
    checksums of the tables, the definitions of tables, views and macros, keys, and the audit log.
    Each vector must be finite, as wide as its encoder's and as it was written; each note accounted
    for, with all its windows. Each mean must be of the right windows, and a sample is computed
    again. Coefficients and staged shards must be unchanged.

    `accept` records who accepts what another program changed: rows of tables without vectors, and
    views and macros, which are replaced. If there are other findings, nothing is recorded, and the
    first sentence says so. Raises FeatureStoreError if a job could not start.
    """
    if not accept:
        damage, changes = _findings(store)
        return [*damage, *changes]
    with store.lock("verify"):
        return _accept(store)


def _accept(store: Store) -> list[str]:
    version = _version(store)
    damage, changes = _findings(store)
    if damage and changes:
        return [
            f"nothing was accepted: {len(damage)} of these findings cannot be, the first of them - "
            "mend these, or restore the store from a backup",
            *damage,
            *changes,
        ]
    if changes:
        since = store.changed_since()
        with store.transaction("verify") as transaction:
            if _version(store) != version:
                raise FeatureStoreError(
                    f"{store.path} was changed while it was verified, so nothing was accepted - "
                    "end the other program, then run this again"
                )
            # The next jobs compare everything that was computed with the rows as they are now.
            log_all_changed(transaction.con)
            transaction.accepts_changes = True
            transaction.counts.update(
                accepted_by=user_name(), changed_since=since, accepted=changes
            )
        damage, changes = _findings(store)
    return [*damage, *changes]


def _findings(store: Store) -> tuple[list[str], list[str]]:
    """Return the damage, and the changes by another program that a user may accept."""
    damage = [*_guard(lambda: _file_modes(store)), *_stable(store, _compare_seal)]
    try:
        con = store.connect()
        changes = _stable(store, _changed_by_others)
    except FeatureStoreError as error:
        return list(dict.fromkeys([*damage, str(error)])), []
    if macros := list(_guard(partial(_foreign_macros, con))):
        return [*damage, *macros], changes
    for check in (
        broken_tables,
        partial(_changed_rows, vectors=True),
        partial(_wrong_definitions, mended_by_jobs=False),
        duplicate_keys,
        wrong_widths,
        broken_chain,
        _invalid_vectors,
        _invalid_notes,
        _changed_coefficients,
    ):
        damage += _guard(partial(check, con))
    damage += _guard(lambda: _invalid_shards(store))
    changes += _guard(partial(_changed_rows, con, vectors=False))
    rules = list(_guard(partial(_wrong_definitions, con, mended_by_jobs=True)))
    if not rules:  # These use the views and macros of the store.
        damage += _guard(partial(_wrong_means, con))
        changes += _guard(partial(_wrong_windows, con))
    changes += rules
    return list(dict.fromkeys(damage)), [line for line in changes if line not in damage]


def _guard(check: Callable[[], Iterator[str]]) -> Iterator[str]:
    """Yield the findings of a check, or that it could not read what it checks."""
    try:
        yield from check()
    except FeatureStoreError as error:
        yield str(error)
    except duckdb.Error as error:
        yield f"the store cannot be read ({type(error).__name__}): it is damaged"
    except OSError as error:
        yield f"{error.filename} cannot be checked: {error.strerror}"


def _file_modes(store: Store) -> Iterator[str]:
    """Find files that others may use, beyond the group of the store, and links."""
    lock, seal = lock_path(store.path), seal_path(store.path)
    group_may_read = store.path.stat().st_mode & stat.S_IRGRP
    for path in (store.path, seal, lock, store.staging, *_shards(store)):
        with contextlib.suppress(FileNotFoundError):  # A job is running.
            mode = path.lstat().st_mode
            allowed = group_may_read if path in (store.path, seal) else 0
            expected_type = stat.S_ISDIR if path == store.staging else stat.S_ISREG
            if path != store.path and not expected_type(mode):
                yield f"{path} is not what a job makes ({stat.filemode(mode)}) - remove it"
            elif path.stat().st_mode & 0o077 & ~allowed:
                yield f"{path} is open to others ({stat.filemode(mode)}) - chmod go= it"


def _stable(store: Store, check: Callable[[Store], Iterator[str]]) -> list[str]:
    """Return the findings of a check that reads the store and its seal."""
    findings: list[str] = []
    version = None
    while version != (version := _version(store)):  # Again if a job has replaced the store.
        findings = list(_guard(partial(check, store)))
    return findings


def _version(store: Store) -> tuple[int, int]:
    status = store.path.stat()
    return status.st_ino, status.st_mtime_ns


def _compare_seal(store: Store) -> Iterator[str]:
    lines = read_seal(store.path)
    if not lines:
        yield (
            f"{seal_path(store.path)} is missing, so an older version in the store's place would "
            "not be detected - the next command that changes the store writes it"
        )
        return
    check_seal(store.path, last_run(store.connect()))


def _changed_by_others(store: Store) -> Iterator[str]:
    """Find whether another program has written to the file, whatever it wrote."""
    if (since := store.changed_since()) is not None:
        yield (
            f"another program has changed the store since run {since} - if that was meant, "
            f'"featurestore verify {store.path} --accept" records it'
        )


def _foreign_macros(con: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """Find macros of other programs: one named like a function of DuckDB is called instead of it.

    So this calls nothing that a macro could replace.
    """
    rows = con.execute(
        "SELECT database_name, function_name FROM system.main.duckdb_functions() WHERE NOT internal"
    ).fetchall()
    for name in sorted({name for database, name in rows if database == "store"}):
        if name not in VIEWS_AND_MACROS:
            yield (
                f"{name} is a macro of another program, which could hide anything, so the contents "
                "were not checked - drop it with that program"
            )


def _changed_rows(con: duckdb.DuckDBPyConnection, vectors: bool) -> Iterator[str]:
    """Find tables with other rows than were recorded: those with vectors, or the others.

    Nothing in the store says which windows a note has, so their rows are never accepted.
    """
    recorded, _ = recorded_checksums(con)
    tables = [table for table in recorded if (table in VECTOR_TABLES) == vectors]
    yield from changed_rows(con, tables).values()


@lru_cache(maxsize=1)
def _own_definitions(tasks: tuple[tuple[str, str], ...], encrypt: bool) -> dict[str, str]:
    """Return how this program defines the objects of a store with these tasks (name, SELECT)."""
    # Definitions that are read from a file are not worded as they were made.
    with TemporaryDirectory() as folder:
        with open_duckdb() as own:
            attach(own, Path(folder) / "own", "store", read_only=False, encrypt=encrypt)
            own.execute("USE store")
            make_objects(own, TABLES)
            for task in tasks:
                own.execute("INSERT INTO tasks VALUES ($1, $2, FALSE, localtimestamp)", task)
            make_objects(own, VIEWS_AND_MACROS)
        with open_duckdb() as own:
            attach(own, Path(folder) / "own", "store")
            own.execute("USE store")
            return dict(own.execute(read_sql("store/verify/definitions")).fetchall())


def _wrong_definitions(con: duckdb.DuckDBPyConnection, mended_by_jobs: bool) -> Iterator[str]:
    """Find views, macros and schemas that are not this program's, and definitions that differ.

    Each job replaces the views and macros of this program; those of another version may differ.
    """
    (version,) = con.execute(
        "SELECT max_by(versions ->> '$.\"clinical-featurestore\"', run_id) FROM runs"
    ).fetchall()[0]
    (encrypted,) = con.execute(
        "SELECT encrypted FROM duckdb_databases() WHERE database_name = current_database()"
    ).fetchall()[0]
    tasks = con.execute("SELECT name::VARCHAR, sql::VARCHAR FROM tasks ORDER BY name").fetchall()
    expected = _own_definitions(tuple(tasks), encrypted)
    stored = dict(con.execute(read_sql("store/verify/definitions")).fetchall())
    for name in sorted(stored.keys() | expected.keys()):
        if (name in VIEWS_AND_MACROS) != mended_by_jobs:
            continue
        if name not in expected:
            yield (
                f"{name} is not a table, view, macro or schema of this program: another one made "
                "it - drop it with that program"
            )
        elif name not in stored:
            yield f"{name} is missing"
        elif stored[name] != expected[name] and version == __version__:
            yield f"{name} is not defined as this program defines it"


def _invalid_vectors(con: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """Find vectors that are not finite."""
    for table, column in VECTORS.items():
        (count,) = con.execute(
            f"SELECT count(*) FROM {table} "
            f"WHERE NOT coalesce(isfinite(list_inner_product({column}, {column})), FALSE)"
        ).fetchall()[0]
        if count:
            yield f"{table} holds {count:,} vectors that are not finite"


def _invalid_notes(con: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """Find notes that are not accounted for, or that lack windows."""
    (unaccounted,) = con.execute(read_sql("store/verify/unaccounted_notes")).fetchall()[0]
    if unaccounted:
        yield f"{unaccounted:,} notes are neither ready nor excluded with a reason"
    (incomplete,) = con.execute(read_sql("store/verify/incomplete_notes")).fetchall()[0]
    if incomplete:
        yield f"{incomplete:,} notes lack some of their windows"


def _changed_coefficients(con: duckdb.DuckDBPyConnection) -> Iterator[str]:
    query = f"SELECT scorer_id FROM scorers WHERE coef_hash <> {COEF_HASH} ORDER BY 1"
    for (scorer,) in con.execute(query).fetchall():
        yield f"the coefficients of {scorer} are not those that were fitted"


def _wrong_windows(con: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """Find means that are not of the windows that are known, where no change waits to be applied.

    Jobs compare the stays that changed only; this compares all.
    """
    complete = sorted(names_up_to_date(con, "means"))
    if not find_changed_stays(con, "means", complete):
        return
    # Means at a cutoff that is not complete wait to be computed again (a task that was replaced).
    (wrong,) = con.execute(
        "SELECT count(*) FROM admission_embeddings ANTI JOIN kept_cutoffs USING (cutoff) "
        "WHERE NOT list_contains($1, cutoff)",
        [complete],
    ).fetchall()[0]
    # After a task was dropped, the next job deletes the means at its prediction times.
    kept = con.execute(
        "SELECT cutoff FROM kept_cutoffs WHERE list_contains($1, cutoff) ORDER BY 1", [complete]
    ).fetchall()
    for (cutoff,) in kept:
        (count,) = con.execute(
            read_sql("store/verify/wrong_windows"), {"cutoff": cutoff}
        ).fetchall()[0]
        wrong += count
    if wrong:
        yield (
            f"{wrong:,} means are not those of the windows that were known - after verify --accept "
            "the next job computes them again"
        )


def _wrong_means(con: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """Find means of a sample that are not those of their windows."""
    wrong = 0
    # After a task was dropped, the next job deletes the means at its prediction times.
    cutoffs = con.execute(
        "SELECT DISTINCT cutoff FROM admission_embeddings SEMI JOIN kept_cutoffs USING (cutoff) "
        "ORDER BY 1"
    ).fetchall()
    for (cutoff,) in cutoffs:
        query = read_sql("store/verify/mean_sample")
        sample = con.execute(query, {"cutoff": cutoff}).to_arrow_table()
        con.register("sample", sample)
        query = read_sql("store/verify/sample_windows")
        windows = con.execute(query, {"cutoff": cutoff}).to_arrow_table()
        con.unregister("sample")
        wrong += _count_wrong(sample, windows)
    if wrong:
        yield f"{wrong:,} means of a sample are not those of their windows"


def _count_wrong(sample: pa.Table, windows: pa.Table) -> int:
    """Count the vectors of a sample that are not the means of their windows, in float32."""
    sample_no, vectors = windows["sample_no"].to_numpy(), windows["embedding"].to_numpy()
    wrong = 0
    # One by one: the encoders may have several widths.
    for no, stored in zip(
        sample["sample_no"].to_numpy(), sample["embedding"].to_numpy(), strict=True
    ):
        of_mean = vectors[sample_no == no]  # (windows,) of arrays (dim,)
        wrong += any(len(vector) != len(stored) for vector in of_mean) or not np.allclose(
            stored, np.stack(of_mean).mean(axis=0, dtype=np.float64), rtol=1e-5, atol=1e-5
        )
    return wrong


def _shards(store: Store) -> list[Path]:
    """Return the staged shards; raise PermissionError if this user may not read staging."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # A job has just ended.
        return sorted(
            shard
            for folder in store.staging.iterdir()
            if folder.is_dir() and not folder.is_symlink()
            for shard in folder.iterdir()
            if shard.name.endswith(SUFFIX)
        )
    return []


def _invalid_shards(store: Store) -> Iterator[str]:
    """Find shards that are damaged, of another store or encoder, or that no job wrote."""
    seal = store.shard_seal()
    for shard in _shards(store):
        try:
            seal.open(shard)
        except FileNotFoundError:
            pass  # committed just now
        except OSError as error:
            yield f"{shard} is not a shard ({error.strerror}) - remove it"
        except FeatureStoreError as error:
            yield str(error)
