"""ModernBERT's graph for GPUs, run on a CPU: ONNX Runtime has kernels of its nodes for both."""

import collections

import numpy as np
import onnx
import pytest
import torch
from transformers import ModernBertConfig, ModernBertModel

from export.onnx_export import quantization
from export.onnx_export.exporter import _write_graph
from export.onnx_export.parity import pytorch_vectors
from export.onnx_session import open_session
from export.tokenizer import padded

pytestmark = pytest.mark.slow


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write the graph for GPUs of a small random ModernBERT in fp32; return it and the model."""
    monkeypatch.setattr(quantization, "convert_to_fp16", lambda graph, fused_layers: graph)

    def write(pooling, layers, **options):
        torch.manual_seed(0)
        config = ModernBertConfig(
            vocab_size=300, hidden_size=128, num_attention_heads=2, intermediate_size=96,
            num_hidden_layers=layers, max_position_embeddings=1_024, pad_token_id=0,
            bos_token_id=1, cls_token_id=1, eos_token_id=2, sep_token_id=2, **options,
        )  # fmt: skip
        model = ModernBertModel(config).eval()
        for weight in model.parameters():  # attention that tells tokens apart, biases that count
            weight.data = weight.data * 3 if weight.dim() > 1 else weight.data.normal_(1.0, 0.1)
        settings = {"pooling": pooling, "max_tokens": 1_024, "precision": "fp16"}
        _write_graph("small", model, tmp_path / "model.onnx", settings, 20)
        return tmp_path / "model.onnx", model

    return write


def windows_of(lengths):
    rng = np.random.default_rng(0)
    return [rng.integers(3, 300, length).astype(np.int32) for length in lengths]


@pytest.mark.parametrize(
    ("pooling", "layers", "options"),
    [
        pytest.param("cls", 4, {}, id="whose last layer sees all tokens"),
        pytest.param("cls", 3, {"local_attention": 8}, id="whose last layer sees four on a side"),
        pytest.param("mean", 3, {"local_attention": 200}, id="that sees a hundred on either side"),
        pytest.param(
            "mean+normalize",
            2,
            {"norm_bias": True, "attention_bias": True, "mlp_bias": True},
            id="with biases",
        ),
    ],
)
def test_vectors_equal_those_of_pytorch_alone_and_in_any_batch(write, pooling, layers, options):
    file, model = write(pooling, layers, **options)
    # Around parts of 64 tokens and blocks of 256, in batches of 1 to 10 windows.
    windows = windows_of([3, 63, 64, 65, 255, 256, 257, 320, 700, 1_024])
    expected = pytorch_vectors(model, windows, pooling)
    session = open_session(file, "cpu")
    for batch in ([[no] for no in range(10)], [[0, 1, 2], [3, 4], [9, 0, 5, 1, 8]], [[*range(10)]]):
        for numbers in batch:
            vectors = session.run(*padded([windows[no] for no in numbers]))
            assert vectors == pytest.approx(expected[numbers], abs=1e-5)


def test_each_layer_but_the_last_has_one_node_for_attention_and_one_for_each_norm(write):
    file, _ = write("cls", 4)
    nodes = collections.Counter(
        node.op_type for node in onnx.load(file).graph.node if node.domain == "com.microsoft"
    )
    # Queries and keys are rotated apart; the first layer has no norm before attention.
    expected = {"MultiHeadAttention": 3, "RotaryEmbedding": 6, "SkipLayerNormalization": 5}
    assert nodes == expected
