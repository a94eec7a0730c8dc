"""The test patients are looked at once, by turns, from a day on, or in another hospital."""

import json
from datetime import date

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.special import expit
from sklearn.metrics import brier_score_loss, roc_auc_score

from batch.cli.training import training_summary
from featurestore import (
    audit,
    create_store,
    embed_pending,
    evaluate_scorer,
    score,
    sync,
    train,
    verify,
)
from featurestore.cli import main
from featurestore.errors import FeatureStoreError, ModelError, NotEnoughDataError
from tests.batch.training.test_train import copy_of
from tests.conftest import WordCounter
from tests.hospital import admission, invent_returns, note, write_hospital
from tests.timeline import day

ENCODER = "one-00000000"
PLAIN = {"baseline": False, "aggregate": "mean"}


def embedded_store(folder, stays, notes, **settings):
    hospital = write_hospital(folder / "hospital", stays, notes)
    store = create_store(folder / "w.duckdb", hospital, "mimic3", **settings)
    sync(store)
    embed_pending(store, WordCounter(ENCODER))
    return store


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    stays, notes = invent_returns(400, base=0.1, effect=0.35, most_home=3)
    return embedded_store(tmp_path_factory.mktemp("here"), stays, notes)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A hospital with fewer returns, by the same words."""
    stays, notes = invent_returns(150, base=0.05, effect=0.25, most_home=2)
    return embedded_store(tmp_path_factory.mktemp("there"), stays, notes)


@pytest.fixture
def store(template, tmp_path):
    return copy_of(template, tmp_path)


def test_the_test_patients_are_looked_at_once_for_the_scorer_that_was_chosen(store):
    candidate = train(store, "candidate", **PLAIN, test=False)
    assert candidate["admissions"]["test"] == 0
    assert candidate["test"]["scorer"]["auroc"] is None
    assert candidate["warnings"] == [
        "the test patients were not looked at - featurestore evaluate does that"
    ]
    splits = store.sql("SELECT DISTINCT split FROM scorer_admissions ORDER BY 1").fetchall()
    assert splits == [("train",), ("valid",)]
    assert store.one("SELECT count(*) FROM evaluations") == (0,)

    once = evaluate_scorer(store, "candidate")
    assert once["evaluated_before"] == []
    usual = train(store, "usual", **PLAIN)
    assert once["metrics"] == {
        name: pytest.approx(interval, abs=1e-6)
        for name, interval in usual["test"]["scorer"].items()
    }
    assert once["admissions"] == usual["admissions"]["test"]
    assert evaluate_scorer(store, "candidate")["evaluated_before"] == ["usual-v1"]
    ledger = store.sql(
        "SELECT scorer_id, store, admissions, positives FROM evaluations ORDER BY evaluated_at"
    ).fetchall()
    numbers = (once["admissions"], once["positives"])
    assert ledger == [
        *(("candidate-v1", None, *numbers), ("usual-v1", None, *numbers)),
        ("candidate-v1", None, *numbers),
    ]
    assert store.one("SELECT count(DISTINCT patients_hash) FROM evaluations") == (1,)
    assert not verify(store)


def test_another_hospital_is_predicted_by_the_recorded_coefficients(store, elsewhere):
    train(store, "readmit", **PLAIN)
    result = evaluate_scorer(store, "readmit", elsewhere)
    coef, intercept, low, high = store.one(
        "SELECT coef, intercept, min_probability, max_probability FROM scorers"
    )
    rows = elsewhere.sql(
        "SELECT label, embedding FROM training_set(encoder := $e)", e=ENCODER
    ).fetchall()
    y, X = (np.array(column) for column in zip(*rows, strict=True))
    p = np.clip(expit(X @ np.array(coef) + intercept), low, high)
    assert result["admissions"] == len(y)
    assert result["metrics"]["auroc"][0] == pytest.approx(roc_auc_score(y, p))
    assert result["metrics"]["brier"][0] == pytest.approx(brier_score_loss(y, p))
    # Fewer return there, so the risks are too high by half: the recalibration lowers them.
    assert p.mean() > 1.3 * y.mean()
    assert result["metrics"]["calibration_intercept"][2] < 0
    recalibrated = result["recalibrated"]
    assert recalibrated["intercept"] < 0
    assert recalibrated["metrics"]["brier"][0] < result["metrics"]["brier"][0]
    assert abs(recalibrated["metrics"]["calibration_intercept"][0]) < 0.1
    assert store.one("SELECT store FROM evaluations WHERE store IS NOT NULL") == (
        str(elsewhere.path),
    )


def test_a_later_extract_of_the_same_source_leaves_the_training_patients_out(
    template, store, tmp_path
):
    train(store, "readmit", **PLAIN)
    result = evaluate_scorer(store, "readmit", template)
    here = evaluate_scorer(store, "readmit")
    assert result["admissions"] == here["admissions"]
    assert (
        result["excluded"]
        == store.one("SELECT count(*) FROM scorer_admissions WHERE split <> 'test'")[0]
    )
    assert result["metrics"]["auroc"] == here["metrics"]["auroc"]


def test_what_cannot_be_evaluated_is_one_line(store, tmp_path):
    train(store, "readmit", **PLAIN)
    with pytest.raises(FeatureStoreError, match="turns test every patient"):
        train(store, "readmit", turns=True, test=False)
    (tmp_path / "other").mkdir()
    other = embedded_store(
        tmp_path / "other", [admission(n) for n in range(1, 30)], [note(1, 1, "home")]
    )
    with pytest.raises(NotEnoughDataError, match="0 of 1 stays returned: at least 10 that did"):
        evaluate_scorer(store, "readmit", other)
    with other.transaction("test") as transaction:
        transaction.con.execute("UPDATE encoders SET fingerprint = 'another'")
    with pytest.raises(ModelError, match=r"has no vectors of one-00000000.*same model folder"):
        evaluate_scorer(store, "readmit", other)
    assert store.one("SELECT count(*) FROM evaluations WHERE store IS NOT NULL") == (0,)


def test_in_ten_turns_each_patient_is_tested_once(template):
    rows = template.sql(
        "SELECT subject_id, list(patient_split(subject_id, turn := turn) ORDER BY turn), "
        "any_value(patient_split(subject_id)) FROM range(10) AS t(turn), "
        "(SELECT DISTINCT subject_id FROM admissions) GROUP BY subject_id"
    ).fetchall()
    assert len(rows) == 400
    for _, splits, usual in rows:
        assert sorted(splits) == ["test", *["train"] * 8, "valid"]
        assert splits[0] == usual


def test_a_small_cohort_is_evaluated_on_all_of_its_patients(store):
    result = train(store, "readmit", **PLAIN, turns=True)
    turns = result["turns"]
    n_labelled = store.one("SELECT count(*) FROM scorer_admissions WHERE label IS NOT NULL")[0]
    assert turns["admissions"] == n_labelled > 8 * result["admissions"]["test"]
    assert turns["metrics"].keys() == {"scorer", "prior_admissions", "utilisation"}
    low, high = turns["metrics"]["scorer"]["auroc"][1:]
    assert high - low < 0.6 * np.ptp(result["test"]["scorer"]["auroc"][1:])
    assert low < result["test"]["scorer"]["auroc"][0]


def test_turns_with_too_few_outcomes_have_no_table_of_dashes(store):
    result = train(store, "readmit", **PLAIN, turns=True)
    assert "in ten turns" in training_summary(result)
    result["turns"]["metrics"]["scorer"]["auroc"] = None
    assert "in ten turns" not in training_summary(result)


def test_turns_of_labels_that_mean_nothing_find_nothing(tmp_path):
    stays, notes = invent_returns(300, base=0.35, effect=0.0, most_home=3)
    store = embedded_store(tmp_path, stays, notes)
    turns = train(store, "noise", **PLAIN, turns=True)["turns"]
    # As they are, the predictions of the turns would have an AUROC of 0.46, by their prevalences.
    assert turns["metrics"]["scorer"]["auroc"][0] == pytest.approx(0.5, abs=0.05)


def test_a_split_by_time_has_no_patient_on_both_sides(tmp_path):
    """Ten patients a week; each returns by the words of the note, and once more a year later."""
    rng = np.random.default_rng(3)
    stays, notes = [], []
    for patient in range(1, 601):
        begin = patient // 2
        alone = bool(rng.random() < 0.5)
        for number, start in enumerate((begin, begin + 365)):
            hadm_id = 10 * patient + number
            stays.append(admission(hadm_id, patient, day(start), day(start + 4)))
            text = "alone " * alone + "home"
            notes.append(note(hadm_id, hadm_id, text, day(start, 13), subject_id=patient))
            if rng.random() < (0.7 if alone else 0.1):
                stays.append(admission(hadm_id + 5, patient, day(start + 10), day(start + 11)))
    store = embedded_store(tmp_path, stays, notes)
    first_day = day(400).date()
    result = train(store, "later", **PLAIN, test_from=first_day)
    assert result["test_from"] == f"{first_day}T00:00:00"
    rows = store.sql(
        "SELECT split, subject_id, prediction_time, known_at FROM scorer_admissions "
        "INNER JOIN prediction_times() USING (hadm_id) "
        "INNER JOIN (SELECT hadm_id, mature_at AS known_at FROM readmission_labels()) "
        "USING (hadm_id)"
    ).fetchall()
    tested = {patient for split, patient, *_ in rows if split == "test"}
    fitted = {patient for split, patient, *_ in rows if split != "test"}
    assert min(len(tested), len(fitted)) > 20
    assert not tested & fitted
    assert all(time >= day(400, 0) for split, _, time, _ in rows if split == "test")
    assert all(known <= day(400, 0) for split, _, _, known in rows if split != "test")
    assert result["test"]["scorer"]["auroc"][0] > 0.7
    assert evaluate_scorer(store, "later")["admissions"] == result["admissions"]["test"]
    with pytest.raises(NotEnoughDataError, match="no label of a training patient was known before"):
        train(store, "early", **PLAIN, test_from=date(2150, 1, 3))


def test_the_commands(store, elsewhere):
    def run(*arguments):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    summary = run("train", store.path, "r", "--no-baseline", "--no-test", "--aggregate", "mean")
    assert "on test" not in summary
    assert "- the test patients were not looked at" in summary
    assert "by turns (95%)" in run(
        *("train", store.path, "t", "--no-baseline", "--turns", "--aggregate", "mean")
    )
    table = run("evaluate", store.path, "r")
    assert "r-v1: " in table
    assert "- 1 other scorer of the task was evaluated on test patients before (t-v1)" in table
    table = run("evaluate", store.path, "r", "--from", elsewhere.path)
    assert f"stays of {elsewhere.path}" in table
    assert "recalibrated" in table
    result = json.loads(run("evaluate", store.path, "r", "--from", elsewhere.path, "--json"))
    assert result["recalibrated"]["slope"] > 0
    assert score(store, "r")["scored"] > 0

    run("report", store.path, "t", "-o", store.path.parent / "report.html")
    page = (store.path.parent / "report.html").read_text()
    ledger = page.partition('id="evaluations">')[2].partition("</dd>")[0]
    assert "evaluated on test patients: r-v1; the best of several" in ledger
    assert 'id="turns"' in page


def test_audit_says_that_many_scorers_were_evaluated_on_the_same_test_patients(store):
    train(store, "a", **PLAIN)

    def another(name):
        with store.transaction("test") as transaction:
            for table in ("scorers", "evaluations"):
                transaction.con.execute(
                    f"INSERT INTO {table} SELECT * REPLACE ($1 AS scorer_id) FROM {table} LIMIT 1",
                    [name],
                )

    for name in "bcd":
        another(name)
    assert "test-patients-looked-at-often" not in [finding.code for finding in audit(store)]
    another("e")
    (finding,) = (f for f in audit(store) if f.code == "test-patients-looked-at-often")
    assert (finding.severity, finding.count) == ("warning", 5)
    # Scorers of other tasks are not concerned.
    with store.transaction("test") as transaction:
        transaction.con.execute(
            "INSERT INTO scorers SELECT * REPLACE ('f' AS scorer_id, 'f' AS name, "
            "'in_hospital_mortality' AS label_rule) FROM scorers LIMIT 1"
        )
    assert "test-patients-looked-at-often" not in [finding.code for finding in audit(store, "f")]
    assert "test-patients-looked-at-often" in [finding.code for finding in audit(store, "e")]
    # The columns of a list line up also with a long name of a task.
    lines = CliRunner().invoke(main, ["scorers", str(store.path)]).stdout.splitlines()
    assert (len(lines), len({line.index("AUROC") for line in lines})) == (6, 1)
