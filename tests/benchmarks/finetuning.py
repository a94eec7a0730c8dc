"""What fine-tuning buys: test AUROC of embeddings before and after it, beside bag-of-words.

`python -m tests.benchmarks.finetuning [--only "small BERT"]` prints a Markdown table; the small
BERT takes minutes, MiniLM much longer without a GPU. The weights of all-MiniLM-L6-v2 are those that
the tests use. Every number is of test patients, whose notes nothing was fitted to but the word
frequencies of bag-of-words (TF-IDF counts them over all admissions); its interval is a bootstrap
by patient.
"""

import argparse
import csv
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from batch import OnnxEncoder, embed_pending
from batch.demo import RECIPE, _training_texts, small_bert
from batch.evaluate import GRID, WORD_GRID, bag_of_words, choose_c, fit
from batch.train import training_set
from export.finetune import _collate, _probabilities, finetune
from export.labelled import labelled_windows
from export.to_onnx import export, load_checkpoint
from export.windows import cut_windows
from featurestore import Store, sync, write_hospital
from tests.pytorch import minilm_folder

PATIENTS = 20_000
FITTED = 25  # percent of the training and validation patients; all test patients stay
MAX_TOKENS = 128
BOOTSTRAPS = 1_000
RECIPES = {
    "MiniLM": {"epochs": 1, "batch_size": 16, "learning_rate": 1e-4},
    "small BERT": {name: RECIPE[name] for name in ("epochs", "batch_size", "learning_rate")},
}


def hospital(folder):
    """A synthetic hospital with nothing in it that no row of the table reads.

    Notes are kept where they are known after 72 hours of a labelled stay, so that the rest need
    not be embedded, and of some training patients only, so that the test is large beside them.
    """
    write_hospital(folder / "whole", PATIENTS, seed=0, notes_per_stay=1)
    whole = Store.create(folder / "whole.duckdb", str(folder / "whole"), "mimic3")
    sync(whole)
    rows = whole.sql(
        """
        SELECT k.note_id FROM known_notes() AS k
        INNER JOIN readmission_labels() AS l USING (hadm_id)
        WHERE l.label IS NOT NULL AND (
            patient_split(l.subject_id) = 'test'
            OR md5_number_upper(CAST(l.subject_id AS VARCHAR)) % 100 < $fitted
        )
        """,
        fitted=FITTED,
    ).fetchall()
    kept = {note_id for (note_id,) in rows}
    (folder / "hospital").mkdir()
    for name in ("ADMISSIONS.csv", "PATIENTS.csv"):
        (folder / "whole" / name).rename(folder / "hospital" / name)
    with (
        (folder / "whole" / "NOTEEVENTS.csv").open(newline="") as notes,
        (folder / "hospital" / "NOTEEVENTS.csv").open("w", newline="") as fewer,
    ):
        reader = csv.DictReader(notes)
        writer = csv.DictWriter(fewer, reader.fieldnames)
        writer.writeheader()
        writer.writerows(row for row in reader if row["ROW_ID"] in kept)
    return folder / "hospital"


class Judge:
    """Test patients, their outcomes, and the same bootstrap samples of them for every row."""

    def __init__(self, rows):
        test = rows.split == "test"
        self.hadm_id, self.y = rows.hadm_id[test], rows.y[test]
        places = {}
        for place, patient in enumerate(rows.subject_id[test].tolist()):
            places.setdefault(patient, []).append(place)
        of_patient = list(places.values())
        dice = np.random.default_rng(0)
        self.samples = [
            np.concatenate([of_patient[p] for p in dice.integers(0, len(of_patient), len(places))])
            for _ in range(BOOTSTRAPS)
        ]

    def aurocs(self, probability):
        """The AUROC of probabilities {hadm_id: p}, and that of each bootstrap sample."""
        p = np.array([probability[hadm_id] for hadm_id in self.hadm_id.tolist()])
        return roc_auc_score(self.y, p), np.array(
            [roc_auc_score(self.y[sample], p[sample]) for sample in self.samples]
        )


def interval(values):
    low, high = np.percentile(values, [2.5, 97.5])
    return f"{low:+.3f} to {high:+.3f}" if low < 0 else f"{low:.3f} to {high:.3f}"


def say(message):
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)


