"""How well each covariate separates the outcomes by itself, which may reveal a leak."""

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from batch.training.calibration import Floats
from featurestore.store.scorer_metrics import Interval


def auroc_alone(y: npt.NDArray[np.bool_], design: Floats) -> Interval:
    """Return the AUROC of a covariate, or of whether it is missing, whichever is higher.

    `design` (stays, 2) has the value, 0 where it is missing, and whether it is missing. High values
    may mean a low risk, so that an AUROC is 0.5 or more. The 95% interval is that of Hanley and
    McNeil (1982, doi 10.1148/radiology.143.1.7063747), of independent stays. None without positives
    or negatives.
    """
    if y.all() or not y.any():
        return None
    is_missing = design[:, 1] == 1
    values = [is_missing.astype(float)]
    if not is_missing.all():
        values.append(np.where(is_missing, design[~is_missing, 0].mean(), design[:, 0]))
    estimate = max(_auroc(y, value) for value in values)
    n_positive, n_negative = int(y.sum()), int((~y).sum())
    variance = (
        estimate * (1 - estimate)
        + (n_positive - 1) * (estimate / (2 - estimate) - estimate**2)
        + (n_negative - 1) * (2 * estimate**2 / (1 + estimate) - estimate**2)
    ) / (n_positive * n_negative)
    half = 1.96 * max(variance, 0.0) ** 0.5
    return [estimate, estimate - half, min(estimate + half, 1.0)]


def _auroc(y: npt.NDArray[np.bool_], value: Floats) -> float:
    """Return the Mann-Whitney statistic over the number of pairs, in the better direction."""
    n_positive, n_negative = int(y.sum()), int((~y).sum())
    ranks = rankdata(value)[y].sum() - n_positive * (n_positive + 1) / 2
    auroc = ranks / (n_positive * n_negative)
    return float(max(auroc, 1 - auroc))
