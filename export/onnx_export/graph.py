"""[CLS] of a BERT-family encoder, as a graph that computes that one row of the last layer.

Exactly what the checkpoint's own classes compute, with the last layer pruned to row 0: its keys
and values are of every token, its queries, output and feed-forward of [CLS] alone.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from featurestore.errors import FeatureStoreError

_BERT = ("bert", "roberta", "xlm-roberta", "camembert")
FAMILIES = (*_BERT, "distilbert")
MASK_VALUE = -1e4  # added to a score it makes a weight of exactly 0, in fp16 as well


def position_limit(config: Any) -> int:
    """How many tokens the model has positions for."""
    positions = int(config.max_position_embeddings)
    # RoBERTa counts positions from the one after its padding id.
    return positions - _first_position(config)


def _first_position(config: Any) -> int:
    return 0 if config.model_type in ("bert", "distilbert") else int(config.pad_token_id) + 1


class Cls(nn.Module):
    """ids and mask (windows, tokens), padded on the right -> [CLS] (windows, dim).

    `fused` writes each layer's attention as one `com.microsoft.Attention` node, for which ONNX
    Runtime has fused CUDA kernels; such a module can be exported, and not run in PyTorch.
    Raises FeatureStoreError for a model of another family.
    """

    def __init__(self, model: nn.Module, fused: bool = False) -> None:
        super().__init__()
        config: Any = model.config
        if config.model_type not in FAMILIES or getattr(config, "is_decoder", False):
            raise FeatureStoreError(
                f"a {config.model_type} has no [CLS] that this export knows - give a checkpoint of "
                + ", ".join(FAMILIES)
            )
        self.first_position = _first_position(config)
        self.embeddings: Any = model.embeddings
        *others, last = _layers(model)
        self.layers = nn.ModuleList(
            FusedLayer(**parts) if fused else Layer(**parts) for parts in others
        )
        self.last = Layer(**last)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        states = self.embeddings(input_ids, position_ids=positions + self.first_position)
        padding = (1.0 - attention_mask[:, None, None, :].to(states.dtype)) * MASK_VALUE
        lengths = attention_mask.sum(dim=1).to(torch.int32)
        for layer in self.layers:
            states = layer(states, lengths if isinstance(layer, FusedLayer) else padding)
        cls: Tensor = self.last(states, padding, rows=1)[:, 0]
        return cls


class Layer(nn.Module):
    """One layer of attention and feed-forward; `rows` says how many rows of it are wanted."""

    def __init__(self, heads: int, query: Any, key: Any, value: Any, **others: Any) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = query.out_features // heads
        self.query = nn.Linear(query.in_features, query.out_features)
        with torch.no_grad():  # a factor less to multiply by
            self.query.weight.copy_(query.weight * self.head_dim**-0.5)
            self.query.bias.copy_(query.bias * self.head_dim**-0.5)
        self.key, self.value = key, value
        self.rest = FeedForwardBlock(**others)

        self.even: Any = nn.Identity()

    def forward(self, states: Tensor, padding: Tensor, rows: int | None = None) -> Tensor:
        read = self.even(states)
        query, key, value = (
            projected.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)
            for projected in (self.query(read[:, :rows]), self.key(read), self.value(read))
        )
        weights = torch.softmax(query @ key.transpose(2, 3) + padding, dim=-1)
        answer: Tensor = self.rest(states[:, :rows], (weights @ value).transpose(1, 2).flatten(2))
        return answer


class FusedLayer(nn.Module):
    """The same layer, whose attention is one node for the graph."""

    def __init__(self, heads: int, query: Any, key: Any, value: Any, **others: Any) -> None:
        super().__init__()
        self.heads = heads
        projections = (query, key, value)
        self.weight = nn.Parameter(torch.cat([part.weight.T for part in projections], dim=1))
        self.bias = nn.Parameter(torch.cat([part.bias for part in projections]))
        self.rest = FeedForwardBlock(**others)

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        seen = torch.onnx.ops.symbolic(
            "com.microsoft::Attention",
            (states, self.weight, self.bias, lengths),
            {"num_heads": self.heads},
            dtype=states.dtype,
            shape=states.shape,
            version=1,
        )
        answer: Tensor = self.rest(states, seen)
        return answer


class FeedForwardBlock(nn.Module):
    """What follows attention: output, feed-forward, and a norm after each."""

    def __init__(self, out: Any, norm: Any, up: Any, activation: Any, down: Any, norm_after: Any):
        super().__init__()
        self.out, self.norm = out, norm
        self.up, self.activation, self.down, self.norm_after = up, activation, down, norm_after
        self.even: Any = nn.Identity()

    def forward(self, states: Tensor, seen: Tensor) -> Tensor:
        states = self.norm(states + self.out(seen))
        wider = self.activation(self.up(self.even(states)))
        changed: Tensor = self.norm_after(states + self.down(wider))
        return changed


class ChannelScale(nn.Module):
    """Numbers multiplied channel by channel, by what the linear maps after it are divided by."""

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.factor = nn.Parameter(factor)

    def forward(self, states: Tensor) -> Tensor:
        return states * self.factor


class TokenScaledLinear(nn.Module):
    """A linear map whose every token is divided by its largest number before, multiplied after."""

    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, states: Tensor) -> Tensor:
        largest = states.amax(dim=-1, keepdim=True).clamp(min=1.0)
        answer: Tensor = (states * (1.0 / largest)) @ self.weight.T * largest + self.bias
        return answer


def smooth_quant(graph: Cls, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Shift what is hard to quantize from activations, by channel, into weights; exact before it.

    SmoothQuant (Xiao et al. 2023, arXiv 2211.10438, equation 4) for the inputs of attention and
    of the feed-forward: a few of their channels are many times larger than the rest, so that one
    scale for all of them leaves the rest few steps of 8 bits. `batches` are ids and masks
    (windows, tokens) of text, from which the largest numbers of each channel are taken.
    """
    peaks: dict[Any, Tensor] = {}

    def note_peaks(part: Any, given: tuple[Tensor, ...]) -> None:
        peak = given[0].abs().flatten(0, -2).amax(dim=0)
        peaks[part] = torch.maximum(peak, peaks[part]) if part in peaks else peak

    parts = [part for part in graph.modules() if isinstance(part, Layer | FeedForwardBlock)]
    hooks = [part.even.register_forward_pre_hook(note_peaks) for part in parts]
    with torch.no_grad():
        for input_ids, attention_mask in batches:
            graph(input_ids, attention_mask)
        for hook in hooks:
            hook.remove()
        for part in parts:
            names = ("query", "key", "value") if isinstance(part, Layer) else ("up",)
            maps = [getattr(part, name) for name in names]
            weight = torch.stack([one.weight.abs().amax(dim=0) for one in maps]).amax(dim=0)
            share = 0.65  # of the difficulty that goes into the weights
            peak = peaks[part.even].clamp(min=1e-4) ** share
            factor = weight.clamp(min=1e-4) ** (1 - share) / peak
            for name, one in zip(names, maps, strict=True):
                copy = nn.Linear(one.in_features, one.out_features)
                copy.weight.copy_(one.weight / factor)
                copy.bias.copy_(one.bias)
                setattr(part, name, copy)
            part.even = ChannelScale(factor)


