"""Train and score: the numbers are scikit-learn's, computed in SQL from what the store keeps."""

import csv
import json
import shutil
import sys

import numpy as np
import pyarrow.parquet
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from batch.training.baselines import word_counts
from batch.training.data import training_set
from batch.training.model_selection import GRID, Cohort, Vectors, best, calibrate, fits
from featurestore import Store, create_store, embed_pending, promote, score, sync, train
from featurestore.errors import FeatureStoreError
from tests.hospital import admission, note, write_hospital
from tests.timeline import day

PATIENTS = 400


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """Who lives alone and in pain comes back more often; the notes say so."""
    rng = np.random.default_rng(0)
    stays, notes = [], []
    for patient in range(1, PATIENTS + 1):
        alone, pain = (rng.random(2) < 0.5).tolist()
        stays.append(admission(patient, patient, day(0), day(10)))
        if rng.random() < 0.1 + 0.35 * alone + 0.35 * pain:
            stays.append(admission(1000 + patient, patient, day(20), day(21)))
        words = ["home"] * int(rng.integers(1, 4)) + ["alone"] * alone * 2 + ["pain"] * pain * 3
        notes.append(note(patient, patient, " ".join(words), subject_id=patient))
    return write_hospital(tmp_path_factory.mktemp("trained") / "hospital", stays, notes)


@pytest.fixture(scope="module")
def embedded(hospital, counter_class):
    store = create_store(hospital.parent / "ward.duckdb", hospital, "mimic3")
    sync(store)
    embed_pending(store, counter_class("one-00000000"))
    return store


def copy_of(store, folder):
    """The same store, to be changed by one test."""
    for end in ("", ".seal"):
        shutil.copy(f"{store.path}{end}", folder / f"w.duckdb{end}")
    return Store(folder / "w.duckdb")


@pytest.fixture(scope="module")
def counter_class():
    from tests.conftest import WordCounter

    return WordCounter


@pytest.fixture(scope="module")
def trained(embedded, tmp_path_factory):
    store = copy_of(embedded, tmp_path_factory.mktemp("with-scorer"))
    return store, train(store, "readmit", aggregate="mean")


def by_scikit_learn(store, c):
    """The same scorer with scikit-learn's own pieces, on what training_set() gives."""
    rows = training_set(store, "one-00000000", "72h", 30)
    fitted, valid = rows.split == "train", rows.split == "valid"
    X = rows.X.astype(np.float64)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, tol=1e-10, max_iter=5_000))
    log_odds = model.fit(X[fitted], rows.y[fitted]).decision_function(X)[:, None]
    platt = LogisticRegression(C=np.inf, tol=1e-10).fit(log_odds[valid], rows.y[valid])
    return rows, log_odds[:, 0], platt.predict_proba(log_odds)[:, 1]


def test_scores_in_sql_are_those_of_scikit_learn(trained):
    store, facts = trained
    rows, _, expected = by_scikit_learn(store, facts["c"])
    in_sql = dict(
        store.sql(
            "SELECT hadm_id, probability FROM score_admissions($scorer)", scorer="readmit-v1"
        ).fetchall()
    )
    ours = [in_sql[int(hadm_id)] for hadm_id in rows.hadm_id]
    assert ours == pytest.approx(expected, abs=1e-6)
    assert np.std(ours) > 0.05
    frozen = store.sql("SELECT probability FROM scorer_admissions ORDER BY hadm_id").fetchall()
    assert [p for (p,) in frozen] == pytest.approx(ours, abs=1e-6)


def test_vectors_far_from_zero_lose_no_digit_of_a_probability(hospital, counter_class, tmp_path):
    # As [CLS] of a BERT lies: what tells two notes apart is little beside what all have in common.
    class Far(counter_class):
        def run(self, batch):
            return 0.001 * super().run(batch) + 30

    store = create_store(tmp_path / "w.duckdb", hospital, "mimic3")
    sync(store)
    embed_pending(store, Far("one-00000000"))
    facts = train(store, "readmit", baseline=False, aggregate="mean")
    rows, _, expected = by_scikit_learn(store, facts["c"])
    in_sql = dict(
        store.sql("SELECT hadm_id, probability FROM score_admissions('readmit-v1')").fetchall()
    )
    assert [in_sql[int(hadm_id)] for hadm_id in rows.hadm_id] == pytest.approx(expected, abs=1e-6)
    assert np.std(expected) > 0.05


