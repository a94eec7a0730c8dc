"""Metrics equal scikit-learn's or are computed by hand; intervals cover the true value."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    log_loss,
    precision_recall_curve,
    roc_auc_score,
)

from batch.training.bootstrap import (
    PatientBootstrap,
    threshold_at_precision,
    top_fraction,
)
from batch.training.calibration import log_odds, probability
from batch.training.intervals import (
    LOGIT,
    clustered_error,
    clustered_freedom,
    proportion_interval,
    student_interval,
    wilson_interval,
)
from batch.training.metrics import METRICS, Ranked, Resampled, auroc, influence, net_benefit
from featurestore.store.scorer_metrics import format_interval, format_range
from tests.benchmarks.coverage import simulate


@pytest.fixture(scope="module")
def predictions():
    """Return 600 outcomes, and overconfident probabilities with many ties."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal(600)
    y = rng.random(600) < 1 / (1 + np.exp(-(z - 1)))
    return y, np.round(1 / (1 + np.exp(-(2 * z - 1))), 2).clip(0.01, 0.99)


def estimate(name, y, p):
    return PatientBootstrap(y, np.arange(len(y)), bootstraps=2).metrics(p)[name][0]


def test_metrics_equal_those_of_scikit_learn(predictions):
    y, p = predictions
    balance = np.where(y, (~y).sum() / y.sum(), 1.0)
    balanced, balanced_recall, _ = precision_recall_curve(y, p, sample_weight=balance)
    expected = {
        "auroc": roc_auc_score(y, p),
        "auprc": average_precision_score(y, p),
        "auprc_balanced": average_precision_score(y, p, sample_weight=balance),
        "accuracy": accuracy_score(y, p > 0.5),
        "brier": brier_score_loss(y, p),
        "log_loss": log_loss(y, p),
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


def test_metrics_of_a_sample_equal_those_of_scikit_learn_with_weights(predictions):
    y, p = predictions
    weight = np.random.default_rng(1).integers(0, 4, len(y)).astype(float)
    ranked = Ranked(y, p)
    sample = Resampled(ranked, weight[None, ranked.order])
    for name, expected in (
        ("auroc", roc_auc_score(y, p, sample_weight=weight)),
        ("auprc", average_precision_score(y, p, sample_weight=weight)),
        ("brier", brier_score_loss(y, p, sample_weight=weight)),
        ("log_loss", log_loss(y, p, sample_weight=weight)),
    ):
        assert METRICS[name](sample)[0] == pytest.approx(expected), name


def test_the_net_benefit_of_alerts_computed_by_hand():
    # Of ten stays, four reach 0.2: three positives and a negative. 3/10 - 1/10 x 0.2/0.8.
    y = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 1], dtype=bool)
    p = np.array([0.9, 0.5, 0.2, 0.3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    ranked = Ranked(y, p)
    sample = Resampled(ranked, np.ones((1, 10)))
    assert net_benefit(0.2)(sample)[0] == pytest.approx(0.3 - 0.1 / 4)
    # Where all are alerted: prevalence - (1 - prevalence) x odds.
    assert net_benefit(0.05)(sample)[0] == pytest.approx(0.4 - 0.6 * 0.05 / 0.95)


def test_the_alerted_part_of_each_stay_computed_by_hand():
    p = np.array([0.9, 0.8, 0.7, 0.7, 0.4, 0.3, 0.2, 0.1])
    assert top_fraction(p, 2 / 8).tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    # The third alert is one of two ties: each counts half.
    assert top_fraction(p, 3 / 8).tolist() == [1, 1, 0.5, 0.5, 0, 0, 0, 0]
    assert top_fraction(p[::-1], 3 / 8).tolist() == [0, 0, 0, 0, 0.5, 0.5, 1, 1]


def test_ppv_and_recall_of_alerts_computed_by_hand():
    # Of 100 stays, 20 are alerted, 12 of them positive, of 15 positives in all.
    y = np.isin(np.arange(100), [*range(12), 30, 40, 50])
    p = np.linspace(0.9, 0.1, 100)
    alert = PatientBootstrap(y, np.arange(100)).alerts(p, np.full(100, ""))[3]
    assert (alert["per_100"], alert["ppv"][0], alert["sensitivity"][0]) == (20, 12 / 20, 12 / 15)


def test_a_threshold_of_80_percent_precision_has_twenty_alerts_or_more():
    # 40 stays from 0.6 on, of which 32 are positive, then 60 negatives.
    y = np.array([True, True, True, True, False] * 8 + [False] * 60)
    p = np.linspace(0.99, 0.21, 100)
    # One more negative and the precision of 40 is below 80%; stay 39 is negative, 38 positive.
    assert threshold_at_precision(y, p) == p[38]
    assert threshold_at_precision(y[::-1].copy(), p) is None
    assert threshold_at_precision(y[:19], p[:19]) is None
    # Of stays with the same probability, all are alerted.
    assert threshold_at_precision(y, np.where(np.arange(100) < 40, 0.7, 0.1)) == 0.7
    assert threshold_at_precision(y, np.where(np.arange(100) < 41, 0.7, 0.1)) is None


def test_intervals_equal_those_of_textbooks():
    # Wilson: 81 of 263 is 0.2553 to 0.3662 (Newcombe 1998, doi 10.1002/(SICI)1097-0258(19980430)
    # 17:8<857::AID-SIM777>3.0.CO;2-E, table I, method 3); 0 of 20 is 0 to 0.1611.
    assert wilson_interval(81 / 263, None, 263)[1:] == pytest.approx([0.2553, 0.3662], abs=5e-5)
    assert wilson_interval(0, None, 20)[1:] == pytest.approx([0, 0.1611], abs=5e-5)
    # The error of independent stays gives the same.
    error = np.sqrt(81 / 263 * 182 / 263 / 263)
    assert wilson_interval(81 / 263, error, 9) == pytest.approx(
        wilson_interval(81 / 263, None, 263)
    )
    # Student: the 97.5% quantile with 10 degrees of freedom is 2.228.
    assert student_interval(5, 1, 10) == pytest.approx([5, 2.772, 7.228], abs=1e-3)
    # Logit: 0.8 with an error of 0.04 is ln(4) +- 2.228 x 0.04 / 0.16.
    low, high = 4 * np.exp([-0.557, 0.557])
    assert student_interval(0.8, 0.04, 10, LOGIT)[1:] == pytest.approx(
        [low / (1 + low), high / (1 + high)], abs=1e-4
    )


def test_a_proportion_counts_no_more_stays_than_there_are():
    # Thirty patients, each with a hit and a miss: their sums do not differ, by chance.
    hit, patient = np.arange(60) % 2 == 0, np.arange(60) // 2
    interval = proportion_interval(hit, np.ones(60, bool), patient)
    expected = binomtest(30, 60).proportion_ci(method="wilson")
    assert interval == pytest.approx([0.5, expected.low, expected.high])


def test_the_degrees_of_freedom_are_the_patients_that_decide_the_estimate():
    rng = np.random.default_rng(0)
    n = np.arange(1_000)
    assert clustered_freedom(rng.standard_normal(1_000), n < 20, n) > 850
    assert clustered_freedom((-1.0) ** n, n < 20, n) == 999
    # Of 1,000 patients 20 contribute. Squares: mean 0.02, 20 x 0.98^2 + 980 x 0.02^2 = 19.6.
    few = np.where(n < 20, (-1.0) ** n, 0.0)
    freedom = 2 * 20**2 * 0.999 / 19.6
    assert clustered_freedom(few, n < 20, n) == pytest.approx(freedom)
    three_stays = (np.repeat(each, 3) for each in (few, n < 20, n))
    assert clustered_freedom(*three_stays) == pytest.approx(freedom)
    # One patient who stands out leaves those with the outcome, less one.
    assert clustered_freedom(np.where(n == 0, 1.0, 0.0), n < 20, n) == 19


@pytest.mark.parametrize("name", ["auroc", "auprc", "accuracy", "brier", "log_loss"])
def test_the_influence_of_a_stay_is_what_the_metric_changes_without_it(predictions, name):
    y, p = predictions
    n, metric = len(y), METRICS[name]
    moved = influence(metric, y, p)
    ranked = Ranked(y, p)
    without = np.ones((n, n)) - np.eye(n)  # in the order of the ranks
    jackknife = (n - 1) * (estimate(name, y, p) - metric(Resampled(ranked, without)))
    assert moved.mean() == pytest.approx(0, abs=1e-9)
    assert np.abs(moved[ranked.order] - jackknife).max() < 0.05 * np.abs(jackknife).max()


def test_the_error_of_a_mean_counts_patients_not_stays():
    values = np.array([1.0, 2.0, 4.0, 7.0])
    by_stay = clustered_error(values, np.arange(4))
    assert by_stay == pytest.approx(values.std(ddof=1) / 2)
    assert clustered_error(np.repeat(values, 5), np.repeat(np.arange(4), 5)) == by_stay


def test_equal_probabilities_have_an_auroc_of_one_half_and_no_calibration_slope():
    y = np.arange(40) < 10
    metrics = PatientBootstrap(y, np.arange(40)).metrics(np.full(40, 0.25))
    assert metrics["auroc"] == [0.5, 0.5, 0.5]
    assert metrics["auprc"][0] == 0.25
    assert metrics["recall_at_80_precision_balanced"] == [0]  # no interval of it covers
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
        alert["ppv"] is None and alert["sensitivity"] is None
        for alert in bootstrap.alerts(p, np.full(len(y), ""))
    )


@pytest.mark.slow
def test_95_percent_intervals_cover_the_true_value_in_95_percent_of_hospitals():
    # Of 300 hospitals, 93 to 97% of intervals: with a Monte Carlo error of 1.3 points, 90 to 99.5%.
    for events in (11, 35):
        coverage = simulate(events, prevalence=0.1, slope=1.07, hospitals=300)
        coverage = {name: each for name, each in coverage.items() if not np.isnan(each)}
        assert len(coverage) > 15
        assert all(0.90 <= each <= 0.995 for each in coverage.values()), (events, coverage)


def test_an_auroc_of_one_has_an_interval_below_it():
    y = np.arange(60) < 12
    auroc_of = PatientBootstrap(y, np.arange(60)).metrics(np.where(y, 0.9, 0.1))["auroc"]
    # Wilson's of 12 of 12, with the 97.5% quantile for 11 degrees of freedom, 2.201.
    assert auroc_of == pytest.approx([1, 12 / (12 + 2.201**2), 1], abs=1e-4)


def test_a_ppv_needs_twenty_alerts_and_ten_labelled_stays_of_each_outcome():
    y = np.arange(200) < 40
    p = np.linspace(0.9, 0.1, 200)
    bootstrap, no_reason = PatientBootstrap(y, np.arange(200)), np.full(200, "")
    alerts = {alert["per_100"]: alert for alert in bootstrap.alerts(p, no_reason)}
    assert (alerts[5]["ppv"], alerts[5]["sensitivity"], alerts[5]["positive"]) == (None, None, 10)
    # Wilson's of 20 of 20.
    assert alerts[10]["ppv"] == pytest.approx([1, 20 / (20 + 1.96**2), 1], abs=1e-4)
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


def test_a_difference_of_auprc_has_an_interval_from_150_stays_of_each_outcome_on(predictions):
    y, p = predictions
    worse = np.where(np.arange(600) % 3 == 0, 0.3, p)
    few = np.flatnonzero(y)[149:]
    metrics = {"auprc": METRICS["auprc"], "auroc": auroc}
    for members, has_interval in ((np.arange(600), True), (np.delete(np.arange(600), few), False)):
        compared = PatientBootstrap(y[members], members).compare(
            metrics, p[members], worse[members]
        )
        expected = [average_precision_score(y[members], each[members]) for each in (p, worse)]
        assert compared["auprc"][2][0] == pytest.approx(expected[0] - expected[1])
        assert (len(compared["auprc"][2]) == 3) == has_interval
        assert len(compared["auprc"][0]) == len(compared["auroc"][2]) == 3


def test_probabilities_of_extreme_log_odds_do_not_overflow():
    assert probability(np.array([-1_000.0, 0.0, 1_000.0])).tolist() == [0.0, 0.5, 1.0]
    p = np.array([0.1, 0.5, 0.9])
    assert probability(log_odds(p)) == pytest.approx(p)


def test_intervals_are_formatted_with_their_digits():
    slope = [0.8551, -0.6771, 2.0721]
    assert format_interval(slope) == "0.855 (-0.677 to 2.072)"
    assert format_interval(slope, digits=1, to="-") == "0.9 (-0.7 to 2.1)"  # no "-0.7-2.1"
    assert format_range(slope, 2) == "-0.68 to 2.07"
    assert format_interval(None) == "-"
    assert format_interval([0.8551]) == "0.855"
