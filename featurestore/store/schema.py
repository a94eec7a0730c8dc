"""The objects of a store and the order in which they are made."""

from collections.abc import Sequence

import duckdb

from featurestore.errors import FeatureStoreError
from featurestore.store.sql_files import read_sql

TABLES = (
    *("settings", "admissions", "notes", "encoders", "embeddings", "admission_embeddings"),
    *("archived_admission_embeddings", "scorers", "scorer_admissions", "scores", "runs"),
    *("nightly_embedding_stats", "accepted_findings", "forgotten"),
)
VIEWS = ("episodes", "latest_scores", "repeated_notes")
# Each after those that it uses.
VIEWS_AND_MACROS = (
    *("available_at", "patient_split", "episodes", "readmission_labels", "clinicalbert_labels"),
    *("prediction_times", "known_notes", "repeated_notes", "admission_windows", "training_set"),
    *("score_admissions", "latest_scores", "similar_admissions", "explain_admission"),
)
FOLDERS = {
    **dict.fromkeys(VIEWS_AND_MACROS, "macros"),
    **dict.fromkeys(VIEWS, "views"),
    **dict.fromkeys(TABLES, "tables"),
}
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
    "accepted_findings": "(code, scorer_id, accepted_at)",
    "forgotten": "patient_hash",
}
# The column of vectors of each table that has one, as wide as the row's encoder.
VECTORS = {
    "embeddings": "embedding",
    "admission_embeddings": "embedding",
    "archived_admission_embeddings": "embedding",
    "scorers": "coef",
    "nightly_embedding_stats": "embedding",
}
CUTOFFS = ("24h", "48h", "72h", "discharge")


def make_objects(con: duckdb.DuckDBPyConnection, names: Sequence[str]) -> None:
    """Create tables, or create or replace views and macros, from their files in `sql/`."""
    for name in names:
        con.execute(read_sql(f"{FOLDERS[name]}/{name}"))


def check_label_options(cutoff: str = "72h", horizon_days: int = 30) -> None:
    """Raise FeatureStoreError unless labels can have this cutoff and this horizon."""
    if cutoff not in CUTOFFS:
        raise FeatureStoreError(f"unknown cutoff {cutoff} - use one of {', '.join(CUTOFFS)}")
    if horizon_days < 1:
        raise FeatureStoreError(f"horizon must be at least 1 day, got {horizon_days}")
