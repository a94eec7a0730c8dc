"""Read any database that SQLAlchemy has a dialect for: stream the rows, hash the texts here.

Statements are SQLAlchemy's own around the SELECTs of a schema, so that each dialect writes its
way of limiting rows and of naming a subquery.
"""

import contextlib
import math
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from featurestore.errors import SourceError
from featurestore.source.note_texts import BLANKS, NOT_UTF8, TEXTS_PER_LIST, note_text, text_hash
from featurestore.source.schemas import TEXT_IDS, CanonicalTable, check_column_kind, escaped

Row = Sequence[Any]

ROWS_TO_CHECK = 1_000
IDS_PER_QUERY = 250  # Databricks takes 255 parameters, Oracle 1,000 in a list, SQL Server 2,100
_TRIALS = 3  # queries by id whose time decides between more of them and one pass
_ROWS_PER_SECOND = 30_000  # of one pass over texts, at least
_INDEX_ROWS, _ADMISSION_ROWS = 1_000, 5_000  # that are in memory at once
_TIMES = ("storetime", "charttime", "chartdate")
_ARROW_TYPES = {str: pa.string(), int: pa.int64(), datetime: pa.timestamp("us")}


class _NoteText(sa.types.UserDefinedType[Any]):
    """The type of a note's text, which SQL Server returns as bytes of UTF-16."""

    cache_ok = True

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Any:
        """Return the function that makes text of what the driver returns, where one is needed."""
        return _from_utf16 if dialect.name == "mssql" else None


def _from_utf16(value: Any) -> Any:
    return value.decode("utf-16-le", "surrogatepass") if isinstance(value, bytes) else value


class _note_text(FunctionElement[Any]):  # noqa: N801 - a function of SQL
    """The text of a note. Drivers of SQL Server fail at half a character, so they get bytes."""

    inherit_cache = True
    type = _NoteText()


@compiles(_note_text)
def _as_it_is(element: _note_text, compiler: Any, **options: Any) -> str:
    return str(compiler.process(element.clauses, **options))


@compiles(_note_text, "mssql")
def _as_bytes(element: _note_text, compiler: Any, **options: Any) -> str:
    text = compiler.process(element.clauses, **options)
    return f"CAST(CAST({text} AS NVARCHAR(max)) AS VARBINARY(max))"


def no_rows(select: str) -> sa.Select[Any]:
    """Return the statement that asks for the columns of a schema's SELECT, and for no row."""
    inner = sa.text(f"{escaped(select)}\n").columns().subquery("selected")
    return sa.select(sa.text("*")).select_from(inner).where(sa.text("1 = 0"))


def canonical(table: CanonicalTable) -> sa.Subquery:
    """Return a schema's SELECT as a subquery with its canonical columns."""
    columns: list[sa.ColumnClause[Any]] = [sa.column(name) for name in table.columns]
    return sa.text(f"{escaped(table.select)}\n").columns(*columns).subquery(table.name)


def all_rows(table: CanonicalTable) -> sa.Select[Any]:
    """Return the statement for all rows."""
    return _select(canonical(table), table.columns)


def _select(rows: sa.Subquery, columns: Sequence[str]) -> sa.Select[Any]:
    return sa.select(
        *(
            _note_text(rows.c.text).label("text") if name == "text" else rows.c[name]
            for name in columns
        )
    )


def first_rows(table: CanonicalTable, columns: Sequence[str]) -> sa.Select[Any]:
    """Return the statement for some columns of the first rows, whose types are looked at."""
    return _select(canonical(table), columns).limit(ROWS_TO_CHECK)


def notes_since(notes: CanonicalTable, since: date, examples: dict[str, Any]) -> sa.Select[Any]:
    """Return the statement for the notes with a time on that day or later, or with none.

    `examples` holds a value of each column of times, or None where no row has one.
    """
    rows = canonical(notes)
    typed = {name: value for name, value in examples.items() if value is not None}
    on_or_after = [rows.c[name] >= _day_like(since, value) for name, value in typed.items()]
    without_time = sa.and_(
        sa.true(),
        *(
            rows.c[name].is_(None) | (rows.c[name] == "")
            if isinstance(value, str)
            else rows.c[name].is_(None)
            for name, value in typed.items()
        ),
    )
    statement = _select(rows, notes.columns)
    return statement.where(sa.or_(*on_or_after, without_time)) if typed else statement


def texts_by_id(notes: CanonicalTable, note_ids: Sequence[Any]) -> sa.Select[Any]:
    """Return the statement for the texts of a few notes, about IDS_PER_QUERY."""
    rows = canonical(notes)
    return _select(rows, ["note_id", "text"]).where(rows.c.note_id.in_(note_ids))


