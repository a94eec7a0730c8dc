"""What the traits of a patient mean for an admission: return, death, and a long stay.

All three are exact, because each is drawn from the traits and from nothing else that a note says.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from featurestore.synthetic.rng import normal_cdf

Traits = Mapping[str, bool]


class Trait(NamedTuple):
    """A risk factor: its prevalence, the topics that mention it, and its effects.

    The effects are on the log odds of an unplanned return, on the log odds of death in hospital,
    and on the logarithm of the length of stay.
    """

    prevalence: float
    topics: tuple[str, str]
    returning: float = 0.0
    dying: float = 0.0
    staying: float = 0.0


TRAITS = {
    "lives alone": Trait(0.40, ("social", "history"), returning=0.85),
    "misses doses": Trait(0.40, ("history", "medicines"), returning=1.10),
    "heart failure": Trait(0.35, ("background", "plan"), returning=1.10),
    "prior admissions": Trait(0.30, ("history", "background"), returning=0.90),
    "active drinking": Trait(0.30, ("social", "background"), returning=0.80),
    "kidney disease": Trait(0.35, ("background", "labs"), returning=0.75),
    "follow-up arranged": Trait(0.50, ("social", "plan"), returning=-0.90),
    "shock": Trait(0.20, ("history", "plan"), dying=2.0),
    "lung disease": Trait(0.25, ("background", "social"), dying=1.5),
    "deep infection": Trait(0.40, ("history", "plan"), staying=0.75),
    "awaits placement": Trait(0.40, ("social", "plan"), staying=0.75),
}
# What a patient is admitted with, drawn for each stay. The other traits are of the patient.
ACUTE_TRAITS = ("shock", "lung disease", "deep infection", "awaits placement")
NEWBORN_DEATH_RISK = 0.01
SIGMA_OF_LOG_HOURS = 0.65
NEWBORN_SIGMA = 0.8


class PlantedRisks(NamedTuple):
    """The best possible predictions for a stay, in the order of the columns of PLANTED_RISK.csv."""

    returning: float
    dying: float
    long_stay: float


def return_risk(traits: Traits, signal: float) -> float:
    """Return the probability of an unplanned return within 30 days of a discharge alive.

    `signal` scales the log odds of the traits. Newborns, who have none, do not return.
    """
    if not traits:
        return 0.0
    log_odds = math.fsum(
        trait.returning * (traits[name] - trait.prevalence) for name, trait in TRAITS.items()
    )
    # The 0.8 keeps the rate of returns about the same for every signal. Without it, rare high risks
    # and patients with many stays would raise the rate.
    return 1 / (1 + math.exp(1.2 + signal * (0.8 - log_odds)))


def death_risk(traits: Traits, signal: float) -> float:
    """Return the probability of death in this stay, however long it lasts."""
    if not traits:
        return NEWBORN_DEATH_RISK
    log_odds = math.fsum(
        trait.dying * (traits[name] - trait.prevalence) for name, trait in TRAITS.items()
    )
    # The 0.5 keeps the rate of deaths about the same for every signal.
    return 1 / (1 + math.exp(2.75 + signal * (0.5 - log_odds)))


def length_of_stay(traits: Traits, signal: float) -> tuple[float, float]:
    """Return the median hours of a stay with these traits, and the sigma of their logarithm."""
    if not traits:
        return 60.0, NEWBORN_SIGMA
    log_ratio = math.fsum(
        trait.staying * (traits[name] - trait.prevalence) for name, trait in TRAITS.items()
    )
    return 138 * math.exp(signal * log_ratio), SIGMA_OF_LOG_HOURS


def long_stay_risk(
    traits: Traits, signal: float, days: float = 7, known_hours: float = 48
) -> float:
    """Return the probability that a stay lasts over `days`, given that it lasts `known_hours`.

    Stays last whole minutes, rounded down, so over 7 days is 10,081 minutes or more. The shortest
    and longest stays are drawn to 12 and 1,500 hours, which moves none over these thresholds.
    """
    median, sigma = length_of_stay(traits, signal)

    def survival(hours: float) -> float:
        return 1 - normal_cdf(math.log(hours / median) / sigma)

    return survival((days * 24 * 60 + 1) / 60) / survival(known_hours)
