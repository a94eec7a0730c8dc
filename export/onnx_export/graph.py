"""A PyTorch module that computes only [CLS] of a BERT-family encoder, for the ONNX export.

It computes what the checkpoint's own classes compute, with the last layer pruned to row 0: keys and
values of every token, but queries, output and feed-forward of [CLS] alone.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from featurestore.errors import ModelError

_BERT = ("bert", "roberta", "xlm-roberta", "camembert")
FAMILIES = (*_BERT, "distilbert")
MASK_VALUE = -1e4  # added to an attention score, it gives a weight of exactly 0, in fp16 as well


def position_limit(config: Any) -> int:
    """Return how many tokens the model has positions for."""
    return int(config.max_position_embeddings) - _first_position(config)


def _first_position(config: Any) -> int:
    # RoBERTa counts positions from the one after its padding id.
    return 0 if config.model_type in ("bert", "distilbert") else int(config.pad_token_id) + 1


# The attributes of the modules below become names of weights in model.onnx, and the encoder id is a
# hash of that file: renaming one gives every exported model a new id.


class ClsExtractor(nn.Module):
    """ids and mask (windows, tokens), padded on the right -> [CLS] (windows, dim).

    With `fused`, each layer's attention is one `com.microsoft.Attention` node, for which ONNX
    Runtime has fused CUDA kernels; such a module can be exported, but not run in PyTorch.
    Raises ModelError for a model of another family.
    """

    def __init__(self, model: nn.Module, fused: bool = False) -> None:
        super().__init__()
        config: Any = model.config
        if config.model_type not in FAMILIES or getattr(config, "is_decoder", False):
            raise ModelError(
                f"models of type {config.model_type} are not supported - use a checkpoint of type "
                + ", ".join(FAMILIES)
            )
        self.first_position = _first_position(config)
        self.embeddings: Any = model.embeddings
        *first_layers, last_layer = _layers(model)
        layer_class = FusedAttentionLayer if fused else EncoderLayer
        self.layers = nn.ModuleList(layer_class(**parts) for parts in first_layers)
        self.last = EncoderLayer(**last_layer)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        states = self.embeddings(input_ids, position_ids=positions + self.first_position)
        padding = (1.0 - attention_mask[:, None, None, :].to(states.dtype)) * MASK_VALUE
        lengths = attention_mask.sum(dim=1).to(torch.int32)
        for layer in self.layers:
            states = layer(states, lengths if isinstance(layer, FusedAttentionLayer) else padding)
        cls: Tensor = self.last(states, padding, rows=1)[:, 0]
        return cls


class EncoderLayer(nn.Module):
    """Attention and feed-forward of one layer, for the first `rows` tokens (default: all)."""

    def __init__(self, heads: int, query: Any, key: Any, value: Any, **others: Any) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = query.out_features // heads
        self.query = nn.Linear(query.in_features, query.out_features)
        with torch.no_grad():  # attention scores need no scaling at run time
            self.query.weight.copy_(query.weight * self.head_dim**-0.5)
            self.query.bias.copy_(query.bias * self.head_dim**-0.5)
        self.key, self.value = key, value
        self.rest = FeedForwardBlock(**others)
        self.even: Any = nn.Identity()  # a ChannelScale after smooth_quant

    def forward(self, states: Tensor, padding: Tensor, rows: int | None = None) -> Tensor:
        scaled = self.even(states)
        query, key, value = (
            projected.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)
            for projected in (self.query(scaled[:, :rows]), self.key(scaled), self.value(scaled))
        )  # (windows, heads, tokens, head_dim)
        weights = torch.softmax(query @ key.transpose(2, 3) + padding, dim=-1)
        output: Tensor = self.rest(states[:, :rows], (weights @ value).transpose(1, 2).flatten(2))
        return output


class FusedAttentionLayer(nn.Module):
    """The same layer with its attention as one `com.microsoft.Attention` node."""

    def __init__(self, heads: int, query: Any, key: Any, value: Any, **others: Any) -> None:
        super().__init__()
        self.heads = heads
        projections = (query, key, value)
        self.weight = nn.Parameter(torch.cat([part.weight.T for part in projections], dim=1))
        self.bias = nn.Parameter(torch.cat([part.bias for part in projections]))
        self.rest = FusedFeedForwardBlock(**others)

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        context = torch.onnx.ops.symbolic(
            "com.microsoft::Attention",
            (states, self.weight, self.bias, lengths),
            {"num_heads": self.heads},
            dtype=states.dtype,
            shape=states.shape,
            version=1,
        )
        output: Tensor = self.rest(states, context)
        return output


class FeedForwardBlock(nn.Module):
    """The part of a layer after attention: output projection and feed-forward, each with a norm."""

    def __init__(self, out: Any, norm: Any, up: Any, activation: Any, down: Any, norm_after: Any):
        super().__init__()
        self.out, self.norm = out, norm
        self.up, self.activation, self.down, self.norm_after = up, activation, down, norm_after
        self.even: Any = nn.Identity()  # a ChannelScale after smooth_quant

    def forward(self, states: Tensor, context: Tensor) -> Tensor:
        states = self.add_and_norm(states, context, self.out, self.norm)
        hidden = self.activation(self.up(self.even(states)))
        return self.add_and_norm(states, hidden, self.down, self.norm_after)

    def add_and_norm(self, states: Tensor, inputs: Tensor, linear: Any, norm: Any) -> Tensor:
        output: Tensor = norm(states + linear(inputs))
        return output


class FusedFeedForwardBlock(FeedForwardBlock):
    """The same with bias, residual and norm as one `com.microsoft.SkipLayerNormalization` node.

    The speed of memory limits these on a GPU, and one node reads and writes less than three do.
    """

    def add_and_norm(self, states: Tensor, inputs: Tensor, linear: Any, norm: Any) -> Tensor:
        output = torch.onnx.ops.symbolic(
            "com.microsoft::SkipLayerNormalization",
            (inputs @ linear.weight.T, states, norm.weight, norm.bias, linear.bias),
            {"epsilon": norm.eps},
            dtype=states.dtype,
            shape=states.shape,
            version=1,
        )
        return output


def _layers(model: Any) -> Iterator[dict[str, Any]]:
    """Yield the parts of each layer, by the parameter names of EncoderLayer."""
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
