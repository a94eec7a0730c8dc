"""The synthetic hospital: what its files hold, who comes back, and what notes never tell."""

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

Rows = list[dict[str, str]]

# SHA-256 of what Python 3.11 writes for 20 patients.
DIGESTS = {
    "ADMISSIONS.csv": "40e62bc71966",
    "NOTEEVENTS.csv": "02d767407560",
    "PATIENTS.csv": "0b530d3b980a",
    "PLANTED_RISK.csv": "263ed54828a8",
}


class Hospital(NamedTuple):
    patients: Rows
    stays: Rows
    notes: Rows
    risk: dict[str, float]


def read(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def hospital(folder: Path, size: int, **kind: float) -> Hospital:
    write_hospital(folder, patients=size, **kind)
    patients, stays, notes = (
        read(folder / f"{name}.csv") for name in ("PATIENTS", "ADMISSIONS", "NOTEEVENTS")
    )
    risks = {row["HADM_ID"]: float(row["RISK"]) for row in read(folder / "PLANTED_RISK.csv")}
    return Hospital(patients, stays, notes, risks)


def days_home(stay: dict[str, str], following: dict[str, str]) -> int:
    left, came = (
        row[column][:10] for row, column in ((stay, "DISCHTIME"), (following, "ADMITTIME"))
    )
    return (datetime.fromisoformat(came) - datetime.fromisoformat(left)).days


def returns(stays: Rows) -> dict[str, bool]:
    """Did an unplanned return follow, by HADM_ID, where the patient left alive and stayed away?"""
    labels = {}
    for stay, following in zip(stays, [*stays[1:], None], strict=True):
        again = following if following and following["SUBJECT_ID"] == stay["SUBJECT_ID"] else None
        home = days_home(stay, again) if again else 999
        if stay["ADMISSION_TYPE"] == "NEWBORN" or stay["HOSPITAL_EXPIRE_FLAG"] == "1" or home < 1:
            continue
        unplanned = again is not None and again["ADMISSION_TYPE"] in ("EMERGENCY", "URGENT")
        labels[stay["HADM_ID"]] = home <= 30 and unplanned
    return labels


def first_stays(stays: Rows) -> set[str]:
    return set({stay["SUBJECT_ID"]: stay["HADM_ID"] for stay in reversed(stays)}.values())


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    return hospital(tmp_path_factory.mktemp("usual") / "hospital", 400)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    return hospital(tmp_path_factory.mktemp("large"), 3000, notes_per_stay=0)


@pytest.fixture(scope="module")
def large_without_signal(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    return hospital(tmp_path_factory.mktemp("large"), 3000, notes_per_stay=0, signal=0.0)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_seed_writes_the_same_hospital_and_another_seed_another(tmp_path: Path) -> None:
    for name, seed in (("one", 7), ("same", 7), ("other", 8)):
        write_hospital(tmp_path / name, patients=30, seed=seed)
    one, same, other = (contents(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same
    assert all(one[name] != other[name] for name in one)


def test_a_patient_is_the_same_however_many_follow(tmp_path: Path) -> None:
    write_hospital(tmp_path / "ten", patients=10)
    write_hospital(tmp_path / "twenty", patients=20)
    ten, twenty = contents(tmp_path / "ten"), contents(tmp_path / "twenty")
    assert all(twenty[name].startswith(ten[name]) for name in ten)


def test_the_hospital_is_this_one_on_every_machine_and_python(tmp_path: Path) -> None:
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
        "NOTEEVENTS.csv": "ROW_ID,SUBJECT_ID,HADM_ID,CHARTDATE,CHARTTIME,STORETIME,CATEGORY,"
        "DESCRIPTION,CGID,ISERROR,TEXT",
        "PLANTED_RISK.csv": "HADM_ID,RISK",
    }


def test_what_is_counted_is_what_was_written_and_progress_was_told(tmp_path: Path) -> None:
    told: list[int] = []
    counts = write_hospital(tmp_path, patients=5, progress=told.append)
    files = {"patients": "PATIENTS", "admissions": "ADMISSIONS", "notes": "NOTEEVENTS"}
    assert counts == {what: len(read(tmp_path / f"{name}.csv")) for what, name in files.items()}
    assert told == [1, 2, 3, 4, 5]


def neighbours(usual: Hospital) -> list[tuple[dict[str, str], dict[str, str]]]:
    pairs = zip(usual.stays, usual.stays[1:], strict=False)
    return [(stay, after) for stay, after in pairs if stay["SUBJECT_ID"] == after["SUBJECT_ID"]]


def notes_where(usual: Hospital, **wanted: str) -> Rows:
    return [note for note in usual.notes if all(note[name] == wanted[name] for name in wanted)]


def stays_where(usual: Hospital, **wanted: str) -> Rows:
    return [stay for stay in usual.stays if all(stay[name] == wanted[name] for name in wanted)]


def charted_before_admission(usual: Hospital) -> int:
    admitted = {stay["HADM_ID"]: stay["ADMITTIME"] for stay in usual.stays}
    inpatient = [note for note in usual.notes if note["HADM_ID"] and note["CHARTTIME"]]
    return sum(note["CHARTTIME"] < admitted[note["HADM_ID"]] for note in inpatient)


def copied_forward(usual: Hospital) -> int:
    said = [
        (note["HADM_ID"], note["TEXT"]) for note in usual.notes if note["HADM_ID"] and note["TEXT"]
    ]
    return len(said) - len(set(said))


def aged_300(usual: Hospital) -> int:
    admitted = {stay["SUBJECT_ID"]: int(stay["ADMITTIME"][:4]) for stay in usual.stays}
    ages = [admitted[row["SUBJECT_ID"]] - int(row["DOB"][:4]) for row in usual.patients]
    return sum(age >= 299 for age in ages)


ODDITIES: dict[str, tuple[Callable[[Hospital], int], int, int]] = {
    "a nursing note without a store time": (
        lambda h: sum(
            bool(n["CHARTTIME"]) for n in notes_where(h, CATEGORY="Nursing", STORETIME="")
        ),
        10,
        150,
    ),
    "a physician note of which only the day is known": (
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
    "a hidden date": (lambda h: sum("[**2" in n["TEXT"] for n in h.notes), 500, 9999),
    "a hidden hospital": (lambda h: sum("[**Hospital " in n["TEXT"] for n in h.notes), 200, 9999),
    "a hidden name": (
        lambda h: sum("[**First Name8 (NamePattern2) **]" in n["TEXT"] for n in h.notes),
        500,
        9999,
    ),
    "a stay that overlaps the one before": (
        lambda h: sum(
            before["ADMITTIME"] < after["ADMITTIME"] < before["DISCHTIME"]
            for before, after in neighbours(h)
            if before["HOSPITAL_EXPIRE_FLAG"] == "0"
        ),
        2,
        30,
    ),
    "a stay that begins on the day of discharge": (
        lambda h: sum(
            before["DISCHTIME"] < after["ADMITTIME"] and days_home(before, after) == 0
            for before, after in neighbours(h)
            if before["HOSPITAL_EXPIRE_FLAG"] == "0"
        ),
        2,
        30,
    ),
    "a planned return within 30 days": (
        lambda h: sum(
            1 <= days_home(before, after) <= 30 and after["ADMISSION_TYPE"] == "ELECTIVE"
            for before, after in neighbours(h)
        ),
        5,
        60,
    ),
    "a return after more than 30 days": (
        lambda h: sum(days_home(before, after) > 30 for before, after in neighbours(h)),
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
            for before, after in neighbours(h)
        ),
        1,
        20,
    ),
}


@pytest.mark.parametrize("oddity", ODDITIES)
def test_the_hospital_has(oddity: str, usual: Hospital) -> None:
    count, least, most = ODDITIES[oddity]
    assert least <= count(usual) <= most


def test_discharge_summaries_and_ecgs_have_a_day_but_no_hour(usual: Hospital) -> None:
    for category in ("Discharge summary", "ECG"):
        notes = notes_where(usual, CATEGORY=category)
        assert len(notes) > 100
        assert {(note["CHARTTIME"], note["STORETIME"]) for note in notes} == {("", "")}
        assert all(note["CHARTDATE"] for note in notes)


def test_radiology_is_charted_but_never_stored(usual: Hospital) -> None:
    notes = notes_where(usual, CATEGORY="Radiology")
    assert len(notes) > 100
    assert {note["STORETIME"] for note in notes} == {""}
    assert mean(bool(note["CHARTTIME"]) for note in notes) > 0.9


def test_a_note_is_stored_minutes_to_hours_after_it_is_charted(usual: Hospital) -> None:
    delays = [
        datetime.fromisoformat(note["STORETIME"]) - datetime.fromisoformat(note["CHARTTIME"])
        for note in usual.notes
        if note["STORETIME"]
    ]
    assert timedelta() <= min(delays)
    typical = sorted(delays)[len(delays) // 2]
    assert timedelta(minutes=20) < typical < timedelta(hours=2)
    assert timedelta(hours=6) < max(delays) <= timedelta(hours=36)


def test_nobody_comes_back_from_the_dead_but_an_organ_donor(large: Hospital) -> None:
    died = {row["SUBJECT_ID"]: row["DOD"] for row in large.patients if row["DOD"]}
    late = [s for s in large.stays if s["ADMITTIME"][:10] > died.get(s["SUBJECT_ID"], "9")[:10]]
    following = [after for before, after in neighbours(large) if before["DEATHTIME"]]
    assert {stay["DIAGNOSIS"] for stay in [*late, *following]} == {"ORGAN DONOR ACCOUNT"}


def test_nearly_every_stay_has_a_physician_and_a_nursing_note_on_its_first_day(
    usual: Hospital,
) -> None:
    admitted = {stay["HADM_ID"]: datetime.fromisoformat(stay["ADMITTIME"]) for stay in usual.stays}
    for category in ("Physician ", "Nursing"):
        early = {
            note["HADM_ID"]
            for note in notes_where(usual, CATEGORY=category)
            if note["HADM_ID"]
            and note["CHARTTIME"]
            and datetime.fromisoformat(note["CHARTTIME"])
            < admitted[note["HADM_ID"]] + timedelta(hours=24)
        }
        assert len(early) > 0.93 * len(admitted)


def test_notes_are_as_many_and_as_long_as_a_hospitals(usual: Hospital) -> None:
    assert 5.5 < len(usual.notes) / len(usual.stays) < 6.5
    words = {
        category: [len(note["TEXT"].split()) for note in notes_where(usual, CATEGORY=category)]
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


def test_the_ideal_reader_ranks_returns_as_well_as_planted(large: Hospital) -> None:
    labels = returns(large.stays)
    assert 0.18 < mean(labels.values()) < 0.26
    risks = [large.risk[hadm_id] for hadm_id in labels]
    assert abs(mean(risks) - mean(labels.values())) < 0.02
    assert 0.76 < roc_auc_score(list(labels.values()), risks) < 0.84


def test_without_signal_traits_say_nothing_of_returns(
    large: Hospital, large_without_signal: Hospital
) -> None:
    # A first stay's traits are the same in both hospitals; only what follows it differs.
    labels = returns(large_without_signal.stays)
    firsts = sorted(first_stays(large.stays) & labels.keys())
    trait_reader = [large.risk[hadm_id] for hadm_id in firsts]
    came_back = [labels[hadm_id] for hadm_id in firsts]
    assert mean(came_back) > 0.15
    assert abs(roc_auc_score(came_back, trait_reader) - 0.5) < 0.04
    assert len(set(large_without_signal.risk.values()) - {0.0}) == 1


def test_no_word_of_a_stay_depends_on_whether_the_patient_comes_back(tmp_path: Path) -> None:
    told, fates = [], []
    for signal in (0.0, 1.0):
        one = hospital(tmp_path / f"{signal}", 150, signal=signal)
        firsts = first_stays(one.stays)
        told.append([(n["HADM_ID"], n["TEXT"]) for n in one.notes if n["HADM_ID"] in firsts])
        fates.append(
            {hadm_id: fate for hadm_id, fate in returns(one.stays).items() if hadm_id in firsts}
        )
    assert told[0] == told[1]
    shared = fates[0].keys() & fates[1].keys()
    assert sum(fates[0][hadm_id] != fates[1][hadm_id] for hadm_id in shared) > 10


@pytest.mark.parametrize(
    ("yes", "no", "direction"),
    [
        pytest.param("vodka", "Abstains", 1, id="who drinks has the higher risk"),
        pytest.param("Known CHF", "No history of heart failure", 1, id="so has heart failure"),
        pytest.param(
            "Visiting nurse", "no follow-up arranged", -1, id="a visiting nurse lowers it"
        ),
    ],
)
def test_notes_say_what_the_risk_follows(
    yes: str, no: str, direction: int, usual: Hospital
) -> None:
    stated, denied = (
        {n["HADM_ID"] for n in usual.notes if n["HADM_ID"] and words in n["TEXT"]}
        for words in (yes, no)
    )
    assert len(stated) > 40 < len(denied)
    assert not stated & denied
    gap = mean(usual.risk[h] for h in stated) - mean(usual.risk[h] for h in denied)
    assert gap * direction > 0.05


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_files_are_private_whatever_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_hospital(tmp_path, patients=1)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_a_new_folder_is_private_and_an_older_one_is_left_as_it_was(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    write_hospital(tmp_path, patients=1)
    write_hospital(tmp_path / "new", patients=1)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path, tmp_path / "new")] == [
        0o755,
        0o700,
    ]


def test_a_hospital_is_never_written_over_another_file(tmp_path: Path) -> None:
    (tmp_path / "NOTEEVENTS.csv").write_text("precious")
    with pytest.raises(FileExistsError, match=r"NOTEEVENTS.csv already exists - name an empty"):
        write_hospital(tmp_path, patients=1)
    assert contents(tmp_path) == {"NOTEEVENTS.csv": b"precious"}


def test_a_hospital_needs_a_patient(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 patients make no hospital - ask for 1 or more"):
        write_hospital(tmp_path / "none", patients=0)
    with pytest.raises(ValueError, match=r"-1 notes per stay cannot be - ask for 0 or more"):
        write_hospital(tmp_path / "none", notes_per_stay=-1)
    assert not (tmp_path / "none").exists()


def test_a_stopped_run_leaves_no_half_file(tmp_path: Path) -> None:
    seen: list[set[str]] = []

    def stop(done: int) -> None:
        seen.append({path.suffix for path in tmp_path.iterdir()})
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_hospital(tmp_path, progress=stop)
    assert seen == [{".part"}] * 3
    assert contents(tmp_path) == {}
