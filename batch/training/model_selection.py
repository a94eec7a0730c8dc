"""The regressions of a scorer, their calibration, and the choice between them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batch.training.calibration import Calibration, Floats, calibrate, log_loss, log_odds, platt
from batch.training.data import Cohort, Mask, TrainingData, Vectors
from batch.training.regression import fit_exactly, fit_path, standardize

AGGREGATES = ("mean", "clinicalbert")

# From strong to weak regularization of standardized columns.
GRID = tuple(float(c) for c in np.logspace(-5, 1, 13))
FOLDS = 5


@dataclass
class CalibratedFit:
    """A regression, its log odds for every admission, and their calibration."""

    vectors: Vectors
    c: float
    coef: Floats  # (dim,)
    intercept: float
    log_odds: Floats  # (admissions,)
    calibration: Calibration
    log_loss: float | None  # mean, calibrated, of the patients calibrated on; None without any

    @property
    def aggregate(self) -> str:
        """How windows are combined: mean, or clinicalbert."""
        return self.vectors.aggregate

    @property
    def probability(self) -> Floats:
        """The calibrated probability of every admission: (admissions,)."""
        return self.calibration.probability(self.log_odds)


def fit_candidates(data: TrainingData, aggregate: str | None = None) -> list[CalibratedFit]:
    """Fit and calibrate a regression on each input; return them, the best first.

    The inputs are the mean vectors ("mean") and the windows ("clinicalbert"), or the `aggregate`
    alone. With one window per admission both are the same. The best has the least mean log loss
    on the patients calibrated on.
    """
    inputs = [data.means] if aggregate != "clinicalbert" else []
    if data.windows is not None and aggregate != "mean":
        several = len(data.windows.X) > len(data.means.X)
        inputs += [data.windows] if several or not inputs else []
    candidates = [
        fit_calibrated(vectors, data.cohort, data.encoder_saw_training) for vectors in inputs
    ]
    return sorted(candidates, key=lambda candidate: candidate.log_loss or 0.0)


def fit_calibrated(vectors: Vectors, cohort: Cohort, encoder_saw_training: bool) -> CalibratedFit:
    """Fit the regression on training patients, with C by cross-validated log loss; calibrate it.

    An encoder that was fine-tuned on the training patients overfits to them, so their log odds are
    overconfident in every fold: the calibration is then estimated on validation patients alone,
    and else on the out-of-fold log odds of training patients too.
    """
    train = cohort.split == "train"
    members = cohort.subset(train)
    subset = vectors.subset(train)
    weight = subset.weight()
    columns = standardize(subset.X, weight)
    y = members.y[subset.admission_index]  # (rows,)
    fold = patient_folds(members)
    path = fit_path(columns.Z, y, weight, GRID, fold[subset.admission_index])
    out_of_fold = [subset.admission_log_odds(rows) for rows in path.out_of_fold]
    best = int(np.argmin([_cross_validated_loss(vectors, z, members.y) for z in out_of_fold]))
    c = GRID[best]
    coef, intercept = columns.unscale(fit_exactly(columns.Z, y, weight, c))
    z = vectors.admission_log_odds(vectors.X @ coef + intercept)

    cross_fitted = z.copy()
    cross_fitted[train] = out_of_fold[best]
    calibrated_on = patients_calibrated_on(cohort, encoder_saw_training)
    y, z_calibrated = cohort.y[calibrated_on], cross_fitted[calibrated_on]
    calibration = calibrate(z_calibrated, y, cohort.subject_id[calibrated_on])
    if not calibration.has_signal:  # the prevalence is known best from all that may be used
        prevalence = cohort.y[train | (cohort.split == "valid")].mean()
        calibration.intercept = float(log_odds(np.array(prevalence)))
    p = calibration.probability(z_calibrated)
    loss = float(-np.log(np.where(y, p, 1 - p)).mean()) if len(y) else None
    return CalibratedFit(vectors, c, coef, intercept, z, calibration, loss)


def _cross_validated_loss(vectors: Vectors, z: Floats, y: Mask) -> float:
    """Return the mean log loss of out-of-fold log odds.

    A maximum over windows is not a probability, whatever C is, so the log odds of combined windows
    are recalibrated first.
    """
    if vectors.aggregate == "clinicalbert":
        slope, intercept = platt(z, y)
        z = slope * z + intercept if slope > 0 else log_odds(np.full(len(y), y.mean()))
    return float(log_loss(z, y).mean())


def patients_calibrated_on(cohort: Cohort, encoder_saw_training: bool) -> Mask:
    """Return the admissions on which a calibration is estimated: (admissions,)."""
    splits = ("valid",) if encoder_saw_training else ("train", "valid")
    return np.asarray(np.isin(cohort.split, splits))


def patient_folds(cohort: Cohort) -> npt.NDArray[np.int64]:
    """Return the fold of each admission (admissions,); a patient's admissions share one.

    The folds have about the same prevalence, as far as patients allow.
    """
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    rarer = int(min(cohort.y.sum(), (~cohort.y).sum()))
    folds = min(FOLDS, len(np.unique(cohort.subject_id)))
    splitter = StratifiedGroupKFold(folds) if rarer >= folds else GroupKFold(folds)
    fold = np.zeros(len(cohort.y), np.int64)
    splits = splitter.split(fold, cohort.y, groups=cohort.subject_id)
    for number, (_, members) in enumerate(splits):
        fold[members] = number
    return fold


def fit_subset(vectors: Vectors, cohort: Cohort, members: Mask, c: float) -> Floats:
    """Fit one regression on a subset of the admissions; return its log odds of all of them."""
    subset = vectors.subset(members)
    weight = subset.weight()
    columns = standardize(subset.X, weight)
    y = cohort.y[members][subset.admission_index]
    coef, intercept = columns.unscale(fit_exactly(columns.Z, y, weight, c))
    return vectors.admission_log_odds(vectors.X @ coef + intercept)
