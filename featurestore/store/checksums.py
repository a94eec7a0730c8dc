"""What a commit stored, table by table: counted and hashed, to be compared with later."""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import duckdb

from featurestore.errors import FeatureStoreError

KEYS = {
    "admissions": "hadm_id",
    "notes": "note_id",
    "encoders": "encoder_id",
    "embeddings": "(encoder_id, note_id, window_no)",
    "admission_embeddings": "(encoder_id, hadm_id, cutoff)",
    "archived_admission_embeddings": "(encoder_id, hadm_id, cutoff, vector_hash)",
    "scorers": "scorer_id",
    "scorer_admissions": "(scorer_id, hadm_id)",
    "runs": "run_id",
    "nightly_embedding_stats": "(run_id, encoder_id, category)",
    "former_stays": "hadm_id",
    "forgotten": "patient_hash",
    "manifest": "table_name",
}
# A vector's hash is a column beside it.
HASHED = ("embeddings", "admission_embeddings", "archived_admission_embeddings")
_WRITTEN_LAST = ("manifest", "runs")


class Content(NamedTuple):
    """How many rows a table has, a hash of them in which no order shows, and its columns."""

    table: str
    rows: int
    content_hash: int
    columns: str


def tables(con: duckdb.DuckDBPyConnection) -> list[str]:
    """The tables of the database that is used, by name."""
    query = (
        "SELECT table_name FROM duckdb_tables() "
        "WHERE (database_name, schema_name) = (current_database(), 'main') AND NOT temporary "
        "ORDER BY 1"
    )
    return [name for (name,) in con.execute(query).fetchall()]


def content(con: duckdb.DuckDBPyConnection, table: str) -> Content:
    """What a table holds now."""
    # The hash of a vector stands beside it: a commit need not read every vector again.
    vectors = " EXCLUDE (embedding)" if table in HASHED else ""
    rows, content_hash = con.execute(
        f"SELECT count(*), coalesce(sum(hash(t)), 0) FROM (SELECT *{vectors} FROM {table}) AS t"
    ).fetchall()[0]
    columns = con.execute(f"SELECT column_name, column_type FROM (DESCRIBE {table})").fetchall()
    return Content(table, rows, content_hash, str(columns))


def contents(con: duckdb.DuckDBPyConnection) -> list[Content]:
    """What each table holds now but the two that a commit writes last."""
    return [content(con, table) for table in tables(con) if table not in _WRITTEN_LAST]


def store_hash(held: list[Content]) -> str:
    """One hash (SHA-256, hex) of what the tables hold, of which nothing can be told about a row."""
    return hashlib.sha256("\n".join(map(str, held)).encode()).hexdigest()


def write_manifest(con: duckdb.DuckDBPyConnection, held: list[Content], run_id: int) -> None:
    """Write down what the tables hold as of a run, which is in `runs` by now."""
    con.execute("DELETE FROM manifest")
    for each in (*held, content(con, "runs")):
        con.execute(
            "INSERT INTO manifest VALUES ($1, $2, $3, $4, $5)",
            [*each[:3], run_id, duckdb.__version__],
        )


def check_keys(con: duckdb.DuckDBPyConnection) -> None:
    """Refuse a version in which something stands twice."""
    for fault in duplicate_keys(con):
        raise FeatureStoreError(f"{fault}; nothing was changed - please report this")


def duplicate_keys(con: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """Each table with rows whose key another one has, in a sentence."""
    for table in sorted(KEYS.keys() & set(tables(con))):
        query = f"SELECT count(*), count(DISTINCT {KEYS[table]}) FROM {table}"
        rows, keys = con.execute(query).fetchall()[0]
        if rows != keys:
            yield f"{table} holds {rows - keys} rows twice (by {KEYS[table]})"


def changed(con: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """What is not as the manifest says, and each vector that is not as it was written."""
    there = tables(con)
    written = {
        row[0]: row[1:]
        for row in con.execute(
            "SELECT table_name, n_rows, content_hash, duckdb_version FROM manifest"
        ).fetchall()
    }
    for table in sorted(written.keys() - set(there)):
        yield f"{table} is gone"
    for table in there:
        if table != "manifest":
            yield from _compared(content(con, table), written.get(table))
    for table in set(HASHED) & set(there):
        (spoilt,) = con.execute(
            f"SELECT count(*) FROM {table} WHERE hash(embedding) <> vector_hash"
        ).fetchall()[0]
        if spoilt:
            yield f"{table} holds {spoilt:,} vectors that are not as they were written"


def _compared(now: Content, then: tuple[int, int, str] | None) -> Iterator[str]:
    if then is None:
        yield f"{now.table} is not in the manifest"
        return
    rows, content_hash, version = then
    if now.rows != rows:
        yield f"{now.table} has {now.rows:,} rows, its manifest says {rows:,}"
    elif version != duckdb.__version__:
        yield (
            f"{now.table} was written by DuckDB {version}, whose hashes {duckdb.__version__} "
            "cannot compare"
        )
    elif now.content_hash != content_hash:
        yield f"{now.table} is not as it was written"
