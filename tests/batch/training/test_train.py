"""Train and score: metrics equal scikit-learn's, and scores in SQL those of the regression."""

import csv
import json
import re
import shutil
import sys

import numpy as np
import pyarrow.parquet
import pytest
from click.testing import CliRunner
from scipy.optimize import brentq
from scipy.spatial.distance import cdist
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from batch.training.aggregates import Vectors
from batch.training.calibration import log_loss
from batch.training.data import Cohort, training_data, word_counts
from batch.training.model_selection import GRID, fit_calibrated
from featurestore import (
    Store,
    create_store,
    embed_pending,
    explain,
    outcomes,
    promote,
    score,
    sync,
    train,
    verify,
)
from featurestore.cli import main
from featurestore.cohort.tasks import find_task
from featurestore.errors import FeatureStoreError, SourceError
from tests.batch.training.test_calibration import platt_by_scikit_learn
from tests.hospital import admission, invent_returns, note, write_hospital
from tests.jobs import edited
from tests.timeline import day, empty_store

PATIENTS = 400


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """Patients who live alone and are in pain return more often, and their notes say so."""
    stays, notes = invent_returns(PATIENTS, base=0.1, effect=0.35, most_home=3)
    return write_hospital(tmp_path_factory.mktemp("trained") / "hospital", stays, notes)


@pytest.fixture(scope="module")
def embedded(hospital, counter_class):
    store = create_store(hospital.parent / "ward.duckdb", hospital, "mimic3")
    sync(store)
    embed_pending(store, counter_class("one-00000000"))
    return store


def featurestore(*arguments):
    """Run a command; return its output."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def copy_of(store, folder):
    """Return a copy of a store for a test that changes it."""
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
    """Return the training data, log odds and probabilities of scikit-learn's own classes."""
    data = training_data(store, "one-00000000", find_task(store), "72h", bag_of_words=False)
    cohort = data.cohort
    fitted = cohort.split == "train"
    scaler = StandardScaler().fit(data.means.X[fitted].astype(np.float64))
    X, y = scaler.transform(data.means.X.astype(np.float64)), cohort.y
    model = LogisticRegression(C=c, tol=1e-10, max_iter=5_000).fit(X[fitted], y[fitted])
    log_odds, intercept = model.decision_function(X), model.intercept_
    out_of_fold, rows = log_odds.copy(), np.flatnonzero(fitted)
    folds = StratifiedGroupKFold(5).split(X[fitted], y[fitted], groups=cohort.subject_id[fitted])
    for rest, held_out in folds:
        coef = model.fit(X[rows[rest]], y[rows[rest]]).coef_[0]
        out_of_fold[rows[held_out]] = X[rows[held_out]] @ coef + intercept
    seen = cohort.split != "test"
    slope, _, chi_squared = platt_by_scikit_learn(out_of_fold[seen], y[seen])
    slope *= 1 - 2 / chi_squared
    # With the intercept for which the mean probability is the prevalence.
    shift = brentq(lambda b: expit(slope * out_of_fold[seen] + b).mean() - y[seen].mean(), -50, 50)
    return data, log_odds, expit(slope * log_odds + shift)


def assert_calibrated(probabilities, log_odds):
    """Assert that probabilities are those of a straight line of log odds, to six digits."""
    slope, intercept = np.polyfit(log_odds, logit(probabilities), 1)
    assert probabilities == pytest.approx(expit(slope * log_odds + intercept), abs=1e-6)


def test_scores_in_sql_equal_those_of_scikit_learn(trained):
    store, result = trained
    data, log_odds, expected = by_scikit_learn(store, result["c"])
    in_sql = dict(
        store.sql(
            "SELECT hadm_id, probability FROM score_admissions($scorer)", scorer="readmit-v1"
        ).fetchall()
    )
    ours = [in_sql[int(hadm_id)] for hadm_id in data.hadm_id]
    # Folds are fitted to four digits, the regression itself to more.
    assert ours == pytest.approx(expected, abs=1e-4)
    assert_calibrated(ours, log_odds)
    assert np.std(ours) > 0.05
    frozen = store.sql("SELECT probability FROM scorer_admissions ORDER BY hadm_id").fetchall()
    assert [p for (p,) in frozen] == pytest.approx(ours, abs=1e-6)


