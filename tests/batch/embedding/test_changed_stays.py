"""What is found among the stays that changed is what a pass over all stays finds."""

import random
from datetime import datetime, timedelta

import pytest

from batch.embedding.pending import pending_notes
from batch.scoring.score import due_scores
from featurestore import (
    add_task,
    create_store,
    drop_task,
    embed_pending,
    forget,
    score,
    sync,
    train,
    verify,
)
from featurestore.store.changes import find_changed_stays
from featurestore.store.sql_files import read_sql
from tests.conftest import WordCounter
from tests.hospital import admission, invent_returns, note, write_hospital
from tests.timeline import day

PATIENTS = 60
OWN_TIMES = """
SELECT hadm_id, TRUE AS label, NULL AS reason, dischtime AS known_at,
    admittime + INTERVAL 30 HOURS AS prediction_time
FROM admissions WHERE dischtime >= admittime + INTERVAL 31 HOURS
"""


class Clock(datetime):
    """A clock that the test sets."""

    time = day(60)

    @classmethod
    def now(cls, tz=None):
        return cls.time


class Hospital:
    """A live hospital in which anything may happen on a day."""

    def __init__(self, folder, seed):
        self.folder, self.random = folder, random.Random(seed)
        stays, notes = invent_returns(PATIENTS, 0.2, 0.5, 6)
        self.stays = {stay["HADM_ID"]: stay for stay in stays}
        self.notes = {text["ROW_ID"]: text for text in notes}
        self.write()

    def write(self):
        write_hospital(self.folder, list(self.stays.values()), list(self.notes.values()))

    def live_through(self, now):
        for _ in range(self.random.randint(0, 3)):
            getattr(self, self.random.choice(EVENTS))(now)
        self.write()

    def admit(self, now):
        hadm_id = max(self.stays) + 1
        patient = self.random.choice([self.random.randint(1, PATIENTS), 10_000 + hadm_id])
        kind = self.random.choice(["EMERGENCY", "ELECTIVE", "NEWBORN"])
        self.stays[hadm_id] = admission(
            hadm_id, patient, now - timedelta(hours=self.random.randint(0, 90)), None,
            admission_type=kind,
        ) | {"DISCHTIME": None}  # fmt: skip
        self.write_note(now, hadm_id)

    def discharge(self, now):
        stay = self.any_stay(inpatient=True)
        if stay:
            stay["DISCHTIME"] = max(now - timedelta(hours=self.random.randint(0, 60)),
                stay["ADMITTIME"])  # fmt: skip

    def die(self, now):
        stay = self.any_stay(inpatient=True)
        if stay:
            stay["DEATHTIME"] = stay["DISCHTIME"] = now
            stay["HOSPITAL_EXPIRE_FLAG"] = 1

    def correct_admission(self, now):
        stay = self.any_stay()
        stay["ADMITTIME"] -= timedelta(hours=self.random.randint(1, 80))

    def join_stays(self, now):
        """Begin a stay on the day of the last discharge of its patient: one episode of two."""
        stay = self.any_stay()
        if stay["DISCHTIME"]:
            hadm_id = max(self.stays) + 1
            self.stays[hadm_id] = admission(
                hadm_id, stay["SUBJECT_ID"], stay["DISCHTIME"] + timedelta(hours=2), now
            )
            self.write_note(now, hadm_id)

    def withdraw_stay(self, now):
        del self.stays[self.any_stay()["HADM_ID"]]

    def write_note(self, now, hadm_id=None):
        number = max(self.notes) + 1
        hadm_id = hadm_id or self.any_stay()["HADM_ID"]
        text = " ".join(self.random.choices(WordCounter.COUNTED, k=self.random.randint(1, 9)))
        charted = now - timedelta(hours=self.random.randint(0, 100))
        patient = self.stays[hadm_id]["SUBJECT_ID"]
        self.notes[number] = note(number, hadm_id, text, charted, subject_id=patient)

    def copy_note(self, now):
        text = self.random.choice(list(self.notes.values()))
        self.notes[max(self.notes) + 1] = text | {"ROW_ID": max(self.notes) + 1, "STORETIME": now}

    def edit_note(self, now):
        self.random.choice(list(self.notes.values()))["TEXT"] = "pain alone"

    def move_note(self, now):
        text = self.random.choice(list(self.notes.values()))
        stay = self.any_stay()
        text["HADM_ID"], text["SUBJECT_ID"] = stay["HADM_ID"], stay["SUBJECT_ID"]

    def delete_note(self, now):
        del self.notes[self.random.choice(list(self.notes))]

    def any_stay(self, inpatient=False):
        stays = [s for s in self.stays.values() if not inpatient or not s["DISCHTIME"]]
        return self.random.choice(stays) if stays else None


