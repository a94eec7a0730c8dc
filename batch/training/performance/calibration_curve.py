"""A smooth calibration curve, and how far from the diagonal it lies."""

from typing import TypedDict

import numpy as np
import numpy.typing as npt

from batch.training.calibration import Floats, log_odds

SIMULATIONS = 200
# Quantiles of the log odds at which the curve may bend (Harrell 2015, table 2.3).
_FEW_KNOTS = (0.1, 0.5, 0.9)
_KNOTS = (0.05, 0.275, 0.5, 0.725, 0.95)
_MANY_OUTCOMES = 100  # positives, and as many negatives, that support the knots
_ALMOST_UNPENALISED = 1e6  # keeps the curve finite where log odds separate the outcomes


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
    z = log_odds(p)
    if np.ptp(z) < 0.02 or len(np.unique(y)) < 2:
        return np.full(len(at), y.mean())
    enough = min(y.sum(), (~y).sum()) >= _MANY_OUTCOMES
    knots = np.unique(np.quantile(z, _KNOTS if enough else _FEW_KNOTS))
    return _fitted(_spline(z, knots), y, _spline(log_odds(at), knots))


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
    return np.array([calibration_curve(rng.random(len(p)) < p, p, at) for _ in range(SIMULATIONS)])


def ici_if_calibrated(p: Floats) -> float:
    """Return the ICI that 95% of samples of these risks (stays,) stay below if they are right."""
    return float(np.quantile(np.abs(curves_if_calibrated(p, p) - p).mean(axis=1), 0.95))


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
    from sklearn.linear_model import LogisticRegression

    centre, spread = basis.mean(axis=0), np.maximum(basis.std(axis=0), 1e-12)
    model = LogisticRegression(C=_ALMOST_UNPENALISED, solver="newton-cholesky", tol=1e-8)
    model.fit((basis - centre) / spread, y)
    return np.asarray(model.predict_proba((at - centre) / spread)[:, 1])
