"""The audit log: who did what to a store, each run chained to the one before, and its seal.

The table `runs` is the log. The seal is a file beside the store with the last run and its chain
hash. An older version that is put back does not match it.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from featurestore.errors import StoreDamagedError
from featurestore.store.files import private_file
from featurestore.store.integrity.checksums import checksums, checksums_hash, recorded_checksums

_SEAL_LINE = re.compile(r"[0-9]+ [0-9a-f]{64}\n")
# What the chain hash covers. `contents` is covered by hash_after, its own hash.
_CHAINED = (
    *("run_id", "command", "started_at", "finished_at", "status", "counts", "versions", "uid"),
    "hash_after",
)


def record_run(con: duckdb.DuckDBPyConnection, **run: Any) -> None:
    """Append a run, given by the columns of `runs`, and chain it to the one before."""
    run |= {"finished_at": datetime.now(), "status": "done", "uid": os.getuid()}
    # The difference of two versions' hashes could be compared with rows that were deleted between
    # them, such as a forgotten patient's. The chain keeps hash_after, which reveals nothing.
    con.execute("UPDATE runs SET contents = NULL WHERE contents IS NOT NULL")
    (previous,) = con.execute("SELECT max_by(chain, run_id) FROM runs").fetchall()[0]
    run["chain"] = _chain_hash(previous, tuple(run[column] for column in _CHAINED))
    values = ", ".join(f"${column} AS {column}" for column in run)
    con.execute(f"INSERT INTO runs BY NAME SELECT {values}", run)


def last_run(con: duckdb.DuckDBPyConnection) -> tuple[int, str]:
    """Return the number and the chain hash of the last run."""
    row: tuple[int, str] = con.execute(
        "SELECT coalesce(max(run_id), 0), coalesce(max_by(chain, run_id), '') FROM runs"
    ).fetchall()[0]
    return row


def broken_chain(con: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """Yield a sentence for each place where the log has a gap or was changed."""
    rows = con.execute(
        f"SELECT {', '.join(_CHAINED)}, chain, versions ->> '$.duckdb' FROM runs ORDER BY run_id"
    ).fetchall()
    if not rows:
        yield "runs holds no run"
        return
    last, last_chain, last_hash, last_version = None, None, None, None
    for *run, chain, version in rows:
        run_id, *_, hash_after = run
        if last is not None and run_id != last + 1:
            yield f"runs lacks the runs between {last} and {run_id}"
        elif chain != _chain_hash(last_chain, tuple(run)):
            yield f"run {run_id} in runs was changed, or does not follow from the run before"
        last, last_chain, last_hash, last_version = run_id, chain, hash_after, version
    recorded, _ = recorded_checksums(con)
    same_version = last_version == duckdb.__version__
    if checksums_hash(recorded) != last_hash or (
        same_version and checksums_hash(checksums(con)) != last_hash
    ):
        yield f"the store is not as run {last} left it"


def _chain_hash(previous: str | None, run: tuple[Any, ...]) -> str:
    """Return a SHA-256 (hex) of a run and the chain hash of the run before it."""
    return hashlib.sha256(json.dumps([previous, *run], default=str).encode()).hexdigest()


def seal_path(store: Path) -> Path:
    """Return the path of the seal of a store."""
    return store.with_name(store.name + ".seal")


def seal_line(run: tuple[int, str]) -> str:
    """Return the line of a seal: a run and its chain hash."""
    return f"{run[0]} {run[1]}\n"


def write_seal(store: Path, *lines: str) -> None:
    """Write the versions that the store may be: two lines while it is being replaced.

    The seal can be read by whoever can read the store.
    """
    with private_file(seal_path(store), encoding="ascii") as stream:
        stream.writelines(lines)
        stream.flush()
        if store.exists():
            status = store.stat()
            owner = status.st_uid if os.getuid() == 0 else -1
            os.fchown(stream.fileno(), owner, status.st_gid)
            os.fchmod(stream.fileno(), status.st_mode & 0o777)


def read_seal(store: Path) -> list[str]:
    """Return the lines of the seal, none if there is no seal.

    Raises StoreDamagedError if the seal cannot be read.
    """
    seal = seal_path(store)
    try:
        # Reading a pipe would never end.
        text = seal.read_text(encoding="ascii") if seal.is_file() or not seal.exists() else ""
        lines = text.splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError):
        lines = []
    if not lines or any(not _SEAL_LINE.fullmatch(line) for line in lines):
        raise StoreDamagedError(
            f"{seal} cannot be read, or is damaged - once you are sure that {store} is the right "
            f"file, remove {seal}"
        )
    return lines


def check_seal(store: Path, run: tuple[int, str]) -> None:
    """Raise StoreDamagedError if the store is at another run than its seal."""
    lines = read_seal(store)
    if lines and seal_line(run) not in lines:
        sealed_run = lines[-1].split(" ")[0]
        raise StoreDamagedError(
            f"{store} is at run {run[0]}, but its seal is of run {sealed_run}: the file was "
            f"replaced by an older or another one - if that was you, remove {seal_path(store)}"
        )
