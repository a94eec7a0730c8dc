"""Texts to [CLS] vectors: an exported model under ONNX Runtime."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from export.model_folder import CLASSIFIER_HEAD, MODEL, TOKENIZER, read_manifest
from export.session import open_session
from export.tokenizer import Ids, clean, load_tokenizer, padded, windows
from featurestore.errors import FeatureStoreError

# Word pieces in one batch: enough to keep the cores busy, little enough to stay in their caches.
_TOKENS_ON_CPU = 1_024
_TOKENS_ON_CUDA = 65_536
_LENGTHS_ON_CUDA = 64  # lengths are rounded up to its multiples, so that few shapes are planned


@dataclass
class Windows:
    """The vectors of some texts, a row for each window, ordered by text and window.

    A text without a single word piece has no row.
    """

    text_no: npt.NDArray[np.int32]  # (windows,) which text, from 0
    window_no: npt.NDArray[np.int32]  # (windows,) which window of it, from 0
    n_tokens: npt.NDArray[np.int32]  # (windows,) word pieces, [CLS] and [SEP] included
    vectors: npt.NDArray[np.float32]  # (windows, dim)


class Encoder(Protocol):
    """Whatever turns texts into vectors. `id` changes whenever the vectors would."""

    @property
    def id(self) -> str: ...

    @property
    def manifest(self) -> dict[str, Any]: ...

    @property
    def provider(self) -> str:
        """What it really runs on."""
        ...

    @property
    def budget(self) -> int:
        """How many word pieces one pass takes, padding included."""
        ...

    @property
    def head(self) -> bytes | None:
        """What it classifies [CLS] with (classifier_head.npz), if it was fine-tuned to."""
        ...

    def tokenize(self, texts: Sequence[str]) -> list[list[Ids]]:
        """The windows of each text; none for a text without a word piece."""
        ...

    def run(self, batch: list[Ids]) -> npt.NDArray[np.float32]:
        """One pass of the model, the longest window first: (windows, dim)."""
        ...


class OnnxEncoder:
    """A model folder, checked and loaded on a device.

    `device` is cpu, cuda, or auto: cuda where the machine has an NVIDIA driver, else cpu; int8
    models are for CPUs and fp16 models for GPUs. `provider` is what ONNX Runtime really uses.
    Raises FeatureStoreError for a changed or wrong folder, where CUDA was asked for and not got,
    and where the model is for another device.
    """

    def __init__(self, folder: str | Path, device: str = "auto", threads: int | None = None):
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self._window_tokenizer = load_tokenizer(
            self.folder / TOKENIZER, self.manifest["max_tokens"], self.manifest["stride"]
        )
        device = _device(device, self.manifest["precision"], self.folder)
        self._session = open_session(self.folder / MODEL, device, threads)
        self.provider: str = self._session.get_providers()[0]
        self._on_cuda = self.provider == "CUDAExecutionProvider"
        self.budget = _TOKENS_ON_CUDA if self._on_cuda else _TOKENS_ON_CPU

    @property
    def id(self) -> str:
        encoder_id: str = self.manifest["encoder_id"]
        return encoder_id

    @property
    def head(self) -> bytes | None:
        return (
            (self.folder / CLASSIFIER_HEAD).read_bytes()
            if CLASSIFIER_HEAD in self.manifest["files"]
            else None
        )

    def encode(self, texts: Sequence[str]) -> Windows:
        """The [CLS] vector of every window of every text, order kept."""
        return encode(self, self.tokenize(texts))

    def tokenize(self, texts: Sequence[str]) -> list[list[Ids]]:
        """The windows of each text, in the Rust tokenizer's own threads."""
        return windows(
            self._window_tokenizer, [clean(text, self.manifest["cleaning"]) for text in texts]
        )

    def run(self, batch: list[Ids]) -> npt.NDArray[np.float32]:
        """One pass of the model, the longest window first: (windows, dim)."""
        if not self._on_cuda:
            input_ids, attention_mask = padded(batch)
            feed = {"input_ids": input_ids, "attention_mask": attention_mask}
            cls: npt.NDArray[np.float32] = self._session.run(["cls"], feed)[0]
            return cls
        rows, tokens = fixed_shape(len(batch), len(batch[0]), self.manifest["max_tokens"])
        input_ids, attention_mask = padded(batch, rows, tokens)
        binding = self._session.io_binding()
        binding.bind_cpu_input("input_ids", input_ids)
        binding.bind_cpu_input("attention_mask", attention_mask)
        binding.bind_output("cls", "cpu")
        self._session.run_with_iobinding(binding)
        cls = binding.copy_outputs_to_cpu()[0]
        return cls[: len(batch)]


