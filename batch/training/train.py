"""X, y -> coefficients: a logistic regression on admission embeddings, kept in the store."""

import hashlib
import json
import re
from datetime import datetime
from typing import Any

import numpy as np

from batch.embedding.embed import update_embeddings
from batch.embedding.encoders import find_encoder
from batch.training.data import TrainingSet, admission_windows_of, training_set
from batch.training.evaluation import fit_baselines, measure
from batch.training.metrics import Floats
from batch.training.model_selection import (
    CalibratedFit,
    Cohort,
    Fit,
    Vectors,
    best,
    calibrate,
    fits,
)
from featurestore.errors import FeatureStoreError
from featurestore.store.checksums import COEF_HASH
from featurestore.store.store import Store
from featurestore.store.transaction import Transaction

LABEL_RULE = "readmission"
AGGREGATES = ("mean", "clinicalbert")
BASELINES = ("prior_admissions", "bag_of_words", "head")


def train(
    store: Store,
    name: str,
    encoder: str | None = None,
    cutoff: str = "72h",
    horizon_days: int = 30,
    baseline: bool = True,
    aggregate: str | None = None,
) -> dict[str, Any]:
    """Fit a scorer on the training patients, test it on the test patients, keep it in the store.

    The regression is fitted on the mean of each admission's windows (`aggregate` "mean") and on
    the windows, put together by ClinicalBERT's rule ("clinicalbert"); where the encoder was
    fine-tuned on the training patients, also on patients whom it did not see, and with more
    shrinkage. What is best on the validation patients, by more than chance, is kept and calibrated
    on them (Platt); standardisation and calibration are folded into the coefficients. Training a
    name again makes its next version. `encoder` is the active one where it is not given. With
    `baseline` a bag-of-words regression is fitted on the same admissions, its text streamed from
    the source. Returns scorer_id and the metrics that the store keeps (README, "A scorer and what
    it is worth"). Raises FeatureStoreError where there is nothing to learn from, and changes
    nothing then.
    """
    started_at = datetime.now()
    _check_name(name, aggregate)
    with store.lock("train"):
        encoder = find_encoder(store, encoder)
        update_embeddings(store)
        rows = training_set(store, encoder, cutoff, horizon_days)
        means = Vectors("mean", rows.X, np.arange(len(rows.y)))
        head = store.one("SELECT classifier_head FROM encoders WHERE encoder_id = $e", e=encoder)[0]
        windows = None
        if aggregate != "mean" or head is not None:
            windows = admission_windows_of(store, encoder, cutoff, rows.hadm_id)
        found = _fits(means, windows, rows.cohort, aggregate, _saw_training(store, encoder))
        kept = _keep(found, means, windows, rows.cohort)
        others = fit_baselines(store, rows, cutoff, windows, head, baseline)
        measured = measure(store, rows, cutoff, found, kept, others)
        with store.transaction("train", started_at) as transaction:
            asked = {"encoder": encoder, "cutoff": cutoff, "horizon": horizon_days}
            scorer_id = _add_scorer(transaction, name, asked, measured, kept, rows, started_at)
            _add_rows(transaction, scorer_id, rows, kept, others)
            transaction.counts.update(scorer=scorer_id, admissions=len(rows.y))
    return {"scorer_id": scorer_id, **measured}


def _check_name(name: str, aggregate: str | None) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise FeatureStoreError(
            f"{name!r} is no name for a scorer - use letters, digits, - . and _"
        )
    if aggregate not in (None, *AGGREGATES):
        raise FeatureStoreError(f"unknown aggregate {aggregate} - use mean or clinicalbert")


def _fits(
    means: Vectors,
    windows: Vectors | None,
    cohort: Cohort,
    aggregate: str | None,
    saw_training: bool,
) -> list[Fit]:
    """Every fit that is asked for; of one window an admission, both ways are the same."""
    found: list[Fit] = []
    if aggregate != "clinicalbert":
        found += fits(means, cohort, saw_training)
    several = windows is not None and len(windows.of) > len(means.of)
    if windows is not None and (aggregate == "clinicalbert" or (aggregate is None and several)):
        found += fits(windows, cohort, saw_training)
    return found


