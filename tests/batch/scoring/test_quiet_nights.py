"""The limits of quiet nights, against scipy, resamples and hand calculations."""

import numpy as np
import pytest
from scipy import stats

from batch.scoring.quiet_nights import (
    Reference,
    alert_limits,
    find_distributions,
    find_shifts,
    pearson3_quantile,
    psi,
    psi_limit,
)
from batch.training.reference import ALL_NOTES, reference_rows

INDEPENDENT = Reference(
    n_patients=1_000, skewness=0.0, same_day=0.0, same_patient=0.0, standard_error=0.0
)


def shifts(rows, reference=INDEPENDENT, alarms=0.05, **options):
    night, patient, n, shift = (np.array(column) for column in zip(*rows, strict=True))
    return find_shifts(night, patient, n, shift.astype(float), reference, alarms, **options)


def test_the_limit_of_independent_notes_is_the_quantile_of_their_mean():
    # 16 notes of one night: standard error 1/4, and the alarms are shared by five comparisons.
    (night, *_) = shifts([(0, patient, 1, 0.5) for patient in range(16)])
    assert (night.notes, night.shift) == (16, 0.5)
    assert night.limit == pytest.approx(stats.t.isf(0.05 / 5 / 2, 999) / 4)


def test_notes_of_a_patient_count_as_fewer():
    alike = Reference(1_000, 0.0, same_day=1.0, same_patient=0.5, standard_error=0.0)
    rows = [(night, patient, 8, 0.1) for night in (0, 1) for patient in range(4)]
    tonight, three_nights, *_ = shifts(rows, alike)
    quantile = stats.t.isf(0.05 / 5 / 2, 999)
    # Eight notes of a day are one, so a night has 4. Of two days a patient has 2 with a correlation
    # of 1/2: the mean of 8 has the variance (1 + 1/2) / 8.
    assert tonight.limit == pytest.approx(quantile * np.sqrt(1 / 4))
    assert three_nights.limit == pytest.approx(quantile * np.sqrt(1.5 / 8))


def test_a_small_reference_has_wide_limits():
    small = Reference(10, 0.0, same_day=0.0, same_patient=0.0, standard_error=0.3)
    (night, *_) = shifts([(0, patient, 1, 0.5) for patient in range(16)], small)
    assert night.limit == pytest.approx(stats.t.isf(0.05 / 5 / 2, 9) * np.hypot(1 / 4, 0.3))


def test_nights_that_vary_by_themselves_have_wider_limits():
    # The means of the nights before alternate between -1 and 1; by their notes alone they would
    # vary by 1/4. Mean squared difference 4, over 2/16: the variance is 32 times as large.
    rows = [(0, patient, 1, 0.0) for patient in range(16)]
    rows += [
        (n, patient, 1, (-1.0) ** n) for n in range(1, 11) for patient in range(16 * n, 16 * n + 16)
    ]
    calm, wild = shifts(rows[:16])[0], shifts(rows)[0]
    assert wild.limit == pytest.approx(calm.limit * np.sqrt(32))


def test_a_night_is_compared_with_the_usual_nights_before_it():
    rows = [(n, 100 * n + p, 1, 2.0 if n < 6 else 0.0) for n in range(12) for p in range(16)]
    since = [each for each in shifts(rows) if each.nights == 0]
    assert [each.shift for each in since] == [pytest.approx(2 - 10 / 11)]
    (since,) = (each for each in shifts(rows, usual_nights=5) if each.nights == 0)
    assert (since.shift, since.is_unusual) == (0, False)
    assert not [each for each in shifts(rows, usual_nights=4) if each.nights == 0]


def test_without_notes_tonight_nothing_is_compared():
    assert shifts([(1, 1, 1, 5.0)]) == []


@pytest.mark.parametrize("skewness", [-3.0, -0.4, -0.002, 0.0, 0.002, 0.4, 3.0])
def test_quantiles_of_pearson_iii_equal_those_of_scipy(skewness):
    for alarms in (0.05, 1e-5):
        assert pearson3_quantile(alarms, skewness) == pytest.approx(
            stats.pearson3.isf(alarms, skewness), rel=1e-4
        )


def test_alert_limits_are_quantiles_of_the_beta_binomial():
    rates = stats.betabinom(200, 18.5, 162.5)
    low, high = alert_limits(18, 180, 200, 1e-3)
    assert (low, high) == pytest.approx((rates.ppf(5e-4) / 200, rates.isf(5e-4) / 200))
    assert alert_limits(0, 20, 5, 1e-3)[0] == 0


