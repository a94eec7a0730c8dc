"""The cohort as a paper and as other tools see it."""

import pyarrow.parquet
import pytest

from featurestore import create_store, sync, write_hospital
from featurestore.cohort.flow import compare_rules, flow, write_meds
from featurestore.errors import FeatureStoreError


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    write_hospital(folder / "hospital", 300, notes_per_stay=1)
    opened = create_store(folder / "w.duckdb", folder / "hospital", "mimic3")
    sync(opened)
    return opened


@pytest.mark.parametrize("rule", ["readmission", "clinicalbert"])
def test_the_flow_adds_up(store, rule):
    counts = flow(store, 30, rule)
    assert counts["admissions"] == counts["labelled"] + sum(counts["excluded"].values())
    assert counts["labelled"] == counts["returned"] + counts["not_returned"]
    assert counts["returned"] == store.one(f"SELECT count(*) FROM {rule}_labels() WHERE label")[0]
    assert {"newborn", "died in hospital"} <= counts["excluded"].keys()


def test_the_rules_differ_for_reasons_that_add_up(store):
    differences = compare_rules(store, 30)
    assert (
        sum(row["admissions"] for row in differences)
        == store.one(
            "SELECT count(*) FROM readmission_labels() AS a "
            "INNER JOIN clinicalbert_labels() AS b USING (hadm_id) "
            "WHERE a.label IS DISTINCT FROM b.label "
            "OR (a.label IS NULL AND a.reason <> b.reason)"
        )[0]
    )
    said = {(row["readmission"], row["clinicalbert"]) for row in differences}
    assert ("continued by the next stay", "returned") in said
    assert ("did not return (planned return)", "returned") in said


def test_meds_labels_are_what_the_meds_package_asks_for(store, tmp_path):
    from meds import LabelSchema

    count = write_meds(store, tmp_path / "labels.parquet", "discharge")
    labels = pyarrow.parquet.read_table(tmp_path / "labels.parquet")
    LabelSchema.validate(labels)
    assert labels.num_rows == count > 100
    assert (tmp_path / "labels.parquet").stat().st_mode & 0o777 == 0o600
    rows = store.sql(
        "SELECT subject_id, prediction_time, label FROM readmission_labels() "
        "INNER JOIN prediction_times(cutoff := 'discharge') USING (hadm_id) "
        "WHERE label IS NOT NULL ORDER BY ALL"
    ).fetchall()
    columns = [
        labels[name].to_pylist() for name in ("subject_id", "prediction_time", "boolean_value")
    ]
    assert sorted(zip(*columns, strict=True)) == rows


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"file": "labels.csv"}, "name a .parquet file"),
        ({"cutoff": "71h"}, "unknown cutoff 71h"),
        ({"horizon_days": 0}, "a horizon of 0 days is none"),
    ],
)
def test_meds_labels_that_cannot_be_written(store, tmp_path, settings, message):
    settings = {"file": "labels.parquet"} | settings
    with pytest.raises(FeatureStoreError, match=message):
        write_meds(store, **settings | {"file": tmp_path / settings["file"]})
    assert list(tmp_path.iterdir()) == []
