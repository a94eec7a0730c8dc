"""Vectors equal those of PyTorch, whatever else is in their batch."""

import subprocess
import sys

import numpy as np
import pytest

from batch.embedding.encoder import OnnxEncoder, batches, fixed_shape
from featurestore.errors import ModelError
from tests.pytorch import vectors_by_pytorch


@pytest.fixture(scope="module")
def encoder(model):
    return OnnxEncoder(model, device="cpu")


@pytest.mark.parametrize("words", [1, 30, 62, 63, 200, 700])
def test_vectors_are_those_of_pytorch(encoder, checkpoint, write_prose, words):
    text = write_prose(words)
    ours = encoder.encode_windows([text])
    assert ours.vectors == pytest.approx(vectors_by_pytorch(checkpoint, text), abs=1e-5)
    assert ours.window_no.tolist() == list(range(len(ours.vectors)))


def test_a_note_has_the_same_vectors_alone_and_in_a_mixed_batch(encoder, checkpoint, write_prose):
    texts = [write_prose(words, seed) for seed, words in enumerate((3, 500, 40, 90, 1, 64, 250))]
    ours = encoder.encode_windows(texts)
    for no, text in enumerate(texts):
        assert ours.vectors[ours.text_no == no] == pytest.approx(
            vectors_by_pytorch(checkpoint, text), abs=1e-5
        )


def test_a_copied_text_gets_its_own_rows(encoder, write_prose):
    text = write_prose(150)
    ours = encoder.encode_windows([text, "chest pain", text])
    windows = len(ours.vectors[ours.text_no == 0])
    assert ours.text_no.tolist() == [0] * windows + [1] + [2] * windows
    assert np.array_equal(ours.vectors[ours.text_no == 0], ours.vectors[ours.text_no == 2])


def test_a_text_without_tokens_has_no_row(encoder):
    ours = encoder.encode_windows(["", "[**2101-1-1**]", "pain"])
    assert ours.text_no.tolist() == [2]
    assert encoder.encode_windows([]).vectors.shape == (0, 128)


def test_texts_become_a_matrix_with_the_mean_of_the_windows_of_each(
    encoder, checkpoint, write_prose
):
    texts = [write_prose(200, seed=1), "chest pain", ""]
    matrix = encoder.encode(texts)
    assert (matrix.shape, matrix.dtype) == ((3, 128), np.float32)
    for vector, text in zip(matrix, texts[:2], strict=False):
        expected = vectors_by_pytorch(checkpoint, text).mean(axis=0)
        assert vector == pytest.approx(expected, abs=1e-5)
    assert np.isnan(matrix[2]).all()
    assert encoder.encode([]).shape == (0, 128)
    assert np.isnan(encoder.encode([""])).all()
    with pytest.raises(TypeError, match=r"one text was given .* write \[text\]"):
        encoder.encode("chest pain")


@pytest.mark.parametrize("budget", [1, 64, 128, 10_000])
def test_every_window_is_in_one_batch_within_the_budget(budget):
    lengths = [3, 64, 12, 64, 7, 50, 51, 3]
    grouped = batches(lengths, budget)
    assert sorted(no for batch in grouped for no in batch) == list(range(len(lengths)))
    for batch in grouped:
        padded = max(lengths[no] for no in batch) * len(batch)
        assert padded <= budget or len(batch) == 1


def test_batches_on_a_gpu_have_few_shapes():
    assert fixed_shape(1, 3, 512) == (1, 64)
    assert fixed_shape(5, 65, 512) == (8, 128)
    assert fixed_shape(128, 512, 512) == (128, 512)
    assert fixed_shape(3, 130, 150) == (4, 150)
    assert fixed_shape(146, 448, 512) == (146, 448)  # a full batch gets no further rows


def test_batches_on_a_gpu_are_within_the_budget_when_padded():
    budget = 65_536
    lengths = [3 + no * 7919 % 510 for no in range(5_000)]  # as many of each length from 3 to 512
    shapes = [
        (*fixed_shape(len(batch), lengths[batch[0]], 512), len(batch))
        for batch in batches(lengths, budget)
    ]
    assert max(rows * tokens for rows, tokens, _ in shapes) <= budget
    assert all(rows == windows for rows, _, windows in shapes[:-1])  # only the last has empty rows
    computed = sum(rows * tokens for rows, tokens, _ in shapes)
    assert computed < 1.2 * sum(lengths)  # 1.77 times with rows rounded up to a power of two


def test_vectors_by_the_code_for_gpus_are_the_same(model, checkpoint, write_prose):
    # The fixed shapes and bound inputs of CUDA, run on the CPU.
    encoder = OnnxEncoder(model, device="cpu")
    encoder._on_cuda = True
    texts = [write_prose(words, seed) for seed, words in enumerate((3, 150, 40, 1))]
    ours = encoder.encode_windows(texts)
    for no, text in enumerate(texts):
        assert ours.vectors[ours.text_no == no] == pytest.approx(
            vectors_by_pytorch(checkpoint, text), abs=1e-5
        )


def test_cuda_that_is_requested_but_not_available_is_an_error(model):
    import onnxruntime

    if onnxruntime.get_device() == "GPU" and "CUDAExecutionProvider" in (
        onnxruntime.get_available_providers()
    ):
        pytest.importorskip("torch")
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
    with pytest.raises(ModelError, match="cuda"):
        OnnxEncoder(model, device="cuda")


def test_a_changed_model_is_refused_before_it_is_loaded(model, tmp_path):
    import shutil

    copy = shutil.copytree(model, tmp_path / "copy")
    (copy / "model.onnx").write_bytes(b"\x80\x04]\x94.")  # a pickle
    with pytest.raises(ModelError, match="has changed since the export"):
        OnnxEncoder(copy)


def test_a_nightly_machine_needs_no_torch(model):
    script = f"""
import sys
from featurestore import OnnxEncoder
OnnxEncoder({str(model)!r}, device="cpu").encode_windows(["chest pain"])
assert not {{"torch", "transformers"}} & set(sys.modules), "torch was imported"
"""
    subprocess.run([sys.executable, "-c", script], check=True)
