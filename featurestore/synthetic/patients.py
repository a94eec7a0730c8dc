"""Synthetic patients: their traits, and their hospital stays.

The traits of a patient determine what the notes say, and how likely an unplanned return, death in
hospital and a long stay are. Notes and stays have separate random generators, so no note depends
on how the stay goes on or whether the patient returns.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from featurestore.synthetic.risks import (
    ACUTE_TRAITS,
    TRAITS,
    PlantedRisks,
    death_risk,
    length_of_stay,
    long_stay_risk,
    return_risk,
)
from featurestore.synthetic.rng import Rng
from featurestore.synthetic.vocabulary import BIRTH, COMPLAINTS, ORGAN_DONATION, SURGERY

MAX_STAYS = 8
TRANSFER = "SHORT TERM HOSPITAL"
NEWBORN = "NEWBORN"
UNPLANNED = ("EMERGENCY", "EMERGENCY", "EMERGENCY", "EMERGENCY", "URGENT")
DISCHARGE_LOCATIONS = {
    "HOME": 34,
    "HOME HEALTH CARE": 30,
    "SNF": 16,
    "REHAB/DISTINCT PART HOSP": 12,
    "LONG TERM CARE HOSPITAL": 4,
    "LEFT AGAINST MEDICAL ADVI": 2,
    TRANSFER: 2,
}


class Patient(NamedTuple):
    """A patient; `age` is in years at the first admission, 0 for a newborn."""

    subject_id: int
    sex: str
    age: int
    first_admission: datetime
    traits: dict[str, bool]  # empty for newborns


class Stay(NamedTuple):
    """One admission; `number` counts from 1, `previous_discharge` is None for the first."""

    hadm_id: int
    number: int
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
    traits = {
        name: rng.chance(trait.prevalence)
        for name, trait in TRAITS.items()
        if name not in ACUTE_TRAITS
    }
    return Patient(10_000 + number, rng.choice("MF"), age, first_admission, traits if age else {})


def planted_risks(stay: Stay, signal: float) -> PlantedRisks:
    """Return the best possible predictions for a stay, exactly as it was drawn.

    No return is drawn after the last possible stay, which is a transfer, or a death.
    """
    if stay.diagnosis == ORGAN_DONATION[0]:
        return PlantedRisks(0.0, 0.0, 0.0)
    return PlantedRisks(
        returning=0.0 if stay.number == MAX_STAYS else return_risk(stay.traits, signal),
        dying=death_risk(stay.traits, signal),
        long_stay=long_stay_risk(stay.traits, signal),
    )


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
        stays.append(_draw_stay(patient, stays, *admission, seed, signal, rng))
        admission = _draw_next_admission(stays[-1], return_risk(stays[-1].traits, signal), rng)
    if stays[-1].died and rng.chance(0.1):
        stays.append(_organ_donor_stay(stays[-1], rng))
    return stays


def _draw_stay(
    patient: Patient,
    earlier: Sequence[Stay],
    admitted: datetime,
    admission_type: str,
    seed: int,
    signal: float,
    rng: Rng,
) -> Stay:
    number = len(earlier) + 1
    traits = dict(patient.traits)
    if traits:
        traits["prior admissions"] |= bool(earlier)
        traits["follow-up arranged"] = rng.chance(TRAITS["follow-up arranged"].prevalence)
        acute = Rng(seed, patient.subject_id, number, "acute")
        traits |= {name: acute.chance(TRAITS[name].prevalence) for name in ACUTE_TRAITS}
    # Death and the length of the stay are independent given the traits, so that the risk of death
    # is the same after 24 hours as it was on admission.
    hours = min(max(rng.lognormal(*length_of_stay(traits, signal)), 12), 1500)
    dies = rng.chance(death_risk(traits, signal))
    location = rng.weighted_choice(DISCHARGE_LOCATIONS) if patient.age else "HOME"
    if number == MAX_STAYS:
        location = TRANSFER  # no return is drawn: readmission_labels has no label after it
    complaints = {NEWBORN: BIRTH, "ELECTIVE": SURGERY}.get(admission_type, COMPLAINTS)
    diagnosis, complaint = rng.choice(list(complaints.items()))
    return Stay(
        hadm_id=100_000 + (patient.subject_id - 10_000) * 10 + number - 1,
        number=number,
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
    if stay.died or not stay.traits or stay.number == MAX_STAYS:
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
        number=last.number + 1,
        admission_type="EMERGENCY",
        admitted=admitted,
        discharged=add_hours(admitted, rng.uniform(8, 30)),
        diagnosis=diagnosis,
        complaint=complaint,
        traits={},
        previous_discharge=last.discharged,
    )
