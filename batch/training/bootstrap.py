"""Confidence intervals by a bootstrap of patients.

Patients are drawn with all their stays, because stays of one patient are not independent (Efron
1979; 95% percentile intervals).
"""

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from batch.training.calibration import Floats
from batch.training.metrics import METRICS, Metric, Ranked, top_fraction
from featurestore.errors import FeatureStoreError
from featurestore.store.scorer_metrics import AlertMetrics, AlertOutcomes, Interval

BOOTSTRAPS = 1_000
MIN_OUTCOMES = 10  # positives, and as many negatives, below which nothing is estimated
ALERTS_PER_100 = (1, 5, 10, 20, 30)
_WEIGHTS_IN_MEMORY = 4_000_000


def evaluate_predictions(
    y: npt.ArrayLike, p: npt.ArrayLike, groups: npt.ArrayLike, bootstraps: int = BOOTSTRAPS
) -> dict[str, Interval]:
    """Return the metrics by which scorers are evaluated, for predictions of any model.

    y (stays,) is the outcome, p (stays,) its predicted probability and groups (stays,) the patient.
    Each metric (auroc, auprc, brier, calibration_slope, ...) is [estimate, low, high] with a 95%
    interval from a patient-level bootstrap, as `train` records it; None with fewer than 10 stays of
    an outcome. Raises FeatureStoreError if the arrays do not match, or p is no probability.
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
    return PatientBootstrap(outcome.astype(np.bool_), patient, bootstraps).metrics(probability)


def enough_outcomes(y: npt.NDArray[np.bool_]) -> bool:
    """Return whether enough stays (stays,) are positive, and negative, for an estimate."""
    return bool(min(y.sum(), (~y).sum()) >= MIN_OUTCOMES)


class PatientBootstrap:
    """The outcomes of stays, and bootstrap samples of their patients, the same for every metric."""

    def __init__(
        self,
        y: npt.NDArray[np.bool_],
        subject_id: npt.NDArray[Any],
        bootstraps: int = BOOTSTRAPS,
        seed: int = 0,
    ) -> None:
        self.y = y
        patients, self._patient = np.unique(subject_id, return_inverse=True)
        rng = np.random.default_rng(seed)
        uniform = np.full(max(len(patients), 1), 1 / max(len(patients), 1))
        draws = rng.multinomial(len(patients), uniform, size=bootstraps).astype(np.float32)
        # The first sample has each patient once: it gives the estimate.
        self._draws = np.vstack([np.ones(len(uniform), np.float32), draws])

    def subset(self, members: npt.NDArray[np.bool_]) -> "PatientBootstrap":
        """Return the same samples restricted to a subset of the stays."""
        subset = object.__new__(PatientBootstrap)
        subset.y, subset._draws = self.y[members], self._draws
        subset._patient = self._patient[members]
        return subset

    def samples(self, metric: Metric, p: Floats) -> Floats:
        """Return a metric of each sample, the estimate first; NaN where it is undefined."""
        if not len(p):
            return np.full(len(self._draws), np.nan)
        ranked = Ranked(self.y, p)
        step = max(1, _WEIGHTS_IN_MEMORY // len(p))
        with np.errstate(divide="ignore", invalid="ignore"):
            values = [
                metric(ranked, self._draws[first : first + step, self._patient].astype(np.float64))
                for first in range(0, len(self._draws), step)
            ]
        return np.concatenate(values)

    def estimate(self, metric: Metric, p: Floats) -> Interval:
        """Return a metric with its interval; None with fewer than 10 stays of an outcome."""
        return percentile_interval(self.samples(metric, p)) if enough_outcomes(self.y) else None

    def difference(self, metric: Metric, p: Floats, other: Floats) -> Interval:
        """Return the paired difference of a metric of p and of other, as `estimate` does."""
        if not enough_outcomes(self.y):
            return None
        return percentile_interval(self.samples(metric, p) - self.samples(metric, other))

    def metrics(self, p: Floats) -> dict[str, Interval]:
        """Return every metric of METRICS with its interval."""
        return {name: self.estimate(metric, p) for name, metric in METRICS.items()}

    def alerts(self, p: Floats, reason: npt.NDArray[np.str_]) -> list[AlertMetrics]:
        """Return PPV, recall and outcomes of alerts on the 1, 5, 10, 20 or 30% of highest risk.

        `reason` (stays,) is why a stay has no label, '' where it has one; without a label it counts
        as negative. PPV and recall are None below 10 alerts, or 10 labelled stays of an
        outcome. Of stays with equal probabilities at the threshold, PPV and recall count a part,
        and the outcomes are those of the first stays.
        """
        by_risk = np.argsort(-p, kind="stable")
        enough = enough_outcomes(self.y[reason == ""])

        def estimate(per_100: int, which: int, n_alerts: int) -> Interval:
            metric = partial(_alert_metric, per_100=per_100, which=which)
            return self.estimate(metric, p) if enough and n_alerts >= MIN_OUTCOMES else None

        return [
            {
                "per_100": per_100,
                "ppv": estimate(per_100, 0, len(alerted)),
                "recall": estimate(per_100, 1, len(alerted)),
                **alert_outcomes(self.y[alerted], reason[alerted]),
            }
            for per_100 in ALERTS_PER_100
            for alerted in [by_risk[: max(1, round(per_100 / 100 * len(p)))]]
        ]


def alert_outcomes(y: npt.NDArray[np.bool_], reason: npt.NDArray[np.str_]) -> AlertOutcomes:
    """Count alerted stays by outcome; `reason` is '' where a stay has a label."""
    has_label, died = reason == "", reason == "died in hospital"
    return {
        "positive": int(y.sum()),
        "negative": int((has_label & ~y).sum()),
        "died_in_hospital": int(died.sum()),
        "other": int((~has_label & ~died).sum()),
    }


def percentile_interval(samples: Floats) -> Interval:
    """Return the estimate, which comes first, and the middle 95% of the samples after it."""
    defined = samples[1:][np.isfinite(samples[1:])]
    # Undefined in more than a fifth of the samples: the rest would be a biased selection.
    if not np.isfinite(samples[0]) or len(defined) < 0.8 * (len(samples) - 1):
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return [float(samples[0]), float(low), float(high)]


def _alert_metric(ranked: Ranked, weight: Floats, per_100: int, which: int) -> Floats:
    return top_fraction(ranked, weight, per_100 / 100)[which]
