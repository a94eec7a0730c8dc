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


def icu_label(icu_stays, stays, horizon_days=30, **settings):
    """The label of stay 1, whose stays in intensive care are (hadm_id, from, to)."""
    con = store_with(stays, **settings)
    for number, (hadm_id, intime, outtime) in enumerate(icu_stays):
        con.execute(
            "INSERT INTO icu_stays VALUES ($1, $2, 1, $3, $4, 'MICU')",
            [str(number), hadm_id, intime, outtime],
        )
    return con.execute(
        "SELECT label, reason, mature, prediction_time, event_at "
        "FROM task_labels('icu_readmission', ?) WHERE hadm_id = 1",
        [horizon_days],
    ).fetchone()


TEN_DAYS = [stay(1, day(0), day(10))]


@pytest.mark.parametrize(
    ("icu_stays", "stays", "expected"),
    [
        pytest.param(
            [(1, day(1), day(3))], TEN_DAYS, (False, None, True, day(3), None), id="never again"
        ),
        pytest.param(
            [(1, day(1), day(3)), (1, day(5), day(6))],
            TEN_DAYS,
            (True, None, True, day(3), day(5)),
            id="again in the same stay",
        ),
        pytest.param(
            [(1, day(1), day(3)), (2, day(33), day(34))],
            [*TEN_DAYS, stay(2, day(33), day(40))],
            (True, None, True, day(3), day(33)),
            id="30 days later, in another stay",
        ),
        pytest.param(
            [(1, day(1), day(3)), (2, day(33, 13), day(34))],
            [*TEN_DAYS, stay(2, day(33), day(40))],
            (False, None, True, day(3), None),
            id="an hour too late",
        ),
        pytest.param(
            [(1, day(1), day(3)), (1, day(3, 13), day(4)), (1, day(3, 14), day(5))],
            TEN_DAYS,
            (False, None, True, day(5), None),
            id="moved to another unit",
        ),
        pytest.param(
            [(1, day(1), day(9)), (1, day(2), day(3)), (1, day(9), day(10))],
            TEN_DAYS,
            (False, None, True, day(10), None),
            id="a part inside another",
        ),
        pytest.param(
            [(1, day(1), day(3))],
            [stay(1, day(0), day(3), died=day(3))],
            (None, "died in intensive care", True, None, None),
            id="died there",
        ),
        pytest.param(
            [(1, day(1), day(3))],
            [stay(1, day(0), day(5), died=day(5))],
            (False, None, True, day(3), None),
            id="died on the ward",
        ),
        pytest.param(
            [(1, day(1), None)],
            TEN_DAYS,
            (None, "no end of intensive care", True, None, None),
            id="no end",
        ),
        pytest.param(
            [], TEN_DAYS, (None, "no stay in intensive care", True, None, None), id="never there"
        ),
        pytest.param(
            [(1, day(1), day(3))],
            [stay(1, day(0), day(10), "NEWBORN")],
            (None, "newborn", True, None, None),
            id="a newborn",
        ),
    ],
)
def test_a_return_to_intensive_care(icu_stays, stays, expected):
    assert icu_label(icu_stays, stays) == expected


def test_a_live_hospital_waits_until_the_return_to_intensive_care_can_no_longer_come():
    icu_stays, horizon = [(1, day(1), day(3))], {"horizon_days": 2}
    waiting = (None, "horizon not yet observed", False, day(3), None)
    assert icu_label(icu_stays, TEN_DAYS, **horizon, observed_until=day(4)) == waiting
    assert icu_label(icu_stays, TEN_DAYS, **horizon, observed_until=day(5)) == (
        *(False, None, True, day(3), None),
    )
    returned = [*icu_stays, (1, day(3, 18), day(4))]
    # Known, but not mature: otherwise the newest labels would all be returns.
    assert icu_label(returned, TEN_DAYS, **horizon, observed_until=day(4)) == (
        *(True, None, False, day(3), day(3, 18)),
    )
    in_care = [stay(1, day(0), None)]
    assert icu_label([(1, day(1), None)], in_care, observed_until=day(4))[:3] == (
        *(None, "still in intensive care", False),
    )
