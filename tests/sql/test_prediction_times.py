"""Prediction times, the admissions that have one, and the notes known by then."""

import duckdb
import pytest

from tests.sql.test_readmission_labels import random_patients
from tests.timeline import day, stay, store_with


def times(stays, cutoff, **settings):
    rows = store_with(stays, **settings).execute("FROM prediction_times(cutoff := ?)", [cutoff])
    return dict(rows.fetchall())


@pytest.mark.parametrize(
    ("cutoff", "stays", "expected"),
    [
        pytest.param(
            "72h", [stay(1, day(0), day(5))], {1: day(3)}, id="three days after admission"
        ),
        pytest.param("24h", [stay(1, day(0), day(5))], {1: day(1)}, id="one day after admission"),
        pytest.param(
            "72h",
            [stay(1, day(0), day(3))],
            {1: day(3)},
            id="a stay of exactly 72 hours is long enough",
        ),
        pytest.param(
            "72h", [stay(1, day(0), day(3, 11))], {}, id="a stay of 71 hours is too short"
        ),
        pytest.param(
            "72h", [stay(1, day(0), day(4), died=day(2))], {}, id="died before the prediction time"
        ),
        pytest.param(
            "72h",
            [stay(1, day(0), day(9), died=day(9))],
            {1: day(3)},
            id="died after the prediction time",
        ),
        pytest.param("72h", [stay(1, day(0), None)], {}, id="no discharge time in an extract"),
        pytest.param("24h", [stay(1, day(5), day(2))], {}, id="discharged before admission"),
        pytest.param("24h", [stay(1, day(0), day(4), "NEWBORN")], {}, id="a newborn"),
        pytest.param(
            "discharge", [stay(1, day(0), day(5))], {1: day(7)}, id="48 h after discharge"
        ),
        pytest.param(
            "discharge",
            [stay(1, day(0), day(5)), stay(2, day(6), day(9))],
            {2: day(11)},
            id="returned before the prediction time: no prediction",
        ),
        pytest.param(
            "discharge",
            [stay(1, day(0), day(5)), stay(2, day(7, 13), day(9))],
            {1: day(7), 2: day(11)},
            id="returned after the prediction time",
        ),
        pytest.param("discharge", [stay(1, day(0), day(5), flag=True)], {}, id="died in hospital"),
        pytest.param(
            "discharge",
            [stay(1, day(0), day(20)), stay(2, day(3), day(5))],
            {2: day(22)},
            id="a stay inside a longer one: 48 h after the later discharge",
        ),
        pytest.param(
            "discharge",
            [stay(1, day(0), day(20)), stay(2, day(3), day(5)), stay(3, day(21), day(25))],
            {3: day(27)},
            id="a stay inside a longer one: returned before the later discharge was 48 h ago",
        ),
        pytest.param(
            "discharge",
            [
                stay(1, day(0), day(20), dod=day(21).date()),
                stay(2, day(3), day(5), dod=day(21).date()),
            ],
            {},
            id="a stay inside a longer one: died within 48 h of the later discharge",
        ),
        pytest.param(
            "discharge",
            [stay(1, day(0), day(9), died=day(9)), stay(2, day(3), day(5))],
            {},
            id="a stay inside a longer one in which the patient died",
        ),
        pytest.param(
            "discharge",
            [stay(1, day(0), day(20)), stay(2, day(3), None)],
            {},
            id="a stay inside a longer one, without a discharge time",
        ),
        pytest.param(
            "24h",
            [stay(1, day(0), day(20)), stay(2, day(3), day(5))],
            {1: day(1), 2: day(4)},
            id="a stay inside a longer one is predicted 24 h after its own admission",
        ),
        pytest.param(
            "discharge",
            [stay(1, day(0), day(5), dod=day(6).date())],
            {},
            id="died at home before the prediction time",
        ),
        pytest.param(
            "discharge",
            [stay(1, day(0), day(5), dod=day(8).date())],
            {1: day(7)},
            id="died at home the day after the prediction time",
        ),
        pytest.param("36h", [stay(1, day(0), day(5))], {1: day(2, 0)}, id="any number of hours"),
        pytest.param("072h", [stay(1, day(0), day(5))], {1: day(3)}, id="a leading zero"),
        pytest.param("0h", [stay(1, day(0), day(5))], {1: day(0)}, id="at admission"),
        pytest.param("discharge+0h", [stay(1, day(0), day(5))], {1: day(5)}, id="at discharge"),
        pytest.param(
            "discharge+48h", [stay(1, day(0), day(5))], {1: day(7)}, id="discharge by its full name"
        ),
        pytest.param(
            "discharge+0h",
            [stay(1, day(0), day(5)), stay(2, day(5, 20), day(9))],
            {1: day(5), 2: day(9)},
            id="at discharge nobody knows of a return later on that day",
        ),
        pytest.param(
            "discharge+12h",
            [stay(1, day(0), day(5)), stay(2, day(5, 20), day(9))],
            {2: day(9, 12) + (day(1) - day(0)) / 2},
            id="returned within 12 hours of discharge",
        ),
        pytest.param(
            "discharge+0h",
            [stay(1, day(0), day(20)), stay(2, day(3), day(5))],
            {2: day(20)},
            id="a stay inside a longer one: at the later discharge",
        ),
    ],
)
def test_prediction_time(cutoff, stays, expected):
    assert times(stays, cutoff) == expected


