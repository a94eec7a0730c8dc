"""A hospital's data, read through SQLAlchemy: two SELECTs make any schema canonical.

Note text passes through memory only. An error of a database quotes the values that it met, so
none is ever shown: each becomes a sentence that says what, where and what next.
"""

import codecs
import contextlib
import csv
import gzip
import hashlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import sqlalchemy as sa

from featurestore.errors import FeatureStoreError
from featurestore.store.database import DUCKDB, quoted
from featurestore.store.sql_files import SQL
from featurestore.store.store import Store

ADMISSION_COLUMNS = (
    *("hadm_id", "subject_id", "admittime", "dischtime", "deathtime", "died_in_hospital"),
    *("admission_type", "planned", "discharge_location", "dod", "dob", "gender"),
    *("ethnicity", "insurance"),
)
NOTE_COLUMNS = (
    *("note_id", "subject_id", "hadm_id", "category", "chartdate", "charttime", "storetime"),
    *("is_error", "text"),
)
# A pool's report of a connection that broke would quote values of the database.
logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)

_BLANK = " \t\r\n\f\v"
_TEXTS_AT_ONCE = 256
_LONGEST_LINE = 32 * 1024 * 1024  # bytes, of a CSV file

# What a column of a schema's SELECT may hold; text may hold anything, and is judged at the sync.
_NUMBER, _TIME, _FLAG = ("number", "text"), ("time", "text"), ("flag", "number", "text")
_KINDS = {
    **dict.fromkeys(("hadm_id", "subject_id"), _NUMBER),
    **dict.fromkeys(("admittime", "dischtime", "deathtime", "dod", "dob"), _TIME),
    **dict.fromkeys(("chartdate", "charttime", "storetime"), _TIME),
    **dict.fromkeys(("died_in_hospital", "planned", "is_error"), _FLAG),
    "text": ("text",),
}

# What is raised before a value is read, and so names tables and columns: DuckDB's, PostgreSQL's.
_OF_NAMES = ("CatalogException", "BinderException", "UndefinedTable", "UndefinedColumn")

# Where mimic-code's builds put the tables of a schema.
_DATABASE_SCHEMAS = {"mimic3": ("mimiciii",), "mimic4": ("mimiciv_hosp", "mimiciv_note")}


class _NotUtf8Error(FeatureStoreError):
    """A CSV file holds bytes that are no UTF-8, the first of them at `place`."""

    def __init__(self, place: str) -> None:
        super().__init__(f"{place} is not UTF-8 - mend that line; nothing was changed")
        self.place = place


