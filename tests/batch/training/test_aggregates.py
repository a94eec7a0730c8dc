"""How the windows of an admission are combined: in Python as in SQL, copies once, chosen fairly."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from scipy.special import expit, logit

from batch.scoring.score import due_scores
from batch.training.aggregates import Windows
from batch.training.data import Cohort
from batch.training.model_selection import fit_calibrated, patients_calibrated_on, rank
from featurestore import create_store, embed_pending, explain, replay, score, sync, train, verify
from featurestore.store import changes
from featurestore.store.schema import TABLES, VIEWS_AND_MACROS, make_objects
from featurestore.store.scorer_metrics import AGGREGATES
from featurestore.store.sql_files import read_sql
from featurestore.store.vectors import vectors_to_arrow
from tests.conftest import WordCounter
from tests.hospital import admission, note, write_hospital
from tests.timeline import day, empty_store

PATIENTS = 160
WIDE, NARROW = "wide-00000000", "narrow-00000000"


class Narrow(WordCounter):
    COUNTED = ("home", "canary", "pain", "alone")


def encoder(encoder_id):
    return WordCounter(WIDE) if encoder_id == WIDE else Narrow(NARROW, dim=3)


def tables():
    """Patients in pain return more often. Notes have 1 to 3 windows, some repeat the first one."""
    rng = np.random.default_rng(0)
    stays, notes = [], []
    for patient in range(1, PATIENTS + 1):
        pain = int(rng.integers(0, 4))
        stays.append(admission(patient))
        if rng.random() < 0.1 + 0.2 * pain:
            stays.append(admission(1000 + patient, patient, day(20), day(21)))
        first = " ".join(["home"] * int(rng.integers(1, 6)) + ["pain"] * pain)
        notes.append(note(patient, patient, first, day(1)))
        if rng.random() < 0.6:
            text = " ".join(rng.choice(["home", "alone", "fever"], int(rng.integers(1, 11))))
            notes.append(note(1000 + patient, patient, text + " pain" * pain, day(1, 18)))
        if rng.random() < 0.4:
            notes.append(note(2000 + patient, patient, first, day(2)))  # copied forward
        notes.append(note(3000 + patient, patient, "canary canary alone", day(5)))  # too late
    return stays, notes


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with two encoders, and a scorer of each for every aggregate."""
    folder = tmp_path_factory.mktemp("aggregates")
    hospital = write_hospital(folder / "hospital", *tables())
    store = create_store(folder / "w.duckdb", hospital, "mimic3")
    sync(store)
    for encoder_id in (WIDE, NARROW):
        embed_pending(store, encoder(encoder_id))
        for aggregate in AGGREGATES:
            name = f"{aggregate}-{encoder_id}"
            train(store, name, encoder_id, baseline=False, aggregate=aggregate)
    return store


def vector_by_hand(notes, aggregate):
    """Combine the windows of notes, given as [(text, [window, ...]), ...] by time."""
    once = {text: np.array(windows) for text, windows in notes}
    windows = np.concatenate(list(once.values()))
    return {
        "mean": windows.mean(axis=0),
        "max": windows.max(axis=0),
        "mean-of-notes": np.mean([of_note.mean(axis=0) for of_note in once.values()], axis=0),
        "last-note": once[notes[-1][0]].mean(axis=0),
        "clinicalbert": windows,
    }[aggregate]


def notes_by_admission(store, encoder_id):
    """Return the notes known 72 hours after admission, by time, with their windows."""
    notes = {}
    for hadm_id, note_id, text_hash, window in store.sql(
        "SELECT hadm_id, note_id, text_hash, embedding FROM embeddings WHERE encoder_id = $e "
        "AND available_at <= TIMESTAMP '2150-01-04 12:00' ORDER BY available_at, window_no",
        e=encoder_id,
    ).fetchall():
        windows = notes.setdefault(hadm_id, {}).setdefault(note_id, (text_hash, []))[1]
        windows.append(window)
    return {hadm_id: list(of_stay.values()) for hadm_id, of_stay in notes.items()}


