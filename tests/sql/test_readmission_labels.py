"""The label rule: timelines of one patient with their labels, and 2,000 random patients."""

import random

import duckdb
import pytest

from tests.timeline import day, stay, store_with

RETURNED, NOT_RETURNED = (True, None), (False, None)


def labels(stays, horizon=30, rule="", **settings):
    rows = store_with(stays, **settings).execute(
        f"SELECT hadm_id, label, reason FROM readmission_labels(horizon_days := ? {rule})",
        [horizon],
    )
    return {hadm_id: (label, reason) for hadm_id, label, reason in rows.fetchall()}


@pytest.mark.parametrize(
    ("stays", "expected"),
    [
        pytest.param([stay(1, day(0), day(5))], {1: NOT_RETURNED}, id="no later stay"),
        pytest.param(
            [stay(1, day(0), day(5)), stay(2, day(10), day(12))],
            {1: RETURNED, 2: NOT_RETURNED},
            id="an emergency five days later is a readmission",
        ),
        pytest.param(
            [stay(1, day(0), day(5)), stay(2, day(10), day(12), "ELECTIVE")],
            {1: (False, "planned return"), 2: NOT_RETURNED},
            id="a planned return is not a readmission",
        ),
        pytest.param(
            [
                stay(1, day(0), day(5)),
                stay(2, day(10), day(12), "ELECTIVE"),
                stay(3, day(14), day(15)),
            ],
            {1: (False, "planned return"), 2: RETURNED, 3: NOT_RETURNED},
            id="the first return decides, whatever follows it",
        ),
        pytest.param(
            [stay(1, day(0), day(5)), stay(2, day(10), day(12), "SURGICAL SAME DAY ADMISSION")],
            {1: (False, "planned return"), 2: NOT_RETURNED},
            id="same-day surgery is planned",
        ),
        pytest.param(
            [stay(1, day(0), day(5)), stay(2, day(10), day(12), "URGENT")],
            {1: RETURNED, 2: NOT_RETURNED},
            id="an urgent admission is unplanned",
        ),
        pytest.param(
            [stay(1, day(0), day(5, 23)), stay(2, day(35, 23, 59), day(36))],
            {1: RETURNED, 2: NOT_RETURNED},
            id="the thirtieth calendar day is within thirty days, at any hour",
        ),
        pytest.param(
            [stay(1, day(0), day(5, 23)), stay(2, day(36, 0), day(37))],
            {1: NOT_RETURNED, 2: NOT_RETURNED},
            id="the thirty-first calendar day is not, though fewer than 30 x 24 h have passed",
        ),
        pytest.param(
            [stay(1, day(0), day(5, 23, 50)), stay(2, day(6, 0, 10), day(7))],
            {1: RETURNED, 2: NOT_RETURNED},
            id="twenty minutes later but past midnight is a return on day one",
        ),
        pytest.param(
            [stay(1, day(0), day(5, 8)), stay(2, day(5, 22), day(9))],
            {1: (None, "continued by 2"), 2: NOT_RETURNED},
            id="a stay that begins on the day of discharge continues the episode",
        ),
        pytest.param(
            [stay(1, day(0), day(5)), stay(2, day(5, 20), day(9)), stay(3, day(12), day(13))],
            {1: (None, "continued by 2"), 2: RETURNED, 3: NOT_RETURNED},
            id="the last stay of an episode carries its label",
        ),
        pytest.param(
            [stay(1, day(0), day(10)), stay(2, day(8), day(14)), stay(3, day(40), day(41))],
            {1: (None, "continued by 2"), 2: RETURNED, 3: NOT_RETURNED},
            id="overlapping stays are one episode, never a negative gap",
        ),
        pytest.param(
            [stay(1, day(0), day(20)), stay(2, day(3), day(5)), stay(3, day(45), day(46))],
            {1: (None, "continued by 2"), 2: RETURNED, 3: NOT_RETURNED},
            id="a stay inside another: returns are counted from the later discharge",
        ),
        pytest.param(
            [stay(1, day(0), day(20)), stay(2, day(3), day(5)), stay(3, day(19), day(21))],
            {1: (None, "continued by 2"), 2: (None, "continued by 3"), 3: NOT_RETURNED},
            id="the latest discharge so far holds an episode together",
        ),
        pytest.param(
            [stay(1, day(0), day(5), died=day(5), to="DEAD/EXPIRED", flag=True)],
            {1: (None, "died in hospital")},
            id="died in hospital",
        ),
        pytest.param(
            [stay(1, day(0), day(5), died=day(5))],
            {1: (None, "died in hospital")},
            id="a time of death alone is a death",
        ),
        pytest.param(
            [stay(1, day(0), day(5), flag=True)],
            {1: (None, "died in hospital")},
            id="the expire flag alone is a death",
        ),
        pytest.param(
            [stay(1, day(0), day(5), to="DIED")],
            {1: (None, "died in hospital")},
            id="the discharge location alone is a death, also with MIMIC-IV's value",
        ),
        pytest.param(
            [stay(1, day(0), day(9), died=day(9)), stay(2, day(3), day(5))],
            {1: (None, "continued by 2"), 2: (None, "died in hospital")},
            id="a death in any stay of the episode ends it",
        ),
        pytest.param(
            [stay(1, day(0), day(5), to="LEFT AGAINST MEDICAL ADVI"), stay(2, day(7), day(8))],
            {1: (None, "left against medical advice"), 2: NOT_RETURNED},
            id="left against medical advice, truncated as in MIMIC-III",
        ),
        pytest.param(
            [stay(1, day(0), day(5), to="AGAINST ADVICE")],
            {1: (None, "left against medical advice")},
            id="left against medical advice, as in MIMIC-IV",
        ),
        pytest.param(
            [stay(1, day(0), day(5), to="SHORT TERM HOSPITAL"), stay(2, day(7), day(8))],
            {1: (None, "transferred to acute hospital"), 2: NOT_RETURNED},
            id="a transfer to another acute hospital is not a discharge",
        ),
        pytest.param(
            [stay(1, day(0), day(2), "NEWBORN"), stay(2, day(6), day(8))],
            {1: (None, "newborn"), 2: NOT_RETURNED},
            id="a birth is excluded",
        ),
        pytest.param(
            [stay(1, day(0), day(5)), stay(2, day(4), day(5), "NEWBORN"), stay(3, day(9), day(10))],
            {1: RETURNED, 2: (None, "newborn"), 3: NOT_RETURNED},
            id="an excluded stay does not connect episodes",
        ),
        pytest.param(
            [
                stay(1, day(0), day(5, 8), died=day(5, 8), flag=True),
                stay(2, day(5, 9), day(5, 20), flag=True),
            ],
            {1: (None, "died in hospital"), 2: (None, "admitted after death")},
            id="an organ donor is admitted after death, on the same day",
        ),
        pytest.param(
            [
                stay(1, day(0), day(5), dod=day(9).date()),
                stay(2, day(10), day(10, 20), dod=day(9).date()),
            ],
            {1: NOT_RETURNED, 2: (None, "admitted after death")},
            id="admitted the day after the date of death",
        ),
        pytest.param(
            [
                stay(1, day(0), day(5)),
                stay(2, day(9), day(9, 20), dod=day(9).date(), died=day(9, 19)),
            ],
            {1: RETURNED, 2: (None, "died in hospital")},
            id="admitted on the day of death, alive: a return",
        ),
        pytest.param(
            [stay(1, day(0), day(5)), stay(2, day(8), day(9), "EU OBSERVATION")],
            {1: NOT_RETURNED, 2: (None, "observation stay")},
            id="an observation stay is not a return",
        ),
        pytest.param(
            [stay(1, day(0), day(5)), stay(2, day(8), day(12), "OBSERVATION ADMIT")],
            {1: RETURNED, 2: NOT_RETURNED},
            id="an observation that became an admission is a return",
        ),
        pytest.param(
            [stay(1, day(0), day(5)), stay(2, day(9), None)],
            {1: RETURNED, 2: (None, "no discharge time")},
            id="a current inpatient has returned, and has no label yet",
        ),
        pytest.param(
            [stay(1, day(0), day(5)), stay(2, day(9, 10), day(9, 8)), stay(3, day(20), day(21))],
            {1: RETURNED, 2: (None, "discharge before admission"), 3: NOT_RETURNED},
            id="discharged before admission: a return, but no label",
        ),
        pytest.param(
            [stay(2, day(9), day(10)), stay(1, day(0), day(5))],
            {1: RETURNED, 2: NOT_RETURNED},
            id="the order of the rows does not matter",
        ),
        pytest.param(
            [stay(1, day(0), day(5)), stay(2, day(7), day(8), patient=2)],
            {1: NOT_RETURNED, 2: NOT_RETURNED},
            id="a stay of another patient is not a return",
        ),
    ],
)
def test_label(stays, expected):
    assert labels(stays) == expected


