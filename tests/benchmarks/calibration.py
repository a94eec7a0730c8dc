"""Calibration of a scorer on a frozen encoder, judged on new stays of simulated hospitals.

    python -m tests.benchmarks.calibration [--hospitals 100]

Embeddings have 128 dimensions, a fifth of the stays return, the best possible AUROC is 0.77, and
patients have one to four stays. Each way of calibrating gets the same regression. For each number
of labelled stays (training and validation) it prints the mean excess log loss over that of the true
probabilities, and the 5th, 50th and 95th percentile of the calibration slope, on 20,000 new stays.
"""

import argparse

import numpy as np

from batch.training.aggregates import Vectors
from batch.training.calibration import log_loss, log_odds, platt, probability
from batch.training.data import Cohort
from batch.training.model_selection import fit_calibrated

DIM, NEW_STAYS = 128, 20_000


class Hospital:
    """Patients whose embeddings and outcomes follow a known law."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        decay = 1 / np.arange(1, DIM + 1)  # most of the variance, and of the signal, in few columns
        self.mixing = np.linalg.qr(self.rng.standard_normal((DIM, DIM)))[0] * decay
        direction = self.rng.standard_normal(DIM) * decay
        self.direction = 1.2 * direction / np.linalg.norm(direction)

    def stays(self, count):
        """Return embeddings (count, dim), patients and true log odds of a return (count,)."""
        patients = np.repeat(np.arange(count), self.rng.integers(1, 5, count))[:count]
        latent = self.rng.standard_normal((count, DIM))
        latent = 0.8 * latent + 0.6 * self.rng.standard_normal((count, DIM))[patients]
        z = latent @ self.direction - 1.7
        return (latent @ self.mixing.T).astype(np.float32), patients, z


def ways(X, patients, y, rng):
    """Return the log odds of a function of embeddings by each way of calibrating."""
    split = np.where(np.isin(patients, rng.permutation(np.unique(patients))[::9]), "valid", "train")
    cohort = Cohort(y, split, patients)
    model = fit_calibrated(
        Vectors("mean", X, np.arange(len(y))), cohort, encoder_saw_training=False
    )
    valid = split == "valid"
    slope, intercept = platt(model.log_odds[valid], y[valid])
    return model, {
        "none": lambda z: z,
        "validation patients (Platt)": lambda z: slope * z + intercept,
        "shipped": lambda z: log_odds(model.calibration.probability(z)),
    }


def simulate(n, hospitals):
    """Return excess log loss and slope of each way: name -> (hospitals, 2)."""
    results = {}
    for seed in range(hospitals):
        hospital = Hospital(seed)
        X, patients, true = hospital.stays(n)
        y = hospital.rng.random(n) < probability(true)
        model, calibrations = ways(X, patients, y, hospital.rng)
        new, _, new_true = hospital.stays(NEW_STAYS)
        p = probability(new_true)
        z = new @ model.coef + model.intercept
        for name, calibrated in calibrations.items():
            risk = calibrated(z)
            excess = (log_loss(risk, p) - log_loss(new_true, p)).mean()
            slope = slope_of(risk, p) if np.ptp(risk) > 1e-6 else np.nan
            results.setdefault(name, []).append((excess, slope))
    return {name: np.array(values) for name, values in results.items()}


def slope_of(z, p):
    """Return the slope of the logistic regression of true probabilities on log odds."""
    a, b = 0.0, 1.0
    for _ in range(30):
        q = probability(a + b * z)
        w, r = q * (1 - q), p - q
        h = np.array([[w.sum(), (w * z).sum()], [(w * z).sum(), (w * z * z).sum()]])
        step = np.linalg.solve(h, np.array([r.sum(), (r * z).sum()]))
        a, b = a + step[0], b + step[1]
    return b


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hospitals", type=int, default=100)
    hospitals = parser.parse_args().hospitals
    print("| stays | calibration | excess log loss x 1,000 | slope: 5%, 50%, 95% |")
    print("| --- | --- | --- | --- |")
    for n in (1_000, 1_500, 6_000):
        for name, values in simulate(n, hospitals).items():
            low, middle, high = np.nanpercentile(values[:, 1], [5, 50, 95])
            excess = 1000 * values[:, 0].mean()
            print(f"| {n:,} | {name} | {excess:.2f} | {low:.2f}, {middle:.2f}, {high:.2f} |")


if __name__ == "__main__":
    main()
