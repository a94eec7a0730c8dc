"""What a store can be asked: its tables, views and macros, as their files describe them."""

import json
import re
import textwrap
from typing import IO, Any

import duckdb

from featurestore.errors import FeatureStoreError
from featurestore.store.sql_files import read_sql
from featurestore.store.store import KIND, RULES, TABLES, Store

_OBJECTS = {
    "table": "SELECT table_name FROM duckdb_tables() WHERE database_name = 'store'",
    "view": "SELECT view_name FROM duckdb_views() WHERE database_name = 'store'",
    "macro": "SELECT function_name FROM duckdb_functions() WHERE database_name = 'store'",
}


def names(con: duckdb.DuckDBPyConnection) -> tuple[set[str], set[str]]:
    """The tables and views of a store, and its macros."""
    kinds = _kinds(con)
    macros = {name for name, kind in kinds.items() if kind == "macro"}
    return set(kinds) - macros, macros


def catalogue(store: Store) -> list[dict[str, Any]]:
    """Each table, view and macro: signature, kind, question, grain, columns with their types.

    A macro that makes a value and not rows has no grain, and no columns.
    """
    con = store.connect()
    kinds = _kinds(con)
    return [_describe(con, name, kinds[name]) for name in TABLES + RULES if name in kinds]


def write_catalogue(store: Store, stream: IO[str], kind: str = "table") -> None:
    """Write what there is to ask: as json, or for a person, a paragraph an object."""
    objects = catalogue(store)
    if kind == "json":
        stream.write(json.dumps(objects) + "\n")
    elif kind == "table":
        stream.write("\n".join(map(_paragraph, objects)))
    else:
        raise FeatureStoreError(f"a schema is no {kind} - use --format table or json")


def _paragraph(described: dict[str, Any]) -> str:
    columns = ", ".join(f"{name} {kind}" for name, kind in described["columns"].items())
    lines = [f"{described['kind']} {described['signature']}: {described['question']}"]
    for line in filter(None, (described["grain"], columns)):
        lines += textwrap.wrap(line, 100, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(lines) + "\n"


def _kinds(con: duckdb.DuckDBPyConnection) -> dict[str, str]:
    return {
        name.lower(): kind
        for kind, query in _OBJECTS.items()
        for (name,) in con.execute(query).fetchall()
    }


def _describe(con: duckdb.DuckDBPyConnection, name: str, kind: str) -> dict[str, Any]:
    comments = " ".join(
        line.removeprefix("--").strip() + ("\n" if line == "--" else "")
        for line in read_sql(f"{KIND[name]}/{name}").splitlines()
        if line.startswith("--")
    )
    signature, _, question = comments.partition("\n")[0].partition(": ")
    grain = re.search(r"Grain: +(.*?)(?= Columns:| Rule:|\n|$)", comments)
    columns = {}
    if kind != "macro" or grain:
        given = ", ".join("NULL" for p in _parameters(signature) if ":=" not in p)
        relation = f"{name}({given})" if kind == "macro" else name
        columns = {row[0]: row[1] for row in con.execute(f"DESCRIBE FROM {relation}").fetchall()}
    return {
        "signature": signature,
        "kind": kind,
        "question": question.strip(),
        "grain": grain.group(1).strip() if grain else "",
        "columns": columns,
    }


def _parameters(signature: str) -> list[str]:
    inside = re.search(r"\((.*)\)", signature)
    return [part for part in inside.group(1).split(",") if part] if inside else []
