"""Checks of the data before fine-tuning, and the metrics of the validation windows after it."""

import numpy as np
import numpy.typing as npt

from export.finetuning.dataset import Datasets, LabelledWindows
from featurestore.errors import FeatureStoreError, NotEnoughDataError


def check_datasets(datasets: Datasets) -> None:
    """Raise where there are fewer than two labels, or an admission is in both datasets.

    The errors are NotEnoughDataError and FeatureStoreError.
    """
    train, valid = datasets.train, datasets.valid
    if len(np.unique(train.label)) < 2:
        raise NotEnoughDataError(
            f"the training patients have {int(train.label.sum())} windows of readmissions among "
            f"{len(train)} - sync more admissions, wait until more horizons are over, or "
            "choose another cutoff or horizon"
        )
    if shared := len(np.intersect1d(train.hadm_id, valid.hadm_id)):
        raise FeatureStoreError(
            f"{shared:,} admissions are in both the training and the validation data - remove them "
            "from one of the two"
        )


def window_metrics(
    valid: LabelledWindows, probability: npt.NDArray[np.float64]
) -> dict[str, float | None]:
    """Return AUROC and accuracy (at 0.5) by window and by admission, of probabilities (windows,).

    The probability of an admission with n windows is their mean, and for comparison that of
    ClinicalBERT: (max + mean n/2) / (1 + n/2) (Huang et al. 2019, arXiv 1904.05342).
    An AUROC is None where all labels are equal.
    """
    from sklearn.metrics import roc_auc_score

    admissions, first_window, index = np.unique(
        valid.hadm_id, return_index=True, return_inverse=True
    )
    n = np.bincount(index)
    mean = np.bincount(index, probability) / n
    maximum = np.zeros(len(n))
    np.maximum.at(maximum, index, probability)
    label = valid.label[first_window]
    predictions = {
        "windows": (valid.label, probability),
        "admissions": (label, mean),
        "admissions_clinicalbert": (label, (maximum + mean * n / 2) / (1 + n / 2)),
    }
    has_both_labels = len(np.unique(label)) == 2
    metrics: dict[str, float | None] = {"admissions": len(admissions)}
    for name, (y, p) in predictions.items():
        metrics[f"{name}_auroc"] = float(roc_auc_score(y, p)) if has_both_labels else None
        metrics[f"{name}_accuracy"] = float(((p > 0.5) == y).mean())
    return metrics
