"""Export writes a reproducible model folder, or none."""

import pytest

from export.model_folder import read_manifest
from export.onnx_export.exporter import export
from export.onnx_export.parity import TOLERANCES
from featurestore.errors import FeatureStoreError


@pytest.mark.slow
def test_the_encoder_id_changes_with_the_settings(checkpoint, model, tmp_path):
    export(checkpoint, tmp_path / "strided", max_tokens=64, stride=8)
    assert read_manifest(tmp_path / "strided")["encoder_id"] != read_manifest(model)["encoder_id"]


@pytest.mark.slow
def test_an_export_is_reproducible_and_holds_no_path_of_the_machine(
    checkpoint, model, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    export(checkpoint, "again", name="small", max_tokens=64)
    assert read_manifest(tmp_path / "again")["files"] == read_manifest(model)["files"]
    for file in model.iterdir():
        data = file.read_bytes()
        for trace in (b"site-packages", b"onnx_export", str(checkpoint.parent).encode(), b"/torch"):
            assert trace not in data, (file.name, trace)


def test_a_failed_export_leaves_no_folder(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(TOLERANCES["fp32"], "max_abs_difference", -1.0)
    steps = []
    with pytest.raises(FeatureStoreError, match="no folder was written"):
        export(checkpoint, tmp_path / "model", progress=lambda *done: steps.append(done))
    assert list(tmp_path.iterdir()) == []
    assert steps == [(0, 4), (1, 4), (2, 4), (3, 4)]


def test_an_existing_folder_is_not_overwritten(checkpoint, model):
    with pytest.raises(FeatureStoreError, match="already exists"):
        export(checkpoint, model)
