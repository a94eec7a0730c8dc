"""Metrics with confidence intervals, where patients have several stays.

Stays of one patient are not independent. Standard errors are those of a bootstrap that draws
patients with all their stays (Efron 1979), or of sums by patient; `intervals` makes intervals of
them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from batch.training.calibration import Floats, log_odds, probability, recalibrate
from batch.training.intervals import (
    COMPLEMENT,
    IDENTITY,
    LOGIT,
    Scale,
    clustered_error,
    clustered_freedom,
    extreme_interval,
    linearized_interval,
    patients_with_rarer_outcome,
    student_interval,
    wilson_interval,
)
from batch.training.metrics import (
    METRICS,
    PRECISION,
    Metric,
    Ranked,
    Resampled,
    accuracy,
    auprc,
    auprc_balanced,
    auroc,
    brier,
    calibration_intercept,
    calibration_slope,
    influence,
    recall_at_precision_balanced,
)
from featurestore.store.scorer_metrics import AlertMetrics, AlertOutcomes, Interval

BOOTSTRAPS = 1_000
MIN_OUTCOMES = 10  # positives, and as many negatives, below which nothing is estimated
MIN_ALERTS = 20  # below which no PPV is estimated, and no other proportion of stays
ALERTS_PER_100 = (1, 5, 10, 20, 30)
_WEIGHTS_IN_MEMORY = 4_000_000

# The scale on which the interval of a metric covers; that of others is their own.
_SCALES: dict[Metric, Scale] = {
    auroc: LOGIT,
    auprc: COMPLEMENT,
    auprc_balanced: LOGIT,
    accuracy: LOGIT,
    brier: LOGIT,
}
# With fewer stays of an outcome no interval of a difference covers: average precision is too high
# in small samples, by how much depends on the scorer (Boyd, Eng & Page 2013).
_MIN_OUTCOMES_OF_AUPRC_DIFFERENCE = 150


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
        patients, self.patient = np.unique(subject_id, return_inverse=True)
        rng = np.random.default_rng(seed)
        uniform = np.full(max(len(patients), 1), 1 / max(len(patients), 1))
        draws = rng.multinomial(len(patients), uniform, size=bootstraps).astype(np.float32)
        # The first sample has each patient once: it gives the estimate.
        self._draws = np.vstack([np.ones(len(uniform), np.float32), draws])

    def subset(self, members: npt.NDArray[np.bool_]) -> "PatientBootstrap":
        """Return the same samples restricted to a subset of the stays."""
        subset = object.__new__(PatientBootstrap)
        subset.y, subset._draws = self.y[members], self._draws
        subset.patient = self.patient[members]
        return subset

    def samples(self, metrics: Mapping[str, Metric], p: Floats) -> dict[str, Floats]:
        """Return each metric of each sample, the estimate first; NaN where it is undefined."""
        if not len(p):
            return {name: np.full(len(self._draws), np.nan) for name in metrics}
        ranked = Ranked(self.y, p)
        patient = self.patient[ranked.order]
        values: dict[str, list[Floats]] = {name: [] for name in metrics}
        step = max(1, _WEIGHTS_IN_MEMORY // len(p))
        with np.errstate(divide="ignore", invalid="ignore"):
            for first in range(0, len(self._draws), step):
                weight = self._draws[first : first + step, patient].astype(np.float64)
                sample = Resampled(ranked, weight)
                for name, metric in metrics.items():
                    values[name].append(metric(sample))
        return {name: np.concatenate(parts) for name, parts in values.items()}

    def estimate(self, metric: Metric, p: Floats) -> Interval:
        """Return a metric with its interval; None with fewer than 10 stays of an outcome."""
        return self.estimates({"": metric}, p)[""]

    def estimates(self, metrics: Mapping[str, Metric], p: Floats) -> dict[str, Interval]:
        """Return each metric with its interval, as `estimate` does."""
        if not enough_outcomes(self.y):
            return dict.fromkeys(metrics)
        sampled = {name: metric for name, metric in metrics.items() if metric not in _RECALIBRATED}
        samples = self.samples(sampled, p)
        return {
            name: self._interval(metric, p, samples[name])
            if name in samples
            else self._recalibration(metric, p)
            for name, metric in metrics.items()
        }

    def metrics(self, p: Floats) -> dict[str, Interval]:
        """Return every metric of METRICS with its interval."""
        return self.estimates(METRICS, p)

    def difference(self, metric: Metric, p: Floats, other: Floats) -> Interval:
        """Return the paired difference of a metric of p and of other, as `estimate` does."""
        return self.compare({"": metric}, p, other)[""][2]

    def compare(
        self, metrics: Mapping[str, Metric], p: Floats, other: Floats
    ) -> dict[str, tuple[Interval, Interval, Interval]]:
        """Return each metric of p and of other, and their paired difference, with intervals."""
        if not enough_outcomes(self.y):
            return dict.fromkeys(metrics, (None, None, None))
        ours, theirs = self.samples(metrics, p), self.samples(metrics, other)
        return {
            name: (
                self._interval(metric, p, ours[name]),
                self._interval(metric, other, theirs[name]),
                self._difference(metric, p, other, ours[name] - theirs[name]),
            )
            for name, metric in metrics.items()
        }

    def _interval(self, metric: Metric, p: Floats, samples: Floats) -> Interval:
        if metric is recall_at_precision_balanced:  # no interval of it covers
            return [float(samples[0])] if np.isfinite(samples[0]) else None
        estimate, scale = float(samples[0]), _SCALES.get(metric, IDENTITY)
        if scale is not IDENTITY and estimate in (0, 1):  # as all samples are
            return extreme_interval(estimate, self.y, self.patient)
        freedom = self._freedom(influence(metric, self.y, p))
        return student_interval(estimate, _error(samples), freedom, scale)

    def _difference(self, metric: Metric, p: Floats, other: Floats, samples: Floats) -> Interval:
        rarer = min(self.y.sum(), (~self.y).sum())
        if metric is auprc and rarer < _MIN_OUTCOMES_OF_AUPRC_DIFFERENCE:
            return [float(samples[0])]
        ours, theirs = (influence(metric, self.y, each) for each in (p, other))
        both = None if ours is None or theirs is None else ours - theirs
        return student_interval(float(samples[0]), _error(samples), self._freedom(both))

    def _freedom(self, influence: Floats | None) -> float:
        """Return the degrees of freedom of the standard error of a metric.

        Where the influence of stays is not known they are the patients with the rarer outcome, less
        one.
        """
        if influence is None:
            return patients_with_rarer_outcome(self.y, self.patient) - 1
        return clustered_freedom(influence, self.y, self.patient)

    def _recalibration(self, metric: Metric, p: Floats) -> Interval:
        """Return the calibration slope, or the intercept, with its interval.

        The standard error is the sandwich estimator over patients (White 1982; Liang & Zeger 1986,
        doi 10.1093/biomet/73.1.13). That of a bootstrap is too large, as samples whose outcomes are
        nearly separated have slopes without bound.
        """
        slope = metric is calibration_slope
        z = log_odds(p)
        intercept, b = recalibrate(z, self.y, np.ones((1, len(z))), slope)[0]
        if not np.isfinite([intercept, b]).all():
            return None
        risk = probability(intercept + b * z)
        curvature = risk * (1 - risk)
        z = z - (curvature @ z) / curvature.sum() if slope else np.ones(len(z))
        moved = (self.y - risk) * z / (curvature @ z**2) * len(z)
        return linearized_interval(float(b if slope else intercept), moved, self.y, self.patient)

    def alerts(self, p: Floats, reason: npt.NDArray[np.str_]) -> list[AlertMetrics]:
        """Return PPV, recall and outcomes of alerts on the 1, 5, 10, 20 or 30% of highest risk.

        `reason` (stays,) is why a stay has no label, '' where it has one; without a label it counts
        as negative. PPV and recall are None below 20 alerts, or 10 labelled stays of an
        outcome. Of stays with equal probabilities at the threshold, PPV and recall count a part,
        and the outcomes are those of the first stays.
        """
        by_risk = np.argsort(-p, kind="stable")
        enough = enough_outcomes(self.y[reason == ""])
        rows: list[AlertMetrics] = []
        for per_100 in ALERTS_PER_100:
            alerted = by_risk[: max(1, round(per_100 / 100 * len(p)))]
            shown = enough and len(alerted) >= MIN_ALERTS
            ppv, recall = self._top_fraction(p, per_100 / 100) if shown else (None, None)
            outcomes = alert_outcomes(self.y[alerted], reason[alerted])
            rows.append({"per_100": per_100, "ppv": ppv, "sensitivity": recall, **outcomes})
        return rows

    def _top_fraction(self, p: Floats, fraction: float) -> tuple[Interval, Interval]:
        """Return PPV and recall with intervals where a fraction of the stays is alerted.

        The threshold is estimated too: a positive more moves it, and with it a stay out of the
        alerts, which is positive with the PPV at the threshold, here that of its neighbours.
        """
        n, alerted = len(p), top_fraction(p, fraction)
        ppv, recall = alerted @ self.y / alerted.sum(), alerted @ self.y / self.y.sum()
        by_risk = np.argsort(-p, kind="stable")
        near = round(fraction * n)
        margin = max(10, min(near, n // 10) // 2)
        at_threshold = self.y[by_risk[max(0, near - margin) : near + margin]].mean()
        moved = at_threshold * (alerted - fraction)
        errors = (
            clustered_error((alerted * self.y - moved) / fraction, self.patient),
            clustered_error(
                (alerted * self.y - recall * self.y - moved) / self.y.mean(), self.patient
            ),
        )
        return (
            wilson_interval(float(ppv), errors[0], float(alerted.sum())),
            wilson_interval(float(recall), errors[1], float(self.y.sum())),
        )


_RECALIBRATED = (calibration_slope, calibration_intercept)


def top_fraction(p: Floats, fraction: float) -> Floats:
    """Return how much of each stay (stays,) is alerted where a fraction of the stays is.

    A group of equal probabilities at the threshold is alerted in part.
    """
    _, group, size = np.unique(-p, return_inverse=True, return_counts=True)
    before = np.cumsum(size) - size
    return np.clip((fraction * len(p) - before) / size, 0, 1)[group]


def threshold_at_precision(y: npt.NDArray[np.bool_], p: Floats) -> float | None:
    """Return the probability from which on 80% of alerted stays are positive, with most alerts.

    None where fewer than 20 stays would be alerted: by chance, the riskiest few are all positive.
    """
    ranked = Ranked(y, p)
    sample = Resampled(ranked, np.ones((1, len(y))))
    reached = (sample.precision()[0] >= PRECISION) & (ranked.end >= MIN_ALERTS)
    return float(ranked.p[ranked.start[reached][-1]]) if reached.any() else None


def alert_outcomes(y: npt.NDArray[np.bool_], reason: npt.NDArray[np.str_]) -> AlertOutcomes:
    """Count alerted stays by outcome; `reason` is '' where a stay has a label."""
    has_label, died = reason == "", reason == "died in hospital"
    return {
        "positive": int(y.sum()),
        "negative": int((has_label & ~y).sum()),
        "died_in_hospital": int(died.sum()),
        "other": int((~has_label & ~died).sum()),
    }


def _error(samples: Floats) -> float:
    """Return the standard deviation of the samples after the first; NaN if many are undefined."""
    defined = samples[1:][np.isfinite(samples[1:])]
    # Undefined in more than a fifth of the samples: the rest would be a biased selection.
    if len(defined) < max(2, 0.8 * (len(samples) - 1)):
        return float("nan")
    return float(defined.std(ddof=1))
