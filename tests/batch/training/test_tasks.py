"""Scorers of tasks other than readmission, from the SELECT to scores and outcomes."""

import json
import re

import duckdb
import numpy as np
import pytest
from click.testing import CliRunner

from featurestore import (
    add_task,
    audit,
    create_store,
    drop_task,
    embed_pending,
    explain,
    nightly,
    outcomes,
    replay,
    report,
    score,
    similar,
    sync,
    train,
    verify,
)
from featurestore.cli import main
from featurestore.cohort.flow import admission_flow
from featurestore.cohort.tasks import find_task, scorer_task
from featurestore.errors import FeatureStoreError, NotEnoughDataError, UnknownNameError
from tests.conftest import WordCounter
from tests.hospital import admission, note, write_hospital
from tests.jobs import edited
from tests.timeline import day

ENCODER = "one-00000000"


def hospital(folder, patients=300):
    """Patients in pain die more often, those who live alone stay longer; nobody returns.

    Notes of the first evening say so; a later one does for everybody else.
    """
    rng = np.random.default_rng(0)
    stays, notes = [], []
    for patient in range(1, patients + 1):
        pain, alone = (rng.random(2) < 0.5).tolist()
        dies = rng.random() < 0.1 + 0.4 * pain
        days = 10 if rng.random() < 0.2 + 0.5 * alone else 5
        stays.append(admission(patient, patient, day(0), day(days), hospital_expire_flag=int(dies)))
        words = ["home"] * int(rng.integers(1, 4)) + ["pain"] * pain + ["alone"] * alone
        notes.append(note(patient, patient, " ".join(words), day(0, 20)))
        notes.append(note(1000 + patient, patient, "pain" if not pain else "home", day(2)))
    return write_hospital(folder, stays, notes)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    store = create_store(folder / "w.duckdb", hospital(folder / "hospital"), "mimic3")
    sync(store)
    embed_pending(store, WordCounter(ENCODER))
    return store


@pytest.fixture
def store(template, tmp_path):
    from tests.batch.training.test_train import copy_of

    return copy_of(template, tmp_path)


def contents(store):
    """The rows of each table but runs and what refers to them, as their sums of hashes."""
    tables = store.sql(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = 'store' "
        "AND table_name NOT IN ('runs', 'up_to_date') ORDER BY 1"
    ).fetchall()
    return {
        table: store.one(f"SELECT count(*), sum(hash(t)) FROM {table} AS t") for (table,) in tables
    }


