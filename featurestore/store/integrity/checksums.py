"""Checksums of the tables: recorded by each commit, compared by `verify`."""

import hashlib
import json
from collections.abc import Iterator
from typing import TypedDict

import duckdb

from featurestore.errors import FeatureStoreError
from featurestore.store.schema import KEYS, VECTORS

# A vector's hash is a column of its row, so that a commit need not read every vector again.
VECTOR_TABLES = ("embeddings", "admission_embeddings", "archived_admission_embeddings")
# A SHA-256 of a scorer's coefficients, which does not depend on the version of DuckDB.
COEF_HASH = (
    "sha256(CAST((coef, intercept, calibration_slope, calibration_intercept, min_probability, "
    "max_probability) AS VARCHAR))"
)


class TableChecksum(TypedDict):
    """What a table holds: the hashes depend on values, names and types, not on the row order."""

    rows: int
    rows_hash: str
    columns_hash: str


Checksums = dict[str, TableChecksum]


def checksums(con: duckdb.DuckDBPyConnection) -> Checksums:
    """Return the checksum of each table but `runs`, whose rows are chained by the audit log."""
    return {table: _checksum(con, table) for table in _tables(con) if table != "runs"}


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
    now = checksums(con)
    recorded, version = recorded_checksums(con)
    for table in sorted(recorded.keys() - now.keys()):
        yield f"{table} is missing"
    for table in now:
        if table not in recorded:
            yield f"{table} has no checksum in runs"
        else:
            yield from _mismatch(table, now[table], recorded[table], version)
    for table in sorted(set(VECTOR_TABLES) & now.keys()):
        (changed_vectors,) = con.execute(
            f"SELECT count(*) FROM {table} WHERE hash(embedding) <> vector_hash"
        ).fetchall()[0]
        if changed_vectors:
            yield f"{table} holds {changed_vectors:,} vectors that are not as they were written"


def duplicate_keys(con: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """Yield a sentence for each table in which several rows have the same key."""
    for table in sorted(KEYS.keys() & set(_tables(con))):
        query = f"SELECT count(*), count(DISTINCT {KEYS[table]}) FROM {table}"
        rows, keys = con.execute(query).fetchall()[0]
        if rows != keys:
            yield f"{table} holds {rows - keys} duplicate rows (by {KEYS[table]})"


def wrong_widths(con: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """Yield a sentence for each table and encoder with vectors that are not `dim` wide."""
    encoders = con.execute("SELECT encoder_id, dim FROM encoders ORDER BY 1").fetchall()
    for table, column in VECTORS.items():
        for encoder_id, dim in encoders:
            # A length that is compared with a constant is found without reading the vectors.
            width = f"len({column})"
            if table == "scorers":  # Two coefficients of each covariate follow those of a vector.
                width += " - 2 * coalesce(len(covariate_means), 0)"
            query = f"SELECT count(*) FROM {table} WHERE encoder_id = $1 AND {width} <> $2"
            (count,) = con.execute(query, [encoder_id, dim]).fetchall()[0]
            if count:
                yield f"{table} holds {count:,} vectors of {encoder_id} that are not {dim} wide"
    (count,) = con.execute(
        "SELECT count(*) FROM admission_covariates INNER JOIN covariate_sets USING (covariates_id) "
        "WHERE len(design) <> 2 * len(columns)"
    ).fetchall()[0]
    if count:
        yield f"admission_covariates holds {count:,} rows that do not have all covariates"


def check_rows(con: duckdb.DuckDBPyConnection) -> None:
    """Raise FeatureStoreError if a table has duplicate keys or vectors of a wrong width."""
    for finding in (*duplicate_keys(con), *wrong_widths(con)):
        raise FeatureStoreError(f"{finding}; nothing was changed - please report this")


def _tables(con: duckdb.DuckDBPyConnection) -> list[str]:
    query = (
        "SELECT table_name FROM duckdb_tables() "
        "WHERE (database_name, schema_name) = (current_database(), 'main') AND NOT temporary "
        "ORDER BY 1"
    )
    return [name for (name,) in con.execute(query).fetchall()]


def _checksum(con: duckdb.DuckDBPyConnection, table: str) -> TableChecksum:
    vectors = " EXCLUDE (embedding)" if table in VECTOR_TABLES else ""
    # A sum, because it does not depend on the order; as text, because it is a HUGEINT.
    rows, rows_hash = con.execute(
        "SELECT count(*), CAST(coalesce(sum(hash(t)), 0) AS VARCHAR) "
        f"FROM (SELECT *{vectors} FROM {table}) AS t"
    ).fetchall()[0]
    columns = con.execute(f"SELECT column_name, column_type FROM (DESCRIBE {table})").fetchall()
    columns_hash = hashlib.sha256(str(columns).encode()).hexdigest()
    return {"rows": rows, "rows_hash": rows_hash, "columns_hash": columns_hash}


def _mismatch(
    table: str, now: TableChecksum, recorded: TableChecksum, version: str
) -> Iterator[str]:
    if now["rows"] != recorded["rows"]:
        yield f"{table} has {now['rows']:,} rows, the last run recorded {recorded['rows']:,}"
    elif now["columns_hash"] != recorded["columns_hash"]:
        yield f"{table} does not have the columns that were written"
    elif version != duckdb.__version__:
        yield (
            f"{table} was written by DuckDB {version}, whose hashes {duckdb.__version__} "
            "cannot compare"
        )
    elif now["rows_hash"] != recorded["rows_hash"]:
        yield f"{table} is not as it was written"
