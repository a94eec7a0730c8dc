"""Logistic regression: columns with mean 0 and deviation 1, C by cross-validation, the optimum."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batch.training.calibration import Floats, log_loss, probability
from featurestore.errors import FeatureStoreError

_BATCH_ROWS = 2_048
_MAX_STEPS = 5_000
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
    # The rows of a fold have no weight, where a copy of the others would cost memory.
    weights = [weight, *(weight * (fold != k) for k in range(int(fold.max()) + 1))]
    regressions = Regressions(Z, y, np.stack(weights, axis=1), np.float32)

    def evaluate(c: float) -> tuple[float, Floats]:
        regressions.fit(c, tolerance=1e-4)
        # Where more stays of a fold are positive, fewer of the others are: with the intercept of
        # the others, log odds would be lowest in the folds with the most positives.
        intercept = regressions.theta[-1]
        log_odds = regressions.log_odds + (intercept[0] - intercept)
        out_of_fold = log_odds[np.arange(len(y)), fold + 1]
        return loss(out_of_fold), out_of_fold

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
    """Return the optimum of the same objective in double precision: (dim + 1,), intercept last.

    Raises FeatureStoreError where it is not reached.
    """
    regression = Regressions(Z, y, weight[:, None], np.float64)
    if not regression.fit(c, tolerance=1e-9):
        raise FeatureStoreError(
            f"the regression has not converged in {_MAX_STEPS:,} steps with C = {c:g} - are some "
            "vectors, or values of a covariate, many times larger than the others?"
        )
    return np.asarray(regression.theta[:, 0])


class Regressions:
    """Regressions on the same rows with different weights, which are fitted together.

    A step of all of them takes two passes over the rows. It is one of conjugate gradients (Polak &
    Ribiere 1969), preconditioned with the Hessian of regressions that give all rows the same log
    odds, so that columns which depend on each other need no more steps than others.
    """

    def __init__(
        self,
        Z: npt.NDArray[np.float32],
        y: npt.NDArray[np.bool_],
        weights: Floats,
        precision: type[np.floating],
    ) -> None:
        """Start from coefficients of 0. Z is (rows, dim), weights are (rows, regressions).

        Products with Z have the `precision`; only some rows at once are copied for it. Where all
        rows with a weight are positive, or none is, the coefficients remain 0.
        """
        from sklearn.utils import gen_batches

        positive, total = y @ weights, weights.sum(axis=0)
        self.theta = np.zeros((Z.shape[1] + 1, weights.shape[1]))  # intercepts last
        self.log_odds = np.zeros(weights.shape)
        self._Z, self._y, self._precision = Z, y[:, None], precision
        self._batches = list(gen_batches(len(Z), _BATCH_ROWS))
        self._weights = weights * ((positive > 0) & (positive < total))
        prevalence = positive.sum() / total.sum()
        information = prevalence * (1 - prevalence) * weights.mean(axis=1)  # (rows,)
        self._information = information.sum()
        self._hessian = sum(
            (batch.T * information[rows].astype(precision)) @ batch for rows, batch in self._rows()
        )

    def fit(self, c: float, tolerance: float) -> bool:
        """Minimize the objective until log odds differ from the optimum by about the tolerance.

        Starts where the last fit ended. Returns whether they do.
        """
        penalty = np.append(np.full(len(self.theta) - 1, 1 / c), 0)[:, None]
        # Where columns depend on each other, rounding could make eigenvalues negative.
        rounding = np.finfo(self._precision).eps * np.trace(self._hessian)
        inverse = np.linalg.inv(self._hessian + np.diag(penalty[:-1, 0] + rounding))
        loss = self._loss(self.theta, self.log_odds, penalty)
        direction = gradient = np.zeros_like(self.theta)
        squared = np.zeros(len(loss))
        for _ in range(_MAX_STEPS):
            p = probability(self.log_odds)
            residual = self._weights * (p - self._y)
            before, squared_before = gradient, squared
            gradient = penalty * self.theta
            in_precision = residual.astype(self._precision)
            for rows, batch in self._rows():
                gradient[:-1] += batch.T @ in_precision[rows]
            gradient[-1] += residual.sum(axis=0)
            step = np.vstack([inverse @ gradient[:-1], gradient[-1:] / self._information])
            # About the squared distances of log odds to the optimum, summed with their information.
            squared = (gradient * step).sum(axis=0)
            moving = squared > tolerance**2 * self._information
            if not moving.any():
                return True
            conjugate = _quotient((step * (gradient - before)).sum(axis=0), squared_before)
            direction = np.maximum(conjugate, 0) * direction - step
            upwards = (direction * gradient).sum(axis=0) >= 0
            direction[:, upwards] = -step[:, upwards]
            coef = direction[:-1].astype(self._precision)
            moved = np.concatenate([batch @ coef for _, batch in self._rows()]) + direction[-1]
            # Newton's step along the direction, halved while it leads upwards.
            curvature = (self._weights * p * (1 - p) * moved**2).sum(axis=0)
            curvature += (penalty * direction**2).sum(axis=0)
            length = moving * _quotient(-(gradient * direction).sum(axis=0), curvature)
            while True:
                theta = self.theta + length * direction
                log_odds = self.log_odds + length * moved
                new_loss = self._loss(theta, log_odds, penalty)
                too_long = new_loss > loss * (1 + 1e-12)
                if not too_long.any():
                    break
                length[too_long] /= 2
            self.theta, self.log_odds, loss = theta, log_odds, new_loss
        return False

    def _rows(self) -> Iterator[tuple[slice, npt.NDArray[np.floating]]]:
        for rows in self._batches:
            yield rows, self._Z[rows].astype(self._precision, copy=False)

    def _loss(self, theta: Floats, log_odds: Floats, penalty: Floats) -> Floats:
        """Return the objective, divided by C, of each regression."""
        of_rows = (self._weights * log_loss(log_odds, self._y)).sum(axis=0)
        return np.asarray(of_rows + (penalty * theta**2).sum(axis=0) / 2)


def _quotient(dividend: Floats, divisor: Floats) -> Floats:
    """Return quotients, 0 where the divisor is 0."""
    return np.divide(dividend, divisor, out=np.zeros_like(dividend), where=divisor > 0)
