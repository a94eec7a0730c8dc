"""DuckDB files, plain or encrypted, on connections that reach nothing else."""

import os
import re
import stat
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import duckdb

from featurestore.errors import EncryptionKeyError, FeatureStoreError, StoreDamagedError

DUCKDB = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
}
KEY, KEY_FILE = "FEATURESTORE_KEY", "FEATURESTORE_KEY_FILE"
# DuckDB's row groups of 122,880 vectors are larger than the memory of a commit, which spills them.
ROW_GROUP = 16_384  # rows
_SHORTEST_KEY = 16  # characters
# DuckDB's own words: its exception classes do not tell an encrypted file from a damaged one.
_NEEDS_KEY, _WRONG_KEY = "without a key", "Wrong encryption key"
_DAMAGED = ("Corrupt database file", "AES tag", "serializ")


def quoted(value: Path | str) -> str:
    """Return a path or a key as an SQL string."""
    return "'" + str(value).replace("'", "''") + "'"


def open_duckdb(spill: Path | str = "") -> duckdb.DuckDBPyConnection:
    """Open an in-memory database that loads no extension, sees no Python variable and spills to
    `spill` alone."""
    con = duckdb.connect(config={**DUCKDB, "temp_directory": str(spill)})
    con.execute("SET enable_progress_bar = false")  # It would write to stdout.
    return con


def attach(
    con: duckdb.DuckDBPyConnection,
    file: Path,
    name: str,
    read_only: bool = True,
    encrypt: bool = False,
) -> bool:
    """Attach a DuckDB file and return whether it is encrypted, with the key of the environment.

    `encrypt` encrypts a new file. What the connection spills is encrypted if the file is. Raises
    EncryptionKeyError if the key is missing or wrong, StoreDamagedError if the file is damaged.
    """
    options = "READ_ONLY" if read_only else f"READ_WRITE, ROW_GROUP_SIZE {ROW_GROUP}"
    if not encrypt:
        try:
            con.execute(f"ATTACH {quoted(file)} AS {name} ({options})")
        except duckdb.CatalogException as error:
            encrypt = _NEEDS_KEY in str(error)
            if not encrypt:
                raise
    if encrypt:
        key = encryption_key(file)
        con.execute(f"LOAD {quoted(cipher_extension())}")
        con.execute("SET temp_file_encryption = true")
        try:
            con.execute(
                f"ATTACH {quoted(file)} AS {name} ({options}, ENCRYPTION_KEY {quoted(key)})"
            )
        except duckdb.InvalidInputException as error:
            if _WRONG_KEY in str(error):
                raise EncryptionKeyError(
                    f"{file} is encrypted with another key, or damaged - set its own key as {KEY}, "
                    f"or as {KEY_FILE} the file that holds it"
                ) from None
            raise StoreDamagedError(f"{file} is damaged - restore it from a backup") from None
    return encrypt


def is_damage(error: BaseException) -> bool:
    """Return whether DuckDB reports that a file is not as it was written."""
    return any(words in str(error) for words in _DAMAGED)


def encryption_key(file: Path) -> str:
    """Return the key: FEATURESTORE_KEY, or the content of the file FEATURESTORE_KEY_FILE.

    Raises EncryptionKeyError if it is missing, too short or readable by others.
    """
    key, key_file = os.environ.get(KEY, ""), os.environ.get(KEY_FILE, "")
    if bool(key) == bool(key_file):
        which = "both are set" if key else "neither is set"
        raise EncryptionKeyError(
            f"{file} is encrypted, and its key is {KEY} or in the file that {KEY_FILE} names: "
            f"{which} - set one of them"
        )
    if key_file:
        key = _key_in(Path(key_file))
    # DuckDB parses a key like a BLOB literal, in which other characters and backslashes are codes.
    if len(key) < _SHORTEST_KEY or not re.fullmatch(r"[ -\[\]-~]+", key):
        raise EncryptionKeyError(
            f"the key of {file} is too short or has unsupported characters: use at least "
            f'{_SHORTEST_KEY} ASCII characters and no backslash - "openssl rand -base64 32" makes '
            "one"
        )
    return key


def _key_in(file: Path) -> str:
    try:
        status = file.stat()
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode)):
            raise OSError
        # systemd gives root's group read access to the credentials of a service.
        is_credential = file.parent == Path(os.environ.get("CREDENTIALS_DIRECTORY", "-"))
        if status.st_mode & (0o037 if is_credential and status.st_uid == 0 else 0o077):
            raise EncryptionKeyError(
                f"others can read the key in {file} - chmod 600 {file}, and choose a new key"
            )
        # A pipe, such as <(...) in a shell, can be read only once.
        version = status.st_mtime_ns if stat.S_ISREG(status.st_mode) else 0
        return _read_key(file, status.st_ino, version)
    except (OSError, UnicodeDecodeError):
        raise EncryptionKeyError(
            f"the key cannot be read from {file} - check the path in {KEY_FILE}"
        ) from None


@cache
def _read_key(file: Path, _inode: int, _version: int) -> str:
    return file.read_text().strip()


def cipher_extension() -> Path:
    """Return the path of DuckDB's httpfs, whose OpenSSL encrypts what DuckDB writes.

    Raises FeatureStoreError if the extra `encryption` is not installed.
    """
    package = find_spec("duckdb_extension_httpfs")
    folders = package.submodule_search_locations if package else None
    extensions = [
        file for folder in folders or () for file in Path(folder).rglob("httpfs.duckdb_extension")
    ]
    if not extensions or not find_spec("cryptography"):
        raise FeatureStoreError(
            "an encrypted store needs two more packages - "
            'pip install "clinical-featurestore[encryption]"'
        )
    return extensions[0]
