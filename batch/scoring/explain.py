"""Explain a score by the contributions of notes and windows."""

from typing import Any

from batch.scoring.scorer_registry import (
    check_admission,
    encoder_and_cutoff,
    find_scorer,
    newest_scorer,
    why_no_signal,
)
from featurestore.store.store import Store


def explain(store: Store, hadm_id: int, scorer: str | None = None) -> dict[str, Any]:
    """Return how much each note and window contributed to an admission's score.

    `scorer` is a name or scorer_id (default: the newest). Contributions are exact;
    sql/macros/explain_admission.sql says what they add up to. The result has scorer_id, hadm_id,
    probability, no_signal (why it is the prevalence, else None), base, unit (log odds, or
    probability before calibration), `notes`, `windows` and `covariates`, the largest contribution
    first. Raises FeatureStoreError.
    """
    scorer_id = newest_scorer(store) if scorer is None else find_scorer(store, scorer)
    check_admission(store, hadm_id, *encoder_and_cutoff(store, scorer_id))
    rows = store.rows("FROM explain_admission($scorer, $hadm)", scorer=scorer_id, hadm=hadm_id)
    windows, covariates = _by_kind(rows)
    probability, aggregate = store.one(
        "SELECT a.probability, s.aggregate FROM score_admissions($scorer) AS a, scorers AS s "
        "WHERE a.hadm_id = $hadm AND s.scorer_id = $scorer",
        scorer=scorer_id,
        hadm=hadm_id,
    )
    return {
        "scorer_id": scorer_id,
        "hadm_id": hadm_id,
        "probability": probability,
        "no_signal": why_no_signal(store, scorer_id),
        "base": windows[0]["base"],
        "unit": "log odds" if aggregate != "clinicalbert" else "probability before calibration",
        "notes": _sum_by_note(windows),
        "windows": windows,
        "covariates": covariates,
    }


def _by_kind(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the contributions of the windows, and those of the covariates."""
    keys = ("covariate", "value")
    windows = [row for row in rows if row["covariate"] is None]
    covariates = [row for row in rows if row["covariate"] is not None]
    return (
        [{name: row[name] for name in row if name not in keys} for row in windows],
        [{name: row[name] for name in (*keys, "contribution")} for row in covariates],
    )


def _sum_by_note(windows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the contribution of each note, the largest first."""
    notes: dict[str, dict[str, Any]] = {}
    for window in windows:
        columns = {name: window[name] for name in ("note_id", "category", "available_at")}
        note = notes.setdefault(window["note_id"], columns | {"windows": 0, "contribution": 0.0})
        note["windows"] += 1
        note["contribution"] += window["contribution"]
    return sorted(notes.values(), key=lambda note: (-abs(note["contribution"]), note["note_id"]))
