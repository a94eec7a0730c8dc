"""Candidate regressions of a scorer, and the choice between them on validation patients."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batch.training.bootstrap import PatientBootstrap
from batch.training.calibration import Floats, platt, probability
from batch.training.data import Cohort, Mask, TrainingData, Vectors
from batch.training.metrics import auroc
from batch.training.regression import fit_exactly, fit_path, standardize

AGGREGATES = ("mean", "clinicalbert")

# From strong to weak regularization of standardized columns.
GRID = tuple(float(c) for c in np.logspace(-5, 1, 13))
FOLDS = 5
MIN_OUTCOMES = 10  # returned, and as many not, that selection and calibration need

CROSS_VALIDATED = "training patients, C by cross-validation"
C_BY_VALIDATION = "training patients, C by validation patients"
VALIDATION_FIT = "validation patients, C by cross-validation"


@dataclass
class Fit:
    """A regression and its log odds for every admission, before calibration."""

    aggregate: str
    fitted_on: str
    c: float
    coef: Floats  # (dim,)
    intercept: float
    log_odds: Floats  # (admissions,)
    out_of_fold: Floats  # (admissions,) those of fitted admissions by fits without their fold
    valid_auroc: float | None


@dataclass
class CalibratedFit:
    """The selected regression, its input and its calibration (Platt)."""

    fit: Fit
    vectors: Vectors
    slope: float
    intercept: float
    calibrated_on: str
    candidates: list[Fit]  # all that were compared, the selected one among them

    @property
    def probability(self) -> Floats:
        """The calibrated probability of every admission: (admissions,)."""
        return probability(self.slope * self.fit.log_odds + self.intercept)


def fit(data: TrainingData, aggregate: str | None = None) -> CalibratedFit:
    """Fit the candidate regressions, select one and calibrate it.

    `aggregate` restricts the candidates to regressions on mean vectors ("mean") or on windows
    ("clinicalbert"). With one window per admission both are the same.
    """
    inputs = [data.means] if aggregate != "clinicalbert" else []
    if data.windows is not None and aggregate != "mean":
        several = len(data.windows.X) > len(data.means.X)
        inputs += [data.windows] if several or not inputs else []
    candidates: list[Fit] = []
    for vectors in inputs:
        candidates += fit_candidates(vectors, data.cohort, data.encoder_saw_training)
    selected = select(candidates, data.cohort)
    (vectors,) = (each for each in inputs if each.aggregate == selected.aggregate)
    return CalibratedFit(selected, vectors, *calibrate(selected, data.cohort), candidates)


def fit_candidates(vectors: Vectors, cohort: Cohort, encoder_saw_training: bool) -> Iterator[Fit]:
    """Yield the cross-validated fit first, then alternatives for fine-tuned encoders.

    An encoder that was fine-tuned on the training patients overfits to them, so a regression fitted
    on the same patients is overconfident. The alternatives choose a stronger regularization on
    validation patients, or fit on validation patients alone, whom the encoder did not see.
    """
    train, valid = cohort.split == "train", cohort.split == "valid"
    on_training = _Regressions(vectors, cohort, train)
    cross_validated = on_training.fit(on_training.cross_validated_c(), CROSS_VALIDATED)
    yield cross_validated
    if encoder_saw_training and enough_outcomes(cohort.y[valid]):
        c = on_training.best_c_on(valid)
        if c != cross_validated.c:
            yield on_training.fit(c, C_BY_VALIDATION)
        on_validation = _Regressions(vectors, cohort, valid)
        yield on_validation.fit(on_validation.cross_validated_c(), VALIDATION_FIT)


def select(candidates: list[Fit], cohort: Cohort) -> Fit:
    """Return the best candidate on validation patients, with a preference for cross-validated fits.

    The best of several candidates may be best by chance, above all on few validation patients. An
    alternative is therefore selected only if its validation AUROC exceeds that of the best
    cross-validated fit with a 95% interval (patient-level bootstrap) that excludes 0. With too few
    validation patients the first candidate is selected.
    """
    valid = cohort.split == "valid"
    if not enough_outcomes(cohort.y[valid]):
        return candidates[0]
    default = max(
        (candidate for candidate in candidates if candidate.fitted_on == CROSS_VALIDATED),
        key=_rounded_valid_auroc,
    )
    bootstrap = PatientBootstrap(cohort.y[valid], cohort.subject_id[valid])
    eligible = [default]
    for candidate in candidates:
        gain = bootstrap.difference(auroc, candidate.out_of_fold[valid], default.out_of_fold[valid])
        if candidate.fitted_on != CROSS_VALIDATED and gain is not None and gain[1] > 0:
            eligible.append(candidate)
    return max(eligible, key=_rounded_valid_auroc)


def _rounded_valid_auroc(candidate: Fit) -> float:
    return round(candidate.valid_auroc or 0.0, 4)


def calibrate(fit: Fit, cohort: Cohort) -> tuple[float, float, str]:
    """Return Platt's slope and intercept, and the patients on whom they were estimated."""
    for split, patients in (
        ("valid", "validation patients"),
        ("train", "training patients, by fold"),
    ):
        members = cohort.split == split
        if enough_outcomes(cohort.y[members]):
            return *platt(fit.out_of_fold[members], cohort.y[members]), patients
    return 1.0, 0.0, "no patients: there are too few"


