"""Fine-tuning: the Trainer really learns, from training patients alone, and survives a kill."""

import csv
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import sklearn.metrics
import torch
import transformers
from click.testing import CliRunner
from safetensors.torch import load_file

from export.finetuning.dataset import LabelledWindows, csv_windows, store_windows
from export.finetuning.finetune_job import finetune
from export.finetuning.trainer import EpochSampler, balanced_loss
from export.finetuning.validation import window_metrics
from export.tokenizer import WindowTokenizer
from featurestore import create_store, sync
from featurestore.cli.group import main
from featurestore.errors import FeatureStoreError, StoreBusyError
from tests.conftest import prose
from tests.hospital import admission, note, write_hospital
from tests.timeline import day


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Models this small are slower on several threads, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


CSV_SETTINGS = {"epochs": 1, "batch_size": 16, "learning_rate": 2e-3, "max_tokens": 32}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Whoever has chest pain comes back, and nobody else."""
    folder = tmp_path_factory.mktemp("finetuned")
    stays, notes = [], []
    for patient in range(1, 161):
        back = patient % 2
        stays.append(admission(patient, patient, day(0), day(10)))
        if back:
            stays.append(admission(1000 + patient, patient, day(20), day(21)))
        said = "chest pain and cough" if back else "stable and clear"
        notes.append(note(patient, patient, f"patient is {said} [**2150-1-1**]"))
        notes.append(note(1000 + patient, patient, "home follow up", day(8), subject_id=patient))
    hospital = write_hospital(folder / "hospital", stays, notes)
    opened = create_store(folder / "w.duckdb", hospital, "mimic3")
    sync(opened)
    return opened


@pytest.fixture(scope="module")
def finetuned(store, checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "finetuned"
    steps = []
    facts = finetune(
        store,
        folder,
        checkpoint,
        epochs=12,
        batch_size=16,
        learning_rate=2e-3,
        max_tokens=32,
        progress=lambda done, total: steps.append((done, total)),
    )
    return folder, facts, steps


def write_csv(file, rows, header=("", "TEXT", "ID", "Label")):
    """A file as ClinicalBERT's: an unnamed number first, notes with commas, quotes and lines."""
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows((no, *row) for no, row in enumerate(rows))
    return file


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Sixty admissions to train on and twenty to choose by; pain comes back."""
    folder = tmp_path_factory.mktemp("clinicalbert")

    def row(hadm_id):
        back = hadm_id % 2
        return f'says "{"pain" if back else "clear"}",\n{prose(40, hadm_id)}', hadm_id, back

    return (
        write_csv(folder / "train.csv", map(row, range(1, 61))),
        write_csv(folder / "val.csv", map(row, range(101, 121))),
    )


def test_it_learns_what_the_notes_say(finetuned):
    _, facts, _ = finetuned
    assert facts["valid"]["windows_auroc"] > 0.95
    assert facts["valid"]["admissions_auroc"] > 0.95
    assert facts["valid"]["admissions_accuracy"] > 0.9


def test_the_checkpoint_is_whole_and_says_what_it_was_trained_on(finetuned, store, checkpoint):
    folder, facts, steps = finetuned
    assert json.loads((folder / "finetune.json").read_text()) == json.loads(json.dumps(facts))
    assert sorted(path.name for path in folder.iterdir()) == [
        *("config.json", "finetune.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json"),
    ]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert (facts["cutoff"], facts["horizon_days"], facts["seed"]) == ("72h", 30, 0)
    assert facts["patients"].startswith("patient_split")
    known = "known_notes() JOIN readmission_labels() USING (hadm_id) WHERE label IS NOT NULL"
    admissions = dict(
        store.sql(
            f"SELECT patient_split(subject_id), count(DISTINCT hadm_id) FROM {known} GROUP BY 1"
        ).fetchall()
    )
    counted = {split: facts["data"][split]["admissions"] for split in ("train", "valid")}
    assert counted == {split: admissions[split] for split in ("train", "valid")}
    weights = subprocess.run(["sha256sum", checkpoint / "model.safetensors"], capture_output=True)
    assert weights.stdout.split()[0].decode() == facts["base_files"]["model.safetensors"]
    assert steps[-1][0] == facts["steps"] <= steps[-1][1]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    logits = model(**tokenizer("patient is chest pain and cough", return_tensors="pt")).logits
    assert logits[0, 1] > logits[0, 0]


def test_windows_are_those_of_known_notes_of_the_splits_patients(store, checkpoint):
    import hashlib

    window_tokenizer = WindowTokenizer.from_file(checkpoint / "tokenizer.json", 32)
    valid = store_windows(store, window_tokenizer, "valid", "72h", 30)

    def low_half(patient):
        return int.from_bytes(hashlib.md5(str(patient).encode()).digest()[8:], "little")

    patients = [patient for patient in range(1, 161) if low_half(patient) % 10 == 8]
    # One window each: the note of day 8 is not known after 72 hours.
    assert sorted(valid.hadm_id.tolist()) == patients
    assert np.array_equal(valid.label, valid.hadm_id % 2)
    assert "[" not in window_tokenizer.tokenizer.decode(valid.ids[0].tolist())


def test_a_note_edited_since_the_sync_is_left_out(store, checkpoint, tmp_path):
    shutil.copytree(store.path.parent, tmp_path / "copy")
    hospital = tmp_path / "copy" / "hospital"
    copy = create_store(tmp_path / "w.duckdb", hospital, "mimic3")
    sync(copy)
    window_tokenizer = WindowTokenizer.from_file(checkpoint / "tokenizer.json", 32)
    before = store_windows(copy, window_tokenizer, "train", "72h", 30)
    edited = int(before.hadm_id[0])
    lines = (hospital / "NOTEEVENTS.csv").read_text().splitlines(keepends=True)
    lines = [
        line.replace("[**", "edited [**") if line.startswith(f"{edited},") else line
        for line in lines
    ]
    (hospital / "NOTEEVENTS.csv").write_text("".join(lines))
    after = store_windows(copy, window_tokenizer, "train", "72h", 30)
    assert set(before.hadm_id) - set(after.hadm_id) == {edited}
    assert before.rows_sha256 != after.rows_sha256


def test_no_outcome_to_learn(store, checkpoint, tmp_path):
    with pytest.raises(FeatureStoreError, match="have 0 windows of readmissions among"):
        finetune(store, tmp_path / "x", checkpoint, horizon_days=1)
    assert list(tmp_path.iterdir()) == []


def test_a_base_that_cannot_be_had_says_how_to_bring_it(store, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FeatureStoreError, match="hf download nobody/no-such-bert"):
        finetune(store, tmp_path / "x", "nobody/no-such-bert")
    with pytest.raises(FeatureStoreError, match="does not exist"):
        finetune(store, tmp_path / "x", tmp_path / "nowhere")


def test_metrics_of_windows_and_of_admissions():
    """Three admissions: two windows that returned, one and three that did not."""
    hadm_id, label = np.array([5, 5, 6, 7, 7, 7]), np.array([1, 1, 0, 0, 0, 0])
    probability = np.array([0.9, 0.1, 0.6, 0.2, 0.2, 0.8])
    measured = window_metrics(LabelledWindows([], label, hadm_id), probability)
    mean = [0.5, 0.6, 0.4]
    scaled = [(0.9 + 0.5 * 1) / 2, (0.6 + 0.6 * 0.5) / 1.5, (0.8 + 0.4 * 1.5) / 2.5]
    assert scaled == pytest.approx([0.7, 0.6, 0.56])
    assert measured == {
        "windows_auroc": pytest.approx(sklearn.metrics.roc_auc_score(label, probability)),
        "windows_accuracy": pytest.approx(3 / 6),
        "admissions": 3,
        "admissions_auroc": pytest.approx(0.5),  # 0.5 is above 0.4 and below 0.6
        "admissions_accuracy": pytest.approx(1 / 3),
        "admissions_clinicalbert_auroc": pytest.approx(1.0),
        "admissions_clinicalbert_accuracy": pytest.approx(1 / 3),
    }
    assert sklearn.metrics.roc_auc_score([1, 0, 0], mean) == measured["admissions_auroc"]
    assert sklearn.metrics.roc_auc_score([1, 0, 0], scaled) == 1.0


def test_metrics_where_nobody_returned():
    nobody = LabelledWindows([], np.zeros(2, np.int64), np.array([1, 2]))
    measured = window_metrics(nobody, np.array([0.2, 0.6]))
    assert (measured["admissions_auroc"], measured["admissions_accuracy"]) == (None, 0.5)


def ten_windows(returned):
    ids = [np.zeros(length, np.int32) for length in range(3, 13)]
    label = np.array([1] * returned + [0] * (10 - returned))
    return LabelledWindows(ids, label, np.arange(10))


def test_an_epoch_has_every_window_once_in_an_order_of_its_own():
    order = EpochSampler(ten_windows(3), batch_size=4, balance=False, seed=0)
    first, second = [(order.set_epoch(epoch), list(order))[1] for epoch in (0, 1)]
    assert sorted(first) == sorted(second) == list(range(10)) and first != second
    order.set_epoch(0)
    assert list(order) == first
    # Lengths stand in order, so a batch is as alike as can be.
    assert all(max(first[at : at + 4]) - min(first[at : at + 4]) == 3 for at in (0, 4))


def test_a_balanced_epoch_has_as_many_of_each_outcome_and_draws_the_others_anew():
    order = EpochSampler(ten_windows(3), batch_size=4, balance=True, seed=0)
    assert len(order) == 6
    drawn = [(order.set_epoch(epoch), sorted(order))[1] for epoch in range(20)]
    assert all(windows[:3] == [0, 1, 2] and len(windows) == 6 for windows in drawn)
    assert set(np.concatenate(drawn)) == set(range(10))


def test_a_balanced_run_is_judged_by_the_mean_loss_of_the_two_outcomes():
    class Predicted:
        predictions = np.array([[0, 0], [0, np.log(3)], [0, np.log(3)]], np.float32)
        label_ids = np.array([1, 0, 0])

    # Losses log 2 of the one that returned, log 4 of the two that did not.
    assert balanced_loss(Predicted) == {"balanced_loss": pytest.approx(np.log(8) / 2)}


# Runs in a process of its own: makes a step every five, and is killed at the seventeenth.
KILLED = """
    import os, signal, sys
    from pathlib import Path
    import export.finetuning.trainer
    from featurestore import Store, finetune

    def progress(done, total):
        if done == 17:
            os.kill(os.getpid(), signal.SIGKILL)

    export.finetuning.trainer.EVALUATION_STEPS = 5
    finetune(Store(sys.argv[1]), sys.argv[2], sys.argv[3], progress=progress, **{settings})
