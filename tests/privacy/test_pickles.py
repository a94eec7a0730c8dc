"""A malicious pickle in place of each file that a command opens: it is never loaded."""

import gzip
import io
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner

from batch.training.baselines import classifier_log_odds
from export.model_folder import (
    CLASSIFIER_HEAD,
    MANIFEST,
    MODEL,
    TOKENIZER,
    _fingerprint,
    _with_own_hash,
    sha256,
)
from featurestore import Store, create_store, sync
from featurestore.cli import main
from featurestore.errors import FeatureStoreError
from featurestore.source.note_texts import text_hash
from featurestore.store.vectors import vectors_to_arrow
from tests.hospital import admission, note, own_schema, write_hospital
from tests.timeline import day


class MaliciousObject:
    """An object whose pickle creates a file when it is loaded."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.fixture
def marker(tmp_path):
    """The file that a loaded pickle creates; it must not exist at the end of the test."""
    file = tmp_path / "marker"
    yield file
    assert not file.exists()


@pytest.fixture
def payload(marker):
    """The malicious pickle."""
    return pickle.dumps(MaliciousObject(marker))


def refused(*arguments):
    """Run a command that must fail; return its error message."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 1, result.output
    (*_, line) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert line.count(" - ") >= 1 and "please report" not in line, line
    return line


