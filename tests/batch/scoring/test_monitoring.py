"""Nights that are compared with the scorer's training period: what stops them, and what warns."""

import random
import shutil

import numpy as np
import pytest

from featurestore import (
    Store,
    create_store,
    embed_pending,
    forget,
    nightly,
    sync,
    train,
    verify,
)
from featurestore.errors import UnusualNightError
from tests.conftest import WordCounter
from tests.hospital import admission, note, write_hospital
from tests.timeline import day

PATIENTS = 300
WORDS = ("alone", "pain", "home", "quiet")
CATEGORIES = ("Nursing", "Physician")


class Ward:
    """A hospital whose patients have two notes each; those alone or in pain return more often."""

    def __init__(self, folder):
        self.folder, self.stays, self.notes = folder, [], []
        self.rng = random.Random(1)
        self.admit(PATIENTS)

    def admit(self, patients, extra="", extra_in=CATEGORIES, notes=CATEGORIES):
        """Add patients with a note of each category, of five words and an `extra` one."""
        for _ in range(patients):
            number = len(self.stays) + 1
            self.stays.append(admission(number, number, day(0), day(5)))
            count = 0
            for category in notes:
                words = self.rng.choices(WORDS, k=5)
                words += [extra] if extra and category in extra_in else []
                count += words.count("alone") + words.count("pain")
                charted = day(1) if category != "Late" else day(4)
                text = " ".join(words)
                self.notes.append(note(len(self.notes) + 1, number, text, charted))
                self.notes[-1] |= {"CATEGORY": category}
            if self.rng.random() < count / 10 and number <= PATIENTS:
                self.notes[-1] |= {"RETURNS": True}
        self.write()

    def write(self):
        returns = [
            admission(100_000 + row["HADM_ID"], row["HADM_ID"], day(20), day(21))
            for row in self.notes
            if "RETURNS" in row
        ]
        notes = [{k: v for k, v in row.items() if k != "RETURNS"} for row in self.notes]
        write_hospital(self.folder / "h", self.stays + returns, notes)

    def open(self, store=None):
        self.store = store or create_store(self.folder / "w.duckdb", self.folder / "h", "mimic3")
        return self

    def night(self, **options):
        return nightly(self.store, WordCounter(), "readmit", **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("monitored")
    ward = Ward(folder).open()
    sync(ward.store)
    embed_pending(ward.store, WordCounter())
    assert train(ward.store, "readmit", baseline=False, aggregate="mean")["no_signal"] is None
    return folder, {name: (folder / name).read_bytes() for name in ("w.duckdb", "w.duckdb.seal")}


@pytest.fixture
def ward(trained):
    folder, files = trained
    shutil.rmtree(folder)
    folder.mkdir()
    for name, data in files.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_bytes(data)
    return Ward(folder).open(Store(folder / "w.duckdb"))


def test_the_reference_is_of_patients_whom_the_scorer_was_not_fitted_on(ward):
    held_out, notes = ward.store.one(
        "SELECT count(DISTINCT subject_id), count(*) FROM notes "
        "WHERE patient_split(subject_id) <> 'train'"
    )
    rows = ward.store.sql(
        "SELECT category, n_notes, n_patients, mean FROM reference_log_odds ORDER BY 1"
    ).fetchall()
    assert [row[:3] for row in rows] == [
        ("Nursing", held_out, held_out),
        ("Physician", held_out, held_out),
        ("all notes", notes, held_out),
    ]
    # The mean of the notes by numpy, from the vectors and coefficients of the store.
    (coef,) = ward.store.one("SELECT coef FROM scorers")
    vectors = ward.store.sql(
        "SELECT e.embedding FROM embeddings AS e INNER JOIN notes AS n USING (note_id) "
        "WHERE n.category = 'Nursing' AND patient_split(n.subject_id) <> 'train' "
        "ORDER BY e.note_id, e.window_no"
    ).fetchnumpy()["embedding"]
    by_note = (np.stack(vectors.tolist()) @ np.array(coef)).reshape(-1, 2).mean(axis=1)
    low, high = np.quantile(by_note, [0.005, 0.995])
    assert rows[0][3] == pytest.approx(np.clip(by_note, low, high).mean())
    scores = ward.store.one(
        "SELECT count(*), count(r.probability), bool_and(r.probability = s.probability) "
        "FROM reference_scores AS r INNER JOIN score_admissions('readmit-v1') AS s USING (hadm_id)"
    )
    assert scores == (PATIENTS, held_out, True)


@pytest.mark.slow
def test_quiet_nights_have_nothing_to_say_from_the_first(ward):
    for night in range(3):
        ward.admit(30)
        result = ward.night()
        assert (result["unusual"], result["warnings"], result["accepted"]) == ([], [], [])
        numbers = result["monitoring"]
        assert numbers["log_odds"]["notes"] == 60
        assert abs(numbers["log_odds"]["shift"]) < numbers["log_odds"]["limit"]
        assert numbers["scores"]["stays"] == 30 * (night + 1)
        assert numbers["scores"]["psi"] < numbers["scores"]["psi_limit"]
    assert verify(ward.store) == []


@pytest.mark.slow
def test_a_new_word_in_the_notes_of_a_category_stops_the_first_night_with_it(ward):
    ward.admit(30)
    ward.night()
    ward.admit(30, "pain pain", ["Physician"])
    before = ward.store.path.read_bytes()
    with pytest.raises(UnusualNightError) as stopped:
        ward.night()
    assert "the log odds of Physician are" in str(stopped.value)
    assert "spreads above those of the training period" in str(stopped.value)
    assert "Nursing" not in str(stopped.value)
    assert ward.store.path.read_bytes() == before

    forced = ward.night(force=True)
    assert "log odds of Physician" in forced["accepted"]
    # What was accepted is a warning on the nights after, which stop for other reasons only.
    ward.admit(30, "pain pain", ["Physician"])
    result = ward.night()
    assert result["unusual"] == []
    assert any(text.startswith("the log odds of Physician are") for text in result["warnings"])
    ward.admit(30, "pain pain")
    with pytest.raises(UnusualNightError, match="the log odds of Nursing are"):
        ward.night()
    assert ward.store.one("SELECT count(DISTINCT run_id) FROM nightly_log_odds") == (3,)


@pytest.mark.slow
def test_another_mix_of_the_categories_is_a_warning_and_no_shift(ward):
    for _ in range(6):
        ward.admit(30)
        ward.night()
    ward.admit(30, notes=("Nursing",))
    assert ward.night()["warnings"] == [
        "100% of the notes are Nursing, usually 50%",
        "0% of the notes are Physician, usually 50%",
    ]


def test_a_category_without_a_reference_is_a_warning(ward):
    ward.admit(30, notes=("Nursing", "Social Work"))
    assert ward.night()["warnings"] == [
        "50% of the notes are Social Work, of which the training period had too few"
    ]


def test_notes_that_are_known_after_the_prediction_do_not_count(ward):
    ward.admit(30, "pain", ["Late"], notes=("Nursing", "Late"))
    result = ward.night()
    assert (result["unusual"], result["monitoring"]["log_odds"]["notes"]) == ([], 30)


@pytest.mark.slow
def test_scores_of_other_patients_stop_the_night_by_distribution_and_alert_rate(ward):
    # Whatever changed, it is not the notes of a category: twice as many notes of patients in pain.
    with ward.store.transaction("test") as transaction:
        transaction.con.execute("DELETE FROM reference_log_odds")
    ward.admit(40, "pain pain pain")
    with pytest.raises(UnusualNightError) as stopped:
        ward.night()
    assert "the scores of 40 new stays are distributed otherwise" in str(stopped.value)
    assert "of 40 new stays reach" in str(stopped.value)
    forced = ward.night(force=True)
    assert forced["accepted"] == ["alert rate", "distribution of scores"]
    ward.admit(40, "pain pain pain")
    assert ward.night()["unusual"] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"aggregate": "max"}, id="max"),
        pytest.param({"aggregate": "clinicalbert"}, id="clinicalbert"),
        pytest.param({"aggregate": "mean", "covariates": ["demographics"]}, id="covariates"),
        pytest.param({"cutoff": "discharge", "horizon_days": 20}, id="discharge"),
    ],
)
def test_any_scorer_is_quiet_on_quiet_nights_and_stops_on_a_new_word(ward, options):
    train(ward.store, "readmit", baseline=False, **options)
    ward.admit(30)
    result = ward.night()
    assert (result["unusual"], result["warnings"]) == ([], [])
    assert result["monitoring"]["log_odds"]["notes"] == 60
    ward.admit(30, "pain pain")
    with pytest.raises(UnusualNightError, match="the log odds of all notes are"):
        ward.night()