def test_the_horizon_is_a_number_of_calendar_days():
    stays = [stay(1, day(0), day(5)), stay(2, day(9), day(10))]
    assert labels(stays, horizon=3) == {1: NOT_RETURNED, 2: NOT_RETURNED}
    assert labels(stays, horizon=4) == {1: RETURNED, 2: NOT_RETURNED}


@pytest.mark.parametrize(
    ("readmitted", "label", "is_predicted"),
    [
        pytest.param(day(5, 20), (None, "continued by 2"), False, id="on Monday evening"),
        pytest.param(day(6, 0), RETURNED, False, id="on Tuesday, 14 hours later"),
        pytest.param(day(7, 10), RETURNED, False, id="on Wednesday, 48 hours later"),
        pytest.param(day(7, 10, 1), RETURNED, True, id="on Wednesday, a minute later"),
        pytest.param(day(8, 23, 59), RETURNED, True, id="on Thursday before midnight"),
        pytest.param(day(9, 0), NOT_RETURNED, True, id="on Friday, 86 hours later"),
    ],
)
def test_a_horizon_of_three_days_after_a_discharge_on_monday_at_ten(
    readmitted, label, is_predicted
):
    """The table of docs/labels.md, with predictions at discharge+48h."""
    stays = [stay(1, day(0), day(5, 10)), stay(2, readmitted, day(10))]
    assert labels(stays, horizon=3)[1] == label
    predicted = store_with(stays).execute("FROM prediction_times(cutoff := 'discharge')").fetchall()
    assert ((1, day(7, 10)) in predicted) == is_predicted


