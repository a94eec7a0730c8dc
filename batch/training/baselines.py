"""Baselines of a scorer: what is known without the notes, bag-of-words, the classifier head."""

import io
import zipfile
from typing import Any

import numpy as np
import numpy.typing as npt

from batch.training.aggregates import CLINICALBERT, Vectors
from batch.training.bootstrap import enough_outcomes
from batch.training.calibration import Floats, log_loss, platt, probability
from batch.training.data import POINT_SCORES, Cohort, TrainingData
from batch.training.regression import least_loss
from featurestore.errors import ModelError

BASELINES = (
    "prior_admissions",
    "utilisation",
    *POINT_SCORES,
    "bag_of_words",
    "classifier_head",
    "notes_alone",
    "covariates_alone",
)

WORD_GRID = tuple(float(c) for c in np.logspace(-2, 4, 13))  # for TF-IDF rows of length 1


def fit_baselines(data: TrainingData) -> dict[str, Floats]:
    """Return the probabilities (admissions,) of each baseline that the data allow."""
    utilisation, cohort = data.utilisation, data.cohort
    baselines = {
        # The first column is the number of admissions in the 12 months before.
        "prior_admissions": regression_baseline(utilisation[:, :1], cohort),
        "utilisation": regression_baseline(utilisation, cohort),
    }
    for name, points in data.point_scores.items():
        baselines[name] = regression_baseline(points, cohort)
    if data.word_counts is not None:
        baselines["bag_of_words"] = bag_of_words(data.word_counts, cohort)
    if data.classifier_head and data.windows:
        baselines["classifier_head"] = classifier_head(
            data.classifier_head, data.windows.vectors(CLINICALBERT), cohort
        )
    return baselines


def bag_of_words(word_counts: Any, cohort: Cohort) -> Floats:
    """Return the calibrated probabilities of a regression on TF-IDF: (admissions,).

    C has the least log loss on validation patients, or is the middle of the grid where fewer than
    10 of them are positive, or negative.
    """
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression

    train, valid = cohort.split == "train", cohort.split == "valid"
    X = TfidfTransformer(sublinear_tf=True).fit(word_counts[train]).transform(word_counts)
    y = cohort.y

    # Warm-started from one C to the next.
    model = LogisticRegression(warm_start=True, tol=1e-3, max_iter=1_000)
    grid = WORD_GRID if enough_outcomes(y[valid]) else WORD_GRID[len(WORD_GRID) // 2 :][:1]

    def evaluate(c: float) -> tuple[float, Floats]:
        z = np.asarray(model.set_params(C=c).fit(X[train], y[train]).decision_function(X))
        return float(log_loss(z[valid], y[valid]).mean()) if len(grid) > 1 else 0.0, z

    return _calibrated(least_loss(grid, evaluate)[1], cohort)


def regression_baseline(X: Floats, cohort: Cohort) -> Floats:
    """Return the probabilities of a regression on a few numbers: (admissions,).

    X is (admissions, features), standardised on the training stays; scikit-learn's C is 1.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    train = cohort.split == "train"
    X = StandardScaler().fit(X[train]).transform(X)
    model = LogisticRegression(max_iter=1_000).fit(X[train], cohort.y[train])
    return np.asarray(model.predict_proba(X)[:, 1])


def classifier_head(weights: bytes, windows: Vectors, cohort: Cohort) -> Floats:
    """Return the calibrated probabilities of the fine-tuned classifier: (admissions,).

    Windows are combined by ClinicalBERT's rule.
    """
    window_log_odds = classifier_log_odds(weights, windows.X)
    return _calibrated(windows.admission_log_odds(window_log_odds), cohort)


def classifier_log_odds(weights: bytes, X: npt.NDArray[np.float32]) -> Floats:
    """Return the log odds of a model folder's classifier_head.npz for [CLS]: (windows,)."""
    try:
        layers = dict(np.load(io.BytesIO(weights), allow_pickle=False))
    except (ValueError, TypeError, OSError, zipfile.BadZipFile):
        raise ModelError(
            "the classification head of the encoder is not an .npz archive - export the model again"
        ) from None
    hidden = X @ layers["dense"].T + layers["dense_bias"]
    hidden = np.tanh(hidden) if str(layers["activation"]) == "tanh" else np.maximum(hidden, 0)
    logits = hidden @ layers["out"].T + layers["out_bias"]  # (windows, 2)
    return np.asarray(logits[:, 1] - logits[:, 0])


def _calibrated(z: Floats, cohort: Cohort) -> Floats:
    """Return probabilities of log odds, calibrated on validation patients if they are enough.

    A baseline keeps its ranking, whatever the evidence for it: a slope that is not positive is left
    at 1.
    """
    valid = cohort.split == "valid"
    slope, intercept = 0.0, 0.0
    if enough_outcomes(cohort.y[valid]) and np.ptp(z[valid]) > 0:
        slope, intercept = platt(z[valid], cohort.y[valid])
    return probability(slope * z + intercept if slope > 0 else z)
