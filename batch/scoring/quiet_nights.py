"""What nights differ by if nothing has changed: the null distributions of the nightly checks.

Each limit is exceeded on a quiet night with a known, small probability. The probabilities of all
checks of a night add up to ALARMS at most.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batch.embedding.drift import MIN_NIGHTS
from batch.training.calibration import Floats

ALARMS = 1 / 1000
WINDOWS = (1, 3, 7, 28)  # nights that are taken together; whole weeks have all days of the week
NIGHTS = max(WINDOWS) + 1

_MIN_STAYS = 20  # of which a distribution of scores is compared
_MIN_PAST_NIGHTS = 10  # from which the variation between nights is estimated
_BINS = 10
_DRAWS = 4_000


@dataclass(frozen=True)
class Reference:
    """A row of reference_log_odds: how much the notes of quiet nights vary, in spreads."""

    n_patients: int
    skewness: float
    same_day: float
    same_patient: float
    standard_error: float


@dataclass(frozen=True)
class Shift:
    """The mean log odds of some nights, in spreads from that of the reference."""

    nights: int  # taken together; 0 if the last night is compared with those before it
    notes: int
    shift: float
    limit: float  # of a quiet night

    @property
    def is_unusual(self) -> bool:
        """Whether a quiet night would hardly differ so much."""
        return abs(self.shift) > self.limit


def find_shifts(
    night: npt.NDArray[np.int64],
    subject_id: npt.NDArray[np.int64],
    n_notes: npt.NDArray[np.int64],
    shift: Floats,
    reference: Reference,
    alarms: float,
    usual_nights: int = NIGHTS,
) -> list[Shift]:
    """Compare nights with the reference, one to 28 together, and the last one with those before.

    The rows are the notes of a patient and night (rows,), with their mean distance from the
    reference; night 0 is the last one. The variance is that of notes with the reference's
    correlations within a day and within a patient, times the variation between the nights before,
    if that is larger. The quantile is Student's, or that of a Pearson III distribution with the
    reference's skewness if it is larger. `usual_nights` is how many nights before the last one are
    usual. Empty where the last night has no notes.
    """
    if not (night == 0).any():
        return []
    alarms /= len(WINDOWS) + 1
    rows = _Rows.of_patients(night, subject_id, n_notes, shift, reference)
    past = [number for number in np.unique(night).tolist() if number > 0]
    mean, variance, notes = rows.mean(rows.night == 0)
    variation = _variation_between([rows.mean(rows.night == number) for number in past])

    def compare(nights: int, difference: float, variance: float, usual: float, n: int) -> Shift:
        """`variance` is that of the nights, `usual` that of what they are compared with."""
        limit = _quantile(alarms, difference, variance, reference) * np.sqrt(variance + usual)
        return Shift(nights, n, difference, float(limit))

    compared = []
    for nights in WINDOWS:
        of_window = rows.mean(rows.night < nights)
        usual_variance = reference.standard_error**2
        compared.append(
            compare(nights, of_window[0], of_window[1] * variation, usual_variance, of_window[2])
        )
    is_usual = (rows.night > 0) & (rows.night <= usual_nights)
    if len(np.unique(rows.night[is_usual])) >= MIN_NIGHTS:
        usual, usual_variance, _ = rows.mean(is_usual)
        compared.append(
            compare(0, mean - usual, variance * variation, usual_variance * variation, notes)
        )
    return compared


@dataclass
class _Rows:
    """The notes of each patient and night: (rows,)."""

    night: npt.NDArray[np.int64]
    patient: npt.NDArray[np.int64]
    n: Floats
    total: Floats
    reference: Reference

    @classmethod
    def of_patients(
        cls,
        night: npt.NDArray[np.int64],
        subject_id: npt.NDArray[np.int64],
        n_notes: npt.NDArray[np.int64],
        shift: Floats,
        reference: Reference,
    ) -> "_Rows":
        """Add up the rows of a patient and night, of several categories."""
        patient = np.unique(subject_id, return_inverse=True)[1]
        patients = int(patient.max()) + 1
        keys, row = np.unique(night * patients + patient, return_inverse=True)
        n = np.bincount(row, n_notes).astype(np.float64)
        total = np.bincount(row, n_notes * shift).astype(np.float64)
        return cls(keys // patients, keys % patients, n, total, reference)

    def mean(self, members: npt.NDArray[np.bool_]) -> tuple[float, float, int]:
        """Return the mean over notes, its variance on quiet nights, and the number of notes."""
        n = self.n[members]
        of_patients = np.bincount(self.patient[members], n)
        notes = n.sum()
        same_day, same_patient = self.reference.same_day, self.reference.same_patient
        variance = (
            (1 - same_day) * notes
            + (same_day - same_patient) * (n @ n)
            + same_patient * (of_patients @ of_patients)
        ) / notes**2
        return float(self.total[members].sum() / notes), float(variance), int(notes)


def _variation_between(past: list[tuple[float, float, int]]) -> float:
    """Return the variance of nights over that of their notes, at least 1.

    Half the mean squared difference of successive nights (von Neumann 1941), which a slow drift
    hardly changes.
    """
    if len(past) < _MIN_PAST_NIGHTS:
        return 1.0
    mean, variance, _ = np.array(past).T
    return max(1.0, float((np.diff(mean) ** 2 / (variance[1:] + variance[:-1])).mean()))


def _quantile(alarms: float, mean: float, variance: float, reference: Reference) -> float:
    """Return how many standard errors quiet nights differ by at most, towards a mean's side."""
    from scipy.special import stdtrit

    skewness = float(np.sign(mean) * reference.skewness * np.sqrt(variance))
    student = -float(stdtrit(reference.n_patients - 1, alarms / 2))
    return max(student, pearson3_quantile(alarms / 2, skewness))


