"""Measure how often the intervals of thresholds and groups cover; prints a Markdown table.

`python -m tests.benchmarks.thresholds` (about a minute on one core). Hospitals are simulated:
patients with one to five stays, outcomes that are correlated within a patient, a calibrated risk,
and a group of 35% of the patients, to which a tenth of stays belongs by chance.
"""

import argparse

import numpy as np
from scipy.special import expit

from batch.training.performance.estimates import clustered_auroc, oe_ratio, scaled_brier
from batch.training.performance.subgroups import subgroup_metrics
from batch.training.performance.thresholds import threshold_metrics

THRESHOLD = 0.2
_POSITIVES_PER_PATIENT = 0.27


def hospital(rng, patients):
    """Return outcomes, risks, patients and groups of stays."""
    patient = np.repeat(np.arange(patients), rng.geometric(0.6, patients))
    z = -2.2 + 0.7 * rng.normal(size=patients)[patient] + 0.5 * rng.normal(size=len(patient))
    frailty = 0.7 * rng.normal(size=patients)[patient]
    y = rng.random(len(patient)) < expit(z + frailty)
    group = (rng.random(patients) < 0.35)[patient] ^ (rng.random(len(patient)) < 0.1)
    return y, expit(z), patient, np.where(group, "a", "b")


def intervals(y, p, patient, group):
    """Return the intervals that are shown."""
    every = np.ones(len(y), bool)
    (row,) = threshold_metrics(y, p, every, patient, [THRESHOLD])
    of_group = subgroup_metrics(y, p, every, patient, {"group": group}, THRESHOLD)[0]
    return {
        "sensitivity": row["sensitivity"],
        "specificity": row["specificity"],
        "ppv": row["ppv"],
        "npv": row["npv"],
        "net_benefit": row["net_benefit"],
        "oe_ratio": oe_ratio(y, p, patient),
        "scaled_brier": scaled_brier(y, p, patient),
        "auroc": clustered_auroc(y, p, patient),
        **{f"difference of {name}": value for name, value in of_group["differences"].items()},
    }


def coverage(positives, samples, seed):
    """Return how often each interval covers, and in how many samples it is shown."""
    rng = np.random.default_rng(seed)
    large = [intervals(*hospital(np.random.default_rng(n), 40_000)) for n in range(6)]
    truth = {name: np.mean([each[name][0] for each in large]) for name in large[0]}
    covered = {name: [] for name in truth}
    for _ in range(samples):
        sample = intervals(*hospital(rng, round(positives / _POSITIVES_PER_PATIENT)))
        for name, interval in sample.items():
            if interval and len(interval) == 3:
                covered[name].append(interval[1] <= truth[name] <= interval[2])
    return {name: (float(np.mean(each or [0])), len(each)) for name, each in covered.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=2_000)
    args = parser.parse_args()
    sizes = (18, 35, 140)
    columns = [coverage(positives, args.samples, seed=1) for positives in sizes]
    print("| interval of | " + " | ".join(f"{n} positives" for n in sizes) + " |")
    print("| --- |" + " --- |" * len(sizes))
    for name in columns[0]:
        cells = [
            f"{100 * covered:.1f}%" if shown > args.samples / 4 else "-"
            for covered, shown in (column[name] for column in columns)
        ]
        print(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