def hospital(folder):
    """Write a hospital in which the patients with chest pain are readmitted."""
    stays, notes = [], []
    for patient in range(1, 41):
        stays.append(admission(patient))
        if patient % 2:
            stays.append(admission(1000 + patient, patient, day(20), day(21)))
        text = "chest pain and cough" if patient % 2 else "stable and clear"
        notes.append(note(patient, patient, text))
    return write_hospital(folder, stays, notes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A synced store."""
    folder = tmp_path_factory.mktemp("whole")
    store = create_store(folder / "w.duckdb", hospital(folder / "hospital"), "mimic3")
    sync(store)
    return store


@pytest.fixture
def store(whole, tmp_path):
    return Path(shutil.copy(whole.path, tmp_path / "w.duckdb"))


def test_the_pickle_creates_the_file_when_it_is_loaded(tmp_path):
    cases: list[Any] = [(pickle.loads, bytes), (np.load, io.BytesIO)]
    for number, (loads, form) in enumerate(cases):
        file = tmp_path / f"marker-{number}"
        settings = {"allow_pickle": True} if loads is np.load else {}
        loads(form(pickle.dumps(MaliciousObject(file))), **settings).close()
        assert file.is_file()


@pytest.mark.parametrize(
    "command",
    [
        *("sync", "labels", "info", "audit", "scorers", "similar 1", "explain 1"),
        *("train x", "score x", "report x -o r.html", "promote x", "sql FROM&notes", "forget 1"),
    ],
)
def test_a_pickle_in_place_of_the_store_is_refused(payload, store, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store.write_bytes(payload)
    name, *words = command.split()
    line = refused(name, store, *(word.replace("&", " ") for word in words))
    assert "cannot be opened as a store" in line
    result = CliRunner().invoke(main, ["verify", str(store)])
    assert (result.exit_code, "cannot be opened as a store" in result.stdout) == (1, True)


def test_a_pickle_in_place_of_the_lock_is_ignored(payload, store, model):
    store.with_name(store.name + ".lock").write_bytes(payload)
    result = CliRunner().invoke(main, ["embed", str(store), str(model), "--device", "cpu"])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("name", ["ADMISSIONS", "PATIENTS", "NOTEEVENTS"])
@pytest.mark.parametrize("form", ["csv", "csv.gz", "compressed pickle", "parquet"])
def test_a_pickle_in_place_of_a_source_table_is_refused(payload, tmp_path, name, form):
    folder = hospital(tmp_path / "hospital")
    (folder / f"{name}.csv").unlink()
    file = folder / f"{name}.{'csv.gz' if form == 'gz of it' else form}"
    file.write_bytes(gzip.compress(payload) if form == "compressed pickle" else payload)
    refused("init", tmp_path / "w.duckdb", "--source", folder, "--schema", "mimic3")


def test_a_pickle_in_place_of_a_source_database_is_refused(payload, tmp_path):
    (tmp_path / "mimic.db").write_bytes(payload)
    source = ["--source", tmp_path / "mimic.db", "--schema", "mimic3"]
    refused("init", tmp_path / "w.duckdb", *source)


@pytest.mark.parametrize("protocol", [0, 5])
def test_a_pickle_in_place_of_a_schema_is_refused(marker, tmp_path, protocol):
    own = own_schema(tmp_path / "own", "", "")
    (own / "notes.sql").write_bytes(pickle.dumps(MaliciousObject(marker), protocol))
    source = ["--source", hospital(tmp_path / "hospital"), "--schema", own]
    refused("init", tmp_path / "w.duckdb", *source)


def test_a_pickle_in_place_of_labelled_notes_is_refused(payload, checkpoint, tmp_path):
    (tmp_path / "notes.csv").write_bytes(payload)
    files = ["--train-csv", tmp_path / "notes.csv", "--val-csv", tmp_path / "notes.csv"]
    refused("finetune", tmp_path / "new", "--base", checkpoint, *files)


def in_extension_type(payload):
    """A shard with a column of a type that old versions of pyarrow unpickled (CVE-2023-47248)."""
    metadata = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": payload,
    }
    rows = {
        "note_id": ["1"],
        "text_hash": [text_hash("chest pain and cough")],
        "window_no": pa.array([0], pa.int32()),
        "n_tokens": pa.array([6], pa.int32()),
        "embedding": vectors_to_arrow(np.ones((1, 128), np.float32)),
    }
    table = pa.table(rows)
    schema = table.schema.set(0, table.schema.field(0).with_metadata(metadata))
    stream = io.BytesIO()
    with pa.ipc.new_file(stream, schema) as writer:
        writer.write_table(table.cast(schema))
    return stream.getvalue()


@pytest.mark.parametrize("form", [bytes, in_extension_type])
def test_a_pickle_in_place_of_a_shard_is_not_loaded(payload, store, model, form):
    encoder = json.loads((model / MANIFEST).read_text())["encoder_id"]
    folder = store.with_name(store.name + ".staging") / encoder
    folder.mkdir(parents=True)
    shard = folder / "000000.shard"
    if form is bytes:
        shard.write_bytes(payload)
    else:  # a sealed shard with a pickle in the metadata of a type
        shard.write_bytes(b"".join(Store(store).shard_seal().seal(shard, form(payload))))
    result = CliRunner().invoke(main, ["embed", str(store), str(model), "--device", "cpu"])
    if form is bytes:
        assert "000000.shard is damaged, or not a shard of this store - delete it" in result.stderr
    else:
        assert "1 resumed" in result.stdout


@pytest.mark.parametrize("file", [MODEL, TOKENIZER, CLASSIFIER_HEAD, MANIFEST])
@pytest.mark.parametrize("forged", [False, True], ids=["", "with forged hashes"])
def test_a_pickle_in_place_of_a_model_file_is_not_loaded(
    payload, store, model, tmp_path, file, forged
):
    folder = shutil.copytree(model, tmp_path / "model")
    (folder / file).write_bytes(payload)
    if forged and file != MANIFEST:
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest["files"][file] = sha256(folder / file)
        manifest["fingerprint"] = _fingerprint(manifest["files"], manifest)
        manifest["encoder_id"] = f"{manifest['name']}-{manifest['fingerprint'][:8]}"
        manifest.pop("sha256")
        (folder / MANIFEST).write_text(_with_own_hash(manifest))
    # Only `train` reads the classifier head (tested below), and only if its hash is recorded.
    if file == CLASSIFIER_HEAD:
        result = CliRunner().invoke(main, ["embed", str(store), str(folder), "--device", "cpu"])
        assert result.exit_code == 0, result.output
    else:
        refused("embed", store, folder, "--device", "cpu")


def in_npz(marker):
    stream = io.BytesIO()
    np.savez(stream, dense=np.array([MaliciousObject(marker)], object))
    return stream.getvalue()


@pytest.mark.parametrize("form", ["bare", "in an array"])
def test_a_pickle_in_place_of_a_classifier_head_is_refused(payload, marker, form):
    weights = payload if form == "bare" else in_npz(marker)
    with pytest.raises(FeatureStoreError, match=r"classification head .* export the model again"):
        classifier_log_odds(weights, np.zeros((2, 4), np.float32))


def in_torch(marker):
    """Return a dictionary of tensors and a malicious object in the format of torch.save."""
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(2), "b": MaliciousObject(marker)}, stream)
    return stream.getvalue()


@pytest.mark.parametrize("command", ["export", "finetune"])
@pytest.mark.parametrize("form", ["bare", "in the format of torch"])
@pytest.mark.parametrize(
    "file",
    ["pytorch_model.bin", "model.safetensors", "config.json", "tokenizer.json"],
)
def test_a_pickle_in_place_of_a_checkpoint_file_is_refused(
    payload, marker, store, checkpoint, tmp_path, file, form, command
):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    if file == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    (folder / file).write_bytes(payload if form == "bare" else in_torch(marker))
    if command == "export":
        line = refused("export", folder, tmp_path / "model")
    else:
        line = refused("finetune", store, tmp_path / "new", "--base", folder)
    assert "could not be loaded as a checkpoint" in line


@pytest.mark.slow
def test_code_and_training_arguments_of_a_checkpoint_are_never_loaded(
    payload, marker, checkpoint, tmp_path
):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    (folder / "training_args.bin").write_bytes(payload)
    (folder / "pytorch_model.bin").write_bytes(payload)  # in addition to model.safetensors
    code = f"open({str(marker)!r}, 'w')\nfrom transformers import BertModel as Own\n"
    (folder / "own.py").write_text(code)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "own.Own", "AutoConfig": "own.Own"}
    (folder / "config.json").write_text(json.dumps(config))
    result = CliRunner().invoke(main, ["export", str(folder), str(tmp_path / "model")])
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def half_finetuned(whole, checkpoint, tmp_path_factory):
    """The training state that a run leaves when it is stopped after a saved step."""
    folder = tmp_path_factory.mktemp("half")

    def stop(step, _):
        if step == steps[-1]:
            raise KeyboardInterrupt

    from featurestore import finetune

    steps = [4]
    settings = {"epochs": 3, "batch_size": 16, "max_tokens": 32}
    with pytest.raises(KeyboardInterrupt):
        finetune(whole, folder / "new", checkpoint, **settings, progress=stop)
    (step,) = (folder / ".new.training" / "steps").glob("checkpoint-*")
    return step


TRAINING_STATE = (
    *("optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors", "training_args.bin"),
    *("trainer_state.json", "config.json"),
)


def test_every_file_of_the_training_state_is_tested(half_finetuned):
    assert {file.name for file in half_finetuned.iterdir()} == set(TRAINING_STATE)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["bare", "in the format of torch"])
@pytest.mark.parametrize("file", TRAINING_STATE)
def test_a_pickle_in_place_of_a_training_state_file_is_not_loaded(
    payload, marker, half_finetuned, whole, checkpoint, tmp_path, file, form
):
    shutil.copytree(half_finetuned.parents[1], tmp_path / ".new.training")
    step = tmp_path / ".new.training" / "steps" / half_finetuned.name
    state = step / "trainer_state.json"
    state.write_text(state.read_text().replace(str(half_finetuned.parent), str(step.parent)))
    (step / file).write_bytes(payload if form == "bare" else in_torch(marker))
    settings = ["--epochs", 3, "--batch-size", 16, "--max-tokens", 32]
    words = ["finetune", whole.path, tmp_path / "new", "--base", checkpoint, *settings]
    if file not in ("trainer_state.json", "training_args.bin"):
        assert "is damaged - remove" in refused(*words)
        return
    # The file is never read, or it marks the step as complete: the training starts again.
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.stderr
