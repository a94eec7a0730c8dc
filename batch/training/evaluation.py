"""The evaluation of a scorer and its baselines on test patients, and warnings about it."""

import platform
from collections.abc import Iterator
from importlib.metadata import version

import numpy as np
import numpy.typing as npt

from batch.training.bootstrap import (
    BOOTSTRAPS,
    MIN_OUTCOMES,
    PatientBootstrap,
    enough_outcomes,
    threshold_at_precision,
)
from batch.training.calibration import MIN_CHI_SQUARED, Floats, probability
from batch.training.data import UNLABELLED, Cohort, Mask, TrainingData
from batch.training.metrics import auroc, calibration_slope, is_alerted
from batch.training.model_selection import CalibratedFit, fit_subset, patients_calibrated_on
from batch.training.performance.calibration_curve import ici_if_calibrated
from batch.training.performance.covariates_alone import auroc_alone
from batch.training.performance.estimates import prediction_metrics
from batch.training.performance.subgroups import subgroup_metrics
from batch.training.performance.thresholds import alert_ppv, riskiest_tenth, sensitivity
from batch.training.regression import observed_means
from featurestore.store.scorer_metrics import (
    AlertMetrics,
    Calibration,
    CandidateMetrics,
    CovariateMetrics,
    Interval,
    LearningCurvePoint,
    ScorerMetrics,
    SplitCounts,
    SubgroupMetrics,
    ThresholdMetrics,
    format_interval,
    format_range,
)

_RELIABLE_POSITIVES = 100  # of test patients, below which a validation is considered unreliable


def evaluate(
    data: TrainingData, candidates: list[CalibratedFit], baselines: dict[str, Floats]
) -> ScorerMetrics:
    """Return the metrics of the first candidate and of baselines (admissions,) on test patients."""
    model = candidates[0]
    cohort, p = data.cohort, model.probability
    test = cohort.split == "test"
    bootstrap = PatientBootstrap(cohort.y[test], cohort.subject_id[test])
    prevalence = np.full(len(cohort.y), cohort.y[cohort.split == "train"].mean())
    systems = {"scorer": p, "prevalence": prevalence, **baselines}
    metrics: ScorerMetrics = {
        "outcome": data.outcome,
        "admissions": _split_counts(cohort.split),
        "positives": _split_counts(cohort.split[cohort.y]),
        "c": model.c,
        "aggregate": model.aggregate,
        "observed_until": data.observed_until.isoformat() if data.observed_until else None,
        "no_signal": _why_no_signal(data, model),
        "calibration": {
            "slope": model.calibration.slope,
            "intercept": model.calibration.intercept,
            "chi_squared": model.calibration.chi_squared,
            "separated": model.calibration.separated,
            "min_probability": model.calibration.min_probability,
            "max_probability": model.calibration.max_probability,
            "calibrated_on": _calibrated_on(data),
        },
        "test": {name: prediction_metrics(bootstrap, risk[test]) for name, risk in systems.items()},
        "ici_if_calibrated": ici_if_calibrated(p[test])
        if enough_outcomes(cohort.y[test])
        else None,
        "differences": {
            name: bootstrap.difference(auroc, p[test], risk[test])
            for name, risk in baselines.items()
        },
        "alerts": _alerts(data, p) if model.calibration.has_signal else [],
        "at_80_precision": _at_precision(data, model, bootstrap),
        "covariates": _covariates(data, model),
        "candidates": [_candidate(each, each is model, bootstrap, test) for each in candidates],
        "subgroups": _subgroups(data, p),
        "learning_curve": _learning_curve(model, cohort, bootstrap),
        "stays_per_day": data.stays_per_day,
        "seed": 0,
        "bootstraps": BOOTSTRAPS,
        "versions": _versions(),
        "test_from": data.test_from.isoformat() if data.test_from else None,
        "turns": None,
        "warnings": [],
    }
    metrics["warnings"] = _warnings(metrics)
    return metrics


def _alerts(data: TrainingData, p: Floats) -> list[AlertMetrics]:
    """Return the alerts among all predicted test stays, with a label or without."""
    predicted = np.isin(data.cohort.split, ("test", UNLABELLED))
    bootstrap = PatientBootstrap(data.cohort.y[predicted], data.cohort.subject_id[predicted])
    return bootstrap.alerts(p[predicted], data.reason[predicted])


