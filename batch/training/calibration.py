"""Log odds and probabilities, and the logistic recalibration of one by the other."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def log_odds(p: Floats) -> Floats:
    """Return ln(p / (1 - p)), of probabilities clipped away from 0 and 1."""
    p = np.clip(p, 1e-9, 1 - 1e-9)
    return np.asarray(np.log(p / (1 - p)))


def probability(z: npt.NDArray[np.floating]) -> Floats:
    """Return 1 / (1 + exp(-z)) without overflow."""
    from scipy.special import expit

    return np.asarray(expit(z))


def platt(z: Floats, y: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Return the slope and intercept that calibrate log odds to outcomes (Platt 1999).

    Outcomes are used as they are, without Platt's smoothed targets. The slope is at least 0.01: a
    slope of 0 would make all probabilities equal, a negative one would reverse the ranking.
    """
    weight = np.ones((1, len(y)))
    centre, spread = float(z.mean()), float(z.std())
    if spread <= 1e-9 * max(1.0, abs(centre)):  # equal up to rounding
        spread = 1.0
    standardized = np.clip((z - centre) / spread, -20, 20)
    intercept, slope = recalibrate(standardized, y, weight, slope=True)[0]
    if 0.01 * spread <= slope < 100:
        return float(slope / spread), float(intercept - slope * centre / spread)
    # Where log odds separate the outcomes the slope has no maximum-likelihood estimate.
    slope = 1.0 if z[y].mean() > z[~y].mean() else 0.01
    return slope, float(recalibrate(np.clip(slope * z, -20, 20), y, weight, slope=False)[0, 0])


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
    for _ in range(30):
        p = probability(np.clip(theta[:, :1] + theta[:, 1:] * z, -30, 30))
        residual, curvature = weight * (y - p), weight * p * (1 - p)
        g0, h00 = residual.sum(axis=1), curvature.sum(axis=1)
        if slope:
            g1, h01, h11 = residual @ z, curvature @ z, curvature @ z**2
            determinant = h00 * h11 - h01**2
            step = np.stack([h11 * g0 - h01 * g1, h00 * g1 - h01 * g0], 1) / determinant[:, None]
        else:
            step = np.stack([g0 / h00, np.zeros(len(g0))], 1)
        theta += np.clip(step, -2, 2)
        if np.nanmax(np.abs(step), initial=0) < 1e-9:
            break
    # No convergence: the outcomes are separated, or only one of them occurs.
    theta[~(np.abs(step) < 1e-6).all(axis=1)] = np.nan
    return np.stack([theta[:, 0] - theta[:, 1] * centre / spread, theta[:, 1] / spread], axis=1)
