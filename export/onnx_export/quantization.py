"""Lower precisions of an exported graph: int8 for CPUs, fp16 for GPUs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.onnx_export.graph import ClsExtractor, EncoderLayer, FeedForwardBlock
from featurestore.errors import ModelError

_ALPHA = 0.65  # SmoothQuant's migration strength, the share of the difficulty moved to the weights


class ChannelScale(nn.Module):
    """Multiply each channel by a factor, by which the linear layers after it were divided."""

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.factor = nn.Parameter(factor)  # (dim,)

    def forward(self, states: Tensor) -> Tensor:
        return states * self.factor


class TokenScaledLinear(nn.Module):
    """A linear layer that divides each token by its maximum before, and multiplies by it after."""

    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, states: Tensor) -> Tensor:
        maximum = states.amax(dim=-1, keepdim=True).clamp(min=1.0)  # (windows, tokens, 1)
        output: Tensor = (states * (1.0 / maximum)) @ self.weight.T * maximum + self.bias
        return output


def smooth_quant(graph: ClsExtractor, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Scale the inputs of attention and feed-forward by channel, and their weights inversely.

    SmoothQuant (Xiao et al. 2023, arXiv 2211.10438, equation 4). A few channels of activations are
    many times larger than the others, so that one scale for all of them would leave the others few
    of the 256 steps of int8. The output is unchanged before quantization. `batches` are ids and
    masks (windows, tokens) of text, from which the maximum of each channel is taken.
    """
    maxima: dict[Any, Tensor] = {}

    def record_maximum(module: Any, inputs: tuple[Tensor, ...]) -> None:
        maximum = inputs[0].abs().flatten(0, -2).amax(dim=0)
        maxima[module] = torch.maximum(maximum, maxima[module]) if module in maxima else maximum

    blocks = [part for part in graph.modules() if isinstance(part, EncoderLayer | FeedForwardBlock)]
    hooks = [block.even.register_forward_pre_hook(record_maximum) for block in blocks]
    with torch.no_grad():
        for input_ids, attention_mask in batches:
            graph(input_ids, attention_mask)
        for hook in hooks:
            hook.remove()
        for block in blocks:
            names = ("query", "key", "value") if isinstance(block, EncoderLayer) else ("up",)
            linears = [getattr(block, name) for name in names]
            weight = torch.stack([linear.weight.abs().amax(dim=0) for linear in linears])
            activation = maxima[block.even].clamp(min=1e-4) ** _ALPHA
            factor = weight.amax(dim=0).clamp(min=1e-4) ** (1 - _ALPHA) / activation
            for name, linear in zip(names, linears, strict=True):
                copy = nn.Linear(linear.in_features, linear.out_features)
                copy.weight.copy_(linear.weight / factor)
                copy.bias.copy_(linear.bias)
                setattr(block, name, copy)
            block.even = ChannelScale(factor)


def scale_by_token(graph: ClsExtractor) -> None:
    """Scale the input of each second feed-forward layer by token; unchanged before quantization.

    Otherwise all tokens of a batch share one scale. In some models a few tokens ([SEP], full stops)
    have values many times larger than those of words, which leaves the words few of the 256 steps
    of int8. An activation such as GELU is hardly negative, so the maximum is the largest magnitude.
    """
    for part in graph.modules():
        if isinstance(part, FeedForwardBlock):
            part.down = TokenScaledLinear(part.down)


def quantize_to_int8(file: Path) -> None:
    """Quantize the matrix products of an ONNX file in place: 7-bit weights, dynamic activations."""
    from onnxruntime import quantization

    fp32 = file.rename(file.with_suffix(".fp32"))
    quantization.quantize_dynamic(
        fp32,
        file,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        reduce_range=True,  # with 8 bits, CPUs without VNNI would saturate
        weight_type=quantization.QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True},
    )
    fp32.unlink()


def convert_to_fp16(model: Any, fused_layers: int) -> Any:
    """Return an ONNX model in fp16 that still returns fp32.

    Raises ModelError unless it has `fused_layers` nodes of fused attention: every layer but the
    last, which computes a single row.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    fused = sum(node.op_type == "Attention" for node in model.graph.node)
    if fused != fused_layers:
        raise ModelError(
            f"{fused} of {fused_layers} layers have fused attention - please report the model "
            "type; no folder was written"
        )
    return convert_float_to_float16(model, keep_io_types=True)