def all_texts(notes: CanonicalTable) -> sa.Select[Any]:
    """Return the statement for the texts of all notes."""
    return _select(canonical(notes), ["note_id", "text"])


def first_value(table: CanonicalTable, column: str) -> sa.Select[Any]:
    """Return the statement for a value of a column that is not NULL, in any row."""
    rows = canonical(table)
    return _select(rows, [column]).where(rows.c[column].is_not(None)).limit(1)


def n_notes(notes: CanonicalTable) -> sa.Select[Any]:
    """Return the statement that counts the notes."""
    return sa.select(sa.func.count()).select_from(canonical(notes))


def check_kinds(connection: sa.Connection, schema: str, table: CanonicalTable) -> None:
    """Raise SourceError where a value in the first 1,000 rows does not fit its column."""
    examples = _examples(connection, table, table.columns)
    for column, value in examples.items():
        # As texts, two such ids could be the same.
        is_id = column in ("note_id", *TEXT_IDS.values())
        if is_id and isinstance(value, bytes) and not note_text(value)[1]:
            raise SourceError(
                f"{column.upper()} of {table.name} is binary - make a text of it in schema "
                f"{schema}, such as HEX({column})"
            )
        if value is not None:
            type_name = f"{type(value).__name__} in the first {ROWS_TO_CHECK:,} rows"
            check_column_kind(schema, table.name, column, type_name, _kind_of(value))


def read_rows(connection: sa.Connection, table: CanonicalTable) -> Iterator[pa.RecordBatch]:
    """Yield all rows, as text."""
    schema = _schema(table.columns)
    yield pa.RecordBatch.from_pylist([], schema)
    for rows in _rows(connection, all_rows(table), _ADMISSION_ROWS):
        columns = map(_as_text, zip(*rows, strict=True), table.columns)
        yield pa.record_batch([*columns], schema=schema)


def read_index(
    connection: sa.Connection, notes: CanonicalTable, since: date | None
) -> Iterator[pa.RecordBatch]:
    """Yield all notes, as text, with the MD5, the length and the problem of each text.

    With `since`, only the notes with a time on that day or later, and those without a time.
    """
    statement = all_rows(notes)
    if since:
        examples = _examples(connection, notes, _TIMES)
        for column in [column for column, value in examples.items() if value is None]:
            # A hospital may record a time from some year on.
            examples[column] = connection.execute(first_value(notes, column)).scalar()
        statement = notes_since(notes, since, examples)
    position = notes.columns.index("text")
    names = [name for name in notes.columns if name != "text"]
    schema = _schema([*names, "text_hash", "n_chars", "text_problem"])
    yield pa.RecordBatch.from_pylist([], schema)
    for rows in _rows(connection, statement, _INDEX_ROWS):
        columns = list(zip(*rows, strict=True))
        texts = columns.pop(position)
        yield pa.record_batch([*map(_as_text, columns, names), *_describe(texts)], schema=schema)


def read_texts(
    connection: sa.Connection, notes: CanonicalTable, note_ids: Sequence[str]
) -> Iterator[list[tuple[str, str]]]:
    """Yield lists of (note_id, text) of the given notes, and perhaps of others.

    Notes are read by their ids, a few at a time; in one pass over all notes where most are wanted,
    or where reading by id is slow, as without an index on the column that note_id comes from.
    """
    is_few = len(note_ids) <= IDS_PER_QUERY
    total = math.inf if is_few else connection.execute(n_notes(notes)).scalar_one()
    if len(note_ids) <= total / 2:
        example = _examples(connection, notes, ["note_id"])["note_id"]
        is_sqlite = connection.dialect.name == "sqlite"
        forms_of = _sqlite_forms if is_sqlite else _converter(example)
        parts = [note_ids[at : at + IDS_PER_QUERY] for at in range(0, len(note_ids), IDS_PER_QUERY)]
        fastest = math.inf
        for number, part in enumerate(parts, 1):
            started = time.perf_counter()
            ids = [form for note_id in part for form in forms_of(note_id)]
            pairs = list(_pairs(connection, texts_by_id(notes, ids)))
            fastest = min(fastest, time.perf_counter() - started)
            yield from pairs
            in_one_pass = total / _ROWS_PER_SECOND
            if number == _TRIALS and fastest * (len(parts) - number) > in_one_pass:
                break
        else:
            return
    yield from _pairs(connection, all_texts(notes))


