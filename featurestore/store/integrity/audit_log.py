"""The audit log: who did what to a store, each run chained to the one before, and its seal.

The table `runs` is the log. The seal is a file beside the store with the last run, its chain hash
and the hash of DuckDB's header. An older version that is put back does not match it, and another
program that writes to the file changes the header.
"""

import hashlib
import json
import os
import pwd
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from featurestore.errors import StoreDamagedError
from featurestore.store.files import private_file
from featurestore.store.integrity.checksums import (
    changed_rows,
    checksums_hash,
    recorded_checksums,
)
from featurestore.store.schema import SMALL_TABLES

_SEAL_LINE = re.compile(r"[0-9]+ [0-9a-f]{64} [0-9a-f]{64}\n")
_HEADER_BYTES = 3 * 4_096  # of a DuckDB file; each checkpoint that changes it writes a new header
# What the chain hash covers. `contents` is covered by hash_after, its own hash.
_CHAINED = (
    *("run_id", "command", "started_at", "finished_at", "status", "counts", "versions", "uid"),
    *("hash_after", "changed_since"),
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
        f"SELECT {', '.join(_CHAINED)}, hash_after, chain FROM runs ORDER BY run_id"
    ).fetchall()
    if not rows:
        yield "runs holds no run"
        return
    last, last_chain, last_hash = None, None, None
    for *run, hash_after, chain in rows:
        run_id = run[0]
        if last is not None and run_id != last + 1:
            yield f"runs lacks the runs between {last} and {run_id}"
        elif chain != _chain_hash(last_chain, tuple(run)):
            yield f"run {run_id} in runs was changed, or does not follow from the run before"
        last, last_chain, last_hash = run_id, chain, hash_after
    recorded, _ = recorded_checksums(con)
    if checksums_hash(recorded) != last_hash:
        yield f"the checksums in runs are not those that run {last} recorded"


def _chain_hash(previous: str | None, run: tuple[Any, ...]) -> str:
    """Return a SHA-256 (hex) of a run and the chain hash of the run before it."""
    return hashlib.sha256(json.dumps([previous, *run], default=str).encode()).hexdigest()


def seal_path(store: Path) -> Path:
    """Return the path of the seal of a store."""
    return store.with_name(store.name + ".seal")


def seal_line(run: tuple[int, str], file: Path) -> str:
    """Return the line of a seal: a run, its chain hash, and the hash of the header of its file."""
    return f"{run[0]} {run[1]} {_header_hash(file)}\n"


def _header_hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.sha256(stream.read(_HEADER_BYTES)).hexdigest()


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


def sealed(store: Path, run: tuple[int, str]) -> list[str]:
    """Return the lines of the seal that are of this run."""
    return [line for line in read_seal(store) if line.split(" ")[:2] == [str(run[0]), run[1]]]


def check_seal(store: Path, run: tuple[int, str]) -> None:
    """Raise StoreDamagedError if the store is at another run than its seal."""
    lines = read_seal(store)
    if lines and not sealed(store, run):
        sealed_run = lines[-1].split(" ")[0]
        raise StoreDamagedError(
            f"{store} is at run {run[0]}, but its seal is of run {sealed_run}: the file was "
            f"replaced by an older or another one - if that was you, remove {seal_path(store)}"
        )


def changed_since(store: Path, con: duckdb.DuckDBPyConnection, file: Path) -> int | None:
    """Return the run after which another program changed the store, until that is accepted.

    `file` is the store, or a copy of it; `con` reads it. None if no other program did.
    """
    rows = con.execute(
        "SELECT changed_since, hash_after FROM runs ORDER BY run_id DESC LIMIT 1"
    ).fetchall()
    since, recorded_hash = rows[0] if rows else (None, None)
    if since is not None:
        return int(since)
    run = last_run(con)
    lines = sealed(store, run)
    # Without a seal: the next job records small tables, and tables without a checksum, as they are.
    is_changed = (
        (lines and seal_line(run, file) not in lines)
        or checksums_hash(recorded_checksums(con)[0]) != recorded_hash
        or changed_rows(con, SMALL_TABLES)
    )
    return run[0] if is_changed else None


def user_name(number: int | None = None) -> str:
    """Return the name of a user, of this process by default, or the number if it has no name."""
    number = os.getuid() if number is None else number
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