def test_scores_of_windows_follow_clinicalberts_rule(embedded, tmp_path):
    store = copy_of(embedded, tmp_path)
    facts = train(store, "windows", aggregate="clinicalbert", baseline=False)
    assert facts["aggregate"] == "clinicalbert"
    coef, intercept, slope, shift = store.one(
        "SELECT coef, intercept, calibration_slope, calibration_intercept FROM scorers "
        "WHERE name = 'windows'"
    )
    windows = {}
    for hadm_id, vector in store.sql("SELECT hadm_id, embedding FROM embeddings").fetchall():
        p = 1 / (1 + np.exp(-(np.dot(vector, coef) + intercept)))
        windows.setdefault(hadm_id, []).append(p)
    assert {len(of_stay) for of_stay in windows.values()} == {1, 2}
    expected = {}
    for hadm_id, p in windows.items():
        n = len(p)
        together = (max(p) + np.mean(p) * n / 2) / (1 + n / 2)
        expected[hadm_id] = 1 / (1 + (together / (1 - together)) ** -slope * np.exp(-shift))
    scores = store.sql("SELECT hadm_id, probability FROM score_admissions('windows-v1')")
    assert dict(scores.fetchall()) == pytest.approx(expected, abs=1e-6)
    # Calibrated on validation patients: as many are expected there as came.
    rows = store.sql(
        "SELECT sum(probability), count(*) FILTER (label) FROM scorer_admissions "
        "WHERE scorer_id = 'windows-v1' AND split = 'valid'"
    ).fetchall()
    assert rows[0][0] == pytest.approx(rows[0][1], abs=1e-3)


def test_of_windows_an_admission_counts_once_however_many_it_has():
    # A stay of two windows that are one another's copy is a stay of one.
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 3)).astype(np.float32)
    y = X[:, 0] + rng.standard_normal(300) > 0
    cohort = Cohort(y, np.repeat(["train", "valid", "test"], 100), np.arange(300))
    twice = np.sort(np.concatenate([np.arange(300), np.arange(0, 300, 2)]))
    (once,) = fits(Vectors("clinicalbert", X, np.arange(300)), cohort, False)
    (copied,) = fits(Vectors("clinicalbert", X[twice], twice), cohort, False)
    assert copied.coef == pytest.approx(once.coef, rel=1e-5)
    assert copied.log_odds == pytest.approx(once.log_odds, abs=1e-5)


def test_metrics_are_those_of_scikit_learn_on_test_patients(trained):
    store, facts = trained
    rows, _, expected = by_scikit_learn(store, facts["c"])
    test = rows.split == "test"
    ours = facts["test"]["scorer"]
    assert ours["auroc"][0] == pytest.approx(roc_auc_score(rows.y[test], expected[test]))
    assert ours["auprc"][0] == pytest.approx(average_precision_score(rows.y[test], expected[test]))
    assert ours["accuracy"][0] == pytest.approx(((expected[test] > 0.5) == rows.y[test]).mean())
    assert ours["auroc"][1] < ours["auroc"][0] < ours["auroc"][2]
    assert list(facts["test"]) == ["scorer", "prevalence", "prior_admissions", "bag_of_words"]
    assert facts["test"]["bag_of_words"]["auroc"][0] > 0.6
    assert facts["test"]["prevalence"]["auroc"] == [0.5, 0.5, 0.5]


