"""Parity of an exported graph with PyTorch: the same windows through both, compared."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.cpu import cpu_name
from export.onnx_session import Session, Vectors, has_gpu, open_session
from export.tokenizer import Ids, WindowTokenizer, padded
from featurestore.errors import ModelError
from featurestore.synthetic.hospital import invented_notes

# How far a graph may be from PyTorch: largest absolute difference, smallest cosine of two vectors,
# and smallest mean-centred cosine.
TOLERANCES = {
    "fp32": {"max_abs_difference": 1e-4, "min_cosine": 0.99999},
    "fp16": {"min_cosine": 0.9999},
    "bf16": {"min_cosine": 0.9995, "min_cosine_centred": 0.98},
    "int8": {"min_cosine": 0.995, "min_cosine_centred": 0.8},
}
_LENGTHS = (3, 4, 7, 16, 33, 64, 128, 200, 256, 384, 511, 512, 1_000)
# Windows whose differences are compared: short and long ones differ so much from each other that
# the differences of their texts would not count.
_COMPARED, _SHORTEST, _LONGEST = 16, 64, 512


def parity_windows(window_tokenizer: WindowTokenizer) -> list[Ids]:
    """Return windows of synthetic notes: of many lengths, the longest, and _COMPARED like ones."""
    tokens = np.concatenate(list(window_tokenizer.tokens(invented_notes(40, seed=0))))
    longest = window_tokenizer.max_tokens
    special = longest - window_tokenizer.room
    lengths = {*(length for length in _LENGTHS if length <= longest), longest}
    rng = np.random.default_rng(0)
    like = rng.integers(min(longest, _SHORTEST), min(longest, _LONGEST), _COMPARED, endpoint=True)
    windows = []
    for length in (*sorted(lengths), *like.tolist()):
        start = int(rng.integers(len(tokens)))
        text = np.take(tokens, range(start, start + max(1, length - special)), mode="wrap")
        windows.append(window_tokenizer.around(text))
    return windows


def pytorch_vectors(model: Any, windows: Sequence[Ids], pooling: str) -> Vectors:
    """Return the pooled vector of each window alone, by the checkpoint's own class: (windows, dim).

    Without padding, so that a graph whose vectors depend on their batch differs from them, and
    without any code of the graph.
    """
    import torch

    kind, *normalize = pooling.split("+")
    vectors = []
    for ids in windows:
        input_ids = torch.from_numpy(ids.astype(np.int64))[None]
        attention_mask = torch.ones_like(input_ids)
        options: dict[str, Any] = {}
        if model.config.model_type == "longformer" and pooling.startswith("cls"):
            # As LongformerForSequenceClassification does.
            options["global_attention_mask"] = (torch.arange(len(ids)) == 0).long()[None]
        with torch.no_grad():
            output = model(input_ids=input_ids, attention_mask=attention_mask, **options)
        states = output.last_hidden_state[0].numpy()  # (tokens, dim)
        vector = states[0] if kind == "cls" else states.mean(axis=0)
        vectors.append(vector / np.linalg.norm(vector) if normalize else vector)
    return np.stack(vectors)


def prove_graph(
    file: Path, precision: str, windows: Sequence[Ids], reference: Vectors
) -> dict[str, Any]:
    """Return the parity with `reference` of windows alone, all in one batch, and half of them."""
    session = _session(file, precision)
    # Not the longest with all others: a batch that large does not occur.
    batch_of_all = [no for no, ids in enumerate(windows) if len(ids) <= _LENGTHS[-1]]
    batches = [[no] for no in range(len(windows))], [batch_of_all, batch_of_all[::-2]]
    parities = []
    for part in batches:
        try:
            vectors = [session.run(*padded([windows[no] for no in batch])) for batch in part]
        except Exception as error:  # the runtimes have exceptions of their own
            raise ModelError(
                f"the {precision} graph fails for some shape of a batch ({type(error).__name__}) - "
                "please report the model type; no folder was written"
            ) from None
        order = np.array([no for batch in part for no in batch])
        compared = order >= len(windows) - _COMPARED
        try:
            parities.append(
                check_parity(reference[order], np.concatenate(vectors), precision, compared)
            )
        except ModelError:
            if not parities or precision != "fp32":  # others are never quite the same
                raise
            raise ModelError(
                "the vector of a window depends on the other windows of its batch or on their "
                "padding - use another encoder; no folder was written"
            ) from None
    worst = {key: min(parity[key] for parity in parities) for key in parities[0]}
    worst["max_abs_difference"] = max(parity["max_abs_difference"] for parity in parities)
    worst["windows"] = sum(parity["windows"] for parity in parities)
    runtime = {"provider": session.provider, "runtime": session.runtime, "cpu": cpu_name()}
    return {**worst, **runtime}


def write_reference(file: Path, windows: Sequence[Ids], reference: Vectors) -> None:
    """Write windows of synthetic text and their vectors by PyTorch to an .npz file."""
    short = [no for no, ids in enumerate(windows) if len(ids) <= _LENGTHS[-1]]
    with file.open("wb") as stream:
        np.savez(
            stream,
            lengths=np.array([len(windows[no]) for no in short]),
            tokens=np.concatenate([windows[no] for no in short]),
            vectors=reference[short],
        )


def check_reference(session: Session, file: Path, precision: str) -> None:
    """Raise ModelError unless the graph gives the vectors of PyTorch on this machine as well."""
    with np.load(file, allow_pickle=False) as arrays:
        lengths, tokens, reference = (arrays[key] for key in ("lengths", "tokens", "vectors"))
    windows = np.split(tokens, np.cumsum(lengths)[:-1])
    vectors = np.concatenate([session.run(*padded([ids])) for ids in windows])
    try:
        check_parity(reference, vectors, precision, np.arange(len(windows))[-_COMPARED:])
    except ModelError as error:
        what = str(error).split(" - ")[0]
        raise ModelError(f"on this CPU ({cpu_name()}) {what} - use an fp32 model here") from None


def _session(file: Path, precision: str) -> Session:
    """Open the graph on a GPU where it is fp16 and there is one, otherwise on the CPU."""
    if precision == "fp16" and has_gpu():
        with contextlib.suppress(ModelError):  # the CUDA libraries may be missing
            return open_session(file, "cuda", precision)
    return open_session(file, "cpu", precision)


def check_parity(
    reference: Vectors, vectors: Vectors, precision: str = "fp32", compared: Any = slice(None)
) -> dict[str, Any]:
    """Return the largest difference and the smallest cosines of vectors of the same windows.

    The vectors of a model can be so alike that any two have a cosine near 1. The mean-centred
    cosine, after the mean of the rows `compared` is subtracted from them, tells how well the
    differences between notes are kept. Raises ModelError beyond TOLERANCES, and where every window
    has the same vector, as [CLS] of the embedding layer has.
    """
    # Rounding differs a little between lengths.
    if vectors.std(axis=0).max() < 1e-4 * np.abs(vectors).max():
        raise ModelError(
            "the graph gives every window the same vector, as [CLS] of the embedding layer or of a "
            "model that reads from left to right does - use --pooling mean or another checkpoint; "
            "no folder was written"
        )
    difference = float(np.abs(reference - vectors).max())
    mean = reference[compared].mean(axis=0)
    centred = (rows[compared] - mean for rows in (reference, vectors))
    cosines = {
        "min_cosine": _smallest_cosine(reference, vectors),
        "min_cosine_centred": _smallest_cosine(*centred),
    }
    tolerance = TOLERANCES[precision]
    limit = tolerance.get("max_abs_difference", np.inf)
    if not difference <= limit:  # NaN fails as well
        raise ModelError(
            f"the graph differs from PyTorch by {difference:.1e}, more than {limit:.0e} - please "
            "report the model type; no folder was written"
        )
    for key, name in (("min_cosine", "cosine"), ("min_cosine_centred", "mean-centred cosine")):
        least = tolerance.get(key, -1.0)
        if not cosines[key] >= least:
            raise ModelError(
                f"the {precision} graph has a {name} of {cosines[key]:.5f} to PyTorch, less than "
                f"{least} - export the checkpoint as fp32; no folder was written"
            )
    return {
        "max_abs_difference": difference,
        **cosines,
        "windows": len(vectors),
    }


def _smallest_cosine(a: Vectors, b: Vectors) -> float:
    """Return the smallest cosine of two rows; NaN where a row is zero."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    with np.errstate(invalid="ignore"):
        return float(((a * b).sum(axis=1) / norms).min())
