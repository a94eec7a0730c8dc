"""Parity of an exported graph with PyTorch: the same windows through both, compared."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.onnx_session import open_session
from export.tokenizer import Ids, WindowTokenizer, padded
from featurestore.errors import ModelError
from featurestore.synthetic.hospital import invented_notes

Vectors = npt.NDArray[np.float32]  # (windows, dim)

# How far a graph may be from PyTorch: largest absolute difference, smallest cosine of two vectors.
TOLERANCES = {
    "fp32": {"max_abs_difference": 1e-4, "min_cosine": 0.99999},
    "fp16": {"min_cosine": 0.9999},
    "int8": {"min_cosine": 0.995},
}
_INT8_CENTRED = 0.9  # below this mean-centred cosine, int8 is scaled by token
_LENGTHS = (3, 4, 7, 16, 33, 64, 128, 200, 256, 384, 511, 512)


def synthetic_windows(window_tokenizer: WindowTokenizer, notes: int, seed: int) -> list[Ids]:
    """Return the windows of `notes` synthetic notes."""
    texts = invented_notes(notes, seed)
    return [window for of_text in window_tokenizer.windows(texts) for window in of_text]


def parity_batches(window_tokenizer: WindowTokenizer) -> list[list[Ids]]:
    """Return batches of text windows of many lengths: each alone, all together, some together."""
    whole = synthetic_windows(window_tokenizer, 40, seed=0)
    cls, sep = whole[0][0], whole[0][-1]
    tokens = np.concatenate([window[1:-1] for window in whole])
    rng = np.random.default_rng(0)

    def window(length: int) -> Ids:
        start = int(rng.integers(0, len(tokens) - length))
        text = tokens[start : start + length - 2]
        return np.concatenate([[cls], text, [sep]]).astype(np.int32)

    lengths = [length for length in _LENGTHS if length <= window_tokenizer.max_tokens]
    every_length = [window(length) for length in lengths]
    some_lengths = [window(length) for length in lengths[::-2]]
    return [*([one] for one in every_length), every_length, some_lengths]


def pytorch_vectors(model: Any, batches: list[list[Ids]]) -> Vectors:
    """Return [CLS] of the windows as the checkpoint's own class computes it: (windows, dim)."""
    import torch

    vectors = []
    for batch in batches:
        input_ids, attention_mask = padded(batch)
        # RoBERTa derives positions from its padding id.
        input_ids = np.where(attention_mask == 1, input_ids, model.config.pad_token_id or 0)
        with torch.no_grad():
            output = model(torch.from_numpy(input_ids), torch.from_numpy(attention_mask))
        vectors.append(output.last_hidden_state[:, 0].numpy())
    return np.concatenate(vectors)


def graph_vectors(file: Path, batches: list[list[Ids]], precision: str) -> tuple[Vectors, str]:
    """Return [CLS] of the windows as the graph computes it, and the provider it ran on."""
    session = _session(file, precision)
    vectors = []
    for batch in batches:
        input_ids, attention_mask = padded(batch)
        feed = {"input_ids": input_ids, "attention_mask": attention_mask}
        vectors.append(session.run(["cls"], feed)[0])
    return np.concatenate(vectors), session.get_providers()[0]


def _session(file: Path, precision: str) -> Any:
    """Open the graph on a GPU where it is fp16 and there is one, otherwise on the CPU."""
    if precision == "fp16" and Path("/proc/driver/nvidia/version").exists():
        with contextlib.suppress(ModelError):  # the CUDA libraries may be missing
            return open_session(file, "cuda")
    return open_session(file, "cpu")


def check_parity(reference: Vectors, vectors: Vectors, precision: str = "fp32") -> dict[str, Any]:
    """Return the largest difference and the smallest cosines of vectors of the same windows.

    The vectors of a model can be so alike that any two have a cosine near 1. The mean-centred
    cosine, after the mean of `reference` is subtracted, tells how well the differences between
    notes are kept. Raises ModelError beyond TOLERANCES, and where every window has the same vector,
    as [CLS] of the embedding layer has.
    """
    difference = float(np.abs(reference - vectors).max())
    cosine, centred = _smallest_cosines(reference, vectors)
    max_difference = TOLERANCES[precision].get("max_abs_difference")
    min_cosine = TOLERANCES[precision]["min_cosine"]
    if max_difference is not None and not difference <= max_difference:  # NaN fails as well
        raise ModelError(
            f"the graph differs from PyTorch by {difference:.1e}, more than {max_difference:.0e} "
            "- please report the model type; no folder was written"
        )
    if not cosine >= min_cosine:
        raise ModelError(
            f"the {precision} graph has a cosine of {cosine:.5f} to PyTorch, less than "
            f"{min_cosine} - export the checkpoint as fp32; no folder was written"
        )
    if vectors.std(axis=0).max() < 1e-6:
        raise ModelError(
            "the graph gives every window the same vector, as the embedding layer's [CLS] does - "
            "export the last layer of a trained model; no folder was written"
        )
    return {
        "max_abs_difference": difference,
        "min_cosine": cosine,
        "min_cosine_centred": centred,
        "windows": len(vectors),
    }


def needs_scale_by_token(reference: Vectors, vectors: Vectors) -> bool:
    """Return whether an int8 graph is too far from PyTorch with one scale per batch."""
    cosine, centred = _smallest_cosines(reference, vectors)
    return not (cosine >= TOLERANCES["int8"]["min_cosine"] and centred >= _INT8_CENTRED)


def _smallest_cosines(reference: Vectors, vectors: Vectors) -> tuple[float, float]:
    """Return the smallest cosine and mean-centred cosine; NaN where `reference` is constant."""
    mean = reference.mean(axis=0)
    cosines = []
    for a, b in ((reference, vectors), (reference - mean, vectors - mean)):
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        with np.errstate(invalid="ignore"):
            cosines.append(float(((a * b).sum(axis=1) / norms).min()))
    return cosines[0], cosines[1]