def test_c_is_cross_validated_by_patient(trained):
    store, facts = trained
    rows = training_set(store, "one-00000000", "72h", 30)
    fitted = rows.split == "train"
    X, y, patients = rows.X[fitted].astype(np.float64), rows.y[fitted], rows.subject_id[fitted]
    X = StandardScaler().fit_transform(X)

    def auroc(c):
        folds = GroupKFold(5).split(X, groups=patients)
        return np.mean(
            [
                roc_auc_score(
                    y[held_out],
                    LogisticRegression(C=c, tol=1e-10, max_iter=5_000)
                    .fit(X[rest], y[rest])
                    .decision_function(X[held_out]),
                )
                for rest, held_out in folds
            ]
        )

    assert auroc(facts["c"]) == pytest.approx(max(auroc(c) for c in GRID), abs=1e-6)
    assert facts["fitted_on"] == "training patients, C by cross-validation"


def test_an_encoder_that_saw_the_training_patients_is_not_believed_on_them(tmp_path):
    """Vectors that know the answer of every training patient by heart, and of others a little."""
    rng = np.random.default_rng(0)
    n = 1_500
    split = rng.choice(["train", "valid", "test"], n, p=[0.5, 0.25, 0.25])
    true = rng.standard_normal(n)
    y = rng.random(n) < 1 / (1 + np.exp(-1.5 * true))
    by_heart = np.where(split == "train", np.where(y, 3.0, -3.0), 0) + rng.standard_normal(n)
    X = np.stack([true, by_heart], axis=1).astype(np.float32)
    cohort = Cohort(y, split, np.arange(n))
    naive, *others = fits(Vectors("mean", X, np.arange(n)), cohort, saw_training=True)
    kept = best([naive, *others], cohort)
    assert kept.fitted_on == "validation patients, C by cross-validation"
    test = split == "test"
    assert roc_auc_score(y[test], kept.log_odds[test]) > (
        roc_auc_score(y[test], naive.log_odds[test]) + 0.05
    )


@pytest.mark.slow
def test_another_way_that_looks_better_by_luck_is_not_kept():
    """Of thirty hospitals without a signal, the naive way is left in hardly one."""
    left = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((400, 4)).astype(np.float32)
        y = rng.random(400) < 0.3
        cohort = Cohort(y, np.repeat(["train", "valid", "test"], [260, 70, 70]), np.arange(400))
        found = list(fits(Vectors("mean", X, np.arange(400)), cohort, saw_training=True))
        assert len(found) >= 2
        left += best(found, cohort) is not found[0]
    assert left <= 3


def test_the_training_set_is_split_by_patient_and_frozen(trained):
    store, facts = trained
    rows = store.sql("SELECT split, count(*) FROM scorer_admissions GROUP BY 1").fetchall()
    assert dict(rows) == facts["admissions"]
    on_two_sides = store.one(
        "SELECT count(*) FROM (SELECT a.subject_id FROM scorer_admissions AS r "
        "INNER JOIN admissions AS a USING (hadm_id) GROUP BY 1 HAVING count(DISTINCT split) > 1)"
    )
    assert on_two_sides == (0,)
    hadm_id, split, label = store.one(
        "SELECT hadm_id, split, label FROM scorer_admissions ORDER BY 1 LIMIT 1"
    )
    assert (hadm_id, split, label) == (
        1,
        *store.one("SELECT patient_split(1), label FROM readmission_labels() WHERE hadm_id = 1"),
    )


def test_the_scorer_says_what_it_was_fitted_on(trained):
    store, facts = trained
    row = store.one(
        "SELECT name, version, encoder_id, cutoff, label_rule, horizon_days, metrics FROM scorers"
    )
    assert row[:-1] == ("readmit", 1, "one-00000000", "72h", "readmission", 30)
    assert json.loads(row[-1]) == {key: facts[key] for key in facts if key != "scorer_id"}


def test_bag_of_words_sees_the_notes_that_the_embeddings_saw(tmp_path, counter_class):
    notes = [
        note(1, 7, "alone alone"),
        note(2, 7, "pain"),
        note(3, 8, "pain"),
        note(4, 8, "canary", day(9)),
    ]
    folder = write_hospital(tmp_path / "hospital", [admission(7), admission(8)], notes)
    store = create_store(tmp_path / "w.duckdb", folder, "mimic3")
    sync(store)
    words = word_counts(store, np.array([7, 8]), "72h").toarray()
    # 7: alone, "alone alone", pain; 8: pain, and nothing of the note that came too late.
    assert [(row > 0).sum() for row in words] == [3, 1]
    assert word_counts(store, np.array([8]), "discharge").nnz == 2


