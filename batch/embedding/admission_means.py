"""The mean of an admission's windows at each cutoff."""

from collections.abc import Generator, Sequence

import duckdb
import numpy as np
import numpy.typing as npt

from featurestore.cohort.task_registry import predictions_are_stale, refresh_predictions
from featurestore.store.changes import (
    forget_up_to_date,
    log_changes,
    mark_up_to_date,
    names_up_to_date,
    only_changed_stays,
)
from featurestore.store.integrity.checksums import delete_rows, insert_rows
from featurestore.store.sql_files import read_sql
from featurestore.store.vectors import arrow_to_vectors, by_row_group, vectors_to_arrow

_BATCH_MEANS = 32_768
_STORED = "SELECT * EXCLUDE (vector_hash, embedding) FROM admission_embeddings"


def kept_cutoffs(con: duckdb.DuckDBPyConnection, also: str | None = None) -> list[str]:
    """Return the cutoffs at which means are kept, and `also`, at which one is fitted now."""
    kept = con.execute("SELECT cutoff FROM kept_cutoffs ORDER BY cutoff").fetchall()
    return sorted({*(cutoff for (cutoff,) in kept), *([also] if also else [])})


def refresh_means(con: duckdb.DuckDBPyConnection, also: str | None = None) -> None:
    """Recompute the rows of admission_embeddings whose windows changed.

    Their cutoffs are the kept ones and `also`, one that a scorer is to be fitted at.
    """
    refresh_predictions(con)
    cutoffs = kept_cutoffs(con, also)
    _compare_means(con, cutoffs)
    insert_rows(con, "archived_admission_embeddings", read_sql("embedding/archive_means"))
    delete_rows(
        con,
        "admission_embeddings",
        "(encoder_id, hadm_id, cutoff) IN (SELECT (encoder_id, hadm_id, cutoff) "
        "FROM outdated_means)",
    )
    _insert_missing_means(con)
    # Another text can have the same mean.
    delete_rows(
        con,
        "archived_admission_embeddings",
        "(encoder_id, hadm_id, cutoff, vector_hash) IN (SELECT (encoder_id, hadm_id, cutoff, "
        "vector_hash) FROM admission_embeddings SEMI JOIN missing_means "
        "USING (encoder_id, hadm_id, cutoff))",
    )
    log_changes(con, read_sql("embedding/rescored_stays"))
    forget_up_to_date(con, "means", list(names_up_to_date(con, "means")))
    mark_up_to_date(con, "means", cutoffs)


def means_are_stale(con: duckdb.DuckDBPyConnection, also: str | None = None) -> bool:
    """Return whether the windows of any row of admission_embeddings changed, or rows are missing.

    `also` is a cutoff at which rows are needed, beside the kept ones.
    """
    if predictions_are_stale(con):
        return True
    _compare_means(con, kept_cutoffs(con, also))
    (rows,) = con.execute(
        "SELECT (SELECT count(*) FROM outdated_means) + (SELECT count(*) FROM missing_means)"
    ).fetchall()[0]
    return bool(rows)


def _compare_means(con: duckdb.DuckDBPyConnection, cutoffs: Sequence[str]) -> None:
    """Make the tables outdated_means and missing_means.

    At a cutoff that is not kept any more, all means are outdated.
    """
    con.execute(f"CREATE OR REPLACE TEMP TABLE expected_means AS {_STORED} LIMIT 0")
    con.execute(f"CREATE OR REPLACE TEMP TABLE stored_means AS {_STORED} LIMIT 0")
    former = sorted(names_up_to_date(con, "means") - set(cutoffs))
    insert_rows(con, "stored_means", f"{_STORED} WHERE list_contains($1, cutoff)", [former])
    # One cutoff after the other: a join over all notes and windows fills the memory.
    for cutoff in _with_changed_stays(con, cutoffs):
        insert_rows(con, "expected_means", "FROM admission_windows(cutoff := $1)", [cutoff])
        insert_rows(con, "stored_means", f"{_STORED} WHERE cutoff = $1", [cutoff])
    con.execute(
        "CREATE OR REPLACE TEMP TABLE outdated_means AS "
        "SELECT encoder_id, hadm_id, cutoff FROM (FROM stored_means EXCEPT FROM expected_means)"
    )
    con.execute(
        "CREATE OR REPLACE TEMP TABLE missing_means AS "
        "SELECT row_number() OVER (ORDER BY encoder_id, hadm_id, cutoff) - 1 AS row_no, * "
        "FROM (FROM expected_means EXCEPT FROM stored_means)"
    )