def test_a_scorer_of_another_task_from_training_to_the_report(store, tmp_path):
    result = train(
        store,
        "mortality",
        task="in_hospital_mortality",
        cutoff="24h",
        baseline=False,
        aggregate="mean",
    )
    assert result["outcome"] == "died in hospital"
    rows = store.sql("SELECT label FROM task_labels('in_hospital_mortality')").fetchall()
    assert sum(result["positives"].values()) == sum(label for (label,) in rows)
    assert result["test"]["scorer"]["auroc"][0] > 0.6
    assert score(store, "mortality")["scored"] == 300
    assert replay(store, store.one("SELECT max(run_id) FROM scores")[0])["same"] == 300
    counts = outcomes(store, "mortality")
    assert (counts["task"], counts["outcome"]) == ("in_hospital_mortality", "died in hospital")
    assert counts["judged"] == result["positives"]["test"] + (
        result["admissions"]["test"] - result["positives"]["test"]
    )
    long_stays = outcomes(store, "mortality", task="long_stay")
    assert long_stays["outcome"] == "stayed over 7 days"
    report(store, "mortality", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "died in hospital" in page
    assert "within None" not in page
    assert explain(store, 7, "mortality")["hadm_id"] == 7
    shown = CliRunner().invoke(main, ["scorers", str(store.path)]).stdout
    assert "in_hospital_mortality" in shown and "None" not in shown
    assert verify(store) == []


def test_a_scorer_keeps_the_select_of_its_task(store):
    with pytest.raises(NotEnoughDataError, match="have 0 positives among"):
        train(store, "x", task="death_or_readmission", rule={"min_age": 18}, baseline=False)
    train(store, "stay", task="long_stay", cutoff="48h", baseline=False, aggregate="mean")
    task = scorer_task(store, "stay-v1")
    assert task == find_task(store, "long_stay")
    kept = store.one("SELECT task_sql, task_hash, label_rule, horizon_days FROM scorers")
    assert kept == (task.select, task.hash, "long_stay", None)


def test_a_new_cutoff_is_kept_from_the_training_on(store):
    rows = "SELECT count(*) FROM admission_embeddings WHERE cutoff = '36h'"
    assert store.one(rows) == (0,)
    with pytest.raises(duckdb.Error, match="keeps no embeddings at 36h before a scorer is trained"):
        store.sql("FROM training_set(cutoff := '36h', task := 'long_stay')").fetchall()
    with pytest.raises(FeatureStoreError, match=r"keeps no embeddings at 36h .* - it keeps 24h, "):
        similar(store, 7, cutoff="36h")
    train(store, "stay", task="long_stay", cutoff="036h", baseline=False, aggregate="mean")
    assert store.one(rows) == (300,)
    assert store.one("SELECT cutoff FROM scorers") == ("36h",)
    one = "SELECT n_notes FROM admission_embeddings WHERE (hadm_id, cutoff) = (7, '36h')"
    assert store.one(one) == (1,)  # the second note came after 36 hours
    assert score(store, "stay")["scored"] == 300
    embed_pending(store, WordCounter(ENCODER))
    assert store.one(rows) == (300,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "readmission"}, "the training patients have 0 returns among"),
        ({"task": "none"}, "has no task none"),
        ({"task": "long_stay", "cutoff": "200h"}, "1[0-9][0-9] labels of the task long_stay are "),
        ({"task": "in_hospital_mortality", "cutoff": "discharge+0h"}, "have 0 positives among"),
        ({"task": "long_stay", "horizon_days": 7}, "long_stay has no parameter horizon_days"),
        ({"task": "clinicalbert", "rule": {"deaths": "excluded"}}, "no parameter deaths"),
    ],
)
def test_a_training_that_fails_leaves_the_store_as_it_was(store, settings, message):
    before = contents(store)
    with pytest.raises(FeatureStoreError, match=message) as error:
        train(store, "x", baseline=False, **{"cutoff": "36h"} | settings)
    assert "\n" not in str(error.value)
    assert contents(store) == before


def test_a_task_that_decides_when_it_predicts(store, tmp_path):
    """Predicted at 40 hours: the second note says the opposite of the first."""
    (tmp_path / "late.sql").write_text(
        "-- outcome: died\n"
        "SELECT hadm_id, label, reason, known_at, known_at - INTERVAL 70 HOURS AS prediction_time "
        "FROM task_labels"
    )
    with pytest.raises(FeatureStoreError, match="no table or view task_labels"):
        add_task(store, "late", tmp_path / "late.sql")
    (tmp_path / "late.sql").write_text(
        "-- outcome: died\n"
        "SELECT hadm_id, died_in_hospital AS label, NULL AS reason, dischtime AS known_at, "
        "admittime + INTERVAL 40 HOURS AS prediction_time FROM admissions"
    )
    add_task(store, "late", tmp_path / "late.sql")
    result = train(store, "late", task="late", baseline=False, aggregate="mean")
    assert result["outcome"] == "died"
    assert store.one("SELECT cutoff, label_rule FROM scorers") == ("task:late", "late")
    flow = admission_flow(store, find_task(store, "late"))
    assert (flow["predicted"]["cutoff"], flow["predicted"]["stays"]) == ("task:late", 300)
    night = nightly(store, WordCounter(ENCODER), "late")
    assert night["scored"] == 300
    times = store.sql("SELECT DISTINCT prediction_time FROM scores").fetchall()
    assert times == [(day(2, 4),)]
    drop_task(store, "late")
    for call in (
        lambda: nightly(store, WordCounter(ENCODER), "late"),
        lambda: score(store, "late"),
        lambda: explain(store, 7, "late"),
    ):
        with pytest.raises(UnknownNameError, match="the task late decides when late-v1 predicts"):
            call()
    assert scorer_task(store, "late-v1").select.startswith("-- outcome: died")
    assert "dropped-task" in {finding.code for finding in audit(store)}
    with pytest.raises(UnknownNameError, match="the task late decides when late-v1 predicts"):
        report(store, "late", tmp_path / "report.html")


