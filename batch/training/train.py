"""Train a scorer: a logistic regression on admission embeddings, recorded in the store."""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, time
from typing import Any

import numpy as np

from batch.embedding.covariates import find_covariates, insert_set, refresh_covariates
from batch.embedding.embed import update_embeddings
from batch.training.aggregates import CLINICALBERT, MEAN, Vectors
from batch.training.baselines import BASELINES, fit_baselines
from batch.training.bootstrap import PatientBootstrap
from batch.training.calibration import Floats, log_odds, probability
from batch.training.data import (
    TrainingData,
    check_training_patients,
    covariate_design,
    splits_in_turn,
    training_data,
)
from batch.training.evaluation import evaluate
from batch.training.model_selection import CalibratedFit, fit_candidates, fit_parts
from batch.training.performance.estimates import prediction_metrics
from batch.training.performance.evaluation_ledger import record_evaluation
from batch.training.reference import record_reference
from batch.training.regression import observed_means
from featurestore.cohort.flow import admission_flow
from featurestore.cohort.leakage import covariate_findings, later_data_finding
from featurestore.cohort.tasks import check_known_after_prediction, find_task
from featurestore.errors import FeatureStoreError
from featurestore.store.integrity.checksums import COEF_HASH, insert_rows
from featurestore.store.scorer_metrics import AGGREGATES, ScorerMetrics, TrainedScorer, TurnMetrics
from featurestore.store.store import Store
from featurestore.store.transaction import Transaction
from featurestore.store.vectors import find_encoder, vectors_to_arrow

TURNS = 10  # of patient_split, after which every patient was a test patient once


def train(
    store: Store,
    name: str,
    encoder: str | None = None,
    cutoff: str | None = None,
    horizon_days: int | None = None,
    baseline: bool = True,
    aggregate: str | None = None,
    task: str | None = None,
    rule: Mapping[str, Any] | None = None,
    covariates: Sequence[str] = (),
    test: bool = True,
    test_from: date | None = None,
    turns: bool = False,
) -> TrainedScorer:
    """Fit a scorer on the training patients, evaluate it on the test patients, and record it.

    The candidates are regressions on the windows of each admission, combined by the aggregates of
    `AGGREGATES`, or by `aggregate` alone, with C by cross-validated log loss. They are calibrated
    on out-of-fold log odds of training and validation patients, or on validation patients alone if
    the encoder was fine-tuned on the training patients. The mean of the windows is selected unless
    another has less log loss on these by more than chance. Where it does not discriminate by more
    than chance, all its probabilities are the prevalence, and the metrics say why (`no_signal`).
    Training a name again adds its next version. `encoder` defaults to the active one, `cutoff` to
    72h or the prediction times of the task, and `task` to readmission. `horizon_days` and `rule`
    (min_age, planned_types, same_day, deaths) change the parameters of a task. Every night keeps
    the means at the scorer's cutoff from then on.
    `covariates` are names of shipped sets (demographics, utilisation) or .sql files, whose numbers
    are used beside the notes; both alone are then baselines too.
    Without `test` the test patients are not looked at; `evaluate_scorer` does that once, for the
    scorer that was chosen. With `test_from`, test stays are predicted on that day or later, and all
    other labels were known before it. `turns` also evaluates by ten turns, in each of which another
    tenth of the patients is tested by a scorer that was fitted without them.
    `baseline` fits a bag-of-words regression on the same admissions, whose text is streamed from
    the source. Returns the scorer_id and the recorded metrics (docs/scorers.md). Raises
    NotEnoughDataError where too few admissions are labelled, and leaves the store unchanged then.
    """
    started_at = datetime.now()
    _check_arguments(name, aggregate, covariates)
    if turns and not (test and test_from is None):
        raise FeatureStoreError(
            "turns test every patient, so they cannot be combined with a test that is left out or "
            "begins on a day"
        )
    covariate_set = find_covariates(store, covariates)
    with store.lock("train"):
        encoder = find_encoder(store, encoder)
        question = find_task(store, task, horizon_days, rule)
        cutoff = question.cutoff(store, cutoff)
        with _means_at(store, cutoff):
            check_known_after_prediction(store, question, cutoff)
            data = training_data(
                *(store, encoder, question, cutoff, aggregate != MEAN),
                bag_of_words=baseline,
                test=test,
                test_from=datetime.combine(test_from, time()) if test_from else None,
            )
            if covariate_set:
                data.covariates = covariate_set.columns
                data.unlimited_covariates = covariate_set.unlimited
                data.design = covariate_design(store, covariate_set, cutoff, data.hadm_id)
        if turns and data.encoder_saw_training:
            raise FeatureStoreError(
                "the encoder was fine-tuned on training patients, who would be test patients of "
                "other turns - use an encoder that was not"
            )
        candidates = fit_candidates(data, aggregate)
        baselines = fit_baselines(data) | fit_parts(candidates[0], data)
        metrics = evaluate(data, candidates, baselines)
        findings = [*covariate_findings(question.name, cutoff, metrics)]
        if covariate_set:
            later_data = later_data_finding(store, covariate_set.queries, cutoff)
            findings += [later_data] if later_data else []
        metrics["warnings"] += [finding.message for finding in findings]
        if turns:
            metrics["turns"] = _evaluate_by_turns(store, data, aggregate)
        metrics["warnings"] += admission_flow(store, question, cutoff, encoder)["warnings"]
        model = candidates[0]
        with store.transaction("train", started_at) as transaction:
            columns = {
                "encoder_id": encoder,
                "cutoff": cutoff,
                "label_rule": question.name,
                "horizon_days": question.horizon_days,
                "task_sql": question.select,
                "task_hash": question.hash,
                "covariates_id": covariate_set.id if covariate_set else None,
                "created_at": started_at,
            }
            scorer_id = _insert_scorer(transaction, name, columns, data, model, metrics)
            _insert_admissions(transaction, scorer_id, data, model, baselines)
            tested = data.cohort.subset(data.cohort.split == "test")
            if len(tested.y):
                record_evaluation(
                    transaction.con, scorer_id, started_at, tested, metrics["test"]["scorer"]
                )
            if covariate_set:
                insert_set(transaction.con, covariate_set)
                refresh_covariates(store, transaction.con)
            record_reference(transaction.con, scorer_id)
            transaction.counts.update(scorer=scorer_id, admissions=int(data.has_label.sum()))
    return {"scorer_id": scorer_id, **metrics}


