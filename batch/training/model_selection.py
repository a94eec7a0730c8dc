"""The regressions of a scorer, their calibration, and the choice between them."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from batch.training.aggregates import CLINICALBERT, MEAN, Vectors
from batch.training.calibration import Calibration, Floats, calibrate, log_loss, log_odds, platt
from batch.training.data import Cohort, Mask, TrainingData
from batch.training.intervals import clustered_error
from batch.training.regression import choose_c, fit_exactly, standardize

# From strong to weak regularization of standardized columns.
GRID = tuple(float(c) for c in np.logspace(-5, 1, 13))
FOLDS = 5
_LEVEL = 0.05  # two-sided, at which an aggregate must be better than the mean


@dataclass
class CalibratedFit:
    """A regression, its log odds for every admission, and their calibration."""

    vectors: Vectors
    c: float
    coef: Floats  # (dim,), and two of each covariate
    intercept: float
    log_odds: Floats  # (admissions,)
    calibration: Calibration
    # (stays,) calibrated probability of each stay that was calibrated on, by regressions that were
    # not fitted on its patient
    out_of_fold: Floats
    losses: Floats  # (stays,) log loss of these

    @property
    def aggregate(self) -> str:
        """How windows are combined (of AGGREGATES)."""
        return self.vectors.aggregate

    @property
    def log_loss(self) -> float | None:
        """The mean of the losses; None where there were no patients to calibrate on."""
        return float(self.losses.mean()) if len(self.losses) else None

    @property
    def probability(self) -> Floats:
        """The calibrated probability of every admission: (admissions,)."""
        return self.calibration.probability(self.log_odds)


def fit_candidates(data: TrainingData, aggregate: str | None = None) -> list[CalibratedFit]:
    """Fit and calibrate a regression on each input; return them, the selected one first.

    The inputs are those of AGGREGATES that differ, or the `aggregate` alone. The mean of the
    windows is selected unless another one is better beyond chance (`rank`).
    """
    if aggregate is not None:
        aggregates = [aggregate]
    else:
        aggregates = data.windows.distinct_aggregates() if data.windows else [MEAN]
        if data.design is not None:  # which belongs to admissions, not to windows
            aggregates = [name for name in aggregates if name != CLINICALBERT]
    fold = patient_folds(data.cohort.subset(data.cohort.split == "train"))
    candidates = [
        fit_calibrated(data.vectors(name), data.cohort, data.encoder_saw_training, fold)
        for name in aggregates
    ]
    calibrated_on = patients_calibrated_on(data.cohort, data.encoder_saw_training)
    return rank(candidates, data.cohort.subject_id[calibrated_on])


def rank(candidates: list[CalibratedFit], subject_id: npt.NDArray[np.int64]) -> list[CalibratedFit]:
    """Return the selected candidate, then the others by their log loss.

    The first candidate is the reference. Another one is selected where it saves log loss beyond
    chance, by a paired test whose level is divided by the number of candidates (Bonferroni); of
    several, the one with the least log loss. `subject_id` (stays,) is the patient of each loss.
    """
    reference, *others = candidates

    def loss(candidate: CalibratedFit) -> float:
        return candidate.log_loss or 0.0

    def is_better(candidate: CalibratedFit) -> bool:
        from scipy.special import stdtrit

        saved = reference.losses - candidate.losses
        freedom = len(np.unique(subject_id)) - 1
        if freedom < 1:
            return False
        quantile = float(stdtrit(freedom, 1 - _LEVEL / 2 / len(others)))
        return bool(saved.mean() > quantile * clustered_error(saved, subject_id))

    better = [each for each in others if is_better(each)]
    selected = min(better, key=loss) if better else reference
    return [selected, *sorted((c for c in candidates if c is not selected), key=loss)]


def fit_calibrated(
    vectors: Vectors,
    cohort: Cohort,
    encoder_saw_training: bool,
    fold: npt.NDArray[np.int64] | None = None,
) -> CalibratedFit:
    """Fit the regression on training patients, with C by cross-validated log loss; calibrate it.

    An encoder that was fine-tuned on the training patients overfits to them, so their log odds are
    overconfident in every fold: the calibration is then estimated on validation patients alone,
    and else on the out-of-fold log odds of training patients too. `fold` is that of each training
    admission (default: `patient_folds`).
    """
    train = cohort.split == "train"
    members = cohort.subset(train)
    subset = vectors.subset(train)
    weight = subset.weight()
    columns = standardize(subset.X, weight, subset.design)
    y = members.y[subset.admission_index]  # (rows,)
    fold = patient_folds(members) if fold is None else fold

    def loss(out_of_fold: Floats) -> float:
        return _cross_validated_loss(vectors, subset.admission_log_odds(out_of_fold), members.y)

    c, out_of_fold = choose_c(columns.Z, y, weight, GRID, fold[subset.admission_index], loss)
    coef, intercept = columns.unscale(fit_exactly(columns.Z, y, weight, c))
    z = vectors.log_odds(coef, intercept)

    cross_fitted = z.copy()
    cross_fitted[train] = subset.admission_log_odds(out_of_fold)
    calibrated_on = patients_calibrated_on(cohort, encoder_saw_training)
    y, z_calibrated = cohort.y[calibrated_on], cross_fitted[calibrated_on]
    calibration = calibrate(z_calibrated, y, cohort.subject_id[calibrated_on])
    if not calibration.has_signal:  # the prevalence is known best from all that may be used
        prevalence = cohort.y[train | (cohort.split == "valid")].mean()
        calibration.intercept = float(log_odds(np.array(prevalence)))
    p = calibration.probability(z_calibrated)
    losses = -np.log(np.where(y, p, 1 - p))
    return CalibratedFit(vectors, c, coef, intercept, z, calibration, p, losses)


def _cross_validated_loss(vectors: Vectors, z: Floats, y: Mask) -> float:
    """Return the mean log loss of out-of-fold log odds.

    A maximum over windows is not a probability, whatever C is, so the log odds of combined windows
    are recalibrated first.
    """
    if vectors.aggregate == CLINICALBERT:
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


def fit_parts(model: CalibratedFit, data: TrainingData) -> dict[str, Floats]:
    """Return the probabilities (admissions,) of the notes and of the covariates alone.

    Each is a regression of its own, with a C of its own. Empty without covariates.
    """
    if data.design is None:
        return {}
    n = len(data.hadm_id)
    parts = {
        "notes_alone": replace(model.vectors, design=None),
        "covariates_alone": Vectors(MEAN, np.empty((n, 0), np.float32), np.arange(n), data.design),
    }
    return {
        name: fit_calibrated(vectors, data.cohort, data.encoder_saw_training).probability
        for name, vectors in parts.items()
    }


def fit_subset(vectors: Vectors, cohort: Cohort, members: Mask, c: float) -> Floats:
    """Fit one regression on a subset of the admissions; return its log odds of all of them."""
    subset = vectors.subset(members)
    weight = subset.weight()
    columns = standardize(subset.X, weight, subset.design)
    y = cohort.y[members][subset.admission_index]
    coef, intercept = columns.unscale(fit_exactly(columns.Z, y, weight, c))
    return vectors.log_odds(coef, intercept)
