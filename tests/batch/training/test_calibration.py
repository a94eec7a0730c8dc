"""Calibration: what log odds support, and what they do not."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from batch.training.aggregates import Vectors
from batch.training.bootstrap import threshold_at_precision
from batch.training.calibration import calibrate, log_loss, log_odds, platt, probability
from batch.training.data import Cohort
from batch.training.model_selection import fit_calibrated
from tests.benchmarks.calibration import simulate


def platt_by_scikit_learn(z, y):
    """Return slope, intercept and likelihood ratio, with Platt's targets as weights."""
    target = np.where(y, (y.sum() + 1) / (y.sum() + 2), 1 / ((~y).sum() + 2))
    model = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1_000).fit(
        np.r_[z, z][:, None], np.repeat([True, False], len(y)), np.r_[target, 1 - target]
    )
    slope, intercept = model.coef_[0, 0], model.intercept_[0]
    null = np.full(len(z), np.log(target.mean() / (1 - target.mean())))
    gain = log_loss(null, target) - log_loss(slope * z + intercept, target)
    return slope, intercept, 2 * gain.sum()


def stays(rng, count, slope=1.0):
    """Return log odds whose calibration slope and intercept are `slope` and -1, and outcomes."""
    z = rng.standard_normal(count)
    return z, rng.random(count) < probability(slope * z - 1)


@pytest.mark.parametrize(("centre", "spread"), [(0, 1), (-1.3, 1e-3), (0, 1e-5), (40, 8)])
def test_the_slope_is_platts_whatever_the_location_and_scale_of_log_odds(centre, spread):
    z, y = stays(np.random.default_rng(0), 500)
    slope, intercept, _ = platt_by_scikit_learn(z, y)
    ours = platt(centre + spread * z, y)
    assert ours[0] * spread == pytest.approx(slope, rel=1e-4)
    assert ours[0] * centre + ours[1] == pytest.approx(intercept, abs=1e-4)


def test_a_slope_is_shrunk_by_two_over_its_likelihood_ratio():
    z, y = stays(np.random.default_rng(1), 2_000, slope=0.3)
    slope, _, chi_squared = platt_by_scikit_learn(z, y)
    calibration = calibrate(z, y, np.arange(2_000))
    assert 15 < chi_squared < 25
    assert calibration.chi_squared == pytest.approx(chi_squared, rel=1e-4)
    assert calibration.slope == pytest.approx(slope * (1 - 2 / chi_squared), rel=1e-4)
    assert calibration.probability(z).mean() == pytest.approx(y.mean(), abs=1e-6)


def test_copies_of_a_stay_are_no_evidence():
    """Ten identical stays of each patient have the likelihood ratio of one."""
    z, y = stays(np.random.default_rng(2), 300, slope=0.4)
    once = calibrate(z, y, np.arange(300))
    copied = calibrate(np.repeat(z, 10), np.repeat(y, 10), np.repeat(np.arange(300), 10))
    assert 3 < once.chi_squared < 20
    assert copied.chi_squared == pytest.approx(once.chi_squared, rel=0.05)


def test_four_hundred_draws_of_noise():
    """Log odds that know nothing, of any size, leave every probability near the prevalence."""
    rng = np.random.default_rng(4)
    signals = 0
    for draw in range(400):
        returns = int(rng.integers(20, 201))
        count = round(returns / 0.164)
        y = np.arange(count) < returns
        size = (0.001, 0.5, 1, 8)[draw % 4]
        calibration = calibrate(size * rng.standard_normal(count) - 1.6, y, np.arange(count))
        new = calibration.probability(size * rng.standard_normal(5_000) - 1.6)
        # New stays return at the same rate, whatever their log odds.
        rate = returns / count
        loss = log_loss(log_odds(new), np.full(5_000, rate)).mean()
        assert loss - log_loss(log_odds(np.array([rate])), rate)[0] < 0.02
        assert new.max() < 0.9
        signals += calibration.has_signal
        if not calibration.has_signal:
            assert np.ptp(new) == 0
            assert new[0] == pytest.approx(rate)
    assert signals < 48  # 8% are expected: log odds rise by more than 1.4 standard errors


