"""The regressions along a grid of C, compared with scikit-learn's optimum in double precision."""

import threading
import warnings

import numpy as np
import pytest
from scipy.linalg import LinAlgWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from batch.training.regression import choose_c, fit_exactly, standardize
from featurestore.errors import FeatureStoreError

GRID = (1e-3, 1e-1, 10.0)


@pytest.fixture(scope="module")
def stays():
    """Correlated columns far from zero, as embeddings are, a rare outcome, and five folds."""
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((600, 5)) @ rng.standard_normal((5, 12))
    X = (mixed + 0.3 * rng.standard_normal((600, 12)) + 3).astype(np.float32)
    y = rng.random(600) < 1 / (1 + np.exp(-(X[:, 0] - 3) + 1.5))
    return X, y, rng.integers(0, 5, 600)


def optimum(X, y, c):
    """The optimum by scikit-learn."""
    model = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-12, max_iter=1_000)
    return model.fit(X.astype(np.float64), y)


def log_odds_of(Z, y, c, fold):
    """Return the out-of-fold log odds of one C."""
    return choose_c(Z, y, np.ones(len(y)), [c], fold, lambda z: 0.0)[1]


@pytest.mark.parametrize(("c", "near"), [(1e-3, 3e-4), (1e-1, 3e-4), (10.0, 3e-3)])
def test_log_odds_of_a_fold_are_of_the_optimum_without_it(stays, c, near):
    X, y, fold = stays
    Z = standardize(X, np.ones(len(y))).Z
    on_all = optimum(Z, y, c)
    out_of_fold = log_odds_of(Z, y, c, fold)
    for k in range(5):
        # The coefficients without the fold, and the intercept of all rows.
        coef = optimum(Z[fold != k], y[fold != k], c).coef_[0]
        assert out_of_fold[fold == k] == pytest.approx(
            Z[fold == k] @ coef + on_all.intercept_, abs=near
        )


def test_the_search_ends_when_three_values_of_c_were_no_better(stays):
    X, y, fold = stays
    losses = iter([5.0, 3.0, 4.0, 3.0, 2.0, 2.0, 2.5, 9.0, 1.0])
    c, out_of_fold = choose_c(
        standardize(X, np.ones(len(y))).Z,
        *(y, np.ones(len(y)), np.logspace(-4, 4, 9), fold, lambda z: next(losses)),
    )
    assert c == 1.0 and next(losses) == 1.0
    assert out_of_fold.shape == (600,)


def test_a_fold_without_which_all_are_positive_has_the_intercept_of_all():
    Z = np.random.default_rng(0).standard_normal((20, 2)).astype(np.float32)
    y = np.arange(20) >= 4
    fold = (np.arange(20) >= 4).astype(int)  # fold 0 has all that are negative
    out_of_fold = log_odds_of(Z, y, 1.0, fold)
    assert out_of_fold[:4] == pytest.approx(optimum(Z, y, 1.0).intercept_[0], abs=1e-3)


def test_no_thread_makes_a_warning_of_linear_algebra_an_error(stays, monkeypatch):
    """All threads share the filters: such a warning of another thread once ended `train`."""
    errors = set()
    simplefilter = warnings.simplefilter

    def record(action, category=Warning, *arguments):
        if action == "error" and threading.current_thread() is not threading.main_thread():
            errors.add(category)
        simplefilter(action, category, *arguments)

    monkeypatch.setattr(warnings, "simplefilter", record)
    X, y, fold = stays
    log_odds_of(standardize(X, np.ones(len(y))).Z, y, 0.1, fold)
    assert LinAlgWarning not in errors


def test_the_final_fit_agrees_with_scikit_learn_to_eight_digits(stays):
    X, y, _ = stays
    Z = standardize(X, np.ones(len(y))).Z
    expected = optimum(Z, y, 0.1)
    assert fit_exactly(Z, y, np.ones(len(y)), 0.1) == pytest.approx(
        [*expected.coef_[0], expected.intercept_[0]], abs=1e-8
    )