def test_scores_of_vectors_far_from_zero_are_exact_to_six_digits(hospital, counter_class, tmp_path):
    # [CLS] vectors of a BERT differ little compared with what they have in common.
    class Far(counter_class):
        def run(self, batch):
            return 0.001 * super().run(batch) + 30

    store = create_store(tmp_path / "w.duckdb", hospital, "mimic3")
    sync(store)
    embed_pending(store, Far("one-00000000"))
    result = train(store, "readmit", baseline=False, aggregate="mean")
    data, log_odds, expected = by_scikit_learn(store, result["c"])
    in_sql = dict(
        store.sql("SELECT hadm_id, probability FROM score_admissions('readmit-v1')").fetchall()
    )
    ours = [in_sql[int(hadm_id)] for hadm_id in data.hadm_id]
    assert ours == pytest.approx(expected, abs=1e-4)
    assert_calibrated(ours, log_odds)
    assert np.std(expected) > 0.05


def test_scores_of_windows_follow_clinicalberts_rule(embedded, tmp_path):
    store = copy_of(embedded, tmp_path)
    result = train(store, "windows", aggregate="clinicalbert", baseline=False)
    assert result["aggregate"] == "clinicalbert"
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
        combined = (max(p) + np.mean(p) * n / 2) / (1 + n / 2)
        expected[hadm_id] = expit(slope * logit(combined) + shift)
    scores = store.sql("SELECT hadm_id, probability FROM score_admissions('windows-v1')")
    assert dict(scores.fetchall()) == pytest.approx(expected, abs=1e-6)


def test_an_admission_has_the_same_weight_however_many_windows_it_has():
    # Two identical windows are as one.
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 3)).astype(np.float32)
    y = X[:, 0] + rng.standard_normal(300) > 0
    cohort = Cohort(y, np.repeat(["train", "valid", "test"], 100), np.arange(300))
    repeated = np.sort(np.concatenate([np.arange(300), np.arange(0, 300, 2)]))
    once = fit_calibrated(Vectors("clinicalbert", X, np.arange(300)), cohort, False)
    copied = fit_calibrated(Vectors("clinicalbert", X[repeated], repeated), cohort, False)
    assert copied.coef == pytest.approx(once.coef, rel=1e-5)
    assert copied.log_odds == pytest.approx(once.log_odds, abs=1e-5)


def test_metrics_on_test_patients_equal_those_of_scikit_learn(trained):
    store, result = trained
    data, _, expected = by_scikit_learn(store, result["c"])
    test = data.cohort.split == "test"
    y = data.cohort.y[test]
    ours = result["test"]["scorer"]
    assert ours["auroc"][0] == pytest.approx(roc_auc_score(y, expected[test]))
    assert ours["auprc"][0] == pytest.approx(average_precision_score(y, expected[test]))
    assert ours["accuracy"][0] == pytest.approx(((expected[test] > 0.5) == y).mean())
    assert ours["auroc"][1] < ours["auroc"][0] < ours["auroc"][2]
    assert list(result["test"]) == [
        "scorer",
        "prevalence",
        "prior_admissions",
        "utilisation",
        "bag_of_words",
    ]
    assert result["test"]["bag_of_words"]["auroc"][0] > 0.6
    assert result["test"]["prevalence"]["auroc"] == [0.5, 0.5, 0.5]


def test_c_has_the_least_log_loss_in_cross_validation_by_patient(trained):
    store, result = trained
    data = training_data(store, "one-00000000", find_task(store), "72h", bag_of_words=False)
    fitted = data.cohort.split == "train"
    X, y = data.means.X[fitted].astype(np.float64), data.cohort.y[fitted]
    patients = data.cohort.subject_id[fitted]
    X = StandardScaler().fit_transform(X)

    def loss(c):
        model = LogisticRegression(C=c, tol=1e-10, max_iter=5_000)
        intercept = model.fit(X, y).intercept_
        log_odds = np.empty(len(y))
        for rest, held_out in StratifiedGroupKFold(5).split(X, y, groups=patients):
            log_odds[held_out] = X[held_out] @ model.fit(X[rest], y[rest]).coef_[0] + intercept
        return log_loss(log_odds, y).mean()

    assert loss(result["c"]) == pytest.approx(min(loss(c) for c in GRID), abs=1e-6)


