"""Measure training, scoring and the report against the budgets; prints a Markdown table.

`python -m tests.benchmarks.scorer` (about ten minutes on two cores). Notes are those of the
synthetic hospital, vectors are 768 groups of words counted, so that there is something to learn.
"""

import argparse
import os
import re
import tempfile
import zlib
from pathlib import Path

import numpy as np

from batch.report.data import report
from batch.training.data import training_set
from batch.training.metrics import METRICS, PatientBootstrap
from batch.training.model_selection import GRID
from batch.training.regression import fit_path, standardize
from featurestore import create_store, embed_pending, score, sync, train, write_hospital
from tests.benchmarks.common import row, timed

DIM = 768


class CountedWords:
    """How often each of 768 groups of words stands in a window, as a log."""

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
        found = []
        for text in texts:
            words = re.findall("[a-z]+", text.lower())
            ids = np.array([zlib.crc32(word.encode()) % DIM for word in words], np.int32)
            found.append([ids[at : at + 510] for at in range(0, len(ids), 510)])
        return found

    def run(self, batch):
        counts = [np.bincount(ids, minlength=DIM) for ids in batch]
        return np.log1p(np.stack(counts)).astype(np.float32)


def cross_validation(X, y, subject_id):
    """Every C of the grid and every fold, beside scikit-learn on the same matrix and folds."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import GroupKFold

    Z = standardize(X, np.ones(len(y))).Z
    cuts = list(GroupKFold(5).split(Z, groups=subject_id))
    fold = np.zeros(len(y), np.int64)
    for number, (_, held_out) in enumerate(cuts):
        fold[held_out] = number
    ours, _ = timed(lambda: fit_path(Z, y, np.ones(len(y)), GRID, fold))
    what = f"{len(GRID)} values of C, 5 folds by patient, {len(y):,} x {DIM}"
    row(f"{what}: ours", f"{ours:.1f} s")
    for solver in ("lbfgs", "newton-cholesky"):
        model = LogisticRegressionCV(
            Cs=list(GRID),
            cv=cuts,
            solver=solver,
            max_iter=5_000,
            scoring="roc_auc",
            l1_ratios=(0.0,),
            use_legacy_attributes=False,
            n_jobs=os.cpu_count(),
        )
        theirs, _ = timed(lambda model=model: model.fit(Z, y))
        row(f"LogisticRegressionCV, {solver}", f"{theirs:.1f} s: {theirs / ours:.1f} times as long")


def evaluation(stays):
    """All metrics of one system with their intervals, on so many test stays."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal(stays)
    y = rng.random(stays) < 1 / (1 + np.exp(2 - z))
    bootstrap = PatientBootstrap(y, rng.integers(0, stays, stays))
    seconds, _ = timed(lambda: bootstrap.metrics(1 / (1 + np.exp(2 - z))))
    row(f"{len(METRICS)} metrics, 1,000 bootstraps of {stays:,} stays", f"{seconds:.1f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=36_000, help="of the hospital")
    chosen = parser.parse_args()
    print(f"{os.cpu_count()} cores\n\n| what | measured | budget |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_hospital(folder / "h", chosen.patients, notes_per_stay=2)
        store = create_store(folder / "w.duckdb", folder / "h", "mimic3")
        sync(store)
        embed_pending(store, CountedWords())
        # At discharge nearly every labelled stay is predicted.
        rows = training_set(store, CountedWords.id, "discharge", 30)
        size = f"{len(rows.y):,} admissions x {DIM}"
        of_train = rows.split == "train"
        cross_validation(rows.X[of_train], rows.y[of_train], rows.subject_id[of_train])
        evaluation(int((rows.split == "test").sum()))
        del rows
        seconds, facts = timed(
            lambda: train(store, "means", None, "discharge", baseline=False, aggregate="mean")
        )
        row(f"train on {size}, on means, with the evaluation", f"{seconds:.0f} s")
        seconds, facts = timed(lambda: train(store, "readmit", None, "discharge"))
        row(f"train on {size}, everything, bag-of-words too", f"{seconds:.0f} s")
        for system, measured in facts["test"].items():
            row(f"test AUROC: {system}", "{:.3f} ({:.3f} to {:.3f})".format(*measured["auroc"]))
        seconds, _ = timed(lambda: report(store, "readmit", folder / "report.html"))
        row(f"report of {size}", f"{seconds:.1f} s", "20 s")
        seconds, counts = timed(lambda: score(store, "readmit"))
        row(f"score {counts['scored']:,} admissions by {facts['aggregate']}", f"{seconds:.1f} s")


if __name__ == "__main__":
    main()
