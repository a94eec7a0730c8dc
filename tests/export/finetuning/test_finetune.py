"""Fine-tuning learns from the notes of training patients, and resumes after a kill."""

import csv
import fcntl
import json
import os
import re
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
from featurestore.cli import main
from featurestore.cohort.tasks import find_task
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
    """A store in which exactly the patients with chest pain are readmitted."""
    folder = tmp_path_factory.mktemp("finetuned")
    stays, notes = [], []
    for patient in range(1, 161):
        back = patient % 2
        stays.append(admission(patient, patient, day(0), day(10)))
        if back:
            stays.append(admission(1000 + patient, patient, day(20), day(21)))
        symptom = "chest pain and cough" if back else "stable and clear"
        notes.append(note(patient, patient, f"patient is {symptom} [**2150-1-1**]"))
        notes.append(note(1000 + patient, patient, "home follow up", day(8), subject_id=patient))
    hospital = write_hospital(folder / "hospital", stays, notes)
    opened = create_store(folder / "w.duckdb", hospital, "mimic3")
    sync(opened)
    return opened


@pytest.fixture(scope="module")
def finetuned(store, checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "finetuned"
    steps = []
    info = finetune(
        store,
        folder,
        checkpoint,
        epochs=12,
        batch_size=16,
        learning_rate=2e-3,
        max_tokens=32,
        progress=lambda done, total: steps.append((done, total)),
    )
    return folder, info, steps


def write_csv(file, rows, header=("", "TEXT", "ID", "Label")):
    """Write a file as ClinicalBERT's: an unnamed index, notes with commas, quotes and newlines."""
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows((no, *row) for no, row in enumerate(rows))
    return file


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """CSV files of 60 and 20 admissions; those with pain are readmitted."""
    folder = tmp_path_factory.mktemp("clinicalbert")

    def row(hadm_id):
        back = hadm_id % 2
        return f'says "{"pain" if back else "clear"}",\n{prose(40, hadm_id)}', hadm_id, back

    return (
        write_csv(folder / "train.csv", map(row, range(1, 61))),
        write_csv(folder / "val.csv", map(row, range(101, 121))),
    )


def test_finetuning_learns_the_labels_from_the_notes(finetuned):
    _, info, _ = finetuned
    assert info["valid"]["windows_auroc"] > 0.95
    assert info["valid"]["admissions_auroc"] > 0.95
    assert info["valid"]["admissions_accuracy"] > 0.9


def test_the_checkpoint_is_complete_and_records_its_training_data(finetuned, store, checkpoint):
    folder, info, steps = finetuned
    assert json.loads((folder / "finetune.json").read_text()) == json.loads(json.dumps(info))
    assert sorted(path.name for path in folder.iterdir()) == [
        *("config.json", "finetune.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json"),
    ]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert (info["cutoff"], info["horizon_days"], info["seed"]) == ("72h", 30, 0)
    assert info["patients"].startswith("patient_split")
    known = "known_notes() JOIN readmission_labels() USING (hadm_id) WHERE label IS NOT NULL"
    admissions = dict(
        store.sql(
            f"SELECT patient_split(subject_id), count(DISTINCT hadm_id) FROM {known} GROUP BY 1"
        ).fetchall()
    )
    counted = {split: info["data"][split]["admissions"] for split in ("train", "valid")}
    assert counted == {split: admissions[split] for split in ("train", "valid")}
    weights = subprocess.run(["sha256sum", checkpoint / "model.safetensors"], capture_output=True)
    assert weights.stdout.split()[0].decode() == info["base_files"]["model.safetensors"]
    assert steps[-1][0] == info["steps"] <= steps[-1][1]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    logits = model(**tokenizer("patient is chest pain and cough", return_tensors="pt")).logits
    assert logits[0, 1] > logits[0, 0]


def test_store_windows_are_those_of_known_notes_of_the_patients_of_a_split(store, checkpoint):
    import hashlib

    window_tokenizer = WindowTokenizer.from_file(checkpoint / "tokenizer.json", 32)
    valid = store_windows(store, window_tokenizer, "valid", find_task(store), "72h")

    def low_half(patient):
        return int.from_bytes(hashlib.md5(str(patient).encode()).digest()[8:], "little")

    patients = [patient for patient in range(1, 161) if low_half(patient) % 10 == 8]
    # One window each: the note of day 8 is not known after 72 hours.
    assert sorted(valid.hadm_id.tolist()) == patients
    assert np.array_equal(valid.label, valid.hadm_id % 2)
    assert "[" not in window_tokenizer.tokenizer.decode(valid.ids[0].tolist())


def test_a_note_edited_since_the_last_sync_is_excluded(store, checkpoint, tmp_path):
    shutil.copytree(store.path.parent, tmp_path / "copy")
    hospital = tmp_path / "copy" / "hospital"
    copy = create_store(tmp_path / "w.duckdb", hospital, "mimic3")
    sync(copy)
    window_tokenizer = WindowTokenizer.from_file(checkpoint / "tokenizer.json", 32)
    before = store_windows(copy, window_tokenizer, "train", find_task(copy), "72h")
    edited = int(before.hadm_id[0])
    lines = (hospital / "NOTEEVENTS.csv").read_text().splitlines(keepends=True)
    lines = [
        line.replace("[**", "edited [**") if line.startswith(f"{edited},") else line
        for line in lines
    ]
    (hospital / "NOTEEVENTS.csv").write_text("".join(lines))
    after = store_windows(copy, window_tokenizer, "train", find_task(copy), "72h")
    assert set(before.hadm_id) - set(after.hadm_id) == {edited}
    assert before.rows_sha256 != after.rows_sha256


def test_a_single_label_in_the_training_data_is_refused(store, checkpoint, tmp_path):
    with pytest.raises(FeatureStoreError, match="have 0 windows of readmissions among"):
        finetune(store, tmp_path / "x", checkpoint, horizon_days=1)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_base_is_refused_with_the_way_to_download_it(store, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FeatureStoreError, match="hf download nobody/no-such-bert"):
        finetune(store, tmp_path / "x", "nobody/no-such-bert")
    with pytest.raises(FeatureStoreError, match="does not exist"):
        finetune(store, tmp_path / "x", tmp_path / "nowhere")


def test_metrics_of_windows_and_of_admissions():
    """Three admissions: two windows that returned, one and three that did not."""
    hadm_id, label = np.array([5, 5, 6, 7, 7, 7]), np.array([1, 1, 0, 0, 0, 0])
    probability = np.array([0.9, 0.1, 0.6, 0.2, 0.2, 0.8])
    metrics = window_metrics(LabelledWindows([], label, hadm_id), probability)
    mean = [0.5, 0.6, 0.4]
    scaled = [(0.9 + 0.5 * 1) / 2, (0.6 + 0.6 * 0.5) / 1.5, (0.8 + 0.4 * 1.5) / 2.5]
    assert scaled == pytest.approx([0.7, 0.6, 0.56])
    assert metrics == {
        "windows_auroc": pytest.approx(sklearn.metrics.roc_auc_score(label, probability)),
        "windows_accuracy": pytest.approx(3 / 6),
        "admissions": 3,
        "admissions_auroc": pytest.approx(0.5),  # 0.5 is above 0.4 and below 0.6
        "admissions_accuracy": pytest.approx(1 / 3),
        "admissions_clinicalbert_auroc": pytest.approx(1.0),
        "admissions_clinicalbert_accuracy": pytest.approx(1 / 3),
    }
    assert sklearn.metrics.roc_auc_score([1, 0, 0], mean) == metrics["admissions_auroc"]
    assert sklearn.metrics.roc_auc_score([1, 0, 0], scaled) == 1.0


def test_auroc_is_none_where_all_labels_are_equal():
    dataset = LabelledWindows([], np.zeros(2, np.int64), np.array([1, 2]))
    metrics = window_metrics(dataset, np.array([0.2, 0.6]))
    assert (metrics["admissions_auroc"], metrics["admissions_accuracy"]) == (None, 0.5)


def ten_windows(positives):
    ids = [np.zeros(length, np.int32) for length in range(3, 13)]
    label = np.array([1] * positives + [0] * (10 - positives))
    return LabelledWindows(ids, label, np.arange(10))


def test_each_epoch_has_every_window_once_in_a_different_order():
    sampler = EpochSampler(ten_windows(3), batch_size=4, balance=False, seed=0)
    first, second = [(sampler.set_epoch(epoch), list(sampler))[1] for epoch in (0, 1)]
    assert sorted(first) == sorted(second) == list(range(10)) and first != second
    sampler.set_epoch(0)
    assert list(sampler) == first
    # A batch has windows of consecutive lengths.
    assert all(max(first[at : at + 4]) - min(first[at : at + 4]) == 3 for at in (0, 4))


def test_a_balanced_epoch_has_equally_many_of_each_label_and_draws_again():
    sampler = EpochSampler(ten_windows(3), batch_size=4, balance=True, seed=0)
    assert len(sampler) == 6
    epochs = [(sampler.set_epoch(epoch), sorted(sampler))[1] for epoch in range(20)]
    assert all(windows[:3] == [0, 1, 2] and len(windows) == 6 for windows in epochs)
    assert set(np.concatenate(epochs)) == set(range(10))


def test_balanced_loss_is_the_mean_of_the_losses_of_the_two_labels():
    class Predictions:
        predictions = np.array([[0, 0], [0, np.log(3)], [0, np.log(3)]], np.float32)
        label_ids = np.array([1, 0, 0])

    # The loss is log 2 for the positive window and log 4 for the two negative ones.
    assert balanced_loss(Predictions) == {"balanced_loss": pytest.approx(np.log(8) / 2)}


# Runs in another process: saves every fifth step and is killed at the seventeenth.
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


@pytest.mark.slow
def test_a_killed_run_resumes_from_its_newest_step(store, checkpoint, tmp_path, monkeypatch):
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
    (steps / "checkpoint-20" / "trainer_state.json").write_text('{"global_step": 2')  # incomplete

    done = []
    resumed = finetune(
        store, tmp_path / "killed", base, **settings, progress=lambda step, _: done.append(step)
    )
    assert done[0] == 16 and done[-1] == whole["steps"]
    assert resumed == whole
    first, second = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "killed"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "killed", "whole"]