def _saw_training(store: Store, encoder: str) -> bool:
    """Whether the encoder was fine-tuned on the training patients."""
    (manifest,) = store.one("SELECT manifest FROM encoders WHERE encoder_id = $e", e=encoder)
    return bool(json.loads(manifest).get("checkpoint", {}).get("finetune"))


def _keep(
    found: list[Fit], means: Vectors, windows: Vectors | None, cohort: Cohort
) -> CalibratedFit:
    """The best fit, calibrated."""
    fit = best(found, cohort)
    slope, intercept, calibrated_on = calibrate(fit, cohort)
    vectors = means if fit.aggregate == "mean" or windows is None else windows
    return CalibratedFit(fit, vectors, slope, intercept, calibrated_on)


def _add_scorer(
    transaction: Transaction,
    name: str,
    asked: dict[str, Any],
    measured: dict[str, Any],
    kept: CalibratedFit,
    rows: TrainingSet,
    now: datetime,
) -> str:
    """Add the next version of a name; return its scorer_id."""
    number = transaction.con.execute(
        "SELECT coalesce(max(version), 0) + 1 FROM scorers WHERE name = $1", [name]
    ).fetchall()[0][0]
    coefficients = _folded(kept)
    transaction.con.register("coefficients", _column(coefficients.pop("coef")))
    transaction.con.execute(
        "INSERT INTO scorers SELECT $id, $name, $version, $encoder, $cutoff, $rule, "
        "$horizon, coef, $intercept, $metrics, $hash, $now, $aggregate, "
        f"$calibration_slope, $calibration_intercept, {COEF_HASH} FROM (SELECT coef, "
        "$intercept AS intercept, $calibration_slope AS calibration_slope, "
        "$calibration_intercept AS calibration_intercept FROM coefficients)",
        {
            "id": f"{name}-v{number}",
            "name": name,
            "version": number,
            "rule": LABEL_RULE,
            "metrics": json.dumps(measured),
            "hash": _training_hash(rows, kept.vectors),
            "now": now,
            "aggregate": kept.fit.aggregate,
            **asked,
            **coefficients,
        },
    )
    return f"{name}-v{number}"


def _add_rows(
    transaction: Transaction,
    scorer_id: str,
    rows: TrainingSet,
    kept: CalibratedFit,
    others: dict[str, Floats],
) -> None:
    """Freeze the admissions, and what the scorer and the others said of them."""
    import pyarrow as pa

    nothing = pa.nulls(len(rows.y), pa.float64())
    columns = {
        "hadm_id": rows.hadm_id,
        "subject_id": rows.subject_id,
        "split": rows.split.tolist(),
        "label": rows.y,
    }
    columns |= {"probability": kept.probability}
    columns |= {name: others.get(name, nothing) for name in BASELINES}
    transaction.con.register("rows", pa.table(columns))
    transaction.con.execute(
        "INSERT INTO scorer_admissions SELECT $1, hadm_id, split, label, probability, "
        "prior_admissions, bag_of_words, head, subject_id FROM rows",
        [scorer_id],
    )


def _folded(kept: CalibratedFit) -> dict[str, Any]:
    """Coefficients, and what stays outside of them.

    Calibration of a mean is folded in; that of ClinicalBERT's rule applies to the log odds of what
    the windows make together.
    """
    fit = kept.fit
    if fit.aggregate == "mean":
        return {
            "coef": kept.slope * fit.coef,
            "intercept": kept.slope * fit.intercept + kept.intercept,
            "calibration_slope": 1.0,
            "calibration_intercept": 0.0,
        }
    return {
        "coef": fit.coef,
        "intercept": fit.intercept,
        "calibration_slope": kept.slope,
        "calibration_intercept": kept.intercept,
    }


def _column(coef: Floats) -> Any:
    import pyarrow as pa

    return pa.table({"coef": pa.FixedSizeListArray.from_arrays(pa.array(coef), len(coef))})


def _training_hash(rows: TrainingSet, vectors: Vectors) -> str:
    """A SHA-256 over the frozen training set, in the order of hadm_id."""
    digest = hashlib.sha256()
    for column in (rows.hadm_id, rows.y, vectors.X):
        digest.update(np.ascontiguousarray(column).data)
    digest.update("\n".join(rows.split.tolist()).encode())
    return digest.hexdigest()
