"""The objects of a store and the order in which they are made."""

import re
from collections.abc import Sequence

import duckdb

from featurestore.errors import FeatureStoreError
from featurestore.store.sql_files import read_sql
from featurestore.store.task_select import task_select_macro

# A schema need not have these, nor a hospital the tables that a built-in schema reads for them.
OPTIONAL_TABLES = ("icu_stays", "diagnoses", "ed_visits", "hospital_score_items")
_SOURCE_TABLES = ("admissions", "notes", *OPTIONAL_TABLES)
_SCORING_TABLES = (
    *("scorers", "scorer_admissions", "scores", "accepted_findings"),
    "evaluations",
)
_TASK_TABLES = ("tasks", "task_labels_from_files", "task_predictions")
_LABEL_MACROS = (
    *("patient_episodes", "readmission_labels", "clinicalbert_labels"),
    *("task_select", "task_labels"),
)
_COVARIATE_TABLES = (
    "covariate_sets",
    "admission_covariates",
    "archived_admission_covariates",
)
_MONITORING_TABLES = (
    *("reference_log_odds", "reference_scores", "nightly_log_odds"),
    "nightly_embedding_stats",
)
TABLES = (
    "settings",
    *_SOURCE_TABLES,
    *("encoders", "embeddings", "admission_embeddings"),
    *("archived_admission_embeddings", "scorers", "scorer_admissions", "scores", "runs"),
    *("accepted_findings", "evaluations", "forgotten", "changed_admissions", "up_to_date"),
    *_MONITORING_TABLES,
    *_TASK_TABLES,
    *_COVARIATE_TABLES,
)
VIEWS = ("episodes", "self_timed_tasks", "latest_scores", "kept_cutoffs", "repeated_notes")
# Each after those that it uses.
VIEWS_AND_MACROS = (
    *("available_at", "patient_split", "patient_episodes", "episodes", "readmission_labels"),
    *("clinicalbert_labels", "canonical_cutoff", "self_timed_tasks", "kept_cutoffs"),
    *("kept_cutoff", "task_select"),
    *("task_labels", "prediction_times", "known_notes", "repeated_notes", "admission_windows"),
    *("training_set", "scorer_parts", "score_admissions", "latest_scores"),
    *("similar_admissions", "explain_admission", "ethnicity_group"),
)
FOLDERS = {
    **dict.fromkeys(VIEWS_AND_MACROS, "macros"),
    **dict.fromkeys(_LABEL_MACROS, "macros/labels"),
    **dict.fromkeys(VIEWS, "views"),
    **dict.fromkeys(TABLES, "tables"),
    **dict.fromkeys(_SOURCE_TABLES, "tables/source"),
    **dict.fromkeys(_SCORING_TABLES, "tables/scoring"),
    **dict.fromkeys(_MONITORING_TABLES, "tables/monitoring"),
    **dict.fromkeys(_TASK_TABLES, "tables/tasks"),
    **dict.fromkeys(_COVARIATE_TABLES, "tables/covariates"),
}
KEYS = {
    "admissions": "hadm_id",
    "notes": "note_id",
    "icu_stays": "icu_stay_id",
    "diagnoses": "(hadm_id, vocabulary, code)",
    "ed_visits": "(subject_id, intime)",
    "hospital_score_items": "hadm_id",
    "encoders": "encoder_id",
    "embeddings": "(encoder_id, note_id, window_no)",
    "admission_embeddings": "(encoder_id, hadm_id, cutoff)",
    "archived_admission_embeddings": "(encoder_id, hadm_id, cutoff, vector_hash)",
    "scorers": "scorer_id",
    "scorer_admissions": "(scorer_id, hadm_id)",
    "runs": "run_id",
    "nightly_embedding_stats": "(run_id, encoder_id, category)",
    "nightly_log_odds": "(run_id, scorer_id, hadm_id, category)",
    "reference_log_odds": "(scorer_id, category)",
    "reference_scores": "(scorer_id, hadm_id)",
    "accepted_findings": "(code, scorer_id, accepted_at)",
    "evaluations": "(scorer_id, evaluated_at)",
    "forgotten": "patient_hash",
    "up_to_date": "(kind, name)",
    "tasks": "name",
    "task_labels_from_files": "(task, hadm_id)",
    "task_predictions": "(task, hadm_id)",
    "covariate_sets": "covariates_id",
    "admission_covariates": "(covariates_id, cutoff, hadm_id)",
    "archived_admission_covariates": "(covariates_id, cutoff, hadm_id, design_hash)",
}
# The column of vectors of each table that has one, as wide as the row's encoder.
VECTORS = {
    "embeddings": "embedding",
    "admission_embeddings": "embedding",
    "archived_admission_embeddings": "embedding",
    "scorers": "coef",
    "nightly_embedding_stats": "embedding",
}
# Few rows, whatever the number of notes and stays: each commit reads them whole.
SMALL_TABLES = (
    *("settings", "encoders", "scorers", "tasks", "covariate_sets", "runs", "accepted_findings"),
    *("evaluations", "forgotten", "reference_log_odds", "up_to_date"),
)
# What macros and views read, by stay.
VIEWS_OF_STAYS = (
    *("admissions", "notes", "embeddings", "admission_embeddings", "admission_covariates"),
    *("task_predictions", "scores"),
)
_CUTOFF = re.compile(r"discharge|(?:discharge\+)?[0-9]{1,4}h|task:[a-z][a-z0-9_]*")


def make_objects(con: duckdb.DuckDBPyConnection, names: Sequence[str]) -> None:
    """Create tables, or create or replace views and macros, from their files in `sql/`."""
    for name in names:
        con.execute(
            task_select_macro(con) if name == "task_select" else read_sql(f"{FOLDERS[name]}/{name}")
        )


def check_label_options(cutoff: str = "72h", horizon_days: int | None = 30) -> None:
    """Raise FeatureStoreError unless labels can have this cutoff and this horizon."""
    if not _CUTOFF.fullmatch(cutoff):
        raise FeatureStoreError(
            f"unknown cutoff {cutoff} - use hours after admission such as 36h, or after discharge "
            "such as discharge+0h"
        )
    if horizon_days is not None and horizon_days < 1:
        raise FeatureStoreError(f"horizon must be at least 1 day, got {horizon_days}")


def canonical_cutoff(cutoff: str) -> str:
    """Return the name under which a cutoff is stored: `discharge` is an alias of `discharge+48h`.

    Raises FeatureStoreError if there is no such cutoff.
    """
    check_label_options(cutoff)
    if cutoff == "discharge":
        return "discharge+48h"
    return cutoff if cutoff.startswith("task:") else re.sub(r"(^|\+)0*(\d+h)$", r"\1\2", cutoff)