def test_the_stability_index_of_two_bins_by_hand():
    # 50 and 50% against 60 and 40%: 0.1 ln(1.2) - 0.1 ln(0.8) = 0.0405.
    index = psi(np.array([500_000, 500_000]), np.array([600_000, 400_000]))
    assert index == pytest.approx(0.1 * np.log(1.2) - 0.1 * np.log(0.8), abs=1e-6)


@pytest.mark.parametrize(("stays", "alarms"), [(20, 1e-2), (200, 1e-3), (2_000, 1e-3)])
def test_resampled_quiet_nights_exceed_the_limit_of_the_index_as_often_as_they_may(stays, alarms):
    rng = np.random.default_rng(1)
    expected = np.full(10, 50)
    limit = psi_limit(expected, stays, alarms)
    proportions = rng.dirichlet(expected, 100_000)
    draws = psi(expected, rng.multinomial(stays, proportions))
    assert (draws > limit).mean() == pytest.approx(alarms, rel=0.35)


def test_scores_are_compared_with_20_stays_or_more():
    rng = np.random.default_rng(0)
    reference = rng.random(200)
    few = find_distributions(np.zeros(19, int), np.full(19, 0.99), reference, 0.9, 1e-3)
    assert few == []
    night = np.repeat([0, 1, 2, 3], 10)
    results = find_distributions(night, np.full(40, 0.99), reference, 0.9, 1e-3)
    # Ten tonight are too few; in the last week and month there are the same stays.
    assert [(each.nights, each.stays) for each in results] == [(3, 30), (7, 40)]
    assert all(each.psi > each.psi_limit and each.alert_rate > each.high for each in results)
    same = find_distributions(np.zeros(200, int), reference, reference, 0.9, 1e-3)
    assert [(each.psi, each.low < each.alert_rate < each.high) for each in same] == [(0, True)]
    assert find_distributions(night, np.full(40, 0.99), reference[:19], 0.9, 1e-3) == []


def test_the_reference_knows_how_alike_the_notes_of_a_patient_are():
    rng = np.random.default_rng(0)
    # 2,000 patients with 2 days of 2 notes: variance 0.3 of patients, 0.2 of days, 0.5 of notes.
    patient = np.repeat(np.arange(2_000), 4)
    day = np.tile([1, 1, 2, 2], 2_000)
    z = np.sqrt(0.3) * rng.standard_normal(2_000)[patient]
    z += np.sqrt(0.2) * np.repeat(rng.standard_normal(4_000), 2)
    z += np.sqrt(0.5) * rng.standard_normal(8_000)
    category = np.where(np.arange(8_000) % 2, "Nursing", "Radiology")
    rows = {
        each["category"]: each
        for each in reference_rows(category, patient, day, 3 + 2 * z + (category == "Nursing"))
    }
    assert list(rows) == ["Nursing", "Radiology", ALL_NOTES]
    nursing, overall = rows["Nursing"], rows[ALL_NOTES]
    assert (nursing["mean"], nursing["spread"]) == pytest.approx((4, 2), abs=0.06)
    assert (overall["same_day"], overall["same_patient"]) == pytest.approx((0.5, 0.3), abs=0.03)
    # Of 4 notes of a patient: (1 + 0.5 + 2 * 0.3) / 4 / 2,000.
    assert overall["standard_error"] == pytest.approx(np.sqrt(2.1 / 8_000), rel=0.05)
    # A patient has one note of each category a day: no pair, so they may be all alike.
    assert nursing["same_day"] == 1


def test_a_category_of_few_notes_or_patients_or_of_one_value_has_no_reference():
    patient = np.repeat(np.arange(100), 3)
    category = np.repeat(["many", "few", "equal"], [200, 40, 60])
    z = np.random.default_rng(0).standard_normal(300) * (category != "equal")
    names = [each["category"] for each in reference_rows(category, patient, patient, z)]
    assert names == ["many", ALL_NOTES]
    assert reference_rows(category[:0], patient[:0], patient[:0], z[:0]) == []
    assert reference_rows(category, patient % 9, patient, z) == []


def test_one_extreme_note_does_not_make_a_night_unusual():
    rng = np.random.default_rng(0)
    z = rng.standard_normal(2_000)
    (row, _) = reference_rows(np.full(2_000, "a"), np.arange(2_000), np.arange(2_000), z)
    extreme = (np.clip(1e6, row["low"], row["high"]) - row["mean"]) / row["spread"]
    assert extreme < 3
    reference = Reference(2_000, row["skewness"], 0.0, 0.0, row["standard_error"])
    rows = [(0, 1, 1, extreme), *((0, n, 1, 0.0) for n in range(2, 6))]
    assert not any(each.is_unusual for each in shifts(rows, reference, 1e-3))
