"""Bring staged windows, and whatever follows from a sync, into the next version of the store."""

import json
from collections.abc import Mapping

import duckdb
import numpy as np
import numpy.typing as npt

from batch.embedding.admission_means import means_are_stale, refresh_means
from batch.embedding.covariates import covariates_are_stale
from batch.embedding.drift import NightlyStats
from batch.embedding.encoder import Encoder
from batch.embedding.shards import Shards
from batch.embedding.staging import Staged
from featurestore.errors import FeatureStoreError
from featurestore.store import failpoints
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store
from featurestore.store.transaction import Transaction
from featurestore.store.vectors import arrow_to_vectors

Floats = npt.NDArray[np.float64]


def commit_staged(
    transaction: Transaction,
    encoder: Encoder,
    staged: Staged,
    coefs: Mapping[str, Floats] | None = None,
) -> NightlyStats:
    """Store the staged windows, update vectors and means to the note index; return statistics.

    `coefs` are the coefficients of scorers whose log odds of the notes are among the statistics.

    Raises FeatureStoreError unless every note of the index is accounted for.
    """
    con = transaction.con
    register_encoder(con, encoder)
    _exclude_notes_without_tokens(con, staged.without_tokens)
    drop_stale_vectors(con)
    stats = _insert_shards(con, encoder, staged.shards, coefs)
    staged.counts["windows"] = stats.windows
    check_all_notes_accounted(con, encoder, staged.counts)
    refresh_means(con)
    return stats


def is_out_of_date(store: Store, also: str | None = None) -> bool:
    """Return whether vectors, means or covariates do not match the last sync yet.

    `also` is a cutoff at which means are needed, beside the kept ones.
    """
    con = store.connect()
    for query in ("stale_texts", "moved_notes"):
        (rows,) = con.execute(
            f"SELECT count(*) FROM ({read_sql(f'embedding/{query}')})"
        ).fetchall()[0]
        if rows:
            return True
    return means_are_stale(con, also) or covariates_are_stale(store)


def drop_stale_vectors(con: duckdb.DuckDBPyConnection) -> None:
    """Delete the vectors of edited, flagged and withdrawn notes; update those of moved notes."""
    con.execute(
        "DELETE FROM embeddings WHERE (note_id, text_hash) IN "
        f"(SELECT (note_id, text_hash) FROM ({read_sql('embedding/stale_texts')}))"
    )
    con.execute(
        "UPDATE embeddings SET hadm_id = m.hadm_id, available_at = m.available_at "
        f"FROM ({read_sql('embedding/moved_notes')}) AS m WHERE embeddings.note_id = m.note_id"
    )


def check_all_notes_accounted(
    con: duckdb.DuckDBPyConnection, encoder: Encoder, counts: dict[str, int]
) -> None:
    """Raise FeatureStoreError unless notes = embedded + excluded + waiting; count the unchanged."""
    notes, excluded, embedded = con.execute(
        read_sql("embedding/note_counts"), {"encoder_id": encoder.id}
    ).fetchall()[0]
    if notes != embedded + excluded + counts["waiting"]:
        raise FeatureStoreError(
            f"{notes:,} notes do not add up: {embedded:,} embedded, {excluded:,} excluded, "
            f"{counts['waiting']:,} waiting; nothing was changed - please report this"
        )
    counts["unchanged"] = embedded - counts["embedded"] - counts["resumed"]


def register_encoder(con: duckdb.DuckDBPyConnection, encoder: Encoder) -> None:
    """Add an encoder to the store; the first one is active."""
    manifest = encoder.manifest
    encoder_ids = {row[0] for row in con.execute("SELECT encoder_id FROM encoders").fetchall()}
    if encoder.id in encoder_ids:
        return
    con.execute(
        "INSERT INTO encoders VALUES ($id, $name, $fingerprint, $dim, $precision, $max_tokens, "
        "$stride, $manifest, $active, $classifier_head)",
        {
            "id": encoder.id,
            **{key: manifest[key] for key in ("name", "fingerprint", "dim", "precision")},
            **{key: manifest[key] for key in ("max_tokens", "stride")},
            "manifest": json.dumps(manifest),
            "active": not encoder_ids,
            "classifier_head": encoder.classifier_head,
        },
    )


def _exclude_notes_without_tokens(con: duckdb.DuckDBPyConnection, note_ids: list[str]) -> None:
    con.execute(
        "UPDATE notes SET status = 'excluded', reason = 'no words' "
        "WHERE note_id IN (SELECT unnest($1::VARCHAR[]))",
        [note_ids],
    )


def _insert_shards(
    con: duckdb.DuckDBPyConnection,
    encoder: Encoder,
    shards: Shards,
    coefs: Mapping[str, Floats] | None,
) -> NightlyStats:
    """Insert the windows of notes that are not embedded yet."""
    con.execute("PRAGMA force_compression = 'uncompressed'")  # floats gain nothing, and cost time
    con.execute(read_sql("embedding/unembedded_notes"), {"encoder_id": encoder.id})
    stats = NightlyStats(encoder.id, encoder.manifest["dim"], coefs)
    for shard in shards.tables():
        failpoints.hit("insert")
        con.register("shard", shard)
        rows = con.execute(
            read_sql("embedding/staged_embeddings"), {"encoder_id": encoder.id}
        ).to_arrow_table()
        con.unregister("shard")
        if len(rows):  # none if all its notes were edited or withdrawn since a killed run
            con.register("rows", rows)
            con.execute("INSERT INTO embeddings SELECT * EXCLUDE (category) FROM rows")
            con.unregister("rows")
            X = arrow_to_vectors(rows["embedding"])
            stats.add(rows["category"], rows["window_no"], X)
            stats.add_log_odds(rows["note_id"], X)
    return stats
