"""A logistic regression for every C of a grid and every fold at once, in a few passes over X."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_ROWS = 16_384  # at a time, so that what is made of them stays in the cache
_STEPS = 60
_CLOSE = 1e-9  # Newton decrement, of the mean loss: coefficients to about 1e-5 of their size
_CLOSEST = 1e-18
_FEW_ROWS = 8  # a column
_SMALL = 4_000_000  # numbers
_SLOW = 0.1  # a step that leaves more of the decrement asks for a new Hessian


@dataclass
class Standard:
    """Columns less their mean over their standard deviation, as one float32 matrix."""

    Z: npt.NDArray[np.float32]  # (rows, dim)
    mean: Floats  # (dim,)
    scale: Floats  # (dim,)

    def raw(self, theta: Floats) -> tuple[Floats, float]:
        """Coefficients and intercept for columns as they were, of those for Z (the last is b)."""
        coef = theta[:-1] / self.scale
        return coef, float(theta[-1] - coef @ self.mean)


def standardise(X: npt.NDArray[np.float32], weight: Floats | None = None) -> Standard:
    """Standardise the columns of X (rows, dim), its rows weighted.

    A column that is the same up to rounding says nothing, and is not blown up: its scale is 1.
    """
    weight = np.ones(len(X)) if weight is None else weight
    total = weight.sum()
    mean = np.zeros(X.shape[1])
    square = np.zeros(X.shape[1])
    for rows in _blocks(len(X)):
        mean += weight[rows] @ X[rows].astype(np.float64)
    mean /= total
    for rows in _blocks(len(X)):
        square += weight[rows] @ (X[rows] - mean) ** 2
    scale = np.sqrt(square / total)
    scale[scale <= 1e-6 * max(scale.max(), 1e-30)] = 1
    Z = np.empty(X.shape, np.float32)
    for rows in _blocks(len(X)):
        Z[rows] = (X[rows] - mean) / scale
    return Standard(Z, mean, scale)


@dataclass
class Path:
    """What `fit_path` found."""

    theta: Floats  # (grid, dim + 1): coefficients and intercept on all rows
    held_out: npt.NDArray[np.float32] | None  # (grid, rows): log odds by the fit without their fold


def fit_path(
    Z: npt.NDArray[np.float32],
    y: npt.NDArray[np.bool_],
    weight: Floats,
    grid: Sequence[float],
    fold: npt.NDArray[np.int64] | None = None,
) -> Path:
    """Fit every C of an ascending grid, on all rows and, where folds are given, without each.

    The optimum of scikit-learn's objective, C * sum(weight * loss) + |coef|^2 / 2, the intercept
    not shrunk. All fits take Newton steps side by side: a pass over Z (rows, dim) serves them all,
    and the Hessian without a fold is the whole one less the fold's. Of few rows a fold is too much
    of the whole for that: they are left to scikit-learn's L-BFGS. fold is (rows,), from 0.
    """
    if len(Z) < _FEW_ROWS * Z.shape[1]:
        return _path_by_lbfgs(Z, y, weight, grid, fold)
    problems = _Problems(Z, y, weight, fold)
    theta = problems.start()
    thetas, held_out = [], []
    with _threads(Z):
        for c in grid:
            theta = problems.solve(theta, c)
            thetas.append(theta[:, 0].astype(np.float64))
            if fold is not None:
                held_out.append(problems.held_out(theta))
    return Path(np.array(thetas), np.array(held_out) if held_out else None)


def _path_by_lbfgs(
    Z: npt.NDArray[np.float32],
    y: npt.NDArray[np.bool_],
    weight: Floats,
    grid: Sequence[float],
    fold: npt.NDArray[np.int64] | None,
) -> Path:
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    def path(rows: npt.NDArray[np.bool_]) -> Floats:
        model = LogisticRegression(warm_start=True, tol=1e-5, max_iter=10_000)
        # In float32 a small gradient may never be seen.
        some, found = Z[rows].astype(np.float64), []
        for c in grid:
            model.set_params(C=c).fit(some, y[rows], sample_weight=weight[rows])
            found.append(np.append(model.coef_[0], model.intercept_))
        return np.array(found)  # (grid, dim + 1)

    every = [np.ones(len(y), bool)]
    if fold is not None:
        every += [fold != k for k in range(int(fold.max()) + 1)]
    # A path on each core: products this small lose more by being shared between cores.
    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as threads:
        whole, *without = threads.map(path, every)
    if fold is None:
        return Path(whole, None)
    held_out = np.empty((len(grid), len(y)), np.float32)
    for k, theta in enumerate(without):
        held_out[:, fold == k] = theta[:, :-1] @ Z[fold == k].T + theta[:, -1:]
    return Path(whole, held_out)


def polish(
    Z: npt.NDArray[np.float32],
    y: npt.NDArray[np.bool_],
    weight: Floats,
    c: float,
    theta: Floats,
) -> Floats:
    """A fit to double precision, from a near one: theta is (dim + 1,), the intercept last."""
    problems = _Problems(Z, y, weight, None)
    with _threads(Z):
        return problems.solve(theta[:, None].astype(np.float64), c, _CLOSEST)[:, 0]


def _threads(Z: npt.NDArray[np.float32]) -> AbstractContextManager[Any]:
    """One thread for small products: beside another job, several would wait for one another."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1) if Z.size < _SMALL else nullcontext()


def _blocks(rows: int) -> list[slice]:
    return [slice(first, first + _ROWS) for first in range(0, rows, _ROWS)]


