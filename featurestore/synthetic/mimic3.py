"""Synthetic patients, stays and notes as CSV files with MIMIC-III's columns."""

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

from featurestore.store.files import create_private
from featurestore.synthetic.notes import Note
from featurestore.synthetic.patients import UNPLANNED, Patient, Stay, add_hours
from featurestore.synthetic.rng import Rng
from featurestore.synthetic.vocabulary import ICD9_CODES

Row = list[Any]

COLUMNS = {
    "PATIENTS.csv": "ROW_ID SUBJECT_ID GENDER DOB DOD DOD_HOSP DOD_SSN EXPIRE_FLAG",
    "ADMISSIONS.csv": "ROW_ID SUBJECT_ID HADM_ID ADMITTIME DISCHTIME DEATHTIME ADMISSION_TYPE "
    "ADMISSION_LOCATION DISCHARGE_LOCATION INSURANCE LANGUAGE RELIGION MARITAL_STATUS ETHNICITY "
    "EDREGTIME EDOUTTIME DIAGNOSIS HOSPITAL_EXPIRE_FLAG HAS_CHARTEVENTS_DATA",
    "ICUSTAYS.csv": "ROW_ID SUBJECT_ID HADM_ID ICUSTAY_ID DBSOURCE FIRST_CAREUNIT LAST_CAREUNIT "
    "FIRST_WARDID LAST_WARDID INTIME OUTTIME LOS",
    "DIAGNOSES_ICD.csv": "ROW_ID SUBJECT_ID HADM_ID SEQ_NUM ICD9_CODE",
    "NOTEEVENTS.csv": "ROW_ID SUBJECT_ID HADM_ID CHARTDATE CHARTTIME STORETIME CATEGORY "
    "DESCRIPTION CGID ISERROR TEXT",
    "PLANTED_RISK.csv": "HADM_ID RISK DEATH_RISK LONG_STAY_RISK",
}
# LANGUAGE, RELIGION, MARITAL_STATUS, ETHNICITY
DEMOGRAPHICS = (
    ("ENGL", "ENGL", "ENGL", "SPAN", "RUSS", ""),
    ("CATHOLIC", "PROTESTANT QUAKER", "JEWISH", "NOT SPECIFIED", "UNOBTAINABLE"),
    ("MARRIED", "SINGLE", "WIDOWED", "DIVORCED", ""),
    ("WHITE", "WHITE", "WHITE", "BLACK/AFRICAN AMERICAN", "ASIAN", "HISPANIC OR LATINO"),
)


class CsvTable:
    """A CSV file that is being written; `rows` counts the rows and fills a leading ROW_ID."""

    def __init__(self, file: IO[str], columns: list[str]) -> None:
        self.writer = csv.writer(file, lineterminator="\n")
        self.writer.writerow(columns)
        self.numbered = columns[0] == "ROW_ID"
        self.rows = 0

    def add(self, row: Row) -> None:
        self.rows += 1
        self.writer.writerow([self.rows, *row] if self.numbered else row)


@contextmanager
def private_tables(folder: Path) -> Iterator[dict[str, CsvTable]]:
    """Open the tables, mode 0600; rename them to their names when the block ends without an error.

    After an error none of the files exists.
    """
    drafts = {name: folder / f".{name}.{os.getpid()}.part" for name in COLUMNS}
    try:
        with ExitStack() as files:
            tables = {}
            for name, draft in drafts.items():
                stream = os.fdopen(create_private(draft), "w", encoding="utf-8", newline="")
                tables[name] = CsvTable(files.enter_context(stream), COLUMNS[name].split())
            yield tables
        for name, draft in drafts.items():
            draft.replace(folder / name)
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)


