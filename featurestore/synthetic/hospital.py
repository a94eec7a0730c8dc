"""A synthetic hospital in MIMIC-III's shape: invented patients, stays and notes.

A patient's traits (lives alone, misses doses, ...) decide how the notes read and how likely an
unplanned return is. Text and return never see each other: each is drawn from its own stream.
"""

from __future__ import annotations

import csv
import math
import os
import random
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from featurestore.store.files import create_private
from featurestore.synthetic.vocabulary import (
    BIRTH,
    COMPLAINTS,
    DENIED,
    DONOR,
    FILLERS,
    HEADINGS,
    MARKED,
    RANGES,
    STATED,
    SURGERY,
    WORDS,
)

T = TypeVar("T")
Cells = list[Any]

HEADERS = {
    "PATIENTS.csv": "ROW_ID,SUBJECT_ID,GENDER,DOB,DOD,DOD_HOSP,DOD_SSN,EXPIRE_FLAG",
    "ADMISSIONS.csv": "ROW_ID,SUBJECT_ID,HADM_ID,ADMITTIME,DISCHTIME,DEATHTIME,ADMISSION_TYPE,"
    "ADMISSION_LOCATION,DISCHARGE_LOCATION,INSURANCE,LANGUAGE,RELIGION,MARITAL_STATUS,ETHNICITY,"
    "EDREGTIME,EDOUTTIME,DIAGNOSIS,HOSPITAL_EXPIRE_FLAG,HAS_CHARTEVENTS_DATA",
    "NOTEEVENTS.csv": "ROW_ID,SUBJECT_ID,HADM_ID,CHARTDATE,CHARTTIME,STORETIME,CATEGORY,"
    "DESCRIPTION,CGID,ISERROR,TEXT",
    "PLANTED_RISK.csv": "HADM_ID,RISK",
}
MOST_STAYS = 8
MEAN_STAY_HOURS = 180
SAID = 0.82  # how often a note says yes or no to a trait
UNPLANNED = ("EMERGENCY", "EMERGENCY", "EMERGENCY", "EMERGENCY", "URGENT")


class Trait(NamedTuple):
    """What moves the risk of a return: how common, how strong (log odds), where notes say it."""

    share: float
    weight: float
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


NURSING, PHYSICIAN, RADIOLOGY, ECG = "Nursing", "Physician ", "Radiology", "ECG"
SUMMARY, NEWBORN, ADDENDUM = "Discharge summary", "NEWBORN", "Addendum"


class Kind(NamedTuple):
    """How a note is built: topics in reading order, words (median, sigma of the log), title."""

    topics: str
    median: float
    sigma: float
    title: str


SUMMARY_TITLE = "Admission Date: {admitted}   Discharge Date: {left}\nSex: {sex}   Seen by {name}"
PHYSICIAN_TOPICS = "history background social medicines vitals exam labs plan"
SUMMARY_TOPICS = "history background social exam labs course medicines plan"
KINDS = {
    PHYSICIAN: Kind(PHYSICIAN_TOPICS, 235, 0.8, "Physician note, {hospital}, {clock}"),
    NURSING: Kind("history social background systems vitals plan", 235, 0.8, "{name}, RN, {clock}"),
    SUMMARY: Kind(SUMMARY_TOPICS, 235, 0.8, SUMMARY_TITLE),
    RADIOLOGY: Kind("reason technique findings impression", 65, 0.25, "{date} {clock}, {clip}"),
    ECG: Kind("tracing", 55, 0.2, "ECG of {date}"),
    NEWBORN: Kind("birth infant", 60, 0.35, "NEWBORN NOTE {date}"),
    ADDENDUM: Kind("addendum", 18, 0.3, "ADDENDUM by {name}"),
}
CATEGORIES = {NURSING: 4, PHYSICIAN: 3, RADIOLOGY: 2, ECG: 1}
DESTINATIONS = {
    "HOME": 34,
    "HOME HEALTH CARE": 30,
    "SNF": 16,
    "REHAB/DISTINCT PART HOSP": 12,
    "LONG TERM CARE HOSPITAL": 4,
    "LEFT AGAINST MEDICAL ADVI": 2,
    "SHORT TERM HOSPITAL": 2,
}
DEMOGRAPHY = (
    ("ENGL", "ENGL", "ENGL", "SPAN", "RUSS", ""),
    ("CATHOLIC", "PROTESTANT QUAKER", "JEWISH", "NOT SPECIFIED", "UNOBTAINABLE"),
    ("MARRIED", "SINGLE", "WIDOWED", "DIVORCED", ""),
    ("WHITE", "WHITE", "WHITE", "BLACK/AFRICAN AMERICAN", "ASIAN", "HISPANIC OR LATINO"),
)
MARKS = ((": ", " ", "\n\n"), (":\n", "\n", "\n\n"), (":\n- ", "\n- ", "\n"), (" - ", " ", "\n"))
DECKS = {
    name: [(topic, filler) for topic in kind.topics.split() for filler in FILLERS[topic]]
    for name, kind in KINDS.items()
}


