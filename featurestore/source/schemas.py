"""Schemas: the SELECTs that map a hospital's tables to the canonical columns."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featurestore.errors import SourceError
from featurestore.store.schema import OPTIONAL_TABLES
from featurestore.store.sql_files import SQL

# The canonical columns of each table, and those that a SELECT may return besides them.
COLUMNS = {
    "admissions": (
        *("hadm_id", "subject_id", "admittime", "dischtime", "deathtime", "died_in_hospital"),
        *("admission_type", "planned", "discharge_location", "dod", "dob", "gender"),
        *("ethnicity", "insurance"),
    ),
    "notes": (
        *("note_id", "subject_id", "hadm_id", "category", "chartdate", "charttime", "storetime"),
        *("is_error", "text"),
    ),
    "icu_stays": ("icu_stay_id", "hadm_id", "subject_id", "intime", "outtime", "care_unit"),
    "diagnoses": ("hadm_id", "subject_id", "vocabulary", "code"),
    "ed_visits": ("subject_id", "hadm_id", "intime", "outtime"),
    "hospital_score_items": (
        *("hadm_id", "subject_id", "hemoglobin", "sodium", "oncology_service", "had_procedure"),
    ),
}
_OPTIONAL_COLUMNS = {"admissions": ("observed_until",)}
# Text ids in place of numbers: sync makes stable numbers of them.
TEXT_IDS = {"hadm_id": "source_hadm_id", "subject_id": "source_subject_id"}

# The kinds of type that a canonical column may have. Text is always allowed: sync converts it.
_NUMBER, _TIME, _FLAG = ("number", "text"), ("time", "text"), ("flag", "number", "text")
_KINDS = {
    **dict.fromkeys(("hadm_id", "subject_id"), _NUMBER),
    **dict.fromkeys(("admittime", "dischtime", "deathtime", "dod", "observed_until"), _TIME),
    "dob": ("number", "time", "text"),  # a year, or YYYYMMDD
    **dict.fromkeys(("chartdate", "charttime", "storetime"), _TIME),
    **dict.fromkeys(("died_in_hospital", "planned", "is_error"), _FLAG),
    **dict.fromkeys(("oncology_service", "had_procedure"), _FLAG),
    **dict.fromkeys(("intime", "outtime"), _TIME),
    **dict.fromkeys(("hemoglobin", "sodium"), _NUMBER),
    "text": ("text",),
}

# Schemas that are another one with a part of its column names replaced.
_RENAMED = {"omop53": ("omop", "discharged_to_", "discharge_to_")}

# The parts of SQL in which a semicolon ends no statement, and the semicolon.
_BACKSLASH_ESCAPES = ("mysql", "mariadb", "bigquery", "databricks", "snowflake")
_COMMENT = r"--[^\n]*|/\*.*?\*/"
_SQL_PARTS = [
    re.compile(rf"""{text}|"[^"]*"|`[^`]*`|\$(\w*)\$.*?\$\1\$|{_COMMENT}|;""", re.DOTALL)
    for text in (r"'[^']*'", r"'(?:[^'\\]|\\.)*'")
]


@dataclass(frozen=True)
class Schema:
    """The name of a schema, which the store records, and its SELECT of each table."""

    name: str
    selects: dict[str, str]


@dataclass(frozen=True)
class CanonicalTable:
    """A SELECT of a schema with the canonical columns that it returns."""

    name: str  # a key of COLUMNS
    select: str
    columns: Sequence[str]


def built_in_schemas() -> list[str]:
    """Return the names of the schemas that this project ships."""
    folders = (folder.name for folder in (SQL / "schemas").iterdir() if folder.is_dir())
    return sorted([*folders, *_RENAMED])


def schema_name(schema: str | Path) -> str:
    """Return the name of a built-in schema, or the absolute path of a folder of one's own."""
    return str(schema) if str(schema) in built_in_schemas() else str(Path(schema).resolve())


def load_schema(schema: str | Path, dialect: str) -> Schema:
    """Read a built-in schema, or the folder with `admissions.sql` and `notes.sql` at a path.

    A file of each table of OPTIONAL_TABLES may be there too. A file such as
    `admissions.DIALECT.sql`, with SQLAlchemy's name of the dialect, takes the place of the general
    one. Raises SourceError where a file is missing or is not text.
    """
    name = schema_name(schema)
    folder_name, old, new = _RENAMED.get(name, (name, "", ""))
    folder = SQL / "schemas" / folder_name  # an absolute path replaces the first part
    selects = {}
    for table in COLUMNS:
        files = (folder / f"{table}.{dialect}.sql", folder / f"{table}.sql")
        file = next((file for file in files if file.is_file()), None)
        if file is None and table in OPTIONAL_TABLES:
            continue
        if file is None:
            raise SourceError(
                f"schema {name} does not exist - use {', '.join(built_in_schemas())}, or a folder "
                "that contains admissions.sql and notes.sql"
            )
        try:
            text = file.read_text(encoding="utf-8-sig")  # editors of Windows write a mark
        except UnicodeDecodeError:
            raise SourceError(f"{file} is not UTF-8 - write the SELECT as plain text") from None
        select = _one_statement(file, text, dialect)
        selects[table] = select.replace(old, new) if old else select
    return Schema(name, selects)


def _one_statement(file: Path, text: str, dialect: str) -> str:
    """Return the statement of a file without its semicolon; raise SourceError at a second one."""
    parts = _SQL_PARTS[dialect in _BACKSLASH_ESCAPES]
    ends = [part.start() for part in parts.finditer(text) if part[0] == ";"]
    if not ends:
        return text.rstrip()
    if re.sub(_COMMENT, "", text[ends[0] :], flags=re.DOTALL).strip("; \t\r\n"):
        raise SourceError(f"{file} contains more than one statement - leave the SELECT alone")
    return text[: ends[0]].rstrip()


def selected_columns(schema: str, table: str, available: Sequence[str]) -> list[str]:
    """Return the columns to read from a SELECT that returns `available`.

    Raises SourceError where a canonical column is missing, is there twice, or is quoted in another
    case than lower.
    """
    for name in set(available) - {column.lower() for column in available}:
        if name.lower() in COLUMNS[table] and name.lower() not in available:
            raise SourceError(
                f'{table}.sql of schema {schema} returns "{name}" in quotes - write it without, or '
                "in lower case"
            )
    columns = [
        TEXT_IDS[name] if name not in available and TEXT_IDS.get(name) in available else name
        for name in COLUMNS[table]
    ]
    if missing := [name for name in columns if name not in available]:
        raise SourceError(
            f"{table}.sql of schema {schema} does not return {', '.join(missing).upper()} - add "
            "the column, as NULL where the hospital does not record it"
        )
    columns += [name for name in _OPTIONAL_COLUMNS.get(table, ()) if name in available]
    if repeated := [name for name in columns if available.count(name) > 1]:
        raise SourceError(
            f"{table}.sql of schema {schema} returns {', '.join(repeated).upper()} more than once "
            "- leave one"
        )
    return columns


def escaped(query: str) -> str:
    """Return a query in which SQLAlchemy finds no parameters."""
    return query.replace(":", "\\:")


def check_column_kind(
    schema: str, table: str, column: str, type_name: str, kind: str | None = None
) -> None:
    """Raise SourceError unless a column of this type can be read.

    The kind (number, time, zoned time, flag, text or other) follows from a name of DuckDB or
    PostgreSQL where it is not given.
    """
    kind = kind or _kind(type_name)
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
