"""Is a store whole, and what the last job left? Every promise of a store that its file can show."""

import contextlib
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from featurestore.errors import FeatureStoreError
from featurestore.store.audit_log import broken_links, check_seal, digest, head, read_seal, seal_of
from featurestore.store.checksums import changed, duplicate_keys
from featurestore.store.shard_seal import SUFFIX, ShardSeal
from featurestore.store.store import COEF_HASH, CUTOFFS, RULES, Store
from featurestore.store.vectors import arrow_to_vectors

_MEANS = 100  # how many are computed again
_VECTORS = {"embeddings": "embedding", "admission_embeddings": "embedding", "scorers": "coef"}
_RULES = """
    SELECT view_name FROM duckdb_views()
    WHERE NOT internal AND database_name = current_database()
    UNION
    SELECT schema_name FROM duckdb_schemas()
    WHERE NOT internal AND database_name = current_database() AND schema_name <> 'main'
    UNION
    SELECT function_name FROM duckdb_functions()
    WHERE NOT internal AND database_name = current_database()
    ORDER BY 1
"""
_UNACCOUNTED = """
    SELECT count(*) FROM notes
    WHERE NOT coalesce(
        (status = 'ready' AND hadm_id IS NOT NULL) OR (status = 'excluded' AND reason IS NOT NULL),
        FALSE
    )
"""
_INCOMPLETE = """
    SELECT count(*)
    FROM (
        SELECT count(DISTINCT window_no) AS windows, min(window_no) AS first, max(window_no) AS last
        FROM embeddings GROUP BY encoder_id, note_id, text_hash
    )
    WHERE first <> 0 OR windows <> last + 1
"""


def verify(store: Store) -> list[str]:
    """Return what is wrong with the newest version of a store, a sentence each; empty if nothing.

    Checks the modes of its files, the seal, the checksums, the audit log, keys, vectors, notes,
    a sample of means, the coefficients and the shards in staging.
    """
    return list(dict.fromkeys(_findings(store)))


def _findings(store: Store) -> Iterator[str]:
    """What is wrong with the newest version of a store and with what lies beside it, in sentences.

    Modes of its files, no log of a writer, the seal (the last run, and a hash of every byte), the
    manifest (rows and their hashes), the audit trail, keys; each vector finite, as wide as its
    encoder's and as it was written; each note accounted for, its windows there once, without a gap;
    a sample of the means computed again; the coefficients; the shards in staging.
    """
    yield from _told(lambda: _open_to_others(store))
    yield from _unsealed(store)
    try:
        con = store.connect()
    except FeatureStoreError as error:
        yield str(error)
        return
    checks = (
        changed,
        _odd_rules,
        duplicate_keys,
        broken_links,
        _odd_vectors,
        _odd_notes,
        _odd_scorers,
    )
    for check in (*checks, _odd_means):
        yield from _told(partial(check, con))
    yield from _told(lambda: _odd_shards(store))


def _told(check: Callable[[], Iterator[str]]) -> Iterator[str]:
    """What a check finds, or that it cannot read what it looks at."""
    try:
        yield from check()
    except FeatureStoreError as error:
        yield str(error)
    except duckdb.Error as error:
        yield f"what the store holds cannot be read ({type(error).__name__}): it is damaged"
    except OSError as error:
        yield f"{error.filename} cannot be checked: {error.strerror}"


def _open_to_others(store: Store) -> Iterator[str]:
    """Files that others may use, beyond the group that the store was made for, and links."""
    lock, seal = store.path.with_name(store.path.name + ".lock"), seal_of(store.path)
    readable = store.path.stat().st_mode & stat.S_IRGRP
    for path in (store.path, seal, lock, store.staging, *_shards(store)):
        with contextlib.suppress(FileNotFoundError):  # a job is at work
            mode = path.lstat().st_mode
            allowed = readable if path in (store.path, seal) else 0
            own = stat.S_ISDIR if path == store.staging else stat.S_ISREG
            if path != store.path and not own(mode):
                yield f"{path} is not what a job makes ({stat.filemode(mode)}) - remove it"
            elif path.stat().st_mode & 0o077 & ~allowed:
                yield f"{path} is open to others ({stat.filemode(mode)}) - chmod go= it"


def _unsealed(store: Store) -> Iterator[str]:
    """Whether the file is the one that the last job left, to the last byte."""
    told: list[str] = []
    status = None
    while status != (status := _version(store)):  # until no job comes in between
        told = list(_told(lambda: _compare_seal(store)))
    yield from told


def _version(store: Store) -> tuple[int, int]:
    status = store.path.stat()
    return status.st_ino, status.st_mtime_ns


def _compare_seal(store: Store) -> Iterator[str]:
    lines = read_seal(store.path)
    if not lines:
        yield (
            f"{seal_of(store.path)} is missing, so that an older version in the store's place "
            "would not show - the next command that changes the store writes it"
        )
        return
    found = digest(store.path)
    check_seal(store.path, head(store.connect()))
    if not any(line.endswith(f" {found}\n") for line in lines):
        yield f"{store.path} is not byte for byte what the last job left"


