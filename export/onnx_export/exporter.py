"""Export a checkpoint to a model folder whose ONNX graph returns [CLS] of the last layer."""

import re
import warnings
from pathlib import Path
from typing import Any

from export.checkpoint import checkpoint_info, load_checkpoint, quiet_loggers
from export.model_folder import CLASSIFIER_HEAD, MODEL, TOKENIZER, write_manifest
from export.onnx_export.classifier_head import write_classifier_head
from export.onnx_export.parity import (
    TOLERANCES,
    check_parity,
    graph_vectors,
    needs_scale_by_token,
    parity_batches,
    pytorch_vectors,
    synthetic_windows,
)
from export.output_folder import atomic_folder
from export.tokenizer import CLEANINGS, WindowTokenizer, padded
from featurestore.errors import FeatureStoreError, ModelError


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
    """Export a checkpoint (a folder or a hub name) for [CLS] extraction; return its parity.

    The checkpoint is a BERT, RoBERTa or DistilBERT, with or without a classification head. The
    graph takes `input_ids` and `attention_mask` (windows, tokens), padded on the right, and returns
    `cls` (windows, dim) float32: row 0 of the last layer's hidden states. `precision` is fp32, int8
    (for CPUs: 7-bit weights by channel, activations quantized at run time, and scaled by token
    where the model needs it) or fp16 (for GPUs, with fused attention). `max_tokens` defaults to the
    number of positions of the model.

    The graph is compared with PyTorch before the folder gets its name, so a failed export leaves
    none. Raises ModelError for a checkpoint that cannot be exported or differs from PyTorch,
    FeatureStoreError for a wrong argument or an existing folder, and StoreBusyError while another
    process writes the folder.
    """
    import torch
    import transformers

    from export.onnx_export.graph import ClsExtractor

    folder = Path(folder)
    _check_arguments(folder, name, cleaning, precision)
    model, tokenizer = load_checkpoint(checkpoint, transformers.AutoModel)
    model.eval()
    graph = ClsExtractor(model, fused=precision == "fp16").eval()
    max_tokens = _window_length(checkpoint, model.config, max_tokens)
    window_tokenizer = WindowTokenizer(tokenizer.backend_tokenizer, max_tokens, stride)
    settings = {
        "cleaning": cleaning,
        "max_tokens": max_tokens,
        "stride": stride,
        "pooling": "cls",
        "precision": precision,
    }
    with atomic_folder(folder) as draft:
        parity = _write_checked_graph(
            model, graph, draft / MODEL, window_tokenizer, opset, precision
        )
        window_tokenizer.tokenizer.save(str(draft / TOKENIZER))
        write_classifier_head(checkpoint, model.config, draft / CLASSIFIER_HEAD)
        encoder_id = write_manifest(
            draft,
            name or _default_name(checkpoint),
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


def _check_arguments(folder: Path, name: str | None, cleaning: str, precision: str) -> None:
    if folder.exists():
        raise FeatureStoreError(f"{folder} already exists - choose another folder for the model")
    for option, value, choices in (
        ("cleaning", cleaning, CLEANINGS),
        ("precision", precision, tuple(TOLERANCES)),
    ):
        if value not in choices:
            raise FeatureStoreError(f"unknown {option} {value} - use one of {', '.join(choices)}")
    if name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise FeatureStoreError(
            f"{name!r} is not a valid model name - use letters, digits, hyphens, dots and "
            "underscores"
        )


def _default_name(checkpoint: str | Path) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "-", Path(str(checkpoint)).name).strip("-").lower()


def _window_length(checkpoint: str | Path, config: Any, max_tokens: int | None) -> int:
    from export.onnx_export.graph import position_limit

    limit = position_limit(config)
    if max_tokens and max_tokens > limit:
        raise ModelError(
            f"{checkpoint} has {limit} positions, fewer than {max_tokens} tokens - use "
            f"--max-tokens {limit} or less"
        )
    return max_tokens or limit


def _write_checked_graph(
    model: Any,
    graph: Any,
    file: Path,
    window_tokenizer: WindowTokenizer,
    opset: int,
    precision: str,
) -> dict[str, Any]:
    """Write the graph; return its parity with PyTorch or raise ModelError."""
    import torch

    from export.onnx_export.quantization import scale_by_token, smooth_quant

    batches = parity_batches(window_tokenizer)
    if precision == "int8":
        calibration = synthetic_windows(window_tokenizer, 16, seed=1)
        ids_and_masks = (padded([window]) for window in calibration)
        smooth_quant(
            graph, ((torch.from_numpy(ids), torch.from_numpy(mask)) for ids, mask in ids_and_masks)
        )
    reference = pytorch_vectors(model, batches)
    _write_graph(graph, file, window_tokenizer.max_tokens, opset, precision)
    vectors, provider = graph_vectors(file, batches, precision)
    if precision == "int8" and needs_scale_by_token(reference, vectors):
        scale_by_token(graph)  # a slower graph
        _write_graph(graph, file, window_tokenizer.max_tokens, opset, precision)
        vectors, provider = graph_vectors(file, batches, precision)
    return {**check_parity(reference, vectors, precision), "provider": provider}


def _write_graph(graph: Any, file: Path, max_tokens: int, opset: int, precision: str) -> None:
    import onnx
    import torch

    from export.onnx_export.quantization import convert_to_fp16, quantize_to_int8

    ids = torch.ones((2, min(16, max_tokens)), dtype=torch.int64)
    rows, tokens = torch.export.Dim("windows"), torch.export.Dim("tokens", max=max_tokens)
    shape = {0: rows, 1: tokens}
    with warnings.catch_warnings(), quiet_loggers("torch.onnx", "onnxscript", "onnx_ir", "root"):
        warnings.simplefilter("ignore")  # deprecations inside the exporter
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
            quantize_to_int8(file)
        written = onnx.load(file)
        if precision == "fp16":
            written = convert_to_fp16(written, len(graph.layers))
        onnx.save(_without_metadata(written), file)


def _without_metadata(model: Any) -> Any:
    """Return an ONNX model without the exporter's metadata, which names files of this machine."""
    graphs = [model.graph, *model.functions]
    del model.graph.value_info[:]
    tensors = (*model.graph.initializer, *model.graph.input, *model.graph.output)
    nodes = (node for graph in graphs for node in graph.node)
    for part in (model, *graphs, *nodes, *tensors):
        del part.metadata_props[:]
        part.doc_string = ""
    return model
