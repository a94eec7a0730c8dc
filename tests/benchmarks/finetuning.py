"""Test AUROC of embeddings before and after fine-tuning, compared with bag-of-words.

`python -m tests.benchmarks.finetuning [--only "small BERT"]` prints a Markdown table; the small
BERT takes minutes, MiniLM an hour and a half without a GPU. The weights of all-MiniLM-L6-v2 are
those that the tests use. Every AUROC is estimated on test patients; each candidate regression of
`train` has a row, and the selected one is marked.
"""

import argparse
import csv
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from batch.demo import training_texts, write_small_bert
from batch.training.bootstrap import PatientBootstrap
from batch.training.metrics import auroc
from export.finetuning.finetune_job import finetune
from export.onnx_export.exporter import export
from featurestore import (
    OnnxEncoder,
    create_store,
    embed_pending,
    sync,
    train,
    write_hospital,
)
from tests.pytorch import minilm_folder

PATIENTS = 40_000
MAX_TOKENS = 128
# At 1e-4 MiniLM's AUROC on validation patients was back at a half after a thousand steps.
RECIPES = {
    "MiniLM": {"epochs": 1, "batch_size": 32, "learning_rate": 3e-5, "bf16": True},
    "small BERT": {"epochs": 2, "batch_size": 32, "learning_rate": 3e-4},
}


def hospital(folder):
    """Write a synthetic hospital with only the notes known 72 hours into labelled stays.

    The other notes would be embedded and never used.
    """
    write_hospital(folder / "whole", PATIENTS, seed=0, notes_per_stay=1)
    whole = create_store(folder / "whole.duckdb", str(folder / "whole"), "mimic3")
    sync(whole)
    rows = whole.sql(
        """
        SELECT k.note_id FROM known_notes() AS k
        INNER JOIN readmission_labels() AS l USING (hadm_id)
        WHERE l.label IS NOT NULL
        """
    ).fetchall()
    known = {note_id for (note_id,) in rows}
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
        writer.writerows(row for row in reader if row["ROW_ID"] in known)
    return folder / "hospital"


def for_a_cpu(base, folder):
    """Copy a base model without dropout, whose random draws take half the time on a CPU."""
    shutil.copytree(base, folder)
    shape = json.loads((folder / "config.json").read_text())
    shape |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    # The eager implementation of attention is the fastest in bfloat16 on a CPU.
    (folder / "config.json").write_text(json.dumps(shape | {"attn_implementation": "eager"}))


def say(message):
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)


def trained(store, folder, name, baseline):
    """Train a scorer on the embeddings of a checkpoint."""
    export(folder, folder.parent / f"{name}-model", name, MAX_TOKENS)
    encoder = OnnxEncoder(folder.parent / f"{name}-model")
    embed_pending(store, encoder)
    return train(store, name, encoder.id, baseline=baseline)


def gain(store, before, after):
    """Return the paired difference in test AUROC of two scorers, by patient-level bootstrap."""
    rows = store.sql(
        "SELECT a.subject_id, x.label, x.probability, y.probability FROM scorer_admissions AS x "
        "INNER JOIN scorer_admissions AS y USING (hadm_id, split) "
        "INNER JOIN admissions AS a USING (hadm_id) "
        "WHERE (x.scorer_id, y.scorer_id, split) = ($before, $after, 'test') "
        "AND x.label IS NOT NULL",
        before=before,
        after=after,
    ).fetchall()
    patients, y, old, new = map(np.array, zip(*rows, strict=True))
    return PatientBootstrap(y, patients).difference(auroc, new, old)


def estimate(interval, sign=""):
    return "{:{s}.3f} ({:{s}.3f} to {:{s}.3f})".format(*interval, s=sign) if interval else "-"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=sorted(RECIPES))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        source = hospital(work)
        print("| model | regression | test AUROC (95% interval) |")
        print("| --- | --- | --- |", flush=True)
        for model, recipe in RECIPES.items():
            if args.only not in (None, model):
                continue
            model_folder = work / model.replace(" ", "-").lower()
            model_folder.mkdir()
            store = create_store(model_folder / "w.duckdb", str(source), "mimic3")
            sync(store)
            if model == "MiniLM":
                for_a_cpu(minilm_folder(), model_folder / "base")
            else:
                write_small_bert(model_folder / "base", training_texts(store), seed=0)
            before = trained(store, model_folder / "base", "before", baseline=False)
            started = time.perf_counter()
            finetuned = finetune(
                store,
                model_folder / "tuned",
                model_folder / "base",
                **recipe,
                max_tokens=MAX_TOKENS,
            )
            seconds = time.perf_counter() - started
            say(f"{model}: {seconds:.0f} s, {finetuned['steps']} steps, {finetuned['valid']}")
            after = trained(store, model_folder / "tuned", "after", baseline=True)
            bag_of_words = estimate(after["test"]["bag_of_words"]["auroc"])
            print(f"| | {after['admissions']}, returned {after['positives']} | |")
            print(f"| | bag-of-words | {bag_of_words} |")
            for stage, scorer in (("before", before), ("after", after)):
                for fit in scorer["candidates"]:
                    selected = ", selected" if fit["selected"] else ""
                    print(
                        f"| {model} | {stage}: {fit['aggregate']}{selected} "
                        f"| {estimate(fit['test_auroc'])} |"
                    )
            difference = after["differences"]["bag_of_words"]
            print(
                f"| {model} | classifier | {estimate(after['test']['classifier_head']['auroc'])} |"
            )
            print(f"| {model} | after minus bag-of-words | {estimate(difference, '+')} |")
            improvement = gain(store, before["scorer_id"], after["scorer_id"])
            print(f"| {model} | after minus before | {estimate(improvement, '+')} |", flush=True)


if __name__ == "__main__":
    main()