def test_a_live_hospital_waits_until_the_horizon_is_over():
    stays = [stay(1, day(0), day(5))]
    not_observed = {1: (None, "horizon not yet observed")}
    assert labels(stays, observed_until=day(20)) == not_observed
    assert labels(stays, observed_until=day(35, 23)) == not_observed
    assert labels(stays, observed_until=day(36, 0)) == {1: NOT_RETURNED}


def maturity(stays, rule="readmission", **settings):
    rows = store_with(stays, **settings).execute(
        f"SELECT hadm_id, label, mature, known_at FROM {rule}_labels(horizon_days := 30)"
    )
    return {hadm_id: columns for hadm_id, *columns in rows.fetchall()}


def test_a_live_hospital_knows_a_return_at_once_but_it_matures_with_the_non_returns():
    stays = [stay(1, day(0), day(5)), stay(2, day(9), None)]
    assert labels(stays, observed_until=day(9, 20))[1] == RETURNED
    assert maturity(stays, observed_until=day(9, 20))[1] == [True, False, day(9)]
    assert maturity(stays, observed_until=day(35, 23))[1] == [True, False, day(9)]
    assert maturity(stays, observed_until=day(36, 0))[1] == [True, True, day(9)]
    planned = [stay(1, day(0), day(5)), stay(2, day(9), None, "ELECTIVE")]
    assert labels(planned, observed_until=day(9, 20))[1] == (False, "planned return")
    assert maturity(planned, observed_until=day(9, 20))[1] == [False, False, day(9)]


