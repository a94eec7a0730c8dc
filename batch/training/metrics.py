"""How good are probabilities, on patients that nothing was fitted to, and how sure is that?

Every number has a 95% interval from a bootstrap by patient (Efron 1979; percentiles): patients are
drawn, with all their stays, because stays of one patient are not independent.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Interval = list[float] | None  # estimate, low, high; None where it has no meaning

BOOTSTRAPS = 1_000
SHARES = (1, 5, 10, 20, 30)  # alerts of 100 predicted stays
PRECISION = 0.8
_AT_ONCE = 4_000_000  # weights held at a time


class PatientBootstrap:
    """Some stays, what became of them, and the same bootstrap samples of them for every system."""

    def __init__(
        self,
        y: npt.NDArray[np.bool_],
        subject_id: npt.NDArray[np.int64],
        bootstraps: int = BOOTSTRAPS,
        seed: int = 0,
    ) -> None:
        self.y = y
        patients, self._patient = np.unique(subject_id, return_inverse=True)
        rng = np.random.default_rng(seed)
        even = np.full(max(len(patients), 1), 1 / max(len(patients), 1))
        drawn = rng.multinomial(len(patients), even, size=bootstraps).astype(np.float32)
        # The first "sample" is the patients as they are: it gives the estimate.
        self._times = np.vstack([np.ones(len(even), np.float32), drawn])

    def of(self, members: npt.NDArray[np.bool_]) -> "PatientBootstrap":
        """The same samples, of some of the stays only."""
        some = object.__new__(PatientBootstrap)
        some.y, some._times, some._patient = self.y[members], self._times, self._patient[members]
        return some

    def samples(self, metric: "Metric", p: Floats) -> Floats:
        """A metric of each sample, the estimate first; NaN where it has no meaning in one."""
        if not len(p):
            return np.full(len(self._times), np.nan)
        ranked = Ranked(self.y, p)
        step = max(1, _AT_ONCE // len(p))
        with np.errstate(divide="ignore", invalid="ignore"):
            found = [
                metric(ranked, self._times[first : first + step, self._patient].astype(np.float64))
                for first in range(0, len(self._times), step)
            ]
        return np.concatenate(found)

    def estimate(self, metric: "Metric", p: Floats) -> Interval:
        """A metric with its interval."""
        return interval(self.samples(metric, p))

    def difference(self, metric: "Metric", p: Floats, other: Floats) -> Interval:
        """A metric of p less that of other, sample by sample."""
        return interval(self.samples(metric, p) - self.samples(metric, other))

    def metrics(self, p: Floats) -> dict[str, Interval]:
        """Every metric of METRICS."""
        return {name: self.estimate(metric, p) for name, metric in METRICS.items()}

    def alerts(self, p: Floats) -> list[dict[str, Any]]:
        """PPV and recall where the riskiest 1, 5, 10, 20 or 30 of 100 stays are alerted."""
        return [
            {
                "per_100": share,
                "ppv": self.estimate(partial(_of_top, share=share, which=0), p),
                "recall": self.estimate(partial(_of_top, share=share, which=1), p),
            }
            for share in SHARES
        ]


def interval(samples: Floats) -> Interval:
    """The estimate, which comes first, and the middle 95% of the samples behind it."""
    known = samples[1:][np.isfinite(samples[1:])]
    # Where a metric has no meaning in one sample of five, its interval would be of easy samples.
    if not np.isfinite(samples[0]) or len(known) < 0.8 * (len(samples) - 1):
        return None
    low, high = np.percentile(known, [2.5, 97.5])
    return [float(samples[0]), float(low), float(high)]


def in_words(found: Interval, digits: int = 3, to: str = " to ") -> str:
    """An estimate with its interval, or a dash."""
    return f"{found[0]:.{digits}f} ({ends(found, digits, to)})" if found else "-"


def ends(found: list[float], digits: int = 3, to: str = " to ") -> str:
    """The interval alone."""
    return f"{found[1]:.{digits}f}{to}{found[2]:.{digits}f}"


class Ranked:
    """Outcomes in the order of their probabilities, the highest first; equal ones are one group."""

    def __init__(self, y: npt.NDArray[np.bool_], p: Floats) -> None:
        order = np.argsort(-p, kind="stable")
        self.order, self.y, self.p = order, y[order].astype(np.float64), p[order]
        self.starts = np.flatnonzero(np.r_[True, np.diff(self.p) != 0]) if len(p) else order

    def groups(self, weight: Floats) -> tuple[Floats, Floats]:
        """Weight of the returned and of the others in each group: two of (samples, groups)."""
        weight = weight[:, self.order]
        returned, others = weight * self.y, weight * (1 - self.y)
        if len(self.starts) < len(self.y):
            returned = np.add.reduceat(returned, self.starts, axis=1)
            others = np.add.reduceat(others, self.starts, axis=1)
        return returned, others


def auroc(ranked: Ranked, weight: Floats) -> Floats:
    """The chance that one who returned has the higher probability; equal ones count half."""
    returned, others = ranked.groups(weight)
    below = others.sum(axis=1, keepdims=True) - np.cumsum(others, axis=1)
    pairs = returned.sum(axis=1) * others.sum(axis=1)
    return np.asarray((returned * (below + others / 2)).sum(axis=1) / pairs)


def auprc(ranked: Ranked, weight: Floats, balanced: bool = False) -> Floats:
    """Average precision; balanced, as if those who returned were one half of the stays."""
    precision, recall = _curve(*ranked.groups(weight), balanced)
    gained = np.diff(recall, axis=1, prepend=0)
    return np.asarray((np.nan_to_num(precision) * gained).sum(axis=1))


def recall_at_precision(ranked: Ranked, weight: Floats, balanced: bool = False) -> Floats:
    """The largest recall at a precision of 80%; 0 where it is never reached."""
    precision, recall = _curve(*ranked.groups(weight), balanced)
    best = np.where(precision >= PRECISION, recall, 0).max(axis=1)
    return np.where(np.isnan(recall[:, -1]), np.nan, best)


def _curve(returned: Floats, others: Floats, balanced: bool) -> tuple[Floats, Floats]:
    """Precision and recall when a group and all above it are alerted: (samples, groups)."""
    true, false = np.cumsum(returned, axis=1), np.cumsum(others, axis=1)
    if balanced:
        false = false * (true[:, -1:] / false[:, -1:])
    return true / (true + false), true / true[:, -1:]


def accuracy(ranked: Ranked, weight: Floats) -> Floats:
    """The share of stays that a threshold of 0.5 gets right."""
    right = ((ranked.p > 0.5) == ranked.y).astype(np.float64)
    weight = weight[:, ranked.order]
    return np.asarray(weight @ right / weight.sum(axis=1))


def brier(ranked: Ranked, weight: Floats) -> Floats:
    """The mean squared difference between probability and outcome (Brier 1950)."""
    weight = weight[:, ranked.order]
    return np.asarray(weight @ (ranked.p - ranked.y) ** 2 / weight.sum(axis=1))


def calibration_slope(ranked: Ranked, weight: Floats) -> Floats:
    """The slope of a logistic regression of the outcome on the log odds; 1 is calibrated."""
    return _recalibrated(ranked, weight, slope=True)[:, 1]


def calibration_intercept(ranked: Ranked, weight: Floats) -> Floats:
    """Calibration in the large: the log odds by which predictions lie too low (0: calibrated)."""
    return _recalibrated(ranked, weight, slope=False)[:, 0]


def _recalibrated(ranked: Ranked, weight: Floats, slope: bool) -> Floats:
    """Intercept and slope by Newton's method: (samples, 2); the slope is 1 unless asked for."""
    weight = weight[:, ranked.order]
    z = log_odds(ranked.p)
    if slope and np.ptp(z) < 0.02:  # all alike: a slope of them says nothing
        return np.full((len(weight), 2), np.nan)
    # Newton's method is at home around zero, from the share that returned, without a slope.
    centre, spread = (float(z.mean()), float(z.std())) if slope else (0.0, 1.0)
    z = (z - centre) / spread
    found = np.tile([0.0, 1.0], (len(weight), 1))
    if slope:
        found[:] = log_odds(np.atleast_1d(ranked.y.mean()))[0], 0
    for _ in range(30):
        p = probability(np.clip(found[:, :1] + found[:, 1:] * z, -30, 30))
        residual, curvature = weight * (ranked.y - p), weight * p * (1 - p)
        g0, h00 = residual.sum(axis=1), curvature.sum(axis=1)
        if slope:
            g1, h01, h11 = residual @ z, curvature @ z, curvature @ z**2
            determinant = h00 * h11 - h01**2
            step = np.stack([h11 * g0 - h01 * g1, h00 * g1 - h01 * g0], 1) / determinant[:, None]
        else:
            step = np.stack([g0 / h00, np.zeros(len(g0))], 1)
        found += np.clip(step, -2, 2)
        if np.nanmax(np.abs(step), initial=0) < 1e-9:
            break
    # Where those who returned and the others are apart, or only one of both is there, no end is.
    found[~(np.abs(step) < 1e-6).all(axis=1)] = np.nan
    return np.stack([found[:, 0] - found[:, 1] * centre / spread, found[:, 1] / spread], axis=1)


