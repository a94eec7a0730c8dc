"""Estimates with intervals: O:E, scaled Brier score, AUROC."""

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import t
from sklearn.metrics import brier_score_loss, roc_auc_score

from batch.training.intervals import clustered_freedom
from batch.training.metrics import METRICS, influence
from batch.training.performance.estimates import (
    calibration_estimates,
    clustered_auroc,
    oe_ratio,
    scaled_brier,
)


@pytest.fixture(scope="module")
def stays():
    rng = np.random.default_rng(0)
    p = np.round(expit(rng.normal(-1, 1, 300)), 2)  # with ties
    return rng.random(300) < p, p, np.arange(300)


def test_observed_over_expected_computed_by_hand():
    y = np.arange(100) < 30
    p = np.where(y, 0.3, 0.2)  # 9 + 14 are expected
    interval = oe_ratio(y, p, np.arange(100))
    assert interval[0] == pytest.approx(30 / 23)
    assert interval[1] < 1.3 < interval[2]


def test_the_scaled_brier_score_is_that_of_scikit_learn_over_the_prevalence(stays):
    y, p, patient = stays
    reference = brier_score_loss(y, np.full(300, y.mean()))
    expected = 1 - brier_score_loss(y, p) / reference
    assert scaled_brier(y, p, patient)[0] == pytest.approx(expected)


def test_the_auroc_has_the_standard_error_of_delong_where_patients_have_one_stay(stays):
    y, p, patient = stays
    wins = (p[y][:, None] > p[~y]) + (p[y][:, None] == p[~y]) / 2
    variance = wins.mean(axis=1).var(ddof=1) / y.sum() + wins.mean(axis=0).var(ddof=1) / (~y).sum()
    auroc = roc_auc_score(y, p)
    freedom = clustered_freedom(influence(METRICS["auroc"], y, p), y, patient)
    assert 100 < freedom < 299
    margin = t.ppf(0.975, freedom) * np.sqrt(variance) / (auroc * (1 - auroc))
    expected = [auroc, *expit(logit(auroc) + np.array([-margin, margin]))]
    assert clustered_auroc(y, p, patient) == pytest.approx(expected, abs=1e-4)


def test_outcomes_that_are_separated_have_an_interval_below_1():
    n = np.arange(60)
    estimate, low, high = clustered_auroc(n < 12, np.where(n < 12, 0.8, 0.2), n)
    assert (estimate, high) == (1, 1)
    assert 0.6 < low < 0.9


def test_copies_of_a_stay_make_no_interval_narrower(stays):
    y, p, patient = stays
    for estimate in (clustered_auroc, oe_ratio, scaled_brier):
        copied = estimate(np.tile(y, 4), np.tile(p, 4), np.tile(patient, 4))
        assert copied == pytest.approx(estimate(y, p, patient), abs=1e-9)


def test_nine_positives_have_no_estimate_and_ici_has_no_interval(stays):
    y, p, patient = stays
    assert set(calibration_estimates(np.arange(300) < 9, p, patient).values()) == {None}
    estimates = calibration_estimates(y, p, patient)
    assert {name: len(value) for name, value in estimates.items()} == {
        "oe_ratio": 3,
        "scaled_brier": 3,
        "ici": 1,
        "e50": 1,
        "e90": 1,
    }


def test_a_ratio_is_not_shown_because_it_is_high_by_chance():
    """Of 100 stays 6 are expected; ten returned."""
    y = np.arange(100) < 10
    assert oe_ratio(y, np.full(100, 0.06), np.arange(100)) is None
    assert oe_ratio(y, np.full(100, 0.11), np.arange(100))[0] == pytest.approx(10 / 11)