def pearson3_quantile(alarms: float, skewness: float) -> float:
    """Return what a Pearson III variable with mean 0 and variance 1 exceeds with a probability.

    As scipy.stats.pearson3.isf, whose import takes half a second.
    """
    from scipy.special import gammainccinv, gammaincinv, ndtri

    if abs(skewness) < 1e-3:
        return -float(ndtri(alarms))
    shape = 4 / skewness**2
    quantile = gammainccinv(shape, alarms) if skewness > 0 else gammaincinv(shape, alarms)
    return float(np.sign(skewness) * (quantile - shape) / np.sqrt(shape))


@dataclass(frozen=True)
class Distribution:
    """The scores of some nights compared with those of the reference."""

    nights: int  # taken together
    stays: int
    psi: float
    psi_limit: float  # of a quiet night
    alert_rate: float
    usual_rate: float
    low: float  # alert rate of a quiet night
    high: float

    @property
    def ratio(self) -> float:
        """How many times as high, or as low, the alert rate is, with half an alert more in each."""
        rate = self.alert_rate + 0.5 / self.stays
        usual = self.usual_rate + 0.5 / self.stays
        return max(rate / usual, usual / rate)


def find_distributions(
    night: npt.NDArray[np.int64],
    probability: Floats,
    reference: Floats,
    alert_above: float,
    alarms: float,
) -> list[Distribution]:
    """Compare the scores of one to 28 nights together with those of the reference (stays,).

    Half of the alarms are for the population stability index, half for the alert rate. Empty with
    fewer than 20 stays in either.
    """
    if len(reference) < _MIN_STAYS:
        return []
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, _bins(len(reference)) + 1)[1:-1]))
    expected = np.bincount(np.searchsorted(edges, reference), minlength=len(edges) + 1)
    alarms /= 2 * len(WINDOWS)
    # Probabilities that are equal in SQL and in Python may differ in the last bit.
    threshold = alert_above * (1 - 1e-12)
    alerts = int((reference >= threshold).sum())
    compared: list[Distribution] = []
    for nights in WINDOWS:
        p = probability[night < nights]
        if len(p) < _MIN_STAYS or (compared and compared[-1].stays == len(p)):
            continue
        counts = np.bincount(np.searchsorted(edges, p), minlength=len(expected))
        low, high = alert_limits(alerts, len(reference), len(p), alarms)
        compared.append(
            Distribution(
                nights=nights,
                stays=len(p),
                psi=float(psi(expected, counts)),
                psi_limit=psi_limit(expected, len(p), alarms),
                alert_rate=float((p >= threshold).mean()),
                usual_rate=alerts / len(reference),
                low=low,
                high=high,
            )
        )
    return compared


def _bins(stays: int) -> int:
    return min(_BINS, stays // 10)


def psi(expected: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> Floats:
    """Return the population stability index of counts (..., bins) against expected ones (bins,).

    The sum of (q - p) ln(q / p) over the bins, where half a stay is added to each bin so that an
    empty one has a logarithm.
    """
    p = (expected + 0.5) / (expected + 0.5).sum()
    q = (counts + 0.5) / (counts + 0.5).sum(axis=-1, keepdims=True)
    return np.asarray(((q - p) * np.log(q / p)).sum(axis=-1))


def psi_limit(expected: npt.NDArray[np.int64], stays: int, alarms: float) -> float:
    """Return what the index of so many stays exceeds with a probability of `alarms`.

    4,000 resamples of nights of that size, each from proportions that the reference leaves
    possible; beyond them a Pearson III distribution with their mean, variance and skewness.
    """
    rng = np.random.default_rng(0)
    proportions = rng.dirichlet(expected + 0.5, _DRAWS)
    draws = psi(expected, rng.multinomial(stays, proportions))
    mean, spread = float(draws.mean()), float(draws.std())
    if spread == 0:  # a single bin
        return 0.0
    skewness = float((((draws - mean) / spread) ** 3).mean())
    return mean + spread * pearson3_quantile(alarms, skewness)


def alert_limits(alerts: int, reference: int, stays: int, alarms: float) -> tuple[float, float]:
    """Return the alert rates between which so many stays have one but for `alarms`.

    The beta-binomial distribution that follows from the alerts among the stays of the reference
    (Jeffreys prior).
    """
    from scipy.special import betaln, gammaln

    k = np.arange(stays + 1)
    a, b = alerts + 0.5, reference - alerts + 0.5
    log_p = gammaln(stays + 1) - gammaln(k + 1) - gammaln(stays - k + 1)
    log_p += betaln(k + a, stays - k + b) - betaln(a, b)
    p = np.exp(log_p)
    low = int((np.cumsum(p) <= alarms / 2).sum())
    high = stays - int((np.cumsum(p[::-1]) <= alarms / 2).sum())
    return low / stays, high / stays
