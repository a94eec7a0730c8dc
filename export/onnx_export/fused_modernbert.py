"""ModernBERT of nodes of ONNX Runtime's own, for NVIDIA GPUs; it computes what graph.py does.

The memory's speed limits most of a layer on a GPU, so that a node that does the work of several
operators saves their reads and writes; and attention in one node needs no memory for its scores.
Modules with such nodes can be exported, but not run in PyTorch.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.onnx_export.graph import MASK_VALUE, PreNormLayer, PrunedEncoder, pool

_BLOCK = 256  # queries of local attention that are computed together; the fastest on an H100
_PART = 64  # tokens; blocks, and the keys on either side of them, are whole parts
_ROTARY_WIDTH = 768  # the most values of a token that are rotated as one head


def fuse(graph: nn.Module) -> nn.Module:
    """Return the graph with fused nodes if it is a ModernBERT, otherwise as it is."""
    if isinstance(graph, PrunedEncoder) and isinstance(graph.layers[0], PreNormLayer):
        return FusedModernBert(graph).eval()
    return graph


def _node(name: str, inputs: tuple[Any, ...], like: Tensor, **attributes: Any) -> Tensor:
    """Return the output of a node of ONNX Runtime's own domain, of the shape of `like`."""
    output: Tensor = torch.onnx.ops.symbolic(
        f"com.microsoft::{name}",
        inputs,
        attributes,
        dtype=like.dtype,
        shape=like.shape,
        version=1,
    )
    return output