def encode(
    encoder: Encoder, cut: list[list[Ids]], passed: Callable[[int, int], None] | None = None
) -> Windows:
    """The vectors of the windows of some texts, order kept.

    `passed` is told of every pass how many word pieces it took, and how many were padding.
    """
    flat = [ids for parts in cut for ids in parts]
    # Text that is copied forward gives the same windows again: the model sees each once.
    seen: dict[bytes, int] = {}
    places = [seen.setdefault(ids.tobytes(), len(seen)) for ids in flat]
    unique = [np.frombuffer(ids, np.int32) for ids in seen]
    vectors = np.empty((len(unique), encoder.manifest["dim"]), np.float32)  # (unique, dim)
    for batch in batches([len(ids) for ids in unique], encoder.budget):
        of_batch = encoder.run([unique[no] for no in batch])
        if of_batch.shape != (len(batch), vectors.shape[1]):
            raise FeatureStoreError(
                f"{encoder.id} made vectors of shape {of_batch.shape} where "
                f"{(len(batch), vectors.shape[1])} was expected - export the model again"
            )
        vectors[batch] = of_batch
        if passed:
            tokens = sum(len(unique[no]) for no in batch)
            passed(tokens, len(batch) * len(unique[batch[0]]) - tokens)
    return Windows(
        text_no=np.repeat(np.arange(len(cut), dtype=np.int32), [len(parts) for parts in cut]),
        window_no=np.array([no for parts in cut for no in range(len(parts))], np.int32),
        n_tokens=np.array([len(ids) for ids in flat], np.int32),
        vectors=vectors[places],
    )


def batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Windows grouped so that a batch, padded to its longest, holds at most `budget` word pieces.

    Like lengths share a batch, so that little of it is padding. Each window is in one batch.
    """
    grouped: list[list[int]] = []
    longest = 0
    for no in sorted(range(len(lengths)), key=lambda no: -lengths[no]):
        if not grouped or (len(grouped[-1]) + 1) * longest > budget:
            grouped.append([])
            longest = lengths[no]
        grouped[-1].append(no)
    return grouped


def fixed_shape(windows: int, tokens: int, max_tokens: int) -> tuple[int, int]:
    """The shape that a batch is filled up to on a GPU: few shapes, so that each is planned once."""
    rows = 1 << (windows - 1).bit_length()
    return rows, min(max_tokens, -(-tokens // _LENGTHS_ON_CUDA) * _LENGTHS_ON_CUDA)


def _device(device: str, precision: str, folder: Path) -> str:
    if device == "auto":
        drivers = (Path("/proc/driver/nvidia/version"), Path("/dev/dxg"))
        there = any(driver.exists() for driver in drivers)
        device = "cuda" if there and precision != "int8" else "cpu"
    if (device, precision) == ("cpu", "fp16"):
        raise FeatureStoreError(
            f"{folder} is an fp16 model, which a CPU computes many times slower - export the "
            "checkpoint as fp32 or int8"
        )
    if (device, precision) == ("cuda", "int8"):
        raise FeatureStoreError(
            f"{folder} is an int8 model, which a GPU has no kernels for - export the checkpoint "
            "as fp16 or fp32"
        )
    return device
