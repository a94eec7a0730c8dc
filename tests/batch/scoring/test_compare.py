"""Two scorers are compared on the test stays that both have, paired by patient."""

import json

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from featurestore import compare, create_store
from featurestore.cli import main
from featurestore.errors import FeatureStoreError, NotEnoughDataError, UnknownNameError
from tests.hospital import admission, note, write_hospital
from tests.timeline import day

SCORER = (
    "INSERT INTO scorers BY NAME SELECT $name || '-v1' AS scorer_id, $name AS name, 1 AS version, "
    "'e-00000000' AS encoder_id, $cutoff AS cutoff, $task AS label_rule, $days AS horizon_days, "
    "[0.0] AS coef, 0 AS intercept, $metrics AS metrics, '' AS training_hash, "
    "now()::TIMESTAMP AS created_at, 'mean' AS aggregate, 1 AS calibration_slope, "
    "0 AS calibration_intercept, 0 AS min_probability, 1 AS max_probability, '' AS coef_hash, "
    "$task AS task_sql, $hash AS task_hash"
)


def stays():
    """Return 300 test stays of 150 patients: ids, patients, outcomes and two sets of risks."""
    rng = np.random.default_rng(0)
    hadm_id = np.arange(1, 301)
    z = rng.standard_normal(300)
    y = rng.random(300) < 1 / (1 + np.exp(1 - 1.5 * z))
    better = 1 / (1 + np.exp(1 - 1.5 * z))
    worse = 1 / (1 + np.exp(1 - 0.5 * z - 0.8 * rng.standard_normal(300)))
    return hadm_id, (hadm_id + 1) // 2, y, better, worse


HADM_ID, PATIENT, Y, BETTER, WORSE = stays()


@pytest.fixture
def store(tmp_path):
    source = write_hospital(
        tmp_path / "hospital", [admission(1, 1, day(0), day(9))], [note(1, 1, "home")]
    )
    return create_store(tmp_path / "w.duckdb", source, "mimic3")


def add_scorer(store, name, p, members=slice(None), split="test", label=Y, **settings):
    """Record a scorer with these probabilities of its stays; `settings` are of SCORER."""
    words = settings.pop("bag_of_words", None)
    metrics = json.dumps({"outcome": "returned"} | settings.pop("metrics", {}))
    usual = {"cutoff": "72h", "task": "readmission", "days": 30, "hash": "h"}
    rows = {
        "hadm_id": HADM_ID[members],
        "subject_id": PATIENT[members],
        "split": np.broadcast_to(split, 300)[members].tolist(),
        "label": label[members],
        "probability": p[members],
    }
    if words is not None:
        rows["bag_of_words"] = words[members]
    with store.transaction("test") as transaction:
        transaction.con.execute(SCORER, usual | settings | {"name": name, "metrics": metrics})
        transaction.con.register("new_rows", pa.table(rows))
        transaction.con.execute(
            "INSERT INTO scorer_admissions BY NAME SELECT $1 AS scorer_id, * FROM new_rows",
            [f"{name}-v1"],
        )


def test_differences_are_those_of_scikit_learn_with_paired_intervals(store):
    add_scorer(store, "better", BETTER)
    add_scorer(store, "worse", WORSE)
    result = compare(store, "better", "worse", [0.3])
    for name, metric in (
        ("auroc", roc_auc_score),
        ("auprc", average_precision_score),
        ("brier", brier_score_loss),
        ("log_loss", log_loss),
    ):
        row = result["metrics"][name]
        assert row["scorer"][0] == pytest.approx(metric(Y, BETTER)), name
        assert row["other"][0] == pytest.approx(metric(Y, WORSE)), name
        estimate, *interval = row["difference"]
        assert estimate == pytest.approx(metric(Y, BETTER) - metric(Y, WORSE)), name
        if name == "auprc":  # no interval of it covers with so few positives
            assert (Y.sum() < 100, interval) == (True, [])
            continue
        low, high = interval
        assert low < estimate < high
        assert (low > 0) if name == "auroc" else (high < 0), name
    (benefit,) = result["net_benefit"]
    for system, p in (("scorer", BETTER), ("other", WORSE)):
        alerted = p >= 0.3
        expected = (alerted & Y).mean() - (alerted & ~Y).mean() * 0.3 / 0.7
        assert benefit[system][0] == pytest.approx(expected)
        assert benefit["alerts"][system] == alerted.sum()
    assert benefit["alert_all"] == pytest.approx(Y.mean() - (1 - Y.mean()) * 0.3 / 0.7)
    assert (result["admissions"], result["patients"], result["positives"]) == (300, 150, Y.sum())
    assert result["notes"] == []
    backwards = compare(store, "worse", "better")["metrics"]["auroc"]["difference"]
    forwards = result["metrics"]["auroc"]["difference"]
    assert backwards == pytest.approx([-forwards[0], -forwards[2], -forwards[1]])