def test_training_a_name_again_makes_its_next_version_and_score_takes_it(embedded, tmp_path):
    store = copy_of(embedded, tmp_path)
    assert train(store, "readmit", baseline=False)["scorer_id"] == "readmit-v1"
    assert train(store, "readmit", baseline=False)["scorer_id"] == "readmit-v2"
    first, second = score(store, "readmit-v1"), score(store, "readmit")
    assert (first["scorer_id"], second["scorer_id"]) == ("readmit-v1", "readmit-v2")
    assert first["scored"] == second["scored"] == PATIENTS
    again = score(store, "readmit", tmp_path / "scores.csv")
    latest = store.sql(
        "SELECT scorer_id, max(run_id), count(*) FROM latest_scores GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert latest == [
        ("readmit-v1", first["run_id"], PATIENTS),
        ("readmit-v2", again["run_id"], PATIENTS),
    ]
    score(store, "readmit", tmp_path / "scores.parquet")
    hashes = store.sql("SELECT DISTINCT training_hash FROM scorers").fetchall()
    assert len(hashes) == 1

    for name in ("scores.csv", "scores.parquet"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    with (tmp_path / "scores.csv").open() as stream:
        in_csv = [float(row["probability"]) for row in csv.DictReader(stream)]
    in_parquet = pyarrow.parquet.read_table(tmp_path / "scores.parquet")["probability"].to_pylist()
    assert in_csv == in_parquet == sorted(in_parquet, reverse=True)
    assert len(in_csv) == PATIENTS


def test_scores_follow_a_sync_without_waiting_for_embed(counter_class, tmp_path):
    stays = [
        admission(n + back, n, day(20 * bool(back)), day(10 + 11 * bool(back)))
        for n in range(1, 61)
        for back in ([0, 1000] if n % 2 else [0])
    ]
    notes = [note(n, n, "pain pain" if n % 2 else "home", subject_id=n) for n in range(1, 61)]
    notes += [note(100 + n, n, "alone", subject_id=n) for n in range(1, 61)]
    folder = write_hospital(tmp_path / "hospital", stays, notes)
    store = create_store(tmp_path / "w.duckdb", folder, "mimic3")
    sync(store)
    embed_pending(store, counter_class())
    train(store, "readmit", baseline=False)
    score(store, "readmit")
    before = dict(store.sql("SELECT hadm_id, probability FROM latest_scores").fetchall())
    # The one note that made patient 1 a case is flagged, 2 is withdrawn, 3 gets another text.
    notes[0] |= {"ISERROR": 1}
    notes[2] |= {"TEXT": "home"}
    write_hospital(folder, [row for row in stays if row["SUBJECT_ID"] != 2], notes)
    sync(store)
    assert score(store, "readmit")["pending_notes"] == 1
    after = dict(store.sql("SELECT hadm_id, probability FROM latest_scores").fetchall())
    assert after[1] < before[1] and after[3] < before[3]
    assert after[5] == before[5]
    assert 2 in before and 2 not in after


def test_scorers_of_two_encoders_never_mix(embedded, counter_class, tmp_path):
    class Mirrored(counter_class):
        def run(self, batch):
            return 5 - super().run(batch)

    store = copy_of(embedded, tmp_path)
    alone = train(store, "alone", baseline=False)
    embed_pending(store, Mirrored("two-00000000"))
    beside = train(store, "beside", encoder="one-00000000", baseline=False)
    mirrored = train(store, "mirrored", encoder="two-00000000", baseline=False)
    coefficients = dict(store.sql("SELECT name, coef FROM scorers").fetchall())
    assert alone["admissions"] == beside["admissions"] == mirrored["admissions"]
    assert coefficients["beside"] == coefficients["alone"]
    # The mirror turns every coefficient round, and leaves every score where it was.
    assert coefficients["mirrored"] == pytest.approx(
        tuple(-c for c in coefficients["alone"]), abs=1e-4
    )
    scores = [
        dict(store.sql(f"SELECT hadm_id, probability FROM score_admissions('{s}-v1')").fetchall())
        for s in ("alone", "mirrored")
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    neighbours = store.sql("FROM similar_admissions(1, n := 500)").fetchall()
    assert len({hadm_id for hadm_id, _, _ in neighbours}) == len(neighbours) == PATIENTS - 1
    promote(store, "two-00000000")
    assert store.sql("SELECT encoder_id FROM encoders WHERE active").fetchall() == [
        ("two-00000000",)
    ]


def test_neighbours_are_the_nearest_by_cosine_and_never_the_same_patient(embedded):
    rows = embedded.sql("FROM similar_admissions(1, n := 5)").fetchall()
    table = embedded.sql(
        "SELECT hadm_id, subject_id, embedding FROM admission_embeddings "
        "INNER JOIN admissions USING (hadm_id) WHERE cutoff = '72h' ORDER BY hadm_id"
    ).fetchall()
    vectors = {hadm: np.array(vector) for hadm, _, vector in table}
    itself = vectors[1]

    def cosine(v):
        return v @ itself / np.linalg.norm(v) / np.linalg.norm(itself)

    expected = sorted((-cosine(vectors[h]), h) for h, subject, _ in table if subject != 1)[:5]
    assert [similarity for _, _, similarity in rows] == pytest.approx(
        [-c for c, _ in expected], abs=1e-6
    )


@pytest.mark.parametrize("name", ["scores.xlsx", "nowhere/scores.csv"])
def test_scores_that_could_not_be_written_are_not_given(trained, tmp_path, name):
    store, _ = trained
    with pytest.raises(FeatureStoreError, match=r"cannot be written - name a .csv or .parquet"):
        score(store, "readmit", tmp_path / name)
    assert store.one("SELECT count(*) FROM scores") == (0,)


def test_a_scorer_that_is_not_there(embedded):
    with pytest.raises(FeatureStoreError, match=r'holds no scorer nobody: .* "featurestore train'):
        score(embedded, "nobody")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cutoff": "71h"}, "unknown cutoff 71h - use one of 24h, 48h, 72h, discharge"),
        ({"encoder": "none-1234"}, "holds no encoder none-1234 - it has one-00000000"),
        ({"horizon_days": 0}, "horizon must be at least 1 day, got 0"),
        ({"horizon_days": 1}, "the training patients have 0 returns among"),
        ({"name": "../x"}, "is no name for a scorer"),
    ],
)
def test_training_that_cannot_be_done_changes_nothing(embedded, settings, message):
    version = embedded.path.stat().st_mtime_ns
    with pytest.raises(FeatureStoreError, match=message):
        train(embedded, **{"name": "x", "baseline": False} | settings)
    assert embedded.path.stat().st_mtime_ns == version


