"""Every statement of the generic reader, in the SQL of each database, run in DuckDB.

SQLAlchemy's dialect of a database writes the statement, sqlglot reads it in that grammar, and
DuckDB runs it. The types and functions of the database itself are not checked.
"""

import datetime
import importlib.abc
import importlib.machinery
import re
import sys
from unittest.mock import MagicMock

import duckdb
import pytest
import sqlalchemy as sa
import sqlglot
from sqlglot import exp

from featurestore import write_hospital
from featurestore.source import generic_reader as reader
from featurestore.source.schemas import (
    CanonicalTable,
    built_in_schemas,
    load_schema,
    selected_columns,
)
from featurestore.source.urls import DRIVERS
from featurestore.store.schema import OPTIONAL_TABLES
from featurestore.synthetic.mimic4 import write_mimic4_hospital
from tests.featurestore.source.omop import cdm
from tests.featurestore.source.sql_server.tds_server import to_duckdb
from tests.featurestore.source.test_databases import load_duckdb

SQLGLOT = {
    **{name: name for name in ("sqlite", "mysql", "oracle", "snowflake", "bigquery", "databricks")},
    "postgresql": "postgres",
    "mssql": "tsql",
}
# Clients that the dialects of three cloud services import, and do not need to write SQL.
CLIENTS = ("snowflake.connector", "databricks.sql", "google")
# The SELECTs of fhir read ndjson files, with DuckDB's functions.
PORTABLE_SCHEMAS = [name for name in built_in_schemas() if name != "fhir"]
SINCE = datetime.date(2140, 1, 1)