def test_a_run_killed_before_the_final_rename_is_not_trained_again(files, checkpoint, tmp_path):
    info = finetune(files, tmp_path / "x", checkpoint, **CSV_SETTINGS)
    (tmp_path / "x").rename(tmp_path / ".x.training")
    again = finetune(files, tmp_path / "x", checkpoint, **CSV_SETTINGS, progress=pytest.fail)
    assert again == info
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_bf16_computes_products_in_bfloat16_and_keeps_weights_in_fp32(files, checkpoint, tmp_path):
    whole = finetune(files, tmp_path / "whole", checkpoint, **CSV_SETTINGS)
    half = finetune(files, tmp_path / "half", checkpoint, **CSV_SETTINGS, bf16=True)
    assert half == whole | {"mixed_precision": "bf16", "valid": half["valid"]}
    first, second = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "half"))
    assert {weights.dtype for weights in second.values()} == {torch.float32}
    apart = max(float((first[name] - second[name]).abs().max()) for name in first)
    assert 0 < apart < 0.02


def test_steps_of_another_run_are_removed_and_never_loaded(files, checkpoint, tmp_path):
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


def test_two_runs_of_one_checkpoint_at_once_are_refused(files, checkpoint, tmp_path):
    (tmp_path / ".x.training").mkdir(mode=0o700)
    other = os.open(tmp_path / ".x.training", os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(StoreBusyError, match="x is being written by another featurestore finetune"):
        finetune(files, tmp_path / "x", checkpoint, **CSV_SETTINGS)
    os.close(other)
    assert [path.name for path in tmp_path.iterdir()] == [".x.training"]


@pytest.mark.parametrize("mode", [0o755, 0o770, "a link"])
def test_steps_are_only_read_from_a_private_folder(files, checkpoint, tmp_path, mode):
    left = tmp_path / ".x.training"
    if mode == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        left.symlink_to(tmp_path / "elsewhere")
    else:
        left.mkdir()
        left.chmod(mode)
    with pytest.raises(FeatureStoreError, match="remove it"):
        finetune(files, tmp_path / "x", checkpoint, **CSV_SETTINGS)


def test_finetuning_on_csv_files_of_clinicalbert(files, checkpoint, tmp_path):
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
    info = json.loads((tuned / "finetune.json").read_text())
    shown = json.loads(result.stdout)
    assert shown == {name: info[name] for name in shown}
    assert shown["valid"]["admissions"] == 20
    assert info["patients"].startswith("unknown")
    assert (info["cutoff"], info["horizon_days"]) == (None, None)
    assert [info["files"][split]["name"] for split in ("train", "valid")] == [
        "train.csv",
        "val.csv",
    ]
    assert "drawn again" in info["balance"]
    # Two windows an admission; what is evaluated keeps its prevalence.
    assert info["data"]["train"]["notes"] == info["data"]["train"]["admissions"] == 60
    assert info["windows"]["valid"] > info["positives"]["valid"] > 0
    assert "pain" not in (tuned / "finetune.json").read_text() + result.output


def test_without_validation_positives_finetune_says_what_it_chose_the_step_by(
    store, checkpoint, tmp_path
):
    stays, notes = [], []
    for patient in range(1, 41):
        stays.append(admission(patient, patient, day(0), day(10)))
        notes.append(note(patient, patient, "chest pain"))
        if patient % 2 and store.one("SELECT patient_split($p)", p=patient) == ("train",):
            stays.append(admission(1000 + patient, patient, day(20), day(21)))
    hospital = write_hospital(tmp_path / "hospital", stays, notes)
    sync(create_store(tmp_path / "w.duckdb", hospital, "mimic3"))
    arguments = ["finetune", str(tmp_path / "w.duckdb"), str(tmp_path / "tuned")]
    arguments += ["--base", str(checkpoint), *"--epochs 0.2 --max-tokens 32".split()]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["valid"]["windows_auroc"] is None
    assert re.search(
        r"Warning: 0 of \d validation windows are positive, so there is no AUROC, and the step of "
        "the lowest loss on them was kept - fine-tune on more admissions",
        result.stderr,
    )


def test_csv_windows_have_the_text_and_label_of_their_line(checkpoint, tmp_path):
    window_tokenizer = WindowTokenizer.from_file(checkpoint / "tokenizer.json", 8)
    file = tmp_path / "x.csv"
    file.write_text(
        '\ufeff,id,Category,text,LABEL\n0,12,ECG,"patient says ""pain"",\nstable [**Name**]",1\n'
        "\n"
        f"1,7.0,ECG,{'chest ' * 40_000},0.0\n"
    )
    dataset = csv_windows(file, window_tokenizer)
    text_of = {12: "", 7: ""}
    for ids, hadm_id in zip(dataset.ids, dataset.hadm_id.tolist(), strict=True):
        text_of[hadm_id] += window_tokenizer.tokenizer.decode(
            ids.tolist(), skip_special_tokens=True
        )
    assert "pain" in text_of[12] and "stable" in text_of[12] and "name" not in text_of[12]
    assert np.array_equal(dataset.label, dataset.hadm_id == 12)
    assert (dataset.hadm_id == 7).sum() == np.ceil(40_000 / 6)


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
            id="an admission with two labels",
        ),
        pytest.param(
            "ID,TEXT,Label\n1,canary,1\n2,canary,1",
            "Label has fewer than two values in 2 lines",
            id="a single label",
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
def test_an_invalid_csv_file_is_refused_without_quoting_it(
    files, checkpoint, tmp_path, lines, message
):
    bad = tmp_path / "bad.csv"
    bad.write_bytes(lines if isinstance(lines, bytes) else lines.encode())
    with pytest.raises(FeatureStoreError, match=r"bad\.csv") as error:
        finetune((bad, files[1]), tmp_path / "x", checkpoint, **CSV_SETTINGS)
    assert message in str(error.value) and " - " in str(error.value)
    assert "canary" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.csv"]


def test_an_admission_in_both_csv_files_is_refused(files, checkpoint, tmp_path):
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
def test_a_store_and_csv_files_exclude_each_other(files, arguments):
    words = [str(files[0]) if word == "A" else word for word in arguments]
    result = CliRunner().invoke(main, ["finetune", *words, "--base", "b"])
    assert result.exit_code == 2, result.output


@pytest.mark.parametrize("family", ["roberta", "distilbert"])
def test_finetuning_a_roberta_and_a_distilbert(files, checkpoint, tmp_path, family):
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
    info = finetune(
        files, tmp_path / "x", tmp_path / "base", **(CSV_SETTINGS | {"max_tokens": 512})
    )
    assert info["max_tokens"] == 32
    assert 0 <= info["valid"]["windows_auroc"] <= 1


def test_a_base_of_another_family_is_refused_before_training(files, checkpoint, tmp_path):
    shape = transformers.MPNetConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    transformers.MPNetModel(shape).save_pretrained(tmp_path / "base")
    for file in checkpoint.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "base")
    with pytest.raises(FeatureStoreError, match="is of type mpnet, which is not supported"):
        finetune(files, tmp_path / "x", tmp_path / "base", **CSV_SETTINGS)
