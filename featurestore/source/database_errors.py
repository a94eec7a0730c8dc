"""Database errors as messages that quote no value of a row."""

import re
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from featurestore.errors import SourceError
from featurestore.source.file_folder import (
    damaged_gzip,
    first_invalid_json,
    first_line_not_utf8,
    is_damaged_gzip,
    named_file,
)

# DuckDB's errors about a statement itself, raised before a row is read.
_ABOUT_SQL = ("CatalogException", "BinderException", "ParserException")
# Servers may evaluate functions and subqueries while they plan a statement that asks for no row,
# and their error may quote a value. Only errors about names, syntax and rights are shown:
# by the class of SQLSTATE (PostgreSQL, Snowflake), number (MySQL, MariaDB, Oracle) or result code
# (SQLite).
_SQLSTATES = ("02", "0A", "25", "3F", "42")
_ORACLE_CODES = re.compile(r"ORA-0(09\d\d|1031|1456|1789|1790|2289|4063)\b")
_MYSQL_CODES = {
    *(1044, 1046, 1049, 1051, 1052, 1054, 1055, 1056, 1060, 1064, 1066, 1072, 1109, 1110, 1111),
    *(1140, 1141, 1142, 1143, 1146, 1149, 1222, 1235, 1241, 1248, 1305, 1318, 1349, 1356, 1370),
    *(1449, 1582, 1583, 1630, 1792),
}
_SQLITE_ERROR, _SQLITE_BUSY, _SQLITE_NOT_A_DATABASE = 1, 5, 26
_SQLITE_CANNOT_OPEN = (8, 14)  # read-only, as a database in WAL mode on a medium that is; other
_MAX_OWN_LINE = 300  # characters
# PostgreSQL and SQL Server; MySQL and MariaDB; Oracle; Snowflake and Databricks; BigQuery.
_NO_RIGHTS = re.compile(
    "permission.* denied|command denied|ORA-01031|privilege|not have permission",
    re.IGNORECASE,
)
# Words of mssql-python for a lost connection, which SQLAlchemy does not take for one.
_LOST = re.compile("Connection closed|Error fetching LOB")
# Words of DuckDB's messages about a CSV line, which quote the line after them.
_CSV_FAULTS = {
    "Maximum line size": "it is longer than 32 MB",
    "unterminated quote": "a quote is not closed",
    "Expected Number of Columns": "it has more or fewer columns than the first line",
}


class NotUtf8Error(SourceError):
    """A CSV file has bytes that are not UTF-8, the first of them in line `place`."""

    def __init__(self, place: str) -> None:
        super().__init__(f"{place} is not UTF-8 - correct that line; nothing was changed")
        self.place = place


def own_line(error: sa.exc.DBAPIError) -> str:
    """Return the database's own line on a statement that it did not run."""
    driver_error = error.orig or error
    message = driver_error.args[-1] if driver_error.args else driver_error
    line = str(message).strip().partition("\n")[0].strip()
    return line[:_MAX_OWN_LINE].rstrip(".") or type(driver_error).__name__


def is_about_rights(error: sa.exc.DBAPIError) -> bool:
    """Return whether a statement failed because the user may not read a table."""
    return _NO_RIGHTS.search(own_line(error)) is not None


def is_about_sql(error: sa.exc.DBAPIError, dialect: str) -> bool:
    """Return whether a statement that asks for no row failed because of the statement itself."""
    driver_error: Any = error.orig
    if dialect == "duckdb":  # a file that cannot be read fails too
        return type(driver_error).__name__ in _ABOUT_SQL
    if dialect in ("mysql", "mariadb"):
        return bool(driver_error.args) and driver_error.args[0] in _MYSQL_CODES
    if dialect == "oracle":
        return _ORACLE_CODES.match(own_line(error)) is not None
    if dialect == "sqlite":
        code = _sqlite_code(driver_error)
        return code is None or code in (_SQLITE_ERROR, _SQLITE_NOT_A_DATABASE)
    if sqlstate := getattr(driver_error, "sqlstate", None):
        return str(sqlstate).startswith(_SQLSTATES)
    return not error.connection_invalidated and not isinstance(error, sa.exc.DataError)


