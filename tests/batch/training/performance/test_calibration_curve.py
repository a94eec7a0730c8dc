"""The smooth calibration curve and its distance from the diagonal."""

import numpy as np
import pytest
from scipy.interpolate import CubicSpline
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from batch.training.performance.calibration_curve import (
    calibration_curve,
    calibration_errors,
    curves_if_calibrated,
    ici_if_calibrated,
)


def natural_spline(z, knots):
    """Return a basis of the natural cubic splines at the knots, made of interpolating splines."""
    low, high = knots[0], knots[-1]
    columns = []
    for column in np.eye(len(knots)):
        spline = CubicSpline(knots, column, bc_type="natural")
        inside = spline(np.clip(z, low, high))
        below = np.minimum(z - low, 0) * spline(low, 1)
        above = np.maximum(z - high, 0) * spline(high, 1)
        columns.append(inside + below + above)
    return np.column_stack(columns)


@pytest.mark.parametrize(
    ("stays", "quantiles"),
    [
        pytest.param(200, [0.1, 0.5, 0.9], id="three knots for few outcomes"),
        pytest.param(3_000, [0.05, 0.275, 0.5, 0.725, 0.95], id="five knots for many"),
    ],
)
def test_the_curve_is_that_of_interpolating_natural_splines(stays, quantiles):
    rng = np.random.default_rng(0)
    z = rng.normal(-1.5, 1, stays)
    y = rng.random(stays) < expit(0.6 * z + 0.3 * np.sin(2 * z))
    at = expit(np.linspace(-6, 3, 40))
    knots = np.quantile(z, quantiles)
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000, fit_intercept=False)
    model.fit(natural_spline(z, knots), y)
    expected = model.predict_proba(natural_spline(logit(at), knots))[:, 1]
    assert calibration_curve(y, expit(z), at) == pytest.approx(expected, abs=2e-4)


def test_ici_is_the_mean_distance_from_the_true_risk():
    """Log odds that are twice too large: the distances are those of the two known risks."""
    rng = np.random.default_rng(1)
    true_log_odds = rng.normal(-1.5, 0.8, 60_000)
    y = rng.random(60_000) < expit(true_log_odds)
    predicted = expit(2 * true_log_odds)
    distance = np.abs(predicted - expit(true_log_odds))
    errors = calibration_errors(y, predicted)
    assert errors["ici"] == pytest.approx(distance.mean(), abs=0.006)
    assert errors["e50"] == pytest.approx(np.median(distance), abs=0.01)
    assert errors["e90"] == pytest.approx(np.quantile(distance, 0.9), abs=0.01)


def test_of_equal_risks_every_distance_is_that_of_the_prevalence():
    y = np.arange(100) < 30
    assert calibration_errors(y, np.full(100, 0.2)) == pytest.approx(
        {"ici": 0.1, "e50": 0.1, "e90": 0.1}
    )


def test_outcomes_that_are_separated_have_a_finite_curve():
    p = np.linspace(0.05, 0.95, 100)
    curve = calibration_curve(p > 0.5, p, p)
    assert np.isfinite(curve).all()
    assert curve[0] < 0.01 and curve[-1] > 0.99


def test_simulated_outcomes_of_which_few_are_positive_need_no_warning():
    """Log odds separate the outcomes of some of the 200 samples; scikit-learn warned of ten."""
    p = expit(np.random.default_rng(9).normal(-6, 4, 60))
    curves = curves_if_calibrated(p, p)
    assert (curves >= 0).all() and (curves <= 1).all()
    # A regression with an intercept predicts as many positives as there are.
    positives = np.random.default_rng(0).random((200, 60)) < p
    assert curves.mean(axis=1) == pytest.approx(positives.mean(axis=1), abs=1e-7)


def test_the_ici_of_calibrated_risks_is_as_large_as_expected():
    rng = np.random.default_rng(2)
    p = expit(rng.normal(-1, 0.8, 150))
    limit = ici_if_calibrated(p)
    above = np.mean([calibration_errors(rng.random(150) < p, p)["ici"] > limit for _ in range(400)])
    assert 0.02 < above < 0.09  # 5% are expected


def test_the_band_holds_the_diagonal_and_is_the_same_each_time():
    p = expit(np.random.default_rng(3).normal(-1, 0.8, 150))
    at = np.quantile(p, [0.1, 0.5, 0.9])
    curves = curves_if_calibrated(p, at)
    low, high = np.quantile(curves, [0.025, 0.975], axis=0)
    assert (low < at).all() and (at < high).all()
    assert (curves == curves_if_calibrated(p, at)).all()
