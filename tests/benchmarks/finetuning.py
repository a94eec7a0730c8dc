"""What fine-tuning buys: test AUROC of embeddings before and after it, beside bag-of-words.

`python -m tests.benchmarks.finetuning [--only "small BERT"]` prints a Markdown table; the small
BERT takes minutes, MiniLM an hour and a half without a GPU. The weights of all-MiniLM-L6-v2 are
those that the tests use. Every number is of test patients, to whose notes nothing was fitted; each
way of fitting the regression that `train` tried stands in a row, and which one it kept.
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
from batch.training.metrics import PatientBootstrap, auroc
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
    """A synthetic hospital with nothing in it that no row of the table reads.

    Notes are kept where they are known after 72 hours of a labelled stay, so that the rest need
    not be embedded.
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


def for_a_cpu(base, folder):
    """A copy of a base that trains fast on a CPU: no dropout, whose rng take half the time."""
    shutil.copytree(base, folder)
    shape = json.loads((folder / "config.json").read_text())
    shape |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    # Of the ways to compute attention the plain one is the fastest in bfloat16 on a CPU.
    (folder / "config.json").write_text(json.dumps(shape | {"attn_implementation": "eager"}))


def say(message):
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)


def trained(store, folder, name, baseline):
    """What `train` makes of a checkpoint's embeddings."""
    export(folder, folder.parent / f"{name}-model", name, MAX_TOKENS)
    encoder = OnnxEncoder(folder.parent / f"{name}-model")
    embed_pending(store, encoder)
    return train(store, name, encoder.id, baseline=baseline)


def gain(store, before, after):
    """Test AUROC of a scorer less that of another, by a bootstrap of the patients of both."""
    rows = store.sql(
        "SELECT a.subject_id, x.label, x.probability, y.probability FROM scorer_admissions AS x "
        "INNER JOIN scorer_admissions AS y USING (hadm_id, split) "
        "INNER JOIN admissions AS a USING (hadm_id) "
        "WHERE (x.scorer_id, y.scorer_id, split) = ($before, $after, 'test')",
        before=before,
        after=after,
    ).fetchall()
    patients, y, old, new = map(np.array, zip(*rows, strict=True))
    return PatientBootstrap(y, patients).difference(auroc, new, old)


def told(interval, sign=""):
    return "{:{s}.3f} ({:{s}.3f} to {:{s}.3f})".format(*interval, s=sign) if interval else "-"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=sorted(RECIPES))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        source = hospital(work)
        print("| model | what | test AUROC (95% interval) |")
        print("| --- | --- | --- |", flush=True)
        for model, recipe in RECIPES.items():
            if chosen.only not in (None, model):
                continue
            place = work / model.replace(" ", "-").lower()
            place.mkdir()
            store = create_store(place / "w.duckdb", str(source), "mimic3")
            sync(store)
            if model == "MiniLM":
                for_a_cpu(minilm_folder(), place / "base")
            else:
                write_small_bert(place / "base", training_texts(store), seed=0)
            before = trained(store, place / "base", "before", baseline=False)
            started = time.perf_counter()
            facts = finetune(
                store, place / "tuned", place / "base", **recipe, max_tokens=MAX_TOKENS
            )
            seconds = time.perf_counter() - started
            say(f"{model}: {seconds:.0f} s, {facts['steps']} steps, {facts['valid']}")
            after = trained(store, place / "tuned", "after", baseline=True)
            words = told(after["test"]["bag_of_words"]["auroc"])
            print(f"| | {after['admissions']}, returned {after['positives']} | |")
            print(f"| | bag-of-words | {words} |")
            for what, scorer in (("before", before), ("after", after)):
                for fit in scorer["candidates"]:
                    kept = ", kept" if fit["kept"] else ""
                    print(
                        f"| {model} | {what}: {fit['aggregate']}, {fit['fitted_on']}{kept} "
                        f"| {told(fit['test_auroc'])} |"
                    )
            less = after["differences"]["bag_of_words"]
            print(f"| {model} | itself | {told(after['test']['head']['auroc'])} |")
            print(f"| {model} | after, less bag-of-words | {told(less, '+')} |")
            lifted = gain(store, before["scorer_id"], after["scorer_id"])
            print(f"| {model} | after, less before | {told(lifted, '+')} |", flush=True)


if __name__ == "__main__":
    main()
