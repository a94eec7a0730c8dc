"""Score admissions in SQL and record the scores."""

import csv
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from batch.embedding.embed import update_embeddings
from batch.embedding.pending import pending_notes
from batch.scoring.scorer_registry import (
    check_admission,
    encoder_and_cutoff,
    find_scorer,
    why_no_signal,
)
from featurestore.store.changes import mark_up_to_date, only_changed_stays, query_in_parts
from featurestore.store.files import private_file
from featurestore.store.integrity.checksums import insert_rows
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store
from featurestore.store.transaction import Transaction


def score(
    store: Store,
    scorer: str,
    output: str | Path | None = None,
    hadm_ids: Sequence[int] = (),
) -> dict[str, Any]:
    """Score every admission that has an embedding at the scorer's cutoff.

    Records those that are new, or differ from the admission's last one. `scorer` is a name (its
    newest version) or a scorer_id. `output` is a .csv or .parquet file, which also gets the scores,
    the highest first; it is private (0600). `hadm_ids` selects admissions (default: all).
    Embeddings are updated to the last sync first. Returns run_id (None if nothing was recorded),
    scorer_id, scored, recorded, pending_notes, the number of notes without vectors, no_signal, why
    all probabilities are the prevalence (None if they are not), and scores: hadm_id, probability,
    prediction_time, risk_rank and fraction_above of each of `hadm_ids`, in their order (None
    without `hadm_ids`; the view latest_scores has all). Raises FeatureStoreError, and scores
    nothing, if one of `hadm_ids` cannot be scored.
    """
    scorer_id = find_scorer(store, scorer)
    output = store.output_file(output, ".csv", ".parquet") if output else None
    encoder, cutoff = encoder_and_cutoff(store, scorer_id)
    update_embeddings(store)
    for hadm_id in hadm_ids:
        check_admission(store, hadm_id, encoder, cutoff)
    pending = len(pending_notes(store, encoder))
    run_id, recorded = None, 0
    with store.lock("score"):
        due = due_scores(store.connect(), scorer_id, hadm_ids)
        if len(due):
            with store.transaction("score") as transaction:
                recorded = add_scores(transaction, scorer_id, due)
                if not hadm_ids:
                    mark_up_to_date(transaction.con, "scores", [scorer_id])
                transaction.counts.update(scorer=scorer_id, scored=recorded)
            run_id = transaction.run_id
    scores = store.sql(
        read_sql("scoring/current_scores"), scorer=scorer_id, hadm_ids=list(hadm_ids)
    ).to_arrow_table()
    if output:
        _write_scores(scores, output)
    return {
        "run_id": run_id,
        "scorer_id": scorer_id,
        "scored": len(scores),
        "recorded": recorded,
        "pending_notes": pending,
        "no_signal": why_no_signal(store, scorer_id),
        "scores": _latest_scores(store, scorer_id, hadm_ids) if hadm_ids else None,
    }


def due_scores(
    con: duckdb.DuckDBPyConnection, scorer_id: str, hadm_ids: Sequence[int] = ()
) -> pa.Table:
    """Return the scores of admissions that have none by this scorer, or would get another one now.

    Only admissions that changed since its scores were complete are looked at.
    """
    query = (
        f"FROM ({read_sql('scoring/due_scores')}) "
        "WHERE len($only) = 0 OR list_contains($only, hadm_id)"
    )
    parameters = {"scorer": scorer_id, "only": list(hadm_ids)}
    with only_changed_stays(con, "scores", [scorer_id]) as is_few:
        if is_few:
            return con.execute(query, parameters).to_arrow_table()
        return query_in_parts(con, query, parameters)


def add_scores(transaction: Transaction, scorer_id: str, due: pa.Table) -> int:
    """Record due scores of a scorer and return their number."""
    transaction.con.register("due", due)
    scored = insert_rows(
        transaction.con,
        "scores",
        "SELECT $scorer, hadm_id, $run, probability, prediction_time, $now, input_hash, subject_id "
        "FROM due INNER JOIN admissions USING (hadm_id) ORDER BY hadm_id",
        {"scorer": scorer_id, "run": transaction.run_id, "now": datetime.now()},
    )
    transaction.con.unregister("due")
    return scored


def _latest_scores(store: Store, scorer_id: str, hadm_ids: Sequence[int]) -> list[dict[str, Any]]:
    return store.rows(
        "SELECT hadm_id, probability, prediction_time, risk_rank, fraction_above "
        "FROM latest_scores WHERE scorer_id = $scorer AND list_contains($hadm_ids, hadm_id) "
        "ORDER BY list_position($hadm_ids, hadm_id)",
        scorer=scorer_id,
        hadm_ids=list(hadm_ids),
    )


def _write_scores(rows: pa.Table, file: Path) -> None:
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        with private_file(file) as stream:
            pq.write_table(rows, stream)
    else:
        with private_file(file, encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(rows.column_names)
            writer.writerows(zip(*(column.to_pylist() for column in rows.columns), strict=True))
