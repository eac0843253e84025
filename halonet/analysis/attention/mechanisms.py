"""The mechanisms of attention as rows of a table: what a layer reads, how it attends, and what chosen queries weigh.

A layer's output, before its last projection and its pooling, is linear in its values; the weights are that linear map.
A new mechanism is one entry of MECHANISMS, and is tested by being one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from halonet.analysis.attention.weights import Layout, Size, Weights
from halonet.analysis.cost import attention_axes
from halonet.layers import (
    AttentionLayer,
    BottleneckAttention,
    FactorizedAttention,
    FullAttention,
    GlobalAttention,
    HaloAttention,
    LinformerAttention,
    LongformerAttention,
    NonLocal,
    NonLocal2d,
    PerformerAttention,
    SpatialReductionAttention,
    TokenAttention,
    WholeMapAttention,
)
from halonet.layers.timm_attention import TimmAttention, TimmBottleneckAttention, TimmHaloAttention
from halonet.ops import (
    factorized_attention_weights,
    local_attention_weights,
    nonlocal_attention_weights,
    performer_attention_weights,
)
from halonet.ops.local_attention.checks import pair
from halonet.ops.local_attention.geometry import Axis

Inputs = tuple[Any, ...]  # of the layer's forward: (map,), or (tokens, size of their map)


@dataclass(frozen=True)
class Mechanism:
    """One way to attend.

    Positions are numbered global tokens first, then the map row by row: T = G + hq * wq queries, S = G + h * w keys.

    name: in a word.
    kind: class of the layers; of several entries the first that fits counts.
    layout: of a layer and what it reads; None for input that is no map.
    project: layer, input -> (query, key, value) as the layer makes them.
    mix: layer, query, key, values (1, S, N, Dv) of any Dv, layout -> (1, T, N, Dv): the layer's own attention.
    rows: layer, query, key, numbers of Q queries, layout -> their `Weights`, with no other query computed.
    """

    name: str
    kind: type[nn.Module]
    layout: Callable[[Any, Inputs], Layout | None]
    project: Callable[[Any, Inputs], tuple[Tensor, Tensor, Tensor]]
    mix: Callable[[Any, Tensor, Tensor, Tensor, Layout], Tensor]
    rows: Callable[[Any, Tensor, Tensor, Sequence[int], Layout], Weights]


# Layers on `local_attention`: ours, and timm's.


def _local_layout(layer: AttentionLayer | TimmAttention, inputs: Inputs) -> Layout:
    size = _map_size(inputs[0])
    if isinstance(layer, AttentionLayer):
        axes, stride = attention_axes(layer, size), layer.query_stride
    else:
        stride = layer.neighborhood(size).get("stride", 1)
        block, halo = getattr(layer, "block_size", 0), getattr(layer, "halo_size", 0)
        rows, columns = (Axis(side, block, halo, stride, 1, "zeros", None) for side in size)
        axes = (rows, columns)
    whole = isinstance(layer, BottleneckAttention | TimmBottleneckAttention)
    query_size = (-(-size[0] // stride), -(-size[1] // stride))
    return Layout(
        map_size=size,
        query_size=query_size,
        output_size=_pooled(layer.pool, query_size),
        pool=pair("stride", getattr(layer.pool, "stride", 1), minimum=1)[0],
        num_heads=layer.num_heads,
        stride=stride,
        axes=None if whole else axes,
    )


def _project_map(layer: Any, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = layer.project(inputs[0])
    return query, key, value


def _mix_local(layer: Any, query: Tensor, key: Tensor, values: Tensor, layout: Layout) -> Tensor:
    mixed: Tensor = layer.attend(query, key, values.unflatten(1, layout.map_size))
    return mixed.flatten(1, 2)


def _local_rows(layer: Any, query: Tensor, key: Tensor, indices: Sequence[int], layout: Layout) -> Weights:
    return _of_map(query, key, indices, layout, layer.neighborhood(layout.map_size))


def _of_map(query: Tensor, key: Tensor, indices: Sequence[int], layout: Layout, options: dict[str, Any]) -> Weights:
    """Of queries of the map by `local_attention_weights`; indices count from its first."""
    queries = [divmod(index, layout.query_size[1]) for index in indices]
    found = local_attention_weights(query, key, queries=queries, **options)
    return Weights(found.map[0], found.extra[0], found.outside[0], found.seen + layout.num_global)


# Layers on tokens.


def _token_layout(layer: TokenAttention, inputs: Inputs) -> Layout:
    size = (int(inputs[1][0]), int(inputs[1][1]))
    blocks = isinstance(layer, LongformerAttention) and not isinstance(layer, FullAttention)
    reduced, reduction = size, 1
    if isinstance(layer, SpatialReductionAttention):
        reduction = layer.reduction
        reduced = max(1, size[0] // reduction), max(1, size[1] // reduction)
    return Layout(
        map_size=reduced,
        query_size=size,
        output_size=size,
        num_heads=layer.num_heads,
        num_global=layer.num_global,
        reduction=reduction,
        signed=isinstance(layer, LinformerAttention),
        axes=attention_axes(layer, size) if blocks and isinstance(layer, LongformerAttention) else None,
    )


def _project_tokens(layer: TokenAttention, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    return layer.project(inputs[0], inputs[1])


def _mix_tokens(layer: TokenAttention, query: Tensor, key: Tensor, values: Tensor, layout: Layout) -> Tensor:
    return layer.attend(query, key, values, layout.query_size)


def _longformer_rows(
    layer: LongformerAttention, query: Tensor, key: Tensor, indices: Sequence[int], layout: Layout
) -> Weights:
    """Of global tokens a softmax over all tokens, with its bias; of the others the op's, tokens as extra keys."""
    count, size = layout.num_global, layout.query_size

    def of_locals(chosen: Sequence[int]) -> Weights:
        asking, seen = (part[:, count:].unflatten(1, size) for part in (query, key))
        return _of_map(asking, seen, [index - count for index in chosen], layout, layer.local_options(key, size))

    def of_globals(chosen: Sequence[int]) -> Weights:
        bias = layer.bias_of_global(size[0] * size[1])
        return _softmax_rows(query, key, chosen, layout, bias=None if bias is None else bias[:, list(chosen)])

    return _apart(indices, count, of_globals, of_locals)