def _evaluate_by_turns(store: Store, data: TrainingData, aggregate: str | None) -> TurnMetrics:
    """Return the metrics of predictions of every labelled stay, each fitted without its patient.

    A turn whose test patients have more positives was fitted on fewer, and so predicts less: pooled
    as they are, predictions of noise would have an AUROC below 0.5 (Forman and Scholz 2010, doi
    10.1145/1882471.1882479). So the log odds of all turns are moved to the same mean on the stays
    that each was fitted on.
    """
    pooled: dict[str, Floats] = {}
    means: dict[str, list[float]] = {}
    for turn in range(TURNS):
        in_turn = replace(data, cohort=splits_in_turn(store, data.cohort, turn))
        test = in_turn.cohort.split == "test"
        check_training_patients(in_turn.cohort, f"turn {turn}", data.outcome)
        candidates = fit_candidates(in_turn, aggregate)
        systems = {"scorer": candidates[0].probability}
        systems |= fit_baselines(in_turn) | fit_parts(candidates[0], in_turn)
        for name, p in systems.items():
            z = log_odds(p)
            mean = float(z[np.isin(in_turn.cohort.split, ("train", "valid"))].mean())
            pooled.setdefault(name, np.zeros(len(p)))[test] = z[test] - mean
            means.setdefault(name, []).append(mean)
    y, patient = data.cohort.y[data.has_label], data.cohort.subject_id[data.has_label]
    bootstrap = PatientBootstrap(y, patient)
    return {
        "admissions": len(y),
        "patients": len(np.unique(patient)),
        "positives": int(y.sum()),
        "metrics": {
            name: prediction_metrics(
                bootstrap, probability(z[data.has_label] + np.mean(means[name]))
            )
            for name, z in pooled.items()
        },
    }


@contextlib.contextmanager
def _means_at(store: Store, cutoff: str) -> Iterator[None]:
    """Keep the means at a cutoff while the block runs; after an error as before it."""
    update_embeddings(store, cutoff)
    try:
        yield
    except FeatureStoreError:
        update_embeddings(store)
        raise


def _check_arguments(name: str, aggregate: str | None, covariates: Sequence[str]) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise FeatureStoreError(
            f"{name!r} is not a valid name of a scorer - use letters, digits, - . and _"
        )
    if aggregate not in (None, *AGGREGATES):
        raise FeatureStoreError(f"unknown aggregate {aggregate} - use {', '.join(AGGREGATES)}")
    if covariates and aggregate == CLINICALBERT:
        raise FeatureStoreError(
            f"the aggregate {CLINICALBERT} scores windows, and covariates are of admissions - use "
            "another aggregate, or no covariates"
        )


