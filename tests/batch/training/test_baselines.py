"""What stands beside a scorer: the head is PyTorch's, prior admissions are counted by hand."""

import csv
import re
import zlib

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from batch.training.baselines import bag_of_words, classifier_log_odds, prior_admissions
from batch.training.model_selection import Cohort
from export.onnx_export.classifier_head import write_classifier_head
from featurestore import create_store, embed_pending, sync, train
from featurestore import write_hospital as write_synthetic_hospital
from tests.conftest import WordCounter
from tests.hospital import admission, note, write_hospital
from tests.timeline import day

SHAPE = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16}


def classifier(family):
    """A random classifier of two classes, as fine-tuning leaves it."""
    import torch
    import transformers

    torch.manual_seed(0)
    shape = {"vocab_size": 30, "intermediate_size": 32, "max_position_embeddings": 40}
    if family == "distilbert":
        shape = {"vocab_size": 30, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
    else:
        shape |= SHAPE
    name = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert"}[family]
    config = getattr(transformers, f"{name}Config")(**shape, num_labels=2)
    return getattr(transformers, f"{name}ForSequenceClassification")(config).eval()


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_the_head_says_what_the_classifier_says(family, tmp_path, monkeypatch):
    import torch

    model = classifier(family)
    model.config.architectures = [type(model).__name__]
    monkeypatch.setattr(
        "export.onnx_export.classifier_head.load_checkpoint", lambda *_: (model, None)
    )
    assert write_classifier_head("checkpoint", model.config, tmp_path / "classifier_head.npz")
    ids = torch.randint(5, 30, (4, 9))
    with torch.no_grad():
        answer = model(input_ids=ids, output_hidden_states=True)
    cls = answer.hidden_states[-1][:, 0].numpy()
    expected = (answer.logits[:, 1] - answer.logits[:, 0]).numpy()
    found = classifier_log_odds((tmp_path / "classifier_head.npz").read_bytes(), cls)
    assert found == pytest.approx(expected, abs=1e-5)
    assert np.std(found) > 1e-3


def test_a_checkpoint_without_a_head_has_none(tmp_path):
    import transformers

    config = transformers.BertConfig(**SHAPE)
    config.architectures = ["BertModel"]
    assert not write_classifier_head("checkpoint", config, tmp_path / "classifier_head.npz")
    assert not (tmp_path / "classifier_head.npz").exists()


def test_two_or_more_admissions_in_the_twelve_months_before(tmp_path):
    stays = [
        admission(1, 1, day(0), day(5)),
        admission(2, 1, day(100), day(105)),  # one before
        admission(3, 1, day(200), day(205)),  # two before
        admission(4, 1, day(364), day(366)),  # three before, the first 364 days ago
        admission(5, 1, day(500), day(505)),  # of four before two within 12 months
        admission(6, 1, day(1000), day(1005)),  # none within 12 months
        admission(7, 2, day(201), day(205)),  # another patient's do not count
    ]
    folder = write_hospital(tmp_path / "h", stays, [note(1, 1, "home")])
    store = create_store(tmp_path / "w.duckdb", folder, "mimic3")
    sync(store)
    y = np.array([False, False, True, True, False, False, False])
    cohort = Cohort(y, np.array(["train"] * 7), np.ones(7, np.int64))
    found = prior_admissions(store, np.arange(1, 8), cohort)
    # Of the three often admitted two returned, of the other four none: (k + 1) / (n + 2).
    often, seldom = 3 / 5, 1 / 6
    assert found.tolist() == [seldom, seldom, often, often, often, seldom, seldom]


def test_bag_of_words_learns_from_words_of_training_patients(tmp_path):
    stays, notes = [], []
    for patient in range(1, 201):
        stays.append(admission(patient, patient))
        notes.append(note(patient, patient, "pain" if patient % 2 else "home", subject_id=patient))
    folder = write_hospital(tmp_path / "h", stays, notes)
    store = create_store(tmp_path / "w.duckdb", folder, "mimic3")
    sync(store)
    y = np.arange(1, 201) % 2 == 1
    split = np.repeat(["train", "valid", "test"], [120, 40, 40])
    found = bag_of_words(store, np.arange(1, 201), Cohort(y, split, np.arange(200)), "72h")
    assert roc_auc_score(y[160:], found[160:]) == 1.0
    assert found[y].min() > 0.5 > found[~y].max()


class HashedWords(WordCounter):
    """Vectors with all words in them: how often each of 256 groups of words stands, as a log."""

    def __init__(self):
        super().__init__("words-00000000", dim=256)

    def tokenize(self, texts):
        cut = []
        for text in texts:
            words = re.findall("[a-z]+", text.lower())
            ids = np.array([zlib.crc32(word.encode()) % 256 for word in words], np.int32)
            cut.append([ids[at : at + 500] for at in range(0, len(ids), 500)])
        return cut

    def run(self, batch):
        counts = [np.bincount(ids, minlength=256) for ids in batch]
        return np.log1p(np.stack(counts)).astype(np.float32)


def scorer_of_a_synthetic_hospital(folder, signal):
    write_synthetic_hospital(folder / "h", 1_000, signal=signal)
    store = create_store(folder / "w.duckdb", folder / "h", "mimic3")
    sync(store)
    embed_pending(store, HashedWords())
    facts = train(store, "readmit", cutoff="discharge", baseline=signal > 0)
    with (folder / "h" / "PLANTED_RISK.csv").open() as stream:
        risk = {int(row["HADM_ID"]): float(row["RISK"]) for row in csv.DictReader(stream)}
    test = store.sql("SELECT hadm_id, label FROM scorer_admissions WHERE split = 'test'").fetchall()
    y, planted = np.array([(label, risk[hadm_id]) for hadm_id, label in test]).T
    return facts, y, planted


@pytest.mark.slow
def test_the_scorer_finds_nearly_all_of_the_planted_risk(tmp_path):
    facts, y, planted = scorer_of_a_synthetic_hospital(tmp_path, signal=1.0)
    ideal = roc_auc_score(y, planted)
    assert 0.75 < ideal < 0.85
    assert facts["test"]["scorer"]["auroc"][0] > ideal - 0.05
    assert facts["test"]["scorer"]["calibration_slope"][1] < 1
    assert facts["test"]["scorer"]["calibration_slope"][2] > 0.7
    assert list(facts["test"]) == ["scorer", "prevalence", "prior_admissions", "bag_of_words"]


def test_without_a_signal_it_finds_none_and_says_so(tmp_path):
    facts, _, _ = scorer_of_a_synthetic_hospital(tmp_path, signal=0.0)
    _, low, high = facts["test"]["scorer"]["auroc"]
    assert low < 0.5 < high
    assert any("cannot be told from 0.5" in warning for warning in facts["warnings"])
