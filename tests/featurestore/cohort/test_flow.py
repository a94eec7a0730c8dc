"""The flow of admissions through each label rule, and the differences between the rules."""

import json

import pytest
from click.testing import CliRunner

from featurestore import create_store, sync
from featurestore.cli import main
from featurestore.cohort.flow import admission_flow, compare_rules
from featurestore.cohort.tasks import find_task
from featurestore.errors import FeatureStoreError
from tests.hospital import admission, note, write_hospital
from tests.timeline import day


def store_observed_until(folder, admissions, until):
    """Return a store of a live hospital that is observed until a day."""
    hospital = write_hospital(folder / "hospital", admissions, [note(1, 1, "text")])
    store = create_store(folder / "w.duckdb", hospital, "mimic3")
    sync(store)
    with store.transaction("test") as transaction:
        transaction.con.execute("UPDATE settings SET live = TRUE, observed_until = $1", [until])
    return store


@pytest.fixture(scope="module")
def live_store(tmp_path_factory):
    """Six patients of a hospital that has been observed for 60 days."""
    return store_observed_until(
        tmp_path_factory.mktemp("live"),
        [
            # Returned after ten days; the return has no other within 30 days.
            admission(1, 1, day(0), day(5)),
            admission(2, 1, day(15), day(20)),
            # Died in hospital.
            admission(3, 2, day(0), day(5), hospital_expire_flag=1),
            # Too short to be predicted at 72h, returned after four days.
            admission(4, 3, day(0), day(2)),
            admission(5, 3, day(6), day(10)),
            # Returned after five days, but the 30 days are not over; nor those of the return.
            admission(6, 4, day(40), day(45)),
            admission(7, 4, day(50), day(55)),
            # Left against medical advice.
            admission(8, 5, day(0), day(5), discharge_location="LEFT AGAINST MEDICAL ADVI"),
            # Returned after one day, before the prediction 48 hours after discharge.
            admission(9, 6, day(0), day(5)),
            admission(10, 6, day(6), day(9)),
        ],
        day(60),
    )


def test_early_returns_are_counted_apart(live_store):
    counts = admission_flow(live_store)
    assert counts.pop("predicted") == {
        "cutoff": "72h",
        "stays": 9,
        "judged": 5,
        "positive": 2,
        "negative": 3,
        "not_judged": {"died in hospital": 1, "left against medical advice": 1},
        "immature": 2,
        "positive_so_far": 1,
        "positive_not_predicted": 1,
    }
    assert counts == {
        "task": "readmission",
        "outcome": "returned",
        "horizon_days": 30,
        "admissions": 10,
        "excluded": {"died in hospital": 1, "left against medical advice": 1},
        "immature": 2,
        "positive_so_far": 1,
        "labelled": 6,
        "positive": 3,
        "negative": 3,
        "planned_returns": 0,
        "died_within_horizon": 0,
        "warnings": [],
    }


def test_returns_before_the_discharge_prediction_are_counted_and_warned_of(live_store):
    counts = admission_flow(live_store, cutoff="discharge")
    assert counts["predicted"] == {
        "cutoff": "discharge+48h",
        "stays": 8,
        "judged": 5,
        "positive": 2,
        "negative": 3,
        "not_judged": {"left against medical advice": 1},
        "immature": 2,
        "positive_so_far": 1,
        "positive_not_predicted": 1,
        "returns_before_prediction": 1,
    }
    assert [warning.split(",")[0] for warning in counts["warnings"]] == [
        "1 of 3 returns within 30 days come before the discharge prediction"
    ]
    result = CliRunner().invoke(main, ["labels", str(live_store.path), "--cutoff", "discharge"])
    assert "warning: 1 of 3 returns within 30 days come before" in result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["horizon", "not", "over", "2", "20.0%"] in lines
    assert ["returned", "so", "far", "1", "50.0%"] in lines
    assert ["before", "the", "discharge", "prediction", "1", "33.3%"] in lines


def test_a_store_that_is_live_for_less_than_the_horizon_has_no_label(live_store, tmp_path):
    store = store_observed_until(
        tmp_path, [admission(1, 1, day(0), day(5)), admission(2, 1, day(9), day(13))], day(20)
    )
    result = CliRunner().invoke(main, ["labels", str(store.path), "--json"])
    counts = json.loads(result.stdout)
    assert (counts["labelled"], counts["immature"], counts["positive_so_far"]) == (0, 2, 1)
    assert result.stderr.startswith(
        "warning: the horizon of all 2 possible index stays is not over, so nothing can be trained"
    )
    assert result.stderr.count("\n") == 1


