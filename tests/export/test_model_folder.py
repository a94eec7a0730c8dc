"""The model folder: a changed, missing or foreign file is refused."""

import json
import shutil

import pytest

from batch.embedding.encoder import OnnxEncoder
from export.model_folder import SETTINGS, read_manifest, sha256, write_manifest
from featurestore.errors import FeatureStoreError


def test_the_manifest_describes_the_folder(model, checkpoint):
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


def test_a_missing_file_is_refused(copy):
    (copy / "tokenizer.json").unlink()
    with pytest.raises(FeatureStoreError, match=r"tokenizer.json is missing"):
        read_manifest(copy)


@pytest.mark.parametrize("file", ["model.onnx", "tokenizer.json", "README.md"])
def test_a_symbolic_link_is_refused(copy, tmp_path, file):
    (copy / file).rename(tmp_path / file)
    (copy / file).symlink_to(tmp_path / file)
    with pytest.raises(FeatureStoreError, match=f"{file} is a link - copy the file itself"):
        read_manifest(copy)


COMPUTED_KEYS = ("encoder_id", "fingerprint", "files", "sha256")


def with_new_manifest(folder):
    """Write a manifest that matches the files as they are now, and return the folder."""
    manifest = json.loads((folder / "encoder.json").read_text())
    info = {k: v for k, v in manifest.items() if k not in COMPUTED_KEYS}
    settings = {key: info.pop(key) for key in SETTINGS}
    write_manifest(folder, info.pop("name"), settings, **info)
    return folder


def test_a_graph_with_external_weights_is_refused(copy):
    import onnx

    graph = onnx.load(copy / "model.onnx")
    onnx.save(graph, copy / "model.onnx", save_as_external_data=True, location="weights")
    with pytest.raises(FeatureStoreError, match="keeps weights in other files"):
        read_manifest(with_new_manifest(copy))


def test_a_pickle_under_the_name_of_a_model_or_tokenizer_is_refused(copy):
    (copy / "model.onnx").write_bytes(b"\x80\x04cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(FeatureStoreError, match=r"could not be loaded on cpu .* export .* again"):
        OnnxEncoder(with_new_manifest(copy), device="cpu")
    (copy / "tokenizer.json").write_bytes(b"\x80\x04cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(FeatureStoreError, match=r"tokenizer.json is not a valid tokenizer"):
        OnnxEncoder(with_new_manifest(copy), device="cpu")


def test_the_model_card_states_settings_and_parity(model):
    card = (model / "README.md").read_text()
    assert card.startswith(f"# {read_manifest(model)['encoder_id']}\n")
    assert "at most 64 tokens, stride 0, cleaning deid-v1" in card
    assert "largest difference" in card


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(FeatureStoreError, match=r"is not a model folder: it has no encoder.json"):
        read_manifest(tmp_path)
