"""DuckDB files, plain or encrypted, opened with nothing else within reach."""

import os
import re
import stat
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import duckdb

from featurestore.errors import FeatureStoreError

DUCKDB = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
}
KEY, KEY_FILE = "FEATURESTORE_KEY", "FEATURESTORE_KEY_FILE"
_SHORTEST_KEY = 16  # characters
# How DuckDB says it. A file that is encrypted is told from one that is damaged by these words.
_NEEDS_KEY, _WRONG_KEY = "without a key", "Wrong encryption key"
_DAMAGED = ("Corrupt database file", "AES tag", "serializ")


def quoted(value: Path | str) -> str:
    """A path or a key as a string of SQL."""
    return "'" + str(value).replace("'", "''") + "'"


def open_duckdb(spill: Path | str = "") -> duckdb.DuckDBPyConnection:
    """A database in memory: it loads nothing, sees no Python variable, spills only where told."""
    con = duckdb.connect(config={**DUCKDB, "temp_directory": str(spill)})
    con.execute("SET enable_progress_bar = false")  # it would write to stdout
    return con


def attach(
    con: duckdb.DuckDBPyConnection,
    file: Path,
    name: str,
    read_only: bool = True,
    encrypt: bool = False,
) -> bool:
    """Attach a DuckDB file; say whether it is encrypted. The key is the environment's.

    `encrypt` makes a new file an encrypted one. Of an encrypted file, what the connection spills is
    encrypted too. Raises FeatureStoreError where the key is missing or another.
    """
    options = "READ_ONLY" if read_only else "READ_WRITE"
    if not encrypt:
        try:
            con.execute(f"ATTACH {quoted(file)} AS {name} ({options})")
        except duckdb.CatalogException as error:
            encrypt = _NEEDS_KEY in str(error)
            if not encrypt:
                raise
    if encrypt:
        key = encryption_key(file)
        load_ciphers(con)
        con.execute("SET temp_file_encryption = true")
        try:
            con.execute(
                f"ATTACH {quoted(file)} AS {name} ({options}, ENCRYPTION_KEY {quoted(key)})"
            )
        except duckdb.InvalidInputException as error:
            raise FeatureStoreError(
                f"{file} is encrypted with another key, or damaged - give its own as {KEY} or, in "
                f"a file, as {KEY_FILE}"
                if _WRONG_KEY in str(error)
                else f"{file} is damaged - restore it from a backup"
            ) from None
    return encrypt


def encryption_key(file: Path) -> str:
    """The key of the environment: FEATURESTORE_KEY, or what the file FEATURESTORE_KEY_FILE holds.

    Raises FeatureStoreError where there is none, or one that others could read or guess.
    """
    key, key_file = os.environ.get(KEY, ""), os.environ.get(KEY_FILE, "")
    if bool(key) == bool(key_file):
        which = "both are set" if key else "neither is set"
        raise FeatureStoreError(
            f"{file} is encrypted, and its key is {KEY} or in the file that {KEY_FILE} names: "
            f"{which} - set one of them"
        )
    if key_file:
        key = _key_in(Path(key_file))
    # DuckDB reads a key as it reads a BLOB, in which other letters and backslashes are codes.
    if len(key) < _SHORTEST_KEY or not re.fullmatch(r"[ -\[\]-~]+", key):
        raise FeatureStoreError(
            f"the key of {file} is too short, or has other signs than ASCII's without the "
            f'backslash: it takes {_SHORTEST_KEY} or more - "openssl rand -base64 32" makes one'
        )
    return key


def _key_in(file: Path) -> str:
    try:
        status = file.stat()
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode)):
            raise OSError
        # systemd lets the group of root read what it hands a service.
        handed = file.parent == Path(os.environ.get("CREDENTIALS_DIRECTORY", "-"))
        if status.st_mode & (0o037 if handed and status.st_uid == 0 else 0o077):
            raise FeatureStoreError(
                f"others can read the key in {file} - chmod 600 {file}, and think of a new key"
            )
        # A pipe, as <(...) of a shell is, can be read but once.
        version = status.st_mtime_ns if stat.S_ISREG(status.st_mode) else 0
        return _read_key(file, status.st_ino, version)
    except (OSError, UnicodeDecodeError):
        raise FeatureStoreError(
            f"the key cannot be read from {file} - see what {KEY_FILE} names"
        ) from None


@cache
def _read_key(file: Path, _inode: int, _version: int) -> str:
    return file.read_text().strip()


def load_ciphers(con: duckdb.DuckDBPyConnection) -> None:
    """Load OpenSSL's AES, which lies in DuckDB's httpfs: without it DuckDB writes no such file.

    Raises FeatureStoreError where the extra `encryption` is not installed.
    """
    package = find_spec("duckdb_extension_httpfs")
    places = package.submodule_search_locations if package else None
    extensions = [
        file for place in places or () for file in Path(place).rglob("httpfs.duckdb_extension")
    ]
    if not extensions or not find_spec("cryptography"):
        raise FeatureStoreError(
            "an encrypted store needs two more packages - "
            'pip install "clinical-featurestore[encryption]"'
        )
    con.execute(f"LOAD {quoted(extensions[0])}")


def is_damage(error: BaseException) -> bool:
    """Whether DuckDB says that a file is not as it was written."""
    return any(words in str(error) for words in _DAMAGED)
