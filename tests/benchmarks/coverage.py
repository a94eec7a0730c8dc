"""Coverage of the 95% intervals that the package shows, in simulated hospitals.

    python -m tests.benchmarks.coverage [--hospitals 1000] [--positives 11 35] [--prevalence 0.1]

Patients have one to four stays, with a risk that their predictors share and a frailty that the
model does not know, so that outcomes are correlated. The model is a little overconfident; it is
compared with one that sees the same risk less well. A group has 35% of the patients, and a tenth
of stays belongs to it by chance. The number of patients varies by a factor of three up and down
(log-uniform), and hospitals with about 11, 35, 140 or 200 positive stays are kept, so that the
number of positives is fixed and nothing else is. True values are those of 400,000 patients. The
table has the percentage of intervals that hold the true value, least and most of three AUROCs
(0.65, 0.75 and 0.87), where nine of ten hospitals or more have one; below 1,000 intervals a cell is
empty too.
"""

import argparse
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from batch.training.bootstrap import MIN_ALERTS, PatientBootstrap
from batch.training.calibration import probability
from batch.training.metrics import (
    accuracy,
    auprc,
    auprc_balanced,
    auroc,
    brier,
    calibration_intercept,
    calibration_slope,
    log_loss,
    net_benefit,
)
from batch.training.performance.estimates import oe_ratio, scaled_brier
from batch.training.performance.subgroups import subgroup_metrics
from batch.training.performance.thresholds import threshold_metrics

BOOTSTRAPS, ALERT_RISK = 200, 0.1
SLOPES = 0.57, 1.07, 1.95  # log odds per standard deviation: AUROC 0.65, 0.75, 0.87
POSITIVES = {11: 1, 35: 3, 140: 10, 200: 14}  # and how many more or less
PREVALENCES = {11: (0.1, 0.25), 35: (0.1, 0.25), 140: (0.05, 0.25), 200: (0.05,)}
SINGLE = {
    "auprc_balanced": auprc_balanced,
    "accuracy": accuracy,
    "calibration_slope": calibration_slope,
    "calibration_intercept": calibration_intercept,
}
COMPARED = {
    "auroc": auroc,
    "auprc": auprc,
    "brier": brier,
    "log_loss": log_loss,
    "net_benefit": net_benefit(ALERT_RISK),
}
AT_THRESHOLD = ("sensitivity", "specificity", "ppv", "npv", "net_benefit")


class Stays(NamedTuple):
    """Simulated stays: all (stays,)."""

    y: np.ndarray
    patient: np.ndarray
    p: np.ndarray  # probability of the model
    other: np.ndarray  # that of the other model
    group: np.ndarray


def simulated_stays(rng, patients, slope, intercept):
    """Return the stays of that many patients."""
    patient = np.repeat(np.arange(patients), rng.integers(1, 5, patients))

    def normal():
        by_patient = rng.standard_normal(patients)[patient]
        return np.sqrt(0.5) * by_patient + np.sqrt(0.5) * rng.standard_normal(len(patient))

    risk, other = normal(), normal()
    frailty = 0.7 * rng.standard_normal(patients)[patient]
    y = rng.random(len(patient)) < probability(intercept + slope * risk + frailty)
    other = 0.6 * slope * (0.6 * risk + 0.8 * other)
    in_group = (rng.random(patients) < 0.4)[patient] ^ (rng.random(len(patient)) < 0.1)
    p, q = (probability(intercept + 0.1 + z) for z in (slope * risk, other))
    return Stays(y, patient, p, q, np.where(in_group, "in", "out"))


def intercept_of(slope, prevalence):
    """Return the intercept with which that part of the stays is positive."""
    rng = np.random.default_rng(5)
    z = slope * rng.standard_normal(400_000) + 0.7 * rng.standard_normal(400_000)
    low, high = -8.0, 3.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if probability(middle + z).mean() > prevalence else (middle, high)
    return middle


def hospital(rng, positives, prevalence, slope, intercept):
    """Return the stays of a hospital with about that many positives."""
    while True:
        factor = np.exp(rng.uniform(-np.log(3), np.log(3)))
        patients = round(factor * positives / prevalence / 2.5)
        stays = simulated_stays(rng, patients, slope, intercept)
        if abs(stays.y.sum() - positives) <= POSITIVES[positives]:
            return stays


