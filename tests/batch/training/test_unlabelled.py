"""Predicted test stays that have no label are scored and alerted, and count in no other metric."""

import shutil

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from featurestore import Store, create_store, embed_pending, outcomes, score, sync, train
from tests.conftest import WordCounter
from tests.hospital import admission, note, write_hospital
from tests.jobs import edited
from tests.timeline import day

PATIENTS = 800


def made_store(folder, with_deaths):
    """Train on patients in pain, who return or, in some stores, die in hospital.

    Every fifth patient has no label and the most pain: half died, half left against advice.
    """
    rng = np.random.default_rng(0)
    stays, notes = [], []
    for patient in range(1, PATIENTS + 1):
        pain = int(rng.integers(0, 4))
        returns = rng.random() < 0.1 + 0.2 * pain
        if patient % 5 == 0:
            if not with_deaths:
                continue
            died = patient % 10 != 0
            stays.append(
                admission(
                    patient,
                    patient,
                    day(0),
                    day(10),
                    hospital_expire_flag=int(died),
                    discharge_location="DEAD/EXPIRED" if died else "LEFT AGAINST MEDICAL ADVI",
                )
            )
            pain = 3
        else:
            stays.append(admission(patient, patient, day(0), day(10)))
            if returns:
                stays.append(admission(1000 + patient, patient, day(20), day(21)))
        notes.append(note(patient, patient, "home" + " pain" * pain, subject_id=patient))
    store = create_store(
        folder / "w.duckdb", write_hospital(folder / "hospital", stays, notes), "mimic3"
    )
    sync(store)
    embed_pending(store, WordCounter())
    return store, train(store, "readmit", baseline=False)


@pytest.fixture(scope="module")
def with_deaths(tmp_path_factory):
    return made_store(tmp_path_factory.mktemp("with-deaths"), True)


def test_unlabelled_stays_change_nothing_but_the_alerts(with_deaths, tmp_path):
    store, trained = with_deaths
    without_store, without = made_store(tmp_path, False)
    query = "SELECT coef, intercept, training_hash FROM scorers"
    assert store.one(query) == without_store.one(query)
    assert trained["alerts"] != without["alerts"]
    of_alerts = dict.fromkeys(("alerts", "subgroups"))
    assert trained | of_alerts == without | of_alerts
    for group, same in zip(trained["subgroups"], without["subgroups"], strict=True):
        assert group["alerts"] > same["alerts"]
        for name in ("by", "group", "admissions", "positive", "oe_ratio", "auroc"):
            assert group[name] == same[name]


def test_they_are_recorded_as_test_stays_with_the_reason(with_deaths):
    store, trained = with_deaths
    recorded = store.sql(
        "SELECT hadm_id, split, reason FROM scorer_admissions WHERE label IS NULL ORDER BY hadm_id"
    ).fetchall()
    assert (
        recorded
        == store.sql(
            "SELECT hadm_id, 'test', reason FROM readmission_labels() "
            "WHERE label IS NULL AND patient_split(subject_id) = 'test' ORDER BY hadm_id"
        ).fetchall()
    )
    assert {reason for _, _, reason in recorded} == {
        "died in hospital",
        "left against medical advice",
    }
    (with_label,) = store.one("SELECT count(*) FROM scorer_admissions WHERE label IS NOT NULL")
    assert with_label == sum(trained["admissions"].values())


def test_alerts_are_split_by_outcome_over_all_predicted_test_stays(with_deaths):
    store, trained = with_deaths
    rows = store.sql(
        "SELECT label, coalesce(reason, ''), probability FROM scorer_admissions "
        "WHERE split = 'test' ORDER BY probability DESC, hadm_id"
    ).fetchall()
    for alert in trained["alerts"]:
        alerted = rows[: max(1, round(alert["per_100"] / 100 * len(rows)))]
        assert (
            alert["positive"],
            alert["negative"],
            alert["died_in_hospital"],
            alert["other"],
        ) == (
            sum(label is True for label, _, _ in alerted),
            sum(label is False for label, _, _ in alerted),
            sum(reason == "died in hospital" for _, reason, _ in alerted),
            sum(reason == "left against medical advice" for _, reason, _ in alerted),
        )
    most = trained["alerts"][-1]
    assert most["died_in_hospital"] > 0 and most["other"] > 0
    # Ties at the threshold count in part: of the alerted group, as many as its share returned.
    y = np.array([label is True for label, _, _ in rows])
    p = np.array([probability for _, _, probability in rows])
    alerted = 0.3 * len(rows)
    threshold = p[int(np.ceil(alerted)) - 1]
    above, tied = p > threshold, p == threshold
    returned = y[above].sum() + y[tied].mean() * (alerted - above.sum())
    assert most["ppv"][0] == pytest.approx(returned / alerted)
    assert most["sensitivity"][0] == pytest.approx(returned / y.sum())


def test_outcomes_judge_alerts_of_all_and_auroc_of_labelled_stays(with_deaths):
    store, _ = with_deaths
    score(store, "readmit")
    result = outcomes(Store(store.path), "readmit", alert_above=0.3)
    rows = store.sql(
        "SELECT label, reason, probability FROM scorer_admissions WHERE split = 'test'"
    ).fetchall()
    judged = [(label, p) for label, _, p in rows if label is not None]
    alerted = [(label, reason) for label, reason, p in rows if p >= 0.3]
    assert (result["scored"], result["judged"]) == (len(rows), len(judged))
    assert result["not_judged"] == len(rows) - len(judged) > 0
    assert sum(result["not_judged_reasons"].values()) == result["not_judged"]
    assert result["fitted_on"] + result["scored"] == PATIENTS
    assert result["expected"] == pytest.approx(sum(p for _, p in judged))
    assert result["auroc"][0] == pytest.approx(roc_auc_score(*zip(*judged, strict=True)))
    assert result["alerts"] == len(alerted)
    assert result["alert_outcomes"] == {
        "positive": sum(label is True for label, _ in alerted),
        "negative": sum(label is False for label, _ in alerted),
        "died_in_hospital": sum(reason == "died in hospital" for _, reason in alerted),
        "other": sum(reason == "left against medical advice" for _, reason in alerted),
    }
    assert result["alert_outcomes"]["died_in_hospital"] > 0
    positive = result["alert_outcomes"]["positive"]
    wilson = binomtest(positive, len(alerted)).proportion_ci(method="wilson")  # one stay a patient
    assert result["ppv"] == pytest.approx(
        [positive / len(alerted), wilson.low, wilson.high], abs=0.005
    )


def test_unlabelled_stays_of_the_training_period_are_excluded_in_a_live_hospital(
    with_deaths, tmp_path
):
    store = Store(shutil.copy(with_deaths[0].path, tmp_path / "w.duckdb"))
    score(store, "readmit")
    before = outcomes(store, "readmit")
    with edited(store) as transaction:
        transaction.con.execute(
            "UPDATE settings SET live = TRUE, observed_until = TIMESTAMP '2151-01-01'"
        )
    live = outcomes(store, "readmit")
    assert (live["scored"], live["not_judged"]) == (before["scored"], before["not_judged"])
    # Those discharged later are judged, whoever the patient is.
    with edited(store) as transaction:
        transaction.con.execute(
            "UPDATE admissions SET dischtime = dischtime + INTERVAL 20 DAYS WHERE died_in_hospital"
        )
    later = store.one(
        "SELECT count(*) FROM admissions WHERE died_in_hospital AND patient_split(subject_id) "
        "<> 'test'"
    )[0]
    assert outcomes(store, "readmit")["not_judged"] == before["not_judged"] + later
