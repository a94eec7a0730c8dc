"""Metrics of predicted probabilities, each for many weightings of the stays at once.

A metric takes `Ranked` outcomes and the weight of each stay in each sample, (samples, stays), and
returns its value in each sample, (samples,); NaN where it is undefined.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from batch.training.calibration import Floats, log_odds, recalibrate

PRECISION = 0.8  # of the recall at a given precision


class Ranked:
    """Outcomes by descending probability; stays of equal probability form one group."""

    def __init__(self, y: npt.NDArray[np.bool_], p: Floats) -> None:
        order = np.argsort(-p, kind="stable")
        self.order, self.y, self.p = order, y[order].astype(np.float64), p[order]
        self.starts = np.flatnonzero(np.r_[True, np.diff(self.p) != 0]) if len(p) else order

    def groups(self, weight: Floats) -> tuple[Floats, Floats]:
        """Return the weight of positives and of negatives in each group: (samples, groups) each."""
        weight = weight[:, self.order]
        positives, negatives = weight * self.y, weight * (1 - self.y)
        if len(self.starts) < len(self.y):
            positives = np.add.reduceat(positives, self.starts, axis=1)
            negatives = np.add.reduceat(negatives, self.starts, axis=1)
        return positives, negatives


def auroc(ranked: Ranked, weight: Floats) -> Floats:
    """Return the probability that a positive ranks above a negative; ties count half."""
    positives, negatives = ranked.groups(weight)
    below = negatives.sum(axis=1, keepdims=True) - np.cumsum(negatives, axis=1)
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    return np.asarray((positives * (below + negatives / 2)).sum(axis=1) / pairs)


def auprc(ranked: Ranked, weight: Floats, balanced: bool = False) -> Floats:
    """Return the average precision; `balanced` reweights to a prevalence of one half."""
    precision, recall = _precision_recall(*ranked.groups(weight), balanced)
    gained = np.diff(recall, axis=1, prepend=0)
    return np.asarray((np.nan_to_num(precision) * gained).sum(axis=1))


def recall_at_precision(ranked: Ranked, weight: Floats, balanced: bool = False) -> Floats:
    """Return the largest recall at a precision of at least 80%; 0 where none reaches it."""
    precision, recall = _precision_recall(*ranked.groups(weight), balanced)
    best = np.where(precision >= PRECISION, recall, 0).max(axis=1)
    return np.where(np.isnan(recall[:, -1]), np.nan, best)


def _precision_recall(
    positives: Floats, negatives: Floats, balanced: bool
) -> tuple[Floats, Floats]:
    """Return precision and recall with the threshold at each group: (samples, groups) each."""
    true, false = np.cumsum(positives, axis=1), np.cumsum(negatives, axis=1)
    if balanced:
        false = false * (true[:, -1:] / false[:, -1:])
    return true / (true + false), true / true[:, -1:]


def accuracy(ranked: Ranked, weight: Floats) -> Floats:
    """Return the fraction of stays that a threshold of 0.5 classifies correctly."""
    correct = ((ranked.p > 0.5) == ranked.y).astype(np.float64)
    weight = weight[:, ranked.order]
    return np.asarray(weight @ correct / weight.sum(axis=1))


def brier(ranked: Ranked, weight: Floats) -> Floats:
    """Return the mean squared difference of probability and outcome (Brier 1950)."""
    weight = weight[:, ranked.order]
    return np.asarray(weight @ (ranked.p - ranked.y) ** 2 / weight.sum(axis=1))


def calibration_slope(ranked: Ranked, weight: Floats) -> Floats:
    """Return the slope of a logistic regression of outcomes on log odds; 1 is calibrated."""
    return recalibrate(log_odds(ranked.p), ranked.y, weight[:, ranked.order], slope=True)[:, 1]


def calibration_intercept(ranked: Ranked, weight: Floats) -> Floats:
    """Return calibration in the large: by how much log odds are too low; 0 is calibrated."""
    return recalibrate(log_odds(ranked.p), ranked.y, weight[:, ranked.order], slope=False)[:, 0]


def top_fraction(ranked: Ranked, weight: Floats, fraction: float) -> tuple[Floats, Floats]:
    """Return PPV and recall where a fraction of the stays is alerted, by descending probability.

    A group of equal probabilities at the threshold counts in part.
    """
    positives, negatives = ranked.groups(weight)
    cumulative = np.cumsum(positives + negatives, axis=1)
    alerted = fraction * cumulative[:, -1]
    column = np.minimum((cumulative < alerted[:, None]).sum(axis=1), cumulative.shape[1] - 1)
    last = (np.arange(len(cumulative)), column)  # the group that holds the threshold
    size = positives[last] + negatives[last]
    part = np.where(size > 0, 1 - (cumulative[last] - alerted) / np.where(size > 0, size, 1), 0)
    true = np.cumsum(positives, axis=1)[last] - positives[last] * (1 - part)
    return true / alerted, true / positives.sum(axis=1)


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
