"""Observed and expected outcomes, against published tables, scipy and hand calculations."""

import numpy as np
import pytest
from scipy import stats

from batch.scoring.outcome_charts import control_limit, cusum, cusum_summary, observed_expected


@pytest.mark.parametrize(
    ("observed", "low", "high"),
    [
        # Exact 95% limits of a Poisson count, as in Documenta Geigy's and Pearson and Hartley's
        # tables (0: 3.69; 10: 4.80 to 18.39; 100: 81.36 to 121.63).
        pytest.param(0, 0.0, 3.689, id="none"),
        pytest.param(1, 0.0253, 5.572, id="1"),
        pytest.param(10, 4.795, 18.390, id="10"),
        pytest.param(100, 81.36, 121.63, id="100"),
    ],
)
def test_the_interval_is_that_of_published_tables_of_the_poisson_distribution(observed, low, high):
    y = np.arange(200) < observed
    p = np.full(200, 0.25)  # 50 are expected
    assert observed_expected(y, p) == pytest.approx(
        [observed / 50, low / 50, high / 50], rel=1e-3, abs=1e-9
    )


def test_the_interval_equals_that_of_scipy():
    y, p = np.arange(90) < 17, np.full(90, 0.1)
    chi2 = [stats.chi2.ppf(0.025, 34) / 2, stats.chi2.ppf(0.975, 36) / 2]
    assert observed_expected(y, p) == pytest.approx([17 / 9, chi2[0] / 9, chi2[1] / 9])
    assert observed_expected(y[:0], p[:0]) is None


def test_the_chart_by_hand():
    # Steiner: after an outcome at risk p the weight is log(2 / (1 + p)), else log(1 / (1 + p)).
    y, p = np.array([True, False, True, False, False]), np.array([0.5, 0.5, 0.1, 0.1, 0.9])
    first = np.log(2 / 1.5)
    second = max(0, first + np.log(1 / 1.5))
    third = second + np.log(2 / 1.1)
    fourth = third + np.log(1 / 1.1)
    expected = [first, second, third, fourth, max(0, fourth + np.log(1 / 1.9))]
    assert cusum(y, p, 2.0) == pytest.approx(expected)
    # Half the odds: log(1 / (1 - p / 2)) without the outcome.
    assert cusum(np.array([False]), np.array([0.5]), 0.5) == pytest.approx([np.log(1 / 0.75)])


def test_one_of_100_calibrated_series_exceeds_the_limit():
    rng = np.random.default_rng(1)
    p = rng.beta(2, 8, 300)
    limit = control_limit(p, 2.0)
    maxima = cusum(rng.random((20_000, 300)) < p, p, 2.0).max(axis=1)
    assert 0.005 < (maxima > limit).mean() < 0.018


def test_a_scorer_whose_risks_have_doubled_gives_a_signal_and_a_calibrated_one_does_not():
    rng = np.random.default_rng(0)
    p = rng.beta(2, 8, 600)
    days = np.datetime64("2150-01-01") + np.arange(600)
    doubled = 2 * p / (1 + p)
    truth = np.where(np.arange(600) < 300, p, doubled)
    summary = cusum_summary(rng.random(600) < truth, p, days)
    assert summary["stays"] == 600
    assert np.datetime64(summary["higher"]["signal"]) > days[300]
    assert summary["lower"]["signal"] is None
    quiet = cusum_summary(rng.random(600) < p, p, days)
    assert (quiet["higher"]["signal"], quiet["lower"]["signal"]) == (None, None)
    assert 0 <= quiet["higher"]["value"] <= quiet["higher"]["highest"] < quiet["higher"]["limit"]
    assert cusum_summary(p[:0] > 1, p[:0], days[:0]) is None
