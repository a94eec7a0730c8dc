"""Small hospitals on disk, in MIMIC-III's shape."""

import contextlib
import csv
import re
import sqlite3

import numpy as np

from featurestore.store.sql_files import SQL
from tests.timeline import day

ADMISSIONS = (
    (
        "hadm_id subject_id admittime dischtime deathtime admission_type discharge_location "
        "hospital_expire_flag ethnicity insurance"
    )
    .upper()
    .split()
)
PATIENTS = ["SUBJECT_ID", "GENDER", "DOB", "DOD"]
NOTES = (
    "ROW_ID SUBJECT_ID HADM_ID CHARTDATE CHARTTIME STORETIME CATEGORY DESCRIPTION ISERROR TEXT"
).split()


def admission(hadm_id, subject_id=None, admitted=None, discharged=None, **others):
    """A row of ADMISSIONS: by default ten days, of a patient with the same number."""
    row = {
        "HADM_ID": hadm_id,
        "SUBJECT_ID": subject_id or hadm_id,
        "ADMITTIME": admitted or day(0),
        "DISCHTIME": discharged or day(10),
        "ADMISSION_TYPE": "EMERGENCY",
        "DISCHARGE_LOCATION": "HOME",
        "HOSPITAL_EXPIRE_FLAG": 0,
    }
    return row | {name.upper(): value for name, value in others.items()}


def note(row_id, hadm_id, text, charted=None, **others):
    """A row of NOTEEVENTS: by default charted on the second day and stored at once."""
    row = {
        "ROW_ID": row_id,
        "SUBJECT_ID": hadm_id,
        "HADM_ID": hadm_id,
        "CHARTDATE": (charted or day(1)).date(),
        "CHARTTIME": charted or day(1),
        "STORETIME": charted or day(1),
        "CATEGORY": "Nursing",
        "TEXT": text,
    }
    return row | {name.upper(): value for name, value in others.items()}


def invent_returns(patients, base, effect, most_home, died=0):
    """Return stays and notes of patients who return more often if they live alone or are in pain.

    Their notes say so. The last patients, so many as `died`, die in hospital.
    """
    rng = np.random.default_rng(0)
    stays, notes = [], []
    for patient in range(1, patients + 1):
        alone, pain = (rng.random(2) < 0.5).tolist()
        is_dead = patient > patients - died
        stays.append(admission(patient, hospital_expire_flag=int(is_dead)))
        if not is_dead and rng.random() < base + effect * alone + effect * pain:
            stays.append(admission(1000 + patient, patient, day(20), day(21)))
        words = ["home"] * int(rng.integers(1, most_home + 1))
        words += ["alone"] * alone * 2 + ["pain"] * pain * 3
        notes.append(note(patient, patient, " ".join(words)))
    return stays, notes


def write_hospital(folder, admissions, notes, patients=None):
    """Write the three tables; patients are made for the admissions where none are given."""
    folder.mkdir(exist_ok=True)
    known = {row["SUBJECT_ID"] for row in admissions}
    patients = patients or [
        {"SUBJECT_ID": number, "GENDER": "F", "DOB": day(-60 * 365)} for number in sorted(known)
    ]
    for name, columns, rows in (
        ("ADMISSIONS", ADMISSIONS, admissions),
        ("PATIENTS", PATIENTS, patients),
        ("NOTEEVENTS", NOTES, notes),
    ):
        with (folder / f"{name}.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, columns)
            writer.writeheader()
            writer.writerows(rows)
    return folder


def own_schema(folder, old, new, tables_in=""):
    """A folder with mimic3's two SELECTs, some words replaced, over tables under a prefix."""
    folder.mkdir()
    for name in ("admissions.sql", "notes.sql"):
        text = (SQL / "schemas" / "mimic3" / name).read_text()
        text = re.sub(r"(FROM|JOIN) (?=[a-z])", rf"\1 {tables_in}", text)
        (folder / name).write_text(text.replace(old, new))
    return folder


def write_sqlite(file, folder):
    """Write MIMIC's CSV files to a SQLite file as mimic-code does, with pandas."""
    import pandas as pd

    with contextlib.closing(sqlite3.connect(file)) as con:
        for csv_file in folder.glob("*.csv"):
            pd.read_csv(csv_file).to_sql(csv_file.stem.lower(), con, index=False)
    return file