def test_an_encoder_that_saw_the_training_patients_is_calibrated_on_validation_patients():
    """The second column gives away the outcome of training patients, and of no others."""
    rng = np.random.default_rng(0)
    n = 3_000
    split = rng.choice(["train", "valid", "test"], n, p=[0.4, 0.3, 0.3])
    true = rng.standard_normal(n)
    y = rng.random(n) < 1 / (1 + np.exp(-1.5 * true))
    memorized = np.where(split == "train", np.where(y, 1.0, -1.0), 0) + rng.standard_normal(n)
    X = np.stack([true, memorized], axis=1).astype(np.float32)
    test = split == "test"

    def slope_on_test(encoder_saw_training):
        fit = fit_calibrated(
            Vectors("mean", X, np.arange(n)), Cohort(y, split, np.arange(n)), encoder_saw_training
        )
        z = np.log(fit.probability / (1 - fit.probability))[test]
        return LogisticRegression(C=np.inf).fit(z[:, None], y[test]).coef_[0, 0]

    assert slope_on_test(False) < 0.7  # overconfident
    assert slope_on_test(True) == pytest.approx(1, abs=0.15)


def test_without_a_signal_every_command_says_that_scores_are_the_prevalence(embedded, tmp_path):
    store = copy_of(embedded, tmp_path)
    with edited(store) as transaction:
        # Vectors that have nothing to do with the outcome.
        transaction.con.execute(
            "UPDATE admission_embeddings SET embedding = "
            "[hash(hadm_id * 7 + i) % 1000 / 1000 FOR i IN range(4)]::FLOAT[4]"
        )
    command = ["train", store.path, "noise", "--no-baseline", "--aggregate", "mean"]
    first_line = featurestore(*command).splitlines()[0]
    assert re.fullmatch(
        r"no signal: the embeddings do not discriminate between the \d+ of \d+ stays of training "
        r"patients, out of fold, and validation patients that returned and the others \(.*\), so "
        r"every probability is the prevalence, 0\.\d{3}",
        first_line,
    )
    returned, total = store.one(
        "SELECT count(*) FILTER (label), count(*) FROM scorer_admissions WHERE split <> 'test'"
    )
    assert featurestore("score", store.path, "noise").splitlines()[0] == first_line
    scores = store.sql("SELECT DISTINCT probability FROM scores").fetchall()
    assert scores == [(pytest.approx(returned / total, abs=1e-9),)]
    assert score(store, "noise")["no_signal"] == first_line
    assert "without a signal nobody is alerted\n" in featurestore("outcomes", store.path, "noise")
    assert featurestore("outcomes", store.path, "noise").splitlines()[0] == first_line
    assert featurestore("scorers", store.path).endswith("one-00000000  no signal\n")
    assert outcomes(store, "noise")["alerts"] == 0  # nobody is at a higher risk than others
    assert featurestore("explain", store.path, 1).splitlines()[0] == first_line
    assert {window["contribution"] for window in explain(store, 1)["windows"]} == {0}
    featurestore("report", store.path, "noise", "-o", tmp_path / "report.html")
    assert first_line[1:] in (tmp_path / "report.html").read_text()
    assert not [finding for finding in verify(store) if "coefficients" in finding]


def test_the_training_set_is_split_by_patient_and_recorded(trained):
    store, result = trained
    rows = store.sql("SELECT split, count(*) FROM scorer_admissions GROUP BY 1").fetchall()
    assert dict(rows) == result["admissions"]
    in_two_splits = store.one(
        "SELECT count(*) FROM (SELECT a.subject_id FROM scorer_admissions AS r "
        "INNER JOIN admissions AS a USING (hadm_id) GROUP BY 1 HAVING count(DISTINCT split) > 1)"
    )
    assert in_two_splits == (0,)
    hadm_id, split, label = store.one(
        "SELECT hadm_id, split, label FROM scorer_admissions ORDER BY 1 LIMIT 1"
    )
    assert (hadm_id, split, label) == (
        1,
        *store.one("SELECT patient_split(1), label FROM readmission_labels() WHERE hadm_id = 1"),
    )