def _with_changed_stays(con: duckdb.DuckDBPyConnection, cutoffs: Sequence[str]) -> Generator[str]:
    """Yield each cutoff while only the stays that changed are visible.

    All stays are visible at a cutoff whose means were not complete before.
    """
    complete = names_up_to_date(con, "means")
    current = [cutoff for cutoff in cutoffs if cutoff in complete]
    with only_changed_stays(con, "means", current):
        yield from current
    yield from (cutoff for cutoff in cutoffs if cutoff not in complete)


def _insert_missing_means(con: duckdb.DuckDBPyConnection) -> None:
    # The notes of each mean are a table of their own: planned as one query, DuckDB has paired every
    # mean with every vector of its encoder.
    con.execute(
        "CREATE OR REPLACE TEMP TABLE notes_of_means "
        "(row_no BIGINT, encoder_id VARCHAR, note_id VARCHAR, text_hash VARCHAR)"
    )
    cutoffs = con.execute("SELECT DISTINCT cutoff FROM missing_means ORDER BY 1").fetchall()
    for cutoff in _with_changed_stays(con, [cutoff for (cutoff,) in cutoffs]):
        insert_rows(con, "notes_of_means", read_sql("embedding/notes_of_means"), {"cutoff": cutoff})
    # Vectors of one width at a time.
    encoders = con.execute(
        "SELECT dim, min(row_no), max(row_no) + 1 FROM missing_means "
        "INNER JOIN encoders USING (encoder_id) GROUP BY encoder_id, dim ORDER BY 2"
    ).fetchall()
    batches = [
        (first, min(first + _BATCH_MEANS, end), dim)
        for dim, start, end in encoders
        for first in range(start, end, _BATCH_MEANS)
    ]
    for first, last, dim in batches:
        means = con.execute(
            "FROM missing_means WHERE row_no >= $1 AND row_no < $2 ORDER BY row_no", [first, last]
        ).to_arrow_table()
        vectors = vectors_to_arrow(_compute_means(con, first, last, dim))
        con.register("means", by_row_group(means.append_column("embedding", vectors)))
        columns = "* EXCLUDE (row_no, embedding), hash(embedding), embedding"
        insert_rows(con, "admission_embeddings", f"SELECT {columns} FROM means")
        con.unregister("means")


def _compute_means(
    con: duckdb.DuckDBPyConnection, first: int, last: int, dim: int
) -> npt.NDArray[np.float32]:
    """Return the missing means `first` to `last` - 1, summed in float64 so that order is moot."""
    from scipy.sparse import csr_matrix

    sums = np.zeros((last - first, dim))  # (means, dim)
    counts = np.zeros((last - first, 1))
    lowest, highest = con.execute(
        "SELECT min(hadm_id), max(hadm_id) FROM missing_means WHERE row_no >= $1 AND row_no < $2",
        [first, last],
    ).fetchall()[0]
    windows = con.execute(
        read_sql("embedding/windows_of_means"),
        {"first": first, "last": last, "lowest": lowest, "highest": highest},
    )
    for batch in windows.to_arrow_reader(8_192):
        vectors = arrow_to_vectors(batch.column("embedding")).astype(np.float64)
        row_nos = batch.column("row_nos")
        starts = np.concatenate([[0], np.cumsum(row_nos.value_lengths().to_numpy())])
        rows = row_nos.flatten().to_numpy()
        # (windows, means of these): 1 where a window counts for a mean
        used, column = np.unique(rows, return_inverse=True)
        membership = csr_matrix((np.ones(len(rows)), column, starts), (len(vectors), len(used)))
        sums[used] += membership.T @ vectors
        counts[used, 0] += np.bincount(column)
    means: npt.NDArray[np.float32] = (sums / counts).astype(np.float32)
    return means
