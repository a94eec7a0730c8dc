"""Nights that sync recent notes only, and all notes once a week."""

import json
import random
from datetime import date, datetime, timedelta

import pytest
from click.testing import CliRunner

from featurestore import (
    change_source,
    create_store,
    embed_pending,
    info,
    nightly,
    sync,
    train,
    verify,
)
from featurestore.cli import main
from featurestore.errors import FeatureStoreError, SourceError
from featurestore.source.sync import since_last_complete_sync
from tests.conftest import WordCounter
from tests.hospital import admission, note, write_hospital
from tests.timeline import day

PATIENTS = 40
WORDS = ("home", "pain", "quiet", "alone")
COMPARED = {
    "admissions": "*",
    "notes": "*",
    "embeddings": "*",
    "admission_embeddings": "*",
    # A stay that has lost all its notes keeps the last score that it had.
    "latest_scores SEMI JOIN admission_embeddings USING (hadm_id)": "scorer_id, hadm_id, "
    "probability, prediction_time",
}


class Clock(datetime):
    """A clock that the test sets."""

    time = day(0)

    @classmethod
    def now(cls, tz=None):
        return cls.time


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    for module in ("batch.nightly_job", "featurestore.source.sync"):
        monkeypatch.setattr(f"{module}.datetime", Clock)
    return Clock


class Hospital:
    """A hospital whose patients of every second number return, and have other words."""

    def __init__(self, folder):
        self.folder = folder
        self.stays = {n: admission(n, n, day(0), day(5)) for n in range(1, PATIENTS + 1)}
        self.stays |= {
            n + 1_000: admission(n + 1_000, n, day(20), day(25)) for n in range(1, 40, 2)
        }
        self.notes = {
            n: note(n, n, "pain pain alone" if n % 2 else "home quiet")
            for n in range(1, PATIENTS + 1)
        }
        self.write()

    def write(self):
        write_hospital(self.folder, list(self.stays.values()), list(self.notes.values()))

    def add(self, hadm_id, text, written):
        number = max(self.notes) + 1
        patient = self.stays[hadm_id]["SUBJECT_ID"] if hadm_id in self.stays else hadm_id
        self.notes[number] = note(number, hadm_id, text, written, subject_id=patient)

    def store(self, name):
        store = create_store(self.folder.parent / name, self.folder, "mimic3")
        sync(store)
        embed_pending(store, WordCounter())
        train(store, "readmit", baseline=False)
        return store


def night(store, **options):
    return nightly(store, WordCounter(), "readmit", force=True, **options)


def contents(store):
    return {
        table: store.sql(f"SELECT {columns} FROM {table} ORDER BY ALL").fetchall()
        for table, columns in COMPARED.items()
    }


def n_runs(store):
    return store.one("SELECT count(*) FROM runs")[0]


@pytest.fixture
def hospital(tmp_path, clock):
    clock.time = day(60, 2)
    return Hospital(tmp_path / "hospital")


@pytest.mark.parametrize(
    ("now", "since"),
    [
        (day(60, 3), date(2150, 1, 31)),
        (day(66, 23), date(2150, 1, 31)),
        (day(67, 1), None),
        (day(90, 2), None),
        (day(59, 2), None),
    ],
    ids=[
        "an hour after the last complete sync, notes of the 30 days before it are read",
        "six days later the first day is still the same",
        "a week later all notes, though the night begins an hour earlier",
        "all notes after nights that did not run",
        "all notes if the last complete sync is in the future: a clock is wrong",
    ],
)
def test_the_first_day_whose_notes_a_night_reads(hospital, now, since):
    store = create_store(hospital.folder.parent / "w.duckdb", hospital.folder, "mimic3")
    assert since_last_complete_sync(store, 7, now) is None  # never synced
    sync(store)
    assert day(60).date() == date(2150, 3, 2)
    assert since_last_complete_sync(store, 7, now) == since


def test_a_sync_of_recent_notes_or_of_another_source_does_not_count(hospital, clock):
    store = create_store(hospital.folder.parent / "w.duckdb", hospital.folder, "mimic3")
    hospital.add(1, "pain", day(61))
    hospital.write()
    assert sync(store, since=date(2150, 3, 1))["notes"]["new"] == 1
    assert since_last_complete_sync(store, 7, day(62)) is None
    clock.time = day(62)
    sync(store)
    assert since_last_complete_sync(store, 7, day(63)) is not None
    change_source(store, Hospital(hospital.folder.parent / "other").folder, force=True)
    assert since_last_complete_sync(store, 7, day(63)) is None


