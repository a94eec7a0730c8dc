"""ClinicalBERT's label rule, compared with the published steps in pandas."""

import pandas as pd
import pytest

from featurestore import create_store, sync, write_hospital
from tests.sql.test_readmission_labels import random_patients
from tests.timeline import day, stay, store_with


def published_steps(admissions, horizon):
    """Apply the steps of the paper's code; map hadm_id to (label, days to return)."""
    stays = admissions.sort_values(["subject_id", "admittime", "hadm_id"], kind="stable")
    of_patient = stays.groupby("subject_id")
    stays["next_admittime"] = of_patient["admittime"].shift(-1)
    next_type = of_patient["admission_type"].shift(-1)
    stays.loc[next_type == "ELECTIVE", "next_admittime"] = pd.NaT
    stays["next_admittime"] = stays.groupby("subject_id")["next_admittime"].bfill()
    stays["days"] = (stays["next_admittime"] - stays["dischtime"]).dt.total_seconds() / 86_400
    stays["label"] = stays["days"] < horizon
    included = stays[(stays["admission_type"] != "NEWBORN") & stays["deathtime"].isna()]
    return {
        row.hadm_id: (row.label, None if pd.isna(row.days) else row.days)
        for row in included.itertuples()
    }


def macro_labels(con, horizon):
    rows = con.execute(
        "SELECT hadm_id, label, days_to_return FROM clinicalbert_labels(horizon_days := ?) "
        "WHERE label IS NOT NULL",
        [horizon],
    ).fetchall()
    return {hadm_id: (label, days) for hadm_id, label, days in rows}


def count_returns(con, horizon):
    """Check the macro against the published steps; return the number of returns."""
    columns = "hadm_id, subject_id, admittime, dischtime, deathtime, admission_type"
    expected = published_steps(con.execute(f"SELECT {columns} FROM admissions").df(), horizon)
    labels = macro_labels(con, horizon)
    assert labels.keys() == expected.keys()
    for hadm_id, (label, days) in expected.items():
        assert labels[hadm_id] == (label, days if days is None else pytest.approx(days, abs=1e-6))
    return sum(label for label, _ in labels.values())


@pytest.mark.parametrize("horizon", [3, 30])
def test_the_macro_agrees_with_the_published_steps_on_random_patients(horizon):
    con = store_with(random_patients(2_000, seed=7))
    assert count_returns(con, horizon) > 100


def test_the_macro_agrees_with_the_published_steps_on_a_synthetic_hospital(tmp_path):
    write_hospital(tmp_path / "hospital", 2_000, notes_per_stay=0.1)
    store = create_store(tmp_path / "w.duckdb", tmp_path / "hospital", "mimic3")
    sync(store)
    assert count_returns(store.connect(), 30) > 100


def test_the_macro_agrees_with_the_published_steps_on_the_mimic_demo(mimic_demo, tmp_path):
    store = create_store(tmp_path / "w.duckdb", mimic_demo, "mimic3")
    sync(store)
    assert count_returns(store.connect(), 30) == 11


@pytest.mark.parametrize(
    ("stays", "readmission", "clinicalbert"),
    [
        pytest.param(
            [stay(1, day(0), day(10)), stay(2, day(8), day(14))],
            {1: None, 2: False},
            {1: True, 2: False},
            id="an overlapping stay is a return for ClinicalBERT only",
        ),
        pytest.param(
            [
                stay(1, day(0), day(5)),
                stay(2, day(9), day(10), "ELECTIVE"),
                stay(3, day(20), day(21)),
            ],
            {1: False, 2: True, 3: False},
            {1: True, 2: True, 3: False},
            id="ClinicalBERT skips a planned return and counts the emergency after it",
        ),
        pytest.param(
            [stay(1, day(0), day(5), to="LEFT AGAINST MEDICAL ADVI"), stay(2, day(9), day(10))],
            {1: None, 2: False},
            {1: True, 2: False},
            id="leaving against medical advice is an index for ClinicalBERT only",
        ),
        pytest.param(
            [stay(1, day(0), day(5, 10)), stay(2, day(35, 11), day(36))],
            {1: True, 2: False},
            {1: False, 2: False},
            id="30 x 24 hours end before the 30th calendar day",
        ),
    ],
)
def test_differences_of_the_rules(stays, readmission, clinicalbert):
    con = store_with(stays)
    for rule, expected in (("readmission", readmission), ("clinicalbert", clinicalbert)):
        rows = con.execute(f"SELECT hadm_id, label FROM {rule}_labels()").fetchall()
        assert dict(rows) == expected


def test_a_live_hospital_waits_for_mature_labels():
    """A return is known at once, a non-return after 30 x 24 hours; both mature on the same day."""
    stays = [
        stay(1, day(0), day(5)),
        stay(2, day(9), None),
        stay(3, day(0), day(5), patient=2),
        stay(4, day(0), day(10), patient=3),
        stay(5, day(8), None, patient=3),
    ]

    def rows(night):
        query = (
            "SELECT hadm_id, label, reason, mature, known_at FROM clinicalbert_labels() "
            "WHERE hadm_id IN (1, 3, 4) ORDER BY 1"
        )
        return store_with(stays, observed_until=night).execute(query).fetchall()

    waiting = "horizon not yet observed"
    assert rows(day(35, 23)) == [
        (1, True, None, False, day(9)),
        (3, None, waiting, False, None),
        (4, True, None, False, day(10)),
    ]
    assert rows(day(41)) == [
        (1, True, None, True, day(9)),
        (3, False, None, True, day(35)),
        (4, True, None, True, day(10)),
    ]
