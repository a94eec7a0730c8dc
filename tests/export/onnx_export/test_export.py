"""Export: what is in a model folder is what PyTorch computes, or there is no folder."""

import json
import shutil

import numpy as np
import pytest

from batch.embedding.encoder import OnnxEncoder
from export.checkpoint import load_checkpoint
from export.model_folder import SETTINGS, read_manifest, sha256, write_manifest
from export.onnx_export.exporter import export
from export.onnx_export.parity import TOLERANCES, check_parity
from export.output_folder import atomic_folder
from featurestore.errors import FeatureStoreError


def test_the_folder_says_what_it_holds(model, checkpoint):
    manifest = read_manifest(model)
    assert sorted(path.name for path in model.iterdir()) == [
        "README.md",
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
    assert sorted(manifest["files"]) == ["README.md", "model.onnx", "tokenizer.json"]


@pytest.mark.slow
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
    with pytest.raises(FeatureStoreError, match="has changed since the export"):
        read_manifest(copy)


def test_a_changed_setting_is_refused(copy):
    manifest = json.loads((copy / "encoder.json").read_text())
    (copy / "encoder.json").write_text(json.dumps(manifest | {"stride": 32}))
    with pytest.raises(FeatureStoreError, match="has changed since the export"):
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


@pytest.mark.parametrize("file", ["model.onnx", "tokenizer.json", "README.md"])
def test_a_link_out_of_the_folder_is_refused(copy, tmp_path, file):
    (copy / file).rename(tmp_path / file)
    (copy / file).symlink_to(tmp_path / file)
    with pytest.raises(FeatureStoreError, match=f"{file} is a link - copy the file itself"):
        read_manifest(copy)


OWN = ("encoder_id", "fingerprint", "files", "sha256")


def forged(folder):
    """The folder with a manifest that agrees with whatever lies in it now."""
    manifest = json.loads((folder / "encoder.json").read_text())
    kept = {k: v for k, v in manifest.items() if k not in OWN}
    settings = {key: kept.pop(key) for key in SETTINGS}
    write_manifest(folder, kept.pop("name"), settings, **kept)
    return folder


def test_a_graph_that_keeps_weights_elsewhere_is_refused(copy):
    import onnx

    graph = onnx.load(copy / "model.onnx")
    onnx.save(graph, copy / "model.onnx", save_as_external_data=True, location="weights")
    with pytest.raises(FeatureStoreError, match="keeps weights in other files"):
        read_manifest(forged(copy))


def test_a_pickle_in_disguise_is_refused(copy):
    (copy / "model.onnx").write_bytes(b"\x80\x04cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(FeatureStoreError, match=r"could not be loaded on cpu .* export .* again"):
        OnnxEncoder(forged(copy), device="cpu")
    (copy / "tokenizer.json").write_bytes(b"\x80\x04cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(FeatureStoreError, match=r"tokenizer.json is not a valid tokenizer"):
        OnnxEncoder(forged(copy), device="cpu")


@pytest.mark.slow
def test_the_same_checkpoint_gives_the_same_bytes_and_no_path_of_the_machine(
    checkpoint, model, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    export(checkpoint, "again", name="small", max_tokens=64)
    assert read_manifest(tmp_path / "again")["files"] == read_manifest(model)["files"]
    for file in model.iterdir():
        data = file.read_bytes()
        for trace in (b"site-packages", b"cls_graph", str(checkpoint.parent).encode(), b"/torch"):
            assert trace not in data, (file.name, trace)


def test_the_card_says_where_the_model_is_from_and_how_near_to_pytorch(model):
    card = (model / "README.md").read_text()
    assert card.startswith(f"# {read_manifest(model)['encoder_id']}\n")
    assert "at most 64 tokens, stride 0, cleaning deid-v1" in card
    assert "largest difference" in card


def test_what_a_killed_job_left_is_cleared_and_a_running_one_is_not_disturbed(tmp_path):
    left = tmp_path / ".model.partial"
    left.mkdir()
    (left / "model.onnx").write_bytes(b"half")
    with atomic_folder(tmp_path / "model") as draft:
        assert list(draft.iterdir()) == []
        assert draft.stat().st_mode & 0o777 == 0o700
        with pytest.raises(FeatureStoreError, match="is being written by another process"):
            atomic_folder(tmp_path / "model").__enter__()
        (draft / "whole").write_text("")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_is_no_model_folder(tmp_path):
    with pytest.raises(FeatureStoreError, match=r"is not a model folder: it has no encoder.json"):
        read_manifest(tmp_path)


def test_the_embedding_layers_cls_is_refused():
    # The system this one replaces took hidden_states[0][:, 0]: one vector for every note.
    same = np.ones((14, 8), np.float32)
    with pytest.raises(FeatureStoreError, match="every window the same vector"):
        check_parity(same, same)


def test_a_cosine_near_one_is_not_taken_for_likeness():
    # All vectors point almost the same way; the small part that differs is reversed.
    rng = np.random.default_rng(0)
    apart = rng.standard_normal((14, 8)).astype(np.float32) / 100
    parity = check_parity(10 + apart, 10 - apart, "int8")
    assert parity["min_cosine"] > 0.9999
    assert parity["min_cosine_centred"] < -0.9


def test_a_graph_that_differs_from_pytorch_is_refused():
    vectors = np.random.default_rng(0).standard_normal((14, 8)).astype(np.float32)
    with pytest.raises(FeatureStoreError, match=r"by 2.0e-04, more than 1e-04"):
        check_parity(vectors, vectors + np.float32(2e-4))
    with pytest.raises(FeatureStoreError, match="differs from PyTorch by nan"):
        check_parity(vectors, vectors * np.float32("nan"))
    noisy = vectors + np.float32(0.2) * vectors[::-1]
    with pytest.raises(FeatureStoreError, match=r"int8 graph has a cosine of 0.9.* export .* fp32"):
        check_parity(vectors, noisy, "int8")


def test_a_failed_export_leaves_no_folder(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(TOLERANCES["fp32"], "max_abs_difference", -1.0)
    with pytest.raises(FeatureStoreError, match="no folder was written"):
        export(checkpoint, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_overwritten(checkpoint, model):
    with pytest.raises(FeatureStoreError, match="already exists"):
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
