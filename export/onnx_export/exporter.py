"""Export a checkpoint to a model folder whose ONNX graph returns the vectors of windows."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from export.checkpoint import (
    checkpoint_info,
    load_checkpoint,
    lowercase_first,
    quiet_loggers,
    sentence_settings,
)
from export.cpu import cpu_features
from export.model_folder import CLASSIFIER_HEAD, MODEL, REFERENCE, TOKENIZER, write_manifest
from export.onnx_export.classifier_head import write_classifier_head
from export.onnx_export.parity import (
    TOLERANCES,
    parity_windows,
    prove_graph,
    pytorch_vectors,
    write_reference,
)
from export.onnx_session import PRECISIONS_OF_CPUS, check_runtime, has_gpu
from export.output_folder import atomic_folder
from export.tokenizer import CLEANINGS, WindowTokenizer
from featurestore.errors import FeatureStoreError, ModelError
from featurestore.synthetic.hospital import invented_notes

POOLINGS = ("auto", "cls", "mean")
_DEFAULT_TOKENS = 512  # of an encoder that sets no limit itself
_UNDIVIDED_TOKENS = 2_048  # of one whose attention takes memory by the square of them

_STEPS = 4  # of an export: load, embed by PyTorch, write the graph, compare


def export(
    checkpoint: str | Path,
    folder: str | Path,
    name: str | None = None,
    max_tokens: int | None = None,
    stride: int = 0,
    cleaning: str = "deid-v1",
    precision: str = "fp32",
    opset: int = 20,
    pooling: str = "auto",
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> dict[str, Any]:
    """Export a checkpoint (a folder or a hub name) to a model folder; return its parity.

    The checkpoint is any text encoder that transformers' AutoModel loads. The graph takes
    `input_ids` and `attention_mask` (windows, tokens), padded on the right, and returns `vectors`
    (windows, dim) float32. `pooling` is cls (the last layer's state of the first token), mean (of
    all tokens, special ones included), or auto: what a sentence-transformers checkpoint declares,
    with its normalization, window length and lower-casing; mean for a classifier that was
    fine-tuned on the mean, as a ModernBERT may be; and cls for all others. `precision` is
    fp32, bf16 or int8 (for CPUs with such instructions, in OpenVINO) or fp16 (for GPUs, with fused
    attention). `max_tokens` defaults to the number of positions of the model. `progress` is called
    with the number of steps done and in total.

    The graph is compared with PyTorch before the folder gets its name, so a failed export leaves
    none. Raises ModelError for a checkpoint that cannot be exported or differs from PyTorch,
    FeatureStoreError for a wrong argument or an existing folder, and StoreBusyError while another
    process writes the folder.
    """
    import torch
    import transformers

    folder = Path(folder)
    _check_arguments(folder, name, cleaning=cleaning, precision=precision, pooling=pooling)
    check_runtime(precision)
    progress(0, _STEPS)
    model, tokenizer = load_checkpoint(checkpoint, transformers.AutoModel)
    declared = sentence_settings(checkpoint) if pooling == "auto" else None
    if declared and declared.lowercase:
        lowercase_first(tokenizer.backend_tokenizer)
    if pooling == "auto":
        pooling = declared.pooling if declared else _classifier_pooling(model.config)
    encoder = _encoder_of(checkpoint, model).eval()
    _check_vocabulary(checkpoint, encoder, tokenizer)
    max_tokens = _window_length(checkpoint, encoder, tokenizer, max_tokens, declared)
    window_tokenizer = WindowTokenizer(tokenizer.backend_tokenizer, max_tokens, stride)
    _check_tokens(checkpoint, tokenizer, window_tokenizer)
    if pooling.startswith("cls") and not len(window_tokenizer.prefix):
        raise ModelError(
            f"the tokenizer of {checkpoint} puts no token before a text, so there is no [CLS] - "
            "use --pooling mean"
        )
    settings = {
        "cleaning": cleaning,
        "max_tokens": max_tokens,
        "stride": stride,
        "pooling": pooling,
        "precision": precision,
    }
    progress(1, _STEPS)  # loaded
    windows = parity_windows(window_tokenizer)
    reference = _reference_vectors(checkpoint, encoder, windows, pooling)
    progress(2, _STEPS)  # embedded by PyTorch
    with atomic_folder(folder) as draft:
        _write_graph(checkpoint, encoder, draft / MODEL, settings, opset)
        progress(3, _STEPS)  # exported
        parity = prove_graph(draft / MODEL, precision, windows, reference)
        progress(_STEPS, _STEPS)  # compared
        window_tokenizer.tokenizer.save(str(draft / TOKENIZER))
        if precision in PRECISIONS_OF_CPUS:
            write_reference(draft / REFERENCE, windows, reference)
        if pooling == "cls":
            write_classifier_head(checkpoint, model.config, draft / CLASSIFIER_HEAD)
        encoder_id = write_manifest(
            draft,
            name or _default_name(checkpoint),
            settings,
            dim=reference.shape[1],
            layers=int(encoder.config.num_hidden_layers),
            family=model.config.model_type,
            checkpoint=checkpoint_info(checkpoint, model.config),
            parity=parity,
            opset=opset,
            versions={"torch": torch.__version__, "transformers": transformers.__version__},
        )
    return {"encoder_id": encoder_id, "pooling": pooling, "max_tokens": max_tokens, **parity}


def recommended_precision() -> tuple[str, str]:
    """Return the precision to use on this machine, and why."""
    if has_gpu():
        return "fp16", "this machine has an NVIDIA GPU"
    features = cpu_features()
    if "bf16" in features:
        return "bf16", "this CPU multiplies bfloat16, about twice as fast as fp32"
    if "int8" in features:
        return "fp32", (
            "this CPU has no bfloat16; int8 is about twice as fast, for models whose mean-centred "
            "cosine stays high"
        )
    return "fp32", "this CPU has neither bfloat16 nor 8-bit integer (VNNI) instructions"


def _check_arguments(folder: Path, name: str | None, **options: str) -> None:
    if folder.exists():
        raise FeatureStoreError(f"{folder} already exists - choose another folder for the model")
    all_choices = {"cleaning": CLEANINGS, "precision": tuple(TOLERANCES), "pooling": POOLINGS}
    for option, value in options.items():
        choices = all_choices[option]
        if value not in choices:
            raise FeatureStoreError(f"unknown {option} {value} - use one of {', '.join(choices)}")
    if name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise FeatureStoreError(
            f"{name!r} is not a valid model name - use letters, digits, hyphens, dots and "
            "underscores"
        )


def _default_name(checkpoint: str | Path) -> str:
    folder = Path(checkpoint)
    name = folder.resolve().name if folder.is_dir() else folder.name
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-._").lower() or "encoder"


def _classifier_pooling(config: Any) -> str:
    """Return mean for a classifier that was fine-tuned on the mean, otherwise cls."""
    architectures = config.architectures or [""]
    is_classifier = architectures[0].endswith("ForSequenceClassification")
    is_mean = getattr(config, "classifier_pooling", "cls") == "mean"
    return "mean" if is_classifier and is_mean else "cls"


def _encoder_of(checkpoint: str | Path, model: Any) -> Any:
    """Return the model, or the encoder of an encoder and decoder."""
    if hasattr(model, "encoder") and hasattr(model, "decoder"):
        model = model.encoder
    if getattr(model, "main_input_name", "input_ids") != "input_ids":
        raise ModelError(
            f"{checkpoint} is not a text encoder: its input is {model.main_input_name} - use a "
            "model that takes token ids"
        )
    return model


def _check_vocabulary(checkpoint: str | Path, model: Any, tokenizer: Any) -> None:
    """Raise ModelError for tokens without an embedding, for which OpenVINO would take any."""
    rows = model.get_input_embeddings().weight.shape[0]
    missing = sorted(no for no in tokenizer.get_vocab().values() if no >= rows)
    if missing:
        raise ModelError(
            f"the tokenizer of {checkpoint} has {len(missing)} tokens that the model has no "
            f"embedding for, from {missing[0]} on - use the tokenizer that the model was trained "
            "with"
        )


def _check_tokens(checkpoint: str | Path, tokenizer: Any, ours: WindowTokenizer) -> None:
    """Raise ModelError unless a text has the tokens that transformers gives it."""
    (text,) = invented_notes(1, seed=0)
    (tokens,) = ours.tokens([text])
    if not len(tokens) or ours.around(tokens).tolist() != tokenizer(text)["input_ids"]:
        raise ModelError(
            f"the tokenizer of {checkpoint} does more than its tokenizer.json says - use another "
            "checkpoint"
        )


def _window_length(
    checkpoint: str | Path, model: Any, tokenizer: Any, max_tokens: int | None, declared: Any
) -> int:
    from export.onnx_export.graph import divides_attention, position_limit

    limit = position_limit(model)
    if max_tokens and limit and max_tokens > limit:
        raise ModelError(
            f"{checkpoint} has {limit} positions, fewer than {max_tokens} tokens - use "
            f"--max-tokens {limit} or less"
        )
    if max_tokens:
        return max_tokens
    most = limit or _DEFAULT_TOKENS
    if not divides_attention(model):
        most = min(most, _UNDIVIDED_TOKENS)
    if declared:
        most = min(most, int(declared.max_tokens or tokenizer.model_max_length))
    return most


def _reference_vectors(checkpoint: str | Path, model: Any, windows: Any, pooling: str) -> Any:
    """Return PyTorch's vectors of the windows. Raises ModelError where the model gives none."""
    try:
        return pytorch_vectors(model, windows, pooling)
    except Exception as error:  # each class of transformers raises what it likes
        raise ModelError(
            f"{checkpoint}, a {model.config.model_type}, computes no last hidden state for windows "
            f"of token ids ({type(error).__name__}) - use a text encoder"
        ) from None


