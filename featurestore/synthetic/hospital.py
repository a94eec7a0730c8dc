"""Write a synthetic hospital in MIMIC-III's format, or generate only its notes."""

from collections.abc import Callable, Mapping
from pathlib import Path

from featurestore.synthetic.mimic3 import (
    COLUMNS,
    CsvTable,
    admission_row,
    diagnosis_rows,
    icu_rows,
    note_row,
    patient_row,
    private_tables,
)
from featurestore.synthetic.notes import stay_notes
from featurestore.synthetic.patients import Patient, draw_patient, draw_stays, planted_risks


def write_hospital(
    folder: str | Path,
    patients: int = 400,
    seed: int = 0,
    signal: float = 1.0,
    notes_per_stay: float = 6.0,
    progress: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Write a synthetic hospital as CSV files; return the counts of patients, admissions, notes.

    PATIENTS.csv, ADMISSIONS.csv, ICUSTAYS.csv, DIAGNOSES_ICD.csv and NOTEEVENTS.csv have
    MIMIC-III's columns. PLANTED_RISK.csv holds the best possible predictions for each HADM_ID.
    RISK: of an unplanned return 1 to 30 days after discharge, given a discharge alive; 0 for
    newborns and for the eighth stay of a patient, after which no return is drawn. DEATH_RISK: of
    death in this stay, at admission and at any later time. LONG_STAY_RISK: of a stay of over 7
    days, given that it lasts 48 hours; a death before day 7 is no long stay. For organ donors all
    are 0. `signal` scales the effects of the patients' traits. At 0 each risk is the same for all
    other stays. `notes_per_stay` is the mean. Below 3, some admission, nursing and discharge notes
    are missing.

    The same arguments give the same bytes, and a patient does not depend on the number of
    patients. Files are private (0600) and appear when all are complete; a killed run leaves none
    of them. `progress` is called with the number of patients written so far.

    Raises ValueError for fewer than one patient or a negative number of notes, and
    FileExistsError if one of the files, or one of MIMIC-IV, exists.
    """
    if patients < 1:
        raise ValueError(f"patients must be at least 1, got {patients}")
    if notes_per_stay < 0:
        raise ValueError(f"notes_per_stay must be at least 0, got {notes_per_stay}")
    folder = Path(folder)
    check_no_hospital(folder)
    if not folder.exists():
        folder.mkdir(mode=0o700, parents=True)
        folder.chmod(0o700)
    with private_tables(folder) as tables:
        for number in range(1, patients + 1):
            _write_patient(tables, draw_patient(seed, number), seed, signal, notes_per_stay)
            if progress:
                progress(number)
    names = {"patients": "PATIENTS", "admissions": "ADMISSIONS", "notes": "NOTEEVENTS"}
    return {key: tables[f"{name}.csv"].rows for key, name in names.items()}


def check_no_hospital(folder: Path) -> None:
    """Raise FileExistsError if a hospital of MIMIC-III or MIMIC-IV is in a folder.

    A store on a folder with both would read either.
    """
    for file in (*(folder / name for name in COLUMNS), *sorted(folder.glob("*/*.csv.gz"))):
        if file.exists():
            raise FileExistsError(f"{file} already exists - name an empty folder")


def _write_patient(
    tables: Mapping[str, CsvTable],
    patient: Patient,
    seed: int,
    signal: float,
    notes_per_stay: float,
) -> None:
    stays = draw_stays(patient, seed, signal)
    tables["PATIENTS.csv"].add(patient_row(patient, stays, seed))
    for stay in stays:
        tables["ADMISSIONS.csv"].add(admission_row(patient, stay, seed))
        for row in icu_rows(patient, stay, seed):
            tables["ICUSTAYS.csv"].add(row)
        for row in diagnosis_rows(patient, stay):
            tables["DIAGNOSES_ICD.csv"].add(row)
        risks = planted_risks(stay, signal)
        tables["PLANTED_RISK.csv"].add([stay.hadm_id, *(f"{risk:.6f}" for risk in risks)])
        for note in stay_notes(patient, stay, seed, notes_per_stay):
            tables["NOTEEVENTS.csv"].add(note_row(patient, note))


def invented_notes(count: int, seed: int = 0) -> list[str]:
    """Return the first `count` notes of a synthetic hospital, of many kinds and lengths."""
    notes: list[str] = []
    number = 0
    while len(notes) < count:
        number += 1
        patient = draw_patient(seed, number)
        for stay in draw_stays(patient, seed, signal=1.0):
            notes += [note.text for note in stay_notes(patient, stay, seed, notes_per_stay=6.0)]
    return notes[:count]
