"""PyTorch modules that compute the pooled vector of an encoder, for the ONNX export.

Families with layers of known parts are rebuilt from the checkpoint's own weights, so that [CLS]
pooling can prune the last layer to row 0: keys and values of every token, but queries, output and
feed-forward of [CLS] alone. All other encoders are exported as they are.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_BERT = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "longformer")
FAMILIES = (*_BERT, "distilbert", "modernbert")
MASK_VALUE = -1e4  # added to an attention score, it gives a weight of exactly 0, in fp16 as well
_QUERY_ROWS = 1_024  # at a time: attention scores of long windows would not fit in memory
_BLOCK = 64  # the most tokens in a block of local attention


def build_graph(model: nn.Module, pooling: str, max_tokens: int, fused: bool = False) -> Any:
    """Return a module: ids and mask (windows, tokens), padded on the right -> (windows, dim).

    `pooling` is cls or mean, followed by +normalize where vectors are scaled to length 1. With
    `fused`, attention is one `com.microsoft.Attention` node a layer, for which ONNX Runtime has
    fused CUDA kernels, where the family allows it; such a module cannot be run in PyTorch.
    """
    config: Any = model.config
    if config.model_type in FAMILIES and not getattr(config, "is_decoder", False):
        return PrunedEncoder(model, pooling, max_tokens, fused).eval()
    return WholeEncoder(model, pooling, max_tokens).eval()


def position_limit(model: Any) -> int | None:
    """Return how many tokens the model has positions for, or None where it sets no limit."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings"):
            # RoBERTa counts positions from the one after its padding id.
            unused = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - unused
    limit = getattr(model.config, "max_position_embeddings", None)
    return int(limit) if limit and limit > 0 else None


