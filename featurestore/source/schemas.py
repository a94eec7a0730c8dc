"""Schemas: two SELECTs that map a hospital's tables to the canonical columns."""

import re
from dataclasses import dataclass
from pathlib import Path

from featurestore.errors import SourceError
from featurestore.store.sql_files import SQL

ADMISSION_COLUMNS = (
    *("hadm_id", "subject_id", "admittime", "dischtime", "deathtime", "died_in_hospital"),
    *("admission_type", "planned", "discharge_location", "dod", "dob", "gender"),
    *("ethnicity", "insurance"),
)
NOTE_COLUMNS = (
    *("note_id", "subject_id", "hadm_id", "category", "chartdate", "charttime", "storetime"),
    *("is_error", "text"),
)

# The kinds of type that a canonical column may have. Text is always allowed: sync converts it.
_NUMBER, _TIME, _FLAG = ("number", "text"), ("time", "text"), ("flag", "number", "text")
_KINDS = {
    **dict.fromkeys(("hadm_id", "subject_id"), _NUMBER),
    **dict.fromkeys(("admittime", "dischtime", "deathtime", "dod", "dob"), _TIME),
    **dict.fromkeys(("chartdate", "charttime", "storetime"), _TIME),
    **dict.fromkeys(("died_in_hospital", "planned", "is_error"), _FLAG),
    "text": ("text",),
}


@dataclass(frozen=True)
class Schema:
    """The name of a schema, which the store records, and its two SELECTs."""

    name: str
    admissions: str
    notes: str


def load_schema(schema: str | Path) -> Schema:
    """Read a built-in schema, or the folder with `admissions.sql` and `notes.sql` at a path.

    Raises SourceError where one of the files is missing or is not text.
    """
    built_in = sorted(folder.name for folder in (SQL / "schemas").iterdir() if folder.is_dir())
    name = str(schema) if str(schema) in built_in else str(Path(schema).resolve())
    selects = []
    for table in ("admissions", "notes"):
        file = SQL / "schemas" / name / f"{table}.sql"  # an absolute path replaces the first part
        if not file.is_file():
            raise SourceError(
                f"schema {name} does not exist - use {', '.join(built_in)}, or a folder that "
                "contains admissions.sql and notes.sql"
            )
        try:
            selects.append(file.read_text().rstrip().rstrip(";"))
        except UnicodeDecodeError:
            raise SourceError(f"{file} is not UTF-8 - write the SELECT as plain text") from None
    return Schema(name, *selects)


def check_column_kind(schema: str, table: str, column: str, type_name: str) -> None:
    """Raise SourceError unless a column of this type, in DuckDB or PostgreSQL, can be read."""
    kind = _kind(type_name)
    if kind == "zoned time":
        raise SourceError(
            f"{column.upper()} of {table} has a time zone ({type_name}) - select the hospital's "
            f"local time in {schema}, such as {column} AT TIME ZONE 'Europe/Berlin'"
        )
    allowed = _KINDS.get(column, ("number", "time", "flag", "text"))
    if kind not in allowed:
        raise SourceError(
            f"{column.upper()} of {table} is {type_name}, and should be a {allowed[0]} - CAST "
            f"it in schema {schema}"
        )


def _kind(type_name: str) -> str:
    name = type_name.lower()
    if name in ("timestamptz", "timestamp with time zone"):
        return "zoned time"
    if name == "date" or name.startswith("timestamp"):
        return "time"
    if name.startswith("bool"):
        return "flag"
    if re.match(r"u?(tiny|small|big|huge)?int(eger)?\d*$|decimal|numeric|double|float|real", name):
        return "number"
    if re.search(r"char|text|enum|unknown|null|uuid|json|xml|citext", name):
        return "text"
    return "other"