def _at_precision(
    data: TrainingData, model: CalibratedFit, bootstrap: PatientBootstrap
) -> ThresholdMetrics:
    """Return test precision and recall at the threshold of 80% precision out of fold.

    On test patients, the threshold with that precision would be chosen by their own outcomes.
    """
    cohort = data.cohort
    chosen_on = patients_calibrated_on(cohort, data.encoder_saw_training)
    threshold = threshold_at_precision(cohort.y[chosen_on], model.out_of_fold)
    if threshold is None:
        return {"threshold": None, "alerts": 0, "precision": None, "recall": None}
    y, patient = bootstrap.y, bootstrap.patient
    alerted = is_alerted(model.probability[cohort.split == "test"], threshold)
    enough = enough_outcomes(y)
    return {
        "threshold": threshold,
        "alerts": int(alerted.sum()),
        "precision": alert_ppv(y, alerted, patient) if enough else None,
        "recall": sensitivity(y, alerted, patient) if enough else None,
    }


def _candidate(
    candidate: CalibratedFit, selected: bool, bootstrap: PatientBootstrap, test: Mask
) -> CandidateMetrics:
    log_odds = candidate.log_odds[test]
    return {
        "aggregate": candidate.aggregate,
        "c": candidate.c,
        "log_loss": candidate.log_loss,
        "test_auroc": bootstrap.estimate(auroc, log_odds),
        "test_slope": bootstrap.estimate(calibration_slope, probability(log_odds)),
        "selected": selected,
    }


def _covariates(data: TrainingData, model: CalibratedFit) -> list[CovariateMetrics]:
    """Return the covariates with their calibrated coefficients, on the training stays."""
    if data.design is None:
        return []
    is_train = data.cohort.split == "train"
    design, members = data.design[is_train], data.cohort.subset(is_train)
    means = observed_means(design)
    values = design[:, ::2] + design[:, 1::2] * means
    coef = model.calibration.slope * model.coef[len(model.coef) - design.shape[1] :]
    return [
        {
            "name": name,
            "mean": float(means[k]),
            "standard_deviation": float(values[:, k].std()),
            "missing": float(design[:, 2 * k + 1].mean()),
            "log_odds": float(coef[2 * k] * values[:, k].std()),
            "log_odds_if_missing": float(coef[2 * k + 1] - coef[2 * k] * means[k]),
            "auroc": auroc_alone(members.y, design[:, 2 * k : 2 * k + 2], members.subject_id),
            "is_limited": name not in data.unlimited_covariates,
        }
        for k, name in enumerate(data.covariates)
    ]


def _subgroups(data: TrainingData, p: Floats) -> list[SubgroupMetrics]:
    """Return the metrics of each group of test patients, at the default threshold of an alert."""
    predicted = np.isin(data.cohort.split, ("test", UNLABELLED))
    return subgroup_metrics(
        data.cohort.y[predicted],
        p[predicted],
        data.has_label[predicted],
        data.cohort.subject_id[predicted],
        {by: group_of[predicted] for by, group_of in data.subgroups.items()},
        riskiest_tenth(p[predicted]),
    )


def _learning_curve(
    model: CalibratedFit, cohort: Cohort, bootstrap: PatientBootstrap
) -> list[LearningCurvePoint]:
    """Return test AUROC of the regression fitted on an eighth, a quarter, half and all patients.

    Empty unless two of these, and the test patients, have 10 stays of each outcome.
    """
    members = cohort.split == "train"
    patients = np.random.default_rng(0).permutation(np.unique(cohort.subject_id[members]))
    test = cohort.split == "test"
    curve: list[LearningCurvePoint] = []
    for fraction in (1 / 8, 1 / 4, 1 / 2, 1.0):
        subset = members & np.isin(cohort.subject_id, patients[: round(fraction * len(patients))])
        y = cohort.y[subset]
        if enough_outcomes(y) and enough_outcomes(cohort.y[test]):
            log_odds = fit_subset(model.vectors, cohort, subset, model.c)
            curve.append(
                {
                    "admissions": int(subset.sum()),
                    "positive": int(y.sum()),
                    "auroc": bootstrap.estimate(auroc, log_odds[test]),
                }
            )
    return curve if len(curve) > 1 else []