def enough_outcomes(y: Mask) -> bool:
    """Return whether these outcomes suffice for selection or calibration."""
    return bool(min(y.sum(), (~y).sum()) >= MIN_OUTCOMES)


def fit_subset(vectors: Vectors, cohort: Cohort, members: Mask, c: float) -> Floats:
    """Fit one regression on a subset of the admissions; return its log odds of all of them."""
    subset = vectors.subset(members)
    weight = subset.weight()
    columns = standardize(subset.X, weight)
    y = cohort.y[members][subset.admission_index]
    coef, intercept = columns.unscale(fit_exactly(columns.Z, y, weight, c))
    return vectors.admission_log_odds(vectors.X @ coef + intercept)


class _Regressions:
    """The regressions of the grid of C on a subset of the admissions, and without each fold."""

    def __init__(self, vectors: Vectors, cohort: Cohort, members: Mask) -> None:
        self.vectors, self.cohort, self.members = vectors, cohort, members
        subset, self.fitted_cohort = vectors.subset(members), cohort.subset(members)
        self.weight = subset.weight()
        self.columns = standardize(subset.X, self.weight)
        self.y = self.fitted_cohort.y[subset.admission_index]  # (rows,)
        self.fold = _patient_folds(self.fitted_cohort.subject_id)
        self.path = fit_path(
            self.columns.Z, self.y, self.weight, GRID, self.fold[subset.admission_index]
        )
        self.out_of_fold = [subset.admission_log_odds(rows) for rows in self.path.out_of_fold]

    def cross_validated_c(self) -> float:
        """Return the C with the best mean AUROC over the folds."""
        return _best_c(self.fitted_cohort.y, self.fold, self.out_of_fold)

    def best_c_on(self, others: Mask) -> float:
        """Return the C with the best AUROC on other admissions."""
        subset, y = self.vectors.subset(others), self.cohort.y[others]
        log_odds_by_c = []
        for theta in self.path.theta:
            coef, intercept = self.columns.unscale(theta)
            rows = subset.X @ coef.astype(np.float32) + intercept
            log_odds_by_c.append(subset.admission_log_odds(rows))
        return _best_c(y, np.zeros(len(y), np.int64), log_odds_by_c)

    def fit(self, c: float, fitted_on: str) -> Fit:
        """Return the regression at a C of the grid, in double precision."""
        coef, intercept = self.columns.unscale(fit_exactly(self.columns.Z, self.y, self.weight, c))
        log_odds = self.vectors.admission_log_odds(self.vectors.X @ coef + intercept)
        out_of_fold = log_odds.copy()
        out_of_fold[self.members] = self.out_of_fold[GRID.index(c)]
        valid = self.cohort.split == "valid"
        valid_auroc = None
        if enough_outcomes(self.cohort.y[valid]):
            valid_auroc = _auroc(self.cohort.y[valid], out_of_fold[valid])
        return Fit(
            self.vectors.aggregate,
            fitted_on,
            c,
            coef,
            intercept,
            log_odds,
            out_of_fold,
            valid_auroc,
        )


def _patient_folds(subject_id: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the fold of each admission (admissions,); a patient's admissions share one."""
    from sklearn.model_selection import GroupKFold

    fold = np.zeros(len(subject_id), np.int64)
    splits = GroupKFold(min(FOLDS, len(np.unique(subject_id)))).split(fold, groups=subject_id)
    for number, (_, members) in enumerate(splits):
        fold[members] = number
    return fold


def _auroc(y: Mask, log_odds: Floats) -> float | None:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(y, log_odds)) if len(np.unique(y)) == 2 else None


def _best_c(y: Mask, fold: npt.NDArray[np.int64], log_odds_by_c: list[Floats]) -> float:
    """Return the C with the best mean AUROC over folds; of equal ones that with the least loss."""

    def performance(log_odds: Floats) -> tuple[float, float]:
        by_fold = [_auroc(y[fold == k], log_odds[fold == k]) for k in range(fold.max() + 1)]
        mean = float(np.mean([value for value in by_fold if value is not None] or [0.5]))
        return round(mean, 6), -float((np.logaddexp(0, log_odds) - y * log_odds).mean())

    return max(zip(map(performance, log_odds_by_c), GRID, strict=True))[1]
