"""The flow of admissions through each label rule, and the differences between the rules."""

import pytest

from featurestore import create_store
from featurestore.cohort.flow import admission_flow, compare_rules
from featurestore.errors import FeatureStoreError
from tests.hospital import admission, note, write_hospital


@pytest.mark.parametrize("rule", ["readmission", "clinicalbert"])
def test_the_counts_of_the_flow_add_up(synthetic_store, rule):
    counts = admission_flow(synthetic_store, 30, rule)
    excluded = sum(counts["excluded"].values())
    assert counts["admissions"] == excluded + counts["immature"] + counts["labelled"]
    assert counts["labelled"] == counts["returned"] + counts["not_returned"]
    assert (
        counts["returned"]
        == synthetic_store.one(f"SELECT count(*) FROM {rule}_labels() WHERE label")[0]
    )
    assert {"newborn", "died in hospital"} <= counts["excluded"].keys()


def test_the_differences_of_the_rules_add_up(synthetic_store):
    differences = compare_rules(synthetic_store, 30)
    assert (
        sum(row["admissions"] for row in differences)
        == synthetic_store.one(
            "SELECT count(*) FROM readmission_labels() AS a "
            "INNER JOIN clinicalbert_labels() AS b USING (hadm_id) "
            "WHERE a.label IS DISTINCT FROM b.label "
            "OR (a.label IS NULL AND a.reason <> b.reason)"
        )[0]
    )
    outcomes = {(row["readmission"], row["clinicalbert"]) for row in differences}
    assert ("continued by the next stay", "returned") in outcomes
    assert ("did not return (planned return)", "returned") in outcomes


def test_an_unknown_rule_is_named(synthetic_store):
    with pytest.raises(FeatureStoreError, match="unknown label rule hedis - use one of readmiss"):
        admission_flow(synthetic_store, 30, "hedis")


def test_a_store_that_was_never_synced_has_no_flow(tmp_path):
    folder = write_hospital(tmp_path / "hospital", [admission(7)], [note(1, 7, "text")])
    store = create_store(tmp_path / "w.duckdb", folder, "mimic3")
    with pytest.raises(FeatureStoreError, match='has no admissions yet - run "featurestore sync'):
        admission_flow(store)
