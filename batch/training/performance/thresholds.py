"""Performance where all stays from a predicted risk on are alerted."""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from batch.training.bootstrap import MIN_ALERTS, enough_outcomes
from batch.training.calibration import Floats
from batch.training.intervals import Mask, linearized_interval, proportion_interval
from batch.training.metrics import is_alerted, net_benefit
from featurestore.store.scorer_metrics import Interval

THRESHOLDS = (0.05, 0.10, 0.15, 0.20, 0.30, 0.50)
ALERTED = 0.10  # fraction of predicted test stays above the default threshold of an alert


class ThresholdRow(TypedDict):
    """Performance of alerts from a predicted risk on; None where too few stays support it."""

    threshold: float
    alerts: int  # predicted test stays that are alerted
    without_label: int  # of these
    alerts_per_day: float | None  # in a live hospital
    sensitivity: Interval
    specificity: Interval
    ppv: Interval  # positive, of all alerts, also on stays without a label
    npv: Interval
    number_needed_to_evaluate: Interval  # alerts for each positive, 1 / PPV
    net_benefit: Interval


def threshold_metrics(
    y: Mask,
    p: Floats,
    has_label: Mask,
    patient: npt.NDArray[Any],
    thresholds: Sequence[float] = THRESHOLDS,
    stays_per_day: float | None = None,
) -> list[ThresholdRow]:
    """Return the performance at each threshold, by increasing threshold.

    All arrays are (predicted stays,); y is False where there is no label. A ward cannot tell stays
    apart that will have no label, so alerts and PPV count them, as not positive. All other metrics
    are of stays with a label. Net benefit: Vickers & Elkin 2006, doi 10.1177/0272989X06295361.
    """
    rows: list[ThresholdRow] = []
    for threshold in sorted(set(thresholds)):
        alerted = is_alerted(p, threshold)
        ppv = alert_ppv(y, alerted, patient)
        rows.append(
            {
                "threshold": float(threshold),
                "alerts": int(alerted.sum()),
                "without_label": int((alerted & ~has_label).sum()),
                "alerts_per_day": float(alerted.mean() * stays_per_day)
                if stays_per_day and len(alerted)
                else None,
                "sensitivity": sensitivity(y, alerted, patient),
                "specificity": proportion(~alerted, has_label & ~y, patient),
                "ppv": ppv,
                "npv": proportion(~y, has_label & ~alerted, patient),
                "number_needed_to_evaluate": inverse(ppv),
                "net_benefit": _net_benefit(
                    y[has_label], p[has_label], patient[has_label], threshold
                ),
            }
        )
    return rows


def riskiest_tenth(p: Floats) -> float:
    """Return the risk that the riskiest 10% of predicted stays (stays,) reach, as `outcomes`."""
    return float(np.quantile(p, 1 - ALERTED, method="inverted_cdf")) if len(p) else 0.5


def sensitivity(y: Mask, alerted: Mask, patient: npt.NDArray[Any]) -> Interval:
    """Return the fraction of positives that are alerted; None with fewer than 20 positives."""
    return proportion(alerted, y, patient)


def alert_ppv(y: Mask, alerted: Mask, patient: npt.NDArray[Any]) -> Interval:
    """Return the fraction of alerts that are positive; None with fewer than 20 alerts."""
    return proportion(y, alerted, patient)


def proportion(hit: Mask, counted: Mask, patient: npt.NDArray[Any]) -> Interval:
    """Return the fraction of the counted stays (stays,) that are hits, with its interval.

    None where fewer than 20 stays count: a proportion of 10 has 11 values, and even an interval of
    independent stays covers in 92 to 98% of samples.
    """
    return proportion_interval(hit, counted, patient) if counted.sum() >= MIN_ALERTS else None


def inverse(interval: Interval) -> Interval:
    """Return 1 / x of an interval; None where x may be 0."""
    if not interval or min(interval) <= 0:
        return None
    return [1 / interval[0], *(1 / end for end in reversed(interval[1:]))]


def _net_benefit(y: Mask, p: Floats, patient: npt.NDArray[Any], threshold: float) -> Interval:
    if not enough_outcomes(y) or threshold >= 1:
        return None
    benefit = net_benefit(threshold).values(y.astype(np.float64), p)
    if not benefit.any():  # nobody is alerted
        return [0.0]
    if is_alerted(p, threshold).sum() < MIN_ALERTS:
        return None
    return linearized_interval(float(benefit.mean()), benefit, y, patient)