@pytest.mark.parametrize("encoder_id", [WIDE, NARROW])
@pytest.mark.parametrize("aggregate", list(AGGREGATES))
def test_scores_in_sql_are_those_of_python_and_those_computed_by_hand(store, aggregate, encoder_id):
    scorer = f"{aggregate}-{encoder_id}-v1"
    coef, intercept, slope, shift, low, high = store.one(
        "SELECT coef, intercept, calibration_slope, calibration_intercept, min_probability, "
        "max_probability FROM scorers WHERE scorer_id = $s",
        s=scorer,
    )
    in_sql = dict(
        store.sql("SELECT hadm_id, probability FROM score_admissions($s)", s=scorer).fetchall()
    )
    fitted = store.sql(
        "SELECT hadm_id, probability FROM scorer_admissions WHERE scorer_id = $s", s=scorer
    ).fetchall()
    assert len(in_sql) == PATIENTS
    assert {hadm_id: in_sql[hadm_id] for hadm_id, _ in fitted} == pytest.approx(
        dict(fitted), abs=1e-6
    )
    by_hand = {}
    for hadm_id, notes in notes_by_admission(store, encoder_id).items():
        z = vector_by_hand(notes, aggregate) @ coef + intercept
        if aggregate == "clinicalbert":
            p, n = expit(z), len(z)
            z = logit((p.max() + p.mean() * n / 2) / (1 + n / 2))
        by_hand[hadm_id] = np.clip(expit(slope * z + shift), low, high)
    assert in_sql == pytest.approx(by_hand, abs=1e-6)
    assert np.std(list(by_hand.values())) > 0.01


def test_a_maximum_is_scored_in_parts_with_the_same_result(store, monkeypatch):
    con, scorer_id = store.connect(), f"max-{WIDE}-v1"
    query, parameters = "SELECT * FROM score_admissions($scorer)", {"scorer": scorer_id}
    whole = sorted(con.execute(query, parameters).fetchall())
    monkeypatch.setattr(changes, "_VECTORS_AT_ONCE", 2_000)
    parts = con.execute(read_sql("scoring/parts"), parameters | {"bytes": 2_000}).fetchone()
    in_parts = changes.query_in_parts(con, query, parameters)
    assert sorted(zip(*in_parts.to_pydict().values(), strict=True)) == whole
    assert (parts, len(whole)) == ((6,), PATIENTS)
    assert len(due_scores(con, scorer_id)) == PATIENTS


