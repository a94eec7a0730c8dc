"""Estimates from predicted risks with intervals that take account of several stays of a patient."""

from typing import Any

import numpy as np
import numpy.typing as npt

from batch.training.bootstrap import (
    BOOTSTRAPS,
    MIN_OUTCOMES,
    PatientBootstrap,
    enough_outcomes,
)
from batch.training.calibration import Floats
from batch.training.intervals import (
    LOGIT,
    Mask,
    clustered_error,
    extreme_interval,
    linearized_interval,
    wilson_interval,
)
from batch.training.metrics import Ranked, Resampled, auroc, influence
from batch.training.performance.calibration_curve import calibration_errors
from featurestore.errors import FeatureStoreError
from featurestore.store.scorer_metrics import Interval


def evaluate_predictions(
    y: npt.ArrayLike, p: npt.ArrayLike, groups: npt.ArrayLike, bootstraps: int = BOOTSTRAPS
) -> dict[str, Interval]:
    """Return the metrics by which scorers are evaluated, for predictions of any model.

    y (stays,) is the outcome, p (stays,) its predicted probability and groups (stays,) the patient.
    Each metric (auroc, auprc, brier, calibration_slope, ...) is [estimate, low, high] with a 95%
    interval that takes account of several stays of a patient, as `train` records it; [estimate]
    where no interval covers; None with fewer than 10 stays of an outcome. Raises FeatureStoreError
    if the arrays do not match, or p is no probability.
    """
    outcome, probability, patient = np.asarray(y), np.asarray(p, np.float64), np.asarray(groups)
    if not outcome.shape == probability.shape == patient.shape or outcome.ndim != 1:
        raise FeatureStoreError(
            f"y, p and groups have the shapes {outcome.shape}, {probability.shape} and "
            f"{patient.shape} - give one value per stay (of predict_proba, column 1)"
        )
    if not np.isin(outcome, (0, 1)).all():
        raise FeatureStoreError("y holds other values than True and False - give outcomes")
    if not ((probability >= 0) & (probability <= 1)).all():
        raise FeatureStoreError("p holds values outside 0 to 1 - give probabilities, not log odds")
    bootstrap = PatientBootstrap(outcome.astype(np.bool_), patient, bootstraps)
    return prediction_metrics(bootstrap, probability)


def prediction_metrics(bootstrap: PatientBootstrap, p: Floats) -> dict[str, Interval]:
    """Return every metric of the predicted risks (stays,) of the bootstrap's stays."""
    return bootstrap.metrics(p) | calibration_estimates(bootstrap.y, p, bootstrap.patient)


def calibration_estimates(y: Mask, p: Floats, patient: npt.NDArray[Any]) -> dict[str, Interval]:
    """Return O:E, scaled Brier score, ICI, E50 and E90 of predicted risks (stays,).

    None with fewer than 10 stays of an outcome. ICI, E50 and E90 have no interval: they are too
    large by chance, the more so the fewer stays there are, and no interval covers then.
    """
    names = ("oe_ratio", "scaled_brier", "ici", "e50", "e90")
    if not enough_outcomes(y):
        return dict.fromkeys(names)
    errors = calibration_errors(y, p)
    return {
        "oe_ratio": oe_ratio(y, p, patient),
        "scaled_brier": scaled_brier(y, p, patient),
        "ici": [errors["ici"]],
        "e50": [errors["e50"]],
        "e90": [errors["e90"]],
    }


def oe_ratio(y: Mask, p: Floats, patient: npt.NDArray[Any]) -> Interval:
    """Return observed by expected positives (stays,), with its interval; 1 is calibrated.

    Wilson's interval of the observed proportion over the mean risk, with the number of independent
    stays whose ratio has the same standard error. None where fewer than 10 stays of an outcome are
    expected: to require 10 that are observed would show groups whose ratio is high by chance.
    """
    if min(p.sum(), (1 - p).sum()) < MIN_OUTCOMES:
        return None
    observed, expected = float(y.mean()), float(p.mean())
    error = clustered_error(y - observed / expected * p, patient)
    interval = wilson_interval(observed, error, len(y))
    return [end / expected for end in interval] if interval else None


def clustered_auroc(y: Mask, p: Floats, patient: npt.NDArray[Any]) -> Interval:
    """Return the AUROC (stays,) with its interval; None with fewer than 10 stays of an outcome.

    The standard error is that of the placement values by patient, of each outcome (Obuchowski 1997,
    doi 10.2307/2533958; DeLong's for patients with one stay), the interval is symmetric in the log
    odds.
    """
    if not enough_outcomes(y):
        return None
    estimate = float(auroc(Resampled(Ranked(y, p), np.ones((1, len(y)))))[0])
    if estimate in (0, 1):  # without an error that could be estimated
        return extreme_interval(estimate, y, patient)
    n_all, *n = (len(np.unique(patient[members])) for members in (y | True, y, ~y))
    if min(n) < 2:
        return None
    few = [(each / (each - 1) * (n_all - 1) / n_all) ** 0.5 for each in n]
    moved = influence(auroc, y, p) * np.where(y, *few)
    return linearized_interval(estimate, moved, y, patient, LOGIT)


def scaled_brier(y: Mask, p: Floats, patient: npt.NDArray[Any]) -> Interval:
    """Return 1 - Brier score / that of the prevalence (stays,): 1 is perfect, 0 knows nothing.

    Also index of prediction accuracy (Kattan & Gerds 2018, doi 10.1186/s41512-018-0029-2). None
    with fewer than 10 stays of an outcome.
    """
    if not enough_outcomes(y):
        return None
    squared, prevalence = (p - y) ** 2, float(y.mean())
    score, variance = float(squared.mean()), prevalence * (1 - prevalence)
    moved = score * (1 - 2 * prevalence) * y / variance**2 - squared / variance
    return linearized_interval(1 - score / variance, moved, y, patient)
