"""Measure training, scoring and the report against the budgets; prints a Markdown table.

`python -m tests.benchmarks.scorer` (about ten minutes on two cores). Notes are those of the
synthetic hospital; vectors are log counts of 768 groups of words, which predict the outcome.
"""

import argparse
import os
import re
import tempfile
import zlib
from pathlib import Path

import numpy as np

from batch.training.bootstrap import PatientBootstrap
from batch.training.calibration import log_loss
from batch.training.data import training_data
from batch.training.metrics import METRICS
from batch.training.model_selection import GRID
from batch.training.regression import choose_c, standardize
from featurestore import create_store, embed_pending, report, score, sync, train, write_hospital
from featurestore.cohort.tasks import find_task
from tests.benchmarks.common import row, timed

DIM = 768


class CountedWords:
    """An encoder whose vectors are log counts of 768 groups of words."""

    id, provider, budget, classifier_head = "words-00000000", "none", 65_536, None
    manifest = {  # noqa: RUF012
        "name": "words",
        "fingerprint": "0" * 64,
        "dim": DIM,
        "precision": "fp32",
        "max_tokens": 512,
        "stride": 0,
    }

    def tokenize(self, texts):
        windows = []
        for text in texts:
            words = re.findall("[a-z]+", text.lower())
            ids = np.array([zlib.crc32(word.encode()) % DIM for word in words], np.int32)
            windows.append([ids[at : at + 510] for at in range(0, len(ids), 510)])
        return windows

    def run(self, batch):
        counts = [np.bincount(ids, minlength=DIM) for ids in batch]
        return np.log1p(np.stack(counts)).astype(np.float32)


def cross_validation(X, y, subject_id):
    """Time the choice of C against LogisticRegressionCV on the same folds."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import GroupKFold

    Z = standardize(X, np.ones(len(y))).Z
    cuts = list(GroupKFold(5).split(Z, groups=subject_id))
    fold = np.zeros(len(y), np.int64)
    for number, (_, held_out) in enumerate(cuts):
        fold[held_out] = number

    def loss(z):
        return log_loss(z, y).mean()

    seconds, _ = timed(lambda: choose_c(Z, y, np.ones(len(y)), GRID, fold, loss))
    problem = f"{len(GRID)} values of C, 5 folds by patient, {len(y):,} x {DIM}"
    row(f"{problem}: choose_c", f"{seconds:.1f} s")
    for solver in ("lbfgs", "newton-cholesky"):
        model = LogisticRegressionCV(
            Cs=list(GRID),
            cv=cuts,
            solver=solver,
            max_iter=5_000,
            scoring="neg_log_loss",
            l1_ratios=(0.0,),
            use_legacy_attributes=False,
            n_jobs=os.cpu_count(),
        )
        theirs, _ = timed(lambda model=model: model.fit(Z, y))
        row(
            f"LogisticRegressionCV, {solver}",
            f"{theirs:.1f} s: {theirs / seconds:.1f} times as long",
        )


def evaluation(stays):
    """Time all metrics of one system with their intervals, on a number of test stays."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal(stays)
    y = rng.random(stays) < 1 / (1 + np.exp(2 - z))
    bootstrap = PatientBootstrap(y, rng.integers(0, stays, stays))
    seconds, _ = timed(lambda: bootstrap.metrics(1 / (1 + np.exp(2 - z))))
    row(f"{len(METRICS)} metrics, 1,000 bootstraps of {stays:,} stays", f"{seconds:.1f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=36_000, help="of the hospital")
    args = parser.parse_args()
    print(f"{os.cpu_count()} cores\n\n| what | measured | budget |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_hospital(folder / "h", args.patients, notes_per_stay=2)
        store = create_store(folder / "w.duckdb", folder / "h", "mimic3")
        sync(store)
        embed_pending(store, CountedWords())
        # At discharge nearly every labelled stay is predicted.
        data = training_data(
            store, CountedWords.id, find_task(store), "discharge+48h", False, False
        )
        size = f"{len(data.hadm_id):,} admissions x {DIM}"
        train_cohort = data.cohort.subset(data.cohort.split == "train")
        X = data.means.subset(data.cohort.split == "train").X
        cross_validation(X, train_cohort.y, train_cohort.subject_id)
        evaluation(int((data.cohort.split == "test").sum()))
        del data, X
        seconds, scorer = timed(
            lambda: train(store, "means", None, "discharge", baseline=False, aggregate="mean")
        )
        row(f"train on {size}, on means, with the evaluation", f"{seconds:.0f} s")
        seconds, scorer = timed(lambda: train(store, "readmit", None, "discharge"))
        row(f"train on {size}, everything, bag-of-words too", f"{seconds:.0f} s")
        for system, metrics in scorer["test"].items():
            row(f"test AUROC: {system}", "{:.3f} ({:.3f} to {:.3f})".format(*metrics["auroc"]))
        seconds, _ = timed(lambda: report(store, "readmit", folder / "report.html"))
        row(f"report of {size}", f"{seconds:.1f} s", "20 s")
        seconds, counts = timed(lambda: score(store, "readmit"))
        row(f"score {counts['scored']:,} admissions by {scorer['aggregate']}", f"{seconds:.1f} s")


if __name__ == "__main__":
    main()
