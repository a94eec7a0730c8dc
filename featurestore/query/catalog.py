"""The catalog: the tables, views and macros of a store, described by their SQL comments."""

import json
from typing import IO, Any

import duckdb

from featurestore.errors import QueryError
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store


def names(con: duckdb.DuckDBPyConnection) -> tuple[set[str], set[str]]:
    """Return the names of the tables and views of a store, and those of its macros."""
    kinds = {
        name: kind for kind, name, *_ in con.execute(read_sql("store/catalog/catalog")).fetchall()
    }
    macros = {name for name, kind in kinds.items() if kind.endswith("macro")}
    return set(kinds) - macros, macros


def catalog(store: Store) -> list[dict[str, Any]]:
    """Return kind, name, parameters, comment and columns of each table, view and macro.

    A macro that returns a value has no columns.
    """
    columns: dict[str, list[dict[str, Any]]] = {}
    for table, name, type_, comment in store.sql(read_sql("store/catalog/columns")).fetchall():
        columns.setdefault(table, []).append({"name": name, "type": type_, "comment": comment})
    entries = store.rows(read_sql("store/catalog/catalog"))
    for entry in entries:
        if entry["kind"] == "table macro":
            arguments = ", ".join(["NULL"] * len(entry["parameters"]))
            result = store.sql(f"FROM {entry['name']}({arguments})")
            described = zip(result.columns, result.types, strict=True)
            entry["columns"] = [{"name": n, "type": str(t), "comment": None} for n, t in described]
        else:
            entry["columns"] = columns.get(entry["name"], [])
    return entries


def write_catalog(store: Store, stream: IO[str], kind: str = "table") -> None:
    """Write the catalog as json, or as text with one line per column."""
    entries = catalog(store)
    if kind == "json":
        stream.write(json.dumps(entries) + "\n")
    elif kind == "table":
        stream.write("\n".join(map(_text, entries)))
    else:
        raise QueryError(f"--schema cannot be written as {kind} - use --format table or json")


def _text(entry: dict[str, Any]) -> str:
    name = "" if entry["parameters"] else f"{entry['name']}: "  # a macro's comment begins with it
    comment = (entry["comment"] or "").replace("\n", "\n  ")
    lines = [f"{entry['kind']} {name}{comment}"]
    for column in entry["columns"]:
        line = f"    {column['name']:<22} {column['type']:<12} {column['comment'] or ''}"
        lines.append(line.replace("\n", " ").rstrip())
    return "\n".join(lines) + "\n"
