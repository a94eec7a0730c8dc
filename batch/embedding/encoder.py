"""Turn texts into vectors with an exported model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from export.cpu import cpu_name
from export.model_folder import CLASSIFIER_HEAD, MODEL, REFERENCE, TOKENIZER, read_manifest
from export.onnx_export.parity import check_reference
from export.onnx_session import PRECISIONS_OF_CPUS, Session, has_gpu, open_session
from export.tokenizer import Ids, WindowTokenizer, clean, padded
from featurestore.errors import ModelError

# Tokens in one batch: enough to keep the cores busy, few enough to stay in their caches.
_TOKENS_ON_CPU = 1_024
_TOKENS_ON_CUDA = 65_536
_LENGTH_STEPS = 1_024  # lengths are rounded up to a multiple of the budget divided by this


@dataclass
class Windows:
    """The vectors of texts, a row for each window, ordered by text and window.

    A text without tokens has no row.
    """

    text_no: npt.NDArray[np.int32]  # (windows,) index of the text
    window_no: npt.NDArray[np.int32]  # (windows,) index of the window in its text
    n_tokens: npt.NDArray[np.int32]  # (windows,) special tokens included
    vectors: npt.NDArray[np.float32]  # (windows, dim)

    def means(self, n_texts: int) -> npt.NDArray[np.float32]:
        """Return the mean vector of each text (texts, dim); NaN for a text without a window."""
        counts = np.bincount(self.text_no, minlength=n_texts)
        has_windows = counts > 0
        means = np.full((n_texts, self.vectors.shape[1]), np.nan, np.float32)
        first = (np.cumsum(counts) - counts)[has_windows]
        sums = np.add.reduceat(self.vectors, first, axis=0, dtype=np.float64)
        means[has_windows] = sums / counts[has_windows, None]
        return means


class Encoder(Protocol):
    """Whatever turns texts into vectors. `id` must change whenever the vectors would."""

    @property
    def id(self) -> str: ...

    @property
    def manifest(self) -> dict[str, Any]: ...

    @property
    def provider(self) -> str:
        """The device that it really runs on."""
        ...

    @property
    def budget(self) -> int:
        """The number of tokens in one batch, padding included."""
        ...

    @property
    def classifier_head(self) -> bytes | None:
        """The classification head of the checkpoint (.npz), if it was fine-tuned."""
        ...

    def tokenize(self, texts: Sequence[str]) -> list[list[Ids]]:
        """Return the windows of each text; none for a text without tokens."""
        ...

    def run(self, batch: list[Ids]) -> npt.NDArray[np.float32]:
        """Return the vectors (windows, dim) of a batch, whose first window is the longest."""
        ...


class OnnxEncoder:
    """A model folder, checked and loaded on a device.

    `device` is cpu, cuda, or auto: cuda if the machine has an NVIDIA driver, else cpu. bf16 and
    int8 models run on CPUs only and fp16 models on GPUs only. On another CPU than that of the
    export, or with another OpenVINO, bf16 and int8 models are compared with PyTorch's vectors once
    more. `provider` is what the model really runs on. Without `load` the folder is only checked,
    and the model is loaded at its first use: on Ray the workers load it. Raises ModelError if the
    folder is wrong or changed, if the device or its instructions are not available, and if the
    model is for another device.
    """

    def __init__(
        self,
        folder: str | Path,
        device: str = "auto",
        threads: int | None = None,
        load: bool = True,
    ) -> None:
        self.folder = Path(folder)
        self.device = device
        self.manifest = read_manifest(self.folder)
        self._threads = threads
        self._window_tokenizer = WindowTokenizer.from_file(
            self.folder / TOKENIZER, self.manifest["max_tokens"], self.manifest["stride"]
        )
        if load:
            _ = self.budget  # it depends on the session

    @cached_property
    def _session(self) -> Session:
        precision = self.manifest["precision"]
        device = _device(self.device, precision, self.folder)
        session = open_session(self.folder / MODEL, device, precision, self._threads)
        proven_on = [self.manifest["parity"][key] for key in ("runtime", "cpu")]
        if precision in PRECISIONS_OF_CPUS and proven_on != [session.runtime, cpu_name()]:
            check_reference(session, self.folder / REFERENCE, precision)
        return session

    @cached_property
    def provider(self) -> str:
        return self._session.provider

    @cached_property
    def _on_cuda(self) -> bool:
        return self.provider == "CUDAExecutionProvider"

    @cached_property
    def budget(self) -> int:
        return _TOKENS_ON_CUDA if self._on_cuda else _TOKENS_ON_CPU

    @property
    def id(self) -> str:
        encoder_id: str = self.manifest["encoder_id"]
        return encoder_id

    @property
    def classifier_head(self) -> bytes | None:
        if CLASSIFIER_HEAD not in self.manifest["files"]:
            return None
        return (self.folder / CLASSIFIER_HEAD).read_bytes()

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return a vector per text (texts, dim), the mean of its windows.

        A text without tokens has a row of NaN.
        """
        return self.encode_windows(texts).means(len(texts))

    def encode_windows(self, texts: Sequence[str]) -> Windows:
        """Return the vector of every window of every text, in order."""
        if isinstance(texts, str):  # whose letters would be texts
            raise TypeError("one text was given where a list of texts is expected - write [text]")
        return encode(self, self.tokenize(texts))

    def tokenize(self, texts: Sequence[str]) -> list[list[Ids]]:
        """Return the windows of each text; the Rust tokenizer uses its own threads."""
        return self._window_tokenizer.windows(
            [clean(text, self.manifest["cleaning"]) for text in texts]
        )

    def run(self, batch: list[Ids]) -> npt.NDArray[np.float32]:
        """Return the vectors (windows, dim) of a batch, whose first window is the longest."""
        if not self._on_cuda:
            return self._session.run(*padded(batch))
        rows, tokens = fixed_shape(len(batch), len(batch[0]), self.manifest["max_tokens"])
        return self._session.run(*padded(batch, rows, tokens))[: len(batch)]