def test_a_row_of_weight_two_counts_as_two_rows(stays):
    X, y, _ = stays
    Z = standardize(X, np.ones(len(y))).Z
    weight = np.where(np.arange(len(y)) < 100, 2.0, 1.0)
    repeated = np.concatenate([np.arange(len(y)), np.arange(100)])
    expected = optimum(Z[repeated], y[repeated], 0.1)
    assert fit_exactly(Z, y, weight, 0.1)[:-1] == pytest.approx(expected.coef_[0], abs=1e-8)


def test_columns_are_standardized_as_scikit_learn_does_and_coefficients_unscaled(stays):
    X, y, _ = stays
    columns = standardize(X, np.ones(len(y)))
    scaler = StandardScaler().fit(X.astype(np.float64))
    assert pytest.approx(scaler.transform(X.astype(np.float64)), abs=1e-5) == columns.Z
    theta = fit_exactly(columns.Z, y, np.ones(len(y)), 0.1)
    coef, intercept = columns.unscale(theta)
    assert X @ coef + intercept == pytest.approx(columns.Z @ theta[:-1] + theta[-1], abs=1e-4)


def test_a_column_that_is_constant_up_to_rounding_is_not_scaled_up():
    # all-MiniLM-L6-v2 has two columns of about 1e-33 in every window: scaled up, their noise would
    # receive coefficients that overflow float32.
    X = np.random.default_rng(0).standard_normal((200, 3)).astype(np.float32)
    X[:, 2] *= 1e-33
    columns = standardize(X, np.ones(200))
    assert columns.scale[2] == 1
    assert np.abs(columns.Z[:, 2]).max() < 1e-30


def test_more_columns_than_rows_and_separable_outcomes_still_have_an_optimum():
    rng = np.random.default_rng(0)
    Z = rng.standard_normal((40, 200)).astype(np.float32)
    y = Z[:, 0] > 0
    expected = optimum(Z, y, 10.0)
    assert fit_exactly(Z, y, np.ones(40), 10.0)[:-1] == pytest.approx(expected.coef_[0], abs=1e-6)


@pytest.mark.filterwarnings("error")
def test_columns_that_depend_on_each_other_are_fitted_without_a_warning():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((5_000, 1)) * np.arange(1, 41)
    y = rng.random(5_000) < 1 / (1 + np.exp(1 - X[:, 0]))
    Z = standardize(X.astype(np.float32), np.ones(len(y))).Z
    fold = np.arange(5_000) % 5
    expected = optimum(Z[fold != 0], y[fold != 0], GRID[-1])
    intercept = optimum(Z, y, GRID[-1]).intercept_
    assert log_odds_of(Z, y, GRID[-1], fold)[fold == 0] == pytest.approx(
        Z[fold == 0] @ expected.coef_[0] + intercept, abs=5e-3
    )


@pytest.mark.parametrize("outcome", ["rare", "separable", "with a column of outliers"])
def test_regressions_that_are_hard_to_fit_reach_the_optimum(outcome):
    rng = np.random.default_rng(1)
    X = rng.standard_t(2, (300, 20)) if "outliers" in outcome else rng.standard_normal((300, 20))
    y = X[:, 0] > (2.5 if outcome == "rare" else 0)
    Z = standardize(X.astype(np.float32), np.ones(300)).Z
    expected = optimum(Z, y, 10.0)
    theta = fit_exactly(Z, y, np.ones(300), 10.0)
    assert theta[:-1] == pytest.approx(expected.coef_[0], rel=1e-6, abs=1e-6)


def test_a_regression_that_has_not_converged_is_an_error(stays, monkeypatch):
    monkeypatch.setattr("batch.training.regression._MAX_STEPS", 3)
    X, y, _ = stays
    with pytest.raises(FeatureStoreError, match=r"has not converged in 3 steps with C = 0\.1"):
        fit_exactly(standardize(X, np.ones(600)).Z, y, np.ones(600), 0.1)