class Rng:
    """Chance that falls alike everywhere: only `random()` of a named seed keeps its sequence.

    Floats are added by fsum: what sum() makes of them changed with Python 3.12.
    """

    def __init__(self, *name: int | str) -> None:
        self.random = random.Random("/".join(map(str, name))).random

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.random()

    def whole(self, low: int, high: int) -> int:
        return low + int(self.random() * (high - low + 1))

    def pick(self, table: Sequence[T]) -> T:
        return table[int(self.random() * len(table))]

    def weighted(self, shares: Mapping[str, float]) -> str:
        mark = self.random() * sum(shares.values())
        totals = accumulate(shares.values())
        return next(name for name, total in zip(shares, totals, strict=True) if mark < total)

    def shuffled(self, items: Iterable[T]) -> list[T]:
        return sorted(items, key=lambda _: self.random())

    def normal(self) -> float:
        return math.fsum(self.random() for _ in range(12)) - 6

    def lognormal(self, median: float, sigma: float) -> float:
        return median * math.exp(sigma * self.normal())


class Blanks(dict[str, Any]):
    """What fills a sentence's blanks: facts of the stay, and a fresh draw for all others."""

    def __init__(self, rng: Rng, facts: Mapping[str, object]) -> None:
        super().__init__(facts)
        self.rng = rng

    def __missing__(self, blank: str) -> object:
        if blank == "date":
            return hidden(self["day"] - timedelta(days=self.rng.whole(0, 6)))
        if blank == "clock":
            return f"{self.rng.whole(0, 23):02d}:{self.rng.whole(0, 59):02d}"
        if blank in RANGES:
            low, high, decimals = RANGES[blank]
            return f"{self.rng.between(low, high):.{decimals}f}"
        if blank in WORDS:
            return self.rng.pick(WORDS[blank])
        return MARKED[blank].format(self.rng.whole(1, 9999))


class Patient(NamedTuple):
    """A person; `age` in years at the first admission, 0 for a newborn."""

    subject_id: int
    sex: str
    age: int
    first_admit: datetime
    traits: dict[str, bool]


class Stay(NamedTuple):
    """One admission; `home_since` is the discharge before it, None at the first."""

    hadm_id: int
    kind: str
    admit: datetime
    discharge: datetime
    destination: str
    complaint: tuple[str, str]  # (diagnosis, as told by the patient)
    traits: dict[str, bool]  # empty for newborns and organ donors
    home_since: datetime | None

    @property
    def died(self) -> bool:
        return self.destination == "DEAD/EXPIRED"


def after(moment: datetime, hours: float) -> datetime:
    return moment + timedelta(minutes=int(hours * 60))