def _insert_scorer(
    transaction: Transaction,
    name: str,
    question: dict[str, Any],
    data: TrainingData,
    model: CalibratedFit,
    metrics: ScorerMetrics,
) -> str:
    """Insert the next version of a name; return its scorer_id."""
    import pyarrow as pa

    (version,) = transaction.con.execute(
        "SELECT coalesce(max(version), 0) + 1 FROM scorers WHERE name = $1", [name]
    ).fetchall()[0]
    scorer = {
        "scorer_id": f"{name}-v{version}",
        "name": name,
        "version": version,
        "metrics": json.dumps(metrics),
        "training_hash": _training_hash(data, model.vectors),
        "aggregate": model.aggregate,
        "covariate_means": _covariate_means(data),
        **question,
        **_coefficients(model),
    }
    columns = {column: pa.array([value]) for column, value in scorer.items() if column != "coef"}
    coef = vectors_to_arrow(scorer["coef"][None, :])
    transaction.con.register("new_scorer", pa.table({**columns, "coef": coef}))
    transaction.con.execute(
        f"INSERT INTO scorers BY NAME SELECT *, {COEF_HASH} AS coef_hash FROM new_scorer"
    )
    transaction.con.unregister("new_scorer")
    return f"{name}-v{version}"


def _insert_admissions(
    transaction: Transaction,
    scorer_id: str,
    data: TrainingData,
    model: CalibratedFit,
    baselines: dict[str, Floats],
) -> None:
    """Insert the training set with the probabilities of the scorer and its baselines.

    Test stays without a label are inserted with the reason.
    """
    import pyarrow as pa

    missing = pa.nulls(len(data.hadm_id), pa.float64())
    columns = {
        "hadm_id": data.hadm_id,
        "subject_id": data.cohort.subject_id,
        "split": np.where(data.has_label, data.cohort.split, "test").tolist(),
        "label": pa.array(data.cohort.y, mask=~data.has_label),
        "reason": pa.array(data.reason.tolist(), mask=data.has_label),
        "probability": model.probability,
    }
    columns |= {name: baselines.get(name, missing) for name in BASELINES}
    transaction.con.register("admission_rows", pa.table(columns))
    insert_rows(
        transaction.con,
        "scorer_admissions",
        "SELECT $1 AS scorer_id, * FROM admission_rows",
        [scorer_id],
        by_name=True,
    )
    transaction.con.unregister("admission_rows")


def _covariate_means(data: TrainingData) -> list[float] | None:
    """Return the mean of each covariate on the training stays that have it."""
    if data.design is None:
        return None
    means: list[float] = observed_means(data.design[data.cohort.split == "train"]).tolist()
    return means


def _coefficients(model: CalibratedFit) -> dict[str, Any]:
    """Return coefficients and calibration as the store records them.

    The calibration is folded into the coefficients. By ClinicalBERT's rule it applies to the
    combined log odds of the admission, and stays separate.
    """
    calibration = model.calibration
    limits = {
        "min_probability": calibration.min_probability,
        "max_probability": calibration.max_probability,
    }
    # Without a signal nothing contributes.
    coef = model.coef if calibration.has_signal else np.zeros_like(model.coef)
    intercept = model.intercept if calibration.has_signal else 0.0
    if model.aggregate != CLINICALBERT:
        return limits | {
            "coef": calibration.slope * coef,
            "intercept": calibration.slope * intercept + calibration.intercept,
            "calibration_slope": 1.0,
            "calibration_intercept": 0.0,
        }
    return limits | {
        "coef": coef,
        "intercept": intercept,
        "calibration_slope": calibration.slope,
        "calibration_intercept": calibration.intercept,
    }


def _training_hash(data: TrainingData, vectors: Vectors) -> str:
    """Return a SHA-256 over the labelled admissions, in the order of hadm_id."""
    digest = hashlib.sha256()
    cohort = data.cohort.subset(data.has_label)
    rows = vectors.subset(data.has_label)
    design = [] if rows.design is None else [rows.design]
    for column in (data.hadm_id[data.has_label], cohort.y, rows.X, *design):
        digest.update(np.ascontiguousarray(column).data)
    digest.update("\n".join(cohort.split.tolist()).encode())
    return digest.hexdigest()
