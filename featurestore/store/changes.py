"""Which admissions changed since something was computed from them.

Each run logs the admissions that it changed (`changed_admissions`), and up to which run vectors,
means and scores are complete (`up_to_date`). What follows from a change is then found without a
pass over all admissions.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import duckdb
import pyarrow as pa

from featurestore.store.integrity.checksums import insert_rows
from featurestore.store.schema import VIEWS_OF_STAYS
from featurestore.store.sql_files import read_sql

Kind = Literal["vectors", "means", "scores"]
_FEW, _MOST = 1_000, 0.1  # admissions, and of all; beyond both a pass over all is faster
_VECTORS_AT_ONCE = 100_000_000  # bytes
_THIS_RUN = "(SELECT max(run_id) + 1 FROM runs)"


def log_changes(con: duckdb.DuckDBPyConnection, query: str, patients: bool = False) -> None:
    """Log the admissions (hadm_id) of a query as changed by the run that is being made.

    `patients` is whether the stays themselves changed; the query then gives subject_id too.
    """
    subject_id = "subject_id" if patients else "NULL"
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE logged AS SELECT DISTINCT hadm_id, {subject_id} "
        f"FROM ({query}) WHERE hadm_id IS NOT NULL"
    )
    if _is_few(con, "logged"):
        insert_rows(con, "changed_admissions", f"SELECT {_THIS_RUN}, * FROM logged ORDER BY 2")
    else:
        log_all_changed(con)


def log_all_changed(con: duckdb.DuckDBPyConnection) -> None:
    """Log that all admissions may have changed by the run that is being made."""
    con.execute(f"INSERT INTO changed_admissions SELECT {_THIS_RUN}, NULL, NULL")


def mark_up_to_date(con: duckdb.DuckDBPyConnection, kind: Kind, names: Sequence[str]) -> None:
    """Record that these are complete as of the run that is being made."""
    forget_up_to_date(con, kind, names)
    con.execute(
        f"INSERT INTO up_to_date SELECT $1, unnest($2::VARCHAR[]), {_THIS_RUN}, observed_until "
        "FROM settings",
        [kind, list(names)],
    )


def forget_up_to_date(con: duckdb.DuckDBPyConnection, kind: Kind, names: Sequence[str]) -> None:
    """Have these computed from all admissions the next time."""
    con.execute(
        "DELETE FROM up_to_date WHERE kind = $1 AND list_contains($2, name)", [kind, list(names)]
    )


def names_up_to_date(con: duckdb.DuckDBPyConnection, kind: Kind) -> set[str]:
    """Return the names that were complete as of some run."""
    rows = con.execute("SELECT name FROM up_to_date WHERE kind = $1", [kind]).fetchall()
    return {name for (name,) in rows}


@contextmanager
def only_changed_stays(
    con: duckdb.DuckDBPyConnection, kind: Kind, names: Sequence[str]
) -> Iterator[bool]:
    """Let tables, views and macros show only the stays that changed since `names` were complete.

    All stays remain visible, and it yields False, if one of the names never was, or if many stays
    changed. Nothing can be written into the tables meanwhile.
    """
    if find_changed_stays(con, kind, names):
        with _only(con, "changed_stays"):
            yield True
    else:
        yield False


@contextmanager
def _only(con: duckdb.DuckDBPyConnection, stays: str) -> Iterator[None]:
    """Let tables, views and macros show only the stays of a table (hadm_id)."""
    (database,) = con.execute("SELECT current_database()").fetchall()[0]
    try:
        for table in VIEWS_OF_STAYS:
            # A temporary view is found first, also by the views and macros of the store.
            con.execute(
                f"CREATE TEMP VIEW {table} AS SELECT * FROM {database}.{table} "
                f"WHERE hadm_id IN (SELECT hadm_id FROM {stays})"
            )
        yield
    finally:
        for table in VIEWS_OF_STAYS:
            con.execute(f"DROP VIEW IF EXISTS temp.{table}")


def query_in_parts(
    con: duckdb.DuckDBPyConnection, query: str, parameters: dict[str, Any]
) -> pa.Table:
    """Return the rows of a query over the scores of a scorer (`scorer`), in bounded memory.

    A maximum over windows needs the vectors of all windows of a stay at once, so the query is made
    for a part of the stays after the other, by a hash of hadm_id.
    """
    (parts,) = con.execute(
        read_sql("scoring/parts"), {"scorer": parameters["scorer"], "bytes": _VECTORS_AT_ONCE}
    ).fetchall()[0]
    if parts == 1:
        return con.execute(query, parameters).to_arrow_table()
    tables = []
    for part in range(parts):
        con.execute(
            "CREATE OR REPLACE TEMP TABLE part_of_stays AS "
            "SELECT hadm_id FROM admissions WHERE hash(hadm_id) % $1 = $2",
            [parts, part],
        )
        with _only(con, "part_of_stays"):
            tables.append(con.execute(query, parameters).to_arrow_table())
    return pa.concat_tables(tables)


def find_changed_stays(con: duckdb.DuckDBPyConnection, kind: Kind, names: Sequence[str]) -> bool:
    """Make the table changed_stays (hadm_id), of the stays that changed since names were complete.

    Returns False where all stays must be looked at: one of the names never was complete, or many
    stays changed. Means also change as time passes, in the hours that a cutoff names.
    """
    hours = [int(h) for name in names for h in re.findall("([0-9]+)h$", name)]
    until = max(hours, default=0) + 1 if kind == "means" else 0
    n_complete, after, observed, all_changed, is_other, is_later = con.execute(
        read_sql("store/changes/completeness"), {"kind": kind, "names": list(names)}
    ).fetchall()[0]
    if not names or n_complete < len(names) or all_changed or (until and is_other and not is_later):
        return False
    parameters = {
        "after": after,
        "observed_until": observed if until and is_other else None,
        "hours": until,
    }
    con.execute(read_sql("store/changes/changed_stays"), parameters)
    return _is_few(con, "changed_stays")


def _is_few(con: duckdb.DuckDBPyConnection, table: str) -> bool:
    few, of_all = con.execute(
        f"SELECT (SELECT count(*) FROM {table}), (SELECT count(*) FROM admissions)"
    ).fetchall()[0]
    return bool(few <= max(_FEW, _MOST * of_all))