class Source:
    """A hospital, seen through a schema's two SELECTs.

    `location` is a folder of CSV, CSV.gz or Parquet files (MIMIC's as it is downloaded, with its
    subfolders), a DuckDB file, or a SQLAlchemy URL. A URL's password is used and not kept: a store
    remembers `location`, and takes the password from FEATURESTORE_SOURCE, which holds the whole
    URL. `schema` is `mimic3`, `mimic4`, or a folder with `admissions.sql` and `notes.sql`.
    """

    def __init__(self, location: str | Path, schema: str | Path) -> None:
        built_in = SQL / "schemas" / str(schema) / "admissions.sql"
        self.schema = str(schema) if built_in.is_file() else str(Path(schema).resolve())
        self._admissions = self._select("admissions")
        self._notes = self._select("notes")
        self.location, self._engine = _open(str(location), self.schema)
        self.mended: str | None = None  # where a CSV file was read though it is not UTF-8

    def check(self) -> None:
        """Raise FeatureStoreError unless every table and canonical column is there, of its kind.

        No row is read.
        """
        for name, select, columns in (
            ("admissions", self._admissions, ADMISSION_COLUMNS),
            ("notes", self._notes, NOTE_COLUMNS),
        ):
            query = f"SELECT {', '.join(columns)} FROM ({select}) AS {name} LIMIT 0"
            with (
                self._connect() as connection,
                connection.execute(sa.text(_escaped(query))) as result,
            ):
                driver: Any = connection.connection.driver_connection
                types = [
                    driver.adapters.types[column[1]].name
                    if connection.dialect.name == "postgresql"
                    else str(column[1])
                    for column in result.cursor.description
                ]
                for column, type_name in zip(columns, types, strict=True):
                    some = f"SELECT 1 FROM ({select}) AS {name} WHERE {column} IS NOT NULL LIMIT 1"
                    # A bare NULL is an INTEGER to DuckDB.
                    if type_name == "INTEGER" and not driver.execute(some).fetchall():
                        continue
                    self._check_kind(name, column, type_name)

    def admissions(self) -> pa.Table:
        """Every admission, in ADMISSION_COLUMNS, with the source's own types or as text."""
        return self._table(
            f"SELECT {', '.join(ADMISSION_COLUMNS)} FROM ({self._admissions}) AS admissions"
        )

    def note_index(self, since: date | None = None) -> pa.Table:
        """Every note but its text: its MD5, length and whether it is blank are taken in place.

        With `since`, only notes stored (else charted) that day or later, or without a time.
        """
        times = ", ".join(f"CAST({t} AS VARCHAR)" for t in ("storetime", "charttime", "chartdate"))
        # As text, which every database writes alike and which a bad date does not stop.
        some = f"WHERE coalesce({times}, '{since}') >= '{since}'" if since else ""
        return self._table(
            f"""
            SELECT
                {", ".join(NOTE_COLUMNS[:-1])},
                md5(coalesce(text, '')) AS text_hash,
                length(coalesce(text, '')) AS n_chars,
                -- Most texts show in their first letters that they are not blank.
                ltrim(substr(coalesce(text, ''), 1, 64), '{_BLANK}') = ''
                AND ltrim(coalesce(text, ''), '{_BLANK}') = '' AS is_blank
            FROM ({self._notes}) AS notes
            {some}
            """,
            may_be_empty=since is not None,
        )

    def texts(self, note_ids: Sequence[str]) -> Iterator[list[tuple[str, str]]]:
        """The texts of some notes as (note_id, text), each once, in lists, in one pass."""
        query = f"""
            SELECT CAST(note_id AS VARCHAR) AS note_id, coalesce(text, '') AS text
            FROM ({_escaped(self._notes)}) AS notes
            WHERE CAST(note_id AS VARCHAR) IN (SELECT unnest(CAST(:note_ids AS VARCHAR[])))
        """
        wanted = set(note_ids)

        def read() -> Iterator[list[tuple[str, str]]]:
            with self._connect() as connection:
                streaming = connection.execution_options(stream_results=True)
                with streaming.execute(sa.text(query), {"note_ids": list(wanted)}) as result:
                    for rows in result.partitions(_TEXTS_AT_ONCE):
                        new = {row.note_id: row.text for row in rows if row.note_id in wanted}
                        wanted.difference_update(new)
                        yield list(new.items())

        if wanted:
            try:
                yield from read()
            except _NotUtf8Error as error:
                self._mend(error)
                yield from read()

    def _mend(self, error: _NotUtf8Error) -> None:
        """Read CSV files from now on with a replacement character for what is no UTF-8."""
        self.mended = error.place
        self._engine = _folder_engine(Path(self.location), mended=True)

    def _table(self, query: str, may_be_empty: bool = False) -> pa.Table:
        try:
            table = self._read_table(query)
        except _NotUtf8Error as error:
            self._mend(error)
            table = self._read_table(query)
        if not len(table) and not may_be_empty:
            raise FeatureStoreError(
                f"{self.location} holds no rows for {self.schema}'s admissions or notes - "
                "is the download complete?"
            )
        return table.rename_columns([name.lower() for name in table.column_names])

    def _read_table(self, query: str) -> pa.Table:
        """The answer as a table, by each database's fast way; PostgreSQL's values come as text."""
        with self._connect() as connection:
            driver: Any = connection.connection.driver_connection
            if connection.dialect.name == "postgresql":
                with driver.cursor().copy(f"COPY ({query}) TO STDOUT (FORMAT csv, HEADER)") as copy:
                    table = _text_table(b"".join(copy))
            else:
                # DuckDB uses all cores to make a table, and one to hand out an answer in order.
                driver.execute(f"CREATE OR REPLACE TEMP TABLE answer AS {query}")
                table = driver.execute("FROM answer").to_arrow_table()
                driver.execute("DROP TABLE answer")
            return table

    @contextlib.contextmanager
    def _connect(self) -> Iterator[sa.Connection]:
        """A connection whose errors say what, where and what next, and quote no value."""
        try:
            with self._engine.connect() as connection:
                yield connection
        except (sa.exc.SQLAlchemyError, self._engine.dialect.loaded_dbapi.Error) as error:
            raise self._explained(error) from None

    def _check_kind(self, name: str, column: str, type_name: str) -> None:
        kind = _kind(type_name)
        if kind == "zoned time":
            raise FeatureStoreError(
                f"{column.upper()} of {name} has a time zone ({type_name}) - give the hospital's "
                f"local time in {self.schema}, as {column} AT TIME ZONE 'Europe/Berlin'"
            )
        wanted = _KINDS.get(column, ("number", "time", "flag", "text"))
        if kind not in wanted:
            raise FeatureStoreError(
                f"{column.upper()} of {name} is {type_name}, and should be a {wanted[0]} - CAST "
                f"it in schema {self.schema}"
            )

    def _select(self, name: str) -> str:
        built_in = SQL / "schemas" / self.schema
        folder = built_in if built_in.is_dir() else Path(self.schema)
        file = folder / f"{name}.sql"
        if not file.is_file():
            raise FeatureStoreError(
                f"there is no schema {self.schema} - use mimic3, mimic4, or a folder "
                "that holds admissions.sql and notes.sql"
            )
        try:
            return file.read_text().rstrip().rstrip(";")
        except UnicodeDecodeError:
            raise FeatureStoreError(f"{file} is not UTF-8 - write the SELECT as text") from None

    def _explained(self, error: Exception) -> FeatureStoreError:
        driver_error = getattr(error, "orig", None) or error
        # DuckDB 1.5 breaks down over a byte that is not UTF-8 where only some columns are read.
        broken = type(driver_error).__name__ in ("InternalException", "FatalException")
        if (broken or "unicode" in str(driver_error)) and not self.mended:
            place = _first_line_not_utf8(Path(self.location))
            if place:
                return _NotUtf8Error(place)
        return FeatureStoreError(self._explain(error))

    def _explain(self, error: Exception) -> str:
        """What went wrong, from the names in a database's message; its values stay unsaid."""
        # SQLAlchemy's errors hold the driver's own; a driver that is used directly raises it.
        driver_error = getattr(error, "orig", None) or error
        whole = str(driver_error)
        kind = type(driver_error).__name__
        message = whole.partition("\n")[0] if kind in _OF_NAMES else ""
        if table := re.search(
            r'(?:[Tt]able (?:with name )?|relation )"?([\w.]+)"? does not exist', message
        ):
            if Path(self.location).is_dir():
                kinds = "as csv or csv.gz with a first line of column names, or as parquet"
                return (
                    f"{self.location} holds no {table[1].upper()} ({kinds}) - name the folder "
                    "that holds the hospital's tables"
                )
            return (
                f"{self.location} holds no {table[1].upper()} - name the database that holds the "
                "hospital's tables"
            )
        column = re.search(r'[Cc]olumn "?(?:\w+\.)?(\w+)"?', message) or re.search(
            r'does not have a column named "(\w+)"', message
        )
        if column:
            return (
                f"{self.location} has no column {column[1].upper()}, which schema {self.schema} "
                "reads - complete the table, or describe your own with --schema DIR"
            )
        if line := re.search(r"CSV Error on Line: (\d+)", whole):
            return (
                f"{self.location}: line {line[1]} of a CSV file cannot be read "
                f"({_csv_fault(whole)}) - mend that line; nothing was changed"
            )
        if kind in ("ParserException", "SyntaxError"):
            return (
                f"the SELECTs of schema {self.schema} have a mistake in their SQL - try them in "
                "the database's own shell"
            )
        if {"OperationalError", "InterfaceError"} & {
            c.__name__ for c in type(driver_error).__mro__
        }:
            return (
                f"{self.location} could not be reached, or went away ({kind}) - check that it "
                "runs and that FEATURESTORE_SOURCE holds its URL with the password; then run this "
                "again: what was done is kept"
            )
        return (
            f"{self.location} could not be read as {self.schema} ({kind}) - check that its tables "
            "are whole"
        )


