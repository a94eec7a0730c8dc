"""The planted risks are those by which stays were drawn, and no note depends on the outcome."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import irwinhall
from sklearn.metrics import roc_auc_score

from featurestore.synthetic.notes import SUMMARY, stay_notes
from featurestore.synthetic.patients import MAX_STAYS, Patient, Stay, draw_patient, draw_stays
from featurestore.synthetic.patients import planted_risks as risks_of
from featurestore.synthetic.risks import TRAITS, long_stay_risk
from featurestore.synthetic.rng import normal_cdf
from featurestore.synthetic.vocabulary import DENIED, STATED


class Outcomes(NamedTuple):
    """What was planted and what happened, by outcome: an array (risk, happened) of all stays."""

    returning: np.ndarray
    dying: np.ndarray
    long_stay: np.ndarray


def hospital(patients: int, signal: float = 1.0) -> Iterator[tuple[Patient, Stay, Stay | None]]:
    """Yield each stay with the one that follows; newborns and organ donors are left out."""
    for number in range(1, patients + 1):
        patient = draw_patient(0, number)
        stays = draw_stays(patient, 0, signal)
        for stay, following in zip(stays, [*stays[1:], None], strict=True):
            if stay.traits:
                yield patient, stay, following if following and following.traits else None


def outcomes(signal: float, signal_of_risks: float) -> Outcomes:
    rows: dict[str, list[tuple[float, bool]]] = {name: [] for name in Outcomes._fields}
    for _, stay, following in hospital(20_000, signal):
        risks = risks_of(stay, signal_of_risks)
        length = stay.discharged - stay.admitted
        days_home = (following.admitted.date() - stay.discharged.date()).days if following else 999
        rows["dying"].append((risks.dying, stay.died))
        if length >= timedelta(hours=48):
            rows["long_stay"].append((risks.long_stay, length > timedelta(days=7)))
        if not stay.died and days_home >= 1 and stay.number < MAX_STAYS:
            unplanned = following is not None and following.admission_type != "ELECTIVE"
            rows["returning"].append((risks.returning, unplanned and days_home <= 30))
    return Outcomes(**{name: np.array(table, float).T for name, table in rows.items()})


@pytest.fixture(scope="module")
def planted() -> Outcomes:
    return outcomes(signal=1.0, signal_of_risks=1.0)


@pytest.mark.parametrize("outcome", Outcomes._fields)
def test_in_groups_of_equal_risk_so_many_have_the_outcome_as_was_planted(
    outcome: str, planted: Outcomes
) -> None:
    risk, happened = getattr(planted, outcome)
    groups = np.array_split(np.argsort(risk, kind="stable"), 8)
    for group in groups:
        expected = risk[group].sum()
        error = np.sqrt((risk[group] * (1 - risk[group])).sum())
        assert abs(happened[group].sum() - expected) < 3.5 * error
    assert risk[groups[-1]].mean() > 2.5 * risk[groups[0]].mean()


@pytest.mark.parametrize(
    ("outcome", "rate", "auroc"),
    [("returning", 0.23, 0.80), ("dying", 0.06, 0.78), ("long_stay", 0.44, 0.75)],
)
def test_who_knows_the_traits_predicts(
    outcome: str, rate: float, auroc: float, planted: Outcomes
) -> None:
    risk, happened = getattr(planted, outcome)
    assert happened.mean() == pytest.approx(rate, abs=0.01)
    assert roc_auc_score(happened, risk) == pytest.approx(auroc, abs=0.015)


@pytest.fixture(scope="module")
def without_signal() -> dict[float, Outcomes]:
    return {signal: outcomes(signal=0.0, signal_of_risks=signal) for signal in (0.0, 1.0)}


@pytest.mark.parametrize("outcome", Outcomes._fields)
def test_without_a_signal_the_traits_predict_nothing(
    outcome: str, without_signal: dict[float, Outcomes]
) -> None:
    risk, happened = getattr(without_signal[0.0], outcome)
    assert set(risk) == {risk[0]}
    assert happened.mean() == pytest.approx(risk[0], abs=0.01)
    risk, happened = getattr(without_signal[1.0], outcome)
    assert abs(roc_auc_score(happened, risk) - 0.5) < 0.02


def test_the_length_of_stays_hardly_depends_on_the_signal() -> None:
    for signal in (0.0, 1.0):
        lengths = [stay.discharged - stay.admitted for _, stay, _ in hospital(5_000, signal)]
        assert np.median([length / timedelta(days=1) for length in lengths]) == pytest.approx(
            5.75, abs=0.2
        )


def test_the_cumulative_distribution_is_that_of_twelve_uniform_numbers() -> None:
    for x in (-7.0, -5.9, -1.3, -0.2, 0.0, 0.7, 3.1, 5.99, 6.0, 8.0):
        assert normal_cdf(x) == pytest.approx(irwinhall.cdf(x + 6, 12), abs=1e-12)


def test_over_seven_days_is_a_minute_more_than_seven_days() -> None:
    traits = dict.fromkeys(TRAITS, False)
    at_a_week = long_stay_risk(traits, 1.0, days=7, known_hours=7 * 24)
    # Of the stays of at least 168 hours, those of 168 hours and less than a minute are not long.
    assert 0.9997 < at_a_week < 1
    assert long_stay_risk(traits, 1.0, days=2 - 1 / 1440, known_hours=48) == 1


def test_the_last_possible_stay_ends_in_a_transfer_unless_in_a_death_at_its_risk() -> None:
    lasts = [
        (stay, following) for _, stay, following in hospital(20_000) if stay.number == MAX_STAYS
    ]
    assert len(lasts) > 100
    assert all(following is None for _, following in lasts)
    assert {stay.discharge_location for stay, _ in lasts} == {"SHORT TERM HOSPITAL", "DEAD/EXPIRED"}
    risks = np.array([risks_of(stay, 1.0) for stay, _ in lasts])
    deaths = sum(stay.died for stay, _ in lasts)
    assert deaths > 0
    assert abs(deaths - risks[:, 1].sum()) < 3 * np.sqrt(len(lasts) * 0.06)
    assert set(risks[:, 0]) == {0.0}


def test_newborns_do_not_return_and_organ_donors_have_no_risks() -> None:
    stays = [stay for no in range(1, 3_000) for stay in draw_stays(draw_patient(0, no), 0, 1.0)]
    donors = [stay for stay in stays if stay.diagnosis == "ORGAN DONOR ACCOUNT"]
    newborns = [stay for stay in stays if stay.admission_type == "NEWBORN"]
    assert len(donors) > 10 < len(newborns)
    assert {risks_of(stay, 1.0) for stay in donors} == {(0.0, 0.0, 0.0)}
    ((returning, dying, long_stay),) = {risks_of(stay, 1.0) for stay in newborns}
    assert (returning, dying) == (0.0, 0.01)
    lengths = [stay.discharged - stay.admitted for stay in newborns]
    lengths = [length for length in lengths if length >= timedelta(hours=48)]
    long = np.mean([length > timedelta(days=7) for length in lengths])
    assert long == pytest.approx(long_stay, abs=3 * np.sqrt(0.2 / len(lengths)))


def test_the_notes_up_to_any_hour_do_not_depend_on_how_the_stay_goes_on() -> None:
    """However a stay ends, and whenever, its notes until then are the same to the byte."""
    compared = 0
    for patient, stay, _ in hospital(60):
        longer = stay._replace(discharged=stay.discharged + timedelta(days=9.3))
        dead = longer._replace(discharge_location="DEAD/EXPIRED")
        sooner = [note for note in stay_notes(patient, stay, 0, 6.0) if note.category != SUMMARY]
        later = list(stay_notes(patient, longer, 0, 6.0))
        assert later[: len(sooner)] == sooner
        assert list(stay_notes(patient, dead, 0, 6.0)) == later
        compared += len(sooner)
    assert compared > 400


def mentions(sentences: list[str]) -> re.Pattern[str]:
    """Return a pattern that finds any of the sentence templates, by its longest fixed part."""
    return re.compile("|".join(re.escape(max(re.split(r"\{\w+\}", s), key=len)) for s in sentences))


def test_the_notes_of_the_first_day_mention_the_traits_and_never_a_wrong_one() -> None:
    patterns = {name: (mentions(DENIED[name]), mentions(STATED[name])) for name in TRAITS}
    mentioned = dict.fromkeys(TRAITS, 0)
    stays = 0
    for patient, stay, _ in hospital(250):
        end = stay.admitted + timedelta(hours=24)
        texts = " ".join(
            note.text
            for note in stay_notes(patient, stay, 0, 6.0)
            if note.hadm_id and (note.storetime or note.charttime or stay.discharged) <= end
        )
        stays += bool(texts)
        for name, present in stay.traits.items():
            assert not patterns[name][not present].search(texts), name
            mentioned[name] += bool(patterns[name][present].search(texts))
    assert stays > 300
    for name, trait in TRAITS.items():
        # Nursing notes have neither medicines nor labs.
        least = 0.85 if {"medicines", "labs"} & set(trait.topics) else 0.9
        assert mentioned[name] > least * stays, name