"""


def test_a_killed_run_goes_on_from_its_newest_whole_step(store, checkpoint, tmp_path, monkeypatch):
    base = tmp_path / "base"
    shutil.copytree(checkpoint, base)
    shape = json.loads((base / "config.json").read_text())
    shape |= {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    (base / "config.json").write_text(json.dumps(shape))
    settings = {"epochs": 3, "batch_size": 16, "learning_rate": 1e-3, "max_tokens": 32}
    monkeypatch.setattr("export.finetuning.trainer.EVALUATION_STEPS", 5)
    whole = finetune(store, tmp_path / "whole", base, **settings)

    code = textwrap.dedent(KILLED).replace("{settings}", repr(settings))
    killed = subprocess.run(
        [sys.executable, "-c", code, store.path, tmp_path / "killed", base],
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    steps = tmp_path / ".killed.training" / "steps"
    assert (steps / "checkpoint-15").is_dir() and not (tmp_path / "killed").exists()
    assert steps.parent.stat().st_mode & 0o777 == 0o700
    shutil.copytree(steps / "checkpoint-15", steps / "checkpoint-20")
    (steps / "checkpoint-20" / "trainer_state.json").write_text('{"global_step": 2')  # half written

    done = []
    resumed = finetune(
        store, tmp_path / "killed", base, **settings, progress=lambda step, _: done.append(step)
    )
    assert done[0] == 16 and done[-1] == whole["steps"]
    assert resumed == whole
    first, second = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "killed"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "killed", "whole"]


def test_a_run_killed_before_its_checkpoint_had_its_name_is_not_trained_again(
    files, checkpoint, tmp_path
):
    facts = finetune(files, tmp_path / "x", checkpoint, **CSV_SETTINGS)
    (tmp_path / "x").rename(tmp_path / ".x.training")
    again = finetune(files, tmp_path / "x", checkpoint, **CSV_SETTINGS, progress=pytest.fail)
    assert again == facts
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_products_in_bfloat16_leave_weights_in_single_precision(files, checkpoint, tmp_path):
    whole = finetune(files, tmp_path / "whole", checkpoint, **CSV_SETTINGS)
    half = finetune(files, tmp_path / "half", checkpoint, **CSV_SETTINGS, bf16=True)
    assert half == whole | {"mixed_precision": "bf16", "valid": half["valid"]}
    first, second = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "half"))
    assert {weights.dtype for weights in second.values()} == {torch.float32}
    apart = max(float((first[name] - second[name]).abs().max()) for name in first)
    assert 0 < apart < 0.02


def test_what_another_run_left_is_removed_and_never_loaded(files, checkpoint, tmp_path):
    left = tmp_path / ".x.training"
    (left / "steps" / "checkpoint-3").mkdir(parents=True)
    left.chmod(0o700)
    (left / "steps" / "plan.json").write_text('{"seed": 7}')
    (left / "steps" / "checkpoint-3" / "trainer_state.json").write_text('{"global_step": 3}')
    (left / "finetune.json").write_text('{"seed": 7}')
    done = []
    finetune(
        files, tmp_path / "x", checkpoint, **CSV_SETTINGS, progress=lambda n, _: done.append(n)
    )
    assert done[0] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_two_at_once(files, checkpoint, tmp_path):
    (tmp_path / ".x.training").mkdir(mode=0o700)
    other = os.open(tmp_path / ".x.training", os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(StoreBusyError, match="x is being written by another featurestore finetune"):
        finetune(files, tmp_path / "x", checkpoint, **CSV_SETTINGS)
    os.close(other)
    assert [path.name for path in tmp_path.iterdir()] == [".x.training"]


@pytest.mark.parametrize("mode", [0o755, 0o770, "a link"])
def test_steps_are_read_from_a_private_folder_only(files, checkpoint, tmp_path, mode):
    left = tmp_path / ".x.training"
    if mode == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        left.symlink_to(tmp_path / "elsewhere")
    else:
        left.mkdir()
        left.chmod(mode)
    with pytest.raises(FeatureStoreError, match="remove it"):
        finetune(files, tmp_path / "x", checkpoint, **CSV_SETTINGS)


def test_clinicalberts_own_files(files, checkpoint, tmp_path):
    arguments = (
        f"--train-csv {files[0]} --val-csv {files[1]} --epochs 1 --batch-size 16 --max-tokens 32 "
        "--balance"
    )
    tuned = tmp_path / "tuned"
    result = CliRunner().invoke(
        main,
        ["finetune", str(tuned), "--base", str(checkpoint), *arguments.split()],
    )
    assert result.exit_code == 0, result.output
    facts = json.loads((tuned / "finetune.json").read_text())
    shown = json.loads(result.stdout)
    assert shown == {name: facts[name] for name in shown}
    assert shown["valid"]["admissions"] == 20
    assert facts["patients"].startswith("unknown")
    assert (facts["cutoff"], facts["horizon_days"]) == (None, None)
    assert [facts["files"][split]["name"] for split in ("train", "valid")] == [
        "train.csv",
        "val.csv",
    ]
    assert "drawn again" in facts["balance"]
    # Two windows an admission; what is evaluated keeps its prevalence.
    assert facts["data"]["train"]["notes"] == facts["data"]["train"]["admissions"] == 60
    assert facts["windows"]["valid"] > facts["positives"]["valid"] > 0
    assert "pain" not in (tuned / "finetune.json").read_text() + result.output


def test_the_windows_of_a_csv_file(checkpoint, tmp_path):
    window_tokenizer = WindowTokenizer.from_file(checkpoint / "tokenizer.json", 8)
    file = tmp_path / "x.csv"
    file.write_text(
        '\ufeff,id,Category,text,LABEL\n0,12,ECG,"patient says ""pain"",\nstable [**Name**]",1\n'
        "\n"
        f"1,7.0,ECG,{'chest ' * 40_000},0.0\n"
    )
    found = csv_windows(file, window_tokenizer)
    said = {12: "", 7: ""}
    for ids, hadm_id in zip(found.ids, found.hadm_id.tolist(), strict=True):
        said[hadm_id] += window_tokenizer.tokenizer.decode(ids.tolist(), skip_special_tokens=True)
    assert "pain" in said[12] and "stable" in said[12] and "name" not in said[12]
    assert np.array_equal(found.label, found.hadm_id == 12)
    assert (found.hadm_id == 7).sum() == np.ceil(40_000 / 6)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        pytest.param("ID,TEXT\n1,canary", "line 1: no column LABEL", id="no label"),
        pytest.param("", "line 1: no column ID and no TEXT and no LABEL", id="empty"),
        pytest.param(
            'ID,TEXT,Label\n1,"canary\n\ncanary",1\n2,canary,canary',
            "line 5: Label is neither 0 nor 1",
            id="a label that is none, after a note of three lines",
        ),
        pytest.param("ID,TEXT,Label\n1,,1", "line 2: TEXT is empty", id="no text"),
        pytest.param("ID,TEXT,Label\n1", "line 2: TEXT is empty", id="half a line"),
        pytest.param("ID,TEXT,Label\ncanary,x,1", "line 2: ID is not a whole number", id="no ID"),
        pytest.param(
            "ID,TEXT,Label\n1,canary,1\n1,canary,0",
            "line 3: Label differs from an earlier line with the same ID",
            id="an admission with two outcomes",
        ),
        pytest.param(
            "ID,TEXT,Label\n1,canary,1\n2,canary,1",
            "Label has fewer than two values in 2 lines",
            id="one outcome",
        ),
        pytest.param(
            'ID,TEXT,Label\n1,canary,1\n2,"canary,1\n3,canary,0\n',
            "line 3 or after is not valid CSV",
            id="a quote that never ends",
        ),
        pytest.param(
            b"ID,TEXT,Label\n1,canary \xe9,1\n", "line 1 or after is not UTF-8", id="Latin-1"
        ),
    ],
)
def test_a_csv_file_that_cannot_be_used(files, checkpoint, tmp_path, lines, message):
    bad = tmp_path / "bad.csv"
    bad.write_bytes(lines if isinstance(lines, bytes) else lines.encode())
    with pytest.raises(FeatureStoreError, match=r"bad\.csv") as error:
        finetune((bad, files[1]), tmp_path / "x", checkpoint, **CSV_SETTINGS)
    assert message in str(error.value) and " - " in str(error.value)
    assert "canary" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.csv"]


def test_an_admission_in_both_files(files, checkpoint, tmp_path):
    with pytest.raises(FeatureStoreError, match="60 admissions are in both"):
        finetune((files[0], files[0]), tmp_path / "x", checkpoint, **CSV_SETTINGS)


@pytest.mark.parametrize(
    "arguments",
    [
        ["CK", "--train-csv", "A"],
        ["STORE", "CK", "--train-csv", "A", "--val-csv", "A"],
        ["CK"],
        ["CK", "--train-csv", "A", "--val-csv", "A", "--cutoff", "24h"],
        ["CK", "--train-csv", "A", "--val-csv", "nowhere"],
    ],
)
def test_store_and_files_are_one_or_the_other(files, arguments):
    words = [str(files[0]) if word == "A" else word for word in arguments]
    result = CliRunner().invoke(main, ["finetune", *words, "--base", "b"])
    assert result.exit_code == 2, result.output


@pytest.mark.parametrize("family", ["roberta", "distilbert"])
def test_a_roberta_and_a_distilbert(files, checkpoint, tmp_path, family):
    shape = {"vocab_size": 4_000, "pad_token_id": 1 if family == "roberta" else 0}
    if family == "roberta":  # 34 positions hold windows of 32, as 514 hold 512
        model = transformers.RobertaModel(
            transformers.RobertaConfig(
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=64,
                max_position_embeddings=34,
                **shape,
            )
        )
    else:
        model = transformers.DistilBertModel(
            transformers.DistilBertConfig(
                dim=32, n_layers=1, n_heads=2, hidden_dim=64, max_position_embeddings=32, **shape
            )
        )
    model.save_pretrained(tmp_path / "base")
    for file in checkpoint.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "base")
    facts = finetune(
        files, tmp_path / "x", tmp_path / "base", **(CSV_SETTINGS | {"max_tokens": 512})
    )
    assert facts["max_tokens"] == 32
    assert 0 <= facts["valid"]["windows_auroc"] <= 1


def test_a_model_that_could_not_be_exported_is_refused_before_it_is_trained(
    files, checkpoint, tmp_path
):
    shape = transformers.ElectraConfig(
        hidden_size=32, embedding_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    transformers.ElectraModel(shape).save_pretrained(tmp_path / "base")
    for file in checkpoint.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "base")
    with pytest.raises(FeatureStoreError, match="is of type electra, which cannot be exported"):
        finetune(files, tmp_path / "x", tmp_path / "base", **CSV_SETTINGS)
