"""How the windows of an admission become the input of a regression."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batch.training.calibration import Floats, log_odds, probability
from featurestore.store.scorer_metrics import AGGREGATES

MEAN, CLINICALBERT = "mean", "clinicalbert"

Floats32 = npt.NDArray[np.float32]

_BATCH_ROWS = 4_096  # of admissions


@dataclass
class Vectors:
    """The inputs of a regression: a vector of each admission, or all of its windows."""

    aggregate: str  # of AGGREGATES
    X: npt.NDArray[np.float32]  # (rows, dim)
    admission_index: npt.NDArray[np.int64]  # (rows,) ascending; each admission has a row
    # (admissions, 2 * covariates) each value, 0 where it is missing, and whether it is; only where
    # an admission has one row.
    design: Floats | None = None

    def log_odds(self, coef: Floats, intercept: float) -> Floats:
        """Return the log odds of the admissions (admissions,) by a regression.

        The coefficients of the vector come first, then those of the design.
        """
        dim = self.X.shape[1]
        row_log_odds = self.X @ coef[:dim] + intercept
        if self.design is not None:
            row_log_odds = row_log_odds + self.design @ coef[dim:]
        return self.admission_log_odds(row_log_odds)

    def admission_log_odds(self, row_log_odds: npt.NDArray[np.floating]) -> Floats:
        """Return the log odds of admissions (admissions,) from those of their rows (rows,).

        ClinicalBERT's rule for n windows is (Pmax + Pmean * n / 2) / (1 + n / 2)
        (arXiv 1904.05342, equation 4); the log odds of a vector are those of its admission.
        """
        if self.aggregate != CLINICALBERT:
            return row_log_odds.astype(np.float64)
        p = probability(row_log_odds.astype(np.float64))
        starts = _starts(self.admission_index)
        n = np.diff(np.r_[starts, len(p)])
        maximum, total = np.maximum.reduceat(p, starts), np.add.reduceat(p, starts)
        return log_odds((maximum + total / 2) / (1 + n / 2))

    def subset(self, admissions: npt.NDArray[np.bool_]) -> "Vectors":
        """Return the rows of a subset of the admissions, which are numbered from 0 again."""
        rows = admissions[self.admission_index]
        number = np.cumsum(admissions) - 1
        design = None if self.design is None else self.design[admissions]
        return Vectors(self.aggregate, self.X[rows], number[self.admission_index[rows]], design)

    def weight(self) -> Floats:
        """Return the weight of each row (rows,): those of an admission sum to 1."""
        return 1 / np.bincount(self.admission_index)[self.admission_index]


@dataclass
class Windows:
    """The windows that the admissions' vectors are made of, ordered by admission and note.

    A text that several notes of an admission repeat is among them once.
    """

    X: npt.NDArray[np.float32]  # (windows, dim)
    admission_index: npt.NDArray[np.int64]  # (windows,) ascending; each admission has a window
    note_no: npt.NDArray[np.int64]  # (windows,) ascending within an admission
    is_of_last_note: npt.NDArray[np.bool_]  # (windows,)

    def vectors(self, aggregate: str) -> Vectors:
        """Return the input of a regression by an aggregate (of AGGREGATES)."""
        if aggregate == CLINICALBERT:
            return Vectors(aggregate, self.X, self.admission_index)
        starts = _starts(self.admission_index)
        if aggregate == "max":
            X = np.maximum.reduceat(self.X, starts)
        else:
            X = self._weighted_sums(self.share(aggregate), starts)
        return Vectors(aggregate, X, np.arange(len(starts)))

    def share(self, aggregate: str) -> Floats:
        """Return the share of each window in the mean (windows,): those of an admission sum to 1.

        `aggregate` is mean, mean-of-notes or last-note.
        """
        starts = _starts(self.admission_index)
        if aggregate == MEAN:
            weight = np.ones(len(self.X))
        elif aggregate == "last-note":
            weight = self.is_of_last_note.astype(np.float64)
        else:
            note = _starts(self.admission_index, self.note_no)
            n = np.diff(np.r_[note, len(self.X)])
            weight = np.repeat(1 / n, n)
        return weight / np.add.reduceat(weight, starts)[self.admission_index]

    def distinct_aggregates(self) -> list[str]:
        """Return the aggregates whose inputs differ from those of the ones before them."""
        if len(self.X) == self.admission_index[-1] + 1:  # a window each: all are the same
            return [MEAN]
        shares = {name: self.share(name) for name in (MEAN, "mean-of-notes", "last-note")}
        names = list(shares)
        return [
            name
            for name in AGGREGATES
            if name not in shares
            or not any(
                np.allclose(shares[name], shares[earlier]) for earlier in names[: names.index(name)]
            )
        ]

    def _weighted_sums(self, weight: Floats, starts: npt.NDArray[np.int64]) -> Floats32:
        """Return the weighted sum of the windows of each admission, added in float64."""
        X = np.empty((len(starts), self.X.shape[1]), np.float32)
        ends = np.r_[starts[1:], len(self.X)]
        for first in range(0, len(starts), _BATCH_ROWS):
            last = min(first + _BATCH_ROWS, len(starts))
            rows = slice(starts[first], ends[last - 1])
            weighted = self.X[rows] * weight[rows, None]
            X[first:last] = np.add.reduceat(weighted, starts[first:last] - starts[first])
        return X


def _starts(*keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the first row of each run of rows with the same keys (rows,)."""
    changes = np.any([np.diff(key) != 0 for key in keys], axis=0)
    return np.flatnonzero(np.r_[True, changes])
