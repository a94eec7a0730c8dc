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
from featurestore.store.checksums import contents, has_column, store_hash
from featurestore.store.files import private_file

_PIECE = 1 << 24  # bytes
_LINKED = (
    "run_id, command, started_at, finished_at, status, CAST(counts AS VARCHAR), "
    "CAST(versions AS VARCHAR), uid, hash_before, hash_after"
)


def record_run(con: duckdb.DuckDBPyConnection, **run: Any) -> None:
    """Write a run down, linked to the one before it; `run` has the columns of `runs`."""
    (before,) = con.execute("SELECT max_by(chain, run_id) FROM runs").fetchall()[0]
    con.execute(
        """
        INSERT INTO runs BY NAME
        SELECT
            $run_id AS run_id, $command AS command, $started_at AS started_at,
            $finished_at AS finished_at, 'done' AS status, $counts AS counts,
            $versions AS versions, $uid AS uid, $hash_before AS hash_before,
            $hash_after AS hash_after
        """,
        {**run, "finished_at": datetime.now(), "uid": os.getuid()},
    )
    last = f"SELECT {_LINKED} FROM runs WHERE run_id = $1"
    row = con.execute(last, [run["run_id"]]).fetchall()[0]
    con.execute("UPDATE runs SET chain = $1 WHERE run_id = $2", [_link(before, row), run["run_id"]])


def _link(before: str | None, row: tuple[Any, ...]) -> str:
    """SHA-256 (hex) of a run and the link before it."""
    return hashlib.sha256(json.dumps([before, *row], default=str).encode()).hexdigest()


def broken_links(con: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """Where the trail has a gap, or was changed; a sentence each."""
    if not has_column(con, "runs", "chain"):
        yield "runs has no audit trail yet: the next command that changes the store begins one"
        return
    rows = con.execute(
        f"SELECT {_LINKED}, chain, versions ->> '$.duckdb' FROM runs ORDER BY run_id"
    ).fetchall()
    last, link, left, hashed_by = None, None, None, None
    for *run, chain, duckdb_version in rows:
        number, *_, found, leaves = run
        if last is not None and number != last + 1:
            yield f"runs lacks what came between run {last} and run {number}"
        elif chain != _link(link, tuple(run)) and not (chain is None and link is None):
            yield f"run {number} in runs is not as it was written, or does not follow from the last"
        elif left not in (None, found) and hashed_by == duckdb_version:
            yield f"between run {last} and run {number} something else changed the store"
        last, link, left, hashed_by = number, chain, leaves, duckdb_version
    if last is None:
        yield "runs holds no run"
    elif left not in (None, store_hash(contents(con))) and hashed_by == duckdb.__version__:
        yield f"the store is not as run {last} left it"


def head(con: duckdb.DuckDBPyConnection) -> tuple[int, str]:
    """The last run's number and link; of a store older than the trail the link is empty."""
    chain = "coalesce(max_by(chain, run_id), '')" if has_column(con, "runs", "chain") else "''"
    row: tuple[int, str] = con.execute(
        f"SELECT coalesce(max(run_id), 0), {chain} FROM runs"
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
