"""Metrics of predicted probabilities, each for many samples of the stays at once.

A metric takes `Resampled` outcomes, and returns its value in each sample, (samples,); NaN where it
is undefined.
"""

from collections.abc import Callable
from functools import cached_property

import numpy as np
import numpy.typing as npt

from batch.training.calibration import Floats, log_odds, recalibrate

PRECISION = 0.8  # of the recall at a given precision


class Ranked:
    """Outcomes by descending probability; stays of equal probability form one group.

    Precision and recall are computed at the end of the groups that have a positive: everywhere else
    recall is the same, and precision is lower.
    """

    def __init__(self, y: npt.NDArray[np.bool_], p: Floats) -> None:
        order = np.argsort(-p, kind="stable")
        self.order, self.y, self.p = order, y[order].astype(np.float64), p[order]
        starts = np.flatnonzero(np.r_[True, np.diff(self.p) != 0])
        group = np.cumsum(np.r_[False, np.diff(self.p) != 0]) if len(p) else order
        self.positive = np.flatnonzero(self.y)  # (positives,)
        of_positive = group[self.positive]
        self.last_positive = np.flatnonzero(np.diff(of_positive, append=len(p)) != 0)  # (groups,)
        groups = of_positive[self.last_positive]
        self.start = starts[groups]  # (groups,) first stay
        self.end = np.r_[starts[1:], len(p)][groups]  # (groups,) after the last stay


class Resampled:
    """Ranked outcomes with the weight of each stay in each sample.

    The weight (samples, stays) is in the order of `ranked`. Columns of the counts are the groups
    that have a positive.
    """

    def __init__(self, ranked: Ranked, weight: Floats) -> None:
        self.ranked, self.weight = ranked, weight

    def mean(self, values: Floats) -> Floats:
        """Return the mean of values (stays,) in each sample."""
        return np.asarray(self.weight @ values / self._alerted[:, -1])

    @cached_property
    def _alerted(self) -> Floats:
        """The weight of the stays before each column: (samples, stays + 1)."""
        alerted = np.zeros((len(self.weight), self.weight.shape[1] + 1))
        np.cumsum(self.weight, axis=1, out=alerted[:, 1:])
        return alerted

    @cached_property
    def true(self) -> Floats:
        """The positives that are alerted with a threshold at each group: (samples, groups)."""
        true = np.cumsum(self.weight[:, self.ranked.positive], axis=1)
        return np.asarray(true[:, self.ranked.last_positive])

    @cached_property
    def gained(self) -> Floats:
        """The positives of each group: (samples, groups)."""
        return np.diff(self.true, axis=1, prepend=0)

    @cached_property
    def false(self) -> Floats:
        """The negatives that are alerted with a threshold at each group: (samples, groups)."""
        return np.asarray(self._alerted[:, self.ranked.end] - self.true)

    @cached_property
    def false_before(self) -> Floats:
        """The negatives of higher probability than each group: (samples, groups)."""
        return np.asarray(self._alerted[:, self.ranked.start] - self.true + self.gained)

    @cached_property
    def positives(self) -> Floats:
        """The positives of each sample: (samples,)."""
        return np.asarray(self.weight[:, self.ranked.positive].sum(axis=1))

    @cached_property
    def negatives(self) -> Floats:
        """The negatives of each sample: (samples,)."""
        return np.asarray(self._alerted[:, -1] - self.positives)

    def precision(self, balanced: bool = False) -> Floats:
        """Return the precision with a threshold at each group; `balanced` at a prevalence of 50%.

        0 where nothing is alerted: (samples, groups).
        """
        false = self.false
        if balanced:
            false = false * (self.positives / self.negatives)[:, None]
        return np.divide(self.true, self.true + false, where=self.true > 0, out=0 * self.true)


def auroc(sample: Resampled) -> Floats:
    """Return the probability that a positive ranks above a negative; ties count half."""
    below = sample.negatives[:, None] - (sample.false + sample.false_before) / 2
    return np.asarray((sample.gained * below).sum(axis=1) / (sample.positives * sample.negatives))


def auprc(sample: Resampled) -> Floats:
    """Return the average precision."""
    return np.asarray((sample.precision() * sample.gained).sum(axis=1) / sample.positives)


def auprc_balanced(sample: Resampled) -> Floats:
    """Return the average precision, reweighted to a prevalence of one half."""
    precision = sample.precision(balanced=True)
    return np.asarray((precision * sample.gained).sum(axis=1) / sample.positives)


def recall_at_precision_balanced(sample: Resampled) -> Floats:
    """Return the largest recall at a precision of at least 80%, at a prevalence of one half.

    ClinicalBERT's RP80 (arXiv 1904.05342); 0 where no threshold reaches it. Its threshold is chosen
    on the outcomes that it is evaluated on, so it is too high, and no interval of it covers.
    """
    reached = np.where(sample.precision(balanced=True) >= PRECISION, sample.true, 0)
    return np.asarray(reached.max(axis=1, initial=0) / sample.positives)


def accuracy(sample: Resampled) -> Floats:
    """Return the fraction of stays that a threshold of 0.5 classifies correctly."""
    ranked = sample.ranked
    return sample.mean(((ranked.p > 0.5) == ranked.y).astype(np.float64))


def brier(sample: Resampled) -> Floats:
    """Return the mean squared difference of probability and outcome (Brier 1950)."""
    return sample.mean((sample.ranked.p - sample.ranked.y) ** 2)


def log_loss(sample: Resampled) -> Floats:
    """Return the mean of -ln of the probability of the outcome, for p clipped at 1e-9."""
    p = np.clip(sample.ranked.p, 1e-9, 1 - 1e-9)
    return sample.mean(-np.log(np.where(sample.ranked.y > 0, p, 1 - p)))


def net_benefit(sample: Resampled, threshold: float) -> Floats:
    """Return true less false alerts per stay, the false ones times the odds of the threshold.

    A stay is alerted from a probability of `threshold` on (Vickers & Elkin 2006, doi
    10.1177/0272989X06295361).
    """
    benefit = np.where(sample.ranked.y > 0, 1.0, -threshold / (1 - threshold))
    return sample.mean(np.where(sample.ranked.p >= threshold, benefit, 0.0))


def calibration_slope(sample: Resampled) -> Floats:
    """Return the slope of a logistic regression of outcomes on log odds; 1 is calibrated."""
    ranked = sample.ranked
    return recalibrate(log_odds(ranked.p), ranked.y, sample.weight, slope=True)[:, 1]


def calibration_intercept(sample: Resampled) -> Floats:
    """Return calibration in the large: by how much log odds are too low; 0 is calibrated."""
    ranked = sample.ranked
    return recalibrate(log_odds(ranked.p), ranked.y, sample.weight, slope=False)[:, 0]


Metric = Callable[[Resampled], Floats]

METRICS: dict[str, Metric] = {
    "auroc": auroc,
    "auprc": auprc,
    "auprc_balanced": auprc_balanced,
    "accuracy": accuracy,
    "brier": brier,
    "log_loss": log_loss,
    "calibration_slope": calibration_slope,
    "calibration_intercept": calibration_intercept,
    "recall_at_80_precision_balanced": recall_at_precision_balanced,
}
