"""The ways to fit a scorer: on which patients, on means or on windows; the best on validation."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batch.training.metrics import PatientBootstrap, auroc, log_odds, platt, probability
from batch.training.regression import (
    RegularizationPath,
    fit_exactly,
    fit_path,
    standardize,
)

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

# From "almost nothing is believed" to "almost no shrinkage", for standardised columns.
GRID = tuple(float(c) for c in np.logspace(-5, 1, 13))
FOLDS = 5
FEW = 10  # returned, and others, below which patients can neither choose nor calibrate

NAIVE = "training patients, C by cross-validation"
SHRUNK = "training patients, C by validation patients"
VALIDATION_FIT = "validation patients, C by cross-validation"


@dataclass
class Vectors:
    """What a regression sees: the mean of each admission, or all of its windows."""

    aggregate: str  # mean, or clinicalbert
    X: npt.NDArray[np.float32]  # (rows, dim)
    of: npt.NDArray[np.int64]  # (rows,) the admission of each row, ascending, none left out

    def log_odds(self, of_rows: npt.NDArray[np.floating]) -> Floats:
        """Those of admissions, of those of their rows: (admissions,).

        ClinicalBERT's rule for n windows is (Pmax + Pmean * n / 2) / (1 + n / 2)
        (arXiv 1904.05342, equation 4); a mean is one row, and stays as it is.
        """
        if self.aggregate == "mean":
            return of_rows.astype(np.float64)
        p = probability(of_rows.astype(np.float64))
        starts = np.flatnonzero(np.r_[True, np.diff(self.of) != 0])
        n = np.diff(np.r_[starts, len(p)])
        most, total = np.maximum.reduceat(p, starts), np.add.reduceat(p, starts)
        return log_odds((most + total / 2) / (1 + n / 2))

    def some(self, admissions: Mask) -> "Vectors":
        """The rows of some admissions, numbered anew."""
        rows = admissions[self.of]
        number = np.cumsum(admissions) - 1
        return Vectors(self.aggregate, self.X[rows], number[self.of[rows]])

    def weight(self) -> Floats:
        """Of each row, so that an admission counts once, however many windows it has: (rows,)."""
        return 1 / np.bincount(self.of)[self.of]


@dataclass
class Cohort:
    """Who the admissions are."""

    y: Mask  # (admissions,)
    split: npt.NDArray[np.str_]
    subject_id: npt.NDArray[np.int64]

    def some(self, admissions: Mask) -> "Cohort":
        """Some of them."""
        return Cohort(self.y[admissions], self.split[admissions], self.subject_id[admissions])


@dataclass
class Fit:
    """A regression, and what it says of every admission, before calibration."""

    aggregate: str
    fitted_on: str
    c: float
    coef: Floats  # (dim,)
    intercept: float
    log_odds: Floats  # (admissions,)
    out_of_fold: Floats  # the same, but for admissions fitted on by fits that did not see them
    valid_auroc: float | None


@dataclass
class CalibratedFit:
    """The fit that was kept, on what, and its calibration (Platt)."""

    fit: Fit
    vectors: Vectors
    slope: float
    intercept: float
    calibrated_on: str

    @property
    def probability(self) -> Floats:
        return probability(self.slope * self.fit.log_odds + self.intercept)


def fits(vectors: Vectors, cohort: Cohort, saw_training: bool) -> Iterator[Fit]:
    """The naive fit first, then the others that are worth a try.

    An encoder that was fine-tuned on the training patients makes their vectors over-confident: a
    regression fitted on the same patients believes them too much. The ways out: shrink as
    validation patients ask for, or fit on validation patients alone, whom the encoder did not see.
    """
    train, valid = cohort.split == "train", cohort.split == "valid"
    of_train = _Fitted(vectors, cohort, train)
    naive = of_train.fit(of_train.choose_c(), NAIVE)
    yield naive
    if saw_training and enough(cohort.y[valid]):
        c = of_train.choose_c_on(valid)
        if c != naive.c:
            yield of_train.fit(c, SHRUNK)
        of_valid = _Fitted(vectors, cohort, valid)
        yield of_valid.fit(of_valid.choose_c(), VALIDATION_FIT)


def best(found: list[Fit], cohort: Cohort) -> Fit:
    """The naive fit that is best on validation patients, or another that is better beyond chance.

    Of several ways one looks best by luck: where validation patients are few, a fit on them alone
    often does. So another way must be better than the naive ones by an interval (patient bootstrap,
    95%) that excludes 0. With too few validation patients it is the first.
    """
    valid = cohort.split == "valid"
    if not enough(cohort.y[valid]):
        return found[0]
    first = max((fit for fit in found if fit.fitted_on == NAIVE), key=_on_validation)
    bootstrap = PatientBootstrap(cohort.y[valid], cohort.subject_id[valid])
    better = [first]
    for fit in found:
        gain = bootstrap.difference(auroc, fit.out_of_fold[valid], first.out_of_fold[valid])
        if fit.fitted_on != NAIVE and gain is not None and gain[1] > 0:
            better.append(fit)
    return max(better, key=_on_validation)


def _on_validation(fit: Fit) -> float:
    return round(fit.valid_auroc or 0.0, 4)


def calibrate(fit: Fit, cohort: Cohort) -> tuple[float, float, str]:
    """Platt's slope and intercept, and on whom they were found."""
    for split, whom in (("valid", "validation patients"), ("train", "training patients, by fold")):
        members = cohort.split == split
        if enough(cohort.y[members]):
            return *platt(fit.out_of_fold[members], cohort.y[members]), whom
    return 1.0, 0.0, "nobody: there are too few"


