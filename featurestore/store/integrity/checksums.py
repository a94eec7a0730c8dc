"""Checksums of the tables: recorded by each commit, compared by `verify`.

The hash of a table's rows is a sum, so a commit adds the rows that it wrote to the last sum and
subtracts those that it deleted. Rows that another program changed stay in the sum as they were.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypedDict

import duckdb

from featurestore.errors import FeatureStoreError
from featurestore.store.schema import KEYS, SMALL_TABLES, VECTORS

# A vector's hash is a column of its row, so that a commit need not read every vector again.
VECTOR_TABLES = ("embeddings", "admission_embeddings", "archived_admission_embeddings")
# A SHA-256 of a scorer's coefficients, which does not depend on the version of DuckDB.
COEF_HASH = (
    "sha256(CAST((coef, intercept, calibration_slope, calibration_intercept, min_probability, "
    "max_probability) AS VARCHAR))"
)


# DuckDB numbers the rows that a transaction has written from here on, until it commits.
NEW_ROWS = "rowid >= 36_028_797_018_960_000"


class TableChecksum(TypedDict):
    """What a table holds: the hashes depend on values, names and types, not on the row order."""

    rows: int
    rows_hash: str
    columns_hash: str


Checksums = dict[str, TableChecksum]


def checksums(con: duckdb.DuckDBPyConnection, condition: str = "TRUE") -> Checksums:
    """Return the checksum of each table but `runs`, whose rows are chained by the audit log.

    Rows that do not meet a condition are left out.
    """
    return {table: _checksum(con, table, condition) for table in _tables(con) if table != "runs"}


def row_counts(con: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Return the number of rows of each table."""
    return {table: _n_rows(con, table) for table in _tables(con)}


def checksums_hash(tables: Checksums) -> str:
    """Return one SHA-256 (hex) over all checksums, from which no row can be guessed."""
    return hashlib.sha256(json.dumps(tables).encode()).hexdigest()


def recorded_checksums(con: duckdb.DuckDBPyConnection) -> tuple[Checksums, str]:
    """Return the checksums that the last commit recorded, and its version of DuckDB."""
    rows = con.execute(
        "SELECT contents, versions ->> '$.duckdb' FROM runs ORDER BY run_id DESC LIMIT 1"
    ).fetchall()
    contents, version = rows[0] if rows else (None, "")
    return json.loads(contents or "{}"), version


