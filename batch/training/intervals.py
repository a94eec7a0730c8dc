"""Intervals that cover the true value in 95% of samples, where stays of a patient are correlated.

Each way was chosen by the simulation of tests/benchmarks/coverage.py (docs/benchmarks.md has its
table): percentile intervals of a bootstrap cover too rarely with 10 to 40 positives.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from batch.training.calibration import Floats, log_odds, probability
from featurestore.store.scorer_metrics import Interval

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Scale:
    """A transformation on which an estimate is closer to normal than on its own scale."""

    forward: Callable[[Floats], Floats]
    back: Callable[[Floats], Floats]
    derivative: Callable[[float], float]  # of forward


IDENTITY = Scale(lambda x: x, lambda x: x, lambda x: 1.0)
# As Boyd, Eng & Page 2013 (doi 10.1007/978-3-642-40994-3_29) do for AUPRC; their standard error,
# which takes stays to be independent, is not used.
LOGIT = Scale(log_odds, probability, lambda x: 1 / (x * (1 - x)))
# ln(1 - x): for small x nearly its own scale, for large x it keeps below 1.
COMPLEMENT = Scale(
    lambda x: np.log1p(-x), lambda x: np.maximum(-np.expm1(x), 0), lambda x: 1 / (x - 1)
)


def student_interval(
    estimate: float, error: float, freedom: float, scale: Scale = IDENTITY
) -> Interval:
    """Return the interval of an estimate by its standard error and Student's quantile.

    The interval is symmetric on `scale` (delta method), for which the estimate must lie inside 0 to
    1. `freedom` is the degrees of freedom.
    """
    if not np.isfinite([estimate, error]).all() or freedom < 1:
        return None
    from scipy.special import stdtrit  # scipy.stats takes half a second to import

    margin = stdtrit(freedom, 0.975) * error * abs(scale.derivative(estimate))
    centre = scale.forward(np.array(estimate))
    low, high = sorted(float(scale.back(centre + side * margin)) for side in (-1, 1))
    return [float(estimate), low, high]


def linearized_interval(
    estimate: float,
    influence: Floats,
    y: Mask,
    patient: npt.NDArray[Any],
    scale: Scale = IDENTITY,
) -> Interval:
    """Return the interval of an estimate by the influence of each stay (stays,) on it.

    Patients are clusters (Taylor linearization; Binder 1983, doi 10.2307/1402588).
    """
    error, freedom = clustered_error(influence, patient), clustered_freedom(influence, y, patient)
    return student_interval(estimate, error, freedom, scale)


def wilson_interval(
    estimate: float, error: float | None, n: float, freedom: float = np.inf
) -> Interval:
    """Return Wilson's interval of a proportion, with the effective number of stays.

    The effective number is that of independent stays with the same standard error (Korn &
    Graubard 1998); `n` is used where the proportion is 0 or 1, or there is no error. `freedom` is
    the degrees of freedom of Student's quantile. Wilson 1927, doi 10.1080/01621459.1927.10502953.
    """
    if not np.isfinite(estimate) or n <= 0 or freedom < 1:
        return None
    from scipy.special import stdtrit

    if error and 0 < estimate < 1:
        n = estimate * (1 - estimate) / error**2
    z = stdtrit(freedom, 0.975)
    z2 = z**2
    centre = (estimate + z2 / (2 * n)) / (1 + z2 / n)
    margin = z / (1 + z2 / n) * np.sqrt(estimate * (1 - estimate) / n + z2 / (4 * n**2))
    low, high = max(0.0, float(centre - margin)), min(1.0, float(centre + margin))
    return [float(estimate), min(low, float(estimate)), max(high, float(estimate))]


def proportion_interval(hit: Mask, counted: Mask, patient: npt.NDArray[Any]) -> Interval:
    """Return the fraction of the counted stays (stays,) that are hits, with Wilson's interval.

    The number of stays is the effective one, as a patient may have several. It is no more than the
    stays: several stays of a patient look better than independent ones by chance only (Parker et
    al. 2017, National Center for Health Statistics, Vital Health Stat 2(175)).
    """
    hits, n = hit & counted, int(counted.sum())
    estimate = float(hits.sum() / n)
    error = clustered_error((hits - estimate * counted) / counted.mean(), patient)
    return wilson_interval(estimate, max(error, (estimate * (1 - estimate) / n) ** 0.5), n)


def patients_with_rarer_outcome(y: Mask, patient: npt.NDArray[Any]) -> int:
    """Return how many patients have a stay of the outcome that fewer patients have."""
    return min(len(np.unique(patient[y == outcome])) for outcome in (True, False))


def extreme_interval(estimate: float, y: Mask, patient: npt.NDArray[Any]) -> Interval:
    """Return the interval of an estimate of 0 or 1, whose error no sample shows."""
    rarer = patients_with_rarer_outcome(y, patient)
    return wilson_interval(estimate, None, rarer, rarer - 1)


def clustered_error(influence: Floats, patient: npt.NDArray[Any]) -> float:
    """Return the standard error of a mean of (stays,), with the stays of a patient as a cluster.

    Given the influence of each stay on an estimate, it is that of the estimate.
    """
    by_patient = _sums(influence, patient)
    n = len(by_patient)
    if n < 2:
        return float("nan")
    return float(np.sqrt(by_patient @ by_patient * n / (n - 1)) / len(influence))


def clustered_freedom(influence: Floats, y: Mask, patient: npt.NDArray[Any]) -> float:
    """Return the degrees of freedom of the standard error of an estimate.

    Given the influence (stays,) as in `clustered_error`, and the outcomes. They are the patients
    less one, and fewer where few of the patients decide the estimate, as the 11 with the outcome
    do: Satterthwaite's 2 V^2 / var(V), where V is the variance, and var(V) that of its terms, one
    for each patient (Pan & Wall 2002, doi 10.1002/sim.1142). They are no fewer than the patients
    with the rarer outcome, less one: var(V) is too large where one patient stands out.
    """
    squares = _sums(influence, patient) ** 2
    n, spread = len(squares), float(((squares - squares.mean()) ** 2).sum())
    if n < 2 or not spread > 0:
        return n - 1
    fewest = patients_with_rarer_outcome(y, patient) - 1
    return float(np.clip(2 * squares.sum() ** 2 * (n - 1) / n / spread, fewest, n - 1))


def _sums(influence: Floats, patient: npt.NDArray[Any]) -> Floats:
    """Return the influence of each patient on an estimate: (patients,)."""
    _, index = np.unique(patient, return_inverse=True)
    return np.asarray(np.bincount(index, influence - influence.mean()), np.float64)