def enough(y: Mask) -> bool:
    """Whether these outcomes can choose or calibrate anything."""
    return bool(min(y.sum(), (~y).sum()) >= FEW)


def learning_curve(
    vectors: Vectors, cohort: Cohort, fit: Fit, bootstrap: PatientBootstrap
) -> list[dict[str, object]]:
    """Test AUROC of the same regression fitted on an eighth, a quarter, half and all patients."""
    members = cohort.split == ("valid" if fit.fitted_on == VALIDATION_FIT else "train")
    patients = np.unique(cohort.subject_id[members])
    order = np.random.default_rng(0).permutation(patients)
    test = cohort.split == "test"
    curve: list[dict[str, object]] = []
    for share in (1 / 8, 1 / 4, 1 / 2, 1.0):
        some = members & np.isin(cohort.subject_id, order[: round(share * len(order))])
        y = cohort.y[some]
        if len(set(y.tolist())) == 2:
            log_odds = _Fitted(vectors, cohort, some, folds=False).fit(fit.c, "").log_odds
            curve.append(
                {
                    "admissions": int(some.sum()),
                    "returned": int(y.sum()),
                    "auroc": bootstrap.estimate(auroc, log_odds[test]),
                }
            )
    return curve


class _Fitted:
    """A grid of regressions on some admissions."""

    def __init__(self, vectors: Vectors, cohort: Cohort, members: Mask, folds: bool = True) -> None:
        self.vectors, self.cohort, self.members = vectors, cohort, members
        some, self.who = vectors.some(members), cohort.some(members)
        self.weight = some.weight()
        self.standard = standardize(some.X, self.weight)
        self.fitted = Vectors(some.aggregate, self.standard.Z, some.of)
        self.y = self.who.y[self.fitted.of]  # (rows,)
        self.fold = self._folds() if folds else None
        self.path: RegularizationPath | None = None
        if self.fold is not None:
            fold = self.fold[self.fitted.of]
            self.path = fit_path(self.standard.Z, self.y, self.weight, GRID, fold)

    def _folds(self) -> npt.NDArray[np.int64]:
        """A fold for each admission; all of a patient are in one: (admissions,)."""
        from sklearn.model_selection import GroupKFold

        groups = self.who.subject_id
        fold = np.zeros(len(groups), np.int64)
        cuts = GroupKFold(min(FOLDS, len(set(groups.tolist())))).split(fold, groups=groups)
        for number, (_, held_out) in enumerate(cuts):
            fold[held_out] = number
        return fold

    def held_out(self) -> list[Floats]:
        """Of every C, the log odds of the admissions by fits without their fold."""
        assert self.path is not None
        return [self.fitted.log_odds(of_rows) for of_rows in self.path.out_of_fold]

    def choose_c(self) -> float:
        """The C with the best mean AUROC over the folds; of equals that with the least loss."""
        assert self.fold is not None
        return _best_c(self.who.y, self.fold, self.held_out())

    def choose_c_on(self, others: Mask) -> float:
        """The C with the best AUROC on other admissions; of equals that with the least loss."""
        assert self.path is not None
        some, y = self.vectors.some(others), self.cohort.y[others]
        raw = [self.standard.unscale(theta) for theta in self.path.theta]
        told = [some.log_odds(some.X @ coef.astype(np.float32) + b) for coef, b in raw]
        return _best_c(y, np.zeros(len(y), np.int64), told)

    def fit(self, c: float, fitted_on: str) -> Fit:
        """The regression at a C, to double precision."""
        theta = fit_exactly(self.standard.Z, self.y, self.weight, c)
        coef, intercept = self.standard.unscale(theta)
        told = self.vectors.log_odds(self.vectors.X @ coef + intercept)
        out_of_fold = told.copy()
        if self.path:
            out_of_fold[self.members] = self.held_out()[GRID.index(c)]
        valid = self.cohort.split == "valid"
        judged = (
            _auroc(self.cohort.y[valid], out_of_fold[valid])
            if enough(self.cohort.y[valid])
            else None
        )
        return Fit(self.vectors.aggregate, fitted_on, c, coef, intercept, told, out_of_fold, judged)


def _auroc(y: Mask, log_odds: Floats) -> float | None:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(y, log_odds)) if len(set(y.tolist())) == 2 else None


def _best_c(y: Mask, fold: npt.NDArray[np.int64], of_grid: list[Floats]) -> float:
    def judged(log_odds: Floats) -> tuple[float, float]:
        folds = [fold == k for k in range(fold.max() + 1)]
        found = [_auroc(y[members], log_odds[members]) for members in folds]
        mean = float(np.mean([value for value in found if value is not None] or [0.5]))
        return round(mean, 6), -float((np.logaddexp(0, log_odds) - y * log_odds).mean())

    return max(zip(map(judged, of_grid), GRID, strict=True))[1]
