"""False alarms and sensitivity of the nightly checks: `python -m tests.benchmarks.monitoring`.

Prints Markdown tables. A hospital is simulated in numpy: patients who stay for a geometric number
of nights, with notes of four categories whose log odds have the same mean and spread each night,
until they shift. The checks are those of the nightly job. `before` is the check that they replaced:
it compared mean vectors of 768 numbers with those of the last 30 nights.
"""

import argparse
import time

import numpy as np

from batch.scoring.quiet_nights import (
    ALARMS,
    NIGHTS,
    Reference,
    find_distributions,
    find_shifts,
)
from batch.training.calibration import probability
from batch.training.reference import ALL_NOTES, reference_rows

CATEGORIES = ("Discharge summary", "Nursing", "Physician", "Radiology")
MIX = (0.1, 0.4, 0.3, 0.2)
WORLDS = {
    "a note a patient": {"notes_of_patient": 1, "stay": 1, "patient": 0.0, "day": 0.0},
    "4 notes a night of patients": {"notes_of_patient": 4, "stay": 5, "patient": 0.2, "day": 0.1},
    "the same, skewed": {"notes_of_patient": 4, "stay": 5, "patient": 0.2, "day": 0.1, "skew": 1},
    "the same, other weekends": {
        **{"notes_of_patient": 4, "stay": 5, "patient": 0.2, "day": 0.1},
        "weekend": 0.1,
    },
}
DIM = 768


def row(*cells):
    """Print a row of a table."""
    print(f"| {' | '.join(str(cell) for cell in cells)} |", flush=True)


class Hospital:
    """Notes (night, patient, category, log odds) and new stays (night, probability)."""

    def __init__(self, rng, nights, notes, world, shift=None):
        options = {"skew": 0, "weekend": 0.0} | WORLDS[world]
        patients = max(1, round(notes / options["notes_of_patient"]))
        arrivals = rng.poisson(patients / options["stay"], nights + 60)
        day = np.repeat(np.arange(-60, nights), arrivals)
        stay = rng.geometric(1 / options["stay"], len(day))
        effect = rng.standard_normal(len(day)) * np.sqrt(options["patient"])
        patient = np.repeat(np.arange(len(day)), stay)
        night = day[patient] + np.arange(len(patient)) - np.repeat(np.cumsum(stay) - stay, stay)
        is_open = (night >= 0) & (night < nights)
        night, patient = night[is_open], patient[is_open]
        by_day = effect[patient] + rng.standard_normal(len(night)) * np.sqrt(options["day"])
        per_night = options["notes_of_patient"]
        n = rng.poisson(per_night, len(night)) if per_night > 1 else np.ones(len(night), int)
        rest = np.sqrt(1 - options["patient"] - options["day"])
        z = np.repeat(by_day, n) + rng.standard_normal(n.sum()) * rest
        self.night, self.patient = np.repeat(night, n), np.repeat(patient, n)
        # The mix of the categories differs between nights.
        mix = rng.dirichlet(30 * np.array(MIX), nights)
        drawn = rng.random(len(z))[:, None] > np.cumsum(mix, axis=1)[self.night][:, :-1]
        self.category = drawn.sum(axis=1)
        z = z + np.where(self.night % 7 >= 5, options["weekend"], 0.0)
        if options["skew"]:
            z = (np.exp(z) - np.exp(0.5)) / np.sqrt(np.exp(2) - np.exp(1))
        if shift:
            z = z + shift(self.night, self.category)
        self.log_odds = 0.5 * z + 0.3 * self.category
        # A stay is scored once, from notes that share its patient's effect.
        scored = day[(day >= 0)]
        effect = effect[day >= 0] + rng.standard_normal(len(scored)) * 0.7
        if shift:
            effect = effect + np.average(
                [shift(scored, np.full(len(scored), k)) for k in range(4)], axis=0, weights=MIX
            )
        self.scored_on, self.probability = scored, probability(-2 + 0.7 * effect)

    def reference(self):
        rows = reference_rows(
            np.array(CATEGORIES)[self.category], self.patient, self.night, self.log_odds
        )
        return {each["category"]: each for each in rows}