def test_a_scorer_without_a_signal_compares_neither_notes_nor_scores(ward):
    with ward.store.transaction("test") as transaction:
        transaction.con.execute(
            'UPDATE scorers SET metrics = json_merge_patch(metrics, \'{"no_signal": "none"}\')'
        )
        transaction.con.execute("DELETE FROM reference_log_odds")
    ward.admit(40, "pain pain pain")
    result = ward.night()
    assert (result["unusual"], result["monitoring"]) == ([], {"log_odds": None, "scores": None})


def test_each_scorer_in_use_records_the_notes_of_a_night(ward):
    train(ward.store, "other", baseline=False, aggregate="mean")
    ward.admit(20)
    nightly(ward.store, WordCounter(), "other")
    ward.admit(20)
    ward.night()
    recorded = ward.store.sql(
        "SELECT run_id, scorer_id, sum(n_notes) FROM nightly_log_odds GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    first, second = sorted({run for run, _, _ in recorded})
    assert recorded == [
        (first, "other-v1", 40),
        (second, "other-v1", 40),
        (second, "readmit-v1", 40),
    ]
    # The other scorer's next night has no new notes, but checks those of the night between.
    assert nightly(ward.store, WordCounter(), "other")["monitoring"]["log_odds"]["notes"] == 40


def test_a_forgotten_patient_leaves_no_row_of_any_night(ward):
    ward.admit(20)
    ward.night()
    patient = PATIENTS + 5
    rows = forget(ward.store, [patient, 1])["rows"]
    assert (rows["nightly_log_odds"], rows["reference_scores"]) == (2, 1)
    for table in ("nightly_log_odds", "reference_scores"):
        left = f"SELECT count(*) FROM {table} WHERE subject_id IN (1, {patient})"
        assert ward.store.one(left) == (0,)