class _Problems:
    """The fit on all rows, and one without each fold, as columns of one matrix."""

    def __init__(
        self,
        Z: npt.NDArray[np.float32],
        y: npt.NDArray[np.bool_],
        weight: Floats,
        fold: npt.NDArray[np.int64] | None,
    ) -> None:
        self.Z, self.y, self.weight = Z, y.astype(np.float64), weight
        self.fold = np.zeros(len(y), np.int64) if fold is None else fold
        self.folds = 0 if fold is None else int(fold.max()) + 1
        self.total = self._without(weight)

    def _without(self, values: Floats) -> Floats:
        """The sum of some rows' values, and that without each fold: (1 + folds,)."""
        of_fold = np.bincount(self.fold, values, max(self.folds, 1))
        return np.concatenate([[values.sum()], values.sum() - of_fold[: self.folds]])

    def start(self) -> Floats:
        """No coefficients, and the log odds of the returned: (dim + 1, 1 + folds)."""
        theta = np.zeros((self.Z.shape[1] + 1, 1 + self.folds))
        share = self._without(self.weight * self.y) / self.total
        theta[-1] = np.log(share / (1 - share))
        return theta

    def solve(self, theta: Floats, c: float, close: float = _CLOSE) -> Floats:
        """The optimum at a C, from a near one: (dim + 1, 1 + folds)."""
        double = close < _CLOSE
        shrink = np.full(len(theta), 1 / c)
        shrink[-1] = 0
        loss, gradient, curvature = self._pass(theta, shrink, double)
        factors = self._factors(curvature, shrink)
        before = np.full(theta.shape[1], np.inf)
        size = np.ones(theta.shape[1])
        for _ in range(_STEPS):
            step, decrement = _step(factors, gradient)
            decrement /= self.total
            if (decrement < close).all():
                break
            trial = theta - size * step
            new_loss, new_gradient, curvature = self._pass(trial, shrink, double)
            worse = new_loss > loss + 1e-7 * np.abs(loss)
            if worse.any():
                size = np.where(worse, size / 2, size)
                if size.min() < 1e-6:
                    break
                continue
            theta, loss, gradient = trial, new_loss, new_gradient
            size = np.ones(theta.shape[1])
            if (decrement > _SLOW * before).any():
                factors = self._factors(curvature, shrink)
                before = np.full(theta.shape[1], np.inf)
            else:
                before = decrement
        return theta

    def held_out(self, theta: Floats) -> npt.NDArray[np.float32]:
        """The log odds of every row by the fit without its fold: (rows,)."""
        log_odds = self.Z @ theta[:-1].astype(np.float32) + theta[-1].astype(np.float32)
        found: npt.NDArray[np.float32] = log_odds[np.arange(len(log_odds)), 1 + self.fold]
        return found

    def _pass(self, theta: Floats, shrink: Floats, double: bool) -> tuple[Floats, Floats, Floats]:
        """Loss (fits,), gradient (dim + 1, fits) and the whole fit's curvature (rows,)."""
        from scipy.special import expit

        kind = np.float64 if double else np.float32
        loss = (shrink @ theta**2) / 2
        gradient = shrink[:, None] * theta
        curvature = np.empty(len(self.y))
        coef = theta[:-1].astype(kind)
        for rows in _blocks(len(self.y)):
            Z: npt.NDArray[Any] = self.Z[rows].astype(kind, copy=False)
            log_odds = (Z @ coef).astype(np.float64) + theta[-1]  # (rows, fits)
            weight = np.repeat(self.weight[rows, None], theta.shape[1], axis=1)
            if self.folds:
                weight[np.arange(len(Z)), 1 + self.fold[rows]] = 0
            y = self.y[rows, None]
            p = expit(log_odds)
            loss += (weight * (np.logaddexp(0, log_odds) - y * log_odds)).sum(axis=0)
            residual = weight * (p - y)
            gradient[:-1] += Z.T @ residual.astype(kind)
            gradient[-1] += residual.sum(axis=0)
            curvature[rows] = self.weight[rows] * p[:, 0] * (1 - p[:, 0])
        return loss, gradient, curvature

    def _factors(self, curvature: Floats, shrink: Floats) -> list[Floats]:
        """Cholesky factors of the Hessians of all fits, where the whole fit stands."""
        from scipy.linalg import cholesky

        of_fold = [
            self._hessian(np.flatnonzero(self.fold == k), curvature)
            for k in range(max(self.folds, 1))
        ]
        whole = np.sum(of_fold, axis=0)
        hessians = [whole, *(whole - of_fold[k] for k in range(self.folds))]
        # Float32 sums: a little more on the diagonal keeps it positive, and costs a step at most.
        ridge = np.diag(shrink + 1e-6 * np.diag(whole).max())
        return [cholesky(hessian + ridge, lower=True) for hessian in hessians]

    def _hessian(self, members: npt.NDArray[np.int64], curvature: Floats) -> Floats:
        """Z'WZ of some rows, a column of ones beside Z: (dim + 1, dim + 1)."""
        from scipy.linalg.blas import ssyrk

        dim = self.Z.shape[1]
        hessian = np.zeros((dim + 1, dim + 1))
        for block in _blocks(len(members)):
            rows = members[block]
            weighted = np.empty((len(rows), dim + 1), np.float32)
            root = np.sqrt(curvature[rows]).astype(np.float32)
            np.multiply(self.Z[rows], root[:, None], out=weighted[:, :-1])
            weighted[:, -1] = root
            hessian += ssyrk(1.0, weighted.T, lower=1)  # (its lower half)
        return hessian + np.tril(hessian, -1).T


def _step(factors: list[Floats], gradient: Floats) -> tuple[Floats, Floats]:
    """Newton's step of each fit, and how much of the loss it promises: (dim + 1, fits), (fits,)."""
    from scipy.linalg import cho_solve

    steps = [cho_solve((factor, True), gradient[:, k]) for k, factor in enumerate(factors)]
    step = np.stack(steps, axis=1)
    return step, (step * gradient).sum(axis=0) / 2