def hours_between(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds() / 3600


def hidden(day: datetime) -> str:
    return f"[**{day.year}-{day.month}-{day.day}**]"


def new_patient(seed: int, number: int) -> Patient:
    rng = Rng(seed, number, "patient")
    age = 0 if rng.chance(0.05) else int(min(max(66 + 16 * rng.normal(), 18), 98))
    first_admit = after(datetime(2101, 1, 1), rng.between(0, 85 * 365 * 24))
    traits = {name: rng.chance(trait.share) for name, trait in TRAITS.items()}
    return Patient(10_000 + number, rng.pick("MF"), age, first_admit, traits if age else {})


def return_risk(traits: Mapping[str, bool], signal: float) -> float:
    """The chance of an unplanned return within 30 days, should the patient leave alive."""
    if not traits:
        return 0.0
    moved = math.fsum(t.weight * (traits[name] - t.share) for name, t in TRAITS.items())
    # Without the 0.8, rare high risks and returning patients would make returns more frequent.
    return 1 / (1 + math.exp(1.2 + signal * (0.8 - moved)))


def stays_of(patient: Patient, seed: int, signal: float) -> list[Stay]:
    rng = Rng(seed, patient.subject_id, "first")
    kind = "ELECTIVE" if rng.chance(0.2) else rng.pick(UNPLANNED)
    coming: tuple[datetime, str] | None = (patient.first_admit, kind if patient.age else NEWBORN)
    stays: list[Stay] = []
    while coming:
        rng = Rng(seed, patient.subject_id, len(stays))
        stays.append(new_stay(patient, stays, *coming, rng))
        coming = next_coming(stays[-1], return_risk(stays[-1].traits, signal), rng)
    if stays[-1].died and rng.chance(0.1):
        stays.append(donation(stays[-1], rng))
    return stays


def new_stay(
    patient: Patient, earlier: Sequence[Stay], admit: datetime, kind: str, rng: Rng
) -> Stay:
    traits = dict(patient.traits)
    if traits:
        traits["prior admissions"] |= bool(earlier)
        traits["follow-up arranged"] = rng.chance(TRAITS["follow-up arranged"].share)
    hours = min(max(rng.lognormal(138 if patient.age else 60, 0.8), 12), 1500)
    # The last stay we tell of ends in death, so that no return goes out_of_fold.
    dies = rng.chance(0.06 if patient.age else 0.01) or len(earlier) + 1 == MOST_STAYS
    leaves_for = rng.weighted(DESTINATIONS) if patient.age else "HOME"
    complaints = {"NEWBORN": BIRTH, "ELECTIVE": SURGERY}.get(kind, COMPLAINTS)
    return Stay(
        hadm_id=100_000 + (patient.subject_id - 10_000) * 10 + len(earlier),
        kind=kind,
        admit=admit,
        discharge=after(admit, hours),
        destination="DEAD/EXPIRED" if dies else leaves_for,
        complaint=rng.pick(list(complaints.items())),
        traits=traits,
        home_since=earlier[-1].discharge if earlier else None,
    )


def next_coming(stay: Stay, risk: float, rng: Rng) -> tuple[datetime, str] | None:
    """When and how the patient is next admitted, if ever; `risk` is that of an unplanned return."""
    if stay.died or not stay.traits:
        return None
    midnight = datetime(stay.discharge.year, stay.discharge.month, stay.discharge.day)
    at = rng.between(0, 24)
    if rng.chance(0.015):  # the next stay overlaps this one
        return after(stay.discharge, -rng.between(1, 10)), "EMERGENCY"
    if rng.chance(0.015):  # back on the day of discharge
        return min(after(stay.discharge, at / 4), after(midnight, 23.98)), rng.pick(UNPLANNED)
    if rng.chance(risk):
        return after(midnight, 24 * rng.whole(1, 30) + at), rng.pick(UNPLANNED)
    if rng.chance(0.05):
        return after(midnight, 24 * rng.whole(2, 30) + at), "ELECTIVE"
    if rng.chance(0.17):
        kind = "ELECTIVE" if rng.chance(0.25) else rng.pick(UNPLANNED)
        return after(midnight, 24 * rng.whole(31, 400) + at), kind
    return None


def donation(last: Stay, rng: Rng) -> Stay:
    """The row MIMIC keeps for an organ donor, admitted hours after death."""
    admit = after(last.discharge, rng.between(0.5, 8))
    return last._replace(
        hadm_id=last.hadm_id + 1,
        kind="EMERGENCY",
        admit=admit,
        discharge=after(admit, rng.between(8, 30)),
        complaint=DONOR,
        traits={},
        home_since=last.discharge,
    )


def patient_cells(patient: Patient, stays: Sequence[Stay], seed: int) -> Cells:
    rng = Rng(seed, patient.subject_id, "death")
    # MIMIC moves the birth of patients over 89 to 300 years before their first admission.
    born = patient.first_admit - timedelta(
        days=int((300 if patient.age > 89 else patient.age + 0.5) * 365.25) if patient.age else 0
    )
    in_hospital = in_registry = ""
    deaths = [stay.discharge for stay in stays if stay.died]
    if deaths:
        in_hospital = f"{deaths[0].date()} 00:00:00"
        in_registry = in_hospital if rng.chance(0.7) else ""
    elif patient.age and rng.chance(0.2):
        in_registry = f"{after(stays[-1].discharge, rng.between(48, 20_000)).date()} 00:00:00"
    died = in_hospital or in_registry
    dates = [f"{born.date()} 00:00:00", died, in_hospital, in_registry]
    return [patient.subject_id, patient.sex, *dates, int(bool(died))]


def admission_cells(patient: Patient, stay: Stay, seed: int) -> Cells:
    person, rng = Rng(seed, patient.subject_id, "person"), Rng(seed, stay.hadm_id, "desk")
    insured = "Medicare" if patient.age >= 65 else person.pick(("Private", "Medicaid"))
    about = [person.pick(choices) for choices in DEMOGRAPHY]
    urgent = stay.kind in UNPLANNED
    arrived = after(stay.admit, -rng.between(1, 9)) if urgent else ""
    mistimed = not stay.died and rng.chance(0.006)
    return [
        patient.subject_id,
        stay.hadm_id,
        stay.admit,
        after(stay.admit, -rng.between(1, 14)) if mistimed else stay.discharge,
        stay.discharge if stay.died else "",
        stay.kind,
        "EMERGENCY ROOM ADMIT" if urgent else "PHYS REFERRAL/NORMAL DELI",
        stay.destination,
        insured,
        *about,
        arrived,
        after(stay.admit, rng.between(0.2, 2)) if urgent else "",
        stay.complaint[0],
        int(stay.died),
        1,
    ]


def note_cells(patient: Patient, stay: Stay, seed: int, notes_per_stay: float) -> Iterator[Cells]:
    """The notes of a stay in order of time, and outpatient notes from before it."""
    if stay.complaint == DONOR:
        return
    rng = Rng(seed, stay.hadm_id, "notes")
    latest: dict[tuple[str, int | str], str] = {}
    for moment, category, hadm_id in schedule(stay, notes_per_stay, rng):
        text = compose(patient, stay, category, moment, rng)
        if category in (NURSING, PHYSICIAN) and rng.chance(0.06):
            text = latest.get((category, hadm_id), text)  # copied forward
        latest[category, hadm_id] = text
        if rng.chance(0.004):
            text = ""
        yield note_row(patient, hadm_id, moment, category, "Report", text, rng)
        if category != ECG and rng.chance(0.02):
            text = compose(patient, stay, ADDENDUM, moment, rng)
            moment = after(moment, rng.between(1, 20))
            yield note_row(patient, hadm_id, moment, category, ADDENDUM, text, rng)


def schedule(stay: Stay, notes_per_stay: float, rng: Rng) -> list[tuple[datetime, str, int | str]]:
    """When which note is written, under which HADM_ID: outpatient notes, from before, have none."""
    hours = hours_between(stay.admit, stay.discharge)
    kept = 0.98 * min(1.0, notes_per_stay / 3)
    seen = -rng.between(0.5, 6) if rng.chance(0.05) else rng.between(0.5, 10)
    usual = [(seen, PHYSICIAN), (rng.between(1, 12), NURSING), (hours, SUMMARY)]
    notes: list[tuple[datetime, str, int | str]] = [
        (after(stay.admit, at), category, stay.hadm_id)
        for at, category in usual
        if rng.chance(kept)
    ]
    more = max(0.0, 0.93 * notes_per_stay - 2.94) * (0.4 + 0.6 * hours / MEAN_STAY_HOURS)
    for _ in range(int(more + rng.random())):
        category = rng.weighted(CATEGORIES) if stay.traits else NURSING
        notes.append((after(stay.admit, rng.between(1, hours)), category, stay.hadm_id))
    at_home = hours_between(stay.home_since, stay.admit) if stay.home_since else 60 * 24
    if stay.traits and at_home > 24:
        for _ in range(int(0.06 * notes_per_stay + rng.random())):
            visit = after(stay.admit, -at_home * rng.between(0.1, 0.9))
            notes.append((visit, rng.pick((PHYSICIAN, RADIOLOGY, ECG)), ""))
    return sorted(notes, key=lambda note: note[0])


def note_row(
    patient: Patient,
    hadm_id: int | str,
    moment: datetime,
    category: str,
    description: str,
    text: str,
    rng: Rng,
) -> Cells:
    charted: datetime | str = moment
    stored: datetime | str = ""
    if category in (SUMMARY, ECG) or rng.chance(0.015):
        charted = ""
    elif category != RADIOLOGY and not rng.chance(0.03):
        stored = after(moment, min(rng.lognormal(0.8, 1.2), 36))
    author = rng.whole(14_000, 21_000) if category in (NURSING, PHYSICIAN) else ""
    flagged = "1" if rng.chance(0.006) else ""
    times = [moment.date(), charted, stored]
    return [patient.subject_id, hadm_id, *times, category, description, author, flagged, text]


def compose(patient: Patient, stay: Stay, category: str, moment: datetime, rng: Rng) -> str:
    """Write a note: what it says of the traits, among as much else as its length asks for."""
    kind = category if stay.traits or category == ADDENDUM else NEWBORN
    topics, median, sigma, title = KINDS[kind]
    blanks = Blanks(rng, facts(patient, stay, moment))
    sections: dict[str, list[str]] = {topic: [] for topic in topics.split()}
    told = told_traits(stay.traits, sections, rng)
    words = min(max(rng.lognormal(median, sigma), median / 4), 4000.0) - 11 * len(told)
    deck: list[tuple[str, str]] = []
    while words > 0:
        deck = deck or rng.shuffled(DECKS[kind])
        topic, sentence = deck.pop()
        sections[topic].append(sentence.format_map(blanks))
        words -= sentence.count(" ") + 1
    for topic, sentence in told:
        place = rng.whole(0, len(sections[topic]))
        sections[topic].insert(place, sentence.format_map(blanks))
    return title.format_map(blanks) + "\n\n" + laid_out(sections, rng)


def told_traits(
    traits: Mapping[str, bool], topics: Container[str], rng: Rng
) -> list[tuple[str, str]]:
    """The (topic, sentence) pairs by which a note states or denies most of the traits."""
    told = []
    for name, present in traits.items():
        homes = [topic for topic in TRAITS[name].topics if topic in topics]
        if homes and rng.chance(SAID):
            told.append((rng.pick(homes), rng.pick((STATED if present else DENIED)[name])))
    return told


def facts(patient: Patient, stay: Stay, moment: datetime) -> dict[str, object]:
    age = patient.age + stay.admit.year - patient.first_admit.year
    pronouns = ("He", "His", "him", "man") if patient.sex == "M" else ("She", "Her", "her", "woman")
    subject, possessive, him, person = pronouns
    return {
        "He": subject,
        "he": subject.lower(),
        "His": possessive,
        "his": possessive.lower(),
        "him": him,
        "himself": f"{him}self",
        "person": person,
        "age": age if age < 90 else "[**Age over 90 **]",
        "sex": patient.sex,
        "complaint": stay.complaint[1],
        "admitted": hidden(stay.admit),
        "left": hidden(stay.discharge),
        "day": moment,
    }


def laid_out(sections: Mapping[str, list[str]], rng: Rng) -> str:
    """The sections under headings, in one of several ways of writing them."""
    colon, gap, blank = rng.pick(MARKS)
    shout = rng.chance(0.4)
    parts = []
    for topic, said in sections.items():
        if said:
            heading = rng.pick(HEADINGS.get(topic, [topic.capitalize()]))
            parts.append(f"{heading.upper() if shout else heading}{colon}{gap.join(said)}")
    return blank.join(parts)


class Table:
    """A CSV file under way; `rows` counts what was added, and numbers it where ROW_ID leads."""

    def __init__(self, file: IO[str], header: str) -> None:
        self.writer = csv.writer(file, lineterminator="\n")
        self.writer.writerow(header.split(","))
        self.numbered = header.startswith("ROW_ID")
        self.rows = 0

    def add(self, cells: Cells) -> None:
        self.rows += 1
        self.writer.writerow([self.rows, *cells] if self.numbered else cells)


@contextmanager
def private_tables(folder: Path) -> Iterator[dict[str, Table]]:
    """Tables only their owner may read; they get their names when all are whole, or vanish."""
    parts = {name: folder / f".{name}.{os.getpid()}.part" for name in HEADERS}
    try:
        with ExitStack() as files:
            yield {
                name: Table(files.enter_context(private_file(part)), HEADERS[name])
                for name, part in parts.items()
            }
        for name, part in parts.items():
            part.replace(folder / name)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def private_file(path: Path) -> IO[str]:
    return os.fdopen(create_private(path), "w", encoding="utf-8", newline="")


def write_hospital(
    folder: str | Path,
    patients: int = 400,
    seed: int = 0,
    signal: float = 1.0,
    notes_per_stay: float = 6.0,
    progress: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Write an invented hospital as CSV files; return the counts of patients, admissions, notes.

    PATIENTS.csv, ADMISSIONS.csv and NOTEEVENTS.csv have MIMIC-III's columns. PLANTED_RISK.csv
    (HADM_ID, RISK) holds what an ideal reader would predict: the probability with which an
    unplanned return 1 to 30 days after discharge was drawn, given that the patient leaves alive;
    0 for newborns and organ donors. `signal` scales the traits' log odds: at 0 the risk is the
    same for all other stays. `notes_per_stay` is the mean; below 3 even the usual admission,
    nursing and discharge notes are thinned out.

    The same arguments give the same bytes, and a patient is the same however many follow. Files
    are private (0600) and take their names when all are whole; a killed run leaves none of them.
    `progress` is told the number of patients done so far. ValueError for fewer than one patient
    or negative notes; FileExistsError where one of the files is.
    """
    if patients < 1:
        raise ValueError(f"{patients} patients make no hospital - ask for 1 or more")
    if notes_per_stay < 0:
        raise ValueError(f"{notes_per_stay} notes per stay cannot be - ask for 0 or more")
    folder = Path(folder)
    for name in HEADERS:
        if (folder / name).exists():
            raise FileExistsError(f"{folder / name} already exists - name an empty folder")
    if not folder.exists():
        folder.mkdir(mode=0o700, parents=True)
        folder.chmod(0o700)
    with private_tables(folder) as tables:
        for done in range(1, patients + 1):
            write_patient(tables, new_patient(seed, done), seed, signal, notes_per_stay)
            if progress:
                progress(done)
    names = {"patients": "PATIENTS", "admissions": "ADMISSIONS", "notes": "NOTEEVENTS"}
    return {what: tables[f"{name}.csv"].rows for what, name in names.items()}


def invented_notes(count: int, seed: int = 0) -> list[str]:
    """So many notes of the invented hospital, of many kinds and lengths."""
    notes: list[str] = []
    number = 0
    while len(notes) < count:
        number += 1
        patient = new_patient(seed, number)
        for stay in stays_of(patient, seed, 1.0):
            notes += [str(cells[-1]) for cells in note_cells(patient, stay, seed, 6.0)]
    return notes[:count]


def write_patient(
    tables: Mapping[str, Table], patient: Patient, seed: int, signal: float, notes_per_stay: float
) -> None:
    stays = stays_of(patient, seed, signal)
    tables["PATIENTS.csv"].add(patient_cells(patient, stays, seed))
    for stay in stays:
        tables["ADMISSIONS.csv"].add(admission_cells(patient, stay, seed))
        risk = return_risk(stay.traits, signal)
        tables["PLANTED_RISK.csv"].add([stay.hadm_id, f"{risk:.6f}"])
        for cells in note_cells(patient, stay, seed, notes_per_stay):
            tables["NOTEEVENTS.csv"].add(cells)
