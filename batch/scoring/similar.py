"""Find the most similar admissions of other patients."""

from typing import Any

from batch.scoring.scorer_registry import check_admission
from featurestore.errors import FeatureStoreError
from featurestore.store.schema import canonical_cutoff, check_label_options
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store
from featurestore.store.vectors import find_encoder


def similar(
    store: Store, hadm_id: int, n: int = 10, cutoff: str = "72h", horizon_days: int = 30
) -> list[dict[str, Any]]:
    """Return the n most similar admissions of other patients, with their outcomes.

    Each has hadm_id, subject_id, similarity (mean-centred cosine of the active encoder's vectors,
    from -1 to 1), label, reason, mature (whether the label's horizon is over) and days_to_return.
    The most similar comes first. Raises FeatureStoreError.
    """
    check_label_options(cutoff, horizon_days)
    cutoff = canonical_cutoff(cutoff)
    kept = [name for (name,) in store.sql("FROM kept_cutoffs ORDER BY cutoff").fetchall()]
    if cutoff not in kept:
        raise FeatureStoreError(
            f"{store.path} keeps no embeddings at {cutoff} before a scorer is trained at it - it "
            f"keeps {', '.join(kept)}"
        )
    check_admission(store, hadm_id, find_encoder(store, None), cutoff)
    return store.rows(
        read_sql("scoring/similar_with_outcomes"),
        hadm_id=hadm_id,
        n=n,
        cutoff=cutoff,
        horizon_days=horizon_days,
    )
