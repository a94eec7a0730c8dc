"""Write a synthetic hospital in the files of MIMIC-IV, MIMIC-IV-ED and MIMIC-IV-Note."""

import csv
import gzip
import io
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

from featurestore.store.files import create_private
from featurestore.synthetic.hospital import check_no_hospital, write_hospital

COLUMNS = {
    "hosp/patients.csv.gz": "subject_id gender anchor_age anchor_year anchor_year_group dod",
    "hosp/admissions.csv.gz": "subject_id hadm_id admittime dischtime deathtime admission_type "
    "admit_provider_id admission_location discharge_location insurance language marital_status "
    "race edregtime edouttime hospital_expire_flag",
    "hosp/diagnoses_icd.csv.gz": "subject_id hadm_id seq_num icd_code icd_version",
    "icu/icustays.csv.gz": "subject_id hadm_id stay_id first_careunit last_careunit intime outtime "
    "los",
    "ed/edstays.csv.gz": "subject_id hadm_id stay_id intime outtime gender race arrival_transport "
    "disposition",
    "note/discharge.csv.gz": "note_id subject_id hadm_id note_type note_seq charttime storetime "
    "text",
    "note/radiology.csv.gz": "note_id subject_id hadm_id note_type note_seq charttime storetime "
    "text",
}
ADMISSION_TYPES = {"EMERGENCY": "EW EMER.", "URGENT": "URGENT", "ELECTIVE": "ELECTIVE"}
DESTINATIONS = {
    "DEAD/EXPIRED": "DIED",
    "LEFT AGAINST MEDICAL ADVI": "AGAINST ADVICE",
    "SHORT TERM HOSPITAL": "ACUTE HOSPITAL",
    "SNF": "SKILLED NURSING FACILITY",
    "REHAB/DISTINCT PART HOSP": "REHAB",
    "LONG TERM CARE HOSPITAL": "CHRONIC/LONG TERM ACUTE CARE",
}
NOTE_TYPES = {"Discharge summary": "DS", "Radiology": "RR"}
FOLDERS = sorted({name.partition("/")[0] for name in COLUMNS})
Row = dict[str, Any]