def _warnings(metrics: ScorerMetrics) -> list[str]:
    """Return what a reader of the metrics must know first, a sentence each."""
    return [
        *_warn_of_few_outcomes(
            metrics["outcome"], metrics["admissions"]["test"], metrics["positives"]["test"]
        ),
        *_warn_of_auroc(
            metrics["outcome"], metrics["test"]["scorer"]["auroc"], metrics["positives"]["test"]
        ),
        *_warn_of_bag_of_words(metrics["differences"].get("bag_of_words")),
        *_warn_of_calibration(metrics["calibration"]),
        *_warn_of_useless_covariates(metrics["covariates"]),
    ]


def _warn_of_useless_covariates(covariates: list[CovariateMetrics]) -> Iterator[str]:
    for each in covariates:
        if each["missing"] == 1:
            yield f"the covariate {each['name']} is missing in all training stays and adds nothing"
        elif each["standard_deviation"] == 0 and each["missing"] == 0:
            yield f"the covariate {each['name']} is the same in all training stays and adds nothing"


def _why_no_signal(data: TrainingData, model: CalibratedFit) -> str | None:
    """Return why all probabilities are the prevalence, as a sentence; None if they are not."""
    calibration = model.calibration
    if calibration.has_signal:
        return None
    y = data.cohort.y[patients_calibrated_on(data.cohort, data.encoder_saw_training)]
    risk = probability(np.array(calibration.intercept))
    if y.all() or not y.any():
        return (
            f"no signal: {int(y.sum()):,} of {len(y):,} stays of {_calibrated_on(data)} "
            f"{data.outcome}, so nothing can be calibrated, and every probability is the "
            f"prevalence, {risk:.3f} - train on more patients, or on another outcome"
        )
    evidence = (
        f"chi-squared {calibration.chi_squared:.1f}, more than {MIN_CHI_SQUARED:.0f} is needed"
        if calibration.chi_squared
        else "their log odds do not rise with the outcome"
    )
    return (
        f"no signal: the embeddings do not discriminate between the {int(y.sum()):,} of "
        f"{len(y):,} stays of {_calibrated_on(data)} that {data.outcome} and the others "
        f"({evidence}), so every probability is the prevalence, {risk:.3f}"
    )


def _calibrated_on(data: TrainingData) -> str:
    if data.encoder_saw_training:
        return "validation patients"
    return "training patients, out of fold, and validation patients"


def _warn_of_few_outcomes(outcome: str, admissions: int, positive: int) -> Iterator[str]:
    if not admissions:
        yield "the test patients were not looked at - featurestore evaluate does that"
    elif min(positive, admissions - positive) < MIN_OUTCOMES:
        yield (
            f"{positive:,} of {admissions:,} stays of test patients {outcome}: at least "
            f"{MIN_OUTCOMES} that did and {MIN_OUTCOMES} that did not are needed to evaluate the "
            "scorer"
        )


def _warn_of_auroc(outcome: str, interval: Interval, positive: int) -> Iterator[str]:
    if interval is None:
        return
    estimate, low, high = interval
    if positive < _RELIABLE_POSITIVES:
        yield (
            f"only {positive:,} test stays {outcome}: with fewer than {_RELIABLE_POSITIVES} all "
            "estimates are imprecise"
        )
    if low <= 0.5 <= high:
        yield (
            f"the test AUROC of {format_interval(interval)} does not differ significantly from "
            "0.5, which is chance"
        )
    elif high - low > estimate - 0.5:
        yield (
            f"the interval of the test AUROC, {format_range(interval)}, is wider than its "
            f"distance from chance ({estimate - 0.5:.3f}) - more test patients would make it "
            "narrower"
        )


def _warn_of_bag_of_words(difference: Interval) -> Iterator[str]:
    if difference and difference[2] < 0:
        estimate, low, high = difference
        loss = [-estimate, -high, -low]
        yield (
            f"bag-of-words is better by {loss[0]:.3f} AUROC ({format_range(loss)}) on the same "
            "test patients"
        )


def _warn_of_calibration(calibration: Calibration) -> Iterator[str]:
    if calibration["separated"]:
        yield (
            f"the outcomes of {calibration['calibrated_on']} are separated completely, which "
            "suggests a leak; probabilities are limited to "
            f"{calibration['min_probability']:.3f} to {calibration['max_probability']:.3f}"
        )


def _versions() -> dict[str, str]:
    packages = ("clinical-featurestore", "duckdb", "numpy", "scikit-learn", "scipy")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def _split_counts(split: npt.NDArray[np.str_]) -> SplitCounts:
    return {name: int((split == name).sum()) for name in ("train", "valid", "test")}