def create_store(
    path: str | Path,
    source: str | Path,
    schema: str | Path,
    live: bool = False,
    group: str | None = None,
    encrypt: bool = False,
) -> Store:
    """Make an empty store that reads from `source`, once its tables and columns are checked.

    `source` and `schema` are those of `Source`. `live` says that the source is a running hospital,
    whose horizons are observed up to the newest sync. The file is private (0600), or readable by
    `group` (0640). `encrypt` encrypts it and everything beside it with the environment's key.
    Raises FeatureStoreError.
    """
    Store.check_new(path, group, encrypt)
    hospital = Source(source, schema)
    hospital.check()
    return Store.create(path, hospital.location, hospital.schema, live, group, encrypt)


def open_source(store: Store) -> Source:
    """Return the hospital that a store reads from."""
    location, schema = store.one("SELECT source, schema_name FROM settings")
    return Source(location, schema)


def text_hash(text: str) -> str:
    """The MD5 of a note's text as the databases compute it, in hex: it finds what changed."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _escaped(query: str) -> str:
    """A query in which SQLAlchemy takes no colon for a parameter's."""
    return query.replace(":", "\\:")


def _text_table(csv_bytes: bytes) -> pa.Table:
    """PostgreSQL's CSV, in which an empty text is quoted and a NULL is not, as text."""
    names = csv_bytes[: csv_bytes.index(b"\n")].decode().split(",")
    return pa_csv.read_csv(
        pa.BufferReader(csv_bytes),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True),
        convert_options=_as_text(names, quoted_null=False),
    )


