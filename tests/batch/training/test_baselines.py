"""Baselines: the classification head as in PyTorch, a regression as scipy fits it."""

import csv
import re
import zlib

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.metrics import roc_auc_score

from batch.training.baselines import (
    bag_of_words,
    classifier_log_odds,
    regression_baseline,
)
from batch.training.data import Cohort, word_counts
from export.onnx_export.classifier_head import write_classifier_head
from featurestore import create_store, embed_pending, sync, train
from featurestore import write_hospital as write_synthetic_hospital
from tests.conftest import WordCounter
from tests.hospital import admission, note, write_hospital

SHAPE = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16}


def classifier(family):
    """Return a random classifier of two classes, as fine-tuning saves it."""
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
def test_the_classification_head_gives_the_log_odds_of_pytorch(family, tmp_path, monkeypatch):
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
    log_odds = classifier_log_odds((tmp_path / "classifier_head.npz").read_bytes(), cls)
    assert log_odds == pytest.approx(expected, abs=1e-5)
    assert np.std(log_odds) > 1e-3


def test_no_head_is_written_for_a_checkpoint_without_one(tmp_path):
    import transformers

    config = transformers.BertConfig(**SHAPE)
    config.architectures = ["BertModel"]
    assert not write_classifier_head("checkpoint", config, tmp_path / "classifier_head.npz")
    assert not (tmp_path / "classifier_head.npz").exists()


def test_a_regression_baseline_has_the_least_penalised_loss_on_training_stays():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2)) * [1, 50] + [0, 300]
    y = rng.random(60) < 1 / (1 + np.exp(-X[:, 0]))
    train = np.arange(60) < 40
    cohort = Cohort(y, np.where(train, "train", "test"), np.arange(60))
    Z = (X - X[train].mean(0)) / X[train].std(0)

    def loss(beta):  # the logistic loss and half the squares of the coefficients
        z = Z[train] @ beta[:2] + beta[2]
        return np.logaddexp(0, np.where(y[train], -z, z)).sum() + beta[:2] @ beta[:2] / 2

    best = minimize(loss, np.zeros(3)).x
    expected = 1 / (1 + np.exp(-(Z @ best[:2] + best[2])))
    assert regression_baseline(X, cohort) == pytest.approx(expected, abs=1e-3)


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
    counts = word_counts(store, np.arange(1, 201), "72h")
    p = bag_of_words(counts, Cohort(y, split, np.arange(200)))
    assert roc_auc_score(y[160:], p[160:]) == 1.0
    assert p[y].min() > 0.5 > p[~y].max()


def test_words_are_counted_over_all_blocks_of_notes(tmp_path):
    stays = [admission(patient, patient) for patient in range(1, 401)]
    notes = [
        note(2 * patient + second, patient, f"pain pain p{patient} n{second}", subject_id=patient)
        for patient in range(1, 401)
        for second in (0, 1)
    ]
    folder = write_hospital(tmp_path / "h", stays, notes)
    store = create_store(tmp_path / "w.duckdb", folder, "mimic3")
    sync(store)
    counts = word_counts(store, np.arange(1, 401), "72h")
    # Words: pain twice, p1, n0. Pairs: pain pain, pain p1, p1 n0.
    assert counts.sum(axis=1).tolist() == [[2 * (4 + 3)]] * 400
    assert counts.max(axis=1).toarray().tolist() == [[4]] * 400


class HashedWords(WordCounter):
    """Vectors of log counts of 256 groups of words."""

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
    result = train(store, "readmit", cutoff="discharge", baseline=signal > 0)
    with (folder / "h" / "PLANTED_RISK.csv").open() as stream:
        risk = {int(row["HADM_ID"]): float(row["RISK"]) for row in csv.DictReader(stream)}
    test = store.sql(
        "SELECT hadm_id, label FROM scorer_admissions WHERE split = 'test' AND label IS NOT NULL"
    ).fetchall()
    y, planted = np.array([(label, risk[hadm_id]) for hadm_id, label in test]).T
    return result, y, planted


@pytest.mark.slow
def test_the_auroc_of_a_scorer_is_close_to_that_of_the_true_risk(tmp_path):
    result, y, planted = scorer_of_a_synthetic_hospital(tmp_path, signal=1.0)
    ideal = roc_auc_score(y, planted)
    assert 0.75 < ideal < 0.85
    assert result["test"]["scorer"]["auroc"][0] > ideal - 0.05
    assert result["test"]["scorer"]["calibration_slope"][1] < 1
    assert result["test"]["scorer"]["calibration_slope"][2] > 0.7
    baselines = ["prior_admissions", "utilisation", "lace", "bag_of_words"]
    assert list(result["test"]) == ["scorer", "prevalence", *baselines]


@pytest.mark.slow
def test_without_a_signal_every_probability_is_the_prevalence(tmp_path):
    result, _, _ = scorer_of_a_synthetic_hospital(tmp_path, signal=0.0)
    assert result["no_signal"].startswith("no signal: the embeddings do not discriminate between")
    assert result["test"]["scorer"]["auroc"] == [0.5, 0.5, 0.5]
    _, low, high = result["candidates"][0]["test_auroc"]
    assert low < 0.5 < high
