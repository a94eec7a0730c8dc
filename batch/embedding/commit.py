"""Bring staged windows, and whatever follows from a sync, into the next version of the store."""

import json
from collections.abc import Mapping

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batch.embedding.admission_means import means_are_stale, refresh_means
from batch.embedding.covariates import covariates_are_stale
from batch.embedding.drift import NightlyStats
from batch.embedding.encoder import Encoder
from batch.embedding.shards import Shards
from batch.embedding.staging import Staged
from featurestore.errors import FeatureStoreError
from featurestore.store import failpoints
from featurestore.store.changes import (
    log_changes,
    mark_up_to_date,
    names_up_to_date,
    only_changed_stays,
)
from featurestore.store.database import ROW_GROUP
from featurestore.store.integrity.checksums import NEW_ROWS, delete_rows, insert_rows, update_rows
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store
from featurestore.store.transaction import Transaction
from featurestore.store.vectors import arrow_to_vectors, by_row_group, vectors_to_arrow

Floats = npt.NDArray[np.float64]
# Windows at a time, or a multiple of it: several row groups are made in parallel.
_INSERTED = 2 * ROW_GROUP


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
    log_changes(con, f"SELECT hadm_id FROM embeddings WHERE {NEW_ROWS}")
    staged.counts["windows"] = stats.windows
    check_all_notes_accounted(con, encoder, staged.counts)
    refresh_means(con)
    if not staged.counts["waiting"]:
        mark_up_to_date(con, "vectors", [encoder.id])
    return stats


def is_out_of_date(store: Store, also: str | None = None) -> bool:
    """Return whether vectors, means or covariates do not match the last sync yet.

    `also` is a cutoff at which means are needed, beside the kept ones.
    """
    con = store.connect()
    return _find_stale_vectors(con) or means_are_stale(con, also) or covariates_are_stale(store)


def drop_stale_vectors(con: duckdb.DuckDBPyConnection) -> None:
    """Delete the vectors of edited, flagged and withdrawn notes; update those of moved notes."""
    _find_stale_vectors(con)
    delete_rows(
        con,
        "embeddings",
        "(note_id, text_hash) IN (SELECT (note_id, text_hash) FROM stale_texts)",
    )
    update_rows(
        con,
        "embeddings",
        "hadm_id = m.hadm_id, available_at = m.available_at FROM moved_notes AS m",
        "note_id IN (SELECT note_id FROM moved_notes)",
        "embeddings.note_id = m.note_id",
    )


def _find_stale_vectors(con: duckdb.DuckDBPyConnection) -> bool:
    """Make the tables stale_texts and moved_notes; return whether any has a row."""
    cutoffs = sorted(names_up_to_date(con, "means"))
    with only_changed_stays(con, "means", cutoffs):
        for name in ("stale_texts", "moved_notes"):
            con.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {read_sql(f'embedding/{name}')}")
    (rows,) = con.execute(
        "SELECT (SELECT count(*) FROM stale_texts) + (SELECT count(*) FROM moved_notes)"
    ).fetchall()[0]
    return bool(rows)


def check_all_notes_accounted(
    con: duckdb.DuckDBPyConnection, encoder: Encoder, counts: dict[str, int]
) -> None:
    """Raise FeatureStoreError unless every ready note is embedded or waits; count the unchanged."""
    with only_changed_stays(con, "vectors", [encoder.id]):
        (waiting,) = con.execute(
            f"SELECT count(*) FROM ({read_sql('embedding/unembedded_notes')})",
            {"encoder_id": encoder.id},
        ).fetchall()[0]
    (ready,) = con.execute("SELECT count(*) FROM notes WHERE status = 'ready'").fetchall()[0]
    if waiting != counts["waiting"]:
        raise FeatureStoreError(
            f"{ready:,} notes do not add up: {waiting:,} have no vector, and {counts['waiting']:,} "
            "should have none; nothing was changed - please report this"
        )
    counts["unchanged"] = ready - waiting - counts["embedded"] - counts["resumed"]


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
    if note_ids:
        con.register("no_words", pa.table({"note_id": note_ids}))
        update_rows(
            con,
            "notes",
            "status = 'excluded', reason = 'no words'",
            "note_id IN (SELECT note_id FROM no_words)",
        )
        con.unregister("no_words")


def _insert_shards(
    con: duckdb.DuckDBPyConnection,
    encoder: Encoder,
    shards: Shards,
    coefs: Mapping[str, Floats] | None,
) -> NightlyStats:
    """Insert the windows of notes that are not embedded yet."""
    con.execute("PRAGMA force_compression = 'uncompressed'")  # floats gain nothing, and cost time
    with only_changed_stays(con, "vectors", [encoder.id]):
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE unembedded_notes AS "
            f"{read_sql('embedding/unembedded_notes')}",
            {"encoder_id": encoder.id},
        )
    stats = NightlyStats(encoder.id, encoder.manifest["dim"], coefs)
    waiting = None  # rows that do not fill a row group yet
    for shard in shards.tables():
        failpoints.hit("insert")
        # DuckDB joins and sorts all columns but the vectors, which are too wide to move twice.
        rows = shard.drop_columns("embedding").append_column("row_no", pa.array(range(len(shard))))
        con.register("shard", rows)
        rows = con.execute(
            read_sql("embedding/staged_embeddings"), {"encoder_id": encoder.id}
        ).to_arrow_table()
        con.unregister("shard")
        if len(rows):  # none if all its notes were edited or withdrawn since a killed run
            X = arrow_to_vectors(shard["embedding"])[rows["row_no"].to_numpy()]
            stats.add(rows["category"], rows["window_no"], X)
            stats.add_log_odds(rows["note_id"], X)
            rows = rows.append_column("embedding", vectors_to_arrow(X))
            waiting = pa.concat_tables([waiting, rows]) if waiting else rows
            full = len(waiting) // _INSERTED * _INSERTED
            _insert_windows(con, waiting.slice(0, full))
            waiting = waiting.slice(full)
    if waiting:
        _insert_windows(con, waiting)
    return stats


def _insert_windows(con: duckdb.DuckDBPyConnection, rows: pa.Table) -> None:
    """Insert rows of staged_embeddings with their vectors."""
    con.register("rows", by_row_group(rows))
    columns = "* EXCLUDE (category, row_no, embedding), hash(embedding), embedding"
    insert_rows(con, "embeddings", f"SELECT {columns} FROM rows")
    con.unregister("rows")