def checksum_mismatches(con: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """Yield a sentence for each table that differs from its checksum, or whose vectors do."""
    yield from changed_rows(con).values()
    yield from broken_tables(con)


def changed_rows(
    con: duckdb.DuckDBPyConnection, tables: Sequence[str] | None = None
) -> dict[str, str]:
    """Return a sentence for each table, or each of these, with other rows than were recorded."""
    recorded, version = recorded_checksums(con)
    sentences = {}
    for table in _tables(con):
        if table not in recorded or (tables is not None and table not in tables):
            continue
        now, then = _checksum(con, table), recorded[table]
        if now["rows"] != then["rows"]:
            sentences[table] = (
                f"{table} has {now['rows']:,} rows, the last run recorded {then['rows']:,}"
            )
        elif now != then and version == duckdb.__version__:
            sentences[table] = f"{table} is not as it was written"
    return sentences


def broken_tables(con: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """Yield a sentence for each table that is not the one that was made, or has other vectors."""
    recorded, version = recorded_checksums(con)
    tables = [table for table in _tables(con) if table != "runs"]
    for table in sorted(recorded.keys() - set(tables)):
        yield f"{table} is missing"
    for table in tables:
        if table not in recorded:
            yield f"{table} has no checksum in runs"
        elif _columns_hash(con, table) != recorded[table]["columns_hash"]:
            yield f"{table} does not have the columns that were written"
    if version != duckdb.__version__:
        yield (
            f"the tables were written by DuckDB {version}, whose hashes {duckdb.__version__} "
            "cannot compare - the next command that changes the store records them again"
        )
    for table in sorted(set(VECTOR_TABLES) & set(tables)):
        (changed_vectors,) = con.execute(
            f"SELECT count(*) FROM {table} WHERE hash(embedding) <> vector_hash"
        ).fetchall()[0]
        if changed_vectors:
            yield f"{table} holds {changed_vectors:,} vectors that are not as they were written"


def duplicate_keys(con: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """Yield a sentence for each table in which several rows have the same key."""
    for table in sorted(KEYS.keys() & set(_tables(con))):
        yield from _duplicates(con, table)


def wrong_widths(con: duckdb.DuckDBPyConnection, rows: str = "TRUE") -> Iterator[str]:
    """Yield a sentence for each table and encoder with vectors that are not `dim` wide.

    `rows` is a condition on the rows to check.
    """
    encoders = con.execute("SELECT encoder_id, dim FROM encoders ORDER BY 1").fetchall()
    for table, column in VECTORS.items():
        for encoder_id, dim in encoders:
            # A length that is compared with a constant is found without reading the vectors.
            width = f"len({column})"
            if table == "scorers":  # Two coefficients of each covariate follow those of a vector.
                width += " - 2 * coalesce(len(covariate_means), 0)"
            query = (
                f"SELECT count(*) FROM {table} WHERE encoder_id = $1 AND {width} <> $2 AND {rows}"
            )
            (count,) = con.execute(query, [encoder_id, dim]).fetchall()[0]
            if count:
                yield f"{table} holds {count:,} vectors of {encoder_id} that are not {dim} wide"
    (count,) = con.execute(
        f"SELECT count(*) FROM (FROM admission_covariates WHERE {rows}) "
        "INNER JOIN covariate_sets USING (covariates_id) WHERE len(design) <> 2 * len(columns)"
    ).fetchall()[0]
    if count:
        yield f"admission_covariates holds {count:,} rows that do not have all covariates"


def begin_changes(con: duckdb.DuckDBPyConnection) -> None:
    """Count the rows of each table, before a transaction changes any."""
    con.execute(
        "CREATE OR REPLACE TEMP TABLE row_changes "
        "(table_name VARCHAR, n_rows BIGINT, rows_hash HUGEINT, is_before BOOLEAN)"
    )
    for table, rows in row_counts(con).items():
        con.execute("INSERT INTO row_changes VALUES ($1, $2, 0, TRUE)", [table, rows])


def insert_rows(
    con: duckdb.DuckDBPyConnection,
    table: str,
    select: str,
    parameters: Any = None,
    by_name: bool = False,
) -> int:
    """Insert the rows of a SELECT, by position or name, and return how many.

    In DuckDB before 2.0, an INSERT without rows, from Arrow or sorted, makes the row groups that
    the same transaction inserts next disappear. So there is none here. Raises FeatureStoreError if
    rows are lost in spite of that.
    """
    if not con.execute(f"SELECT 1 FROM ({select}) LIMIT 1", parameters).fetchall():
        return 0
    before = _n_rows(con, table)
    name = " BY NAME" if by_name else ""
    inserted: int = con.execute(f"INSERT INTO {table}{name} {select}", parameters).fetchall()[0][0]
    if _n_rows(con, table) != before + inserted:
        _refuse([f"DuckDB lost rows of {table}"])
    return inserted


def delete_rows(
    con: duckdb.DuckDBPyConnection, table: str, where: str, parameters: Any = None
) -> int:
    """Delete rows of a table whose checksum is kept up by difference; return how many."""
    _select_rows(con, table, where, parameters)
    _add_to_changes(con, table, -1)
    rows: int = con.execute(
        f"DELETE FROM {table} WHERE rowid IN (SELECT row_no FROM selected_rows)"
    ).fetchall()[0][0]
    return rows


def update_rows(
    con: duckdb.DuckDBPyConnection,
    table: str,
    assignments: str,
    where: str,
    join: str = "TRUE",
) -> int:
    """Update rows of a table whose checksum is kept up by difference; return how many.

    No column of the key can be assigned. Where the assignments are FROM another table, `join` says
    which of its rows belongs to a row.
    """
    _select_rows(con, table, where, None)
    _add_to_changes(con, table, -1)
    rows: int = con.execute(
        f"UPDATE {table} SET {assignments} "
        f"WHERE {table}.rowid IN (SELECT row_no FROM selected_rows) AND {join}"
    ).fetchall()[0][0]
    _add_to_changes(con, table, 1)
    return rows


def checksums_after_changes(con: duckdb.DuckDBPyConnection) -> Checksums:
    """Return the checksums of the tables as a transaction has changed them.

    Small tables are read whole, of others the rows that are new. Raises FeatureStoreError if a
    table has duplicate keys or vectors of a wrong width, or if rows were changed unnoticed.
    """
    recorded, version = recorded_checksums(con)
    changes = con.execute(
        "SELECT table_name, sum(n_rows) FILTER (is_before), "
        "coalesce(sum(n_rows) FILTER (NOT is_before), 0), sum(rows_hash) FROM row_changes "
        "GROUP BY table_name"
    ).fetchall()
    by_table = {table: (int(n), int(changed), total) for table, n, changed, total in changes}
    contents = {}
    for table in _tables(con):
        if table == "runs":
            continue
        if table in SMALL_TABLES or version != duckdb.__version__ or table not in recorded:
            contents[table] = _checksum(con, table)
            findings = list(_duplicates(con, table))
        else:
            new, before = _checksum(con, table, NEW_ROWS), recorded[table]
            rows_before, rows_changed, hash_changed = by_table[table]
            rows = _n_rows(con, table)
            findings = list(_new_duplicates(con, table) if new["rows"] else ())
            if rows != rows_before + rows_changed + new["rows"]:
                findings.append(f"rows of {table} were changed unnoticed")
            contents[table] = {
                "rows": before["rows"] + rows_changed + new["rows"],
                "rows_hash": str(int(before["rows_hash"]) + hash_changed + int(new["rows_hash"])),
                "columns_hash": new["columns_hash"],
            }
        _refuse(findings)
    _refuse(wrong_widths(con, NEW_ROWS))
    return contents


def _n_rows(con: duckdb.DuckDBPyConnection, table: str) -> int:
    rows: int = con.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0]
    return rows


def _refuse(findings: Iterable[str]) -> None:
    for finding in findings:
        raise FeatureStoreError(f"{finding}; nothing was changed - please report this")


def _select_rows(con: duckdb.DuckDBPyConnection, table: str, where: str, parameters: Any) -> None:
    con.execute(
        "CREATE OR REPLACE TEMP TABLE selected_rows AS "
        f"SELECT rowid AS row_no FROM {table} WHERE {where}",
        parameters,
    )


def _add_to_changes(con: duckdb.DuckDBPyConnection, table: str, sign: int) -> None:
    """Add the selected rows that are not new to the changes, or subtract them."""
    selected = f"rowid IN (SELECT row_no FROM selected_rows) AND NOT {NEW_ROWS}"
    old = _checksum(con, table, selected)
    con.execute(
        "INSERT INTO row_changes VALUES ($1, $2, $3::HUGEINT, FALSE)",
        [table, sign * old["rows"], str(sign * int(old["rows_hash"]))],
    )


def _new_duplicates(con: duckdb.DuckDBPyConnection, table: str) -> Iterator[str]:
    """Yield a sentence if a new row has the key of another row."""
    if table not in KEYS:
        return
    key = KEYS[table].strip("()")
    new, distinct, old = con.execute(
        f"WITH new_rows AS (SELECT {key} FROM {table} WHERE {NEW_ROWS}) "
        f"SELECT count(*), count(DISTINCT ({key})), (SELECT count(*) FROM {table} AS t "
        f"SEMI JOIN new_rows USING ({key}) WHERE NOT {NEW_ROWS}) FROM new_rows"
    ).fetchall()[0]
    if new - distinct + old:
        yield f"{table} holds {new - distinct + old} duplicate rows (by {KEYS[table]})"


def _tables(con: duckdb.DuckDBPyConnection) -> list[str]:
    query = (
        "SELECT table_name FROM duckdb_tables() "
        "WHERE (database_name, schema_name) = (current_database(), 'main') AND NOT temporary "
        "ORDER BY 1"
    )
    return [name for (name,) in con.execute(query).fetchall()]


def _duplicates(con: duckdb.DuckDBPyConnection, table: str) -> Iterator[str]:
    if table in KEYS:
        query = f"SELECT count(*), count(DISTINCT {KEYS[table]}) FROM {table}"
        rows, keys = con.execute(query).fetchall()[0]
        if rows != keys:
            yield f"{table} holds {rows - keys} duplicate rows (by {KEYS[table]})"


def _checksum(con: duckdb.DuckDBPyConnection, table: str, condition: str = "TRUE") -> TableChecksum:
    """Return the checksum of a table, or of the rows that meet a condition."""
    vectors = " EXCLUDE (embedding)" if table in VECTOR_TABLES else ""
    # A sum, because it does not depend on the order; as text, because it is a HUGEINT.
    rows, rows_hash = con.execute(
        "SELECT count(*), CAST(coalesce(sum(hash(t)), 0) AS VARCHAR) "
        f"FROM (SELECT *{vectors} FROM {table} WHERE {condition}) AS t"
    ).fetchall()[0]
    return {"rows": rows, "rows_hash": rows_hash, "columns_hash": _columns_hash(con, table)}


def _columns_hash(con: duckdb.DuckDBPyConnection, table: str) -> str:
    columns = con.execute(f"SELECT column_name, column_type FROM (DESCRIBE {table})").fetchall()
    return hashlib.sha256(str(columns).encode()).hexdigest()
