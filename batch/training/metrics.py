"""Metrics of predicted probabilities, each for many samples of the stays at once.

A metric takes `Resampled` outcomes, and returns its value in each sample, (samples,); NaN where it
is undefined.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

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


@dataclass(frozen=True)
class Mean:
    """A metric that is the mean of a value of each stay."""

    values: Callable[[Floats, Floats], Floats]  # of outcomes (0, 1) and probabilities (stays,)

    def __call__(self, sample: Resampled) -> Floats:
        """Return the mean in each sample."""
        return sample.mean(self.values(sample.ranked.y, sample.ranked.p))


def net_benefit(threshold: float) -> Mean:
    """Return the metric of true less false alerts per stay, from a probability of `threshold` on.

    False alerts count with the odds of the threshold (Vickers & Elkin 2006, doi
    10.1177/0272989X06295361).
    """
    return Mean(partial(_benefit, threshold))


def _benefit(threshold: float, y: Floats, p: Floats) -> Floats:
    benefit = np.where(y > 0, 1.0, -threshold / (1 - threshold))
    return np.where(is_alerted(p, threshold), benefit, 0.0)


def is_alerted(p: Floats, threshold: float) -> npt.NDArray[np.bool_]:
    """Return which stays reach a threshold."""
    # Probabilities that are equal in SQL and in Python may differ in the last bit.
    return np.asarray(p >= threshold * (1 - 1e-12))


def _correct(y: Floats, p: Floats) -> Floats:
    return np.equal(p > 0.5, y > 0).astype(np.float64)


def _log_loss(y: Floats, p: Floats) -> Floats:
    p = np.clip(p, 1e-9, 1 - 1e-9)
    return -np.log(np.where(y > 0, p, 1 - p))


accuracy = Mean(_correct)  # the fraction of stays that a threshold of 0.5 classifies correctly
brier = Mean(lambda y, p: (p - y) ** 2)  # Brier 1950
log_loss = Mean(_log_loss)


def calibration_slope(sample: Resampled) -> Floats:
    """Return the slope of a logistic regression of outcomes on log odds; 1 is calibrated."""
    ranked = sample.ranked
    return recalibrate(log_odds(ranked.p), ranked.y, sample.weight, slope=True)[:, 1]


def calibration_intercept(sample: Resampled) -> Floats:
    """Return calibration in the large: by how much log odds are too low; 0 is calibrated."""
    ranked = sample.ranked
    return recalibrate(log_odds(ranked.p), ranked.y, sample.weight, slope=False)[:, 0]


Metric = Callable[[Resampled], Floats]


def influence(metric: Metric, y: npt.NDArray[np.bool_], p: Floats) -> Floats | None:
    """Return by how much each stay (stays,) moves a metric, the stays times; None if not known.

    The mean over the stays is 0. Of AUROC these are the placement values (DeLong 1988,
    doi 10.2307/2531595).
    """
    if isinstance(metric, Mean):
        values = metric.values(y.astype(np.float64), p)
        return np.asarray(values - values.mean())
    if metric is auroc:
        rank, placement = _rank(p), np.empty(len(y))
        placement[y] = (rank[y] - _rank(p[y])) / (~y).sum()  # the negatives below it
        placement[~y] = 1 - (rank[~y] - _rank(p[~y])) / y.sum()
        return np.asarray((placement - placement[y].mean()) / np.where(y, y.mean(), (~y).mean()))
    return _influence_on_auprc(y, p) if metric is auprc else None


def _rank(p: Floats) -> Floats:
    """Return the rank of each value from 1 on, the mean of theirs for equal values (n,)."""
    _, group, size = np.unique(p, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(size) - (size - 1) / 2)[group])


def _influence_on_auprc(y: npt.NDArray[np.bool_], p: Floats) -> Floats:
    """Return that on the average precision, the mean of the precision at each positive.

    A stay of higher rank than a positive raises its precision if it is positive, or lowers it.
    """
    order = np.argsort(-p, kind="stable")
    positive, key = y[order].astype(np.float64), -p[order]
    first, alerted = np.searchsorted(key, key), np.searchsorted(key, key, side="right")
    precision = np.cumsum(positive)[alerted - 1] / alerted
    estimate = positive @ precision / positive.sum()

    def below(values: Floats) -> Floats:
        """Return the sum of values over the stays of the same or a lower rank."""
        return np.cumsum(values[::-1])[::-1][first]

    weight = positive / alerted
    moved = positive * (precision - estimate + below(weight)) - below(weight * precision)
    result = np.empty(len(y))
    result[order] = moved / y.mean()
    return result


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