def top(ranked: Ranked, weight: Floats, share: float) -> tuple[Floats, Floats]:
    """PPV and recall where the riskiest share of stays is alerted, a group of equals in part."""
    returned, others = ranked.groups(weight)
    both = np.cumsum(returned + others, axis=1)
    wanted = share * both[:, -1]
    place = np.minimum((both < wanted[:, None]).sum(axis=1), both.shape[1] - 1)
    at = (np.arange(len(both)), place)
    group = returned[at] + others[at]
    part = np.where(group > 0, 1 - (both[at] - wanted) / np.where(group > 0, group, 1), 0)
    true = np.cumsum(returned, axis=1)[at] - returned[at] * (1 - part)
    return true / wanted, true / returned.sum(axis=1)


def _of_top(ranked: Ranked, weight: Floats, share: int, which: int) -> Floats:
    return top(ranked, weight, share / 100)[which]


Metric = Callable[[Ranked, Floats], Floats]

METRICS: dict[str, Metric] = {
    "auroc": auroc,
    "auprc": auprc,
    "auprc_balanced": lambda ranked, weight: auprc(ranked, weight, balanced=True),
    "accuracy": accuracy,
    "brier": brier,
    "calibration_slope": calibration_slope,
    "calibration_intercept": calibration_intercept,
    "recall_at_80_precision": recall_at_precision,
    "recall_at_80_precision_balanced": lambda ranked, weight: recall_at_precision(
        ranked, weight, balanced=True
    ),
}