class FusedModernBert(nn.Module):
    """ModernBERT: ids and mask (windows, tokens), padded on the right -> (windows, dim)."""

    def __init__(self, graph: PrunedEncoder) -> None:
        super().__init__()
        self.pooling = graph.pooling
        self.embeddings, self.final_norm = graph.embeddings, graph.final_norm
        self.kinds: list[Any] = graph.rotary_of_layer
        layers: list[Any] = [*graph.layers]
        attentions = [layer.attention for layer in layers]
        self.last = layers.pop() if self.pooling.startswith("cls") else None
        self.window: int = max(attention.window or 0 for attention in attentions)
        self.around = -(-self.window // _PART)
        # Padding to whole parts goes beyond the last position, and needs none.
        self.tables = nn.ParameterDict(
            {
                kind: nn.Parameter(functional.pad(table, (0, 0, 0, _PART)), requires_grad=False)
                for kind, table in graph.rotary.items()
            }
        )
        # All heads of a token are rotated alike, so that several can be taken for a wide one.
        heads, head_dim = attentions[0].heads, attentions[0].head_dim
        merged = max(
            number
            for number in range(1, heads + 1)
            if heads % number == 0 and number * head_dim <= max(_ROTARY_WIDTH, head_dim)
        )
        self.rotary = nn.ParameterDict()
        for kind, table in self.tables.items():
            for name, part in zip(("cos", "sin"), table.chunk(2, dim=-1), strict=True):
                wide = part[:, : head_dim // 2].repeat(1, merged)
                self.rotary[f"{kind}_{name}"] = nn.Parameter(wide, requires_grad=False)
        self.layers = nn.ModuleList(FusedPreNormLayer(layer, heads // merged) for layer in layers)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        windows = input_ids.shape[0]
        missing = _missing(windows, input_ids.shape[1])
        input_ids = functional.pad(input_ids, missing)
        attention_mask = functional.pad(attention_mask, missing)
        lengths = attention_mask.sum(dim=1).clamp(min=1).to(torch.int32)
        states, update = self.embeddings(input_ids), None
        parts, count = self._parts(attention_mask)
        near = self._near(attention_mask, parts, count).to(states.dtype)
        # For parts outside of the batch others are taken, since their scores are masked.
        parts = parts.clamp(0, count - 1)
        sides = parts[:, : self.around], parts[:, -self.around :]
        for layer, kind in zip(self.layers, self.kinds, strict=False):
            rotary = self.rotary[f"{kind}_cos"], self.rotary[f"{kind}_sin"]
            states, update = layer(states, update, rotary, lengths, near, sides)
        states = states + update
        if self.last is not None:
            padding = (1.0 - attention_mask[:, None, None].to(states.dtype)) * MASK_VALUE
            table = self.tables[self.kinds[-1]][: states.shape[1]]
            states = self.last(states, padding, table, 1)
        return pool(self.final_norm(states), attention_mask, self.pooling)[:windows]

    def _parts(self, attention_mask: Tensor) -> tuple[Tensor, Any]:
        """Return which parts of the batch each block sees, (blocks, parts), and how many it has.

        The windows of a batch follow each other. The first and last blocks see parts outside of it.
        """
        count, of_block = attention_mask.numel() // _PART, _BLOCK // _PART
        first = torch.arange(count // of_block, device=attention_mask.device)[:, None] * of_block
        seen = torch.arange(-self.around, of_block + self.around, device=attention_mask.device)
        return first + seen, count

    def _near(self, attention_mask: Tensor, parts: Tensor, count: Any) -> Tensor:
        """Return what local attention adds to scores: (blocks, 1, queries, keys).

        A token sees those of its own window that are at most `self.window` away, and no padding.
        """
        numbers = torch.arange(attention_mask.shape[0], device=attention_mask.device)
        window_no = torch.where(attention_mask == 1, numbers[:, None], -1).reshape(-1, _PART)
        seen = window_no.index_select(0, parts.clamp(0, count - 1).flatten())
        seen = seen.reshape(-1, parts.shape[1], _PART)
        seen = torch.where(((parts >= 0) & (parts < count))[..., None], seen, -2).flatten(1)
        keys = torch.arange(_BLOCK + 2 * self.around * _PART) - self.around * _PART
        distance = torch.arange(_BLOCK)[:, None] - keys
        is_near = (window_no.reshape(-1, _BLOCK, 1) == seen[:, None]) & (
            distance.abs() <= self.window
        )
        return torch.where(is_near, 0.0, MASK_VALUE)[:, None]


class FusedPreNormLayer(nn.Module):
    """A layer of ModernBERT; the norm of the next layer adds its update to its states."""

    def __init__(self, layer: PreNormLayer, rotary_heads: int) -> None:
        super().__init__()
        self.heads, self.rotary_heads = layer.attention.heads, rotary_heads
        self.is_local: bool = layer.attention.window is not None
        self.query, self.key, self.value = _projections(layer.attention)
        self.out, self.norm, self.norm_after = layer.out, layer.norm, layer.norm_after
        self.activation, self.down = layer.activation, layer.down
        size = layer.up.out_features // 2
        bias = torch.zeros(2 * size) if layer.up.bias is None else layer.up.bias
        self.up: Any = nn.Linear(layer.up.in_features, size)
        self.gate: Any = nn.Linear(layer.up.in_features, size)
        for part, rows in ((self.up, slice(size)), (self.gate, slice(size, None))):
            part.weight = nn.Parameter(layer.up.weight[rows].detach())
            part.bias = nn.Parameter(bias[rows].detach())
        if layer.up.bias is None:
            # With that of `up`, though it is zero, ONNX Runtime has one node for it and GELU.
            self.gate.register_parameter("bias", None)

    def forward(
        self,
        states: Tensor,
        update: Tensor | None,
        rotary: tuple[Tensor, Tensor],
        lengths: Tensor,
        near: Tensor,
        sides: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        if update is None:
            normed = self.norm(states)
        else:
            normed, states = self._add_and_norm(update, states, self.norm)
        query, key = (self._rotated(part(normed), rotary) for part in (self.query, self.key))
        value = self.value(normed)
        if self.is_local:
            query = query.reshape(-1, _BLOCK, query.shape[2])
            key, value = (_with_sides(part, sides) for part in (key, value))
            masks: tuple[Any, ...] = (None, near)
        else:
            masks = (lengths,)
        inputs = (query, key, value, None, *masks)
        context = _node("MultiHeadAttention", inputs, query, num_heads=self.heads)
        update = self.out(context.reshape(states.shape))
        normed, states = self._add_and_norm(update, states, self.norm_after)
        return states, self.down(self.activation(self.up(normed)) * self.gate(normed))

    def _rotated(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        first = torch.zeros(1, dtype=torch.int64)  # the position of a window's first token
        return _node(
            "RotaryEmbedding", (x, first, *rotary), x, num_heads=self.rotary_heads, interleaved=1
        )

    def _add_and_norm(self, update: Tensor, states: Tensor, norm: Any) -> tuple[Tensor, Tensor]:
        """Return the norm of the sum, and the sum."""
        normed, _, _, total = torch.onnx.ops.symbolic_multi_out(
            "com.microsoft::SkipLayerNormalization",
            (update, states, norm.weight, norm.bias),
            {"epsilon": norm.eps},
            dtypes=[states.dtype, torch.float32, torch.float32, states.dtype],
            shapes=[states.shape, states.shape[:2], states.shape[:2], states.shape],
            version=1,
        )
        return normed, total


def _projections(attention: Any) -> list[nn.Linear]:
    """Return the layers of queries, keys and values; the node scales scores itself.

    Values of queries and keys that rotate with each other are side by side. Both have the same
    order, so that scores stay as they are.
    """
    projections = []
    for part in (attention.query, attention.key, attention.value):
        order = torch.arange(part.out_features)
        if part is not attention.value:
            order = order.reshape(-1, 2, attention.head_dim // 2).transpose(1, 2).flatten()
        scale = attention.head_dim**0.5 if part is attention.query else 1.0
        layer = nn.Linear(part.in_features, part.out_features, bias=part.bias is not None)
        with torch.no_grad():
            layer.weight.copy_(part.weight[order] * scale)
            if part.bias is not None:
                layer.bias.copy_(part.bias[order] * scale)
        projections.append(layer)
    return projections


def _missing(windows: Any, tokens: Any) -> tuple[int, Any, int, Any]:
    """Return the padding that divides a batch into whole parts and blocks."""
    parts = (tokens + _PART - 1) // _PART
    # A block has four parts, so that a multiple of 1, 2 or 4 windows is whole blocks.
    multiple = 1 + 3 * (parts % 2) + (1 - parts % 2) * (parts // 2 % 2)
    rows = (windows + multiple - 1) // multiple * multiple
    return 0, parts * _PART - tokens, 0, rows - windows


def _with_sides(x: Tensor, sides: tuple[Tensor, Tensor]) -> Tensor:
    """Return each block between its sides: (windows, tokens, d) -> (blocks, keys, d)."""
    parts = x.reshape(-1, _PART * x.shape[2])
    before, after = (functional.embedding(side, parts) for side in sides)
    blocks = torch.cat([before, parts.reshape(-1, _BLOCK // _PART, parts.shape[1]), after], dim=1)
    return blocks.reshape(blocks.shape[0], -1, x.shape[2])
