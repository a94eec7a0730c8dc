"""Metrics: scikit-learn's where it has them, by hand where not; intervals that hold the truth."""

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

from batch.training.metrics import (
    METRICS,
    PatientBootstrap,
    Ranked,
    auroc,
    brier,
    calibration_slope,
    ends,
    in_words,
    log_odds,
    platt,
    probability,
    top,
)

ALL = np.ones((1, 8))


@pytest.fixture(scope="module")
def told():
    """600 outcomes, and probabilities that are right but too sure; many are equal."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal(600)
    y = rng.random(600) < 1 / (1 + np.exp(-(z - 1)))
    return y, np.round(1 / (1 + np.exp(-(2 * z - 1))), 2).clip(0.01, 0.99)


def estimate(name, y, p):
    return PatientBootstrap(y, np.arange(len(y)), bootstraps=1).metrics(p)[name][0]


def test_what_scikit_learn_measures_too(told):
    y, p = told
    balance = np.where(y, (~y).sum() / y.sum(), 1.0)
    precision, recall, _ = precision_recall_curve(y, p)
    even, even_recall, _ = precision_recall_curve(y, p, sample_weight=balance)
    expected = {
        "auroc": roc_auc_score(y, p),
        "auprc": average_precision_score(y, p),
        "auprc_balanced": average_precision_score(y, p, sample_weight=balance),
        "accuracy": accuracy_score(y, p > 0.5),
        "brier": brier_score_loss(y, p),
        "recall_at_80_precision": recall[:-1][precision[:-1] >= 0.8].max(),
        "recall_at_80_precision_balanced": even_recall[:-1][even[:-1] >= 0.8].max(),
    }
    for name, value in expected.items():
        assert estimate(name, y, p) == pytest.approx(value, abs=1e-9), name
    assert set(METRICS) - set(expected) == {"calibration_slope", "calibration_intercept"}


def test_calibration_slope_and_intercept(told):
    y, p = told
    z = log_odds(p)
    model = LogisticRegression(C=np.inf, tol=1e-10).fit(z[:, None], y)
    assert estimate("calibration_slope", y, p) == pytest.approx(model.coef_[0, 0], abs=1e-4)
    assert platt(z, y) == pytest.approx((model.coef_[0, 0], model.intercept_[0]), abs=1e-4)
    # The definition: moved by the intercept, as many are expected as came.
    moved = 1 / (1 + np.exp(-(z + estimate("calibration_intercept", y, p))))
    assert moved.sum() == pytest.approx(y.sum(), abs=1e-6)


def test_alerts_by_hand():
    y = np.array([1, 0, 1, 0, 0, 1, 0, 0], dtype=bool)
    p = np.array([0.9, 0.8, 0.7, 0.7, 0.4, 0.3, 0.2, 0.1])
    # The riskiest two of eight: one of them returned, of three in all.
    ppv, recall = top(Ranked(y, p), ALL, 2 / 8)
    assert (ppv[0], recall[0]) == pytest.approx((1 / 2, 1 / 3))
    # The third is one of two equals, of whom one returned: half of it counts.
    ppv, recall = top(Ranked(y, p), ALL, 3 / 8)
    assert (ppv[0], recall[0]) == pytest.approx((1.5 / 3, 1.5 / 3))


def test_probabilities_that_are_all_equal_tell_nothing():
    y = np.arange(40) < 10
    found = PatientBootstrap(y, np.arange(40)).metrics(np.full(40, 0.25))
    assert found["auroc"] == [0.5, 0.5, 0.5]
    assert found["auprc"][0] == 0.25
    assert found["calibration_slope"] is None
    assert found["calibration_intercept"][0] == pytest.approx(0)


@pytest.mark.parametrize("y", [[True, True], [False, False], []])
def test_one_outcome_only_has_no_auroc(y):
    found = PatientBootstrap(np.array(y, dtype=bool), np.arange(len(y))).metrics(
        np.full(len(y), 0.3)
    )
    assert found["auroc"] is None
    assert (found["brier"] is None) == (y == [])


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say():
    def stays(rng, patients):
        of = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
        risk = rng.standard_normal(patients)[of] + 0.5 * rng.standard_normal(len(of)) - 1.2
        y = rng.random(len(of)) < 1 / (1 + np.exp(-risk))
        error = 0.7 * rng.standard_normal(patients)[of]
        return y, of, 1 / (1 + np.exp(-(risk + error)))

    metrics = {
        "auroc": auroc,
        "brier": brier,
        "calibration slope": calibration_slope,
        "PPV of the riskiest tenth": lambda r, w: top(r, w, 0.1)[0],
    }
    y, _, p = stays(np.random.default_rng(0), 400_000)
    everybody = np.ones((1, len(y)))
    truth = {name: metric(Ranked(y, p), everybody)[0] for name, metric in metrics.items()}
    rng, hospitals = np.random.default_rng(1), 400
    held = dict.fromkeys(metrics, 0)
    for number in range(hospitals):
        y, of, p = stays(rng, 300)
        bootstrap = PatientBootstrap(y, of, bootstraps=200, seed=number)
        for name, metric in metrics.items():
            _, low, high = bootstrap.estimate(metric, p)
            held[name] += low <= truth[name] <= high
    assert all(0.93 <= count / hospitals <= 0.97 for count in held.values()), held


def test_patients_are_drawn_and_not_stays():
    # Every patient's ten stays are one another's copies: there is no more to know than of one each.
    rng = np.random.default_rng(0)
    y, p = rng.random(60) < 0.4, rng.random(60)
    once = PatientBootstrap(y, np.arange(60)).estimate(auroc, p)
    copied = PatientBootstrap(np.repeat(y, 10), np.repeat(np.arange(60), 10)).estimate(
        auroc, np.repeat(p, 10)
    )
    as_if_alone = PatientBootstrap(np.repeat(y, 10), np.arange(600)).estimate(
        auroc, np.repeat(p, 10)
    )
    assert copied == pytest.approx(once)
    assert as_if_alone[2] - as_if_alone[1] < 0.5 * (once[2] - once[1])


def test_a_difference_is_taken_sample_by_sample(told):
    y, p = told
    bootstrap = PatientBootstrap(y, np.arange(600))
    assert bootstrap.difference(auroc, p, p) == [0.0, 0.0, 0.0]
    worse = np.random.default_rng(0).permutation(p)
    gain = bootstrap.difference(auroc, p, worse)
    assert gain[0] == pytest.approx(roc_auc_score(y, p) - roc_auc_score(y, worse))
    assert 0 < gain[1] < gain[0] < gain[2]


def test_calibration_never_turns_a_ranking_round():
    rng = np.random.default_rng(0)
    y = rng.random(100) < 0.3
    slope, intercept = platt(-5.0 * y + rng.standard_normal(100), y)  # the wrong way round
    assert slope == 0.01
    p = 1 / (1 + np.exp(-(slope * (-5.0 * y) + intercept)))
    assert p.mean() == pytest.approx(y.mean(), abs=0.02)


@pytest.mark.parametrize(("centre", "spread"), [(-1.3, 1e-3), (0.0, 1e-5), (40.0, 0.5)])
def test_calibration_does_not_mind_how_close_together_log_odds_lie(told, centre, spread):
    # As a regression of a tiny C gives them: hardly apart, and ranked as well as any.
    y, p = told
    z = log_odds(p)
    model = LogisticRegression(C=np.inf, tol=1e-10).fit(z[:, None], y)
    slope, intercept = platt(centre + spread * z, y)
    expected = model.predict_proba(z[:, None])[:, 1]
    assert probability(slope * (centre + spread * z) + intercept) == pytest.approx(
        expected, abs=1e-4
    )


def test_log_odds_however_far_from_zero_have_a_probability():
    assert probability(np.array([-1_000.0, 0.0, 1_000.0])).tolist() == [0.0, 0.5, 1.0]
    p = np.array([0.1, 0.5, 0.9])
    assert probability(log_odds(p)) == pytest.approx(p)


def test_an_interval_in_words():
    slope = [0.8551, -0.6771, 2.0721]
    assert in_words(slope) == "0.855 (-0.677 to 2.072)"
    assert in_words(slope, digits=1, to="-") == "0.9 (-0.7-2.1)"
    assert ends(slope, 2) == "-0.68 to 2.07"
    assert in_words(None) == "-"
