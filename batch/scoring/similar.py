"""Find the most similar admissions of other patients."""

from typing import Any

from batch.scoring.scorer_registry import check_admission
from featurestore.cohort.tasks import DEFAULT_TASK, find_task
from featurestore.errors import FeatureStoreError
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store
from featurestore.store.vectors import find_encoder


def similar(
    store: Store,
    hadm_id: int,
    n: int = 10,
    cutoff: str | None = None,
    horizon_days: int | None = None,
    task: str | None = None,
) -> list[dict[str, Any]]:
    """Return the n most similar admissions of other patients, with their outcomes by a task.

    `task` is readmission by default, and `cutoff` 72h or the prediction times of the task.

    Each has hadm_id, subject_id, similarity (mean-centred cosine of the active encoder's vectors,
    from -1 to 1), label, reason, mature (whether the label's horizon is over), outcome (what
    positives did) and days_to_return (of returns). The most similar comes first. Raises
    FeatureStoreError.
    """
    question = find_task(store, task, horizon_days)
    cutoff = question.cutoff(store, cutoff)
    kept = [name for (name,) in store.sql("FROM kept_cutoffs ORDER BY cutoff").fetchall()]
    if cutoff not in kept:
        raise FeatureStoreError(
            f"{store.path} keeps no embeddings at {cutoff} before a scorer is trained at it - it "
            f"keeps {', '.join(kept)}"
        )
    check_admission(store, hadm_id, find_encoder(store, None), cutoff)
    rows = store.rows(
        read_sql("scoring/similar_with_outcomes"),
        hadm_id=hadm_id,
        n=n,
        cutoff=cutoff,
        labels=question.labels,
        returns=question.name == DEFAULT_TASK,
    )
    return [row | {"outcome": question.outcome} for row in rows]