def test_the_store_records_what_a_scorer_was_fitted_on_and_its_metrics(trained):
    store, result = trained
    row = store.one(
        "SELECT name, version, encoder_id, cutoff, label_rule, horizon_days, metrics FROM scorers"
    )
    assert row[:-1] == ("readmit", 1, "one-00000000", "72h", "readmission", 30)
    assert json.loads(row[-1]) == {key: result[key] for key in result if key != "scorer_id"}


def test_bag_of_words_counts_the_notes_known_at_the_prediction_time(tmp_path, counter_class):
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
    # 7: alone, "alone alone", pain; 8: pain, without the note that came too late.
    assert [(row > 0).sum() for row in words] == [3, 1]
    assert word_counts(store, np.array([8]), "discharge").nnz == 2


def test_training_without_the_source_says_how(embedded, tmp_path):
    store = copy_of(embedded, tmp_path)
    with store.transaction("move") as transaction:
        transaction.con.execute("UPDATE settings SET source = $1", [str(tmp_path / "moved")])
    with pytest.raises(SourceError, match=r"moved is not a folder.*; .*--no-baseline \(baseline="):
        train(store, "readmit")
    assert train(store, "readmit", baseline=False)["scorer_id"] == "readmit-v1"


def test_training_a_name_again_adds_a_version_and_score_uses_it(embedded, tmp_path):
    store = copy_of(embedded, tmp_path)
    assert train(store, "readmit", baseline=False)["scorer_id"] == "readmit-v1"
    assert train(store, "readmit", baseline=False)["scorer_id"] == "readmit-v2"
    first, second = score(store, "readmit-v1"), score(store, "readmit")
    assert (first["scorer_id"], second["scorer_id"]) == ("readmit-v1", "readmit-v2")
    assert first["scored"] == second["scored"] == PATIENTS
    score(store, "readmit", tmp_path / "scores.csv")
    latest = store.sql(
        "SELECT scorer_id, max(run_id), count(*) FROM latest_scores GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert latest == [
        ("readmit-v1", first["run_id"], PATIENTS),
        ("readmit-v2", second["run_id"], PATIENTS),
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


def test_scores_change_with_a_sync_before_the_next_embed(counter_class, tmp_path):
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
    # The note of patient 1 is flagged as an error, 2 is withdrawn, the text of 3 is edited.
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
        """Two elements wider, which are the same in every vector."""

        def run(self, batch):
            return np.pad(5 - super().run(batch), ((0, 0), (0, 2)))

    store = copy_of(embedded, tmp_path)
    alone = train(store, "alone", baseline=False)
    embed_pending(store, Mirrored("two-00000000", dim=6))
    second = train(store, "second", encoder="one-00000000", baseline=False)
    mirrored = train(store, "mirrored", encoder="two-00000000", baseline=False)
    coefficients = dict(store.sql("SELECT name, coef FROM scorers").fetchall())
    assert alone["admissions"] == second["admissions"] == mirrored["admissions"]
    assert coefficients["second"] == coefficients["alone"]
    # Mirrored vectors reverse the sign of every coefficient and leave the scores unchanged.
    assert coefficients["mirrored"] == pytest.approx(
        [*(-c for c in coefficients["alone"]), 0, 0], abs=1e-4
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


def test_neighbours_are_the_nearest_by_mean_centred_cosine_and_never_the_same_patient(embedded):
    rows = embedded.sql("FROM similar_admissions(1, n := 5)").fetchall()
    table = embedded.sql(
        "SELECT hadm_id, subject_id, embedding FROM admission_embeddings "
        "INNER JOIN admissions USING (hadm_id) WHERE cutoff = '72h' ORDER BY hadm_id"
    ).fetchall()
    vectors = np.array([vector for _, _, vector in table])
    distance = cdist(vectors - vectors.mean(axis=0), (vectors - vectors.mean(axis=0))[:1], "cosine")
    expected = sorted(
        (float(d), hadm_id)
        for d, (hadm_id, subject, _) in zip(distance[:, 0], table, strict=True)
        if subject != 1
    )[:5]
    assert table[0][0] == 1
    assert [similarity for _, _, similarity in rows] == pytest.approx(
        [1 - d for d, _ in expected], abs=1e-6
    )
    assert [hadm_id for hadm_id, _, _ in rows] == [hadm_id for _, hadm_id in expected]


def test_stays_whose_vectors_lie_in_a_narrow_cone_are_told_apart():
    """All plain cosines are above 0.999999; two stays differ from the mean to the same side."""
    store = empty_store()
    offsets = {1: [1, 0, 0], 2: [2, 0, 0], 3: [-1, 0, 0], 4: [-1, 1, 0], 5: [-1, -1, 0]}
    for hadm_id, offset in offsets.items():
        vector = [1_000 + element for element in offset]
        store.execute(
            "INSERT INTO admission_embeddings VALUES ('e', $1, '72h', now(), 1, 1, 0, 0, $2)",
            [hadm_id, vector],
        )
        store.execute(
            "INSERT INTO admissions (hadm_id, subject_id, admittime, died_in_hospital, planned) "
            "VALUES ($1, $1, now(), FALSE, FALSE)",
            [hadm_id],
        )
    store.execute("INSERT INTO encoders VALUES ('e', 'e', '', 3, 'fp32', 512, 0, '{}', TRUE, NULL)")
    similarity = {
        hadm_id: similarity
        for hadm_id, _, similarity in store.execute("FROM similar_admissions(1)").fetchall()
    }
    root = np.sqrt(0.5)
    assert similarity == pytest.approx({2: 1, 3: -1, 4: -root, 5: -root}, abs=1e-5)
    assert list(similarity) == [2, 4, 5, 3]


@pytest.mark.parametrize("name", ["scores.xlsx", "nowhere/scores.csv"])
def test_scores_are_not_recorded_if_the_output_file_cannot_be_written(trained, tmp_path, name):
    store, _ = trained
    with pytest.raises(FeatureStoreError, match=r"cannot be written - name a .csv or .parquet"):
        score(store, "readmit", tmp_path / name)
    assert store.one("SELECT count(*) FROM scores") == (0,)


def test_an_unknown_scorer_is_an_error(embedded):
    with pytest.raises(FeatureStoreError, match=r'holds no scorer nobody: .* "featurestore train'):
        score(embedded, "nobody")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cutoff": "3days"}, "unknown cutoff 3days - use hours after admission such as 36h"),
        ({"encoder": "none-1234"}, "holds no encoder none-1234 - it has one-00000000"),
        ({"horizon_days": 0}, "horizon must be at least 1 day, got 0"),
        ({"horizon_days": 1}, "the training patients have 0 returns among"),
        ({"name": "../x"}, "is not a valid name of a scorer"),
    ],
)
def test_invalid_arguments_of_train_leave_the_store_unchanged(embedded, settings, message):
    version = embedded.path.stat().st_mtime_ns
    with pytest.raises(FeatureStoreError, match=message):
        train(embedded, **{"name": "x", "baseline": False} | settings)
    assert embedded.path.stat().st_mtime_ns == version