def _odd_rules(con: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """Views, macros and schemas of no version of this program; its own each job makes anew."""
    for (name,) in con.execute(_RULES).fetchall():
        if name not in RULES:
            yield f"{name} is no view, macro or schema of this program's: something else made it"


def _odd_vectors(con: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """Vectors that are not finite, or not as wide as their encoder's."""
    dims = con.execute("SELECT encoder_id, dim FROM encoders ORDER BY 1").fetchall()
    for table, column in _VECTORS.items():
        (kind,) = con.execute(
            f"SELECT column_type FROM (DESCRIBE {table}) WHERE column_name = '{column}'"
        ).fetchall()[0]
        width = kind.partition("[")[2].rstrip("]")
        for encoder, dim in dims:
            if str(dim) != width:
                yield f"{table} is {width} wide, {encoder} makes {dim}"
        (odd,) = con.execute(
            f"SELECT count(*) FROM {table} "
            f"WHERE NOT coalesce(isfinite(array_inner_product({column}, {column})), FALSE)"
        ).fetchall()[0]
        if odd:
            yield f"{table} holds {odd:,} vectors that are not finite"


def _odd_notes(con: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """Notes that are neither ready nor excluded with a reason, or whose windows have a gap."""
    (unaccounted,) = con.execute(_UNACCOUNTED).fetchall()[0]
    if unaccounted:
        yield f"{unaccounted:,} notes are neither ready nor excluded with a reason"
    (incomplete,) = con.execute(_INCOMPLETE).fetchall()[0]
    if incomplete:
        yield f"{incomplete:,} notes lack some of their windows"


def _odd_scorers(con: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """Scorers whose coefficients are not those that were fitted."""
    query = f"SELECT scorer_id FROM scorers WHERE coef_hash <> {COEF_HASH} ORDER BY 1"
    for (scorer,) in con.execute(query).fetchall():
        yield f"the coefficients of {scorer} are not those that were fitted"


def _odd_means(con: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """Of a sample of admissions, those whose mean is not that of their windows."""
    odd = 0
    for cutoff in CUTOFFS:
        # Only of what is up to date: a sync may have changed notes that are not embedded yet.
        sample = con.execute(
            f"""
            SELECT row_number() OVER () - 1 AS place, encoder_id, hadm_id, embedding
            FROM admission_embeddings
            SEMI JOIN admission_windows(cutoff := '{cutoff}')
                USING (encoder_id, hadm_id, cutoff, windows_hash)
            USING SAMPLE {_MEANS} ROWS
            """
        ).to_arrow_table()
        con.register("sample", sample)
        windows = con.execute(
            f"""
            SELECT s.place, e.embedding
            FROM (SELECT place, encoder_id, hadm_id FROM sample) AS s
            INNER JOIN known_notes(cutoff := '{cutoff}') AS k ON s.hadm_id = k.hadm_id
            INNER JOIN embeddings AS e
                ON k.note_id = e.note_id AND k.text_hash = e.text_hash
                AND s.encoder_id = e.encoder_id
            ORDER BY s.place
            """
        ).to_arrow_table()
        con.unregister("sample")
        if len(windows):
            odd += _far_off(sample, windows)
    if odd:
        yield f"{odd:,} means of a sample are not those of their windows"


def _far_off(sample: pa.Table, windows: pa.Table) -> int:
    """How many vectors of a sample are not the means of their windows, to float32's precision."""
    # (means, dim), (windows, dim)
    held, each = (arrow_to_vectors(t["embedding"]).astype(np.float64) for t in (sample, windows))
    places = windows["place"].to_numpy()
    starts = np.flatnonzero(np.diff(places, prepend=-1))
    counts = np.diff(starts, append=len(places))[:, None]
    means = np.add.reduceat(each, starts) / counts
    held = held[np.argsort(sample["place"].to_numpy())]
    if held.shape != means.shape:
        return len(held)
    apart = np.abs(held - means) > 1e-5 * np.maximum(1, np.abs(means))
    return int(apart.any(axis=1).sum())


def _shards(store: Store) -> list[Path]:
    """The staged shards; raises PermissionError where another user may not look into staging."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # a job has ended
        return sorted(
            shard
            for folder in store.staging.iterdir()
            if folder.is_dir() and not folder.is_symlink()
            for shard in folder.iterdir()
            if shard.name.endswith(SUFFIX)
        )
    return []


def _odd_shards(store: Store) -> Iterator[str]:
    """Shards that are damaged, of another store or encoder, or that no job wrote."""
    seal = ShardSeal(store)
    for shard in _shards(store):
        try:
            seal.opened(shard)
        except FileNotFoundError:
            pass  # committed in this moment
        except OSError as error:
            yield f"{shard} is no shard ({error.strerror}) - remove it"
        except FeatureStoreError as error:
            yield str(error)
