"""Logistic regression: columns with mean 0 and deviation 1, C by cross-validation, the optimum."""

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_BATCH_ROWS = 16_384
_PATIENCE = 3  # values of C without an improvement that end a search


@dataclass
class StandardizedColumns:
    """The columns of a vector, and of a design of covariates, with mean 0 and deviation 1.

    Missing covariates have the mean of the others, and an indicator that is a column too.
    """

    Z: npt.NDArray[np.float32]  # (rows, dim + 2 * covariates)
    mean: Floats  # (dim + 2 * covariates,)
    scale: Floats  # (dim + 2 * covariates,)
    covariate_means: Floats  # (covariates,)

    def unscale(self, theta: Floats) -> tuple[Floats, float]:
        """Return coefficients and intercept for vectors and designs, given those for Z.

        The intercept comes last in theta.
        """
        coef = theta[:-1] / self.scale
        intercept = float(theta[-1] - coef @ self.mean)
        design = coef[len(coef) - 2 * len(self.covariate_means) :]
        # In a design a missing value is 0: its indicator stands for the mean too.
        design[1::2] += design[::2] * self.covariate_means
        return coef, intercept


def standardize(
    X: npt.NDArray[np.float32], weight: Floats, design: Floats | None = None
) -> StandardizedColumns:
    """Standardize the columns of X (rows, dim) with a weight for each row (rows,).

    `design` (rows, 2 * covariates) has the covariates. A column of X that is constant up to
    rounding keeps its scale: scaled up, its rounding errors would receive coefficients that
    overflow float32. A constant covariate becomes 0, so that it gets no coefficient.
    """
    from sklearn.preprocessing import StandardScaler
    from sklearn.utils import gen_batches

    mean = scale = np.empty(0, np.float32)
    if X.shape[1]:
        scaler = StandardScaler()
        for rows in gen_batches(len(X), _BATCH_ROWS):  # the float64 copies are of a batch only
            scaler.partial_fit(X[rows], sample_weight=weight[rows])
        scale = np.sqrt(scaler.var_)
        scale[scale <= 1e-6 * max(scale.max(), 1e-30)] = 1
        mean, scale = scaler.mean_.astype(np.float32), scale.astype(np.float32)
    Z = X - mean
    Z /= scale
    if design is None:
        return StandardizedColumns(Z, mean.astype(float), scale.astype(float), np.empty(0))
    covariate_means = observed_means(design)
    filled = design.copy()
    filled[:, ::2] += filled[:, 1::2] * covariate_means
    centre, spread = filled.mean(axis=0), filled.std(axis=0)
    is_constant = spread <= 1e-12 * np.abs(filled).max(axis=0)
    spread[is_constant] = 1
    Z_design = (filled - centre) / spread
    Z_design[:, is_constant] = 0
    return StandardizedColumns(
        np.hstack([Z, Z_design.astype(np.float32)]),
        np.concatenate([mean, centre]),
        np.concatenate([scale, spread]),
        covariate_means,
    )


def observed_means(design: Floats) -> Floats:
    """Return the mean of each covariate where it is not missing (covariates,); 0 if it always is.

    `design` (rows, 2 * covariates) has each value, 0 where it is missing, and whether it is.
    """
    observed = (1 - design[:, 1::2]).sum(axis=0)
    return np.asarray(design[:, ::2].sum(axis=0) / np.maximum(observed, 1))


def choose_c(
    Z: npt.NDArray[np.float32],
    y: npt.NDArray[np.bool_],
    weight: Floats,
    grid: Sequence[float],
    fold: npt.NDArray[np.int64],
    loss: Callable[[Floats], float],
) -> tuple[float, Floats]:
    """Return the C with the least loss of out-of-fold log odds, and those (rows,).

    A regression on Z (rows, dim) minimizes C * sum(weight * log loss) + |coef|^2 / 2; the intercept
    is not penalized. It is fitted on all rows and without each fold, for each C of an ascending
    grid from the one before, until the loss has not fallen for three in a row. fold (rows,) numbers
    the folds from 0.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    # The rows of a fold have no weight, where a copy of the others would cost memory. Of too few
    # patients all are positive, or none is: they have no regression.
    weights = [weight, *(weight * (fold != k) for k in range(int(fold.max()) + 1))]
    # Not newton-cholesky: it is no faster on vectors, and makes warnings errors for a while, by
    # filters that all threads share.
    models = [
        LogisticRegression(solver="lbfgs", warm_start=True, tol=1e-5, max_iter=1_000)
        if len(np.unique(y[of_rows > 0])) > 1
        else None
        for of_rows in weights
    ]

    def fit(c: float, number: int) -> Floats:
        if (model := models[number]) is None:
            return np.zeros(Z.shape[1] + 1)
        model.set_params(C=c).fit(Z, y, sample_weight=weights[number])
        return np.append(model.coef_[0], model.intercept_).astype(np.float64)

    def evaluate(c: float) -> tuple[float, Floats]:
        on_all, *without_fold = threads.map(partial(fit, c), range(len(models)))
        out_of_fold = np.empty(len(y))
        for k, theta in enumerate(without_fold):
            # Where more stays of a fold are positive, fewer of the others are: with the intercept
            # of the others, log odds would be lowest in the folds with the most positives.
            out_of_fold[fold == k] = Z[fold == k] @ theta[:-1] + on_all[-1]
        return loss(out_of_fold), out_of_fold

    with (
        # A regression on each core: small matrix products lose more by being shared between cores.
        threadpool_limits(1),
        ThreadPoolExecutor(os.cpu_count()) as threads,
        warnings.catch_warnings(),
    ):
        # Where C is so large that this is not the optimum yet, another C has the least loss.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return least_loss(grid, evaluate)


def least_loss(
    grid: Sequence[float], evaluate: Callable[[float], tuple[float, Floats]]
) -> tuple[float, Floats]:
    """Return the C of an ascending grid with the least loss, and its log odds.

    `evaluate` returns the loss and the log odds of a C. The search ends when three in a row were no
    better.
    """
    best_c = grid[0]
    best_loss, best_log_odds = evaluate(best_c)
    without_gain = 0
    for c in grid[1:]:
        loss, log_odds = evaluate(c)
        if loss < best_loss:
            best_c, best_loss, best_log_odds, without_gain = c, loss, log_odds, 0
        else:
            without_gain += 1
        if without_gain == _PATIENCE:
            break
    return best_c, best_log_odds


def fit_exactly(
    Z: npt.NDArray[np.float32], y: npt.NDArray[np.bool_], weight: Floats, c: float
) -> Floats:
    """Return the optimum of the same objective in double precision: (dim + 1,), intercept last."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-12, max_iter=200)
    model.fit(Z.astype(np.float64), y, weight)
    return np.append(model.coef_[0], model.intercept_)
