"""The solver: the same optimum as scikit-learn's, of every C and without every fold."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from batch.training.regression import fit_path, polish, standardise

GRID = (1e-3, 1e-1, 10.0)


@pytest.fixture(scope="module")
def rows():
    """Correlated columns far from zero, as embeddings are, and a rare outcome."""
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((600, 5)) @ rng.standard_normal((5, 12))
    X = (mixed + 0.3 * rng.standard_normal((600, 12)) + 3).astype(np.float32)
    y = rng.random(600) < 1 / (1 + np.exp(-(X[:, 0] - 3) + 1.5))
    return X, y, rng.integers(0, 5, 600)


def by_scikit_learn(X, y, c, weight=None):
    model = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-12, max_iter=200)
    return model.fit(X.astype(np.float64), y, sample_weight=weight)


@pytest.mark.parametrize("number", range(len(GRID)))
def test_every_c_of_the_path_is_scikit_learns(rows, number):
    X, y, fold = rows
    Z = standardise(X).Z
    expected = by_scikit_learn(Z, y, GRID[number])
    found = fit_path(Z, y, np.ones(len(y)), GRID, fold)
    assert found.theta[number] == pytest.approx(
        [*expected.coef_[0], expected.intercept_[0]], abs=1e-4
    )
    for k in range(5):
        without = by_scikit_learn(Z[fold != k], y[fold != k], GRID[number])
        assert found.held_out[number][fold == k] == pytest.approx(
            without.decision_function(Z[fold == k]), abs=1e-3
        )


def test_polished_it_agrees_to_many_digits(rows):
    X, y, _ = rows
    Z = standardise(X).Z
    near = fit_path(Z, y, np.ones(len(y)), (0.1,)).theta[0]
    expected = by_scikit_learn(Z, y, 0.1)
    assert polish(Z, y, np.ones(len(y)), 0.1, near) == pytest.approx(
        [*expected.coef_[0], expected.intercept_[0]], abs=1e-9
    )


def test_few_rows_and_many_rows_go_two_ways_to_one_place(rows, monkeypatch):
    X, y, fold = rows
    Z, weight = standardise(X).Z, 1.0 + (np.arange(len(y)) % 3)
    many = fit_path(Z, y, weight, GRID, fold)
    monkeypatch.setattr("batch.training.regression._FEW_ROWS", 1_000)
    few = fit_path(Z, y, weight, GRID, fold)
    # L-BFGS stops at a small gradient: where little is shrunk the coefficients are less sure.
    assert few.theta[:2] == pytest.approx(many.theta[:2], abs=2e-3)
    assert few.held_out[:2] == pytest.approx(many.held_out[:2], abs=1e-2)
    assert np.corrcoef(few.held_out[2], many.held_out[2])[0, 1] > 0.9999


def test_a_row_of_weight_two_counts_as_two_rows(rows):
    X, y, _ = rows
    Z = standardise(X).Z
    weight = np.where(np.arange(len(y)) < 100, 2.0, 1.0)
    twice = np.concatenate([np.arange(len(y)), np.arange(100)])
    weighted = polish(Z, y, weight, 0.1, fit_path(Z, y, weight, (0.1,)).theta[0])
    expected = by_scikit_learn(Z[twice], y[twice], 0.1)
    assert weighted[:-1] == pytest.approx(expected.coef_[0], abs=1e-8)


def test_standardised_as_scikit_learn_does_and_undone(rows):
    X, y, _ = rows
    standard = standardise(X)
    scaler = StandardScaler().fit(X.astype(np.float64))
    assert pytest.approx(scaler.transform(X.astype(np.float64)), abs=1e-5) == standard.Z
    theta = fit_path(standard.Z, y, np.ones(len(y)), (0.1,)).theta[0]
    coef, intercept = standard.raw(theta)
    assert X @ coef + intercept == pytest.approx(standard.Z @ theta[:-1] + theta[-1], abs=1e-4)


def test_a_column_that_hardly_moves_is_not_blown_up():
    # all-MiniLM-L6-v2 has two that are 1e-33 for every window: standardised, mere noise would get
    # coefficients that no float32 holds.
    X = np.random.default_rng(0).standard_normal((200, 3)).astype(np.float32)
    X[:, 2] *= 1e-33
    assert standardise(X).scale[2] == 1
    assert np.abs(standardise(X).Z[:, 2]).max() < 1e-30


def test_columns_more_than_rows_and_outcomes_that_are_apart_still_have_an_end():
    rng = np.random.default_rng(0)
    Z = rng.standard_normal((40, 200)).astype(np.float32)
    y = Z[:, 0] > 0
    expected = by_scikit_learn(Z, y, 10.0)
    found = polish(Z, y, np.ones(40), 10.0, fit_path(Z, y, np.ones(40), (0.1, 10.0)).theta[-1])
    assert found[:-1] == pytest.approx(expected.coef_[0], abs=1e-8)