@pytest.mark.parametrize("aggregate", list(AGGREGATES))
def test_scores_need_less_memory_than_the_vectors_of_all_windows(tmp_path, monkeypatch, aggregate):
    """`train` and `nightly` score in a transaction, whose memory is limited."""
    stays, windows, dim = 8_000, 3, 768  # 74 MB
    with duckdb.connect(tmp_path / "ward.duckdb") as con:
        make_objects(con, TABLES + VIEWS_AND_MACROS)
        rng = np.random.default_rng(0)
        hadm_id = np.repeat(np.arange(stays), windows)
        vectors = vectors_to_arrow(rng.standard_normal((len(hadm_id), dim), np.float32))
        con.register("invented", pa.table({"h": hadm_id, "v": vectors}))
        con.execute(
            "CREATE TEMP TABLE w AS "
            "SELECT *, h || '-' || row_number() OVER () AS note FROM invented;"
            "INSERT INTO encoders VALUES ('e', 'e', '', 768, 'fp32', 512, 0, '{}', TRUE, NULL);"
            "INSERT INTO settings VALUES ('-', '-', FALSE, NULL, '');"
            "INSERT INTO admissions (hadm_id, subject_id, admittime, died_in_hospital, planned) "
            "SELECT DISTINCT h, h, TIMESTAMP '2150-01-01', FALSE, FALSE FROM w;"
            "INSERT INTO admission_embeddings "
            "SELECT 'e', h, '72h', TIMESTAMP '2150-01-04', 1, 1, 0, 0, any_value(v) "
            "FROM w GROUP BY h;"
            "INSERT INTO embeddings "
            "SELECT 'e', h, note, 0, 300, TIMESTAMP '2150-01-02', note, 0, v FROM w;"
            "INSERT INTO scorers SELECT 's', 's', 1, 'e', '72h', 'readmission', 30, "
            "(SELECT any_value(v) FROM w), 0, '{}', '', now(), "
            f"'{aggregate}', 1, 0, 0, 1, '', '', '', NULL, NULL"
        )
    with duckdb.connect(tmp_path / "ward.duckdb") as con:
        # A sixth of what a transaction has, and of the vectors that it has at once.
        con.execute("SET memory_limit = '100MB'; SET threads = 2")
        monkeypatch.setattr(changes, "_VECTORS_AT_ONCE", changes._VECTORS_AT_ONCE // 6)
        scores = due_scores(con, "s")
    assert len(scores) == stays and np.std(scores["probability"].to_numpy()) > 0.1


@pytest.mark.parametrize("aggregate", ["mean", "max", "mean-of-notes", "last-note"])
def test_contributions_of_every_vector_add_up_to_the_log_odds(store, aggregate):
    for hadm_id in range(1, 30):
        explanation = explain(store, hadm_id, f"{aggregate}-{WIDE}")
        total = explanation["base"] + sum(w["contribution"] for w in explanation["windows"])
        assert explanation["unit"] == "log odds"
        assert expit(total) == pytest.approx(explanation["probability"], abs=1e-6)
        if aggregate == "last-note":
            assert len(explanation["notes"]) == 1


def test_text_that_is_copied_forward_counts_once_in_the_mean(store):
    for hadm_id, notes in notes_by_admission(store, WIDE).items():
        n_notes, n_windows, mean = store.one(
            "SELECT n_notes, n_windows, embedding FROM admission_embeddings "
            "WHERE (encoder_id, hadm_id, cutoff) = ($e, $h, '72h')",
            e=WIDE,
            h=hadm_id,
        )
        # The counts are those of the notes as they are.
        assert (n_notes, n_windows) == (len(notes), sum(len(windows) for _, windows in notes))
        assert mean == pytest.approx(vector_by_hand(notes, "mean"), abs=1e-6)
    assert store.one("SELECT count(*) > 40 FROM repeated_notes WHERE encoder_id = $e", e=WIDE)[0]
    assert verify(store) == []


def test_when_the_first_copy_is_withdrawn_the_second_takes_its_place(tmp_path):
    def notes(*texts):
        return [note(n, 7, text, day(1, 12 + n)) for n, text in enumerate(texts, 1) if text]

    def state():
        rows = ward.sql(
            "SELECT n_notes, embedding FROM admission_embeddings WHERE cutoff = '72h'"
        ).fetchall()
        hashed = ward.one("SELECT windows_hash FROM admission_windows()")[0]
        return rows, hashed

    folder = write_hospital(tmp_path / "hospital", [admission(7)], notes("pain", "home", "pain"))
    ward = create_store(tmp_path / "w.duckdb", folder, "mimic3")
    sync(ward)
    embed_pending(ward, WordCounter())
    both, hash_of_first = state()
    assert both == [(3, [1.0, 1.5, 1.5, 1.0])]
    write_hospital(folder, [admission(7)], notes(None, "home", "pain"))
    sync(ward)
    embed_pending(ward, WordCounter())
    one, hash_of_second = state()
    assert one == [(2, [1.0, 1.5, 1.5, 1.0])]
    assert hash_of_second != hash_of_first
    assert verify(ward) == []
    write_hospital(folder, [admission(7)], notes(None, "home", None))
    sync(ward)
    embed_pending(ward, WordCounter())
    assert state()[0] == [(1, [1.0, 1.0, 2.0, 1.0])]
    assert verify(ward) == []


def test_a_copy_counts_while_the_first_one_is_not_embedded(tmp_path):
    notes = [
        note(1, 7, "pain", day(1), category="Physician"),
        note(2, 7, "home", day(1, 13)),
        note(3, 7, "pain", day(2)),
    ]
    folder = write_hospital(tmp_path / "hospital", [admission(7)], notes)
    store = create_store(tmp_path / "w.duckdb", folder, "mimic3")
    sync(store)
    means = "SELECT n_notes, embedding FROM admission_embeddings WHERE cutoff = '72h'"
    embed_pending(store, WordCounter(), categories=["Nursing"])
    assert store.one(means) == (2, [1.0, 1.5, 1.5, 1.0])
    embed_pending(store, WordCounter())
    assert store.one(means) == (3, [1.0, 1.5, 1.5, 1.0])


def test_a_run_of_every_aggregate_is_replayed(store):
    for aggregate in AGGREGATES:
        run_id = score(store, f"{aggregate}-{WIDE}")["run_id"]
        result = replay(store, run_id)
        assert (result["scored"], result["same"]) == (PATIENTS, PATIENTS)


def test_an_unknown_scorer_is_an_error_that_names_the_known_ones(store):
    for query in ("FROM score_admissions('x')", "FROM explain_admission('x', 1)"):
        with pytest.raises(Exception, match=r"unknown scorer x - known: clinicalbert-narrow.*, "):
            store.sql(query).fetchall()
        with pytest.raises(Exception, match="unknown scorer x - known: none"):
            empty_store().execute(query).fetchall()


# --- which aggregate is selected


def invented_windows(rng, n=1_000, dim=6):
    """Return windows of 1 to 4 notes per stay that have a part in common, and its patients."""
    windows_of_note = [rng.integers(1, 4, rng.integers(1, 5)) for _ in range(n)]
    stay = np.repeat(np.arange(n), [len(notes) for notes in windows_of_note])
    note_no = np.concatenate([np.arange(len(notes)) for notes in windows_of_note])
    is_last = np.r_[np.diff(stay) != 0, True]
    per_note = np.concatenate(windows_of_note)
    stay, note_no, is_last = (np.repeat(column, per_note) for column in (stay, note_no, is_last))
    common = rng.standard_normal((n, dim))
    X = (0.5 * common[stay] + rng.standard_normal((len(stay), dim))).astype(np.float32)
    return Windows(X, stay, note_no, is_last), common, rng.integers(0, n // 2, n)


def selected(rng, windows, log_odds, subject_id):
    """Return the aggregate that is selected for outcomes with these log odds."""
    y = rng.random(len(log_odds)) < expit(log_odds)
    split = rng.choice(["train", "valid", "test"], subject_id.max() + 1, p=[0.8, 0.1, 0.1])
    cohort = Cohort(y, split[subject_id], subject_id)
    fits = [
        fit_calibrated(windows.vectors(aggregate), cohort, False)
        for aggregate in windows.distinct_aggregates()
    ]
    assert [fit.aggregate for fit in fits] == list(AGGREGATES)
    return rank(fits, subject_id[patients_calibrated_on(cohort, False)])[0].aggregate


@pytest.mark.parametrize("aggregate", ["mean", "last-note", "max"])
def test_the_aggregate_that_holds_the_signal_is_selected(aggregate):
    rng = np.random.default_rng(0)
    windows, _, subject_id = invented_windows(rng)
    signal = windows.vectors(aggregate).X[:, 0]
    log_odds = 2 * (signal - signal.mean()) - 1
    assert selected(rng, windows, log_odds, subject_id) == aggregate


@pytest.mark.slow
def test_on_noise_the_mean_is_selected_in_all_but_five_percent_of_draws():
    rng = np.random.default_rng(1)
    others = 0
    for _ in range(15):
        windows, common, subject_id = invented_windows(rng, n=300)
        # Half of the draws without a signal, half with one that every window shows.
        for log_odds in (np.full(300, -1.0), common[:, 0] - 1):
            others += selected(rng, windows, log_odds, subject_id) != "mean"
    assert others <= 0.05 * 30


def test_aggregates_that_are_the_same_are_fitted_once():
    def windows(notes_of_stays):
        """Return windows of stays, each a list of the number of windows of its notes."""
        rows = [
            (stay, number, number == len(notes) - 1)
            for stay, notes in enumerate(notes_of_stays)
            for number, n in enumerate(notes)
            for _ in range(n)
        ]
        stay, number, is_last = map(np.array, zip(*rows, strict=True))
        return Windows(np.zeros((len(rows), 2), np.float32), stay, number, is_last)

    assert windows([[1], [1]]).distinct_aggregates() == ["mean"]
    assert windows([[2], [3]]).distinct_aggregates() == ["mean", "max", "clinicalbert"]
    assert windows([[1, 1], [2]]).distinct_aggregates() == [
        *("mean", "max", "last-note", "clinicalbert")
    ]
    assert windows([[1, 2]]).distinct_aggregates() == list(AGGREGATES)
