"""Groups of patients, and how they differ from all others."""

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

from batch.training.performance.subgroups import difference, subgroup_metrics
from batch.training.performance.thresholds import proportion

ALL = np.ones(2_000, bool)


@pytest.fixture(scope="module")
def stays():
    """Men have twice the odds that are predicted for them."""
    rng = np.random.default_rng(0)
    p = expit(rng.normal(-1.5, 1, 2_000))
    sex = np.where(rng.random(2_000) < 0.4, "M", "F")
    y = rng.random(2_000) < expit(logit(p) + np.log(2) * (sex == "M"))
    return y, p, sex


def test_the_difference_of_two_proportions_is_newcombes():
    """Example (a) of Newcombe 1998, 56 of 70 and 48 of 80, by his method 10."""

    def wilson(hits, n):
        interval = proportion(np.arange(n) < hits, np.ones(n, bool), np.arange(n))
        return interval

    assert difference(wilson(56, 70), wilson(48, 80)) == pytest.approx(
        [0.2, 0.0524, 0.3339], abs=2e-3
    )


def test_a_group_whose_risk_is_underestimated_is_told_apart(stays):
    y, p, sex = stays
    women, men = subgroup_metrics(y, p, ALL, np.arange(2_000), {"sex": sex}, 0.3)
    assert (women["group"], men["group"]) == ("F", "M")
    assert men["oe_ratio"][0] == pytest.approx(y[sex == "M"].sum() / p[sex == "M"].sum())
    assert men["oe_ratio"][1] > 1.2
    assert women["oe_ratio"][1] < 1 < women["oe_ratio"][2]
    assert men["differences"]["oe_ratio"][1] > 0.1
    assert men["differences"]["ppv"][1] > 0
    # Which of two groups is compared changes the sign alone.
    for name, interval in men["differences"].items():
        low, high = (-end for end in reversed(women["differences"][name][1:]))
        assert interval == pytest.approx([-women["differences"][name][0], low, high])


def test_the_metrics_of_a_group_are_those_of_its_stays(stays):
    y, p, sex = stays
    _, men = subgroup_metrics(y, p, ALL, np.arange(2_000), {"sex": sex}, 0.3)
    y, p = y[sex == "M"], p[sex == "M"]
    alerted = p >= 0.3
    assert (men["admissions"], men["positive"], men["alerts"]) == (len(y), y.sum(), alerted.sum())
    assert men["auroc"][0] == pytest.approx(roc_auc_score(y, p))
    assert men["sensitivity"][0] == pytest.approx(alerted[y].mean())
    assert men["false_positive_rate"][0] == pytest.approx(alerted[~y].mean())
    assert men["ppv"][0] == pytest.approx(y[alerted].mean())


def test_stays_without_a_label_count_in_alerts_alone(stays):
    y, p, sex = stays
    has_label = np.arange(2_000) % 4 > 0
    _, men = subgroup_metrics(y & has_label, p, has_label, np.arange(2_000), {"sex": sex}, 0.3)
    members = sex == "M"
    assert men["admissions"] == (members & has_label).sum()
    assert men["alerts"] == (members & (p >= 0.3)).sum()
    assert men["ppv"][0] == pytest.approx((y & has_label)[members & (p >= 0.3)].mean())


def test_a_small_group_has_no_estimates_and_no_difference(stays):
    y, p, _ = stays
    group = np.where(np.arange(2_000) < 12, "rare", "frequent")
    rows = subgroup_metrics(y, p, ALL, np.arange(2_000), {"by": group}, 0.3)
    frequent, rare = rows
    assert rare["admissions"] == 12
    assert {rare[name] for name in ("sensitivity", "ppv", "oe_ratio", "auroc")} == {None}
    assert frequent["auroc"] and frequent["differences"]["auroc"] is None
