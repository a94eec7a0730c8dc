"""The labels of the tasks of the program: timelines of one patient, in an extract and live."""

import pytest

from tests.timeline import day, stay, store_with


def labels(task, stays, **settings):
    rows = store_with(stays, **settings).execute(
        "SELECT hadm_id, label, reason, mature FROM task_labels(task := ?)", [task]
    )
    return {hadm_id: columns for hadm_id, *columns in rows.fetchall()}


@pytest.mark.parametrize(
    ("stays", "expected"),
    [
        pytest.param([stay(1, day(0), day(5))], {1: [False, None, True]}, id="went home"),
        pytest.param(
            [stay(1, day(0), day(5), died=day(5))], {1: [True, None, True]}, id="a time of death"
        ),
        pytest.param(
            [stay(1, day(0), day(5), to="DEAD/EXPIRED")], {1: [True, None, True]}, id="the location"
        ),
        pytest.param([stay(1, day(0), day(5), flag=True)], {1: [True, None, True]}, id="the flag"),
        pytest.param(
            [stay(1, day(0), day(5), dod=day(6).date())], {1: [False, None, True]}, id="at home"
        ),
        pytest.param(
            [stay(1, day(0), None)], {1: [None, "no discharge time", True]}, id="not discharged"
        ),
        pytest.param(
            [stay(1, day(5), day(0))], {1: [None, "discharge before admission", True]}, id="broken"
        ),
        pytest.param(
            [stay(1, day(0), day(5), died=day(5)), stay(2, day(6), day(7))],
            {1: [True, None, True], 2: [None, "admitted after death", True]},
            id="an organ donor",
        ),
        pytest.param(
            [stay(1, day(0), day(5), "NEWBORN")], {1: [None, "newborn", True]}, id="a newborn"
        ),
    ],
)
def test_death_in_hospital(stays, expected):
    assert labels("in_hospital_mortality", stays) == expected


@pytest.mark.parametrize(
    ("stays", "expected"),
    [
        pytest.param([stay(1, day(0), day(7))], {1: [False, None, True]}, id="seven days"),
        pytest.param([stay(1, day(0), day(7, 13))], {1: [True, None, True]}, id="and an hour"),
        pytest.param(
            [stay(1, day(0), day(5), died=day(5))],
            {1: [False, "died within 7 days", True]},
            id="died before",
        ),
        pytest.param(
            [stay(1, day(0), day(9), died=day(9))], {1: [True, None, True]}, id="died after"
        ),
        pytest.param(
            [stay(1, day(0), None)], {1: [None, "no discharge time", True]}, id="not discharged"
        ),
    ],
)
def test_a_long_stay(stays, expected):
    assert labels("long_stay", stays) == expected


LIVE = [
    stay(1, day(0), day(2)),
    stay(2, day(0), None, patient=2),
    stay(3, day(0), day(2), died=day(2), patient=3),
]


def test_a_live_hospital_knows_short_stays_first_but_they_mature_with_the_others():
    waiting = [None, "still in hospital", False]
    assert labels("long_stay", LIVE, observed_until=day(6)) == {
        1: [False, None, False],
        2: waiting,
        3: [False, "died within 7 days", False],
    }
    assert labels("long_stay", LIVE, observed_until=day(7, 13)) == {
        1: [False, None, True],
        2: [True, None, True],
        3: [False, "died within 7 days", True],
    }
    assert labels("in_hospital_mortality", LIVE, observed_until=day(29)) == {
        1: [False, None, False],
        2: waiting,
        3: [True, None, False],
    }
    assert labels("in_hospital_mortality", LIVE, observed_until=day(30)) == {
        1: [False, None, True],
        2: waiting,
        3: [True, None, True],
    }
