"""The notes of a synthetic stay: when each is written, its metadata, and its text."""

import math
from collections.abc import Container, Iterator, Mapping
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

from featurestore.synthetic.patients import NEWBORN, Patient, Stay, add_hours
from featurestore.synthetic.risks import TRAITS
from featurestore.synthetic.rng import Rng
from featurestore.synthetic.vocabulary import (
    DEIDENTIFIED,
    DENIED,
    FILLERS,
    HEADINGS,
    ORGAN_DONATION,
    RANGES,
    STATED,
    WORDS,
)

NURSING, PHYSICIAN, RADIOLOGY, ECG = "Nursing", "Physician ", "Radiology", "ECG"
SUMMARY, ADDENDUM = "Discharge summary", "Addendum"
CATEGORY_WEIGHTS = {NURSING: 4, PHYSICIAN: 3, RADIOLOGY: 2, ECG: 1}
MEAN_STAY_HOURS = 180
MENTION_RATE = 0.82  # the probability that a note states or denies a trait


class NoteKind(NamedTuple):
    """A kind of note: its topics in order, its log-normal number of words, its title."""

    topics: str
    median_words: float
    sigma: float
    title: str


SUMMARY_TITLE = (
    "Admission Date: {admitted}   Discharge Date: {discharged}\nSex: {sex}   Seen by {name}"
)
PHYSICIAN_TOPICS = "history background social medicines vitals exam labs plan"
SUMMARY_TOPICS = "history background social exam labs course medicines plan"
KINDS = {
    PHYSICIAN: NoteKind(PHYSICIAN_TOPICS, 235, 0.8, "Physician note, {hospital}, {clock}"),
    NURSING: NoteKind(
        "history social background systems vitals plan", 235, 0.8, "{name}, RN, {clock}"
    ),
    SUMMARY: NoteKind(SUMMARY_TOPICS, 235, 0.8, SUMMARY_TITLE),
    RADIOLOGY: NoteKind("reason technique findings impression", 65, 0.25, "{date} {clock}, {clip}"),
    ECG: NoteKind("tracing", 55, 0.2, "ECG of {date}"),
    NEWBORN: NoteKind("birth infant", 60, 0.35, "NEWBORN NOTE {date}"),
    ADDENDUM: NoteKind("addendum", 18, 0.3, "ADDENDUM by {name}"),
}
# (topic, sentence template) pairs that say nothing about the traits
FILLERS_OF_KIND = {
    name: [(topic, filler) for topic in kind.topics.split() for filler in FILLERS[topic]]
    for name, kind in KINDS.items()
}
# (after a heading, between sentences, between sections)
LAYOUTS = (
    (": ", " ", "\n\n"),
    (":\n", "\n", "\n\n"),
    (":\n- ", "\n- ", "\n"),
    (" - ", " ", "\n"),
)


class Note(NamedTuple):
    """A note; `hadm_id` is None for an outpatient note, a time is None where MIMIC has none."""

    hadm_id: int | None
    day: date
    charttime: datetime | None
    storetime: datetime | None
    category: str
    description: str
    author: int | None
    is_error: bool
    text: str


class ScheduledNote(NamedTuple):
    """The time and kind of a note that is still to be written."""

    moment: datetime
    category: str
    hadm_id: int | None


def stay_notes(patient: Patient, stay: Stay, seed: int, notes_per_stay: float) -> Iterator[Note]:
    """Yield the notes of a stay, and outpatient notes from before it, in order of time."""
    if stay.diagnosis == ORGAN_DONATION[0]:
        return
    schedule = _schedule(stay, notes_per_stay, Rng(seed, stay.hadm_id, "schedule"))
    rng = Rng(seed, stay.hadm_id, "notes")
    latest_texts: dict[tuple[str, int | None], str] = {}
    for moment, category, hadm_id in schedule:
        text = _write_text(patient, stay, category, moment, rng)
        if category in (NURSING, PHYSICIAN) and rng.chance(0.06):  # copied forward
            text = latest_texts.get((category, hadm_id), text)
        latest_texts[category, hadm_id] = text
        if rng.chance(0.004):
            text = ""
        yield _draw_note(hadm_id, moment, category, "Report", text, rng)
        if category != ECG and rng.chance(0.02):
            text = _write_text(patient, stay, ADDENDUM, moment, rng)
            moment = add_hours(moment, rng.uniform(1, 20))
            yield _draw_note(hadm_id, moment, category, ADDENDUM, text, rng)


def _schedule(stay: Stay, notes_per_stay: float, rng: Rng) -> list[ScheduledNote]:
    """Return the notes to write in order of time: the usual three, further ones, outpatient.

    The notes up to any hour are the same whether the stay then ends or goes on.
    """
    hours = _hours_between(stay.admitted, stay.discharged)
    usual_rate = 0.98 * min(1.0, notes_per_stay / 3)
    physician_hour = -rng.uniform(0.5, 6) if rng.chance(0.05) else rng.uniform(0.5, 10)
    usual = [(physician_hour, PHYSICIAN), (rng.uniform(1, 12), NURSING), (hours, SUMMARY)]
    notes = [
        ScheduledNote(add_hours(stay.admitted, hour), category, stay.hadm_id)
        for hour, category in usual
        if rng.chance(usual_rate)
    ]
    hours_at_home = 60 * 24.0
    if stay.previous_discharge:
        hours_at_home = _hours_between(stay.previous_discharge, stay.admitted)
    if stay.traits and hours_at_home > 24:
        for _ in range(int(0.06 * notes_per_stay + rng.random())):
            visit = add_hours(stay.admitted, -hours_at_home * rng.uniform(0.1, 0.9))
            notes.append(ScheduledNote(visit, rng.choice((PHYSICIAN, RADIOLOGY, ECG)), None))
    further = max(0.0, 0.93 * notes_per_stay - 2.94)
    for day in range(math.ceil(hours / 24)):
        rate = further * ((day == 0) * 0.4 + 0.6 * 24 / MEAN_STAY_HOURS)
        for _ in range(int(rate + rng.random())):
            category = rng.weighted_choice(CATEGORY_WEIGHTS) if stay.traits else NURSING
            hour = 24 * day + rng.uniform(1 if day == 0 else 0, 24)
            if hour < hours:
                moment = add_hours(stay.admitted, hour)
                notes.append(ScheduledNote(moment, category, stay.hadm_id))
    return sorted(notes, key=lambda note: note.moment)


