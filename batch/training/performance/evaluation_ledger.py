"""The ledger of evaluations: which scorers were evaluated on which patients."""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import duckdb
import numpy as np

from batch.training.data import Cohort
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store


def record_evaluation(
    con: duckdb.DuckDBPyConnection,
    scorer_id: str,
    evaluated_at: datetime,
    cohort: Cohort,
    metrics: Mapping[str, Any],
    store: str | None = None,
) -> None:
    """Record that a scorer was evaluated on the stays of a cohort, of this store or another."""
    patients = np.unique(cohort.subject_id)
    digest = hashlib.sha256(np.ascontiguousarray(patients).data).hexdigest()
    con.execute(
        "INSERT INTO evaluations VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        [
            *(scorer_id, evaluated_at, store, len(cohort.y), len(patients), int(cohort.y.sum())),
            *(digest, json.dumps(metrics)),
        ],
    )


def earlier_evaluations(store: Store, scorer_id: str) -> list[str]:
    """Return the other scorers that were evaluated on test patients of the store for its task."""
    rows = store.sql(read_sql("scoring/earlier_evaluations"), scorer=scorer_id).fetchall()
    return [scorer for (scorer,) in rows]