@pytest.mark.parametrize("encoder_saw_training", [False, True])
def test_a_regression_on_noise_gives_the_prevalence(encoder_saw_training):
    """Thirty-two columns that know nothing; an encoder that memorized the training patients."""
    losses, highest = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        y = rng.random(600) < 0.16
        split = np.repeat(["train", "valid"], [480, 120])
        X = rng.standard_normal((3_600, 32)).astype(np.float32)
        if encoder_saw_training:
            X[:480, 0] += 4 * y[:480]
        cohort = Cohort(
            np.r_[y, rng.random(3_000) < 0.16],
            np.r_[split, ["test"] * 3_000],
            np.arange(3_600),
        )
        fit = fit_calibrated(Vectors("mean", X, np.arange(3_600)), cohort, encoder_saw_training)
        p = fit.probability[600:]
        prevalence = np.full(3_000, y.mean())
        loss = log_loss(log_odds(p), np.full(3_000, 0.16)) - log_loss(
            log_odds(prevalence), np.full(3_000, 0.16)
        )
        losses.append(loss.mean())
        highest.append(p.max())
    assert max(losses) < 0.02
    assert max(highest) < 0.9
    assert np.mean(losses) < 0.001


def test_separated_outcomes_have_a_finite_slope_and_limited_probabilities():
    z = np.r_[np.linspace(-900, -800, 90), np.linspace(800, 900, 10)]
    y = z > 0
    calibration = calibrate(z, y, np.arange(100))
    assert calibration.separated
    assert calibration.has_signal
    p = calibration.probability(z)
    assert p[y].min() > 0.8
    assert p[~y].max() < 0.05
    # Ten of ten returned: by the rule of succession the next one does with a probability of 11/12.
    p = calibration.probability(np.array([-1e9, 1e9]))
    assert p.tolist() == pytest.approx([1 / 92, 11 / 12])
    z, y = stays(np.random.default_rng(0), 500)
    assert not calibrate(z, y, np.arange(500)).separated


def test_one_absurd_stay_does_not_hide_the_signal_of_all_others():
    z, y = stays(np.random.default_rng(5), 1_000)
    expected = calibrate(z, y, np.arange(1_000))
    absurd = calibrate(np.r_[z, -1e6], np.r_[y, False], np.arange(1_001))
    assert absurd.has_signal
    assert absurd.slope == pytest.approx(expected.slope, rel=0.2)


def test_without_validation_patients_an_encoder_that_saw_the_others_cannot_be_calibrated():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 3)).astype(np.float32)
    y = X[:, 0] > 0.5
    cohort = Cohort(y, np.repeat(["train"], 200), np.arange(200))
    fit = fit_calibrated(Vectors("mean", X, np.arange(200)), cohort, encoder_saw_training=True)
    assert fit.log_loss is None
    assert not fit.calibration.has_signal
    assert fit.probability == pytest.approx(np.full(200, y.mean()))


@pytest.mark.parametrize(
    ("z", "y"),
    [
        pytest.param([-3, 3] * 100, [True, False] * 100, id="reversed"),
        pytest.param([1] * 200, [True, False] * 100, id="constant"),
        pytest.param(range(200), [False] * 200, id="nobody returned"),
        pytest.param(range(200), [True] * 200, id="all returned"),
        pytest.param([], [], id="nobody"),
    ],
)
def test_no_signal(z, y):
    z, y = np.array(z, float), np.array(y, bool)
    calibration = calibrate(z, y, np.arange(len(z)))
    assert not calibration.has_signal
    p = calibration.probability(np.array([-50.0, 0, 50]))
    assert np.ptp(p) == 0
    if y.any() and not y.all():
        assert p[0] == pytest.approx(y.mean())


def test_a_frozen_encoder_is_calibrated_better_than_by_validation_patients_or_not_at_all():
    """A small version of tests/benchmarks/calibration.py."""
    excess = {name: values[:, 0].mean() for name, values in simulate(1_000, 8).items()}
    slopes = simulate(1_000, 8)["shipped"][:, 1]
    assert excess["shipped"] <= excess["none"] + 1e-4
    assert excess["shipped"] < 0.8 * excess["validation patients (Platt)"]
    assert (slopes > 0.75).all() and (slopes < 1.35).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_threshold_of_80_percent_precision_out_of_fold_has_it_on_new_patients(seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((6_000, 100)).astype(np.float32)  # one column has a signal
    y = rng.random(6_000) < probability(1.5 * X[:, 0])
    fitted, new = np.arange(6_000) < 500, np.arange(6_000) >= 500
    cohort = Cohort(y, np.where(fitted, "train", "test"), np.arange(6_000))
    fit = fit_calibrated(Vectors("mean", X, np.arange(6_000)), cohort, encoder_saw_training=False)

    def precision_on_new(threshold):
        return y[new & (fit.probability >= threshold)].mean()

    out_of_fold = threshold_at_precision(y[fitted], fit.out_of_fold)
    in_sample = threshold_at_precision(y[fitted], fit.probability[fitted])
    assert 0.75 < precision_on_new(out_of_fold) < 0.90
    assert precision_on_new(in_sample) < 0.75