def _sqlite_code(error: Any) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF  # without the extension


def source_error(
    error: Exception, location: str, schema: str, connected: bool, repaired: bool = False
) -> SourceError:
    """Return the error to raise for one of SQLAlchemy or of a database driver.

    A NotUtf8Error where a CSV file is the cause and is not `repaired` yet.
    """
    # SQLAlchemy wraps the driver's error; a driver that is called directly raises its own.
    driver_error = getattr(error, "orig", None) or error
    kind = type(driver_error).__name__
    # DuckDB 1.5 fails internally on an invalid byte in a column that the query does not read.
    internal = kind in ("InternalException", "FatalException")
    if (internal or "unicode" in str(driver_error)) and not repaired:
        place = first_line_not_utf8(Path(location))
        if place:
            return NotUtf8Error(place)
    # DuckDB's message would quote a part of the line, and its line numbers are not exact.
    if "Malformed JSON" in str(driver_error) or "maximum_object_size" in str(driver_error):
        place = first_invalid_json(Path(location)) or "a line of an ndjson file is not valid JSON"
        return SourceError(f"{location}: {place} - export that file again; nothing was changed")
    if line := re.search(r"CSV Error on Line: (\d+)", str(driver_error)):
        fault = next(
            (fault for words, fault in _CSV_FAULTS.items() if words in str(driver_error)), None
        )
        file = named_file(Path(location), str(driver_error))
        if file and is_damaged_gzip(file):
            return SourceError(damaged_gzip(Path(location), file))
        return SourceError(
            f"{location}: line {line[1]} of {file.name if file else 'a CSV file'} cannot be read "
            f"({fault or 'invalid CSV'}) - correct that line; nothing was changed"
        )
    if _sqlite_code(driver_error) == _SQLITE_BUSY:
        return SourceError(
            f"{location} is locked by a program that writes to it - run this again when that has "
            "finished"
        )
    if _sqlite_code(driver_error) in _SQLITE_CANNOT_OPEN:
        return SourceError(
            f"{location} cannot be opened - check that it is still there and may be read; in WAL "
            "mode SQLite also writes to its folder: copy the file, or end that mode with PRAGMA "
            "journal_mode = DELETE"
        )
    if kind == "IOException" and not connected and "://" not in location:
        return SourceError(
            f"{location} cannot be opened as a DuckDB or SQLite file - check that it is one, and "
            "that no other program writes to it"
        )
    if refused := _refused_login(driver_error):
        return SourceError(f"{location} {refused}, then run this again")
    if not connected or _is_disconnect(error):
        return SourceError(
            f"{location} could not be reached or closed the connection ({kind}) - check that the "
            "database runs and that FEATURESTORE_SOURCE contains its URL with the password, then "
            "run this again; what was finished before is kept"
        )
    return SourceError(
        f"{location} could not be read as {schema} ({kind}) - check that its tables are complete, "
        "and test the SELECTs in the database's own shell"
    )


def _refused_login(driver_error: Any) -> str | None:
    """Return why a PostgreSQL that answered let nobody in, or None if that is not the error.

    psycopg keeps the connection of a failed attempt, and says in no language what was asked of it.
    """
    attempt = getattr(driver_error, "pgconn", None)
    if getattr(attempt, "needs_password", False):
        return (
            "asks for a password, and none was given - set FEATURESTORE_SOURCE to its URL with the "
            "password (cron and systemd do not read your shell's settings)"
        )
    if getattr(attempt, "used_password", False):
        return (
            "runs, but refused to connect - check the user, the password and the name of the "
            "database in FEATURESTORE_SOURCE"
        )
    return None


def _is_disconnect(error: BaseException | None) -> bool:
    """Return whether the connection broke: closing it then may fail too, with another error."""
    if not isinstance(error, sa.exc.DBAPIError | RuntimeError):
        return any(
            base.__name__ in ("OperationalError", "InterfaceError") for base in type(error).__mro__
        )
    while error is not None:
        if getattr(error, "connection_invalidated", False) or _LOST.search(str(error)):
            return True
        error = error.__context__
    return False
