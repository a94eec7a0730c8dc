"""What a scorer's `metrics` column records: its types, and how intervals and outcomes are written.

An outcome is the phrase of a task, in the past tense: "{n} of {m} stays {outcome}".
"""

from math import floor
from typing import TypedDict

DEFAULT_OUTCOME = "returned"
_VERBS = {"returned": "return", "died": "die", "stayed": "stay", "had": "have"}

# Estimate, low, high (95%); the estimate alone where no interval covers; None where undefined.
Interval = list[float] | None
SplitCounts = dict[str, int]  # of train, valid and test

# How the windows of an admission are combined.
AGGREGATES = {
    "mean": "the mean of the windows",
    "max": "the maximum of the windows",
    "mean-of-notes": "the mean of the notes",
    "last-note": "the last note",
    "clinicalbert": "windows by ClinicalBERT's rule",
}


class Calibration(TypedDict):
    """The map of log odds to probabilities, and the patients on whom it was estimated."""

    slope: float  # 0 without a signal
    intercept: float
    chi_squared: float  # likelihood ratio of the slope
    separated: bool  # log odds separate the outcomes completely
    min_probability: float
    max_probability: float
    calibrated_on: str


class CandidateMetrics(TypedDict):
    """One of the regressions that were compared."""

    aggregate: str
    c: float
    log_loss: float | None  # calibrated, on the patients calibrated on
    test_auroc: Interval
    test_slope: Interval  # before calibration
    selected: bool


class AlertOutcomes(TypedDict):
    """The number of alerted stays by what happened after them."""

    positive: int
    negative: int
    died_in_hospital: int
    other: int  # without a label for another reason


class AlertMetrics(AlertOutcomes):
    """Performance where the stays of highest risk, `per_100` of every 100, are alerted.

    All predicted test stays count, with a label or without.
    """

    per_100: int
    ppv: Interval  # positive, of all that are alerted
    sensitivity: Interval  # alerted, of all that are positive


class ThresholdMetrics(TypedDict):
    """Performance on test patients where stays are alerted from a probability on.

    The threshold has a precision of 80% on patients that the scorer was fitted or calibrated on,
    out of fold; None where it has with no 20 alerts or more.
    """

    threshold: float | None
    alerts: int  # of labelled test stays
    precision: Interval
    recall: Interval


class GroupEstimates(TypedDict):
    """Performance in a group of test patients; None where too few stays support it."""

    sensitivity: Interval
    false_positive_rate: Interval  # 1 - specificity
    ppv: Interval
    oe_ratio: Interval
    auroc: Interval


class SubgroupMetrics(GroupEstimates):
    """A group of test patients, and how it differs from all other test stays."""

    by: str
    group: str
    admissions: int  # with a label
    positive: int
    alerts: int  # of all predicted stays
    threshold: float  # of an alert
    differences: dict[str, Interval]  # of the estimates


class LearningCurvePoint(TypedDict):
    """Test AUROC of the regression fitted on a part of its patients."""

    admissions: int
    positive: int
    auroc: Interval


class CovariateMetrics(TypedDict):
    """A covariate of a scorer, on its training stays."""

    name: str
    mean: float  # of the stays that have it
    standard_deviation: float  # where a missing value counts as the mean
    missing: float  # fraction of the stays
    log_odds: float  # calibrated, per standard deviation
    log_odds_if_missing: float  # compared with the mean
    auroc: Interval  # of the covariate alone, or of whether it is missing, whichever is higher
    is_limited: bool  # its SELECT uses the prediction time ($cutoff), or gives known_at


class TurnMetrics(TypedDict):
    """The performance of predictions of every labelled stay, by ten turns of the split."""

    admissions: int
    patients: int
    positives: int
    metrics: dict[str, dict[str, Interval]]  # of the scorer and each baseline


class ScorerMetrics(TypedDict):
    """How a scorer was fitted and how it performs on test patients."""

    outcome: str  # what positives did, such as "returned"
    admissions: SplitCounts
    positives: SplitCounts
    c: float
    aggregate: str
    observed_until: str | None  # of a live hospital, when it was fitted (ISO 8601)
    no_signal: str | None  # why all probabilities are the prevalence
    calibration: Calibration
    test: dict[str, dict[str, Interval]]  # of the scorer and each baseline: metric -> interval
    differences: dict[str, Interval]  # AUROC of the scorer minus that of each baseline
    alerts: list[AlertMetrics]
    at_80_precision: ThresholdMetrics
    candidates: list[CandidateMetrics]
    covariates: list[CovariateMetrics]  # empty without
    subgroups: list[SubgroupMetrics]
    ici_if_calibrated: float | None  # 95% of samples of this size are below, if risks are right
    learning_curve: list[LearningCurvePoint]
    stays_per_day: float | None
    test_from: str | None  # the first day of test stays (ISO 8601); None for all
    turns: TurnMetrics | None  # None unless it was asked for
    seed: int
    bootstraps: int
    versions: dict[str, str]
    warnings: list[str]


class TrainedScorer(ScorerMetrics):
    """What `train` returns: the metrics, and the scorer they belong to."""

    scorer_id: str


def negate(outcome: str) -> str:
    """Return what negatives did: `did not return`, or `did not` where the verb is not known."""
    words = outcome.split()
    if words[0] in ("was", "were"):
        return " ".join([words[0], "not", *words[1:]])
    if words[0] not in _VERBS:
        return "did not"
    return " ".join(["did not", *(_VERBS.get(word, word) for word in words)])


def positives(outcome: str) -> str:
    """Return a noun for the stays that had an outcome: `returns`, or `positives` of others."""
    return "returns" if outcome == DEFAULT_OUTCOME else "positives"


def format_threshold(threshold: float, decimals: int = 3) -> str:
    """Return a threshold rounded down: whoever types it alerts the same stays, or more."""
    return f"{floor(threshold * 10**decimals + 1e-9) / 10**decimals:.{decimals}f}"


def format_interval(interval: Interval, digits: int = 3, to: str = " to ") -> str:
    """Return `0.712 (0.662 to 0.762)`, the estimate alone without an interval, or a dash."""
    if not interval:
        return "-"
    if len(interval) == 1:
        return f"{interval[0]:.{digits}f}"
    return f"{interval[0]:.{digits}f} ({format_range(interval, digits, to)})"


def format_range(interval: list[float], digits: int = 3, to: str = " to ") -> str:
    """Return the two ends of an interval, as `0.662 to 0.762`; never a hyphen before a minus."""
    low, high = (f"{end:.{digits}f}" for end in interval[1:])
    return f"{low}{' to ' if '-' in low + high else to}{high}"
