"""From a checkpoint to a model folder: the graph whose one output is [CLS] of the last layer."""

import contextlib
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.checkpoint import checkpoint_info, load_checkpoint, quiet_loggers
from export.model_folder import HEAD, MODEL, TOKENIZER, write_manifest
from export.onnx_export.classifier_head import write_classifier_head
from export.output_folder import atomic_folder
from export.tokenizer import CLEANINGS, Ids, WindowTokenizer, make_window_tokenizer, padded, windows
from featurestore.errors import FeatureStoreError

# What a graph may differ from PyTorch by: the largest absolute difference of a number, and the
# smallest cosine of a vector.
TOLERANCES = {
    "fp32": {"max_abs_difference": 1e-4, "min_cosine": 0.99999},
    "fp16": {"min_cosine": 0.9999},
    "int8": {"min_cosine": 0.995},
}
PRECISIONS = tuple(TOLERANCES)
Vectors = npt.NDArray[np.float32]  # (windows, dim)
_LENGTHS = (3, 4, 7, 16, 33, 64, 128, 200, 256, 384, 511, 512)


def export(
    checkpoint: str | Path,
    folder: str | Path,
    name: str | None = None,
    max_tokens: int | None = None,
    stride: int = 0,
    cleaning: str = "deid-v1",
    precision: str = "fp32",
    opset: int = 20,
) -> dict[str, Any]:
    """Export a checkpoint (a folder, or a hub name) for [CLS] extraction; return its parity.

    The checkpoint is a BERT, RoBERTa or DistilBERT, with or without a head. The graph takes
    `input_ids` and `attention_mask` (windows, tokens), padded on the right, and gives `cls`
    (windows, dim) float32: row 0 of the last layer's hidden states. `precision` is fp32, int8
    (for CPUs: weights of 7 bits a channel, activations quantized as they come, and scaled token
    by token where the model needs it) or fp16 (for GPUs: attention in fused nodes). It is compared
    with PyTorch before the folder gets its name, so that there is a whole and proven folder or
    none. `max_tokens` is the model's own limit where it is not given. Raises FeatureStoreError.
    """
    import torch
    import transformers

    from export.onnx_export.graph import Cls, position_limit, scale_by_token, smooth_quant

    folder = Path(folder)
    if folder.exists():
        raise FeatureStoreError(f"{folder} exists already - give the model another folder")
    for what, value, known in (
        ("cleaning", cleaning, CLEANINGS),
        ("precision", precision, PRECISIONS),
    ):
        if value not in known:
            raise FeatureStoreError(f"unknown {what} {value} - use one of {', '.join(known)}")
    if name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise FeatureStoreError(f"{name!r} is no name for a model - use letters, digits, - . and _")
    name = name or re.sub(r"[^A-Za-z0-9._]+", "-", Path(str(checkpoint)).name).strip("-").lower()
    model, checkpoint_tokenizer = load_checkpoint(checkpoint, transformers.AutoModel)
    model.eval()
    graph = Cls(model, fused=precision == "fp16").eval()
    limit = position_limit(model.config)
    max_tokens = max_tokens or limit
    if max_tokens > limit:
        raise FeatureStoreError(
            f"{checkpoint} has {limit} positions, windows of {max_tokens} do not fit - give "
            f"--max-tokens {limit} or less"
        )
    window_tokenizer = make_window_tokenizer(
        checkpoint_tokenizer.backend_tokenizer, max_tokens, stride
    )
    settings = {
        "cleaning": cleaning,
        "max_tokens": max_tokens,
        "stride": stride,
        "pooling": "cls",
        "precision": precision,
    }
    with atomic_folder(folder) as draft:
        proof = _proof_windows(window_tokenizer)
        if precision == "int8":
            text = _text_windows(window_tokenizer, 16, seed=1)
            smooth_quant(graph, (_tensors(padded([window])) for window in text))
        pytorch = _by_pytorch(model, proof)
        _write_graph(graph, draft / MODEL, max_tokens, opset, precision)
        vectors, provider = _by_graph(draft / MODEL, proof, precision)
        if precision == "int8" and not _close(pytorch, vectors):
            scale_by_token(graph)  # a slower graph, so only where it has to be
            _write_graph(graph, draft / MODEL, max_tokens, opset, precision)
            vectors, provider = _by_graph(draft / MODEL, proof, precision)
        parity = {**check_parity(pytorch, vectors, precision), "provider": provider}
        window_tokenizer.tokenizer.save(str(draft / TOKENIZER))
        write_classifier_head(checkpoint, model.config, draft / HEAD)
        encoder_id = write_manifest(
            draft,
            name,
            settings,
            dim=int(model.config.hidden_size),
            layers=int(model.config.num_hidden_layers),
            family=model.config.model_type,
            checkpoint=checkpoint_info(checkpoint, model.config),
            parity=parity,
            opset=opset,
            versions={"torch": torch.__version__, "transformers": transformers.__version__},
        )
    return {"encoder_id": encoder_id, **parity}