def write_mimic4_hospital(
    folder: str | Path,
    patients: int = 400,
    seed: int = 0,
    signal: float = 1.0,
    notes_per_stay: float = 6.0,
    progress: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Write the patients of `write_hospital` as MIMIC-IV's CSV files; return the counts.

    MIMIC-IV has no newborns. Its notes are discharge summaries and radiology reports; notes that
    are flagged as errors and reports without a time are omitted.

    Raises ValueError as `write_hospital` does, and FileExistsError if the folder contains one of
    FOLDERS.
    """
    folder = Path(folder)
    check_no_hospital(folder)
    for name in FOLDERS:
        if (folder / name).exists():
            raise FileExistsError(f"{folder / name} already exists - name an empty folder")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".mimic4.", dir=folder) as draft_name:
        draft = Path(draft_name)
        write_hospital(draft / "mimic3", patients, seed, signal, notes_per_stay, progress)
        for name in FOLDERS:
            (draft / name).mkdir(mode=0o700)
        with ExitStack() as files:
            tables = {name: _open_table(draft, name, files) for name in COLUMNS}
            counts = _convert(draft / "mimic3", tables)
        for name in FOLDERS:
            (draft / name).rename(folder / name)
    return counts


def _convert(mimic3: Path, tables: dict[str, "csv.DictWriter[str]"]) -> dict[str, int]:
    counts: Counter[str] = Counter(patients=0, admissions=0, notes=0)
    first_year: dict[str, int] = {}
    for stay in _read(mimic3 / "ADMISSIONS.csv"):
        if stay["ADMISSION_TYPE"] in ADMISSION_TYPES:
            first_year.setdefault(stay["SUBJECT_ID"], int(stay["ADMITTIME"][:4]))
            tables["hosp/admissions.csv.gz"].writerow(_admission(stay))
            if stay["EDREGTIME"]:
                tables["ed/edstays.csv.gz"].writerow(_ed_visit(stay))
            counts["admissions"] += 1
    for patient in _read(mimic3 / "PATIENTS.csv"):
        if patient["SUBJECT_ID"] in first_year:
            tables["hosp/patients.csv.gz"].writerow(
                _patient(patient, first_year[patient["SUBJECT_ID"]])
            )
            counts["patients"] += 1
    for name, file, convert in (
        ("ICUSTAYS", "icu/icustays", _icu_stay),
        ("DIAGNOSES_ICD", "hosp/diagnoses_icd", _diagnosis),
    ):
        for row in _read(mimic3 / f"{name}.csv"):
            if row["SUBJECT_ID"] in first_year:
                tables[f"{file}.csv.gz"].writerow(convert(row))
    note_numbers: Counter[tuple[str, str]] = Counter()
    for note in _read(mimic3 / "NOTEEVENTS.csv"):
        note_type = NOTE_TYPES.get(note["CATEGORY"].strip())
        has_time = note_type == "DS" or note["CHARTTIME"]
        subject_id = note["SUBJECT_ID"]
        if note_type and has_time and note["ISERROR"] != "1" and subject_id in first_year:
            note_numbers[subject_id, note_type] += 1
            name = "discharge" if note_type == "DS" else "radiology"
            row = _note(note, note_type, note_numbers[subject_id, note_type])
            tables[f"note/{name}.csv.gz"].writerow(row)
            counts["notes"] += 1
    return dict(counts)


def _admission(stay: Row) -> Row:
    same_columns = (
        *("subject_id", "hadm_id", "admittime", "dischtime", "deathtime", "admission_location"),
        *("insurance", "language", "marital_status", "edregtime", "edouttime"),
        "hospital_expire_flag",
    )
    destination = stay["DISCHARGE_LOCATION"]
    return {name: stay[name.upper()] for name in same_columns} | {
        "admission_type": ADMISSION_TYPES[stay["ADMISSION_TYPE"]],
        "discharge_location": DESTINATIONS.get(destination, destination),
        "race": stay["ETHNICITY"],
    }


def _ed_visit(stay: Row) -> Row:
    return {
        "subject_id": stay["SUBJECT_ID"],
        "hadm_id": stay["HADM_ID"],
        "stay_id": stay["HADM_ID"],
        "intime": stay["EDREGTIME"],
        "outtime": stay["EDOUTTIME"],
        "disposition": "ADMITTED",
    }


def _icu_stay(stay: Row) -> Row:
    names = "subject_id hadm_id first_careunit last_careunit intime outtime los".split()
    return {name: stay[name.upper()] for name in names} | {"stay_id": stay["ICUSTAY_ID"]}


def _diagnosis(row: Row) -> Row:
    codes = {"icd_code": row["ICD9_CODE"], "icd_version": 9}
    return {name: row[name.upper()] for name in ("subject_id", "hadm_id", "seq_num")} | codes


def _patient(patient: Row, anchor_year: int) -> Row:
    age = anchor_year - datetime.fromisoformat(patient["DOB"]).year
    return {
        "subject_id": patient["SUBJECT_ID"],
        "gender": patient["GENDER"],
        "anchor_age": age if age <= 89 else 91,
        "anchor_year": anchor_year,
        "anchor_year_group": "2014 - 2016",
        "dod": patient["DOD"][:10],
    }


def _note(note: Row, note_type: str, number: int) -> Row:
    return {
        "note_id": f"{note['SUBJECT_ID']}-{note_type}-{number}",
        "subject_id": note["SUBJECT_ID"],
        "hadm_id": note["HADM_ID"],
        "note_type": note_type,
        "note_seq": number,
        # A discharge summary has only a date. MIMIC-IV writes it as midnight of that day.
        "charttime": note["CHARTTIME"] or f"{note['CHARTDATE'][:10]} 00:00:00",
        "storetime": note["STORETIME"],
        "text": note["TEXT"],
    }


def _read(file: Path) -> Iterator[Row]:
    with file.open(newline="", encoding="utf-8") as stream:
        yield from csv.DictReader(stream)


def _open_table(folder: Path, name: str, files: ExitStack) -> "csv.DictWriter[str]":
    raw = files.enter_context(os.fdopen(create_private(folder / name), "wb"))
    # With a constant time and no file name in the header, the same patients give the same bytes.
    compressed = gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0)
    files.enter_context(compressed)
    stream = io.TextIOWrapper(compressed, encoding="utf-8", newline="")
    writer = csv.DictWriter(files.enter_context(stream), COLUMNS[name].split(), restval="")
    writer.writeheader()
    return writer