def _hours_between(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds() / 3600


def _draw_note(
    hadm_id: int | None, moment: datetime, category: str, description: str, text: str, rng: Rng
) -> Note:
    """Return the note with the times that MIMIC records for its category."""
    charttime: datetime | None = moment
    storetime = None
    if category in (SUMMARY, ECG) or rng.chance(0.015):
        charttime = None
    elif category != RADIOLOGY and not rng.chance(0.03):
        storetime = add_hours(moment, min(rng.lognormal(0.8, 1.2), 36))
    author = rng.integer(14_000, 21_000) if category in (NURSING, PHYSICIAN) else None
    is_error = rng.chance(0.006)
    return Note(
        hadm_id, moment.date(), charttime, storetime, category, description, author, is_error, text
    )


def _write_text(patient: Patient, stay: Stay, category: str, moment: datetime, rng: Rng) -> str:
    """Return a text that mentions most of the traits and has fillers up to its length."""
    kind = category if stay.traits or category == ADDENDUM else NEWBORN
    topics, median_words, sigma, title = KINDS[kind]
    fields = NoteFields(patient, stay, moment, rng)
    sections: dict[str, list[str]] = {topic: [] for topic in topics.split()}
    mentions = _trait_sentences(stay.traits, sections, rng)
    words = min(max(rng.lognormal(median_words, sigma), median_words / 4), 4000.0)
    words -= 11 * len(mentions)  # room for the mentions, inserted below
    fillers: list[tuple[str, str]] = []
    while words > 0:
        fillers = fillers or rng.shuffled(FILLERS_OF_KIND[kind])
        topic, sentence = fillers.pop()
        sections[topic].append(sentence.format_map(fields))
        words -= sentence.count(" ") + 1
    for topic, sentence in mentions:
        position = rng.integer(0, len(sections[topic]))
        sections[topic].insert(position, sentence.format_map(fields))
    return title.format_map(fields) + "\n\n" + _format_sections(sections, rng)


def _trait_sentences(
    traits: Mapping[str, bool], topics: Container[str], rng: Rng
) -> list[tuple[str, str]]:
    """Return (topic, sentence template) pairs that state or deny most of the traits."""
    mentions = []
    for name, present in traits.items():
        candidates = [topic for topic in TRAITS[name].topics if topic in topics]
        if candidates and rng.chance(MENTION_RATE):
            sentences = (STATED if present else DENIED)[name]
            mentions.append((rng.choice(candidates), rng.choice(sentences)))
    return mentions


class NoteFields(dict[str, Any]):
    """The values of the fields in a template: fixed for the stay, or drawn at each use.

    Dates, names and places have the form of MIMIC-III's de-identified notes.
    """

    def __init__(self, patient: Patient, stay: Stay, moment: datetime, rng: Rng) -> None:
        age = patient.age + stay.admitted.year - patient.first_admission.year
        pronouns = {"M": ("He", "His", "him", "man"), "F": ("She", "Her", "her", "woman")}
        subject, possessive, object_, person = pronouns[patient.sex]
        super().__init__(
            He=subject,
            he=subject.lower(),
            His=possessive,
            his=possessive.lower(),
            him=object_,
            himself=f"{object_}self",
            person=person,
            age=age if age < 90 else "[**Age over 90 **]",
            sex=patient.sex,
            complaint=stay.complaint,
            admitted=_deidentified_date(stay.admitted),
            discharged=_deidentified_date(stay.discharged),
        )
        self.moment = moment
        self.rng = rng

    def __missing__(self, field: str) -> str:
        if field == "date":
            return _deidentified_date(self.moment - timedelta(days=self.rng.integer(0, 6)))
        if field == "clock":
            return f"{self.rng.integer(0, 23):02d}:{self.rng.integer(0, 59):02d}"
        if field in RANGES:
            low, high, decimals = RANGES[field]
            return f"{self.rng.uniform(low, high):.{decimals}f}"
        if field in WORDS:
            return self.rng.choice(WORDS[field])
        return DEIDENTIFIED[field].format(self.rng.integer(1, 9999))


def _deidentified_date(day: datetime) -> str:
    return f"[**{day.year}-{day.month}-{day.day}**]"


def _format_sections(sections: Mapping[str, list[str]], rng: Rng) -> str:
    """Return the sections that have sentences under headings, in a random layout."""
    after_heading, between_sentences, between_sections = rng.choice(LAYOUTS)
    upper_case = rng.chance(0.4)
    parts = []
    for topic, sentences in sections.items():
        if sentences:
            heading = rng.choice(HEADINGS.get(topic, [topic.capitalize()]))
            heading = heading.upper() if upper_case else heading
            parts.append(f"{heading}{after_heading}{between_sentences.join(sentences)}")
    return between_sections.join(parts)