def test_only_test_stays_that_both_predict_are_compared(store):
    # The second scorer was trained on the patients of stays 1 to 20, predicts no stay above 280,
    # and stay 100 has had another label since.
    add_scorer(store, "early", BETTER, cutoff="24h")
    changed = Y ^ (HADM_ID == 100)
    split = np.where(HADM_ID <= 20, "train", "test")
    add_scorer(store, "late", WORSE, HADM_ID <= 280, split=split, label=changed)
    result = compare(store, "early", "late")
    compared = (HADM_ID > 20) & (HADM_ID <= 280) & (HADM_ID != 100)
    assert result["admissions"] == compared.sum() == 259
    assert result["excluded"] == {"of_one_scorer": 20, "trained_on_patient": 20, "other_label": 1}
    assert result["metrics"]["auroc"]["other"][0] == pytest.approx(
        roc_auc_score(Y[compared], WORSE[compared])
    )
    assert result["notes"] == [
        "excluded: 20 test stays of one of them only",
        "excluded: 20 of patients that one of them was trained or calibrated on",
        "excluded: 1 whose label changed between the two",
        "early-v1 predicts at 24h, late-v1 at 72h: only stays that both predict are compared",
    ]


def test_a_scorer_is_compared_with_its_own_baseline(store):
    add_scorer(store, "readmit", BETTER, bag_of_words=WORSE, metrics={"no_signal": "nothing"})
    result = compare(store, "readmit", "bag_of_words")
    assert (result["scorer"], result["other"]) == ("readmit-v1", "bag_of_words")
    assert result["metrics"]["auroc"]["other"][0] == pytest.approx(roc_auc_score(Y, WORSE))
    assert result["notes"] == ["readmit-v1 has no signal: all its probabilities are the prevalence"]
    with pytest.raises(NotEnoughDataError, match="trained without the baseline classifier_head"):
        compare(store, "readmit", "classifier_head")


def test_a_net_benefit_needs_twenty_alerts(store):
    add_scorer(store, "better", BETTER)
    add_scorer(store, "worse", WORSE)
    threshold = np.sort(WORSE)[-19]
    (benefit,) = compare(store, "better", "worse", [threshold])["net_benefit"]
    assert (benefit["alerts"]["other"], benefit["other"], benefit["difference"]) == (19, None, None)
    assert benefit["alerts"]["scorer"] >= 20
    assert benefit["scorer"]
    # Where both alert nearly every stay, they differ by few.
    (benefit,) = compare(store, "better", "worse", [0.02])["net_benefit"]
    assert benefit["scorer"] and benefit["other"]
    assert benefit["difference"] is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param(
            {"task": "long_stay"},
            "a-v1 predicts readmission, b-v1 predicts long_stay - compare scorers of the same",
            id="another task",
        ),
        pytest.param({"days": 3}, "a-v1 predicts 30 days, b-v1 3 days - compare", id="a horizon"),
        pytest.param(
            {"hash": "i"},
            "a-v1 and b-v1 were trained on different labels of the task readmission: its SELECT or",
            id="another SELECT",
        ),
    ],
)
def test_scorers_of_different_questions_are_not_compared(store, settings, message):
    add_scorer(store, "a", BETTER)
    add_scorer(store, "b", WORSE, **settings)
    with pytest.raises(FeatureStoreError, match=message):
        compare(store, "a", "b")


def test_errors_say_what_is_missing(store):
    add_scorer(store, "a", BETTER, HADM_ID <= 100)
    add_scorer(store, "b", WORSE, HADM_ID > 100)
    add_scorer(store, "c", WORSE, HADM_ID > 92)
    with pytest.raises(
        UnknownNameError, match="no scorer d: it has a, b, c; the baselines of a-v1 "
    ):
        compare(store, "a", "d")
    with pytest.raises(FeatureStoreError, match="a and a-v1 are the same scorer, a-v1 - name two"):
        compare(store, "a", "a-v1")
    with pytest.raises(NotEnoughDataError, match="a-v1 and b-v1 have 0 test stays in common"):
        compare(store, "a", "b")
    with pytest.raises(
        NotEnoughDataError,
        match=r"have 8 test stays in common, \d of them positive \(excluded: 292 test stays of one",
    ):
        compare(store, "a", "c")
    with pytest.raises(FeatureStoreError, match="between 0 and 1, not"):
        compare(store, "a", "b", [1.5])


def test_the_command_prints_a_table_or_json(store):
    add_scorer(store, "better", BETTER)
    add_scorer(store, "worse", WORSE)
    arguments = ["compare", str(store.path), "better", "worse", "--threshold", "0.3"]
    text = CliRunner().invoke(main, arguments)
    assert text.exit_code == 0, text.output
    lines = text.stdout.splitlines()
    assert lines[0] == f"300 test stays of 150 patients, of which {Y.sum()} returned"
    assert lines[1].split() == ["(95%)", "better-v1", "worse-v1", "difference"]
    assert [line[:14].strip() for line in lines[2:7]] == [
        "AUROC",
        "AUPRC",
        "Brier",
        "log loss",
        "benefit 0.3",
    ]
    auroc = roc_auc_score(Y, BETTER) - roc_auc_score(Y, WORSE)
    assert f"+{auroc:.3f} (" in lines[2]
    as_json = CliRunner().invoke(main, [*arguments, "--json"])
    assert json.loads(as_json.stdout) == compare(store, "better", "worse", [0.3])
    unknown = CliRunner().invoke(main, ["compare", str(store.path), "better", "nobody"])
    assert (unknown.exit_code, unknown.stdout) == (1, "")