def _write_graph(graph: Any, file: Path, max_tokens: int, opset: int, precision: str) -> None:
    import onnx
    import torch
    from onnxruntime import quantization

    ids = torch.ones((2, min(16, max_tokens)), dtype=torch.int64)
    rows, tokens = torch.export.Dim("windows"), torch.export.Dim("tokens", max=max_tokens)
    shape = {0: rows, 1: tokens}
    with warnings.catch_warnings(), quiet_loggers("torch.onnx", "onnxscript", "onnx_ir", "root"):
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        torch.onnx.export(
            graph,
            (ids, torch.ones_like(ids)),
            str(file),
            input_names=["input_ids", "attention_mask"],
            output_names=["cls"],
            dynamic_shapes=(shape, shape),
            opset_version=opset,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        if precision == "int8":
            wide = file.rename(file.with_suffix(".fp32"))
            quantization.quantize_dynamic(
                wide,
                file,
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                reduce_range=True,  # or CPUs without VNNI would saturate
                weight_type=quantization.QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
            wide.unlink()
        written = onnx.load(file)
        if precision == "fp16":
            written = _half_precision(written, len(graph.layers))
        onnx.save(_without_notes(written), file)


def _half_precision(graph: Any, layers: int) -> Any:
    """The graph in fp16 with fp32 outputs; FeatureStoreError unless every layer is fused.

    The last layer, of one row, needs no fused attention.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    fused = sum(node.op_type == "Attention" for node in graph.graph.node)
    if fused != layers:
        raise FeatureStoreError(
            f"{fused} of {layers} layers have fused attention - please report the checkpoint's "
            "kind; no folder was written"
        )
    return convert_float_to_float16(graph, keep_io_types=True)


def _without_notes(written: Any) -> Any:
    """The graph without what the exporter noted: it names files and lines of this machine."""
    graphs = [written.graph, *written.functions]
    for part in (written, *graphs):
        del part.metadata_props[:]
        part.doc_string = ""
    del written.graph.value_info[:]
    for part in graphs:
        for node in part.node:
            del node.metadata_props[:]
            node.doc_string = ""
    for tensor in (*written.graph.initializer, *written.graph.input, *written.graph.output):
        del tensor.metadata_props[:]
        tensor.doc_string = ""
    return written


def _text_windows(window_tokenizer: WindowTokenizer, notes: int, seed: int) -> list[Ids]:
    """The windows of so many invented notes."""
    from featurestore.synthetic.hospital import invented_notes

    return [
        window for cut in windows(window_tokenizer, invented_notes(notes, seed)) for window in cut
    ]


def _proof_windows(window_tokenizer: WindowTokenizer) -> list[list[Ids]]:
    """Batches of windows of text to compare on: of many lengths, alone and in mixed company."""
    whole = _text_windows(window_tokenizer, 40, seed=0)
    first, last = whole[0][0], whole[0][-1]  # [CLS] and [SEP], or what the model has in their place
    pieces = np.concatenate([window[1:-1] for window in whole])
    rng = np.random.default_rng(0)

    def window(length: int) -> Ids:
        start = int(rng.integers(0, len(pieces) - length))
        return np.concatenate([[first], pieces[start : start + length - 2], [last]]).astype(
            np.int32
        )

    lengths = [length for length in _LENGTHS if length <= window_tokenizer.max_tokens]
    text = [window(length) for length in lengths]
    return [*([one] for one in text), text, [window(length) for length in lengths[::-2]]]


def _tensors(arrays: tuple[Any, Any]) -> tuple[Any, Any]:
    import torch

    return torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1])


def _by_pytorch(model: Any, batches: list[list[Ids]]) -> Vectors:
    """[CLS] of the windows as the checkpoint's own class computes it."""
    import torch

    found = []
    for batch in batches:
        input_ids, attention_mask = padded(batch)
        # RoBERTa finds positions by its padding id.
        filled = np.where(attention_mask == 1, input_ids, model.config.pad_token_id or 0)
        with torch.no_grad():
            states = model(*_tensors((filled, attention_mask)))
        found.append(states.last_hidden_state[:, 0].numpy())
    return np.concatenate(found)


def _by_graph(file: Path, batches: list[list[Ids]], precision: str) -> tuple[Vectors, str]:
    """The same as the graph computes it, and the provider that it ran on."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=_providers(precision))
    feeds = (
        dict(zip(("input_ids", "attention_mask"), padded(one), strict=True)) for one in batches
    )
    vectors = np.concatenate([session.run(["cls"], feed)[0] for feed in feeds])
    return vectors, session.get_providers()[0]


def _providers(precision: str) -> list[str]:
    """Where a graph is proven: fp16 on a GPU if there is one, else on the CPU."""
    import onnxruntime

    cuda = "CUDAExecutionProvider"
    if precision == "fp16" and Path("/proc/driver/nvidia/version").exists():
        with contextlib.redirect_stdout(None):
            onnxruntime.preload_dlls()
        if cuda in onnxruntime.get_available_providers():
            return [cuda, "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]


def check_parity(pytorch: Vectors, graph: Vectors, precision: str = "fp32") -> dict[str, Any]:
    """The largest difference and smallest cosine of vectors (windows, dim) of the same windows.

    The vectors of a model can be so alike that any two have a cosine near 1: `min_cosine_centred`
    is the smallest once the mean of all windows is taken off, and says what is left of the
    differences between notes. Raises FeatureStoreError beyond TOLERANCES, and where the vectors do
    not depend on the window: [CLS] of the embedding layer, say, is the same for every note.
    """
    difference = float(np.abs(pytorch - graph).max())
    cosine, centred = _smallest_cosines(pytorch, graph)
    largest = TOLERANCES[precision].get("max_abs_difference")
    smallest = TOLERANCES[precision]["min_cosine"]
    if largest is not None and not difference <= largest:
        raise FeatureStoreError(
            f"the graph differs from PyTorch by {difference:.1e} where {largest:.0e} is allowed "
            "- please report the checkpoint's kind; no folder was written"
        )
    if not cosine >= smallest:
        raise FeatureStoreError(
            f"the {precision} graph has a cosine of {cosine:.5f} to PyTorch where {smallest} is "
            "asked - export the checkpoint as fp32; no folder was written"
        )
    if graph.std(axis=0).max() < 1e-6:
        raise FeatureStoreError(
            "the graph gives every window the same vector, as the embedding layer's [CLS] does - "
            "export the last layer of a trained model; no folder was written"
        )
    return {
        "max_abs_difference": difference,
        "min_cosine": cosine,
        "min_cosine_centred": centred,
        "windows": len(graph),
    }


def _close(pytorch: Vectors, graph: Vectors) -> bool:
    """Whether an int8 graph need not be made again: it is near, also in what tells notes apart."""
    cosine, centred = _smallest_cosines(pytorch, graph)
    return cosine >= TOLERANCES["int8"]["min_cosine"] and centred >= 0.9


def _smallest_cosines(a: Vectors, b: Vectors) -> tuple[float, float]:
    """Of the vectors as they are, and less the mean of `a`: NaN where those are all alike."""
    middle, found = a.mean(axis=0), []
    for one, other in ((a, b), (a - middle, b - middle)):
        norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        with np.errstate(invalid="ignore"):
            found.append(float(((one * other).sum(axis=1) / norms).min()))
    return found[0], found[1]