def _memory_rows(layer: GlobalAttention, query: Tensor, key: Tensor, indices: Sequence[int], layout: Layout) -> Weights:
    """Of global tokens a softmax over all tokens; of the others over the global ones alone."""
    count = layout.num_global

    def of_locals(chosen: Sequence[int]) -> Weights:
        weights = _softmax(query[:, list(chosen)], key[:, :count])
        return _split(
            torch.cat([weights, weights.new_zeros(*weights.shape[:2], key.shape[1] - count)], 2), layout, count
        )

    return _apart(indices, count, lambda chosen: _softmax_rows(query, key, chosen, layout), of_locals)


def _linformer_rows(
    layer: LinformerAttention, query: Tensor, key: Tensor, indices: Sequence[int], layout: Layout
) -> Weights:
    """Softmax over the mixtures, times what each mixture takes of a token's value."""
    mixed = torch.einsum("btnd,tk->bknd", key, layer.mix_key)
    mix_value = layer.mix_key if layer.mix_value is None else layer.mix_value
    return _split(_softmax(query[:, list(indices)], mixed) @ mix_value.t(), layout)


def _token_rows(
    layer: SpatialReductionAttention, query: Tensor, key: Tensor, indices: Sequence[int], layout: Layout
) -> Weights:
    return _softmax_rows(query, key, indices, layout)


def _performer_rows(
    layer: PerformerAttention, query: Tensor, key: Tensor, indices: Sequence[int], layout: Layout
) -> Weights:
    return _split(performer_attention_weights(query[:, list(indices)], key, layer.features)[0], layout)


# Layers that take positions in any number.


def _whole_layout(layer: WholeMapAttention, inputs: Inputs) -> Layout | None:
    if inputs[0].ndim != 4:
        return None  # volumes and tokens have no map
    size = _map_size(inputs[0])
    signed = layer.kind == "dot"
    return Layout(map_size=size, query_size=size, output_size=size, num_heads=layer.num_heads, signed=signed)


