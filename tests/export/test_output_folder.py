"""A folder that is written appears complete or not at all."""

import pytest

from export.output_folder import atomic_folder
from featurestore.errors import FeatureStoreError


def test_files_of_a_killed_job_are_removed_and_a_running_job_is_not_disturbed(tmp_path):
    left = tmp_path / ".model.partial"
    left.mkdir()
    (left / "model.onnx").write_bytes(b"incomplete")
    with atomic_folder(tmp_path / "model") as draft:
        assert list(draft.iterdir()) == []
        assert draft.stat().st_mode & 0o777 == 0o700
        with pytest.raises(FeatureStoreError, match="is being written by another process"):
            atomic_folder(tmp_path / "model").__enter__()
        (draft / "model.onnx").write_text("")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