def pool(states: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """Return one vector a window, (windows, dim), from states (windows, tokens, dim)."""
    kind, *normalize = pooling.split("+")
    if kind == "cls":
        pooled = states[:, 0]
    else:
        weights = attention_mask.to(states.dtype)[..., None]  # (windows, tokens, 1)
        pooled = (states * weights).sum(dim=1) / weights.sum(dim=1)
    return functional.normalize(pooled, dim=-1) if normalize else pooled


# The attributes of the modules below become names of weights in model.onnx, and the encoder id is a
# hash of that file: renaming one gives every exported model a new id.


class WholeEncoder(nn.Module):
    """An encoder's own forward pass, and its pooling."""

    def __init__(self, model: Any, pooling: str, max_tokens: int) -> None:
        super().__init__()
        # PyTorch's own attention does not always export.
        model.set_attn_implementation("eager")
        self.chunks = -(-max_tokens // _QUERY_ROWS) if divides_attention(model) else 1
        if self.chunks > 1:
            model.set_attn_implementation(_by_rows(self.chunks))
        self.encoder = model
        self.pooling = pooling
        self.padding_id = int(model.config.pad_token_id or 0)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        input_ids, attention_mask = _pad(input_ids, attention_mask, self.chunks)
        # Some models take positions or masks from their padding id.
        input_ids = torch.where(attention_mask == 1, input_ids, self.padding_id)
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        return pool(output.last_hidden_state, attention_mask, self.pooling)


def divides_attention(model: Any) -> bool:
    """Return whether the memory of the model's attention is bounded, however long its windows."""
    return model.config.model_type in FAMILIES or bool(model._can_set_attn_implementation())


def _by_rows(chunks: int) -> str:
    """Register an attention of transformers that divides queries into chunks; return its name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    def attention(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any,
        scaling: float | None = None, position_bias: Any = 0.0, **_: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        groups = query.shape[1] // key.shape[1]  # heads that share keys and values
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
        mask = attention_mask + position_bias
        parts = [x.unflatten(2, (chunks, -1)).unbind(2) for x in (query * scale, mask)]
        context = [_attend(rows, key, value, bias) for rows, bias in zip(*parts, strict=True)]
        return torch.cat(context, dim=2).transpose(1, 2), None

    name = f"by_rows_{chunks}"
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, eager_mask)
    return name


def _pad(input_ids: Tensor, attention_mask: Tensor, multiple: int) -> tuple[Tensor, Tensor]:
    """Pad ids and mask to a multiple of so many tokens."""
    if multiple == 1:
        return input_ids, attention_mask
    tokens = (input_ids.shape[1] + multiple - 1) // multiple * multiple
    missing = (0, tokens - input_ids.shape[1])
    return functional.pad(input_ids, missing), functional.pad(attention_mask, missing)


class PrunedEncoder(nn.Module):
    """An encoder rebuilt from its layers; for [CLS], the last layer computes row 0 only."""

    def __init__(self, model: Any, pooling: str, max_tokens: int, fused: bool) -> None:
        super().__init__()
        config = model.config
        self.pooling = pooling
        self.embeddings: Any = model.embeddings
        self.project: Any = getattr(model, "embeddings_project", nn.Identity())
        self.final_norm: Any = getattr(model, "final_norm", nn.Identity())
        self.first_position = 0
        if config.model_type in ("roberta", "xlm-roberta", "camembert", "longformer"):
            self.first_position = int(config.pad_token_id) + 1
        self.takes_positions = config.model_type != "modernbert"
        chunks = -(-max_tokens // _QUERY_ROWS)
        layers = list(_layers(model, pooling, chunks))
        for parts in layers:
            if (parts["attention"].window or 0) >= max_tokens - 1:
                parts["attention"].window = None  # each token sees all others
        windows = [parts["attention"].window for parts in layers]
        # Tokens are padded to a multiple of the blocks of local attention and of the chunks.
        blocks = [min(window, _BLOCK) for window in windows if window]
        self.multiple = math.lcm(chunks, *blocks)
        self.rotary = _rotary_tables(model, max_tokens + self.multiple)
        fused = fused and config.model_type not in ("longformer", "modernbert")
        self.layers = nn.ModuleList()
        for parts in layers:
            is_pruned = pooling.startswith("cls") and len(self.layers) == len(layers) - 1
            if config.model_type == "modernbert":
                self.layers.append(PreNormLayer(**parts))
            elif fused and not is_pruned:
                self.layers.append(FusedLayer(**parts))
            else:
                self.layers.append(PostNormLayer(**parts))
        self.rotary_of_layer = [*config.layer_types] if self.rotary else [None] * len(layers)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        input_ids, attention_mask = _pad(input_ids, attention_mask, self.multiple)
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        if self.takes_positions:
            # The tokens that were added to the longest window have no position of their own.
            last = self.embeddings.position_embeddings.num_embeddings - 1
            ids = (positions + self.first_position).clamp(max=last)[None]
            states = self.embeddings(input_ids, position_ids=ids)
        else:
            states = self.embeddings(input_ids)
        states = self.project(states)
        padding = (1.0 - attention_mask[:, None, None, :].to(states.dtype)) * MASK_VALUE
        lengths = attention_mask.sum(dim=1).to(torch.int32)
        for layer, kind in zip(self.layers, self.rotary_of_layer, strict=True):
            if isinstance(layer, FusedLayer):
                states = layer(states, lengths)
                continue
            table = functional.embedding(positions, self.rotary[kind]) if kind else None
            is_pruned = self.pooling.startswith("cls") and layer is self.layers[-1]
            states = layer(states, padding, table, 1 if is_pruned else None)
        return pool(self.final_norm(states), attention_mask, self.pooling)


def _rotary_tables(model: Any, tokens: int) -> nn.ParameterDict:
    """Return cos and sin of each kind of layer, side by side: (tokens, 2 * head_dim)."""
    tables = nn.ParameterDict()
    if model.config.model_type == "modernbert":
        positions = torch.arange(tokens)[None]
        for kind in sorted(set(model.config.layer_types)):
            cos, sin = model.rotary_emb(torch.zeros(1), positions, kind)
            tables[kind] = nn.Parameter(torch.cat([cos[0], sin[0]], dim=-1), requires_grad=False)
    return tables


class Attention(nn.Module):
    """Attention of the first `rows` tokens (default: all) to all, or to those near them.

    `window` is how many tokens each one sees on either side (default: all). `chunks` is into how
    many parts queries are divided, so that a part's scores fit in memory. With `globals`, query,
    key and value layers of its own, the first token sees all and is seen by all (Longformer).
    """

    def __init__(
        self,
        heads: int,
        query: Any,
        key: Any,
        value: Any,
        window: int | None = None,
        chunks: int = 1,
        globals: tuple[Any, Any, Any] | None = None,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = query.out_features // heads
        self.window, self.chunks = window, chunks
        self.query, self.key, self.value = _scaled(query, self.head_dim), key, value
        self.first: Any = None
        if globals:
            self.first = Attention(heads, *globals)

    def forward(
        self, states: Tensor, padding: Tensor, rotary: Tensor | None, rows: int | None = None
    ) -> Tensor:
        if self.first is not None and rows == 1:
            first: Tensor = self.first(states, padding, None, 1)
            return first
        query, key, value = (
            projected.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)
            for projected in (self.query(states[:, :rows]), self.key(states), self.value(states))
        )  # (windows, heads, tokens, head_dim)
        if rotary is not None:
            query, key = _rotate(query, rotary[:rows]), _rotate(key, rotary)
        if self.window is not None and rows == 1:
            far = torch.arange(states.shape[1], device=states.device) > self.window
            padding = padding + far.to(states.dtype) * MASK_VALUE
        if self.window is not None and rows is None:
            context = self._local(query, key, value, padding)
        elif self.chunks > 1 and rows is None:
            parts = query.unflatten(2, (self.chunks, -1)).unbind(2)
            context = torch.cat([_attend(part, key, value, padding) for part in parts], dim=2)
        else:
            context = _attend(query, key, value, padding)
        context = context.transpose(1, 2).flatten(2)
        if self.first is not None:
            context = torch.cat([self.first(states, padding, None, 1), context[:, 1:]], dim=1)
        return context

    def _local(self, query: Tensor, key: Tensor, value: Tensor, padding: Tensor) -> Tensor:
        """Return the context of each token from those at most `window` away from it.

        Tokens are cut into blocks, and each block of queries sees the blocks of keys around it: the
        time and memory grow with the length, not with its square.
        """
        assert self.window is not None
        block = min(self.window, _BLOCK)
        around = -(-self.window // block)  # blocks on either side
        seen = (2 * around + 1) * block
        distance = torch.arange(seen)[None] - around * block - torch.arange(block)[:, None]
        band = (distance.abs() > self.window).to(query.dtype) * MASK_VALUE  # (block, seen)
        keys_padding = padding.transpose(2, 3)  # (windows, 1, tokens, 1)
        if self.first is not None:  # the first token is seen apart
            is_first = torch.arange(padding.shape[3], device=padding.device)[:, None] == 0
            keys_padding = keys_padding + is_first.to(query.dtype) * MASK_VALUE

        def blocks(x: Tensor, outside: float = 0.0) -> Tensor:
            """(windows, heads, tokens, d) -> (windows, heads, blocks, seen, d)."""
            margin = around * block
            padded = functional.pad(x, (0, 0, margin, margin), value=outside)
            padded = torch.unflatten(padded, 2, (-1, block))
            count = x.shape[2] // block
            shifts = [padded.narrow(2, shift, count) for shift in range(2 * around + 1)]
            return torch.cat(shifts, dim=3)

        parts = torch.unflatten(query, 2, (-1, block))
        scores = parts @ blocks(key).transpose(3, 4)
        scores = scores + (blocks(keys_padding, MASK_VALUE).transpose(3, 4) + band)
        if self.first is None:
            return (torch.softmax(scores, dim=-1) @ blocks(value)).flatten(2, 3)
        # By tokens, not by blocks: torch.export would take a broadcast to one block as a constant.
        to_first = query @ key[:, :, :1].transpose(2, 3)  # (windows, heads, tokens, 1)
        to_first = torch.unflatten(to_first, 2, (-1, block))
        weights = torch.softmax(torch.cat([to_first, scores], dim=-1), dim=-1)
        context = (weights[..., 1:] @ blocks(value)).flatten(2, 3)
        return context + weights[..., :1].flatten(2, 3) * value[:, :, :1]


def _attend(query: Tensor, key: Tensor, value: Tensor, padding: Tensor) -> Tensor:
    return torch.softmax(query @ key.transpose(2, 3) + padding, dim=-1) @ value


def _rotate(x: Tensor, table: Tensor) -> Tensor:
    """Apply rotary positions (Su et al. 2021, arXiv 2104.09864) from a table of cos and sin."""
    cos, sin = table.chunk(2, dim=-1)  # (tokens, head_dim)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def _scaled(query: Any, head_dim: int) -> nn.Linear:
    """Return the layer of queries divided by sqrt(head_dim): scores need no scaling at run time."""
    scaled = nn.Linear(query.in_features, query.out_features, bias=query.bias is not None)
    with torch.no_grad():
        scaled.weight.copy_(query.weight * head_dim**-0.5)
        if query.bias is not None:
            scaled.bias.copy_(query.bias * head_dim**-0.5)
    return scaled


class FeedForwardBlock(nn.Module):
    """The part of a layer after attention: output projection and feed-forward, each with a norm."""

    def __init__(self, out: Any, norm: Any, up: Any, activation: Any, down: Any, norm_after: Any):
        super().__init__()
        self.out, self.norm = out, norm
        self.up, self.activation, self.down, self.norm_after = up, activation, down, norm_after

    def forward(self, states: Tensor, context: Tensor) -> Tensor:
        states = self.add_and_norm(states, context, self.out, self.norm)
        hidden = self.activation(self.up(states))
        return self.add_and_norm(states, hidden, self.down, self.norm_after)

    def add_and_norm(self, states: Tensor, inputs: Tensor, linear: Any, norm: Any) -> Tensor:
        output: Tensor = norm(states + linear(inputs))
        return output


class PostNormLayer(nn.Module):
    """A layer of BERT: attention and feed-forward, each followed by a norm."""

    def __init__(self, attention: Attention, **others: Any) -> None:
        super().__init__()
        self.attention = attention
        self.rest = FeedForwardBlock(**others)

    def forward(
        self, states: Tensor, padding: Tensor, rotary: Tensor | None, rows: int | None
    ) -> Tensor:
        context = self.attention(states, padding, rotary, rows)
        output: Tensor = self.rest(states[:, :rows], context)
        return output


class PreNormLayer(nn.Module):
    """A layer of ModernBERT: a norm before attention and before a gated feed-forward."""

    def __init__(
        self, attention: Attention, out: Any, norm: Any, up: Any, activation: Any, down: Any,
        norm_after: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.attention, self.out, self.norm = attention, out, norm
        self.up, self.activation, self.down, self.norm_after = up, activation, down, norm_after

    def forward(
        self, states: Tensor, padding: Tensor, rotary: Tensor | None, rows: int | None
    ) -> Tensor:
        context = self.attention(self.norm(states), padding, rotary, rows)
        states = states[:, :rows] + self.out(context)
        hidden, gate = self.up(self.norm_after(states)).chunk(2, dim=-1)
        output: Tensor = states + self.down(self.activation(hidden) * gate)
        return output


class FusedLayer(nn.Module):
    """A layer of BERT with its attention as one `com.microsoft.Attention` node."""

    def __init__(self, attention: Attention, **others: Any) -> None:
        super().__init__()
        self.heads = attention.heads
        projections: list[Any] = [attention.query, attention.key, attention.value]
        # The node scales scores itself.
        scales = (attention.head_dim**0.5, 1.0, 1.0)
        weights = [part.weight.T * by for part, by in zip(projections, scales, strict=True)]
        biases = [part.bias * by for part, by in zip(projections, scales, strict=True)]
        self.weight = nn.Parameter(torch.cat(weights, dim=1))
        self.bias = nn.Parameter(torch.cat(biases))
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


def _layers(model: Any, pooling: str, chunks: int) -> Iterator[dict[str, Any]]:
    """Yield the parts of each layer, by the parameter names of PostNormLayer."""
    config = model.config
    layers_of: dict[str, Callable[[], Any]] = {
        "distilbert": lambda: model.transformer.layer,
        "modernbert": lambda: model.layers,
    }
    for layer in layers_of.get(config.model_type, lambda: model.encoder.layer)():
        if config.model_type == "distilbert":
            attention = layer.attention
            yield {
                "attention": Attention(
                    config.n_heads,
                    *(attention.q_lin, attention.k_lin, attention.v_lin),
                    chunks=chunks,
                ),
                "out": attention.out_lin,
                "norm": layer.sa_layer_norm,
                "up": layer.ffn.lin1,
                "activation": layer.ffn.activation,
                "down": layer.ffn.lin2,
                "norm_after": layer.output_layer_norm,
            }
        elif config.model_type == "modernbert":
            is_local = layer.attention_type == "sliding_attention"
            yield {
                "attention": Attention(
                    config.num_attention_heads,
                    *_split(layer.attn.Wqkv),
                    window=config.sliding_window if is_local else None,
                    chunks=chunks,
                ),
                "out": layer.attn.Wo,
                "norm": layer.attn_norm,
                "up": layer.mlp.Wi,
                "activation": layer.mlp.act,
                "down": layer.mlp.Wo,
                "norm_after": layer.mlp_norm,
            }
        else:
            attention = layer.attention.self
            window, first = None, None
            if config.model_type == "longformer":
                window = attention.one_sided_attn_window_size
                if pooling.startswith("cls"):  # as LongformerForSequenceClassification does
                    first = (attention.query_global, attention.key_global, attention.value_global)
            yield {
                "attention": Attention(
                    config.num_attention_heads,
                    *(attention.query, attention.key, attention.value),
                    window=window,
                    chunks=chunks,
                    globals=first,
                ),
                "out": layer.attention.output.dense,
                "norm": layer.attention.output.LayerNorm,
                "up": layer.intermediate.dense,
                "activation": layer.intermediate.intermediate_act_fn,
                "down": layer.output.dense,
                "norm_after": layer.output.LayerNorm,
            }


def _split(projection: Any) -> tuple[Any, Any, Any]:
    """Return the layers of queries, keys and values that one layer holds one after the other."""
    outputs = projection.out_features // 3
    parts = []
    for number in range(3):
        rows = slice(number * outputs, (number + 1) * outputs)
        part = nn.Linear(projection.in_features, outputs, bias=projection.bias is not None)
        with torch.no_grad():
            part.weight.copy_(projection.weight[rows])
            if projection.bias is not None:
                part.bias.copy_(projection.bias[rows])
        parts.append(part)
    query, key, value = parts
    return query, key, value