def _pairs(connection: sa.Connection, statement: sa.Select[Any]) -> Iterator[list[tuple[str, str]]]:
    """Yield lists of (note_id, text)."""
    for rows in _rows(connection, statement, TEXTS_PER_LIST):
        ids, texts = zip(*rows, strict=True)
        yield [
            (note_id, note_text(text)[0])
            for note_id, text in zip(_as_text(ids, "note_id").to_pylist(), texts, strict=True)
        ]


def _rows(
    connection: sa.Connection, statement: sa.Select[Any], at_once: int
) -> Iterator[Sequence[Row]]:
    with connection.execution_options(yield_per=at_once).execute(statement) as result:
        yield from result.partitions()


def _examples(
    connection: sa.Connection, table: CanonicalTable, columns: Sequence[str]
) -> dict[str, Any]:
    """Return the first value of each column in the first rows that is not NULL, else None."""
    examples: dict[str, Any] = dict.fromkeys(columns)
    with connection.execute(first_rows(table, columns)) as result:
        for row in result:
            for column, value in zip(columns, row, strict=True):
                if examples[column] is None:
                    examples[column] = value
    return examples


def _schema(names: Sequence[str]) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in names])


def _describe(texts: Sequence[Any]) -> list[pa.Array]:
    """Return the MD5, the length in characters and the problem of each text."""
    hashes, lengths, problems = [], [], []
    for value in texts:
        text, valid = note_text(value)
        hashes.append(text_hash(text))
        lengths.append(str(len(text)))
        is_blank = not text.strip(BLANKS)
        problems.append(NOT_UTF8 if not valid else "empty text" if is_blank else None)
    return [pa.array(column, pa.string()) for column in (hashes, lengths, problems)]


def _as_text(values: Sequence[Any], column: str) -> pa.Array:
    """Return the values of a column as text, as a CSV file would have them: without empty texts.

    Raises SourceError for a time with a time zone, which may come after the rows that were checked.
    """
    types = set(map(type, values)) - {type(None)}
    if any(issubclass(kind, datetime) for kind in types) and any(
        isinstance(value, datetime) and value.tzinfo for value in values
    ):
        raise SourceError(
            f"{column.upper()} has times with a time zone - select the hospital's local time, such "
            f"as {column} AT TIME ZONE 'Europe/Berlin'; nothing was changed"
        )
    if str in types:
        # As SQLite's import of a CSV file leaves them, and Oracle stores them.
        values = [None if value == "" else value for value in values]
    if len(types) == 1 and (arrow_type := _ARROW_TYPES.get(types.pop())):
        with contextlib.suppress(pa.ArrowException, OverflowError, UnicodeEncodeError):
            return pa.array(values, arrow_type).cast(pa.string())
    return pa.array(map(_value_as_text, values), pa.string())


def _value_as_text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, datetime):
        return value.isoformat(" ")
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        return str(int(value))
    if value in (b"\0", b"\1"):  # MySQL's BIT(1)
        return str(value[0])
    if isinstance(value, str | bytes | bytearray | memoryview):
        return note_text(value)[0]
    return str(value)


def _kind_of(value: Any) -> str:
    """Return the kind of a Python value, as `check_column_kind` names it."""
    if isinstance(value, datetime):
        return "zoned time" if value.tzinfo else "time"
    for types, kind in (
        (bool, "flag"),
        ((int, float, Decimal), "number"),
        (date, "time"),
        ((str, bytes, bytearray, memoryview, uuid.UUID), "text"),
    ):
        if isinstance(value, types):
            return kind
    return "other"


def _day_like(day: date, example: Any) -> Any:
    """Return a day as a value of the example's type, to compare a column with."""
    if isinstance(example, datetime):
        return datetime(day.year, day.month, day.day)
    return day if isinstance(example, date) else day.isoformat()


def _sqlite_forms(note_id: str) -> list[Any]:
    """Return what a column of SQLite, which may hold values of several types, has for a note's id.

    A number is found as text too, and a text as bytes.
    """
    forms: list[Any] = [note_id, note_id.encode()]
    with contextlib.suppress(ValueError):
        number = float(note_id)
        is_exact = number.is_integer() and abs(number) < 2**63
        forms.append(int(note_id) if is_exact and note_id.lstrip("-").isdecimal() else number)
    return forms


def _converter(example: Any) -> Callable[[str], list[Any]]:
    """Return the function that makes a value of the example's type of a note's id, in a list.

    Compared with another type, an id would not be found, or without the help of an index.
    """
    if not isinstance(example, int | float | Decimal | uuid.UUID):
        return lambda note_id: [note_id]

    def convert(note_id: str) -> list[Any]:
        try:
            return [type(example)(note_id)]
        except (ValueError, ArithmeticError):
            return [note_id]

    return convert
