"""The evaluation of a scorer and its baselines on test patients, and warnings about it."""

import platform
from collections.abc import Iterator
from importlib.metadata import version

import numpy as np
import numpy.typing as npt

from batch.training.bootstrap import BOOTSTRAPS, PatientBootstrap
from batch.training.calibration import Floats, probability
from batch.training.data import UNLABELLED, Cohort, Mask, TrainingData
from batch.training.metrics import auroc, calibration_slope
from batch.training.model_selection import (
    CROSS_VALIDATED,
    MIN_OUTCOMES,
    VALIDATION_FIT,
    CalibratedFit,
    Fit,
    fit_subset,
)
from featurestore.store.scorer_metrics import (
    AlertMetrics,
    Calibration,
    CandidateMetrics,
    Interval,
    LearningCurvePoint,
    ScorerMetrics,
    SplitCounts,
    SubgroupMetrics,
    format_interval,
    format_range,
)

_MIN_SUBGROUP_OUTCOMES = 20  # returned, and as many not
_RELIABLE_RETURNS = 100  # of test patients, below which a validation is considered unreliable


def evaluate(
    data: TrainingData, model: CalibratedFit, baselines: dict[str, Floats]
) -> ScorerMetrics:
    """Return the metrics of a model and of its baselines (admissions,) on test patients."""
    cohort, p = data.cohort, model.probability
    test = cohort.split == "test"
    bootstrap = PatientBootstrap(cohort.y[test], cohort.subject_id[test])
    prevalence = np.full(len(cohort.y), cohort.y[cohort.split == "train"].mean())
    systems = {"scorer": p, "prevalence": prevalence, **baselines}
    metrics: ScorerMetrics = {
        "admissions": _split_counts(cohort.split),
        "positives": _split_counts(cohort.split[cohort.y]),
        "c": model.fit.c,
        "aggregate": model.fit.aggregate,
        "fitted_on": model.fit.fitted_on,
        "calibration": {
            "slope": model.slope,
            "intercept": model.intercept,
            "calibrated_on": model.calibrated_on,
        },
        "test": {name: bootstrap.metrics(risk[test]) for name, risk in systems.items()},
        "differences": {
            name: bootstrap.difference(auroc, p[test], risk[test])
            for name, risk in baselines.items()
        },
        "alerts": _alerts(data, p),
        "candidates": [
            _candidate(each, each is model.fit, bootstrap, test) for each in model.candidates
        ],
        "subgroups": _subgroups(data, p, bootstrap),
        "learning_curve": _learning_curve(model, cohort, bootstrap),
        "stays_per_day": data.stays_per_day,
        "seed": 0,
        "bootstraps": BOOTSTRAPS,
        "versions": _versions(),
        "warnings": [],
    }
    metrics["warnings"] = _warnings(metrics)
    return metrics


def _alerts(data: TrainingData, p: Floats) -> list[AlertMetrics]:
    """Return the alerts among all predicted test stays, with a label or without."""
    predicted = np.isin(data.cohort.split, ("test", UNLABELLED))
    bootstrap = PatientBootstrap(data.cohort.y[predicted], data.cohort.subject_id[predicted])
    return bootstrap.alerts(p[predicted], data.reason[predicted])


def _candidate(
    candidate: Fit, selected: bool, bootstrap: PatientBootstrap, test: Mask
) -> CandidateMetrics:
    log_odds = candidate.log_odds[test]
    return {
        "aggregate": candidate.aggregate,
        "fitted_on": candidate.fitted_on,
        "c": candidate.c,
        "valid_auroc": candidate.valid_auroc,
        "test_auroc": bootstrap.estimate(auroc, log_odds),
        "test_slope": bootstrap.estimate(calibration_slope, probability(log_odds)),
        "default": candidate.aggregate == "mean" and candidate.fitted_on == CROSS_VALIDATED,
        "selected": selected,
    }