def test_training_before_embedding_is_an_error(hospital, tmp_path):
    store = create_store(tmp_path / "w.duckdb", hospital, "mimic3")
    with pytest.raises(FeatureStoreError, match='holds no embeddings - "featurestore embed'):
        train(store, "x")


def test_notes_one_second_after_the_prediction_time_do_not_change_the_scorer(
    counter_class, tmp_path
):
    rng = np.random.default_rng(0)
    words = [" ".join(rng.choice(["home", "alone"], 4)) for _ in range(300)]
    stays = [admission(n, n) for n in range(1, 301)]
    stays += [admission(1000 + n, n, day(20), day(21)) for n in range(1, 301, 2)]
    early = [note(n, n, words[n - 1], subject_id=n) for n in range(1, 301)]

    def trained_with(name, *answer_times):
        answer_notes = [
            note(f"answer-{n}", n, "pain pain pain", at, subject_id=n)
            for at in answer_times
            for n in range(1, 301, 2)
        ]
        folder = write_hospital(tmp_path / name, stays, early + answer_notes)
        store = create_store(tmp_path / f"{name}.duckdb", folder, "mimic3")
        sync(store)
        embed_pending(store, counter_class())
        result = train(store, "readmit", baseline=False)
        return result["test"]["scorer"]["auroc"][0], store.one(
            "SELECT coef, intercept FROM scorers"
        )

    without, late = trained_with("without"), trained_with("late", day(3, 12, 0, 1))
    in_time = trained_with("in_time", day(3))
    assert late == without
    assert without[0] < 0.8
    assert in_time[0] == 1.0


