"""Parity with PyTorch: vectors that differ too much are refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from export.onnx_export import parity
from export.onnx_export.parity import check_parity, prove_graph, pytorch_vectors
from featurestore.errors import FeatureStoreError


def test_a_constant_vector_as_of_the_embedding_layer_is_refused():
    # hidden_states[0][:, 0] in place of the last layer: one vector for every note.
    same = np.ones((14, 8), np.float32)
    with pytest.raises(FeatureStoreError, match="every window the same vector"):
        check_parity(same, same)


def test_the_mean_centred_cosine_detects_what_the_cosine_does_not():
    # All vectors have nearly the same direction; their small deviation from it is reversed.
    rng = np.random.default_rng(0)
    deviation = rng.standard_normal((14, 8)).astype(np.float32) / 100
    parity = check_parity(10 + deviation, 10 - deviation, "fp16")
    assert parity["min_cosine"] > 0.9999
    assert parity["min_cosine_centred"] < -0.9
    with pytest.raises(FeatureStoreError, match=r"int8 graph has a mean-centred cosine of -0.9"):
        check_parity(10 + deviation, 10 - deviation, "int8")


def test_a_graph_that_differs_from_pytorch_is_refused():
    vectors = np.random.default_rng(0).standard_normal((14, 8)).astype(np.float32)
    with pytest.raises(FeatureStoreError, match=r"by 2.0e-04, more than 1e-04"):
        check_parity(vectors, vectors + np.float32(2e-4))
    with pytest.raises(FeatureStoreError, match="differs from PyTorch by nan"):
        check_parity(vectors, vectors * np.float32("nan"))
    noisy = vectors + np.float32(0.2) * vectors[::-1]
    with pytest.raises(FeatureStoreError, match=r"int8 graph has a cosine of 0.9.* export .* fp32"):
        check_parity(vectors, noisy, "int8")


def test_a_graph_that_fails_for_some_shape_gets_one_line(tmp_path, monkeypatch):
    class Failing:
        def run(self, input_ids, attention_mask):
            raise RuntimeError("Got invalid dimensions\n index: 1")

    monkeypatch.setattr(parity, "_session", lambda file, precision: Failing())
    windows = [np.arange(length, dtype=np.int32) for length in (3, 4)]
    with pytest.raises(FeatureStoreError, match=r"graph fails .* \(RuntimeError\)") as error:
        prove_graph(tmp_path / "model.onnx", "fp32", windows, np.ones((2, 8), np.float32))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("pooling", ["cls", "mean", "mean+normalize"])
def test_the_reference_is_pooled_by_hand(pooling):
    # The state of a token is its number beside a zero.
    class Numbers:
        config = SimpleNamespace(model_type="numbers")

        def __call__(self, input_ids, attention_mask):
            states = torch.stack([input_ids, torch.zeros_like(input_ids)], dim=-1)
            return SimpleNamespace(last_hidden_state=states.float())

    expected = {"cls": [1, 0], "mean": [2, 0], "mean+normalize": [1, 0]}[pooling]
    windows = [np.array([1, 2, 3], np.int32)]
    assert pytorch_vectors(Numbers(), windows, pooling).tolist() == [expected]