EVENTS = (
    *("admit", "discharge", "die", "correct_admission", "join_stays", "withdraw_stay"),
    *("write_note", "copy_note", "edit_note", "move_note", "delete_note"),
)


def rows(con, query, parameters):
    return sorted(con.execute(query, parameters).fetchall())


def check_all(store, encoder):
    """Compare what is found among the changed stays with a pass over all of them."""
    con = store.connect()
    due = due_scores(con, "risk-v1").select(["hadm_id", "probability"])
    due = sorted(zip(*due.to_pydict().values(), strict=True))
    query = f"SELECT hadm_id, probability FROM ({read_sql('scoring/due_scores')})"
    assert due == rows(con, query, {"scorer": "risk-v1"})
    query = f"SELECT note_id FROM ({read_sql('embedding/unembedded_notes')})"
    pending = pending_notes(store, encoder.id)["note_id"].to_pylist()
    assert sorted(pending) == [no for (no,) in rows(con, query, {"encoder_id": encoder.id})]


def test_an_edited_note_leaves_its_stay_without_a_prediction_that_the_next_stay_rules_out(tmp_path):
    # The patient returns a day after the first discharge: too early for the prediction after two.
    stays = [
        admission(1, 7, day(0), day(5)),
        admission(2, 7, day(6), day(8)),
        admission(3, 8, day(0), day(5)),
    ]
    notes = [
        note(n, hadm_id, "fever", subject_id=patient, charted=day(charted))
        for n, hadm_id, patient, charted in [(1, 1, 7, 1), (2, 2, 7, 7), (3, 3, 8, 1)]
    ]
    write_hospital(tmp_path / "h", stays, notes)
    store = create_store(tmp_path / "w.duckdb", tmp_path / "h", "mimic3")
    sync(store)
    embed_pending(store, WordCounter())
    predicted = "SELECT hadm_id FROM admission_embeddings WHERE cutoff = 'discharge+48h' ORDER BY 1"
    assert rows(store.connect(), predicted, None) == [(2,), (3,)]
    notes[0]["TEXT"] = "pain alone"
    write_hospital(tmp_path / "h", stays, notes)
    sync(store)
    embed_pending(store, WordCounter())
    assert rows(store.connect(), predicted, None) == [(2,), (3,)]
    assert verify(store) == []


@pytest.mark.parametrize(
    ("seed", "nights"),
    [(1, 2), pytest.param(2, 25, marks=pytest.mark.slow)],
)
def test_nights_of_a_live_hospital(tmp_path, monkeypatch, seed, nights):
    monkeypatch.setattr("featurestore.source.sync.datetime", Clock)
    monkeypatch.setattr("featurestore.store.changes._FEW", 10**6)  # never a pass over all
    now, hospital = day(60), Hospital(tmp_path / "h", seed)
    Clock.time = now
    store = create_store(tmp_path / "w.duckdb", tmp_path / "h", "mimic3", live=True)
    (tmp_path / "own.sql").write_text(OWN_TIMES)
    encoder = WordCounter()
    sync(store)
    embed_pending(store, encoder)
    train(store, "risk", baseline=False)
    score(store, "risk")
    add_task(store, "own", tmp_path / "own.sql")
    sliced = 0
    for night in range(nights):
        now += timedelta(hours=hospital.random.choice([6, 24, 24, 90]))
        Clock.time = now
        hospital.live_through(now)
        sync(store, force=True)
        assert verify(store) == []  # what waits to be embedded is not a finding
        check_all(store, encoder)
        if hospital.random.random() < 0.7:
            embed_pending(store, encoder, limit=hospital.random.choice([None, 1]))
            check_all(store, encoder)
            sliced += find_changed_stays(store.connect(), "means", ["24h", "72h"])
            assert verify(store) == []  # compares the windows of all means
        if hospital.random.random() < 0.3:
            score(store, "risk")
            assert not len(due_scores(store.connect(), "risk-v1"))
            check_all(store, encoder)
        if night == nights // 2:
            patient = hospital.any_stay()["SUBJECT_ID"]
            if store.one("SELECT count(*) FROM admissions WHERE subject_id = $p", p=patient)[0]:
                forget(store, [patient])
                assert verify(store) == []
            drop_task(store, "own")
            add_task(store, "own", tmp_path / "own.sql")
            assert verify(store) == []  # the means of the dropped task wait to be replaced
    assert sliced > nights / 4 or nights < 9