def test_vectors_that_identify_patients_predict_nothing_on_other_patients():
    # Split by row they predict the outcome, split by patient they cannot.
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
    ("statement", "message"),
    [
        pytest.param(
            "UPDATE admission_embeddings SET embedding = [1, 2, 3, 4]::FLOAT[4]",
            "admissions have the same embedding by one-00000000",
            id="constant vectors",
        ),
        pytest.param(
            "DELETE FROM admissions WHERE hadm_id > 1000; "
            "UPDATE settings SET live = TRUE, observed_until = TIMESTAMP '2150-01-12'",
            r"has a label, 400 of them because of 'horizon not yet observed'",
            id="no label is mature",
        ),
        pytest.param(
            "UPDATE admissions SET subject_id = 1",
            r"all \d+ labelled stays of training patients at 72h are of one patient",
            id="one patient",
        ),
        pytest.param(
            "DELETE FROM admissions WHERE hadm_id > 9 AND hadm_id < 1000",
            r"returns among \d labelled stays at 72h, at least 2 returns among 10 stays are needed",
            id="fewer than ten admissions",
        ),
    ],
)
def test_too_little_data_is_an_error_of_one_line_that_leaves_the_store_unchanged(
    embedded, tmp_path, monkeypatch, statement, message
):
    store = copy_of(embedded, tmp_path)
    with edited(store) as draft:
        draft.con.execute(statement)
    monkeypatch.setattr(sys.modules["batch.training.train"], "update_embeddings", lambda *_: None)
    version = store.path.stat().st_mtime_ns
    with pytest.raises(FeatureStoreError, match=message) as error:
        train(store, "x", baseline=False)
    assert "\n" not in str(error.value) and " - " in str(error.value)
    assert store.path.stat().st_mtime_ns == version


def test_many_returns_before_the_discharge_prediction_are_warned_of(embedded, tmp_path):
    store = copy_of(embedded, tmp_path)
    with edited(store) as transaction:
        transaction.con.execute(
            "UPDATE admissions SET admittime = TIMESTAMP '2150-01-12 00:00:00' "
            "WHERE hadm_id > 1000 AND subject_id % 3 = 0"
        )
    for cutoff, warned in (("72h", False), ("discharge", True)):
        warnings = train(store, "readmit", baseline=False, cutoff=cutoff)["warnings"]
        assert any("come before the discharge prediction" in each for each in warnings) == warned


def test_splits_without_a_return_are_warned_of(embedded, tmp_path):
    store = copy_of(embedded, tmp_path)
    with edited(store) as transaction:
        transaction.con.execute(
            "DELETE FROM admissions WHERE hadm_id > 1000 AND patient_split(subject_id) <> 'train'"
        )
    result = train(store, "readmit", baseline=False)
    assert result["positives"]["valid"] == result["positives"]["test"] == 0
    assert result["test"]["scorer"]["auroc"] is None
    # Nothing looks perfect, such as an accuracy of 1 where one outcome is always predicted.
    assert {value for system in result["test"].values() for value in system.values()} == {None}
    assert {
        value for alert in result["alerts"] for value in (alert["ppv"], alert["sensitivity"])
    } == {None}
    assert result["candidates"][0]["test_auroc"] is None
    assert re.match(
        r"0 of \d+ stays of test patients returned: at least 10 that did and 10 that did not are "
        "needed to evaluate the scorer",
        result["warnings"][0],
    )


def test_an_interval_wider_than_the_distance_from_chance_is_warned_of(trained):
    _, result = trained
    estimate, low, high = result["test"]["scorer"]["auroc"]
    warned = any("wider than its distance" in warning for warning in result["warnings"])
    assert warned == (low > 0.5 and high - low > estimate - 0.5)
