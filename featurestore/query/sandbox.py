"""The sandbox: a query can read the tables, views and macros of a store and nothing else."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb

from featurestore.errors import QueryError
from featurestore.query.catalog import names
from featurestore.store.store import Store

_STATEMENTS = "SELECT, FROM, WITH, DESCRIBE, SHOW, SUMMARIZE or EXPLAIN"
_TABLE_FUNCTIONS = {"range", "generate_series", "unnest"}
# Functions that read settings or variables, write to the log, or reinterpret bytes.
_FORBIDDEN = re.compile(
    "current_setting|getenv|getvariable|write_log|nextval|currval|combine|finalize|__internal.*"
)
_SYSTEM = re.compile("pg_|duckdb_|pragma_|sqlite_")  # system views show settings and paths
_NO_CTES: dict[str, Any] = {"map": []}


def check(
    store: Store, con: duckdb.DuckDBPyConnection, query: str, forbidden: Sequence[str] = ()
) -> None:
    """Raise QueryError unless the query is one SELECT over objects of the store.

    `forbidden` names macros of the store that it may not use.

    The connection already blocks files and changes of settings. This check blocks the rest: reading
    settings and variables, writing to the log, creating tables in memory.
    """
    (serialized,) = con.execute("SELECT json_serialize_sql($1)", [query]).fetchall()[0]
    parsed = json.loads(serialized)
    if parsed["error"] and parsed["error_type"] == "parser":
        raise QueryError(f"{parsed['error_message']} - {schema_hint(store)}")
    if parsed["error"] or len(parsed["statements"]) != 1:
        raise QueryError(
            f"a query must be one {_STATEMENTS} statement and cannot change the store - give one "
            "such statement"
        )
    tables, macros = names(con)
    nodes = list(_nodes(parsed))
    ctes = {cte["key"].lower() for node in nodes for cte in node.get("cte_map", _NO_CTES)["map"]}
    # A CTE may not share the name of a system view: outside its scope the name means that view.
    tables |= {name for name in ctes if not _SYSTEM.match(name)}
    functions = {str(node["function_name"]).lower() for node in nodes if "function_name" in node}
    table_functions = {
        str(node["function"].get("function_name")).lower()
        for node in nodes
        if node.get("type") == "TABLE_FUNCTION"
    }
    refused = {name for name in functions if name in forbidden or _FORBIDDEN.fullmatch(name)}
    for function in sorted(refused | table_functions - macros - _TABLE_FUNCTIONS):
        raise QueryError(f"{function}() is not allowed in a query - {schema_hint(store)}")
    for node in nodes:
        if node.get("type") == "BASE_TABLE":
            table, schema = node["table_name"], node["schema_name"].lower()
            in_store = schema in ("", "main", "store") and table.lower() in tables
            if not in_store and schema != "information_schema":
                raise QueryError(f"the store has no table or view {table} - {schema_hint(store)}")


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            yield node
            pending += node.values()
        elif isinstance(node, list):
            pending += node


def schema_hint(store: Store) -> str:
    """Return the hint at the end of an error message."""
    return f'"featurestore sql {store.path} --schema" lists what can be queried'
