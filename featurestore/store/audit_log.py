"""The audit trail: who did what to a store, each run chained to the one before it, and its seal.

The chain stands in `runs`. The seal is a file beside the store with the last link and a hash of the
whole file: an older version that is put back, or a byte that is changed, does not fit it.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from featurestore.errors import FeatureStoreError
from featurestore.store.checksums import contents, store_hash
from featurestore.store.files import private_file

_PIECE = 1 << 24  # bytes
_COLUMNS = (
    *("run_id", "command", "started_at", "finished_at", "status", "counts", "versions", "uid"),
    *("hash_before", "hash_after"),
)


def record_run(con: duckdb.DuckDBPyConnection, **run: Any) -> None:
    """Write a run down, linked to the one before it; `run` has the columns of `runs`."""
    run |= {"finished_at": datetime.now(), "status": "done", "uid": os.getuid()}
    (before,) = con.execute("SELECT max_by(chain, run_id) FROM runs").fetchall()[0]
    run["chain"] = _link(before, tuple(run[column] for column in _COLUMNS))
    values = ", ".join(f"${column} AS {column}" for column in run)
    con.execute(f"INSERT INTO runs BY NAME SELECT {values}", run)


def _link(before: str | None, row: tuple[Any, ...]) -> str:
    """SHA-256 (hex) of a run and the link before it."""
    return hashlib.sha256(json.dumps([before, *row], default=str).encode()).hexdigest()


def broken_links(con: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """Where the trail has a gap, or was changed; a sentence each."""
    rows = con.execute(
        f"SELECT {', '.join(_COLUMNS)}, chain, versions ->> '$.duckdb' FROM runs ORDER BY run_id"
    ).fetchall()
    last, link, left, hashed_by = None, None, None, None
    for *run, chain, duckdb_version in rows:
        number, *_, found, leaves = run
        if last is not None and number != last + 1:
            yield f"runs lacks what came between run {last} and run {number}"
        elif chain != _link(link, tuple(run)):
            yield f"run {number} in runs is not as it was written, or does not follow from the last"
        elif left not in (None, found) and hashed_by == duckdb_version:
            yield f"between run {last} and run {number} something else changed the store"
        last, link, left, hashed_by = number, chain, leaves, duckdb_version
    if last is None:
        yield "runs holds no run"
    elif left not in (None, store_hash(contents(con))) and hashed_by == duckdb.__version__:
        yield f"the store is not as run {last} left it"


def head(con: duckdb.DuckDBPyConnection) -> tuple[int, str]:
    """The last run's number and link."""
    row: tuple[int, str] = con.execute(
        "SELECT coalesce(max(run_id), 0), coalesce(max_by(chain, run_id), '') FROM runs"
    ).fetchall()[0]
    return row


def seal_of(store: Path) -> Path:
    """The seal's name, beside the store."""
    return store.with_name(store.name + ".seal")


def sealed(run: tuple[int, str], file: Path) -> str:
    """The line of a seal for a store's file: run, link, and a hash of every byte."""
    return f"{run[0]} {run[1]} {digest(file)}\n"


def is_of(line: str, run: tuple[int, str]) -> bool:
    """Whether a line of a seal is of a run."""
    return line.startswith(f"{run[0]} {run[1]} ")


def write_seal(store: Path, *lines: str) -> None:
    """Write what the store may be from now on: two lines for as long as it is being replaced.

    Whoever may read the store may read its seal.
    """
    with private_file(seal_of(store), encoding="ascii") as stream:
        stream.writelines(lines)
        stream.flush()
        if store.exists():
            status = store.stat()
            owner = status.st_uid if os.getuid() == 0 else -1
            os.fchown(stream.fileno(), owner, status.st_gid)
            os.fchmod(stream.fileno(), status.st_mode & 0o777)


def read_seal(store: Path) -> list[str]:
    """The lines of the seal; none where there is no seal. Raises FeatureStoreError."""
    seal = seal_of(store)
    try:
        # A pipe would never end.
        text = seal.read_text(encoding="ascii") if seal.is_file() or not seal.exists() else ""
        lines = text.splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError):
        lines = []
    if not lines or any(len(line.split(" ")) != 3 for line in lines):
        raise FeatureStoreError(
            f"{seal} cannot be read, or is damaged - once you are sure that {store} is the file "
            f"that should be there, remove {seal}"
        )
    return lines


def check_seal(store: Path, run: tuple[int, str]) -> None:
    """Raise FeatureStoreError where another version lies in the place of the last one."""
    lines = read_seal(store)
    if lines and not any(is_of(line, run) for line in lines):
        last = lines[-1].split(" ")[0]
        raise FeatureStoreError(
            f"{store} is at run {run[0]}, and its seal is of run {last}: an older or another file "
            f"was put in its place - if that was you, remove {seal_of(store)}"
        )


def digest(file: Path) -> str:
    """SHA-256 (hex) over the SHA-256 of each 16 MiB of a file, taken on all cores."""
    with file.open("rb") as stream, ThreadPoolExecutor(os.cpu_count()) as pool:
        descriptor = stream.fileno()
        starts = range(0, os.fstat(descriptor).st_size, _PIECE)

        def piece(start: int) -> bytes:
            return hashlib.sha256(os.pread(descriptor, _PIECE, start)).digest()

        return hashlib.sha256(b"".join(pool.map(piece, starts))).hexdigest()