def encode(
    encoder: Encoder,
    text_windows: list[list[Ids]],
    on_batch: Callable[[int, int], None] | None = None,
) -> Windows:
    """Return the vectors of the windows of each text, in order.

    `on_batch` is called after every batch with its numbers of tokens and of padding.
    """
    flat = [ids for windows_of_text in text_windows for ids in windows_of_text]
    # Text that is copied forward gives the same windows again: the model sees each once.
    unique_no: dict[bytes, int] = {}
    row_of_window = [unique_no.setdefault(ids.tobytes(), len(unique_no)) for ids in flat]
    unique = [np.frombuffer(ids, np.int32) for ids in unique_no]
    vectors = np.empty((len(unique), encoder.manifest["dim"]), np.float32)  # (unique, dim)
    for batch in batches([len(ids) for ids in unique], encoder.budget):
        batch_vectors = encoder.run([unique[no] for no in batch])
        if batch_vectors.shape != (len(batch), vectors.shape[1]):
            raise ModelError(
                f"{encoder.id} made vectors of shape {batch_vectors.shape} where "
                f"{(len(batch), vectors.shape[1])} was expected - export the model again"
            )
        vectors[batch] = batch_vectors
        if on_batch:
            tokens = sum(len(unique[no]) for no in batch)
            on_batch(tokens, len(batch) * len(unique[batch[0]]) - tokens)
    counts = [len(windows_of_text) for windows_of_text in text_windows]
    return Windows(
        text_no=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        window_no=np.array([no for count in counts for no in range(count)], np.int32),
        n_tokens=np.array([len(ids) for ids in flat], np.int32),
        vectors=vectors[row_of_window],
    )


def batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group windows so that a batch holds at most `budget` tokens, padding included.

    Returns indices of `lengths`. Windows of similar length share a batch, so that little of it is
    padding.
    """
    grouped: list[list[int]] = []
    longest = 0
    for no in sorted(range(len(lengths)), key=lambda no: -lengths[no]):
        if not grouped or (len(grouped[-1]) + 1) * longest > budget:
            grouped.append([])
            longest = _round_up(lengths[no], budget)
        grouped[-1].append(no)
    return grouped


def fixed_shape(windows: int, tokens: int, max_tokens: int) -> tuple[int, int]:
    """Return the shape that a batch is padded to on a GPU: few shapes, each planned once.

    A full batch has one shape for each rounded length; the rows of others are a power of two.
    """
    tokens = min(max_tokens, _round_up(tokens, _TOKENS_ON_CUDA))
    full = _TOKENS_ON_CUDA // tokens
    return max(windows, min(full, 1 << (windows - 1).bit_length())), tokens


def _round_up(tokens: int, budget: int) -> int:
    """Round a length up to a multiple of 64 tokens on a GPU; on a CPU it is unchanged."""
    step = max(1, budget // _LENGTH_STEPS)
    return -(-tokens // step) * step


def _device(device: str, precision: str, folder: Path) -> str:
    if device == "auto":
        device = "cuda" if has_gpu() and precision not in PRECISIONS_OF_CPUS else "cpu"
    if (device, precision) == ("cpu", "fp16"):
        raise ModelError(
            f"{folder} is an fp16 model, which is many times slower on a CPU - export the "
            "checkpoint as fp32 or bf16"
        )
    if device == "cuda" and precision in PRECISIONS_OF_CPUS:
        raise ModelError(
            f"{folder} is a model in {precision}, which runs on CPUs only - export the checkpoint "
            "as fp16 or fp32"
        )
    return device