def test_a_non_return_is_known_after_the_last_day_of_the_horizon():
    stays = [stay(1, day(0), day(5, 22))]
    assert maturity(stays, observed_until=day(35, 23))[1] == [None, False, None]
    assert maturity(stays, observed_until=day(36, 0))[1] == [False, True, day(36, 0)]


def test_the_horizon_of_an_episode_begins_with_its_latest_discharge():
    stays = [stay(1, day(0), day(20)), stay(2, day(3), day(5))]
    assert maturity(stays, observed_until=day(50))[2] == [None, False, None]
    assert maturity(stays, observed_until=day(51))[2] == [False, True, day(51, 0)]


def test_stays_without_a_label_mature_like_others():
    stays = [
        stay(1, day(0), day(5), died=day(5)),
        stay(2, day(0), day(5), to="AGAINST ADVICE", patient=2),
        stay(3, day(0), None, patient=3),
    ]

    def is_mature(night):
        rows = maturity(stays, observed_until=night)
        return {hadm_id: mature for hadm_id, (_, mature, _) in rows.items()}

    assert is_mature(day(35)) == {1: False, 2: False, 3: False}
    assert is_mature(day(36)) == {1: True, 2: True, 3: False}


@pytest.mark.parametrize("rule", ["readmission", "clinicalbert"])
def test_an_extract_is_mature(rule):
    con = store_with(random_patients(500, seed=1))
    assert con.execute(f"SELECT DISTINCT mature FROM {rule}_labels()").fetchall() == [(True,)]


@pytest.mark.parametrize("rule", ["readmission", "clinicalbert"])
def test_a_mature_label_never_changes_as_time_goes_on(rule):
    stays, nights = random_patients(1_000, seed=2), [day(n) for n in (60, 90, 150, 400)]

    def known_at(night):
        # What the hospital has recorded by then: later stays and discharges are unknown.
        recorded = [
            (*row[:3], None, None, False, *row[6:8], None, None)
            if row[3] is None or row[3] > night
            else row
            for row in stays
            if row[2] <= night
        ]
        labels = maturity(recorded, rule, observed_until=night)
        return {hadm_id: label for hadm_id, (label, mature, _) in labels.items() if mature}

    earlier, matured = {}, 0
    for night in nights:
        now = known_at(night)
        for hadm_id, label in earlier.items():
            assert now[hadm_id] == label
        matured += len(now) - len(earlier)
        earlier = now
    assert matured > 2_000


SAME_DAY = [stay(1, day(0), day(5, 9)), stay(2, day(5, 18), day(9))]
DEATH = [
    stay(1, day(0), day(5), dod=day(20).date()),
    stay(2, day(0), day(5), dod=day(50).date(), patient=2),
    stay(3, day(0), day(5), dod=day(20).date(), patient=3),
    stay(4, day(9), day(10), dod=day(60).date(), patient=3),
]


@pytest.mark.parametrize(
    ("rule", "stays", "expected"),
    [
        pytest.param(
            ", same_day := 'return'",
            SAME_DAY,
            {1: RETURNED, 2: NOT_RETURNED},
            id="a return on the day of discharge can count",
        ),
        pytest.param(
            ", same_day := 'return'",
            [stay(1, day(0), day(5, 9)), stay(2, day(5, 8), day(9))],
            {1: (None, "continued by 2"), 2: NOT_RETURNED},
            id="a stay that begins before the discharge still continues",
        ),
        pytest.param(
            ", planned_types := ['EMERGENCY']",
            [stay(1, day(0), day(5)), stay(2, day(10), day(12)), stay(3, day(15), None, "URGENT")],
            {1: (False, "planned return"), 2: RETURNED, 3: (None, "no discharge time")},
            id="which types are planned can be said",
        ),
        pytest.param(
            ", deaths := 'excluded'",
            DEATH,
            {1: (None, "died after discharge"), 2: NOT_RETURNED, 3: RETURNED, 4: NOT_RETURNED},
            id="a death within the horizon can be excluded, if no return came before",
        ),
        pytest.param(
            ", deaths := 'positive'",
            DEATH,
            {1: (True, "died after discharge"), 2: NOT_RETURNED, 3: RETURNED, 4: NOT_RETURNED},
            id="a death within the horizon can be part of the outcome",
        ),
    ],
)
def test_the_parameters_of_the_rule(rule, stays, expected):
    assert labels(stays, rule=rule) == expected