def patient_row(patient: Patient, stays: Sequence[Stay], seed: int) -> Row:
    """Return the row of PATIENTS.csv without ROW_ID."""
    rng = Rng(seed, patient.subject_id, "death")
    # MIMIC-III moves the birth of patients over 89 to 300 years before their first admission.
    years = 300 if patient.age > 89 else patient.age + 0.5
    days = int(years * 365.25) if patient.age else 0
    born = patient.first_admission - timedelta(days=days)
    hospital_death = registry_death = ""
    deaths = [stay.discharged for stay in stays if stay.died]
    if deaths:
        hospital_death = f"{deaths[0].date()} 00:00:00"
        registry_death = hospital_death if rng.chance(0.7) else ""
    elif patient.age and rng.chance(0.2):
        death = add_hours(stays[-1].discharged, rng.uniform(48, 20_000))
        registry_death = f"{death.date()} 00:00:00"
    death_date = hospital_death or registry_death
    dates = [f"{born.date()} 00:00:00", death_date, hospital_death, registry_death]
    return [patient.subject_id, patient.sex, *dates, int(bool(death_date))]


def admission_row(patient: Patient, stay: Stay, seed: int) -> Row:
    """Return the row of ADMISSIONS.csv without ROW_ID."""
    patient_rng = Rng(seed, patient.subject_id, "person")
    insurance = "Medicare" if patient.age >= 65 else patient_rng.choice(("Private", "Medicaid"))
    demographics = [patient_rng.choice(values) for values in DEMOGRAPHICS]
    rng = Rng(seed, stay.hadm_id, "desk")
    unplanned = stay.admission_type in UNPLANNED
    emergency_arrival = add_hours(stay.admitted, -rng.uniform(1, 9)) if unplanned else ""
    # As in MIMIC-III, a few discharge times are wrong and precede the admission.
    wrong_discharge = not stay.died and rng.chance(0.006)
    return [
        patient.subject_id,
        stay.hadm_id,
        stay.admitted,
        add_hours(stay.admitted, -rng.uniform(1, 14)) if wrong_discharge else stay.discharged,
        stay.discharged if stay.died else "",
        stay.admission_type,
        "EMERGENCY ROOM ADMIT" if unplanned else "PHYS REFERRAL/NORMAL DELI",
        stay.discharge_location,
        insurance,
        *demographics,
        emergency_arrival,
        add_hours(stay.admitted, rng.uniform(0.2, 2)) if unplanned else "",
        stay.diagnosis,
        int(stay.died),
        1,
    ]


def icu_rows(patient: Patient, stay: Stay, seed: int) -> list[Row]:
    """Return the rows of ICUSTAYS.csv of a stay, without ROW_ID.

    Patients in shock go to intensive care more often, those with a lung disease return there more
    often, and half of those who die do so there.
    """
    rng = Rng(seed, stay.hadm_id, "intensive care")
    rows: list[Row] = []
    if not rng.chance(0.75 if stay.traits.get("shock") else 0.25):
        return rows
    returns = 0.6 if stay.traits.get("lung disease") else 0.04
    begin = add_hours(stay.admitted, rng.uniform(0, 6))
    while begin < stay.discharged:
        end = min(add_hours(begin, rng.lognormal(24, 0.6)), stay.discharged)
        next_begin = add_hours(end, rng.uniform(6, 24)) if rng.chance(returns) else stay.discharged
        if stay.died and next_begin >= stay.discharged and rng.chance(0.5):
            end = stay.discharged
        unit, number = rng.choice(("MICU", "SICU", "CCU")), 10 * stay.hadm_id + len(rows)
        days = round((end - begin).total_seconds() / 86_400, 4)
        identity = [patient.subject_id, stay.hadm_id, number, "metavision"]
        rows.append([*identity, unit, unit, 1, 1, begin, end, days])
        begin = next_begin
    return rows


def diagnosis_rows(patient: Patient, stay: Stay) -> list[Row]:
    """Return the rows of DIAGNOSES_ICD.csv of a stay, without ROW_ID."""
    names = [stay.diagnosis, *(name for name, present in stay.traits.items() if present)]
    codes = [ICD9_CODES[name] for name in names if name in ICD9_CODES]
    return [[patient.subject_id, stay.hadm_id, rank, code] for rank, code in enumerate(codes, 1)]


def note_row(patient: Patient, note: Note) -> Row:
    """Return the row of NOTEEVENTS.csv without ROW_ID."""
    *cells, is_error, text = note
    return [patient.subject_id, *cells, "1" if is_error else "", text]