def test_no_embeddings_yet(hospital, tmp_path):
    store = create_store(tmp_path / "w.duckdb", hospital, "mimic3")
    with pytest.raises(FeatureStoreError, match='holds no embeddings - "featurestore embed'):
        train(store, "x")


def test_with_too_few_validation_patients_nothing_is_compared_and_it_says_so():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 3)).astype(np.float32)
    y = X[:, 0] + rng.standard_normal(200) > 0
    split = np.array(["train"] * 150 + ["valid"] * 20 + ["test"] * 30)
    y[150:170] = False
    cohort = Cohort(y, split, np.arange(200) // 2)
    (naive,) = fits(Vectors("mean", X, np.arange(200)), cohort, saw_training=True)
    assert naive.valid_auroc is None
    slope, _, calibrated_on = calibrate(naive, cohort)
    assert calibrated_on == "training patients, by fold"
    assert 0.5 < slope < 2


def test_the_answer_planted_one_second_after_the_prediction_time_teaches_nothing(
    counter_class, tmp_path
):
    rng = np.random.default_rng(0)
    words = [" ".join(rng.choice(["home", "alone"], 4)) for _ in range(80)]
    stays = [admission(n, n) for n in range(1, 81)]
    stays += [admission(1000 + n, n, day(20), day(21)) for n in range(1, 81, 2)]
    early = [note(n, n, words[n - 1], subject_id=n) for n in range(1, 81)]

    def trained_with(name, *told_at):
        answers = [
            note(f"answer-{n}", n, "pain pain pain", at, subject_id=n)
            for at in told_at
            for n in range(1, 81, 2)
        ]
        folder = write_hospital(tmp_path / name, stays, early + answers)
        store = create_store(tmp_path / f"{name}.duckdb", folder, "mimic3")
        sync(store)
        embed_pending(store, counter_class())
        facts = train(store, "readmit", baseline=False)
        return facts["test"]["scorer"]["auroc"][0], store.one("SELECT coef, intercept FROM scorers")

    honest, late = trained_with("honest"), trained_with("late", day(3, 12, 0, 1))
    in_time = trained_with("in_time", day(3))
    assert late == honest
    assert honest[0] < 0.8
    assert in_time[0] == 1.0


def test_the_leak_canary_a_split_by_patient_learns_nothing_from_identity():
    # Vectors that know the patient and nothing else: by row they predict, by patient they cannot.
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(400), 5)
    X = rng.standard_normal((400, 256))[patients]
    y = (rng.random(400) < 0.5)[patients]

    def auroc(held_out):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5_000))
        model.fit(X[~held_out], y[~held_out])
        return roc_auc_score(y[held_out], model.predict_proba(X[held_out])[:, 1])

    assert auroc(rng.random(2000) < 0.2) > 0.7
    by_patient = [auroc(patients % 5 == fold) for fold in range(5)]
    assert 0.45 < np.mean(by_patient) < 0.55


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            "UPDATE admission_embeddings SET embedding = [1, 2, 3, 4]::FLOAT[4]",
            "admissions have the same embedding by one-00000000",
            id="constant vectors",
        ),
        pytest.param(
            "DELETE FROM admissions WHERE hadm_id > 1000; "
            "UPDATE settings SET live = TRUE, observed_until = TIMESTAMP '2150-01-12'",
            r"no admission with vectors at 72h has a label: 400 say 'horizon not yet observed'",
            id="no label is known yet",
        ),
        pytest.param(
            "DELETE FROM admissions WHERE hadm_id > 9 AND hadm_id < 1000",
            r"returns among \d labelled stays at 72h, and 10 stays with 2 returns are the fewest",
            id="fewer than ten admissions",
        ),
    ],
)
def test_nothing_to_learn_from_is_one_line_and_changes_nothing(
    embedded, tmp_path, monkeypatch, change, message
):
    store = copy_of(embedded, tmp_path)
    with store.transaction("test") as draft:
        draft.con.execute(change)
    monkeypatch.setattr(sys.modules["batch.training.train"], "update_embeddings", lambda _: None)
    version = store.path.stat().st_mtime_ns
    with pytest.raises(FeatureStoreError, match=message) as error:
        train(store, "x", baseline=False)
    assert "\n" not in str(error.value) and " - " in str(error.value)
    assert store.path.stat().st_mtime_ns == version


def test_a_split_without_a_return_is_said_and_not_hidden(embedded, tmp_path):
    store = copy_of(embedded, tmp_path)
    with store.transaction("test") as transaction:
        transaction.con.execute(
            "DELETE FROM admissions WHERE hadm_id > 1000 AND patient_split(subject_id) <> 'train'"
        )
    facts = train(store, "readmit", baseline=False)
    assert facts["positives"]["valid"] == facts["positives"]["test"] == 0
    assert facts["test"]["scorer"]["auroc"] is None
    warnings = "\n".join(facts["warnings"])
    assert "of test patients 0 returned: they cannot say how good the scorer is" in warnings
    assert "fewer than 10 validation stays returned" in warnings


def test_an_interval_wider_than_the_effect_is_a_warning(trained):
    _, facts = trained
    estimate, low, high = facts["test"]["scorer"]["auroc"]
    told = [warning for warning in facts["warnings"] if "wider than its distance" in warning]
    assert bool(told) == (low > 0.5 and high - low > estimate - 0.5)
