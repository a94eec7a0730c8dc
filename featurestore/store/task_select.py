"""The SELECTs of tasks: those of this program, and those that were added to a store."""

import re
from typing import Any

import duckdb

from featurestore.store.sql_files import read_sql

SHIPPED = (
    *("readmission", "clinicalbert", "death_or_readmission"),
    *("in_hospital_mortality", "long_stay", "icu_readmission"),
)
SELF_TIMED = ("icu_readmission",)  # of them, those that give their own prediction times
# The parameters that a SELECT may name, with their defaults; macros/labels/readmission_labels.sql
# explains them.
PARAMETERS: dict[str, Any] = {
    "horizon_days": 30,
    "min_age": 0,
    "planned_types": None,
    "same_day": "continuation",
    "deaths": "negative",
}
_PARAMETER = re.compile(r"\$(\w+)")


def parameters_of(select: str) -> set[str]:
    """Return the names of the parameters, such as `$horizon_days`, in a SELECT."""
    return set(_PARAMETER.findall(select))


def fill_in(select: str, **parameters: Any) -> str:
    """Return a SELECT with the values of parameters instead of their names."""
    return _PARAMETER.sub(
        lambda name: literal(parameters[name[1]]) if name[1] in parameters else name[0], select
    )


def literal(value: Any) -> str:
    """Return a number, a text, a list of texts or None as SQL writes it."""
    if value is None:
        return "NULL"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(literal, value))}]"
    return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"


def task_select_macro(con: duckdb.DuckDBPyConnection) -> str:
    """Return the statement that makes the macro task_select, with the tasks of the store."""
    selects = {name: read_sql(f"tasks/{name}") for name in SHIPPED}
    selects |= dict(con.execute("SELECT name, sql FROM tasks ORDER BY name").fetchall())
    defaults = {name: value for name, value in PARAMETERS.items() if name != "horizon_days"}
    entries = [f"{literal(name)}: {literal(fill_in(s, **defaults))}" for name, s in selects.items()]
    return read_sql("macros/labels/task_select").replace(
        "$selects", f"MAP {{{', '.join(entries)}}}"
    )