class Monitor:
    """The checks of one night after another, and the check of before."""

    def __init__(self, reference, reference_scores, hospital):
        self.references = {
            name: Reference(
                *(
                    each[key]
                    for key in (
                        "n_patients",
                        "skewness",
                        "same_day",
                        "same_patient",
                        "standard_error",
                    )
                )
            )
            for name, each in reference.items()
        }
        self.scores, self.hospital = reference_scores, hospital
        self.alert_above = np.quantile(reference_scores, 0.9)
        shift = np.full(len(hospital.log_odds), np.nan)
        for number, name in enumerate(CATEGORIES):
            if name in reference:
                each, members = reference[name], hospital.category == number
                limited = np.clip(hospital.log_odds[members], each["low"], each["high"])
                shift[members] = (limited - each["mean"]) / each["spread"]
        # A row per night, patient and category, as the store has them.
        patients = int(hospital.patient.max()) + 1
        key = (hospital.night * patients + hospital.patient) * 4 + hospital.category
        keys, inverse = np.unique(key, return_inverse=True)
        self.night, self.patient, self.category = (
            keys // 4 // patients,
            keys // 4 % patients,
            keys % 4,
        )
        self.n = np.bincount(inverse)
        self.shift = np.bincount(inverse, shift) / self.n

    def check(self, tonight):
        """Return whether the night stops, and whether anything is unusual."""
        from batch.scoring.monitoring import INDEXES, RATES, SHIFTS

        recent = (self.night > tonight - NIGHTS) & (self.night <= tonight)
        stops = unusual = False
        for name, reference in self.references.items():
            members = recent & ~np.isnan(self.shift)
            if name != ALL_NOTES:
                members = members & (self.category == CATEGORIES.index(name))
            alarms = 0.3 * ALARMS / (1 if name == ALL_NOTES else len(self.references) - 1)
            for each in find_shifts(
                tonight - self.night[members],
                self.patient[members],
                self.n[members],
                self.shift[members],
                reference,
                alarms,
            ):
                if each.is_unusual and abs(each.shift) >= SHIFTS[0]:
                    unusual, stops = True, stops or abs(each.shift) >= SHIFTS[1]
        scored = self.hospital.scored_on
        members = (scored > tonight - NIGHTS + 1) & (scored <= tonight)
        for distribution in find_distributions(
            tonight - scored[members],
            self.hospital.probability[members],
            self.scores,
            self.alert_above,
            0.4 * ALARMS,
        ):
            if distribution.psi > max(distribution.psi_limit, INDEXES[0]):
                unusual, stops = True, stops or distribution.psi >= INDEXES[1]
            if (
                not distribution.low <= distribution.alert_rate <= distribution.high
                and distribution.ratio >= RATES[0]
            ):
                unusual, stops = True, stops or distribution.ratio >= RATES[1]
        return stops, unusual


def stopped_before(rng, hospital, nights):
    """Return the nights that the check of before stopped, for a category's mean vector.

    The shift is along one of 768 directions of equal spread.
    """
    stopped = np.zeros(nights, bool)
    for number in range(len(CATEGORIES)):
        members = hospital.category == number
        n = np.bincount(hospital.night[members], minlength=nights).astype(float)
        total = np.bincount(hospital.night[members], hospital.log_odds[members], nights) / 0.5
        for night in range(5, nights):
            past = slice(max(0, night - 30), night)
            notes = n[past].sum()
            if min(n[night], notes) < 20:
                continue
            noise = (1 / n[night] + 1 / notes) * rng.chisquare(DIM - 1)
            distance = total[night] / n[night] - total[past].sum() / notes
            spreads = np.sqrt((distance**2 + noise) / DIM)
            stopped[night] |= spreads > max(0.5, 4 * np.sqrt(1 / n[night] + 1 / notes))
    return stopped


def simulate(seed, notes, world, nights, shift=None, first=0, reference_notes=5_000):
    """Return for each night from the first one: stopped, unusual, stopped before."""
    rng = np.random.default_rng(seed)
    # Of the training period, a fifth of the patients are not fitted on.
    a_night = max(1, notes // 5)
    past = Hospital(rng, max(20, reference_notes // a_night), a_night, world)
    hospital = Hospital(rng, nights, notes, world, shift)
    monitor = Monitor(past.reference(), past.probability, hospital)
    checked = np.array([monitor.check(night) for night in range(first, nights)])
    before = stopped_before(rng, hospital, nights)[first:]
    return np.column_stack([checked, before])


def quiet(seeds, nights):
    row("quiet nights", "notes a night", "nights", "stopped", "warned", "stopped before")
    row(*["---"] * 6)
    for world in WORLDS:
        for notes in (5, 20, 200, 2_000):
            results = np.vstack([simulate(seed, notes, world, nights) for seed in range(seeds)])
            stopped, unusual, before = results.sum(axis=0)
            row(world, f"{notes:,}", len(results), stopped, unusual - stopped, before)


def detection(seeds, start=35, wait=100):
    row("notes", "from one night on", "notes a night", "stopped after", "at most", "before")
    row(*["---"] * 6)
    scenarios = {
        **{
            f"{size} spreads": lambda night, category, size=size: np.where(night >= start, size, 0)
            for size in (0.1, 0.3, 0.5, 1)
        },
        "2 spreads in 100 nights": lambda night, category: 0.02 * np.clip(night - start, 0, 100),
        "1 spread in a category": lambda night, category: np.where(
            (night >= start) & (category == 1), 1.0, 0.0
        ),
    }
    for world in ("a note a patient", "4 notes a night of patients"):
        for scenario, shift in scenarios.items():
            for notes in (20, 200, 2_000):
                after = []
                for seed in range(seeds):
                    results = simulate(seed, notes, world, start + wait, shift, start)
                    first = [np.flatnonzero(column) for column in results.T]
                    after.append([nights[0] + 1 if len(nights) else np.inf for nights in first])
                columns = np.array(after).T
                stops, before = columns[0], columns[2]
                values = (np.median(stops), stops.max(), np.median(before))
                cells = ["never" if np.isinf(value) else f"{value:.0f}" for value in values]
                row(world, scenario, f"{notes:,}", *cells)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--hospitals", type=int, default=4)
    parser.add_argument("--nights", type=int, default=500)
    options = parser.parse_args()
    started = time.perf_counter()
    quiet(options.hospitals, options.nights)
    print()
    detection(options.hospitals)
    print(f"\n{time.perf_counter() - started:,.0f} s")
