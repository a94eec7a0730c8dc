"""Alerts at thresholds of the predicted risk."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix

from batch.training.performance.thresholds import proportion, riskiest_tenth, threshold_metrics


@pytest.fixture(scope="module")
def stays():
    rng = np.random.default_rng(0)
    p = rng.uniform(0, 0.6, 400)
    y = rng.random(400) < p
    has_label = rng.random(400) < 0.9
    return y & has_label, p, has_label, rng.integers(0, 300, 400)


def test_the_metrics_are_those_of_the_confusion_matrix(stays):
    y, p, has_label, patient = stays
    (row,) = threshold_metrics(y, p, has_label, patient, [0.25], stays_per_day=40)
    alerted = p >= 0.25
    negatives = confusion_matrix(y[has_label], alerted[has_label])
    (true_negative, false_positive), (false_negative, true_positive) = negatives
    assert row["sensitivity"][0] == true_positive / (true_positive + false_negative)
    assert row["specificity"][0] == true_negative / (true_negative + false_positive)
    assert row["npv"][0] == true_negative / (true_negative + false_negative)
    # A ward alerts stays too that will have no label.
    assert row["without_label"] == (alerted & ~has_label).sum() > 0
    assert row["alerts"] == true_positive + false_positive + row["without_label"]
    assert row["ppv"][0] == true_positive / row["alerts"]
    assert row["alerts_per_day"] == pytest.approx(40 * row["alerts"] / 400)
    benefit = true_positive - false_positive * 0.25 / 0.75
    assert row["net_benefit"][0] == pytest.approx(benefit / has_label.sum())


def test_the_number_needed_to_evaluate_is_the_inverse_of_the_ppv(stays):
    y, p, has_label, patient = stays
    (row,) = threshold_metrics(y, p, has_label, patient, [0.25])
    assert row["number_needed_to_evaluate"] == pytest.approx([1 / row["ppv"][k] for k in (0, 2, 1)])
    assert row["alerts_per_day"] is None


def test_of_independent_stays_the_interval_is_wilsons():
    hit = np.arange(500) < 130
    expected = binomtest(130, 500).proportion_ci(method="wilson")
    interval = proportion(hit, np.ones(500, bool), np.arange(500))
    assert interval == pytest.approx([0.26, expected.low, expected.high], abs=2e-4)


def test_copies_of_a_stay_make_no_interval_narrower():
    hit = np.arange(100) < 30
    once = proportion(hit, np.ones(100, bool), np.arange(100))
    copied = proportion(np.tile(hit, 9), np.ones(900, bool), np.tile(np.arange(100), 9))
    assert copied == pytest.approx(once, abs=1e-9)


@pytest.mark.parametrize(
    ("positive", "alerts", "known"),
    [
        pytest.param(20, 20, {"sensitivity", "ppv", "net_benefit"}, id="twenty of each"),
        pytest.param(19, 20, {"ppv", "net_benefit"}, id="nineteen positives: no sensitivity"),
        pytest.param(20, 19, {"sensitivity"}, id="nineteen alerts: no PPV and no net benefit"),
    ],
)
def test_few_stays_have_no_estimate(positive, alerts, known):
    n = np.arange(100)
    (row,) = threshold_metrics(
        n < positive, np.where(n < alerts, 0.5, 0.1), np.ones(100, bool), n, [0.3]
    )
    assert {name for name in ("sensitivity", "ppv", "net_benefit") if row[name]} == known
    assert (row["number_needed_to_evaluate"] is None) == (row["ppv"] is None)


def test_without_alerts_there_is_no_benefit_and_no_interval():
    n = np.arange(100)
    (row,) = threshold_metrics(n < 30, np.full(100, 0.1), np.ones(100, bool), n, [0.5])
    assert (row["alerts"], row["net_benefit"], row["ppv"]) == (0, [0.0], None)


def test_the_default_threshold_alerts_the_riskiest_tenth():
    p = np.arange(100) / 100
    assert (p >= riskiest_tenth(p)).sum() in (10, 11)