def check_sums(counts):
    excluded, predicted = sum(counts["excluded"].values()), counts["predicted"]
    assert counts["admissions"] == excluded + counts["immature"] + counts["labelled"]
    assert counts["labelled"] == counts["positive"] + counts["negative"]
    assert counts["positive"] == predicted["positive"] + predicted["positive_not_predicted"]
    for part in (predicted, counts["scored"]):
        assert part["stays"] == (
            part["judged"] + sum(part["not_judged"].values()) + part["immature"]
        )
        assert part["judged"] == part["positive"] + part["negative"]


@pytest.mark.parametrize("cutoff", ["24h", "72h", "discharge"])
@pytest.mark.parametrize("rule", ["readmission", "clinicalbert"])
def test_the_counts_of_the_flow_add_up(synthetic_store, live_store, rule, cutoff):
    for store in (synthetic_store, live_store):
        counts = admission_flow(store, find_task(store, rule), cutoff, encoder="none-00000000")
        check_sums(counts)
        in_sql = f"SELECT count(*) FROM {rule}_labels() WHERE label AND mature"
        assert counts["positive"] == store.one(in_sql)[0]
        predicted = store.one("SELECT count(*) FROM prediction_times(cutoff := $c)", c=cutoff)
        assert counts["predicted"]["stays"] == predicted[0]
    assert {"newborn", "died in hospital"} <= admission_flow(synthetic_store)["excluded"].keys()


def test_the_counts_of_the_mimic_demo_add_up(mimic_demo, tmp_path):
    store = create_store(tmp_path / "w.duckdb", mimic_demo, "mimic3")
    sync(store)
    counts = admission_flow(store, cutoff="discharge", encoder="none-00000000")
    check_sums(counts)
    assert (counts["admissions"], counts["positive"], counts["immature"]) == (129, 11, 0)
    assert counts["excluded"] == {"died in hospital": 40}
    n = counts["predicted"]["judged"]
    assert counts["warnings"] == [
        f"{n} of {n} stays that are judged at discharge+48h have no embedded note that was "
        "known by then, and are left out - choose a later cutoff, or embed all notes"
    ]
    assert "died in hospital" not in counts["predicted"]["not_judged"]


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


def test_where_the_rules_agree_it_is_said(tmp_path):
    store = store_observed_until(tmp_path, [admission(1, 1, day(0), day(5))], day(60))
    assert compare_rules(store) == []
    result = CliRunner().invoke(main, ["labels", str(store.path), "--compare"])
    assert (
        result.stdout == "no differences: readmission and clinicalbert agree on every admission\n"
    )


def test_an_unknown_rule_is_named(synthetic_store):
    with pytest.raises(FeatureStoreError, match="has no task hedis - it has readmission, clinical"):
        find_task(synthetic_store, "hedis")


def test_a_store_that_was_never_synced_has_no_flow(tmp_path):
    folder = write_hospital(tmp_path / "hospital", [admission(7)], [note(1, 7, "text")])
    store = create_store(tmp_path / "w.duckdb", folder, "mimic3")
    with pytest.raises(FeatureStoreError, match='has no admissions yet - run "featurestore sync'):
        admission_flow(store)
    with pytest.raises(FeatureStoreError, match="has no admissions yet"):
        compare_rules(store)


def test_predicted_stays_wait_for_their_horizon_with_a_label_or_without(tmp_path):
    """A death is known at once; beside returns that are not known yet it would look frequent."""
    stays = [
        admission(1, 1, day(0), day(55), hospital_expire_flag=1),
        admission(2, 2, day(0), day(55)),
        admission(3, 3, day(0), day(55)),
        admission(4, 3, day(58), day(59)),
    ]
    store = store_observed_until(tmp_path, stays, day(60))
    flow = admission_flow(store)
    assert flow["excluded"] == {"died in hospital": 1}
    assert (flow["predicted"]["stays"], flow["predicted"]["immature"]) == (3, 3)
    assert flow["predicted"]["not_judged"] == {}


def test_the_rules_are_not_compared_on_immature_labels(tmp_path):
    stays = [
        admission(1, 1, day(40), day(45)),
        admission(2, 1, day(50), day(59), admission_type="ELECTIVE"),
        admission(3, 2, day(40), day(45)),
        admission(4, 2, day(45, 20), day(46)),
    ]
    store = store_observed_until(tmp_path, stays, day(60))
    assert compare_rules(store) == [
        {
            "readmission": "continued by the next stay",
            "clinicalbert": "horizon not yet observed",
            "admissions": 1,
        },
    ]