def _write_graph(
    checkpoint: str | Path, model: Any, file: Path, settings: dict[str, Any], opset: int
) -> None:
    """Write the graph in its precision. Raises ModelError where PyTorch cannot export the model."""
    import onnx
    import torch

    from export.onnx_export.fused_modernbert import FusedPreNormLayer, fuse
    from export.onnx_export.graph import FusedLayer, build_graph
    from export.onnx_export.quantization import convert_to_fp16, quantize_weights

    max_tokens, precision = settings["max_tokens"], settings["precision"]
    graph = build_graph(model, settings["pooling"], max_tokens, fused=precision == "fp16")
    if precision == "fp16":
        graph = fuse(graph)
    ids = torch.ones((2, min(16, max_tokens)), dtype=torch.int64)
    rows, tokens = torch.export.Dim("windows"), torch.export.Dim("tokens", max=max_tokens)
    shape = {0: rows, 1: tokens}
    with warnings.catch_warnings(), quiet_loggers("torch.onnx", "onnxscript", "onnx_ir", "root"):
        warnings.simplefilter("ignore")  # deprecations inside the exporter
        try:
            torch.onnx.export(
                graph,
                (ids, torch.ones_like(ids)),
                str(file),
                input_names=["input_ids", "attention_mask"],
                output_names=["vectors"],
                dynamic_shapes=(shape, shape),
                opset_version=opset,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # torch.export has exceptions of many kinds
            raise ModelError(
                f"{checkpoint}, a {model.config.model_type}, cannot be exported to ONNX by "
                f"torch {torch.__version__} ({type(error).__name__}) - use another encoder; no "
                "folder was written"
            ) from error
        written = onnx.load(file)
        if precision == "int8":
            written = quantize_weights(written)
        if precision == "fp16":
            fused_classes = (FusedLayer, FusedPreNormLayer)
            fused = sum(isinstance(layer, fused_classes) for layer in graph.modules())
            written = convert_to_fp16(written, fused)
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