def _subgroups(data: TrainingData, p: Floats, bootstrap: PatientBootstrap) -> list[SubgroupMetrics]:
    """Return AUROC, and observed and expected returns, in each group of test patients."""
    test = data.cohort.split == "test"
    subgroups = []
    for by, group_of in data.subgroups.items():
        for group in np.unique(group_of[test]).tolist():
            members = group_of[test] == group
            y, risk = data.cohort.y[test][members], p[test][members]
            enough = min(y.sum(), (~y).sum()) >= _MIN_SUBGROUP_OUTCOMES
            metrics: SubgroupMetrics = {
                "by": by,
                "group": group,
                "admissions": int(members.sum()),
                "returned": int(y.sum()),
                "auroc": bootstrap.subset(members).estimate(auroc, risk) if enough else None,
                "observed": float(y.mean()) if enough else None,
                "expected": float(risk.mean()) if enough else None,
            }
            subgroups.append(metrics)
    return subgroups


def _learning_curve(
    model: CalibratedFit, cohort: Cohort, bootstrap: PatientBootstrap
) -> list[LearningCurvePoint]:
    """Return test AUROC of the regression fitted on an eighth, a quarter, half and all patients."""
    members = cohort.split == ("valid" if model.fit.fitted_on == VALIDATION_FIT else "train")
    patients = np.random.default_rng(0).permutation(np.unique(cohort.subject_id[members]))
    test = cohort.split == "test"
    curve: list[LearningCurvePoint] = []
    for fraction in (1 / 8, 1 / 4, 1 / 2, 1.0):
        subset = members & np.isin(cohort.subject_id, patients[: round(fraction * len(patients))])
        y = cohort.y[subset]
        if len(np.unique(y)) == 2:
            log_odds = fit_subset(model.vectors, cohort, subset, model.fit.c)
            curve.append(
                {
                    "admissions": int(subset.sum()),
                    "returned": int(y.sum()),
                    "auroc": bootstrap.estimate(auroc, log_odds[test]),
                }
            )
    return curve


def _warnings(metrics: ScorerMetrics) -> list[str]:
    """Return what a reader of the metrics must know first, a sentence each."""
    return [
        *_warn_of_one_outcome(metrics["admissions"], metrics["positives"]),
        *_warn_of_auroc(metrics["test"]["scorer"]["auroc"], metrics["positives"]["test"]),
        *_warn_of_bag_of_words(metrics["differences"].get("bag_of_words")),
        *_warn_of_calibration(metrics["calibration"]),
    ]


def _warn_of_one_outcome(admissions: SplitCounts, positives: SplitCounts) -> Iterator[str]:
    for split, name, use in (
        ("valid", "validation", "select a model"),
        ("test", "test", "evaluate the scorer"),
    ):
        if positives[split] in (0, admissions[split]):
            yield (
                f"{positives[split]:,} of {admissions[split]:,} stays of {name} patients returned: "
                f"they cannot be used to {use}"
            )


def _warn_of_auroc(interval: Interval, returned: int) -> Iterator[str]:
    if interval is None:
        return
    estimate, low, high = interval
    if returned < _RELIABLE_RETURNS:
        yield (
            f"only {returned:,} test stays returned: with fewer than {_RELIABLE_RETURNS} all "
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
    patients = calibration["calibrated_on"]
    if not patients.startswith("validation"):
        yield (
            f"fewer than {MIN_OUTCOMES} validation stays returned (or did not): the fit was not "
            f"compared with others, and was calibrated on {patients}"
        )
    if calibration["slope"] <= 0.01:
        yield f"on {patients.split(',')[0]} the scorer does not discriminate"


def _versions() -> dict[str, str]:
    packages = ("clinical-featurestore", "duckdb", "numpy", "scikit-learn", "scipy")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def _split_counts(split: npt.NDArray[np.str_]) -> SplitCounts:
    return {name: int((split == name).sum()) for name in ("train", "valid", "test")}