def _as_text(names: Sequence[str], quoted_null: bool) -> pa_csv.ConvertOptions:
    """All columns as text; an empty one is NULL, where it is quoted only if `quoted_null`."""
    return pa_csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=quoted_null,
    )


def _kind(type_name: str) -> str:
    """What a column of this type holds, from its name in DuckDB or PostgreSQL."""
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


def _first_line_not_utf8(folder: Path) -> str | None:
    """The first line of a folder's CSV files that is not UTF-8: file and number, not text."""
    for file in _tables(folder).values() if folder.is_dir() else ():
        opened = gzip.open if file.suffix == ".gz" else open
        if file.suffix == ".parquet":
            continue
        with opened(file, "rb") as stream:
            for number, line in enumerate(stream, 1):
                try:
                    line.decode()
                except UnicodeDecodeError:
                    return f"{file.name}, line {number}"
    return None


def _csv_fault(message: str) -> str:
    """What is wrong with a line, from the words of DuckDB's message that quote no value."""
    faults = {
        "Maximum line size": "it is longer than 32 MB",
        "unterminated quote": "a quote is not closed",
        "Expected Number of Columns": "it has more or fewer columns than the first line",
    }
    return next((said for words, said in faults.items() if words in message), "it is no CSV")


def without_password(url: str) -> str:
    """A URL as it may be kept and shown; raises FeatureStoreError where it is none."""
    try:
        parsed = sa.make_url(url)
        # What a password left here: its own @ makes a host of the rest, and libpq reads a
        # database's name with a = as parameters.
        if "@" in (parsed.host or "") or "=" in (parsed.database or ""):
            raise ValueError
    except (sa.exc.ArgumentError, ValueError):  # a port that is no number, say
        raise FeatureStoreError(
            "the source is no URL that SQLAlchemy reads - write it as "
            "postgresql+psycopg://USER:PASSWORD@HOST/DATABASE, with %40 for an @ of the password"
        ) from None
    # sslpassword opens a client's key.
    query = {name: value for name, value in parsed.query.items() if "password" not in name}
    return sa.URL.create(
        parsed.drivername,
        parsed.username,
        host=parsed.host,
        port=parsed.port,
        database=parsed.database,
        query=query,
    ).render_as_string()


def _open(location: str, schema: str) -> tuple[str, sa.Engine]:
    """Where the hospital is, without a password, and an engine over it."""
    if "://" in location:
        public = without_password(location)
        whole = os.environ.get("FEATURESTORE_SOURCE", "")
        if location == public and "://" in whole and without_password(whole) == public:
            location = whole
        return public, _url_engine(location, schema)
    path = Path(location)
    if path.is_dir():
        return str(path.resolve()), _folder_engine(path)
    if path.is_file():
        return str(path.resolve()), _file_engine(path, schema)
    raise FeatureStoreError(
        f"{location} is no folder, DuckDB file or URL - name where the hospital's tables are "
        "(for MIMIC, the folder as it was downloaded)"
    )


def _url_engine(url: str, schema: str) -> sa.Engine:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "postgresql":
        raise FeatureStoreError(
            f"{parsed.drivername} is neither PostgreSQL nor a DuckDB file - write the tables of "
            "another database as Parquet or CSV into a folder, and name that"
        )
    path = ",".join(['"$user"', *_DATABASE_SCHEMAS.get(schema, ()), "public"])
    options = {
        "search_path": path,
        "default_transaction_read_only": "on",
        "datestyle": "ISO",
        "parallel_tuple_cost": "0",  # or no second process would share in hashing the texts
    }
    arguments = {"options": " ".join(f"-c{name}={value}" for name, value in options.items())}
    try:
        return sa.create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            hide_parameters=True,
            poolclass=sa.NullPool,
            connect_args={} if "options" in parsed.query else arguments,
        )
    except ImportError:
        raise FeatureStoreError(
            'no driver for PostgreSQL is installed - pip install "clinical-featurestore[postgres]"'
        ) from None


