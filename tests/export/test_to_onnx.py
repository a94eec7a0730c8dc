"""Export: what is in a model folder is what PyTorch computes, or there is no folder."""

import json
import shutil

import numpy as np
import pytest

from export.model_folder import read_manifest, sha256
from export.to_onnx import export, judge_parity, load_checkpoint
from featurestore.errors import FeatureStoreError


def test_the_folder_says_what_it_holds(model, checkpoint):
    manifest = read_manifest(model)
    assert sorted(path.name for path in model.iterdir()) == [
        "encoder.json",
        "model.onnx",
        "tokenizer.json",
    ]
    assert manifest["encoder_id"] == f"small-{manifest['fingerprint'][:8]}"
    assert manifest["dim"] == 128
    assert manifest["max_tokens"] == 64
    assert manifest["pooling"] == "cls"
    assert manifest["parity"]["max_abs_difference"] < 1e-5
    weights = {"model.safetensors": sha256(checkpoint / "model.safetensors")}
    assert manifest["checkpoint"]["files"] == weights


def test_the_id_changes_with_the_settings(checkpoint, model, tmp_path):
    export(checkpoint, tmp_path / "strided", max_tokens=64, stride=8)
    assert read_manifest(tmp_path / "strided")["encoder_id"] != read_manifest(model)["encoder_id"]


@pytest.fixture
def copy(model, tmp_path):
    return shutil.copytree(model, tmp_path / "copy")


def test_a_changed_byte_is_refused(copy):
    data = bytearray((copy / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "model.onnx").write_bytes(data)
    with pytest.raises(FeatureStoreError, match="is not the file that was exported"):
        read_manifest(copy)


def test_a_changed_setting_is_refused(copy):
    manifest = json.loads((copy / "encoder.json").read_text())
    (copy / "encoder.json").write_text(json.dumps(manifest | {"stride": 32}))
    with pytest.raises(FeatureStoreError, match="was changed after the export"):
        read_manifest(copy)


@pytest.mark.parametrize("damage", ["{", "[]", "{}"])
def test_a_damaged_manifest_is_refused(copy, damage):
    (copy / "encoder.json").write_text(damage)
    with pytest.raises(FeatureStoreError, match="is damaged - export the model again"):
        read_manifest(copy)


def test_a_missing_file_is_named(copy):
    (copy / "tokenizer.json").unlink()
    with pytest.raises(FeatureStoreError, match=r"tokenizer.json is missing"):
        read_manifest(copy)


def test_a_folder_that_is_no_model_folder(tmp_path):
    with pytest.raises(FeatureStoreError, match=r"is no model folder: it has no encoder.json"):
        read_manifest(tmp_path)


def test_the_embedding_layers_cls_is_refused():
    # The system this one replaces took hidden_states[0][:, 0]: one vector for every note.
    same = np.ones((14, 8), np.float32)
    with pytest.raises(FeatureStoreError, match="every window the same vector"):
        judge_parity(same, same)


def test_a_graph_that_differs_from_pytorch_is_refused():
    vectors = np.random.default_rng(0).standard_normal((14, 8)).astype(np.float32)
    with pytest.raises(FeatureStoreError, match=r"differs from PyTorch by 2.0e-04"):
        judge_parity(vectors, vectors + np.float32(2e-4))
    with pytest.raises(FeatureStoreError, match="differs from PyTorch by nan"):
        judge_parity(vectors, vectors * np.float32("nan"))


def test_a_failed_export_leaves_no_folder(checkpoint, tmp_path, monkeypatch):
    import export.to_onnx

    monkeypatch.setattr(export.to_onnx, "TOLERANCE", -1.0)
    with pytest.raises(FeatureStoreError, match="no folder was written"):
        export.to_onnx.export(checkpoint, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_overwritten(checkpoint, model):
    with pytest.raises(FeatureStoreError, match="exists already"):
        export(checkpoint, model)


def test_a_checkpoint_that_cannot_be_had(tmp_path):
    import transformers

    (tmp_path / "empty").mkdir()
    for wrong in (tmp_path / "nowhere", tmp_path / "empty"):
        with pytest.raises(FeatureStoreError, match=r"nowhere does not exist|hf download"):
            load_checkpoint(wrong, transformers.AutoModel)


def test_a_cased_vocabulary_without_settings_is_not_lower_cased(tmp_path):
    # As Bio_ClinicalBERT lies on the hub: a vocab.txt, and no settings of a tokenizer.
    import transformers
    from transformers import BertConfig, BertModel

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "heart", "Heart"]
    pieces += [f"Word{number}" for number in range(1_001)]
    shape = BertConfig(
        vocab_size=len(pieces),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    BertModel(shape).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    _, tokenizer = load_checkpoint(tmp_path, transformers.AutoModel)
    assert tokenizer.backend_tokenizer.encode("Heart heart").tokens[1:-1] == ["Heart", "heart"]