def scale_by_token(graph: Cls) -> None:
    """Give each token a scale of its own where the feed-forward narrows; exact before int8.

    A batch's tokens share one scale there, and in some models a few of them ([SEP], full stops)
    reach many times what words do, which leaves the words few steps of 8 bits. What an activation
    such as GELU gives is hardly below zero, so that the largest number is the largest magnitude.
    """
    for part in graph.modules():
        if isinstance(part, FeedForwardBlock):
            part.down = TokenScaledLinear(part.down)


def _layers(model: Any) -> Iterator[dict[str, Any]]:
    """The parts of each layer, by the names that Layer gives them."""
    if model.config.model_type in _BERT:
        for layer in model.encoder.layer:
            attention = layer.attention
            yield {
                "heads": model.config.num_attention_heads,
                "query": attention.self.query,
                "key": attention.self.key,
                "value": attention.self.value,
                "out": attention.output.dense,
                "norm": attention.output.LayerNorm,
                "up": layer.intermediate.dense,
                "activation": layer.intermediate.intermediate_act_fn,
                "down": layer.output.dense,
                "norm_after": layer.output.LayerNorm,
            }
    else:
        for layer in model.transformer.layer:
            yield {
                "heads": model.config.n_heads,
                "query": layer.attention.q_lin,
                "key": layer.attention.k_lin,
                "value": layer.attention.v_lin,
                "out": layer.attention.out_lin,
                "norm": layer.sa_layer_norm,
                "up": layer.ffn.lin1,
                "activation": layer.ffn.activation,
                "down": layer.ffn.lin2,
                "norm_after": layer.output_layer_norm,
            }
