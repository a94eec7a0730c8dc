"""A smooth calibration curve, and how far from the diagonal it lies."""

from typing import TypedDict

import numpy as np
import numpy.typing as npt

from batch.training.calibration import Floats, log_loss, log_odds, probability
from featurestore.errors import FeatureStoreError

SIMULATIONS = 200
# Quantiles of the log odds at which the curve may bend (Harrell 2015, table 2.3).
_FEW_KNOTS = (0.1, 0.5, 0.9)
_KNOTS = (0.05, 0.275, 0.5, 0.725, 0.95)
_MANY_OUTCOMES = 100  # positives, and as many negatives, that support the knots
_ALMOST_UNPENALISED = 1e6  # keeps the curve finite where log odds separate the outcomes
_MAX_STEPS = 100
_VALUES_AT_ONCE = 2**20  # stays times simulations


class CalibrationErrors(TypedDict):
    """Absolute differences of predicted risk and calibration curve over the stays."""

    ici: float  # their mean: the integrated calibration index
    e50: float  # their median
    e90: float  # their 90% quantile


def calibration_curve(y: npt.NDArray[np.bool_], p: Floats, at: Floats) -> Floats:
    """Return the smoothed proportion of positives where the predicted risk is `at` (points,).

    y and p (stays,) are outcomes and predicted probabilities. A logistic regression of the outcomes
    on a restricted cubic spline of the log odds, linear beyond the outer knots (Austin, Harrell &
    van Klaveren 2020, doi 10.1002/sim.8570). It has three knots, and five from 100 stays of each
    outcome on. Where all risks are equal it is the prevalence.
    """
    curve: Floats = _curves(y[:, None], p, at)[0]
    return curve


def calibration_errors(y: npt.NDArray[np.bool_], p: Floats) -> CalibrationErrors:
    """Return ICI, E50 and E90 (Austin & Steyerberg 2019, doi 10.1002/sim.8281)."""
    distance = np.abs(calibration_curve(y, p, p) - p)
    e50, e90 = np.quantile(distance, [0.5, 0.9])
    return {"ici": float(distance.mean()), "e50": float(e50), "e90": float(e90)}


def curves_if_calibrated(p: Floats, at: Floats) -> Floats:
    """Return calibration curves of outcomes that are drawn from the risks: (simulations, points).

    They show how far from the diagonal the curve of so many stays lies by chance (consistency bars;
    Bröcker & Smith 2007, doi 10.1175/WAF993.1). The seed is fixed.
    """
    rng = np.random.default_rng(0)
    samples = min(SIMULATIONS, max(1, _VALUES_AT_ONCE // len(p)))
    blocks = [
        _curves((rng.random((min(samples, SIMULATIONS - first), len(p))) < p).T, p, at)
        for first in range(0, SIMULATIONS, samples)
    ]
    return np.concatenate(blocks)


def ici_if_calibrated(p: Floats) -> float:
    """Return the ICI that 95% of samples of these risks (stays,) stay below if they are right."""
    return float(np.quantile(np.abs(curves_if_calibrated(p, p) - p).mean(axis=1), 0.95))


def _curves(y: npt.NDArray[np.bool_], p: Floats, at: Floats) -> Floats:
    """Return the curves of several samples of outcomes y (stays, samples): (samples, points)."""
    z = log_odds(p)
    curves = np.repeat(y.mean(axis=0)[:, None], len(at), axis=1)
    rarer = np.minimum(y.sum(axis=0), (~y).sum(axis=0))
    many = rarer >= _MANY_OUTCOMES
    for quantiles, members in ((_FEW_KNOTS, (rarer > 0) & ~many), (_KNOTS, many)):
        if np.ptp(z) >= 0.02 and members.any():
            knots = np.unique(np.quantile(z, quantiles))
            bases = _spline(z, knots), _spline(log_odds(at), knots)
            curves[members] = _fitted(bases[0], y[:, members], bases[1])
    return curves


def _spline(z: Floats, knots: Floats) -> Floats:
    """Return the basis of a restricted cubic spline: (points, knots - 1); linear below 3 knots."""
    columns = [z]
    if len(knots) > 2:
        *inner, before, last = knots
        for knot in inner:
            columns.append(
                (
                    np.maximum(z - knot, 0) ** 3
                    - np.maximum(z - before, 0) ** 3 * (last - knot) / (last - before)
                    + np.maximum(z - last, 0) ** 3 * (before - knot) / (last - before)
                )
                / (last - knots[0]) ** 2
            )
    return np.column_stack(columns)


def _fitted(basis: Floats, y: npt.NDArray[np.bool_], at: Floats) -> Floats:
    """Return the proportions at points of regressions of samples of outcomes: (samples, points).

    Newton's method, all samples together; a step is halved while it leads upwards.
    """
    centre, spread = basis.mean(axis=0), np.maximum(basis.std(axis=0), 1e-12)
    X = np.insert((basis - centre) / spread, 0, 1, axis=1)  # (stays, columns)
    products = np.einsum("ni,nj->nij", X, X).reshape(len(X), -1)
    penalty = np.append(0, np.full(basis.shape[1], 1 / _ALMOST_UNPENALISED))

    def objective(coef: Floats) -> Floats:
        of_stays = log_loss(coef @ X.T, y.T).sum(axis=1)
        return np.asarray(of_stays + (penalty * coef**2).sum(axis=1) / 2)

    coef = np.zeros((y.shape[1], X.shape[1]))
    loss = objective(coef)
    for _ in range(_MAX_STEPS):
        p = probability(coef @ X.T)
        gradient = (p - y.T) @ X + penalty * coef
        hessian = ((p * (1 - p)) @ products).reshape(-1, *[X.shape[1]] * 2) + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        # Twice what the objective is expected to fall by.
        if ((gradient * step).sum(axis=1) < 1e-14 * len(X)).all():
            return probability(coef @ np.insert((at - centre) / spread, 0, 1, axis=1).T)
        while (too_long := (new := objective(coef - step)) > loss * (1 + 1e-12)).any():
            step[too_long] /= 2
        coef, loss = coef - step, new
    raise FeatureStoreError(f"a calibration curve has not converged in {_MAX_STEPS} steps")
