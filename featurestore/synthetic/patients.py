"""Synthetic patients: their traits, their hospital stays, and the risk of an unplanned return.

The traits of a patient determine what the notes say and how likely an unplanned return is. Notes
and returns have separate random generators, so no note depends on whether the patient returns.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from featurestore.synthetic.rng import Rng
from featurestore.synthetic.vocabulary import BIRTH, COMPLAINTS, ORGAN_DONATION, SURGERY

MAX_STAYS = 8
NEWBORN = "NEWBORN"
UNPLANNED = ("EMERGENCY", "EMERGENCY", "EMERGENCY", "EMERGENCY", "URGENT")
DISCHARGE_LOCATIONS = {
    "HOME": 34,
    "HOME HEALTH CARE": 30,
    "SNF": 16,
    "REHAB/DISTINCT PART HOSP": 12,
    "LONG TERM CARE HOSPITAL": 4,
    "LEFT AGAINST MEDICAL ADVI": 2,
    "SHORT TERM HOSPITAL": 2,
}


class Trait(NamedTuple):
    """A risk factor of a return: its prevalence, its log odds, and the topics that mention it."""

    prevalence: float
    log_odds: float
    topics: tuple[str, str]


TRAITS = {
    "lives alone": Trait(0.40, 0.85, ("social", "history")),
    "misses doses": Trait(0.40, 1.10, ("history", "medicines")),
    "heart failure": Trait(0.35, 1.10, ("background", "plan")),
    "prior admissions": Trait(0.30, 0.90, ("history", "background")),
    "active drinking": Trait(0.30, 0.80, ("social", "background")),
    "kidney disease": Trait(0.35, 0.75, ("background", "labs")),
    "follow-up arranged": Trait(0.50, -0.90, ("social", "plan")),
}


class Patient(NamedTuple):
    """A patient; `age` is in years at the first admission, 0 for a newborn."""

    subject_id: int
    sex: str
    age: int
    first_admission: datetime
    traits: dict[str, bool]  # empty for newborns


class Stay(NamedTuple):
    """One admission; `previous_discharge` is None for the first."""

    hadm_id: int
    admission_type: str
    admitted: datetime
    discharged: datetime
    discharge_location: str
    diagnosis: str
    complaint: str  # the diagnosis in the words of a note
    traits: dict[str, bool]  # empty for newborns and organ donors
    previous_discharge: datetime | None

    @property
    def died(self) -> bool:
        return self.discharge_location == "DEAD/EXPIRED"


def add_hours(moment: datetime, hours: float) -> datetime:
    """Return the moment `hours` later, in whole minutes."""
    return moment + timedelta(minutes=int(hours * 60))


def draw_patient(seed: int, number: int) -> Patient:
    """Return patient `number`, counted from 1, of the hospital with this seed."""
    rng = Rng(seed, number, "patient")
    age = 0 if rng.chance(0.05) else int(min(max(66 + 16 * rng.normal(), 18), 98))
    first_admission = add_hours(datetime(2101, 1, 1), rng.uniform(0, 85 * 365 * 24))
    traits = {name: rng.chance(trait.prevalence) for name, trait in TRAITS.items()}
    return Patient(10_000 + number, rng.choice("MF"), age, first_admission, traits if age else {})


def return_risk(traits: Mapping[str, bool], signal: float) -> float:
    """Return the probability of an unplanned return within 30 days of a discharge alive.

    `signal` scales the log odds of the traits.
    """
    if not traits:
        return 0.0
    log_odds = math.fsum(
        trait.log_odds * (traits[name] - trait.prevalence) for name, trait in TRAITS.items()
    )
    # The 0.8 keeps the rate of returns about the same for every signal. Without it, rare high risks
    # and patients with many stays would raise the rate.
    return 1 / (1 + math.exp(1.2 + signal * (0.8 - log_odds)))


def draw_stays(patient: Patient, seed: int, signal: float) -> list[Stay]:
    """Return all stays of a patient in the order of admission."""
    rng = Rng(seed, patient.subject_id, "first")
    first_type = "ELECTIVE" if rng.chance(0.2) else rng.choice(UNPLANNED)
    admission: tuple[datetime, str] | None = (
        patient.first_admission,
        first_type if patient.age else NEWBORN,
    )
    stays: list[Stay] = []
    while admission:
        rng = Rng(seed, patient.subject_id, len(stays))
        stays.append(_draw_stay(patient, stays, *admission, rng))
        admission = _draw_next_admission(stays[-1], return_risk(stays[-1].traits, signal), rng)
    if stays[-1].died and rng.chance(0.1):
        stays.append(_organ_donor_stay(stays[-1], rng))
    return stays


def _draw_stay(
    patient: Patient, earlier: Sequence[Stay], admitted: datetime, admission_type: str, rng: Rng
) -> Stay:
    traits = dict(patient.traits)
    if traits:
        traits["prior admissions"] |= bool(earlier)
        traits["follow-up arranged"] = rng.chance(TRAITS["follow-up arranged"].prevalence)
    hours = min(max(rng.lognormal(138 if patient.age else 60, 0.8), 12), 1500)
    # The last possible stay ends in death, so that no return that was drawn is missing.
    dies = rng.chance(0.06 if patient.age else 0.01) or len(earlier) + 1 == MAX_STAYS
    location = rng.weighted_choice(DISCHARGE_LOCATIONS) if patient.age else "HOME"
    complaints = {NEWBORN: BIRTH, "ELECTIVE": SURGERY}.get(admission_type, COMPLAINTS)
    diagnosis, complaint = rng.choice(list(complaints.items()))
    return Stay(
        hadm_id=100_000 + (patient.subject_id - 10_000) * 10 + len(earlier),
        admission_type=admission_type,
        admitted=admitted,
        discharged=add_hours(admitted, hours),
        discharge_location="DEAD/EXPIRED" if dies else location,
        diagnosis=diagnosis,
        complaint=complaint,
        traits=traits,
        previous_discharge=earlier[-1].discharged if earlier else None,
    )


def _draw_next_admission(stay: Stay, risk: float, rng: Rng) -> tuple[datetime, str] | None:
    """Return time and type of the next admission, or None; `risk` is that of an unplanned one."""
    if stay.died or not stay.traits:
        return None
    midnight = datetime(stay.discharged.year, stay.discharged.month, stay.discharged.day)
    hour = rng.uniform(0, 24)
    if rng.chance(0.015):  # the next stay overlaps this one
        return add_hours(stay.discharged, -rng.uniform(1, 10)), "EMERGENCY"
    if rng.chance(0.015):  # a return on the day of discharge
        same_day = min(add_hours(stay.discharged, hour / 4), add_hours(midnight, 23.98))
        return same_day, rng.choice(UNPLANNED)
    if rng.chance(risk):
        return add_hours(midnight, 24 * rng.integer(1, 30) + hour), rng.choice(UNPLANNED)
    if rng.chance(0.05):
        return add_hours(midnight, 24 * rng.integer(2, 30) + hour), "ELECTIVE"
    if rng.chance(0.17):
        admission_type = "ELECTIVE" if rng.chance(0.25) else rng.choice(UNPLANNED)
        return add_hours(midnight, 24 * rng.integer(31, 400) + hour), admission_type
    return None


def _organ_donor_stay(last: Stay, rng: Rng) -> Stay:
    """Return the stay that MIMIC records for an organ donor, admitted hours after death."""
    admitted = add_hours(last.discharged, rng.uniform(0.5, 8))
    diagnosis, complaint = ORGAN_DONATION
    return last._replace(
        hadm_id=last.hadm_id + 1,
        admission_type="EMERGENCY",
        admitted=admitted,
        discharged=add_hours(admitted, rng.uniform(8, 30)),
        diagnosis=diagnosis,
        complaint=complaint,
        traits={},
        previous_discharge=last.discharged,
    )
