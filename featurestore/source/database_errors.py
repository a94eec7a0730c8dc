"""Database errors as messages that quote no value of a row."""

import re
from pathlib import Path

import sqlalchemy as sa

from featurestore.errors import SourceError
from featurestore.source.file_folder import first_invalid_json, first_line_not_utf8

# DuckDB's errors about a statement itself, raised before a row is read.
_ABOUT_SQL = ("CatalogException", "BinderException", "ParserException")
_MAX_OWN_LINE = 300  # characters
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


def is_about_sql(error: sa.exc.DBAPIError, dialect: str) -> bool:
    """Return whether a statement that asks for no row failed because of the statement itself."""
    if dialect == "duckdb":  # a file that cannot be read fails too
        return type(error.orig).__name__ in _ABOUT_SQL
    return not error.connection_invalidated


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
        return SourceError(
            f"{location}: line {line[1]} of a CSV file cannot be read ({fault or 'invalid CSV'}) - "
            "correct that line; nothing was changed"
        )
    if not connected or _is_disconnect(error):
        return SourceError(
            f"{location} could not be reached or closed the connection ({kind}) - check that the "
            "database runs and that FEATURESTORE_SOURCE contains its URL with the password, then "
            "run this again: finished work is kept"
        )
    return SourceError(
        f"{location} could not be read as {schema} ({kind}) - check that its tables are complete, "
        "and test the SELECTs in the database's own shell"
    )


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