def regression(store, folder, name):
    """Probabilities of the regression on a checkpoint's embeddings, fitted as `train` fits it."""
    export(folder, folder.parent / f"{name}-model", name, MAX_TOKENS)
    encoder = OnnxEncoder(folder.parent / f"{name}-model")
    embed_pending(store, encoder)
    rows = training_set(store, encoder.id, "72h", 30)
    return fitted(rows.X, rows), rows


def fitted(X, rows, grid=GRID):
    """Fit on the training patients, C chosen on the validation patients: {hadm_id: p} of all."""
    c, _ = choose_c(X, rows.y, rows.split, rows.subject_id, grid)
    of_train = rows.split == "train"
    probability = fit(X[of_train], rows.y[of_train], c).predict_proba(X)[:, 1]
    return dict(zip(rows.hadm_id.tolist(), probability.tolist(), strict=True))


def head(store, checkpoint):
    """Test probabilities of the fine-tuned model itself: the mean of each admission's windows."""
    import torch
    import transformers

    model, tokenizer = load_checkpoint(checkpoint, transformers.AutoModelForSequenceClassification)
    cut = cut_windows(tokenizer.backend_tokenizer, MAX_TOKENS, 0)
    test = labelled_windows(store, cut, "test", "72h", 30)
    logits = []
    model.eval()
    for first in range(0, len(test), 64):
        batch = _collate([test[no] for no in range(first, min(first + 64, len(test)))])
        with torch.no_grad():
            logits.append(model(**batch).logits.numpy())
    probability = _probabilities(np.concatenate(logits))
    admissions, of_window = np.unique(test.hadm_id, return_inverse=True)
    mean = np.bincount(of_window, probability) / np.bincount(of_window)
    return dict(zip(admissions.tolist(), mean.tolist(), strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=sorted(RECIPES))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        source = hospital(work)
        judge, table = None, []
        for model, recipe in RECIPES.items():
            if chosen.only not in (None, model):
                continue
            place = work / model.replace(" ", "-").lower()
            place.mkdir()
            store = Store.create(place / "w.duckdb", str(source), "mimic3")
            sync(store)
            if model == "MiniLM":
                (place / "base").symlink_to(minilm_folder())
            else:
                small_bert(place / "base", _training_texts(store), seed=0)
            before, rows = regression(store, place / "base", "before")
            if judge is None:
                judge = Judge(rows)
                words = bag_of_words(store, rows.hadm_id, "72h")
                bag_auroc, bag_samples = judge.aurocs(fitted(words, rows, WORD_GRID))
                say(f"bag-of-words: {bag_auroc:.3f}")
                splits = {
                    split: f"{int((rows.split == split).sum()):,} "
                    f"({int(rows.y[rows.split == split].sum()):,})"
                    for split in ("train", "valid", "test")
                }
            started = time.perf_counter()
            facts = finetune(
                store, place / "tuned", place / "base", **recipe, max_tokens=MAX_TOKENS
            )
            seconds = time.perf_counter() - started
            say(f"{model}: {seconds:.0f} s, {facts['steps']} steps, {facts['valid']}")
            itself = head(store, place / "tuned")
            after, _ = regression(store, place / "tuned", "after")
            old = judge.aurocs(before)
            for what, probability in (
                ("regression on its embeddings, before fine-tuning", before),
                ("the same after it", after),
                ("the fine-tuned model itself", itself),
            ):
                auroc, samples = judge.aurocs(probability)
                gain = "" if probability is before else interval(samples - old[1])
                table.append((model, what, auroc, samples, gain))
                say(f"{model}, {what}: {auroc:.3f}")
        print("admissions (returned): " + ", ".join(f"{k} {v}" for k, v in splits.items()))
        print("\n| model | what | test AUROC | 95% interval | less bag-of-words | less before |")
        print("| --- | --- | --- | --- | --- | --- |")
        print(f"| | bag-of-words | {bag_auroc:.3f} | {interval(bag_samples)} | | |")
        for model, what, auroc, samples, gain in table:
            print(
                f"| {model} | {what} | {auroc:.3f} | {interval(samples)} | "
                f"{auroc - bag_auroc:+.3f} ({interval(samples - bag_samples)}) | {gain} |"
            )


if __name__ == "__main__":
    main()