def test_patients_can_have_a_minimum_age():
    con = store_with([stay(n, day(0), day(5), patient=n) for n in (1, 2, 3)])
    con.execute("UPDATE admissions SET age = CASE hadm_id WHEN 1 THEN 17 WHEN 2 THEN 18 END")
    rows = con.execute("SELECT hadm_id, label, reason FROM readmission_labels(min_age := 18)")
    assert rows.fetchall() == [
        (1, None, "younger than 18"),
        (2, False, None),
        (3, None, "age not known"),
    ]


@pytest.mark.parametrize("rule", ["same_day := 'next'", "deaths := 'maybe'"])
def test_a_parameter_of_the_rule_that_does_not_exist_is_refused(rule):
    with pytest.raises(duckdb.Error, match=f"unknown {rule.split()[0]} - use "):
        labels([stay(1, day(0), day(5))], rule=f", {rule}")


def test_all_columns():
    con = store_with(
        [
            stay(1, day(0), day(5, 22), dod=day(50).date()),
            stay(2, day(45, 6), day(47), dod=day(50).date()),
        ]
    )
    assert con.execute("FROM readmission_labels() ORDER BY hadm_id").fetchall() == [
        (1, 1, day(5, 22), False, None, True, day(36, 0), 2, 40, False, day(36, 0)),
        (2, 1, day(47), False, None, True, day(78, 0), None, None, True, day(78, 0)),
    ]


def test_death_after_discharge_has_its_own_column_and_no_effect_on_the_label():
    dod = day(20).date()
    rows = store_with(
        [
            stay(1, day(0), day(5), dod=dod),
            stay(2, day(0), day(5), patient=2, dod=dod),
            stay(3, day(9), day(10), patient=2, dod=dod),
            stay(4, day(0), day(5), patient=4, dod=day(36).date()),
        ]
    ).execute("SELECT hadm_id, label, died_within_horizon FROM readmission_labels() ORDER BY 1")
    assert rows.fetchall() == [
        (1, False, True),
        (2, True, False),
        (3, False, True),
        (4, False, False),
    ]