def intervals(stays, cuts, seed=0, bootstraps=BOOTSTRAPS):
    """Return every interval that is shown: name -> interval."""
    y, patient, p, other, group = stays
    bootstrap = PatientBootstrap(y, patient, bootstraps, seed)
    shown = bootstrap.estimates(SINGLE, p)
    count = np.searchsorted(cuts["count"], other).astype(float)  # such as of earlier admissions
    shown["auroc of a count"] = bootstrap.estimate(auroc, count)
    for name, (ours, _, difference) in bootstrap.compare(COMPARED, p, other).items():
        shown |= {name: ours, f"difference of {name}": difference}
    alerted, alerted_by_other = p >= ALERT_RISK, other >= ALERT_RISK
    if alerted.sum() < MIN_ALERTS:
        shown["net_benefit"] = None
    if min(alerted.sum(), alerted_by_other.sum(), (alerted != alerted_by_other).sum()) < MIN_ALERTS:
        shown["difference of net_benefit"] = None  # as `compare` does
    shown |= {
        "oe_ratio": oe_ratio(y, p, patient),
        "scaled_brier": scaled_brier(y, p, patient),
    }
    for alert in bootstrap.alerts(p, np.full(len(y), "")):
        top = f"of {alert['per_100']}%"
        shown |= {f"ppv {top}": alert["ppv"], f"recall {top}": alert["sensitivity"]}
    every = np.ones(len(y), bool)
    for often in ("often", "rarely"):
        row: Any = threshold_metrics(y, p, every, patient, [cuts[often]])[0]
        shown |= {f"{name} at a threshold, {often}": row[name] for name in AT_THRESHOLD}
    of_group: Any = subgroup_metrics(y, p, every, patient, {"": group}, cuts["often"])[0]
    for name, difference in of_group["differences"].items():
        shown |= {f"group: {name}": of_group[name], f"group: difference of {name}": difference}
    return shown


@cache
def true_values(slope, prevalence):
    """Return thresholds, and what every interval should hold: the estimates of very many stays."""
    intercept = intercept_of(slope, prevalence)
    stays = simulated_stays(np.random.default_rng(99), 400_000, slope, intercept)
    cuts = {
        "count": np.quantile(stays.other, [0.7, 0.85, 0.95, 0.98]),
        "often": np.quantile(stays.p, 0.75),
        "rarely": np.quantile(stays.p, 0.95),
    }
    true = intervals(stays, cuts, bootstraps=2)
    return cuts, {name: interval[0] for name, interval in true.items()}


def simulate(positives, prevalence, slope, hospitals, seed=0):
    """Return the fraction of intervals that hold the true value: name -> fraction.

    NaN where fewer than nine of ten hospitals have one: those have more stays than others, so
    fewer positives than usual.
    """
    cuts, true = true_values(slope, prevalence)
    rng, intercept = np.random.default_rng(seed), intercept_of(slope, prevalence)
    inside = {name: [] for name in true}
    for number in range(hospitals):
        stays = hospital(rng, positives, prevalence, slope, intercept)
        for name, interval in intervals(stays, cuts, seed=number).items():
            if interval and len(interval) == 3:
                inside[name].append(interval[1] <= true[name] <= interval[2])
    return {
        name: np.mean(each) if len(each) > 0.9 * hospitals else np.nan
        for name, each in inside.items()
    }


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hospitals", type=int, default=1_000, help="of each cell and AUROC")
    parser.add_argument("--positives", type=int, nargs="+", choices=POSITIVES, default=POSITIVES)
    parser.add_argument("--prevalence", type=float, nargs="+", help="only these cells")
    args = parser.parse_args()
    cells = {
        f"{positives} positives, {prevalence:.0%} of stays": [
            simulate(positives, prevalence, slope, args.hospitals) for slope in SLOPES
        ]
        for positives in args.positives
        for prevalence in PREVALENCES[positives]
        if args.prevalence is None or prevalence in args.prevalence
    }
    print(f"| interval | {' | '.join(cells)} |")
    print("| --- |" + " --- |" * len(cells))
    for name in next(iter(cells.values()))[0]:
        row = []
        for cell in cells.values():
            covered = [100 * each[name] for each in cell]
            row.append("" if np.isnan(covered).any() else f"{min(covered):.1f}-{max(covered):.1f}")
        print(f"| {name.replace('_', ' ')} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
