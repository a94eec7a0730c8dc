"""The mean of an admission's windows at each cutoff, kept in line with the windows that count."""

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batch.embedding.shards import arrow_to_vectors, vectors_to_arrow
from featurestore.store.store import CUTOFFS

_AT_ONCE = 32_768
_STORED = """
    SELECT encoder_id, hadm_id, cutoff, prediction_time, n_notes, n_windows, windows_hash
    FROM admission_embeddings
"""


def refresh_means(con: duckdb.DuckDBPyConnection) -> None:
    """Bring admission_embeddings in line with the windows that count; only what differs moves."""
    # One cutoff after the other: a join over all notes and windows each is enough to hold.
    con.execute(f"CREATE OR REPLACE TEMP TABLE expected AS {_STORED} LIMIT 0")
    for cutoff in CUTOFFS:
        con.execute(f"INSERT INTO expected FROM admission_windows(cutoff := '{cutoff}')")
    con.execute(
        "CREATE OR REPLACE TEMP TABLE old_means AS "
        f"SELECT encoder_id, hadm_id, cutoff FROM ({_STORED} EXCEPT FROM expected)"
    )
    # What a recorded score was computed from stays, so that it can be computed again.
    con.execute(
        """
        INSERT INTO archived_admission_embeddings
        SELECT m.encoder_id, m.hadm_id, m.cutoff, m.vector_hash, m.embedding
        FROM admission_embeddings AS m
        SEMI JOIN old_means USING (encoder_id, hadm_id, cutoff)
        SEMI JOIN (
            SELECT c.encoder_id, c.cutoff, s.hadm_id, s.input_hash AS vector_hash
            FROM scores AS s INNER JOIN scorers AS c USING (scorer_id)
        ) AS s USING (encoder_id, hadm_id, cutoff, vector_hash)
        ANTI JOIN archived_admission_embeddings AS p
            USING (encoder_id, hadm_id, cutoff, vector_hash)
        """
    )
    con.execute(
        "DELETE FROM admission_embeddings WHERE (encoder_id, hadm_id, cutoff) IN "
        "(SELECT (encoder_id, hadm_id, cutoff) FROM old_means)"
    )
    con.execute(
        "CREATE OR REPLACE TEMP TABLE missing_means AS "
        "SELECT row_number() OVER (ORDER BY encoder_id, hadm_id, cutoff) - 1 AS row_no, * "
        f"FROM (FROM expected EXCEPT {_STORED})"
    )
    # Which notes each is made of, before vectors come in: left to plan it all as one, DuckDB once
    # began by pairing every mean with every vector of its encoder.
    con.execute(
        "CREATE OR REPLACE TEMP TABLE members "
        "(row_no BIGINT, encoder_id VARCHAR, note_id VARCHAR, text_hash VARCHAR)"
    )
    for cutoff in CUTOFFS:
        con.execute(
            f"""
            INSERT INTO members
            SELECT m.row_no, m.encoder_id, k.note_id, k.text_hash
            FROM missing_means AS m
            INNER JOIN known_notes(cutoff := '{cutoff}') AS k ON m.hadm_id = k.hadm_id
            WHERE m.cutoff = '{cutoff}'
            """
        )
    total = con.execute("SELECT count(*) FROM missing_means").fetchall()[0][0]
    for first in range(0, total, _AT_ONCE):
        last = min(first + _AT_ONCE, total)
        con.register(
            "means",
            pa.table(
                {
                    "row_no": np.arange(first, last),
                    "embedding": vectors_to_arrow(_means(con, first, last)),
                }
            ),
        )
        con.execute(
            "INSERT INTO admission_embeddings "
            "SELECT m.* EXCLUDE (row_no), hash(v.embedding), v.embedding "
            "FROM missing_means AS m INNER JOIN means AS v USING (row_no) ORDER BY row_no"
        )
        con.unregister("means")
    # Another text can have the same mean, and other hashes in a new version the same windows.
    con.execute(
        "DELETE FROM archived_admission_embeddings "
        "WHERE (encoder_id, hadm_id, cutoff, vector_hash) IN "
        "(SELECT (encoder_id, hadm_id, cutoff, vector_hash) FROM admission_embeddings)"
    )


def means_are_stale(con: duckdb.DuckDBPyConnection) -> bool:
    """Whether admission_embeddings is not what the windows that count now would give."""
    for cutoff in CUTOFFS:
        both = [
            con.execute(f"SELECT count(*), sum(hash(t)) FROM ({query}) AS t").fetchall()
            for query in (
                f"FROM admission_windows(cutoff := '{cutoff}')",
                f"{_STORED} WHERE cutoff = '{cutoff}'",
            )
        ]
        if both[0] != both[1]:
            return True
    return False


def _means(con: duckdb.DuckDBPyConnection, first: int, last: int) -> npt.NDArray[np.float32]:
    """The means of some rows of missing_means, summed in double so that no order shows."""
    from scipy.sparse import csr_matrix

    (width,) = con.execute("SELECT max(dim) FROM encoders").fetchall()[0]
    sums = np.zeros((last - first, width))  # (means, dim)
    counts = np.zeros((last - first, 1))
    # A window is read once, though it may count at every cutoff.
    windows = con.execute(
        """
        WITH members_of_note AS (
            SELECT encoder_id, note_id, text_hash, list(row_no - $first) AS row_nos
            FROM members
            WHERE row_no >= $first AND row_no < $last
            GROUP BY ALL
        )

        SELECT m.row_nos, e.embedding
        FROM members_of_note AS m
        INNER JOIN embeddings AS e
            ON m.note_id = e.note_id
            AND m.text_hash = e.text_hash
            AND m.encoder_id = e.encoder_id
        """,
        {"first": first, "last": last},
    )
    for batch in windows.to_arrow_reader(8_192):
        vectors = arrow_to_vectors(batch.column("embedding")).astype(np.float64)
        row_nos = batch.column("row_nos")
        starts = np.concatenate([[0], np.cumsum(row_nos.value_lengths().to_numpy())])
        rows = row_nos.flatten().to_numpy()
        # (windows, means): 1 where a window counts for a mean
        counting = csr_matrix((np.ones(len(rows)), rows, starts), (len(vectors), last - first))
        sums += counting.T @ vectors
        counts += np.bincount(rows, minlength=last - first)[:, None]
    means: npt.NDArray[np.float32] = (sums / counts).astype(np.float32)
    return means