def test_a_current_inpatient_is_predicted_once_the_prediction_time_has_passed():
    inpatient = [stay(1, day(0), None)]
    assert times(inpatient, "72h", observed_until=day(2)) == {}
    assert times(inpatient, "72h", observed_until=day(3)) == {1: day(3)}
    assert times(inpatient, "discharge", observed_until=day(9)) == {}
    discharged = [stay(1, day(0), day(5))]
    assert times(discharged, "discharge", observed_until=day(6)) == {}
    assert times(discharged, "discharge", observed_until=day(7)) == {1: day(7)}


def test_a_stay_inside_a_longer_one_waits_for_the_later_discharge():
    nested = [stay(1, day(0), day(20)), stay(2, day(3), day(5))]
    assert times(nested, "discharge", observed_until=day(21)) == {}
    assert times(nested, "discharge", observed_until=day(22)) == {2: day(22)}


def test_an_unknown_cutoff_is_refused():
    with pytest.raises(duckdb.Error, match="unknown cutoff 3days - use hours after admission such"):
        times([stay(1, day(0), day(5))], "3days")


def test_who_is_predicted_48_hours_after_discharge_does_not_depend_on_same_day_returns():
    """The cutoff discharge gives what it gave when a stay continued by another was skipped."""
    con = store_with(random_patients(2_000, seed=4))
    continued = con.execute(
        "SELECT e.hadm_id, e.episode_discharge + INTERVAL 48 HOURS AS prediction_time "
        "FROM episodes AS e INNER JOIN admissions AS a USING (hadm_id) "
        "WHERE e.exclusion_reason IS NULL AND e.continued_by IS NULL AND NOT e.episode_died "
        "AND e.discharge IS NOT NULL AND coalesce(e.next_admittime > prediction_time, TRUE) "
        "AND coalesce(e.dod > CAST(prediction_time AS DATE), TRUE)"
    ).fetchall()
    predicted = con.execute("FROM prediction_times(cutoff := 'discharge')").fetchall()
    assert len(predicted) > 1_000
    assert sorted(predicted) == sorted(continued)


def test_a_note_is_known_up_to_the_second_of_the_prediction_time():
    con = store_with([stay(1, day(0), day(5))])
    for note_id, at, status, reason in (
        ("before", day(1), "ready", None),
        ("at the same second", day(3), "ready", None),
        ("a second late", day(3, 12, 0, 1), "ready", None),
        ("flagged", day(1), "excluded", "flagged as an error"),
    ):
        con.execute(
            "INSERT INTO notes VALUES ($1, 1, 1, 'Nursing', $2, 'storetime', 'md5', 9, $3, $4)",
            [note_id, at, status, reason],
        )
    known = con.execute("SELECT note_id FROM known_notes(cutoff := '72h') ORDER BY 1").fetchall()
    assert known == [("at the same second",), ("before",)]


@pytest.mark.parametrize(
    ("stored", "charted", "dated", "expected"),
    [
        (day(2, 15), day(2, 9), day(2).date(), day(2, 15)),
        (None, day(2, 9), day(2).date(), day(2, 9)),
        (None, None, day(2).date(), day(3, 0)),
        (None, None, None, None),
        (None, day(2, 0), day(2).date(), day(3, 0)),
        (None, day(2, 0), None, day(3, 0)),
        (day(2, 0), day(2, 9), day(2).date(), day(3, 0)),
        (day(3, 0), day(2, 9), day(2).date(), day(3, 0)),
        (None, day(2, 0, 0, 1), day(2).date(), day(2, 0, 0, 1)),
    ],
    ids=[
        "stored",
        "charted",
        "only a date: known on the next day",
        "no time at all",
        "charted at midnight of its own date: only a date",
        "charted at midnight, no date: only a date",
        "stored at midnight of its own date: only a date, whatever the chart time",
        "charted at nine, stored at the midnight after: a time",
        "a second after midnight: a time",
    ],
)
def test_available_at(stored, charted, dated, expected):
    con = store_with([])
    row = con.execute("SELECT available_at($1, $2, $3)", [stored, charted, dated]).fetchone()
    assert row == (expected,)


def test_the_split_of_a_patient_never_changes():
    # The low 64 bits of MD5("10006") and so on, modulo 10.
    import hashlib

    def with_hashlib(subject_id):
        digest = hashlib.md5(str(subject_id).encode()).digest()
        return ["train"] * 8 + ["valid", "test"], int.from_bytes(digest[8:], "little") % 10

    con = store_with([])
    for subject_id in (1, 10006, 10011, 44228):
        names, digit = with_hashlib(subject_id)
        split = con.execute("SELECT patient_split($1)", [subject_id]).fetchone()[0]
        assert split == names[digit]
    shares = con.execute(
        "SELECT patient_split(range), count(*) / 100_000 FROM range(100_000) GROUP BY 1"
    ).fetchall()
    assert {split: round(share, 2) for split, share in shares} == {
        "train": 0.8,
        "valid": 0.1,
        "test": 0.1,
    }
