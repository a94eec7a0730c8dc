"""A hospital's data, read through SQLAlchemy and a schema's SELECTs.

Note text is held in memory only, and no error quotes a value of the database.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

import pyarrow as pa
import sqlalchemy as sa

from featurestore.errors import SourceError, UnknownNameError
from featurestore.source import fast_reader, generic_reader
from featurestore.source.database_errors import (
    NotUtf8Error,
    is_about_rights,
    is_about_sql,
    own_line,
    source_error,
)
from featurestore.source.engines import folder_engine, open_engine
from featurestore.source.file_folder import check_complete
from featurestore.source.note_texts import text_hash
from featurestore.source.schemas import (
    CanonicalTable,
    built_in_schemas,
    load_schema,
    schema_name,
    selected_columns,
)
from featurestore.store.schema import OPTIONAL_TABLES
from featurestore.store.store import Store

T = TypeVar("T")


class _AbsentError(Exception):
    """The hospital has none of the tables that an optional SELECT reads."""


class Source:
    """A hospital's database or files, seen through a schema.

    `location` is a folder of CSV, CSV.gz, Parquet or FHIR's ndjson files (MIMIC as it is
    downloaded, with its subfolders), a DuckDB or SQLite file, or the SQLAlchemy URL of a database.
    Secrets of a URL are used and not kept: the attribute `location`, which a store records, has
    none, and a store reads the complete URL from FEATURESTORE_SOURCE. `schema` is the name of a
    built-in schema, or a folder with `admissions.sql` and `notes.sql`. Raises SourceError where
    either cannot be opened.
    """

    def __init__(self, location: str | Path, schema: str | Path) -> None:
        self._given = str(location)
        self.location, self._engine = open_engine(self._given, schema_name(schema))
        self.schema = load_schema(schema, self._engine.dialect.name)
        self.not_utf8: str | None = None  # the first invalid line, once files are repaired
        self._tables: dict[str, CanonicalTable] = {}

    def check(self) -> None:
        """Raise SourceError unless every table and canonical column exists and has a valid type.

        DuckDB and PostgreSQL know the types of columns; of other databases the first 1,000 rows
        are looked at.
        """
        for name in self.schema.selects:
            with self._connect() as connection, contextlib.suppress(_AbsentError):
                table = self._table(connection, name)
                self._reader(connection).check_kinds(connection, self.schema.name, table)

    def read(
        self,
        table: str,
        load: Callable[[Iterator[pa.RecordBatch]], T] = pa.Table.from_batches,
        since: date | None = None,
    ) -> T | None:
        """Give the rows of a table to `load`, as a stream, and return what it returns.

        Rows have the canonical columns, in the source's types or as text; notes have no text, but
        its MD5, length and problem, if any. With `since`, only the notes stored (else charted) on
        that day or later, and those without a time; some databases return more. None if the
        hospital has no such table, which must be optional. Where a CSV file turns out not to be
        UTF-8, `load` is called again, with all rows. Raises SourceError.
        """
        n_rows = 0

        def batches() -> Iterator[pa.RecordBatch]:
            nonlocal n_rows
            n_rows = 0
            with self._connect() as connection:
                for batch in self._batches(connection, table, since):
                    n_rows += len(batch)
                    yield batch.rename_columns([name.lower() for name in batch.schema.names])

        if table not in self.schema.selects:
            return None
        if Path(self.location).is_dir():
            check_complete(Path(self.location), self.schema.selects[table])
        try:
            try:
                loaded = load(batches())
            except NotUtf8Error as error:
                self._repair(error)
                loaded = load(batches())
        except _AbsentError:
            return None
        if not n_rows and table not in OPTIONAL_TABLES and not since:
            raise SourceError(
                f"{self.location} has no rows for the {table} of schema {self.schema.name} - check "
                "that the download is complete"
            )
        return loaded

    def _batches(
        self, connection: sa.Connection, name: str, since: date | None
    ) -> Iterator[pa.RecordBatch]:
        table, reader = self._table(connection, name), self._reader(connection)
        if name != "notes":
            return cast(Iterator[pa.RecordBatch], reader.read_rows(connection, table))
        return cast(Iterator[pa.RecordBatch], reader.read_index(connection, table, since))

    def texts(self, note_ids: Sequence[str]) -> Iterator[list[tuple[str, str]]]:
        """Yield lists of (note_id, text) with each of the given notes once."""
        remaining = set(note_ids)

        def read() -> Iterator[list[tuple[str, str]]]:
            with self._connect() as connection:
                table = self._table(connection, "notes")
                readers = [self._reader(connection)]
                is_few = len(remaining) <= generic_reader.IDS_PER_QUERY
                if is_few and readers == [fast_reader] and not Path(self.location).is_dir():
                    # By an index, where there is one; it may write an id in another form.
                    readers.insert(0, generic_reader)
                for reader in readers:
                    # Numbers in their order: neighbours are read together.
                    in_order = sorted(remaining, key=lambda note_id: (len(note_id), note_id))
                    if in_order:
                        for pairs in reader.read_texts(connection, table, in_order):
                            new = {note: text for note, text in pairs if note in remaining}
                            remaining.difference_update(new)
                            yield list(new.items())

        if remaining:
            try:
                yield from read()
            except NotUtf8Error as error:
                self._repair(error)
                yield from read()

    def _table(self, connection: sa.Connection, name: str) -> CanonicalTable:
        """Return a SELECT with the columns that it returns, which one query finds out.

        Raises _AbsentError where a built-in schema finds no such table in the hospital.
        """
        if name not in self._tables:
            select = self._with_table_names(connection, self.schema.selects[name])
            try:
                with connection.execute(generic_reader.no_rows(select)) as result:
                    available = [*result.keys()]
            except sa.exc.DBAPIError as error:
                if is_about_sql(error, connection.dialect.name):
                    if name in OPTIONAL_TABLES and self.schema.name in built_in_schemas():
                        raise _AbsentError from None
                    raise self._misfit(name, error) from None
                raise
            if connection.dialect.name != "postgresql":  # whose unquoted names are lower-case
                available = [column.lower() for column in available]
            columns = selected_columns(self.schema.name, name, available)
            self._tables[name] = CanonicalTable(name, select, columns)
        return self._tables[name]

    def _with_table_names(self, connection: sa.Connection, select: str) -> str:
        """Return a built-in SELECT with names of tables in the database's case.

        The names of MySQL's tables depend on case on Linux, and mimic-code makes them upper-case.
        """
        is_mysql = connection.dialect.name in ("mysql", "mariadb")
        if not is_mysql or self.schema.name not in built_in_schemas():
            return select
        inspector = sa.inspect(connection)
        names = [*inspector.get_table_names(), *inspector.get_view_names()]
        in_case = {name.lower(): name for name in names} | {name: name for name in names}
        return re.sub(
            r"\b(FROM|JOIN) (\w+)",
            lambda match: f"{match[1]} {in_case.get(match[2], match[2])}",
            select,
        )

    def _misfit(self, table: str, error: sa.exc.DBAPIError) -> SourceError:
        """Return an error with the database's own line about a SELECT that it cannot run.

        It is about names, syntax or rights, so it can quote nothing but the SELECT.
        """
        if self.schema.name not in built_in_schemas():
            advice = f"correct {Path(self.schema.name) / table}.sql"
            advice += ", or remove it" if table in OPTIONAL_TABLES else ""
        elif is_about_rights(error):
            advice = "grant the user of this URL SELECT on it, then run this again"
        elif alike := self._schema_alike():
            advice = f"the tables look like those of schema {alike}: use --schema {alike}"
        elif Path(self.location).is_dir() and self.schema.name == "mimic4":
            advice = (
                "MIMIC-IV and MIMIC-IV-Note are two downloads: link hosp and icu of the one and "
                "note of the other into one folder, and give that"
            )
        elif Path(self.location).is_dir():
            advice = (
                "give the folder that contains the hospital's tables (NAME.csv, NAME.csv.gz, "
                "NAME.parquet, or FHIR's ndjson), or describe your own tables with --schema DIR"
            )
        else:
            advice = (
                "give the database that contains the hospital's tables, or describe your own "
                "tables with --schema DIR"
            )
        return SourceError(
            f"{self.location} cannot run {table}.sql of schema {self.schema.name}: "
            f"{own_line(error)} - {advice}"
        )

    def _schema_alike(self) -> str | None:
        """Return the name of a built-in schema whose SELECTs the source can run."""
        for name in built_in_schemas():
            other = Source(self._given, name)
            with contextlib.suppress(sa.exc.SQLAlchemyError), other._engine.connect() as connection:
                for table, select in other.schema.selects.items():
                    if table in OPTIONAL_TABLES:
                        continue
                    select = other._with_table_names(connection, select)
                    connection.execute(generic_reader.no_rows(select)).close()
                return name
        return None

    def _reader(self, connection: sa.Connection) -> ModuleType:
        """Return the module that reads from this database."""
        dialect = connection.dialect.name
        if dialect == "postgresql":
            driver: Any = connection.connection.driver_connection
            # Its md5() would hash bytes of unknown encodings.
            is_fast = driver.info.parameter_status("server_encoding") != "SQL_ASCII"
            return fast_reader if is_fast else generic_reader
        return fast_reader if dialect == "duckdb" else generic_reader

    def _repair(self, error: NotUtf8Error) -> None:
        """From now on, read CSV files with a replacement character for each invalid byte."""
        self.not_utf8 = error.place
        self._engine = folder_engine(Path(self.location), repair=True)

    @contextlib.contextmanager
    def _connect(self) -> Iterator[sa.Connection]:
        """Connect, and raise SourceError, which quotes no value, for every database error."""
        connection = None
        try:
            connection = self._engine.connect()
            with connection:
                yield connection
        except (
            sa.exc.SQLAlchemyError,
            self._engine.dialect.loaded_dbapi.Error,
            RuntimeError,  # of mssql-python, where a text cannot be fetched
        ) as error:
            raise source_error(
                error,
                self.location,
                self.schema.name,
                connected=connection is not None,
                repaired=self.not_utf8 is not None,
            ) from None
        except Exception as error:
            if connection is not None or "://" not in self.location:
                raise
            # A parameter of the URL that a driver does not take fails in the driver's own way.
            raise SourceError(
                f"{self.location} could not be opened ({type(error).__name__}) - check the "
                "parameters of its URL"
            ) from None


def create_store(
    path: str | Path,
    source: str | Path,
    schema: str | Path,
    live: bool = False,
    group: str | None = None,
    encrypt: bool = False,
) -> Store:
    """Create an empty store that reads from `source`, after checking its tables and columns.

    `source` and `schema` are those of `Source`. `live` declares a running hospital, whose outcomes
    are observed up to the newest sync (or up to the source's own `observed_until`), instead of a
    research extract. The file is private (0600),
    or readable by `group` (0640). `encrypt` encrypts it, and everything beside it, with the key in
    the environment. Raises FeatureStoreError.
    """
    Store.check_new(path, group, encrypt)
    hospital = Source(source, schema)
    hospital.check()
    return Store.create(path, hospital.location, hospital.schema.name, live, group, encrypt)


def open_source(store: Store) -> Source:
    """Return the source that a store reads from."""
    location, schema = store.one("SELECT source, schema_name FROM settings")
    return Source(location, schema)


def read_texts(store: Store, note_ids: Iterable[str | int]) -> dict[str, str]:
    """Return the texts of some notes of a store by note_id, read from its source.

    The text is in the returned dictionary only: it is not stored, logged or put into an error. Up
    to 250 notes of a database are read by their ids; of a folder, and for more notes, the whole
    table is searched. Raises UnknownNameError where the store has no such note, which is so for
    notes of forgotten patients, and SourceError where the source has no such note any more, or
    another text than at the last sync.
    """
    if isinstance(note_ids, str):  # whose letters would be ids
        raise TypeError(f"one note_id was given where a list is expected - write [{note_ids!r}]")
    wanted = list(dict.fromkeys(map(str, note_ids)))
    query = "SELECT note_id, text_hash FROM notes WHERE list_contains($note_ids, note_id)"
    hash_of = dict(store.sql(query, note_ids=wanted).fetchall())
    if unknown := [note_id for note_id in wanted if note_id not in hash_of]:
        raise UnknownNameError(
            f"{store.path} has no note {_first_ids(unknown)} - the table notes lists them"
        )
    source = open_source(store)
    text_of = {note_id: text for notes in source.texts(wanted) for note_id, text in notes}
    if changed := [
        note_id
        for note_id in wanted
        if note_id not in text_of or text_hash(text_of[note_id]) != hash_of[note_id]
    ]:
        raise SourceError(
            f"{source.location} has no note {_first_ids(changed)}, or another text than at the "
            f'last sync - run "featurestore sync {store.path}"'
        )
    return {note_id: text_of[note_id] for note_id in wanted}


def _first_ids(note_ids: Sequence[str]) -> str:
    others = f" and {len(note_ids) - 3:,} others" if len(note_ids) > 3 else ""
    return ", ".join(note_ids[:3]) + others
