"""Fine-tuning: the Trainer really learns, from training patients alone."""

import json

import numpy as np
import pytest
import transformers

from export.finetune import finetune, labelled_windows
from export.windows import cut_windows
from featurestore import Store, sync
from featurestore.errors import FeatureStoreError
from tests.hospital import admission, note, write_hospital
from tests.timeline import day


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
    opened = Store.create(folder / "w.duckdb", hospital, "mimic3")
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


def test_it_learns_what_the_notes_say(finetuned):
    _, facts, _ = finetuned
    assert facts["valid"]["windows_auroc"] > 0.95
    assert facts["valid"]["admissions_auroc"] > 0.95
    assert facts["valid"]["admissions_accuracy"] > 0.9


def test_the_checkpoint_is_whole_and_says_what_it_was_trained_on(finetuned):
    folder, facts, steps = finetuned
    assert json.loads((folder / "finetune.json").read_text()) == json.loads(json.dumps(facts))
    assert not (folder / "steps").exists()
    assert (facts["cutoff"], facts["horizon_days"], facts["seed"]) == ("72h", 30, 0)
    assert facts["windows"]["train"] > 8 * facts["windows"]["valid"] / 2
    assert steps[-1][0] == facts["steps"] <= steps[-1][1]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    logits = model(**tokenizer("patient is chest pain and cough", return_tensors="pt")).logits
    assert logits[0, 1] > logits[0, 0]


def test_windows_are_those_of_known_notes_of_the_splits_patients(store, checkpoint):
    import hashlib

    from tokenizers import Tokenizer

    tokenizer = cut_windows(Tokenizer.from_file(str(checkpoint / "tokenizer.json")), 32, 0)
    valid = labelled_windows(store, tokenizer, "valid", "72h", 30)

    def low_half(patient):
        return int.from_bytes(hashlib.md5(str(patient).encode()).digest()[8:], "little")

    patients = [patient for patient in range(1, 161) if low_half(patient) % 10 == 8]
    # One window each: the note of day 8 is not known after 72 hours.
    assert sorted(valid.hadm_id.tolist()) == patients
    assert np.array_equal(valid.label, valid.hadm_id % 2)
    assert "[" not in tokenizer.decode(valid.ids[0].tolist())


def test_no_outcome_to_learn(store, checkpoint, tmp_path):
    with pytest.raises(FeatureStoreError, match="have 0 windows of returns among"):
        finetune(store, tmp_path / "x", checkpoint, horizon_days=1)
    assert list(tmp_path.iterdir()) == []


def test_a_base_that_cannot_be_had_says_how_to_bring_it(store, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FeatureStoreError, match="hf download nobody/no-such-bert"):
        finetune(store, tmp_path / "x", "nobody/no-such-bert")
    with pytest.raises(FeatureStoreError, match="does not exist"):
        finetune(store, tmp_path / "x", tmp_path / "nowhere")