class MissingClients(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module with every name for each module of a client that is not installed."""

    def __init__(self):
        self.modules = []

    def find_spec(self, name, path=None, target=None):
        if any(f"{name}.".startswith(f"{client}.") for client in CLIENTS):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        self.modules.append(spec.name)
        module = MagicMock(name=spec.name, __path__=[], __spec__=spec)
        module.ParamEscaper().escape_string = "'{}'".format  # a literal in Databricks' SQL
        return module

    def exec_module(self, module):
        pass


@pytest.fixture(scope="session", params=SQLGLOT)
def dialect(request):
    """SQLAlchemy's dialect of a database."""
    clients = MissingClients()
    sys.meta_path.append(clients)
    try:
        return sa.make_url(f"{DRIVERS[request.param][0]}://").get_dialect()()
    except sa.exc.NoSuchModuleError:
        pytest.skip(f"the dialect {request.param} is not installed (the Makefile installs it)")
    finally:
        sys.meta_path.remove(clients)
        for name in clients.modules:
            del sys.modules[name]


@pytest.fixture(scope="module", params=PORTABLE_SCHEMAS)
def hospital(request, tmp_path_factory):
    """A connection to a small hospital of each schema, and the reader's statements with rows."""
    folder = tmp_path_factory.mktemp(request.param) / "csv"
    with duckdb.connect() as con:
        if request.param == "mimic4":
            write_mimic4_hospital(folder, 130)
            for file in folder.rglob("*.csv.gz"):
                con.execute(f"CREATE TABLE {file.name.removesuffix('.csv.gz')} AS FROM '{file}'")
        else:
            write_hospital(folder, 40)
            if request.param == "mimic3":
                load_duckdb(con, folder)
            else:
                cdm.load_duckdb(con, cdm.from_mimic3(folder))
        if request.param == "omop53":
            for name in ("concept_id", "source_value"):
                con.execute(
                    "ALTER TABLE visit_occurrence "
                    f"RENAME discharged_to_{name} TO discharge_to_{name}"
                )
        own_dialect = sa.create_engine("duckdb://").dialect
        made = statements(dict(canonical_tables(request.param, con)), con)
        yield (
            con,
            {
                what: (statement, rows(con, sql_of(statement, own_dialect)))
                for what, statement in made.items()
            },
        )


def canonical_tables(schema, con):
    for name, select in load_schema(schema, "general").selects.items():
        available = [column.lower() for column, *_ in con.execute(select).description]
        yield name, CanonicalTable(name, select, selected_columns(schema, name, available))


def statements(tables, con):
    """Return each statement that the reader makes, by what it asks for."""
    admissions, notes = tables["admissions"], tables["notes"]
    ids = con.execute(f"SELECT DISTINCT note_id FROM ({notes.select}) ORDER BY 1").fetchall()
    times = ("storetime", "charttime", "chartdate")
    examples = con.execute(
        f"SELECT {', '.join(f'any_value({name})' for name in times)} FROM ({notes.select})"
    ).fetchone()
    return {
        "columns of admissions": reader.no_rows(admissions.select),
        "columns of notes": reader.no_rows(notes.select),
        "first admissions": reader.first_rows(admissions, admissions.columns),
        "first ids of notes": reader.first_rows(notes, ["note_id"]),
        "admissions": reader.all_rows(admissions),
        "notes": reader.all_rows(notes),
        "notes since a day": reader.notes_since(
            notes, SINCE, dict(zip(times, examples, strict=True))
        ),
        "250 texts": reader.texts_by_id(notes, [note_id for (note_id,) in ids[:250]]),
        "all texts": reader.all_texts(notes),
        "number of notes": reader.n_notes(notes),
        **{name: reader.all_rows(tables[name]) for name in OPTIONAL_TABLES if name in tables},
    }


def sql_of(statement, dialect):
    """Return a statement in a dialect, with its parameters as literals."""
    return str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


def as_duckdb(sql, name):
    """Return a statement of a database in DuckDB's SQL; SQL Server's as the stand-in reads it."""
    if name == "mssql":
        return to_duckdb(sql)
    return sqlglot.parse_one(sql, read=SQLGLOT[name]).sql("duckdb")


def rows(con, query):
    """Return the sorted rows of a query as texts, with a date as a time at midnight."""

    def plain(value):
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
            value = datetime.datetime(value.year, value.month, value.day)
        return str(value)

    return sorted(tuple(map(plain, row)) for row in con.execute(query).fetchall())


def misfits(sql, name):
    """Return what a statement has that its database does not understand."""
    tree = sqlglot.parse_one(sql, read=SQLGLOT[name])
    findings = []
    if name in ("mssql", "oracle"):
        words = {token.token_type.name for token in sqlglot.tokenize(sql, SQLGLOT[name])}
        findings += sorted(words & {"LIMIT", "TRUE", "FALSE"})
        for select in tree.find_all(exp.Select):
            conditions = (exp.Predicate, exp.Not, exp.And, exp.Or)
            findings += [
                "condition as a column"
                for column in select.selects
                if isinstance(column.unalias(), conditions)
            ]
    if name == "oracle":
        findings += [
            f"AS {table.alias}"
            for table in tree.find_all(exp.Table, exp.Subquery)
            if table.alias and re.search(rf"\bAS {table.alias}\b", sql, re.IGNORECASE)
        ]
    if name in ("mysql", "oracle") and re.search(r"AS VARCHAR\)", sql):
        findings.append("VARCHAR without a length")
    if name in ("mysql", "mssql") and tree.find(exp.DPipe, exp.Or) and "||" in sql:
        findings.append("||")
    return findings


def test_each_statement_returns_the_same_rows_in_each_dialect(dialect, hospital):
    con, expected = hospital
    for what, (statement, expected_rows) in expected.items():
        assert bool(expected_rows) != what.startswith("columns of"), what
        sql = as_duckdb(sql_of(statement, dialect), dialect.name)
        assert rows(con, sql) == expected_rows, what
    assert len(expected["250 texts"][1]) == 250 < len(expected["all texts"][1])
    assert 0 < len(expected["notes since a day"][1]) < len(expected["notes"][1])


def test_each_statement_keeps_to_the_limits_of_its_database(dialect, hospital):
    _, expected = hospital
    for what, (statement, _) in expected.items():
        expanded = {"render_postcompile": True}
        compiled = statement.compile(dialect=dialect, compile_kwargs=expanded)
        assert len(compiled.params) <= 250, what  # Databricks takes 255
        assert misfits(sql_of(statement, dialect), dialect.name) == [], what


@pytest.mark.parametrize(
    ("name", "sql", "fault"),
    [
        ("mssql", "SELECT a FROM t LIMIT 3", "LIMIT"),
        ("oracle", "SELECT a FROM t WHERE 1 = FALSE", "FALSE"),
        ("oracle", "SELECT a IS NULL AS b FROM t", "condition as a column"),
        ("oracle", "SELECT x.a FROM t AS x", "AS x"),
        ("oracle", "SELECT x.a FROM (SELECT a FROM t) AS x", "AS x"),
        ("mysql", "SELECT CAST(a AS VARCHAR) FROM t", "VARCHAR without a length"),
        ("mysql", "SELECT a || b AS c FROM t", "||"),
    ],
)
def test_what_a_database_does_not_understand_is_reported(name, sql, fault):
    assert misfits(sql, name) == [fault]
