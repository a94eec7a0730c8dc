"""Log odds and probabilities, and the logistic recalibration of one by the other."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# With a lower likelihood ratio, the cross-validated log loss of a slope is worse than that of none
# (Akaike's criterion).
MIN_CHI_SQUARED = 2.0


def log_odds(p: Floats) -> Floats:
    """Return ln(p / (1 - p)), of probabilities clipped away from 0 and 1."""
    p = np.clip(p, 1e-9, 1 - 1e-9)
    return np.asarray(np.log(p / (1 - p)))


def probability(z: npt.NDArray[np.floating]) -> Floats:
    """Return 1 / (1 + exp(-z)) without overflow."""
    from scipy.special import expit

    return np.asarray(expit(z))


def log_loss(z: Floats, y: npt.NDArray[np.bool_] | Floats) -> Floats:
    """Return -y ln(p) - (1 - y) ln(1 - p) for the log odds of p (stays,), without overflow."""
    return np.asarray(np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))) - y * z)


@dataclass
class Calibration:
    """The map of log odds to calibrated probabilities: slope, intercept and limits."""

    slope: float
    intercept: float
    chi_squared: float  # likelihood ratio of the slope; 0 where it is negative or undefined
    separated: bool  # the log odds of all positives exceed those of all negatives
    min_probability: float
    max_probability: float

    @property
    def has_signal(self) -> bool:
        """Whether log odds tell outcomes apart by more than chance."""
        return self.slope > 0

    def probability(self, z: Floats) -> Floats:
        """Return the calibrated probabilities of log odds (stays,)."""
        p = probability(self.slope * z + self.intercept)
        return np.clip(p, self.min_probability, self.max_probability)


def calibrate(
    z: Floats, y: npt.NDArray[np.bool_], subject_id: npt.NDArray[np.int64]
) -> Calibration:
    """Return the calibration of log odds (stays,) that their outcomes (stays,) support.

    The slope is Platt's (`platt`), multiplied by 1 - 2 / chi-squared, where chi-squared is the
    likelihood ratio of the slope, divided by the design effect of several stays of a patient. So a
    slope is 0 if its cross-validated log loss is no better than that of the prevalence, and keeps
    its size if the evidence for it is strong. The intercept makes the mean probability equal to the
    prevalence. A slope of 0 means no signal: all probabilities are the prevalence.

    No probability is more extreme than (n + 1) / (n + 2) for n positives, or 1 / (n + 2) for n
    negatives (Laplace's rule of succession). Shrinkage by the likelihood ratio: van Houwelingen and
    le Cessie 1990, doi 10.1002/sim.4780091109, with 2 instead of 1. Cross-validation by Akaike's
    criterion: Stone 1977, doi 10.1111/j.2517-6161.1977.tb01603.x.
    """
    positive, negative = int(y.sum()), int((~y).sum())
    limits = 1 / (negative + 2), (positive + 1) / (positive + 2)
    prevalence = np.array(positive / max(len(y), 1))
    no_signal = Calibration(0.0, float(log_odds(prevalence)), 0.0, False, 0.0, 1.0)
    z = _clip_outliers(z)
    slope, intercept = platt(z, y) if positive and negative else (0.0, 0.0)
    if not slope > 0:
        return no_signal
    targets = _platt_targets(y)
    null = float(log_odds(np.array(targets.mean())))
    gain = log_loss(np.full(len(z), null), targets) - log_loss(slope * z + intercept, targets)
    chi_squared = 2 * float(gain.sum()) / _design_effect(z, y, subject_id)
    if chi_squared <= MIN_CHI_SQUARED:
        no_signal.chi_squared = chi_squared
        return no_signal
    slope *= 1 - MIN_CHI_SQUARED / chi_squared
    centre = float(z.mean())
    shift = recalibrate(slope * (z - centre), y, np.ones((1, len(y))), slope=False)[0, 0]
    separated = bool(z[y].min() > z[~y].max())
    return Calibration(slope, float(shift - slope * centre), chi_squared, separated, *limits)


def platt(z: Floats, y: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Return slope and intercept of the logistic regression of outcomes on log odds (Platt 1999).

    Platt's targets, (n + 1) / (n + 2) for n positives and 1 / (n + 2) for n negatives, keep the
    slope finite where log odds separate the outcomes. The slope of equal log odds is 0.
    """
    centre, spread = float(z.mean()), float(z.std())
    targets, weight = _platt_targets(y), np.ones((1, len(y)))
    if spread <= 1e-9 * max(1.0, abs(centre)):  # equal up to rounding
        return 0.0, float(log_odds(np.array(targets.mean())))
    intercept, slope = recalibrate((z - centre) / spread, targets, weight, slope=True)[0]
    return float(slope / spread), float(intercept - slope * centre / spread)


def _clip_outliers(z: Floats) -> Floats:
    """Clip log odds at 30 interquartile ranges from the median.

    One stay farther away would hide the differences of all others.
    """
    quarter, median, three_quarters = np.quantile(z, [0.25, 0.5, 0.75]) if len(z) else (0, 0, 0)
    width = 30 * (three_quarters - quarter)
    return np.clip(z, median - width, median + width) if width > 0 else z


def _platt_targets(y: npt.NDArray[np.bool_]) -> Floats:
    return np.asarray(np.where(y, (y.sum() + 1) / (y.sum() + 2), 1 / ((~y).sum() + 2)))


def _design_effect(z: Floats, y: npt.NDArray[np.bool_], subject_id: npt.NDArray[np.int64]) -> float:
    """Return by how much several stays of a patient inflate the variance of a slope; at least 1.

    The variance of the score statistic, summed by patient, over that of independent stays.
    """
    score = (y - y.mean()) * (z - z.mean())
    by_patient = np.bincount(np.unique(subject_id, return_inverse=True)[1], score)
    return max(1.0, float(by_patient @ by_patient / (score @ score)))


def recalibrate(
    z: Floats, y: npt.NDArray[np.bool_] | Floats, weight: Floats, slope: bool
) -> Floats:
    """Fit the logistic regression of outcomes on log odds: (samples, 2), intercept and slope.

    z and y are (stays,), weight is (samples, stays). Without `slope` the slope is 1. Newton's
    method; NaN where the estimate does not exist.
    """
    if slope and np.ptp(z) < 0.02:  # practically equal: their slope is undefined
        return np.full((len(weight), 2), np.nan)
    # Newton's method converges best for standardized log odds; without a slope they keep theirs.
    centre, spread = (float(z.mean()), float(z.std())) if slope else (0.0, 1.0)
    z = (z - centre) / spread
    theta = np.tile([0.0, 1.0], (len(weight), 1))
    if slope:
        theta[:] = log_odds(np.atleast_1d(y.mean()))[0], 0
    for _ in range(60):
        p = probability(np.clip(theta[:, :1] + theta[:, 1:] * z, -30, 30))
        residual, curvature = weight * (y - p), weight * p * (1 - p)
        g0, h00 = residual.sum(axis=1), curvature.sum(axis=1)
        if slope:
            g1, h01, h11 = residual @ z, curvature @ z, curvature @ z**2
            determinant = h00 * h11 - h01**2
            step = np.stack([h11 * g0 - h01 * g1, h00 * g1 - h01 * g0], 1) / determinant[:, None]
        else:
            step = np.stack([g0 / h00, np.zeros(len(g0))], 1)
        theta += np.clip(step, -1, 1)
        if np.nanmax(np.abs(step), initial=0) < 1e-9:
            break
    # No convergence: the outcomes are separated, or only one of them occurs.
    theta[~(np.abs(step) < 1e-6).all(axis=1)] = np.nan
    return np.stack([theta[:, 0] - theta[:, 1] * centre / spread, theta[:, 1] / spread], axis=1)
