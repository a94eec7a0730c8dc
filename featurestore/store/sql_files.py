"""The SQL files of the project: one object or one query a file."""

from functools import cache
from pathlib import Path

# A plain folder of data files: it works uninstalled, editable and from a wheel.
SQL = Path(__file__).resolve().parents[2] / "sql"


@cache
def read_sql(name: str) -> str:
    """Return the text of `sql/NAME.sql`, such as `macros/labels/readmission_labels`."""
    return (SQL / f"{name}.sql").read_text()
