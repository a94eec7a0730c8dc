"""How results name the outcome of a task."""

import pytest

from featurestore.cli.text_tables import flow_table
from featurestore.store.scorer_metrics import format_threshold, negate


@pytest.mark.parametrize(
    ("outcome", "negative"),
    [
        ("returned", "did not return"),
        ("died in hospital", "did not die in hospital"),
        ("stayed over 7 days", "did not stay over 7 days"),
        ("had the outcome", "did not have the outcome"),
        ("died or returned", "did not die or return"),
        ("was ventilated", "was not ventilated"),
        ("developed sepsis", "did not"),
    ],
)
def test_negatives_did_not_do_what_positives_did(outcome, negative):
    assert negate(outcome) == negative


@pytest.mark.parametrize(
    ("threshold", "text"), [(0.33096, "0.330"), (0.331, "0.331"), (0.29, "0.290"), (1, "1.000")]
)
def test_a_threshold_is_rounded_down_so_that_typing_it_loses_no_alert(threshold, text):
    assert format_threshold(threshold) == text


def test_a_flow_without_a_horizon_shows_the_outcome_and_no_returns():
    part = {"stays": 9, "positive": 2, "negative": 6, "immature": 1, "positive_so_far": 0}
    predicted = {"cutoff": "24h", "not_judged": {}, "judged": 8, "positive_not_predicted": 0}
    counts = {
        "outcome": "died in hospital",
        "horizon_days": None,
        "admissions": 9,
        "excluded": {},
        "labelled": 8,
        "planned_returns": None,
        "died_within_horizon": None,
        "predicted": part | predicted | {"returns_before_prediction": None},
    }
    assert [line.rsplit(None, 2)[0].strip() for line in flow_table(part | counts).splitlines()] == [
        "admissions",
        "excluded",
        "label not known yet",
        "died in hospital so far",
        "labelled",
        "died in hospital",
        "did not die in hospital",
        "predicted at 24h",
        "not judged, as they have no label",
        "label not known yet",
        "died in hospital so far",
        "judged, by their label",
        "died in hospital",
        "did not die in hospital",
        "positives among stays that are not predicted",
    ]