def plain_python(stays, horizon, planned_types=None, same_day="continuation", deaths="negative"):
    """Apply the rule without SQL; map hadm_id to (label, reason, next_hadm_id, days)."""
    results = {}
    for patient in {row[1] for row in stays}:
        timeline = sorted(
            (row for row in stays if row[1] == patient),
            key=lambda r: (r[2], r[3] is None, r[3] or r[2], r[0]),
        )
        included, deathtimes = [], []
        for row in timeline:
            hadm_id, _, admitted, _, deathtime, _, kind, _, _, dod = row
            if kind == "NEWBORN":
                results[hadm_id] = (None, "newborn", None, None)
            elif any(admitted > death for death in deathtimes) or (dod and admitted.date() > dod):
                results[hadm_id] = (None, "admitted after death", None, None)
            elif kind in ("EU OBSERVATION", "DIRECT OBSERVATION", "AMBULATORY OBSERVATION"):
                results[hadm_id] = (None, "observation stay", None, None)
            else:
                included.append(row)
            if deathtime:
                deathtimes.append(deathtime)
        episodes, latest = [], None
        for row in included:
            returns = same_day == "return" and latest is not None and row[2] >= latest
            if latest is not None and row[2].date() <= latest.date() and not returns:
                episodes[-1].append(row)
            else:
                episodes.append([row])
            if row[3] and row[3] >= row[2] and (latest is None or row[3] > latest):
                latest = row[3]
        for number, episode in enumerate(episodes):
            ends = [r[3] for r in episode if r[3] and r[3] >= r[2]]
            following = episodes[number + 1][0] if number + 1 < len(episodes) else None
            for position, row in enumerate(episode):
                hadm_id, _, admitted, discharged = row[:4]
                last = position == len(episode) - 1
                next_hadm_id = days = None
                if last and discharged and discharged >= admitted and following:
                    next_hadm_id = following[0]
                    days = (following[2].date() - max(ends).date()).days
                if discharged is None:
                    label = (None, "no discharge time")
                elif discharged < admitted:
                    label = (None, "discharge before admission")
                elif not last:
                    label = (None, f"continued by {episode[position + 1][0]}")
                elif any(r[4] or r[5] or r[8] in ("DEAD/EXPIRED", "DIED") for r in episode):
                    label = (None, "died in hospital")
                elif row[8] in ("LEFT AGAINST MEDICAL ADVI", "AGAINST ADVICE"):
                    label = (None, "left against medical advice")
                elif row[8] in ("SHORT TERM HOSPITAL", "ACUTE HOSPITAL"):
                    label = (None, "transferred to acute hospital")
                elif died_at_home(row[9], max(ends), following, horizon) and deaths != "negative":
                    label = (True if deaths == "positive" else None, "died after discharge")
                elif days is not None and days <= horizon:
                    planned = following[6] in planned_types if planned_types else following[7]
                    label = (False, "planned return") if planned else (True, None)
                else:
                    label = (False, None)
                results[hadm_id] = (*label, next_hadm_id, days)
    return results


def died_at_home(dod, discharged, following, horizon):
    """Return whether a patient died within the horizon and had not returned by then."""
    if dod is None or not 0 <= (dod - discharged.date()).days <= horizon:
        return False
    return following is None or following[2].date() > dod


def random_patients(count, seed):
    rng = random.Random(seed)
    kinds = ["EMERGENCY"] * 6 + ["ELECTIVE"] * 2 + ["URGENT", "NEWBORN", "EU OBSERVATION"]
    places = ["HOME"] * 6 + ["SNF", "DEAD/EXPIRED", "LEFT AGAINST MEDICAL ADVI", "ACUTE HOSPITAL"]
    stays = []
    for patient in range(count):
        dod = day(rng.randrange(150)).date() if rng.random() < 0.2 else None
        for _ in range(rng.randint(1, 7)):
            admitted = day(rng.randrange(120), rng.randrange(24))
            hours = rng.choice([-5, 0, 3, 24, 60, 200, 700])
            discharged = (
                None
                if rng.random() < 0.05
                else day(0, 0) + (admitted - day(0, 0)) + (day(0, 1) - day(0, 0)) * hours
            )
            died = discharged if rng.random() < 0.04 else None
            stays.append(
                stay(
                    len(stays) + 1,
                    admitted,
                    discharged,
                    rng.choice(kinds),
                    to=rng.choice(places),
                    died=died,
                    flag=rng.random() < 0.02,
                    dod=dod,
                    patient=patient,
                )
            )
    return stays


@pytest.mark.parametrize(
    ("horizon", "rule", "settings"),
    [
        (3, "", {}),
        (30, "", {}),
        (30, ", same_day := 'return'", {"same_day": "return"}),
        (30, ", deaths := 'excluded'", {"deaths": "excluded"}),
        (
            14,
            ", deaths := 'positive', same_day := 'return', planned_types := ['URGENT']",
            {"deaths": "positive", "same_day": "return", "planned_types": ["URGENT"]},
        ),
    ],
)
def test_two_thousand_random_patients_agree_with_the_rule_in_python(horizon, rule, settings):
    stays = random_patients(2_000, seed=horizon)
    con = store_with(stays)
    rows = con.execute(
        "SELECT hadm_id, label, reason, next_hadm_id, days_to_return "
        f"FROM readmission_labels(horizon_days := ? {rule})",
        [horizon],
    ).fetchall()
    assert {row[0]: row[1:] for row in rows} == plain_python(stays, horizon, **settings)
