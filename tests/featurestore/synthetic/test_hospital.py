"""The synthetic hospital: its files, its returns, and the relation of notes to returns."""

from __future__ import annotations

import csv
import os
import stat
from collections.abc import Callable
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

import pytest
from sklearn.metrics import roc_auc_score

from featurestore.synthetic.hospital import write_hospital
from featurestore.synthetic.mimic4 import write_mimic4_hospital

Rows = list[dict[str, str]]

# The start of the SHA-256 of each file that Python 3.11 writes for 20 patients.
DIGESTS = {
    "ADMISSIONS.csv": "afaca808f1f9",
    "DIAGNOSES_ICD.csv": "c4a3eac391ac",
    "ICUSTAYS.csv": "4e5d75e1ce9c",
    "NOTEEVENTS.csv": "224c1834b753",
    "PATIENTS.csv": "2e655357c63d",
    "PLANTED_RISK.csv": "f5500af79115",
}


class Hospital(NamedTuple):
    patients: Rows
    stays: Rows
    notes: Rows
    risk: dict[str, float]
    death_risk: dict[str, float]
    long_stay_risk: dict[str, float]


def read(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def make_hospital(folder: Path, size: int, **settings: float) -> Hospital:
    write_hospital(folder, patients=size, **settings)
    patients, stays, notes = (
        read(folder / f"{name}.csv") for name in ("PATIENTS", "ADMISSIONS", "NOTEEVENTS")
    )
    planted = read(folder / "PLANTED_RISK.csv")
    risks = [
        {row["HADM_ID"]: float(row[column]) for row in planted}
        for column in ("RISK", "DEATH_RISK", "LONG_STAY_RISK")
    ]
    return Hospital(patients, stays, notes, *risks)


def days_home(stay: dict[str, str], following: dict[str, str]) -> int:
    discharged = datetime.fromisoformat(stay["DISCHTIME"][:10])
    admitted = datetime.fromisoformat(following["ADMITTIME"][:10])
    return (admitted - discharged).days


def returns(stays: Rows) -> dict[str, bool]:
    """Return by HADM_ID whether an unplanned return followed within 30 days.

    Excludes newborns, deaths, and stays whose next admission is on or before the discharge day.
    """
    labels = {}
    for stay, following in zip(stays, [*stays[1:], None], strict=True):
        same_patient = following and following["SUBJECT_ID"] == stay["SUBJECT_ID"]
        next_stay = following if same_patient else None
        days = days_home(stay, next_stay) if next_stay else 999
        if stay["ADMISSION_TYPE"] == "NEWBORN" or stay["HOSPITAL_EXPIRE_FLAG"] == "1" or days < 1:
            continue
        unplanned = next_stay is not None and next_stay["ADMISSION_TYPE"] in ("EMERGENCY", "URGENT")
        labels[stay["HADM_ID"]] = days <= 30 and unplanned
    return labels


def first_stays(stays: Rows) -> set[str]:
    return set({stay["SUBJECT_ID"]: stay["HADM_ID"] for stay in reversed(stays)}.values())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    return make_hospital(tmp_path_factory.mktemp("small") / "hospital", 400)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    return make_hospital(tmp_path_factory.mktemp("large"), 3000, notes_per_stay=0)


@pytest.fixture(scope="module")
def large_without_signal(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    return make_hospital(tmp_path_factory.mktemp("large"), 3000, notes_per_stay=0, signal=0.0)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_seed_writes_the_same_files_and_another_seed_different_ones(
    tmp_path: Path,
) -> None:
    for name, seed in (("one", 7), ("same", 7), ("other", 8)):
        write_hospital(tmp_path / name, patients=30, seed=seed)
    one, same, other = (contents(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same
    assert all(one[name] != other[name] for name in one)


def test_a_patient_does_not_depend_on_the_number_of_patients(tmp_path: Path) -> None:
    write_hospital(tmp_path / "ten", patients=10)
    write_hospital(tmp_path / "twenty", patients=20)
    ten, twenty = contents(tmp_path / "ten"), contents(tmp_path / "twenty")
    assert all(twenty[name].startswith(ten[name]) for name in ten)


def test_every_machine_and_python_version_writes_the_same_hospital(tmp_path: Path) -> None:
    write_hospital(tmp_path / "hospital", patients=20)
    digests = {
        name: sha256(data).hexdigest()[:12]
        for name, data in contents(tmp_path / "hospital").items()
    }
    assert digests == DIGESTS


def test_the_columns_are_those_of_mimic_iii(tmp_path: Path) -> None:
    write_hospital(tmp_path, patients=1)
    assert {path.name: path.read_text().splitlines()[0] for path in tmp_path.iterdir()} == {
        "PATIENTS.csv": "ROW_ID,SUBJECT_ID,GENDER,DOB,DOD,DOD_HOSP,DOD_SSN,EXPIRE_FLAG",
        "ADMISSIONS.csv": "ROW_ID,SUBJECT_ID,HADM_ID,ADMITTIME,DISCHTIME,DEATHTIME,"
        "ADMISSION_TYPE,ADMISSION_LOCATION,DISCHARGE_LOCATION,INSURANCE,LANGUAGE,RELIGION,"
        "MARITAL_STATUS,ETHNICITY,EDREGTIME,EDOUTTIME,DIAGNOSIS,HOSPITAL_EXPIRE_FLAG,"
        "HAS_CHARTEVENTS_DATA",
        "ICUSTAYS.csv": "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,DBSOURCE,FIRST_CAREUNIT,"
        "LAST_CAREUNIT,FIRST_WARDID,LAST_WARDID,INTIME,OUTTIME,LOS",
        "DIAGNOSES_ICD.csv": "ROW_ID,SUBJECT_ID,HADM_ID,SEQ_NUM,ICD9_CODE",
        "NOTEEVENTS.csv": "ROW_ID,SUBJECT_ID,HADM_ID,CHARTDATE,CHARTTIME,STORETIME,CATEGORY,"
        "DESCRIPTION,CGID,ISERROR,TEXT",
        "PLANTED_RISK.csv": "HADM_ID,RISK,DEATH_RISK,LONG_STAY_RISK",
    }


def test_stays_in_intensive_care_lie_within_their_stay_and_return_more_often_with_lung_disease(
    tmp_path: Path,
) -> None:
    hospital = make_hospital(tmp_path, 2_000)
    stays = {stay["HADM_ID"]: stay for stay in hospital.stays}
    diagnoses: dict[str, set[str]] = {}
    for row in read(tmp_path / "DIAGNOSES_ICD.csv"):
        diagnoses.setdefault(row["HADM_ID"], set()).add(row["ICD9_CODE"])
    returns: dict[bool, list[bool]] = {True: [], False: []}
    for row in read(tmp_path / "ICUSTAYS.csv"):
        stay = stays[row["HADM_ID"]]
        # A wrong discharge time may precede the admission.
        if stay["DISCHTIME"] > stay["ADMITTIME"]:
            assert stay["ADMITTIME"] <= row["INTIME"] < row["OUTTIME"] <= stay["DISCHTIME"]
        has_lung_disease = "4928" in diagnoses[row["HADM_ID"]]
        returns[has_lung_disease].append(not row["ICUSTAY_ID"].endswith("0"))
    assert mean(returns[True]) > 2 * mean(returns[False]) > 0


def test_the_counts_are_those_of_the_files_and_progress_is_reported(tmp_path: Path) -> None:
    reported: list[int] = []
    counts = write_hospital(tmp_path, patients=5, progress=reported.append)
    files = {"patients": "PATIENTS", "admissions": "ADMISSIONS", "notes": "NOTEEVENTS"}
    assert counts == {key: len(read(tmp_path / f"{name}.csv")) for key, name in files.items()}
    assert reported == [1, 2, 3, 4, 5]


def consecutive_stays(hospital: Hospital) -> list[tuple[dict[str, str], dict[str, str]]]:
    pairs = zip(hospital.stays, hospital.stays[1:], strict=False)
    return [(stay, after) for stay, after in pairs if stay["SUBJECT_ID"] == after["SUBJECT_ID"]]


def notes_where(hospital: Hospital, **values: str) -> Rows:
    return [note for note in hospital.notes if all(note[name] == values[name] for name in values)]


def stays_where(hospital: Hospital, **values: str) -> Rows:
    return [stay for stay in hospital.stays if all(stay[name] == values[name] for name in values)]


def charted_before_admission(hospital: Hospital) -> int:
    admitted = {stay["HADM_ID"]: stay["ADMITTIME"] for stay in hospital.stays}
    inpatient = [note for note in hospital.notes if note["HADM_ID"] and note["CHARTTIME"]]
    return sum(note["CHARTTIME"] < admitted[note["HADM_ID"]] for note in inpatient)


def copied_forward(hospital: Hospital) -> int:
    texts = [
        (note["HADM_ID"], note["TEXT"])
        for note in hospital.notes
        if note["HADM_ID"] and note["TEXT"]
    ]
    return len(texts) - len(set(texts))


def aged_300(hospital: Hospital) -> int:
    admitted = {stay["SUBJECT_ID"]: int(stay["ADMITTIME"][:4]) for stay in hospital.stays}
    ages = [admitted[row["SUBJECT_ID"]] - int(row["DOB"][:4]) for row in hospital.patients]
    return sum(age >= 299 for age in ages)


CASES: dict[str, tuple[Callable[[Hospital], int], int, int]] = {
    "a nursing note without a store time": (
        lambda h: sum(
            bool(n["CHARTTIME"]) for n in notes_where(h, CATEGORY="Nursing", STORETIME="")
        ),
        10,
        150,
    ),
    "a physician note with a date but no time": (
        lambda h: len(notes_where(h, CATEGORY="Physician ", CHARTTIME="", STORETIME="")),
        3,
        80,
    ),
    "a note flagged as an error": (lambda h: len(notes_where(h, ISERROR="1")), 3, 80),
    "an addendum": (lambda h: len(notes_where(h, DESCRIPTION="Addendum")), 20, 200),
    "an empty note": (lambda h: len(notes_where(h, TEXT="")), 2, 60),
    "an outpatient note without admission": (lambda h: len(notes_where(h, HADM_ID="")), 100, 400),
    "a copied-forward note": (copied_forward, 20, 300),
    "a note charted before admission": (charted_before_admission, 5, 100),
    "a de-identified date": (lambda h: sum("[**2" in n["TEXT"] for n in h.notes), 500, 9999),
    "a de-identified hospital": (
        lambda h: sum("[**Hospital " in n["TEXT"] for n in h.notes),
        200,
        9999,
    ),
    "a de-identified name": (
        lambda h: sum("[**First Name8 (NamePattern2) **]" in n["TEXT"] for n in h.notes),
        500,
        9999,
    ),
    "a stay that overlaps the one before": (
        lambda h: sum(
            before["ADMITTIME"] < after["ADMITTIME"] < before["DISCHTIME"]
            for before, after in consecutive_stays(h)
            if before["HOSPITAL_EXPIRE_FLAG"] == "0"
        ),
        2,
        30,
    ),
    "a stay that begins on the day of discharge": (
        lambda h: sum(
            before["DISCHTIME"] < after["ADMITTIME"] and days_home(before, after) == 0
            for before, after in consecutive_stays(h)
            if before["HOSPITAL_EXPIRE_FLAG"] == "0"
        ),
        2,
        30,
    ),
    "a planned return within 30 days": (
        lambda h: sum(
            1 <= days_home(before, after) <= 30 and after["ADMISSION_TYPE"] == "ELECTIVE"
            for before, after in consecutive_stays(h)
        ),
        5,
        60,
    ),
    "a return after more than 30 days": (
        lambda h: sum(days_home(before, after) > 30 for before, after in consecutive_stays(h)),
        20,
        150,
    ),
    "a death in hospital": (
        lambda h: len(stays_where(h, DISCHARGE_LOCATION="DEAD/EXPIRED", HOSPITAL_EXPIRE_FLAG="1")),
        20,
        80,
    ),
    "a death after discharge": (
        lambda h: sum(bool(row["DOD"]) and not row["DOD_HOSP"] for row in h.patients),
        20,
        120,
    ),
    "leaving against medical advice": (
        lambda h: len(stays_where(h, DISCHARGE_LOCATION="LEFT AGAINST MEDICAL ADVI")),
        3,
        40,
    ),
    "a transfer to another hospital": (
        lambda h: len(stays_where(h, DISCHARGE_LOCATION="SHORT TERM HOSPITAL")),
        3,
        40,
    ),
    "a newborn": (lambda h: len(stays_where(h, ADMISSION_TYPE="NEWBORN")), 8, 50),
    "an urgent stay": (lambda h: len(stays_where(h, ADMISSION_TYPE="URGENT")), 20, 300),
    "an age near 300": (aged_300, 5, 80),
    "a discharge before admission": (
        lambda h: sum(stay["DISCHTIME"] < stay["ADMITTIME"] for stay in h.stays),
        1,
        20,
    ),
    "an organ donor admitted after death": (
        lambda h: sum(
            bool(before["DEATHTIME"]) and before["DEATHTIME"] < after["ADMITTIME"]
            for before, after in consecutive_stays(h)
        ),
        1,
        20,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_hospital_has(case: str, small: Hospital) -> None:
    count, minimum, maximum = CASES[case]
    assert minimum <= count(small) <= maximum


def test_discharge_summaries_and_ecgs_have_a_date_but_no_time(small: Hospital) -> None:
    for category in ("Discharge summary", "ECG"):
        notes = notes_where(small, CATEGORY=category)
        assert len(notes) > 100
        assert {(note["CHARTTIME"], note["STORETIME"]) for note in notes} == {("", "")}
        assert all(note["CHARTDATE"] for note in notes)


def test_radiology_reports_have_a_chart_time_but_no_store_time(small: Hospital) -> None:
    notes = notes_where(small, CATEGORY="Radiology")
    assert len(notes) > 100
    assert {note["STORETIME"] for note in notes} == {""}
    assert mean(bool(note["CHARTTIME"]) for note in notes) > 0.9


def test_a_note_is_stored_minutes_to_hours_after_it_is_charted(small: Hospital) -> None:
    delays = [
        datetime.fromisoformat(note["STORETIME"]) - datetime.fromisoformat(note["CHARTTIME"])
        for note in small.notes
        if note["STORETIME"]
    ]
    assert timedelta() <= min(delays)
    typical = sorted(delays)[len(delays) // 2]
    assert timedelta(minutes=20) < typical < timedelta(hours=2)
    assert timedelta(hours=6) < max(delays) <= timedelta(hours=36)


def test_only_organ_donors_are_admitted_after_death(large: Hospital) -> None:
    died = {row["SUBJECT_ID"]: row["DOD"] for row in large.patients if row["DOD"]}
    late = [s for s in large.stays if s["ADMITTIME"][:10] > died.get(s["SUBJECT_ID"], "9")[:10]]
    following = [after for before, after in consecutive_stays(large) if before["DEATHTIME"]]
    assert {stay["DIAGNOSIS"] for stay in [*late, *following]} == {"ORGAN DONOR ACCOUNT"}


def test_nearly_every_stay_has_a_physician_and_a_nursing_note_on_its_first_day(
    small: Hospital,
) -> None:
    admitted = {stay["HADM_ID"]: datetime.fromisoformat(stay["ADMITTIME"]) for stay in small.stays}
    for category in ("Physician ", "Nursing"):
        early = {
            note["HADM_ID"]
            for note in notes_where(small, CATEGORY=category)
            if note["HADM_ID"]
            and note["CHARTTIME"]
            and datetime.fromisoformat(note["CHARTTIME"])
            < admitted[note["HADM_ID"]] + timedelta(hours=24)
        }
        assert len(early) > 0.93 * len(admitted)


def test_the_number_and_length_of_notes_are_realistic(small: Hospital) -> None:
    assert 5.5 < len(small.notes) / len(small.stays) < 6.5
    words = {
        category: [len(note["TEXT"].split()) for note in notes_where(small, CATEGORY=category)]
        for category in ("Nursing", "Physician ", "Discharge summary", "Radiology", "ECG")
    }
    for category in ("Nursing", "Physician ", "Discharge summary"):
        assert 200 < median(words[category]) < 300
        assert max(words[category]) > 1500
    for category in ("Radiology", "ECG"):
        assert 40 < median(words[category]) < 150


def test_most_stays_are_long_enough_to_be_predicted_after_72_hours(large: Hospital) -> None:
    hours = [
        datetime.fromisoformat(stay["DISCHTIME"]) - datetime.fromisoformat(stay["ADMITTIME"])
        for stay in large.stays
    ]
    assert mean(length >= timedelta(hours=72) for length in hours) > 0.7
    assert 1.5 < len(large.stays) / len(large.patients) < 1.9


def test_the_planted_risk_predicts_the_returns(large: Hospital) -> None:
    labels = returns(large.stays)
    assert 0.18 < mean(labels.values()) < 0.26
    risks = [large.risk[hadm_id] for hadm_id in labels]
    assert abs(mean(risks) - mean(labels.values())) < 0.02
    assert 0.76 < roc_auc_score(list(labels.values()), risks) < 0.84


def test_without_signal_traits_do_not_predict_returns(
    large: Hospital, large_without_signal: Hospital
) -> None:
    # The first stay of a patient has the same traits in both hospitals. Only later stays differ.
    labels = returns(large_without_signal.stays)
    firsts = sorted(first_stays(large.stays) & labels.keys())
    trait_risks = [large.risk[hadm_id] for hadm_id in firsts]
    returned = [labels[hadm_id] for hadm_id in firsts]
    assert mean(returned) > 0.15
    assert abs(roc_auc_score(returned, trait_risks) - 0.5) < 0.04
    assert len(set(large_without_signal.risk.values()) - {0.0}) == 1


def test_the_first_notes_of_a_stay_do_not_depend_on_its_length_or_a_later_return(
    tmp_path: Path,
) -> None:
    texts, labels, lengths = [], [], []
    for signal in (0.0, 1.0):
        one = make_hospital(tmp_path / f"{signal}", 150, signal=signal)
        firsts = first_stays(one.stays)
        admitted = {s["HADM_ID"]: datetime.fromisoformat(s["ADMITTIME"]) for s in one.stays}
        half_day = timedelta(hours=12)  # no stay is shorter
        texts.append(
            [
                (n["HADM_ID"], n["CHARTTIME"], n["STORETIME"], n["TEXT"])
                for n in one.notes
                if n["HADM_ID"] in firsts
                and n["CHARTTIME"]
                and n["DESCRIPTION"] != "Addendum"
                and datetime.fromisoformat(n["CHARTTIME"]) < admitted[n["HADM_ID"]] + half_day
            ]
        )
        labels.append(
            {hadm_id: label for hadm_id, label in returns(one.stays).items() if hadm_id in firsts}
        )
        lengths.append({s["HADM_ID"]: s["DISCHTIME"] for s in one.stays if s["HADM_ID"] in firsts})
    assert texts[0] == texts[1]
    assert len(texts[0]) > 250
    shared = labels[0].keys() & labels[1].keys()
    assert sum(labels[0][hadm_id] != labels[1][hadm_id] for hadm_id in shared) > 10
    assert sum(lengths[0][hadm_id] != lengths[1][hadm_id] for hadm_id in firsts) > 100


@pytest.mark.parametrize(
    ("risk", "statement", "denial", "direction"),
    [
        pytest.param("risk", "vodka", "Abstains", 1, id="active drinking raises the risk"),
        pytest.param(
            "risk",
            "Known CHF",
            "No history of heart failure",
            1,
            id="heart failure raises the risk",
        ),
        pytest.param(
            "risk",
            "Visiting nurse",
            "no follow-up arranged",
            -1,
            id="arranged follow-up lowers the risk",
        ),
        pytest.param("death_risk", "Septic shock", "Warm and well", 1, id="shock kills"),
        pytest.param(
            "death_risk", "FEV1", "Breathes easily", 1, id="emphysema raises the risk of death"
        ),
        pytest.param(
            "long_stay_risk", "osteomyelitis", "Bacteremia", 1, id="osteomyelitis prolongs the stay"
        ),
        pytest.param("long_stay_risk", "Evicted", "Caseworker", 1, id="who has no home stays long"),
    ],
)
def test_notes_mention_the_traits_that_change_the_risk(
    risk: str, statement: str, denial: str, direction: int, small: Hospital
) -> None:
    stated, denied = (
        {n["HADM_ID"] for n in small.notes if n["HADM_ID"] and words in n["TEXT"]}
        for words in (statement, denial)
    )
    assert len(stated) > 40 < len(denied)
    assert not stated & denied
    risks = getattr(small, risk)
    gap = mean(risks[h] for h in stated) - mean(risks[h] for h in denied)
    assert gap * direction > 0.05


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_files_are_private_with_any_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_hospital(tmp_path, patients=1)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_a_new_folder_is_private_and_an_existing_one_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    write_hospital(tmp_path, patients=1)
    write_hospital(tmp_path / "new", patients=1)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path, tmp_path / "new")] == [
        0o755,
        0o700,
    ]


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "NOTEEVENTS.csv").write_text("precious")
    with pytest.raises(FileExistsError, match=r"NOTEEVENTS.csv already exists - name an empty"):
        write_hospital(tmp_path, patients=1)
    assert contents(tmp_path) == {"NOTEEVENTS.csv": b"precious"}


@pytest.mark.parametrize(
    ("first", "second"),
    [(write_hospital, write_mimic4_hospital), (write_mimic4_hospital, write_hospital)],
    ids=["MIMIC-III first", "MIMIC-IV first"],
)
def test_hospitals_of_two_schemas_do_not_share_a_folder(
    tmp_path: Path, first: Callable[..., object], second: Callable[..., object]
) -> None:
    first(tmp_path, patients=1)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileExistsError, match="already exists - name an empty folder"):
        second(tmp_path, patients=1)
    assert sorted(tmp_path.rglob("*")) == before


def test_counts_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="patients must be at least 1, got 0"):
        write_hospital(tmp_path / "none", patients=0)
    with pytest.raises(ValueError, match="notes_per_stay must be at least 0, got -1"):
        write_hospital(tmp_path / "none", notes_per_stay=-1)
    assert not (tmp_path / "none").exists()


def test_an_interrupted_run_leaves_no_file(tmp_path: Path) -> None:
    suffixes: list[set[str]] = []

    def stop(done: int) -> None:
        suffixes.append({path.suffix for path in tmp_path.iterdir()})
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_hospital(tmp_path, progress=stop)
    assert suffixes == [{".part"}] * 3
    assert contents(tmp_path) == {}