def log_odds(p: Floats) -> Floats:
    """ln(p / (1 - p)), of probabilities kept away from 0 and 1."""
    p = np.clip(p, 1e-9, 1 - 1e-9)
    return np.asarray(np.log(p / (1 - p)))


def probability(z: npt.NDArray[np.floating]) -> Floats:
    """1 / (1 + exp(-z)), of log odds however far from 0."""
    from scipy.special import expit

    return np.asarray(expit(z))


def platt(z: Floats, y: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and intercept that calibrate log odds on these outcomes (Platt 1999, no targets moved).

    Never less than a hundredth: a slope of nothing would make all probabilities one.
    """
    everybody = np.ones((1, len(y)))
    centre, spread = float(z.mean()), float(z.std())
    if spread <= 1e-9 * max(1.0, abs(centre)):  # what rounding leaves of log odds that are one
        spread = 1.0
    within = probability(np.clip((z - centre) / spread, -20, 20))
    intercept, slope = _recalibrated(Ranked(y, within), everybody, slope=True)[0]
    if 0.01 * spread <= slope < 100:
        return float(slope / spread), float(intercept - slope * centre / spread)
    # Where both outcomes are apart there is no slope.
    slope = 1.0 if z[y].mean() > z[~y].mean() else 0.01
    ranked = Ranked(y, probability(np.clip(slope * z, -20, 20)))
    return slope, float(calibration_intercept(ranked, everybody)[0])
