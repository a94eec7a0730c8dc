"""Database errors as messages that name tables and columns, and quote no value."""

import re
from pathlib import Path

from featurestore.errors import SourceError
from featurestore.source.csv_folder import first_line_not_utf8

# Errors that are raised before a row is read, so that their messages contain only names.
_ERRORS_WITHOUT_VALUES = (
    "CatalogException",
    "BinderException",
    "UndefinedTable",
    "UndefinedColumn",
)
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


def source_error(
    error: Exception, location: str, schema: str, repaired: bool = False
) -> SourceError:
    """Return the error to raise for one of SQLAlchemy or of a database driver.

    A NotUtf8Error where a CSV file is the cause and is not `repaired` yet.
    """
    # SQLAlchemy wraps the driver's error; a driver that is called directly raises its own.
    driver_error = getattr(error, "orig", None) or error
    # DuckDB 1.5 fails internally on an invalid byte in a column that the query does not read.
    internal = type(driver_error).__name__ in ("InternalException", "FatalException")
    if (internal or "unicode" in str(driver_error)) and not repaired:
        place = first_line_not_utf8(Path(location))
        if place:
            return NotUtf8Error(place)
    return SourceError(_message(driver_error, location, schema))


def _message(error: Exception, location: str, schema: str) -> str:
    kind = type(error).__name__
    if kind in _ERRORS_WITHOUT_VALUES and (
        message := _missing_name(str(error).partition("\n")[0], location, schema)
    ):
        return message
    if line := re.search(r"CSV Error on Line: (\d+)", str(error)):
        fault = next((fault for words, fault in _CSV_FAULTS.items() if words in str(error)), None)
        return (
            f"{location}: line {line[1]} of a CSV file cannot be read ({fault or 'invalid CSV'}) - "
            "correct that line; nothing was changed"
        )
    if kind in ("ParserException", "SyntaxError"):
        return (
            f"the SELECTs of schema {schema} are not valid SQL - test them in the database's own "
            "shell"
        )
    if {"OperationalError", "InterfaceError"} & {base.__name__ for base in type(error).__mro__}:
        return (
            f"{location} could not be reached or closed the connection ({kind}) - check that the "
            "database runs and that FEATURESTORE_SOURCE contains its URL with the password, then "
            "run this again: finished work is kept"
        )
    return f"{location} could not be read as {schema} ({kind}) - check that its tables are complete"


def _missing_name(message: str, location: str, schema: str) -> str | None:
    """Return a message about the missing table or column that a database's message names."""
    if table := re.search(
        r'(?:[Tt]able (?:with name )?|relation )"?([\w.]+)"? does not exist', message
    ):
        formats, place = "", "database"
        if Path(location).is_dir():
            formats = " (CSV or CSV.gz with a first line of column names, or Parquet)"
            place = "folder"
        return (
            f"{location} has no table {table[1].upper()}{formats} - give the {place} that "
            "contains the hospital's tables"
        )
    if column := re.search(r'[Cc]olumn "?(?:\w+\.)?(\w+)"?', message) or re.search(
        r'does not have a column named "(\w+)"', message
    ):
        return (
            f"{location} has no column {column[1].upper()}, which schema {schema} reads - add the "
            "column, or describe your own tables with --schema DIR"
        )
    return None
