"""The forward kernel: one tile of queries meets the keys of its neighbourhood, with a running softmax."""

from __future__ import annotations

import triton
import triton.language as tl

from halonet.ops.local_attention.triton_gpu.addressing import (
    corner,
    extra_of,
    keys_of,
    load_vectors,
    queries_of,
    query_place,
    store_vectors,
)
from halonet.ops.local_attention.triton_gpu.scores import (
    HIDDEN,
    LOG2E,
    dot,
    local_scores,
    one_hot,
    position_logits,
    store_norm,
)


@triton.jit
def forward_kernel(
    query, key, value, extra_key, extra_value, output, norm, table, bias, extra_bias, scales, sizes, plan
):
    """Writes `output`, and unless it is None what the backward pass needs of each query's softmax to `norm`."""
    place = query_place(tl.program_id(0), sizes, plan)
    queries = queries_of(place, sizes, plan)
    q = load_vectors(query, place, queries.pixels, queries.exist, plan.key_channels, plan.key_dim)
    largest = tl.full([plan.num_queries], HIDDEN, plan.working)
    total = tl.zeros([plan.num_queries], plan.working)
    acc = tl.zeros([plan.num_queries, plan.value_dim], plan.working)

    for region in tl.range(plan.regions_down * plan.regions_across, disable_licm=True):
        first_y, first_x = corner(region, plan.regions_across, plan.region_rows, plan.region_columns)
        position, rest = position_logits(q, table, place, queries, first_y, first_x, scales.relative, plan)
        for tile in range(plan.tiles_down * plan.tiles_across):
            y, x = corner(tile, plan.tiles_across, plan.key_rows, plan.key_columns)
            keys = keys_of(place.block_row, place.block_column, first_y + y, first_x + x, sizes, plan)
            k = load_vectors(key, place, keys.pixels, keys.inside, plan.key_channels, plan.key_dim)
            hot = one_hot(keys, first_y, first_x, plan)
            scores = local_scores(q, k, position, rest, hot, bias, place, queries, keys, scales, plan)
            scores = tl.where(keys.seen[None, :], scores, HIDDEN)
            v = load_vectors(value, place, keys.pixels, keys.inside, plan.value_channels, plan.value_dim)
            largest, total, acc = softmax_step(scores, v, largest, total, acc, plan)

    if plan.has_extra:
        for first in range(0, sizes.extra, plan.num_extra):
            scores, pixels, seen = extra_scores(q, extra_key, extra_bias, place, first, scales, sizes, plan)
            v = load_vectors(extra_value, place, pixels, seen, plan.value_channels, plan.value_dim)
            largest, total, acc = softmax_step(scores, v, largest, total, acc, plan)

    acc = acc / total[:, None]
    store_vectors(output, place, queries.pixels, queries.exist, acc, plan.value_channels, plan.value_dim)
    if norm is not None:
        store_norm(norm, place, queries, sizes, largest, total, plan)


@triton.jit
def softmax_step(scores, v, largest, total, acc, plan):
    """Brings the scores (M, N) of more keys, and their values, into the running largest score, sum and output."""
    larger = tl.maximum(largest, tl.max(scores, 1))
    weights = tl.exp2(scores - larger[:, None])
    shrink = tl.exp2(largest - larger)
    total = total * shrink + tl.sum(weights, 1)
    acc = dot(weights.to(v.dtype), v, acc * shrink[:, None], plan)
    return larger, total, acc


@triton.jit
def extra_scores(q, extra_key, extra_bias, place, first, scales, sizes, plan):
    """Scores (M, num_extra) of the extra keys from number `first`, their pixels, and which of them there are."""
    pixels, seen = extra_of(first, sizes, plan)
    k = load_vectors(extra_key, place, pixels, seen, plan.key_channels, plan.key_dim)
    scores = dot(q, k.T, tl.zeros([plan.num_queries, plan.num_extra], plan.working), plan) * scales.product
    if extra_bias is not None:
        bias = tl.load(extra_bias + place.head * sizes.extra + first + pixels.row, mask=seen, other=0.0)
        scores += bias.to(plan.working)[None, :] * LOG2E
    return tl.where(seen[None, :], scores, HIDDEN), pixels, seen
