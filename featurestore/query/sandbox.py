"""What a query may reach: the tables, views and macros of a store, and nothing else."""

import json
import re
from collections.abc import Iterator
from typing import Any

import duckdb

from featurestore.errors import FeatureStoreError
from featurestore.query.catalog import names
from featurestore.store.store import Store

_READS = "SELECT, FROM, WITH, DESCRIBE, SHOW, SUMMARIZE or EXPLAIN"
_TABLE_FUNCTIONS = {"range", "generate_series", "unnest"}
# They tell of settings and variables, write to the log, or take bytes for something else.
_BEYOND = re.compile(
    "current_setting|getenv|getvariable|write_log|nextval|currval|combine|finalize|__internal.*"
)
_SYSTEM = re.compile("pg_|duckdb_|pragma_|sqlite_")  # views that tell of settings and paths
_NO_CTES: dict[str, Any] = {"map": []}


def check(store: Store, con: duckdb.DuckDBPyConnection, query: str) -> None:
    """Refuse whatever is not one SELECT over this store's tables, views and macros.

    The connection itself lets no file be read and no setting be changed; this keeps a query from
    what is left, such as settings, variables, a log, or tables of its own in memory.
    """
    (answer,) = con.execute("SELECT json_serialize_sql($1)", [query]).fetchall()[0]
    parsed = json.loads(answer)
    if parsed["error"] and parsed["error_type"] == "parser":
        raise FeatureStoreError(f"{parsed['error_message']} - {see(store)}")
    if parsed["error"] or len(parsed["statements"]) != 1:
        raise FeatureStoreError(f"a query is one {_READS} - nothing else can be asked of a store")
    tables, macros = names(con)
    nodes = list(_nodes(parsed))
    ctes = {cte["key"].lower() for node in nodes for cte in node.get("cte_map", _NO_CTES)["map"]}
    tables |= {name for name in ctes if not _SYSTEM.match(name)}  # outside its scope it is another
    called = {str(node["function_name"]).lower() for node in nodes if "function_name" in node}
    as_tables = {
        str(node["function"].get("function_name")).lower()
        for node in nodes
        if node.get("type") == "TABLE_FUNCTION"
    }
    beyond = {function for function in called if _BEYOND.fullmatch(function)}
    for function in sorted(beyond | as_tables - macros - _TABLE_FUNCTIONS):
        raise FeatureStoreError(f"{function}() is beyond a query - {see(store)}")
    for node in nodes:
        if node.get("type") == "BASE_TABLE":
            table, schema = node["table_name"], node["schema_name"].lower()
            here = schema in ("", "main", "store") and table.lower() in tables
            if not here and schema != "information_schema":
                raise FeatureStoreError(f"the store has no table or view {table} - {see(store)}")


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def see(store: Store) -> str:
    """Where to look for what can be asked."""
    return f'"featurestore sql {store.path} --schema" shows what there is'
