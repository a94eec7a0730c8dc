"""A state machine: notes change and runs are killed in any order, and a plain dict agrees."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from featurestore import create_store, embed_pending, sync
from featurestore.store import failpoints
from tests.conftest import WordCounter
from tests.hospital import admission, note, write_hospital
from tests.timeline import day

HISTORIES = int(os.environ.get("HISTORIES", "4"))  # of 25 nights each, in the slow tests
TEXTS = st.lists(st.sampled_from([*WordCounter.COUNTED, "quiet"]), min_size=1, max_size=9)
STAYS = st.sampled_from([7, 8, 9])
NOTES = st.sampled_from(["2", "3", "4", "5", "6"])
WIDTHS = {"four-00000000": 4, "three-00000000": 3}  # encoder -> elements of its vectors
ENCODERS = st.sampled_from(list(WIDTHS))
KINDS = st.sampled_from(["write", "move", "flag", "delete"])
CHANGES = st.tuples(KINDS, NOTES, STAYS, TEXTS)


class Killed(BaseException):
    """Stands for a kill of the process."""


def window_counts(text, width):
    """Return the vectors of a text, counted by hand."""
    words = text.split()
    parts = [words[at : at + 4] for at in range(0, len(words), 4)]
    return [[1.0 + part.count(word) for word in WordCounter.COUNTED[:width]] for part in parts]


class Nights(RuleBasedStateMachine):
    """A hospital that changes by day and is embedded by night, and a dict of what is expected."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        place = Path(self.folder.name)
        # note -> (stay, text, flagged); note 1 never changes, so that the source is never empty
        self.hospital = {str(no): (7 + no % 3, "pain home " * no, False) for no in range(1, 5)}
        self.synced = {}  # as of the last sync
        self.embedded = {encoder: {} for encoder in WIDTHS}  # note -> (stay, text)
        self._write(place / "h")
        self.store = create_store(place / "w.duckdb", place / "h", "mimic3")

    def teardown(self):
        self.folder.cleanup()

    def _write(self, folder):
        rows = [
            note(int(no), stay, text, day(1), iserror="1" if flagged else "")
            for no, (stay, text, flagged) in self.hospital.items()
        ]
        write_hospital(
            folder, [admission(n, 1) for n in (7, 8, 9)], [r | {"SUBJECT_ID": 1} for r in rows]
        )

    def _edit(self, kind, no, stay, words):
        if kind == "write":
            self.hospital[no] = (self.hospital.get(no, (stay,))[0], " ".join(words), False)
        elif no not in self.hospital:
            return
        elif kind == "delete":
            del self.hospital[no]
        else:
            old, text, flagged = self.hospital[no]
            self.hospital[no] = (
                (stay, text, flagged) if kind == "move" else (old, text, not flagged)
            )

    def _sync(self):
        self._write(self.store.path.parent / "h")
        sync(self.store, force=True)
        self.synced = dict(self.hospital)

    @rule(
        changes=st.lists(CHANGES, min_size=1, max_size=3),
        late=st.sampled_from([False] * 4 + [True]),
        encoder=ENCODERS,
        kill_at=st.sampled_from([None] * 8 + list(range(1, 13))),
    )
    def a_day_and_a_night(self, changes, late, encoder, kill_at):
        for edit in changes:
            self._edit(*edit)
        # What a killed run has staged is stored though its text changed after the sync: sync first.
        is_staged = any(path.is_file() for path in self.store.staging.rglob("*"))
        if not late or not self.synced or is_staged:
            self._sync()
        n_hits, hit = 0, failpoints.hit

        def kill(name):
            nonlocal n_hits
            n_hits += 1
            if n_hits == kill_at:
                raise Killed

        failpoints.hit = kill
        before = self.store.one("SELECT coalesce(max(run_id), 0) FROM runs")
        counter = WordCounter(encoder, WIDTHS[encoder])
        counter.budget = 6
        # A text that changed since the sync waits for the next sync.
        self._write(self.store.path.parent / "h")
        try:
            embed_pending(self.store, counter)
        except Killed:
            # A run that is killed after the rename is complete.
            if self.store.one("SELECT coalesce(max(run_id), 0) FROM runs") == before:
                return
        finally:
            failpoints.hit = hit
        ready = {no: (stay, text) for no, (stay, text, bad) in self.synced.items() if not bad}
        for of_encoder in self.embedded.values():
            # A run updates the vectors of all encoders, and adds new ones for its own.
            for no, (_, text) in list(of_encoder.items()):
                if no in ready and ready[no][1] == text:
                    of_encoder[no] = ready[no]
                else:
                    del of_encoder[no]
        for no, (stay, text) in ready.items():
            if self.hospital.get(no, ("", ""))[1] == text:
                self.embedded[encoder][no] = (stay, text)

    @invariant()
    def the_store_equals_the_dict(self):
        rows = self.store.sql(
            "SELECT encoder_id, note_id, window_no, hadm_id, embedding FROM embeddings ORDER BY ALL"
        ).fetchall()
        assert rows == sorted(
            (encoder, no, window, stay, vector)
            for encoder, notes in self.embedded.items()
            for no, (stay, text) in notes.items()
            for window, vector in enumerate(window_counts(text, WIDTHS[encoder]))
        )


ONE_HISTORY = settings(
    max_examples=1,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


class TestOneHistory(Nights.TestCase):
    settings = ONE_HISTORY


@pytest.mark.slow
class TestManyHistories(Nights.TestCase):
    settings = settings(ONE_HISTORY, max_examples=HISTORIES)
