"""Find the most similar admissions of other patients."""

from typing import Any

import numpy as np

from batch.embedding.encoder import Encoder, encode
from batch.scoring.scorer_registry import check_admission
from featurestore.cohort.tasks import DEFAULT_TASK, find_task
from featurestore.errors import FeatureStoreError
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store
from featurestore.store.vectors import find_encoder


def similar(
    store: Store,
    hadm_id: int | None = None,
    n: int = 10,
    cutoff: str | None = None,
    horizon_days: int | None = None,
    task: str | None = None,
    text: str | None = None,
    encoder: Encoder | None = None,
) -> list[dict[str, Any]]:
    """Return the n most similar admissions of other patients, with their outcomes by a task.

    They are similar to the admission `hadm_id`, or to a `text`, of which the active `encoder` makes
    a vector; the text is not stored. `task` is readmission by default, and `cutoff` 72h or the
    prediction times of the task.

    Each has hadm_id, subject_id, similarity (mean-centred cosine of the active encoder's vectors,
    from -1 to 1), label, reason, mature (whether the label's horizon is over), outcome (what
    positives did) and days_to_return (of returns). The most similar comes first. Raises
    FeatureStoreError.
    """
    if (hadm_id is None) == (text is None) or (text is None) != (encoder is None):
        raise FeatureStoreError(
            "similar needs a hadm_id, or a text and its encoder - give one of the two"
        )
    question = find_task(store, task, horizon_days)
    cutoff = question.cutoff(store, cutoff)
    kept = [name for (name,) in store.sql("FROM kept_cutoffs ORDER BY cutoff").fetchall()]
    if cutoff not in kept:
        raise FeatureStoreError(
            f"{store.path} keeps no embeddings at {cutoff} before a scorer is trained at it - it "
            f"keeps {', '.join(kept)}"
        )
    active, vector = find_encoder(store, None), None
    if hadm_id is not None:
        check_admission(store, hadm_id, active, cutoff)
    elif encoder is not None and text is not None:
        if encoder.id != active:
            raise FeatureStoreError(
                f"{store.path} compares admissions by its active encoder {active}, not by "
                f"{encoder.id} - load the model folder of {active}, or promote {encoder.id}"
            )
        vector = encode(encoder, encoder.tokenize([text])).means(1)[0]
        if np.isnan(vector).any():
            raise FeatureStoreError("the text has no words to compare - give one that has")
    rows = store.rows(
        read_sql("scoring/similar_with_outcomes"),
        hadm_id=hadm_id,
        vector=None if vector is None else vector.tolist(),
        n=n,
        cutoff=cutoff,
        labels=question.labels,
        returns=question.name == DEFAULT_TASK,
    )
    return [row | {"outcome": question.outcome} for row in rows]