def _file_engine(file: Path, schema: str) -> sa.Engine:
    """An engine over a DuckDB file, read-only."""
    arguments = {"read_only": True, "config": {**DUCKDB, "temp_directory": ""}}
    url = sa.URL.create("duckdb", database=str(file.resolve()))
    engine = sa.create_engine(
        url, hide_parameters=True, poolclass=sa.NullPool, connect_args=arguments
    )

    @sa.event.listens_for(engine, "connect")
    def find_tables(connection: Any, _record: Any) -> None:
        connection.execute("SET enable_progress_bar = false")
        there = {
            name
            for (name,) in connection.execute("FROM duckdb_schemas() SELECT schema_name").fetchall()
        }
        path = [name for name in (*_DATABASE_SCHEMAS.get(schema, ()), "main") if name in there]
        connection.execute(f"SET search_path = '{','.join(path)}'")

    return engine


def _folder_engine(folder: Path, mended: bool = False) -> sa.Engine:
    """An engine over a folder: an in-memory DuckDB with one view for each file.

    `mended` reads CSV files, more slowly, with a replacement character for what is no UTF-8.
    """
    tables = _tables(folder)
    streams = {
        name: _Mended(file)
        for name, file in tables.items()
        if mended and file.suffix != ".parquet" and _header(file)
    }
    readers = {name: _reader(file) for name, file in tables.items() if name not in streams}
    views = [
        f'CREATE VIEW "{name}" AS SELECT * FROM {reader}'
        for name, reader in readers.items()
        if reader
    ]
    engine = sa.create_engine(
        "duckdb:///:memory:",
        hide_parameters=True,
        # Text must not spill to disk.
        connect_args={"config": {**DUCKDB, "temp_directory": ""}},
    )

    @sa.event.listens_for(engine, "connect")
    def make_views(connection: Any, _record: Any) -> None:
        connection.execute("SET enable_progress_bar = false")
        for view in views:
            connection.execute(view)
        for name, stream in streams.items():
            connection.register(name, stream)

    return engine


class _Mended:
    """A CSV file as a stream of text columns that can be begun again and again."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        stream = pa.TransformInputStream(
            pa.input_stream(self.file), lambda part: decoder.decode(part).encode()
        )
        reader = pa_csv.open_csv(
            stream,
            read_options=pa_csv.ReadOptions(block_size=_LONGEST_LINE),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=_as_text(_header(self.file), quoted_null=True),
        )
        return reader.__arrow_c_stream__(requested_schema)


def _tables(folder: Path) -> dict[str, Path]:
    """The folder's tables by name: NAME.csv, NAME.csv.gz or NAME.parquet."""
    tables: dict[str, Path] = {}
    for file in sorted([*folder.iterdir(), *folder.glob("*/*")]):
        name = re.sub(r"\.(csv|csv\.gz|parquet)$", "", file.name.lower())
        if name == file.name.lower():
            continue
        if name in tables:
            raise FeatureStoreError(
                f"{folder} holds {name} twice, as {tables[name].name} and {file.name} - remove one"
            )
        tables[name] = file
    return tables


def _reader(file: Path) -> str | None:
    path = quoted(file.resolve())
    if file.suffix == ".parquet":
        return f"read_parquet({path})"
    header = _header(file)
    if not header:
        return None
    # All columns as text, and the dialect said, so that nothing is guessed from the first rows.
    columns = ", ".join(f"{_text(name)}: 'VARCHAR'" for name in header)
    return (
        f"read_csv({path}, auto_detect = false, columns = {{{columns}}}, header = true, "
        "delim = ',', quote = '\"', escape = '\"', nullstr = '', "
        f"max_line_size = {_LONGEST_LINE})"
    )


def _header(file: Path) -> list[str]:
    """A CSV file's column names; none where it does not begin with a line of them."""
    opened = gzip.open if file.suffix == ".gz" else open
    try:
        with opened(file, "rt", encoding="utf-8-sig", errors="replace", newline="") as stream:
            header = next(csv.reader(stream), [])
    except (OSError, EOFError, csv.Error):
        return []
    return header if len({name.lower() for name in header}) == len(header) else []


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
