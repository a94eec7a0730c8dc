"""Observed and expected outcomes: their ratio, and risk-adjusted CUSUM charts."""

from typing import Any

import numpy as np
import numpy.typing as npt

from batch.training.calibration import Floats
from featurestore.store.scorer_metrics import Interval

Mask = npt.NDArray[np.bool_]

ODDS_RATIOS = {"higher": 2.0, "lower": 0.5}  # that each chart looks for
CONFIDENCE = 0.99  # with which a chart of calibrated probabilities stays below its limit
_SIMULATIONS = 1_000
_IN_MEMORY = 4_000_000


def observed_expected(y: Mask, p: Floats) -> Interval:
    """Return observed outcomes over expected ones, with an exact 95% Poisson interval.

    y and p are outcomes and their probabilities (stays,). The interval is Garwood's (1936), which
    takes the expected number as known. None without stays.
    """
    from scipy.special import gammaincinv

    expected = float(p.sum())
    if not expected > 0:
        return None
    observed = int(y.sum())
    low = float(gammaincinv(observed, 0.025)) if observed else 0.0
    return [observed / expected, low / expected, float(gammaincinv(observed + 1, 0.975)) / expected]


def cusum(y: npt.NDArray[Any], p: Floats, odds_ratio: float) -> Floats:
    """Return a risk-adjusted CUSUM chart after each outcome (..., stays), in their order.

    It adds up the log likelihood ratio of odds that are `odds_ratio` times those of p, and never
    falls below 0 (Steiner et al. 2000, doi 10.1093/biostatistics/1.4.441).
    """
    weight = np.where(y, np.log(odds_ratio), 0.0) - np.log(1 - p + odds_ratio * p)
    total = np.cumsum(weight, axis=-1)
    lowest = np.minimum.accumulate(np.minimum(total, 0.0), axis=-1)
    return np.asarray(total - lowest)


def control_limit(p: Floats, odds_ratio: float) -> float:
    """Return what the chart of outcomes by probabilities p (stays,) exceeds in 1 of 100 series.

    The quantile of the maxima of 1,000 series that are simulated from p.
    """
    rng = np.random.default_rng(0)
    step = max(1, _IN_MEMORY // len(p))
    maxima = [
        cusum(rng.random((min(step, _SIMULATIONS - first), len(p))) < p, p, odds_ratio).max(axis=1)
        for first in range(0, _SIMULATIONS, step)
    ]
    return float(np.quantile(np.concatenate(maxima), CONFIDENCE))


def cusum_summary(
    y: Mask, p: Floats, predicted_at: npt.NDArray[np.datetime64]
) -> dict[str, Any] | None:
    """Return where the charts of outcomes (stays,) in the order of their predictions stand.

    `higher` looks for twice the odds, `lower` for half of them; each has `value` (after the last
    outcome), `highest`, `limit` and `signal`, the date of the prediction at which it first exceeded
    the limit, or None. None without outcomes.
    """
    if not len(y):
        return None
    summary: dict[str, Any] = {"stays": len(y)}
    for name, odds_ratio in ODDS_RATIOS.items():
        chart, limit = cusum(y, p, odds_ratio), control_limit(p, odds_ratio)
        above = np.flatnonzero(chart > limit)
        summary[name] = {
            "odds_ratio": odds_ratio,
            "value": float(chart[-1]),
            "highest": float(chart.max()),
            "limit": limit,
            "signal": str(predicted_at[above[0]].astype("datetime64[D]")) if len(above) else None,
        }
    return summary