def test_a_night_says_how_much_it_has_read_and_what_it_cannot_see(hospital, clock):
    store = hospital.store("w.duckdb")
    hospital.add(1, "pain new", day(60))
    hospital.add(2, "home late", day(3))  # filed 57 days late
    hospital.notes[3] |= {"TEXT": "an old edit"}
    del hospital.notes[4]
    hospital.write()
    clock.time = day(61, 2)
    result = night(store, full_every=7)
    names = ("sync", "new", "changed", "withdrawn")
    assert [result[name] for name in names] == ["2150-01-31", 1, 0, 0]
    assert result["not_seen"] == [
        "notes that were withdrawn from the source",
        "notes dated before 2150-01-31 that are new or changed, or whose admission is new, "
        "withdrawn or of another patient",
    ]
    clock.time = day(67, 2)
    result = night(store, full_every=7)
    assert [result[name] for name in names] == ["complete", 1, 1, 1]
    assert result["not_seen"] == []
    summary = info(store)
    assert [row["sync"] for row in summary["nights"]] == ["complete", "2150-01-31"]
    assert summary["synced_at"] == day(67, 2)


def test_a_complete_sync_that_is_due_and_finds_nothing_is_recorded(hospital, clock):
    store = hospital.store("w.duckdb")
    clock.time = day(66, 2)
    night(store)  # the first scores
    clock.time = day(67, 2)
    before = n_runs(store)
    assert night(store)["run_id"] is None
    assert n_runs(store) == before  # nobody asked when the last complete sync was
    clock.time = day(73, 2)
    result = night(store, full_every=7)
    assert (result["sync"], result["new"], result["scored"]) == ("complete", 0, 0)
    command, counts = store.one("SELECT command, counts FROM runs ORDER BY run_id DESC LIMIT 1")
    assert (command, json.loads(counts)["sync"]) == ("sync", "complete")
    assert result["run_id"] == before
    clock.time = day(74, 2)
    result = night(store, full_every=7)
    assert (result["run_id"], result["sync"]) == (None, day(43).date().isoformat())
    assert n_runs(store) == before + 1
    assert verify(store) == []


def test_since_and_full_every_exclude_each_other(hospital, tmp_path):
    store = create_store(tmp_path / "w.duckdb", hospital.folder, "mimic3")
    with pytest.raises(FeatureStoreError, match="since and full_every exclude each other"):
        night(store, since=date(2150, 1, 1), full_every=7)
    command = ["nightly", str(store.path), "model", "s", "--since", "2150-01-01"]
    result = CliRunner().invoke(main, [*command, "--full-every", "7"])
    assert result.exit_code == 2
    assert "--since and --full-every exclude each other." in result.output


# --- a month


def pass_day(hospital, rng, today):
    """Write, edit, flag, move and withdraw notes and stays, also old ones."""
    text = " ".join(rng.choices(WORDS, k=4))
    stays, notes = sorted(hospital.stays), sorted(hospital.notes)
    for _ in range(3):
        hospital.add(rng.choice(stays), text, today - timedelta(hours=rng.randint(1, 40)))
    if rng.random() < 0.6:  # a summary that is filed weeks after its date
        hospital.add(rng.choice(stays), text, today - timedelta(days=rng.randint(32, 58)))
    if rng.random() < 0.6:  # of any age
        hospital.notes[rng.choice(notes)] |= {"TEXT": f"{text} edited"}
    if rng.random() < 0.4:
        hospital.notes[rng.choice(notes)] |= {"ISERROR": 1}
    if rng.random() < 0.4:
        stay = rng.choice(stays)
        moved = {"HADM_ID": stay, "SUBJECT_ID": hospital.stays[stay]["SUBJECT_ID"]}
        hospital.notes[rng.choice(notes)] |= moved
    if rng.random() < 0.6:
        del hospital.notes[rng.choice(notes)]
    if rng.random() < 0.3:  # its notes stay
        del hospital.stays[rng.choice(stays)]
    if rng.random() < 0.3:  # a stay that comes after its first note
        stay = 5_000 + today.toordinal()
        hospital.add(stay, text, today - timedelta(days=rng.randint(1, 50)))
        hospital.stays[stay] = admission(stay, stay, today - timedelta(days=4), today)
    hospital.write()


@pytest.mark.slow
def test_after_each_complete_sync_the_store_equals_one_that_always_syncs_completely(
    hospital, clock
):
    rng = random.Random(1)
    weekly, always = hospital.store("weekly.duckdb"), hospital.store("always.duckdb")
    complete, differed = [], 0
    for number in range(61, 91):
        clock.time = day(number, 2, rng.randint(0, 59))
        pass_day(hospital, rng, clock.time)
        if number in (70, 71):  # the machine is off
            continue
        if number == 74:  # the source is away on a night with a complete sync
            (hospital.folder / "NOTEEVENTS.csv").unlink()
            for store in (weekly, always):
                with pytest.raises(SourceError):
                    night(store, full_every=7)
            continue
        night(always)
        result = night(weekly, full_every=7)
        if result["sync"] == "complete":
            complete.append(number)
            assert contents(weekly) == contents(always)
        else:
            differed += contents(weekly) != contents(always)
    # The night of day 74 failed, and the next one took its place.
    assert complete == [67, 75, 82, 89]
    assert differed > 10  # what the nights in between do not see is not rare here
    assert verify(weekly) == verify(always) == []