def test_labels_of_a_task_in_the_shell(store):
    result = CliRunner().invoke(
        main,
        ["labels", str(store.path), "--task", "long_stay", "--cutoff", "48h", "--json"],
    )
    counts = json.loads(result.stdout)
    assert (counts["task"], counts["outcome"]) == ("long_stay", "stayed over 7 days")
    assert counts["positive"] + counts["negative"] == 300


def test_labels_that_become_invalid_are_one_line_and_a_finding(store, tmp_path):
    """A SELECT that reads numbers in a column, which later holds a text."""
    file = tmp_path / "own.sql"
    file.write_text(
        "SELECT hadm_id, died_in_hospital AS label, insurance::INTEGER::VARCHAR AS reason, "
        "NULL AS known_at FROM admissions"
    )
    add_task(store, "own", file)
    train(store, "risk", task="own", baseline=False, aggregate="mean")
    score(store, "risk")
    assert {finding.code: finding.count for finding in audit(store, "risk") if finding.scorer_id}[
        "labels-without-known-at"
    ] == store.one("SELECT count(label) FROM scorer_admissions")[0]
    with edited(store) as transaction:  # as a sync does
        transaction.con.execute("UPDATE admissions SET insurance = 'zebrafish' WHERE hadm_id = 7")
    message = (
        "the labels of risk-v1 are no longer valid: the SELECT of the task own fails: a value of "
        "insurance cannot be converted - correct the data, or train it again on another task"
    )
    for job in (
        lambda: outcomes(store, "risk"),
        lambda: report(store, "risk", tmp_path / "report.html"),
    ):
        with pytest.raises(FeatureStoreError) as error:
            job()
        assert str(error.value) == message
    messages = {finding.code: finding.message for finding in audit(store)}
    assert messages["broken-task"] == message
    assert score(store, "risk")["scored"] > 0
    assert verify(store) == []


def test_similar_admissions_have_the_outcome_of_a_task(store):
    neighbours = similar(store, 7, n=200, cutoff="24h", task="in_hospital_mortality")
    died = dict(store.sql("SELECT hadm_id, died_in_hospital FROM admissions").fetchall())
    assert [row["label"] for row in neighbours] == [died[row["hadm_id"]] for row in neighbours]
    assert {row["days_to_return"] for row in neighbours} == {None}
    with edited(store) as transaction:
        transaction.con.execute("UPDATE settings SET live = TRUE, observed_until = $1", [day(8)])
    arguments = ["similar", str(store.path), "7", "-n", "200", "--cutoff", "24h", "--task"]

    def shown(task):
        result = CliRunner().invoke(main, [*arguments, task])
        assert result.exit_code == 0, result.output
        return {re.split("  +", line)[-1] for line in result.stdout.splitlines()[1:]}

    assert shown("in_hospital_mortality") == {
        "died in hospital (label not known yet)",
        "did not die in hospital (label not known yet)",
    }
    assert shown("long_stay") == {
        "stayed over 7 days",
        "did not stay over 7 days",
        "did not stay over 7 days (died within 7 days)",
    }
    with pytest.raises(UnknownNameError, match="no task other"):
        similar(store, 7, task="other")


def test_a_task_without_a_horizon_waits_for_labels_and_no_horizon(store):
    train(store, "risk", task="long_stay", baseline=False, aggregate="mean")
    score(store, "risk")
    with edited(store) as transaction:
        transaction.con.execute("UPDATE settings SET live = TRUE, observed_until = $1", [day(4)])
    (warning,) = admission_flow(store, find_task(store, "long_stay"))["warnings"]
    assert warning == (
        "the labels of all 300 possible stays are not known yet, so nothing can be trained or "
        "judged - wait until they are"
    )
    texts = [
        CliRunner().invoke(main, [command, str(store.path), *rest]).stdout
        for command, *rest in (["labels", "--task", "long_stay"], ["outcomes", "risk"])
    ]
    assert "label not known yet" in texts[0]
    assert re.search(
        r"waiting, as the label is not known +\d+\n  stayed over 7 days so far", texts[1]
    )
    assert "horizon" not in "".join(texts)
