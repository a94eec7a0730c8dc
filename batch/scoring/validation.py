"""Evaluate a scorer once more: on the test patients of its store, or on another hospital."""

from datetime import datetime
from typing import Any

import numpy as np

from batch.embedding.covariates import stored_set
from batch.scoring.scorer_registry import encoder_and_cutoff, find_scorer
from batch.training.bootstrap import PatientBootstrap, enough_outcomes
from batch.training.calibration import Floats, platt, probability
from batch.training.data import SPLITS, Cohort, Mask, stays_of_scorer
from batch.training.model_selection import patient_folds
from batch.training.performance.estimates import prediction_metrics
from batch.training.performance.evaluation_ledger import earlier_evaluations, record_evaluation
from featurestore.cohort.tasks import scorer_task
from featurestore.errors import ModelError, NotEnoughDataError
from featurestore.store.store import Store


def evaluate_scorer(store: Store, scorer: str, other: Store | None = None) -> dict[str, Any]:
    """Evaluate a scorer on the test patients of its store, or on all patients of `other`.

    `other` is a store of another hospital whose notes were embedded by the same encoder. Where both
    stores read from the same source, the patients on whom the scorer was fitted are left out. The
    scorer's task is asked there, of stays with a mature label. Each evaluation is recorded in the
    table `evaluations` of `store`.

    Returns scorer_id, store (None for its own), task, outcome, admissions, patients, positives,
    `metrics` ([estimate, low, high] each), `recalibrated` (slope and intercept that the log odds
    would need there, and the metrics with them, each stay by a recalibration on other patients;
    None for its own store), `excluded` (stays of patients that it was fitted on), and
    `evaluated_before` (scorers that were evaluated on some of these test patients, for its own
    store). Raises UnknownNameError, ModelError for another encoder, and NotEnoughDataError with
    fewer than 10 positives or negatives.
    """
    started_at = datetime.now()
    scorer_id = find_scorer(store, scorer)
    encoder, cutoff = encoder_and_cutoff(store, scorer_id)
    _check_encoder(store, other, encoder)
    place = other or store
    model = store.rows(
        "SELECT aggregate, coef, intercept, calibration_slope, calibration_intercept, "
        "min_probability, max_probability, covariates_id, metrics ->> '$.test_from' AS test_from, "
        "metrics ->> '$.no_signal' AS no_signal FROM scorers WHERE scorer_id = $s",
        s=scorer_id,
    )[0]
    task = scorer_task(store, scorer_id)
    params = {
        **{"encoder": encoder, "cutoff": cutoff, "labels": task.labels},
        "splits": SPLITS if other else SPLITS[2:],
        # Which concerns test patients of its own store only.
        "test_from": None if other else model["test_from"],
    }
    covariates = stored_set(store, model["covariates_id"])
    cohort, vectors = stays_of_scorer(place, params, model["aggregate"], covariates)
    if not len(cohort.y):
        raise NotEnoughDataError(
            f"{place.path} has no admission with a mature label and a vector at {cutoff} - embed "
            f"its notes with {encoder}, and train a scorer at {cutoff} there if it keeps no means"
        )
    z = vectors.log_odds(np.asarray(model["coef"], np.float64), model["intercept"])
    z = model["calibration_slope"] * z + model["calibration_intercept"]
    members, excluded = _members(store, other, scorer_id, cohort)
    cohort, z = cohort.subset(members), z[members]
    if not enough_outcomes(cohort.y):
        raise NotEnoughDataError(
            f"{int(cohort.y.sum()):,} of {len(cohort.y):,} stays {task.outcome}: at least 10 that "
            "did and 10 that did not are needed to evaluate a scorer"
        )
    p = np.clip(probability(z), model["min_probability"], model["max_probability"])
    bootstrap = PatientBootstrap(cohort.y, cohort.subject_id)
    result = {
        "scorer_id": scorer_id,
        "store": str(other.path) if other else None,
        "task": task.name,
        "horizon_days": task.horizon_days,
        "outcome": task.outcome,
        "admissions": len(cohort.y),
        "patients": len(np.unique(cohort.subject_id)),
        "positives": int(cohort.y.sum()),
        "excluded": excluded,
        "no_signal": model["no_signal"],
        "metrics": prediction_metrics(bootstrap, p),
        "recalibrated": _recalibrated(cohort, z, bootstrap) if other else None,
    }
    with store.lock("evaluate"):
        result["evaluated_before"] = [] if other else earlier_evaluations(store, scorer_id)
        with store.transaction("evaluate", started_at) as transaction:
            record_evaluation(
                transaction.con, scorer_id, started_at, cohort, result["metrics"], result["store"]
            )
            transaction.counts.update(scorer=scorer_id, admissions=len(cohort.y))
    return result


def _check_encoder(store: Store, other: Store | None, encoder: str) -> None:
    """Raise ModelError unless the other store has vectors of the very same encoder."""
    if other is None:
        return
    query = "SELECT fingerprint FROM encoders WHERE encoder_id = $e"
    fingerprints = other.sql(query, e=encoder).fetchall()
    if not fingerprints or fingerprints[0] != store.one(query, e=encoder):
        known = [name for (name,) in other.sql("SELECT encoder_id FROM encoders").fetchall()]
        raise ModelError(
            f"{other.path} has no vectors of {encoder}, on which the scorer was trained "
            f"(it has {', '.join(sorted(known)) or 'none'}) - embed its notes with the same model "
            "folder"
        )


def _members(store: Store, other: Store | None, scorer_id: str, cohort: Cohort) -> tuple[Mask, int]:
    """Return which stays are evaluated, and how many are of patients the scorer was fitted on."""
    source = "SELECT source, schema_name FROM settings"
    if other is None or store.one(source) != other.one(source):
        return np.ones(len(cohort.y), bool), 0
    fitted_on = store.sql(
        "SELECT DISTINCT subject_id FROM scorer_admissions "
        "WHERE scorer_id = $s AND split <> 'test'",
        s=scorer_id,
    ).fetchnumpy()["subject_id"]
    members = ~np.isin(cohort.subject_id, fitted_on)
    return members, int((~members).sum())


def _recalibrated(cohort: Cohort, z: Floats, bootstrap: PatientBootstrap) -> dict[str, Any]:
    """Return the recalibration that the stays need, and the metrics of one that is cross-fitted."""
    slope, intercept = platt(z, cohort.y)
    p = np.empty(len(z))
    fold = patient_folds(cohort)
    for number in np.unique(fold):
        members = fold == number
        of_others = platt(z[~members], cohort.y[~members])
        p[members] = probability(of_others[0] * z[members] + of_others[1])
    return {"slope": slope, "intercept": intercept, "metrics": prediction_metrics(bootstrap, p)}
