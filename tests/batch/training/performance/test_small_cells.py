"""Small counts are suppressed, and cannot be computed from the others."""

import numpy as np
import pytest
from scipy.optimize import linprog

from batch.training.performance.small_cells import (
    SMALLEST,
    hidden_cells,
    hidden_parts,
    suppress_alerts,
    suppress_characteristics,
    suppress_subgroups,
)


@pytest.mark.parametrize(
    ("counts", "hidden"),
    [
        pytest.param([[57, 14, 43], [47, 17, 30]], [[0, 0, 0], [0, 0, 0]], id="none is small"),
        pytest.param(
            [[57, 4, 53], [47, 17, 30]],
            [[0, 1, 1], [0, 1, 1]],
            id="one small count takes three others with it",
        ),
        pytest.param(
            [[20, 6, 14], [72, 21, 51], [12, 4, 8]],
            [[0, 1, 1], [0, 0, 0], [0, 1, 1]],
            id="two small counts of a column hide each other",
        ),
    ],
)
def test_suppressed_counts(counts, hidden):
    assert hidden_cells(np.array(counts)).astype(int).tolist() == hidden


def test_no_suppressed_count_can_be_computed():
    """Each can be higher or lower than it is, with all sums as they are."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        positive, negative = rng.integers(0, 40, (2, 4)) * (rng.random((2, 4)) < 0.8)
        counts = np.column_stack([positive + negative, positive, negative])
        hidden = hidden_cells(counts)
        assert hidden[(counts > 0) & (counts < SMALLEST)].all()
        if hidden.all():  # too few stays to show anything
            continue
        cells = np.flatnonzero(hidden.ravel())
        sums = [np.kron(np.eye(4)[level], [1, -1, -1]) for level in range(4)]
        sums += [np.tile(np.eye(3)[column], 4) for column in range(3)]
        known = np.array(sums)
        rest = known @ counts.ravel() - known[:, ~hidden.ravel()] @ counts.ravel()[~hidden.ravel()]
        for number in range(len(cells)):
            direction = np.eye(len(cells))[number]
            ends = [
                linprog(sign * direction, A_eq=known[:, cells], b_eq=rest, bounds=(None, None))
                for sign in (1, -1)
            ]
            assert {end.status for end in ends} == {3}  # unbounded: any value is possible


def test_one_small_part_of_a_total_hides_the_next_smallest():
    assert hidden_parts([8, 30, 12, 0]).tolist() == [True, False, True, False]
    assert hidden_parts([3, 8, 40, 0]).tolist() == [True, True, False, False]
    alert = {"per_100": 5, "positive": 8, "negative": 30, "died_in_hospital": 0, "other": 0}
    assert suppress_alerts([alert])[0] == alert | {"positive": None, "negative": None}
    assert suppress_alerts([alert], small_cells=True) == [alert]


def test_a_group_with_few_positives_shows_no_estimate_that_gives_their_number_away():
    estimate = [0.3, 0.1, 0.6]
    names = ("sensitivity", "false_positive_rate", "ppv", "oe_ratio", "auroc")
    group = dict.fromkeys(names, estimate) | {"differences": dict.fromkeys(names, estimate)}
    rows = [
        {"by": "sex", "group": "F", "admissions": 60, "positive": 10, "alerts": 40, **group},
        {"by": "sex", "group": "M", "admissions": 100, "positive": 30, "alerts": 40, **group},
    ]
    women, men = suppress_subgroups(rows)
    assert (women["admissions"], women["positive"], men["positive"]) == (60, None, None)
    assert [women[name] for name in ("sensitivity", "oe_ratio", "auroc")] == [None] * 3
    assert women["false_positive_rate"] == men["ppv"] == estimate
    assert women["differences"]["sensitivity"] is None
    assert suppress_subgroups(rows, small_cells=True) == rows


def test_a_proportion_that_gives_a_small_number_away_is_hidden_with_one_more():
    def row(group, positive, sensitivity, ppv):
        interval = [0.1, 0.0, 0.9]
        estimates = {"oe_ratio": interval, "auroc": interval, "false_positive_rate": interval}
        estimates |= {"sensitivity": [sensitivity, 0.0, 1.0], "ppv": [ppv, 0.0, 1.0]}
        names = {"by": "sex", "group": group, "admissions": 1_000, "positive": positive}
        return names | {"alerts": 100, "differences": dict(estimates), **estimates}

    # Of 40 positive women 4 were alerted, of 100 alerts of men all but 5 were right.
    women, men, others = suppress_subgroups(
        [row("F", 40, 0.1, 0.5), row("M", 60, 0.5, 0.95), row("X", 50, 0.5, 0.5)]
    )
    # Without those of a second group, the numbers of all stays would give the first's away.
    assert [group["sensitivity"] is None for group in (women, men, others)] == [True, False, True]
    assert [group["ppv"] is None for group in (women, men, others)] == [True, True, False]
    assert women["differences"]["ppv"] is None is others["differences"]["sensitivity"]
    assert women["auroc"] and women["false_positive_rate"]


def test_rare_levels_of_table_one_are_joined_and_a_zero_can_be_suppressed():
    def row(level, outcome, n):
        names = {"split": "test", "characteristic": "insurance", "level": level}
        return names | {"outcome": outcome, "n": n, "median": None}

    many = [row(f"plan {k:02}", "all", 100 - k) for k in range(15)]
    levels = {each["level"]: each["n"] for each in suppress_characteristics(many)}
    assert len(levels) == 10
    assert levels["all others"] == sum(100 - k for k in range(9, 15))
    few = [row("A", "all", 8), row("A", "negative", 8), row("B", "all", 60)]
    few += [row("B", "positive", 30), row("B", "negative", 30)]
    shown = {(each["level"], each["outcome"]): each["n"] for each in suppress_characteristics(few)}
    assert shown["A", "all"] is shown["A", "negative"] is None
    assert shown["B", "all"] is None
