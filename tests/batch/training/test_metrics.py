"""Metrics equal scikit-learn's or are computed by hand; intervals cover the true value."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    precision_recall_curve,
    roc_auc_score,
)

from batch.training.bootstrap import PatientBootstrap
from batch.training.calibration import log_odds, probability
from batch.training.metrics import (
    METRICS,
    Ranked,
    auroc,
    brier,
    calibration_slope,
    top_fraction,
)
from featurestore.store.scorer_metrics import format_interval, format_range

ALL = np.ones((1, 8))


@pytest.fixture(scope="module")
def predictions():
    """Return 600 outcomes, and overconfident probabilities with many ties."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal(600)
    y = rng.random(600) < 1 / (1 + np.exp(-(z - 1)))
    return y, np.round(1 / (1 + np.exp(-(2 * z - 1))), 2).clip(0.01, 0.99)


def estimate(name, y, p):
    return PatientBootstrap(y, np.arange(len(y)), bootstraps=1).metrics(p)[name][0]


def test_metrics_equal_those_of_scikit_learn(predictions):
    y, p = predictions
    balance = np.where(y, (~y).sum() / y.sum(), 1.0)
    precision, recall, _ = precision_recall_curve(y, p)
    balanced, balanced_recall, _ = precision_recall_curve(y, p, sample_weight=balance)
    expected = {
        "auroc": roc_auc_score(y, p),
        "auprc": average_precision_score(y, p),
        "auprc_balanced": average_precision_score(y, p, sample_weight=balance),
        "accuracy": accuracy_score(y, p > 0.5),
        "brier": brier_score_loss(y, p),
        "recall_at_80_precision": recall[:-1][precision[:-1] >= 0.8].max(),
        "recall_at_80_precision_balanced": balanced_recall[:-1][balanced[:-1] >= 0.8].max(),
    }
    for name, value in expected.items():
        assert estimate(name, y, p) == pytest.approx(value, abs=1e-9), name
    assert set(METRICS) - set(expected) == {"calibration_slope", "calibration_intercept"}


def test_calibration_slope_and_intercept(predictions):
    y, p = predictions
    z = log_odds(p)
    model = LogisticRegression(C=np.inf, tol=1e-10).fit(z[:, None], y)
    assert estimate("calibration_slope", y, p) == pytest.approx(model.coef_[0, 0], abs=1e-4)
    # Shifted by the intercept, probabilities sum to the number of returns.
    shifted = 1 / (1 + np.exp(-(z + estimate("calibration_intercept", y, p))))
    assert shifted.sum() == pytest.approx(y.sum(), abs=1e-6)


def test_ppv_and_recall_of_alerts_computed_by_hand():
    y = np.array([1, 0, 1, 0, 0, 1, 0, 0], dtype=bool)
    p = np.array([0.9, 0.8, 0.7, 0.7, 0.4, 0.3, 0.2, 0.1])
    # Two of eight are alerted, one of whom returned, of three returns in all.
    ppv, recall = top_fraction(Ranked(y, p), ALL, 2 / 8)
    assert (ppv[0], recall[0]) == pytest.approx((1 / 2, 1 / 3))
    # The third alert is one of two ties, one of whom returned: each counts half.
    ppv, recall = top_fraction(Ranked(y, p), ALL, 3 / 8)
    assert (ppv[0], recall[0]) == pytest.approx((1.5 / 3, 1.5 / 3))


def test_equal_probabilities_have_an_auroc_of_one_half_and_no_calibration_slope():
    y = np.arange(40) < 10
    metrics = PatientBootstrap(y, np.arange(40)).metrics(np.full(40, 0.25))
    assert metrics["auroc"] == [0.5, 0.5, 0.5]
    assert metrics["auprc"][0] == 0.25
    assert metrics["calibration_slope"] is None
    assert metrics["calibration_intercept"][0] == pytest.approx(0)


@pytest.mark.parametrize(("returned", "others"), [(0, 500), (500, 0), (9, 500), (500, 9), (0, 0)])
def test_nothing_is_estimated_with_fewer_than_ten_stays_of_an_outcome(returned, others):
    y = np.arange(returned + others) < returned
    bootstrap = PatientBootstrap(y, np.arange(len(y)))
    p = np.where(y, 0.9, 0.1)  # perfect, by chance
    assert set(bootstrap.metrics(p).values()) == {None}
    assert bootstrap.difference(auroc, p, 1 - p) is None
    assert all(
        alert["ppv"] is None and alert["recall"] is None
        for alert in bootstrap.alerts(p, np.full(len(y), ""))
    )


