"""How well each covariate separates the outcomes by itself, which may reveal a leak."""

from typing import Any

import numpy as np
import numpy.typing as npt

from batch.training.calibration import Floats
from batch.training.intervals import Mask
from batch.training.performance.estimates import clustered_auroc
from featurestore.store.scorer_metrics import Interval


def auroc_alone(y: Mask, design: Floats, patient: npt.NDArray[Any]) -> Interval:
    """Return the AUROC of a covariate, or of whether it is missing, whichever is higher.

    `design` (stays, 2) has the value, 0 where it is missing, and whether it is missing. High values
    may mean a low risk, so that an AUROC is 0.5 or more. None with fewer than 10 stays of an
    outcome.
    """
    is_missing = design[:, 1] == 1
    values = [is_missing.astype(float)]
    if not is_missing.all():
        values.append(np.where(is_missing, design[~is_missing, 0].mean(), design[:, 0]))
    either = [clustered_auroc(y, sign * value, patient) for value in values for sign in (1, -1)]
    interval = max((each for each in either if each), default=None)
    # Complete separation is a finding, however few stays there are.
    return [1.0, 1.0, 1.0] if interval and interval[0] == 1 else interval
