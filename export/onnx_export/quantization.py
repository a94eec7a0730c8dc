"""Lower precisions of an exported graph: int8 for CPUs, fp16 for GPUs."""

from typing import Any

import numpy as np

from export.onnx_session import GROUP
from featurestore.errors import ModelError

_OPSET = 21  # the first with scales by group


def quantize_weights(model: Any) -> Any:
    """Return an ONNX model whose matrix products have int8 weights with a scale for each group.

    A group is GROUP inputs of one output. OpenVINO multiplies such weights with activations that it
    quantizes at run time by the same groups. Raises ModelError where a model has no product that
    can be divided so.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes, quantized = [], set()
    for node in graph.node:
        weight = weights.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is not None and len(weight.dims) == 2 and weight.dims[0] % GROUP == 0:
            name = weight.name
            if name not in quantized:  # some models share weights between layers
                quantized.add(name)
                parts = [name + "_int8", name + "_scales"]
                for part, array in zip(
                    parts, _quantize(numpy_helper.to_array(weight)), strict=True
                ):
                    graph.initializer.append(numpy_helper.from_array(array, part))
                nodes += [
                    helper.make_node(
                        "DequantizeLinear", parts, [name + "_fp32"], axis=1, block_size=GROUP
                    ),
                    helper.make_node("Transpose", [name + "_fp32"], [name + "_t"], perm=[1, 0]),
                ]
            node.input[1] = name + "_t"
        nodes.append(node)
    if not quantized:
        raise ModelError(
            f"no layer of the model is a multiple of {GROUP} wide, which int8 needs - export the "
            "checkpoint as fp32; no folder was written"
        )
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    for opset in model.opset_import:
        if opset.domain == "":
            opset.version = max(opset.version, _OPSET)
    return model


def _quantize(weight: Any) -> tuple[Any, Any]:
    """Return int8 (outputs, inputs) and scales (outputs, groups) of a weight (inputs, outputs)."""
    groups = weight.T.reshape(weight.shape[1], -1, GROUP)
    scales = np.maximum(np.abs(groups).max(axis=2), np.finfo(np.float32).tiny) / 127
    values = np.rint(groups / scales[..., None]).astype(np.int8)
    return values.reshape(weight.shape[1], -1), scales.astype(np.float32)


def convert_to_fp16(model: Any, fused_layers: int) -> Any:
    """Return an ONNX model in fp16 that still returns fp32.

    Raises ModelError unless it has `fused_layers` nodes of fused attention.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    kinds = ("Attention", "MultiHeadAttention")
    fused = sum(node.op_type in kinds for node in model.graph.node)
    if fused != fused_layers:
        raise ModelError(
            f"{fused} of {fused_layers} layers have fused attention - please report the model "
            "type; no folder was written"
        )
    return convert_float_to_float16(model, keep_io_types=True)