def _project_whole(layer: WholeMapAttention, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    first, second, value = layer.project(layer.tokens_of(inputs[0]))
    return first, second, value


def _mix_whole(layer: WholeMapAttention, first: Tensor, second: Tensor, values: Tensor, layout: Layout) -> Tensor:
    return layer.attend(first, second, values)


def _factorized_rows(
    layer: FactorizedAttention, first: Tensor, second: Tensor, indices: Sequence[int], layout: Layout
) -> Weights:
    return _split(factorized_attention_weights(first, second, queries=indices, kind=layer.kind)[0], layout)


def _nonlocal_rows(layer: NonLocal, query: Tensor, key: Tensor, indices: Sequence[int], layout: Layout) -> Weights:
    return _split(nonlocal_attention_weights(query, key, queries=indices, kind=layer.kind)[0], layout)


def _block_layout(layer: NonLocal2d, inputs: Inputs) -> Layout:
    size = _map_size(inputs[0])
    return Layout(map_size=size, query_size=size, output_size=size, num_heads=1, signed=layer.kind == "dot")


def _mix_block(layer: NonLocal2d, theta: Tensor, phi: Tensor, values: Tensor, layout: Layout) -> Tensor:
    mixed = layer.attend(theta, phi, values.squeeze(2).unflatten(1, layout.map_size))
    return mixed.flatten(1, 2).unsqueeze(2)


def _block_rows(layer: NonLocal2d, theta: Tensor, phi: Tensor, indices: Sequence[int], layout: Layout) -> Weights:
    query, key = (part.flatten(1, 2).unsqueeze(2) for part in (theta, phi))
    weights = nonlocal_attention_weights(query, key, queries=indices, kind=layer.kind)[0]
    if layer.kind == "dot":  # Wang et al. divide by the positions, Shen et al. by the channels
        weights = weights * (key.shape[3] / key.shape[1])
    return _split(weights, layout)


# What they share.


def _map_size(x: Tensor) -> Size:
    return x.shape[-2], x.shape[-1]


def _pooled(pool: nn.Module, size: Size) -> Size:
    """Size of what a layer's pooling makes of a map."""
    return _map_size(pool(torch.empty(1, 1, *size)))


def _softmax(query: Tensor, key: Tensor, bias: Tensor | None = None) -> Tensor:
    """(1, Q, N, D), (1, K, N, D), (N, Q, K) -> (Q, N, K): scaled dot products, as `attend_all` weighs them."""
    scores = torch.einsum("qnd,knd->qnk", query[0], key[0]) * query.shape[3] ** -0.5
    if bias is not None:
        scores = scores + bias.transpose(0, 1).to(scores.dtype)
    return scores.softmax(dim=2)


def _softmax_rows(
    query: Tensor, key: Tensor, indices: Sequence[int], layout: Layout, *, bias: Tensor | None = None
) -> Weights:
    return _split(_softmax(query[:, list(indices)], key, bias), layout)


def _split(weights: Tensor, layout: Layout, seen: int | None = None) -> Weights:
    """(Q, N, S) as what falls on the tokens and on the map; seen: of the S positions, all if None."""
    tokens, of_map = weights[..., : layout.num_global], weights[..., layout.num_global :]
    count = torch.full((len(weights),), weights.shape[2] if seen is None else seen, device=weights.device)
    return Weights(of_map.unflatten(2, layout.map_size), tokens, weights.new_zeros(weights.shape[:2]), count)


def _apart(
    indices: Sequence[int],
    count: int,
    of_globals: Callable[[Sequence[int]], Weights],
    of_locals: Callable[[Sequence[int]], Weights],
) -> Weights:
    """Global tokens, the first `count` positions, and the others each by their own function, in the order asked."""
    places = ([p for p, index in enumerate(indices) if index < count], [p for p, i in enumerate(indices) if i >= count])
    parts = [
        function([indices[p] for p in chosen])
        for function, chosen in zip((of_globals, of_locals), places, strict=True)
        if chosen
    ]
    order = torch.tensor(places[0] + places[1]).argsort()
    fields = ((part.map, part.tokens, part.outside, part.seen) for part in parts)
    return Weights(*(torch.cat(same)[order.to(same[0].device)] for same in zip(*fields, strict=True)))


_LOCAL: dict[str, Any] = {
    "layout": _local_layout,
    "project": _project_map,
    "mix": _mix_local,
    "rows": _local_rows,
}
_TOKENS: dict[str, Any] = {"layout": _token_layout, "project": _project_tokens, "mix": _mix_tokens}
_WHOLE: dict[str, Any] = {"layout": _whole_layout, "project": _project_whole, "mix": _mix_whole}

MECHANISMS = (
    Mechanism("halo", HaloAttention, **_LOCAL),
    Mechanism("halo", TimmHaloAttention, **_LOCAL),
    Mechanism("global", BottleneckAttention, **_LOCAL),
    Mechanism("global", TimmBottleneckAttention, **_LOCAL),
    Mechanism("full", FullAttention, rows=_longformer_rows, **_TOKENS),
    Mechanism("vil", LongformerAttention, rows=_longformer_rows, **_TOKENS),
    Mechanism("global memory", GlobalAttention, rows=_memory_rows, **_TOKENS),
    Mechanism("linformer", LinformerAttention, rows=_linformer_rows, **_TOKENS),
    Mechanism("sra", SpatialReductionAttention, rows=_token_rows, **_TOKENS),
    Mechanism("performer", PerformerAttention, rows=_performer_rows, **_TOKENS),
    Mechanism("factorized", FactorizedAttention, rows=_factorized_rows, **_WHOLE),
    Mechanism("nonlocal", NonLocal, rows=_nonlocal_rows, **_WHOLE),
    Mechanism("nonlocal", NonLocal2d, layout=_block_layout, project=_project_map, mix=_mix_block, rows=_block_rows),
)
KINDS: tuple[type[nn.Module], ...] = tuple(mechanism.kind for mechanism in MECHANISMS)


def mechanism_of(layer: nn.Module) -> Mechanism:
    """The entry for a layer of one of KINDS."""
    return next(mechanism for mechanism in MECHANISMS if isinstance(layer, mechanism.kind))