@pytest.mark.slow
def test_95_percent_intervals_cover_the_true_value_in_95_percent_of_hospitals():
    def hospital(rng, patients):
        subject_id = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
        stays = len(subject_id)
        risk = rng.standard_normal(patients)[subject_id] + 0.5 * rng.standard_normal(stays) - 1.2
        y = rng.random(stays) < 1 / (1 + np.exp(-risk))
        error = 0.7 * rng.standard_normal(patients)[subject_id]
        return y, subject_id, 1 / (1 + np.exp(-(risk + error)))

    metrics = {
        "auroc": auroc,
        "brier": brier,
        "calibration slope": calibration_slope,
        "PPV of the riskiest tenth": lambda r, w: top_fraction(r, w, 0.1)[0],
    }
    y, _, p = hospital(np.random.default_rng(0), 400_000)
    weight = np.ones((1, len(y)))
    true = {name: metric(Ranked(y, p), weight)[0] for name, metric in metrics.items()}
    rng, hospitals = np.random.default_rng(1), 400
    covered = dict.fromkeys(metrics, 0)
    for number in range(hospitals):
        y, subject_id, p = hospital(rng, 300)
        bootstrap = PatientBootstrap(y, subject_id, bootstraps=200, seed=number)
        for name, metric in metrics.items():
            _, low, high = bootstrap.estimate(metric, p)
            covered[name] += low <= true[name] <= high
    assert all(0.93 <= count / hospitals <= 0.97 for count in covered.values()), covered


def test_a_ppv_needs_ten_alerts_and_ten_labelled_stays_of_each_outcome():
    y = np.arange(200) < 40
    p = np.linspace(0.9, 0.1, 200)
    bootstrap, no_reason = PatientBootstrap(y, np.arange(200)), np.full(200, "")
    alerts = {alert["per_100"]: alert for alert in bootstrap.alerts(p, no_reason)}
    assert (alerts[1]["ppv"], alerts[1]["positive"]) == (None, 2)
    assert alerts[5]["ppv"] == [1.0, 1.0, 1.0]
    nine_others = np.where(np.arange(200) < 49, "", "died in hospital")
    assert {alert["ppv"] is None for alert in bootstrap.alerts(p, nine_others)} == {True}


def test_the_bootstrap_draws_patients_not_stays():
    # Ten identical stays of a patient carry the information of one.
    rng = np.random.default_rng(0)
    y, p = rng.random(60) < 0.4, rng.random(60)
    once = PatientBootstrap(y, np.arange(60)).estimate(auroc, p)
    copied = PatientBootstrap(np.repeat(y, 10), np.repeat(np.arange(60), 10)).estimate(
        auroc, np.repeat(p, 10)
    )
    by_stay = PatientBootstrap(np.repeat(y, 10), np.arange(600)).estimate(auroc, np.repeat(p, 10))
    assert copied == pytest.approx(once)
    assert by_stay[2] - by_stay[1] < 0.5 * (once[2] - once[1])


def test_a_difference_is_paired(predictions):
    y, p = predictions
    bootstrap = PatientBootstrap(y, np.arange(600))
    assert bootstrap.difference(auroc, p, p) == [0.0, 0.0, 0.0]
    worse = np.random.default_rng(0).permutation(p)
    gain = bootstrap.difference(auroc, p, worse)
    assert gain[0] == pytest.approx(roc_auc_score(y, p) - roc_auc_score(y, worse))
    assert 0 < gain[1] < gain[0] < gain[2]


def test_probabilities_of_extreme_log_odds_do_not_overflow():
    assert probability(np.array([-1_000.0, 0.0, 1_000.0])).tolist() == [0.0, 0.5, 1.0]
    p = np.array([0.1, 0.5, 0.9])
    assert probability(log_odds(p)) == pytest.approx(p)


def test_intervals_are_formatted_with_their_digits():
    slope = [0.8551, -0.6771, 2.0721]
    assert format_interval(slope) == "0.855 (-0.677 to 2.072)"
    assert format_interval(slope, digits=1, to="-") == "0.9 (-0.7-2.1)"
    assert format_range(slope, 2) == "-0.68 to 2.07"
    assert format_interval(None) == "-"
