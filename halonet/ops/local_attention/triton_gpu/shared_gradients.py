"""Gradients of what all queries share: extra keys and values, their bias, and the static bias.

Each is a sum over a map or a batch. Programs add up a part of it each, in a fixed order, and write it to a place of
their own; torch adds up the parts.
"""

from __future__ import annotations

import triton
import triton.language as tl

from halonet.ops.local_attention.triton_gpu.addressing import (
    Place,
    corner,
    extra_of,
    keys_of,
    load_vectors,
    queries_of,
    query_place,
    store_vectors,
)
from halonet.ops.local_attention.triton_gpu.forward import extra_scores
from halonet.ops.local_attention.triton_gpu.query_gradients import score_gradients
from halonet.ops.local_attention.triton_gpu.scores import (
    dot,
    load_delta,
    load_queries,
    local_scores,
    one_hot,
    position_logits,
    weights_of,
)


@triton.jit
def extra_gradient_kernel(
    query,
    extra_key,
    extra_value,
    grad,
    norm,
    delta,
    extra_bias,
    grad_key,
    grad_value,
    grad_bias,
    scales,
    sizes,
    tiles,
    parts,
    plan,
):
    """Writes the parts of the extra keys' gradients: (B * parts, G, N, D), and (B * parts, G, N) of their bias.

    tiles: of one head's queries in one map; part p takes the tiles p, p + parts, ...
    """
    item = tl.program_id(0)
    head = item % sizes.heads
    part = item // sizes.heads % parts
    batch = (item // sizes.heads // parts).to(tl.int64)
    first = tl.program_id(1) * plan.num_extra
    pixels, seen = extra_of(first, sizes, plan)
    v = load_vectors(extra_value, Place(batch, head, 0, 0, 0, 0), pixels, seen, plan.value_channels, plan.value_dim)
    dk = tl.zeros([plan.num_extra, plan.key_dim], plan.working)
    dv = tl.zeros([plan.num_extra, plan.value_dim], plan.working)
    db = tl.zeros([plan.num_extra], plan.working)
    for tile in range(part, tiles, parts):
        place = query_place((batch * tiles + tile) * sizes.heads + head, sizes, plan)
        queries = queries_of(place, sizes, plan)
        q, do, shift, factor = load_queries(query, grad, norm, place, queries, sizes, plan)
        d = load_delta(delta, place, queries, sizes)
        scores, _, _ = extra_scores(q, extra_key, extra_bias, place, first, scales, sizes, plan)
        weights = tl.where(queries.exist[:, None], weights_of(scores, shift[:, None], factor[:, None], plan), 0.0)
        ds = score_gradients(weights, do, v, d, plan)
        dv = dot(weights.to(do.dtype).T, do, dv, plan)
        dk = dot(ds.to(q.dtype).T, q, dk, plan)
        db += tl.sum(ds, 0)
    dk *= scales.natural_product
    here = Place(batch * parts + part, head, 0, 0, 0, 0)
    store_vectors(grad_key, here, pixels, seen, dk, plan.key_channels, plan.key_dim)
    store_vectors(grad_value, here, pixels, seen, dv, plan.value_channels, plan.value_dim)
    where = ((batch * parts + part) * sizes.extra + first + pixels.row) * sizes.heads + head
    tl.store(grad_bias + where, db, mask=seen)


@triton.jit
def bias_gradient_kernel(
    query,
    key,
    value,
    grad,
    norm,
    delta,
    table,
    bias,
    grad_bias,
    scales,
    sizes,
    blocks,
    parts,
    first_head,
    plan,
):
    """Writes the parts of the gradient of each query and key of a block: (heads, parts, i, j, y, x).

    blocks: of all maps; part p takes the blocks p, p + parts, ... Program axes: tiles of a block, parts, heads.
    """
    tiles: tl.constexpr = plan.tiles_down * plan.tiles_across
    key_tile = tl.program_id(0) % tiles
    query_tile = tl.program_id(0) // tiles
    part = tl.program_id(1)
    head = first_head + tl.program_id(2)
    first_y, first_x = corner(key_tile, plan.tiles_across, plan.key_rows, plan.key_columns)
    total = tl.zeros([plan.num_queries, plan.num_keys], plan.working)
    for block in range(part, blocks, parts):
        place = query_place((block * plan.query_tiles + query_tile) * sizes.heads + head, sizes, plan)
        queries = queries_of(place, sizes, plan)
        keys = keys_of(place.block_row, place.block_column, first_y, first_x, sizes, plan)
        q, do, shift, factor = load_queries(query, grad, norm, place, queries, sizes, plan)
        d = load_delta(delta, place, queries, sizes)
        k = load_vectors(key, place, keys.pixels, keys.inside, plan.key_channels, plan.key_dim)
        position, rest = position_logits(q, table, place, queries, first_y, first_x, scales.relative, plan)
        hot = one_hot(keys, first_y, first_x, plan)
        scores = local_scores(q, k, position, rest, hot, bias, place, queries, keys, scales, plan)
        taken = queries.exist[:, None] & keys.seen[None, :]
        weights = tl.where(taken, weights_of(scores, shift[:, None], factor[:, None], plan), 0.0)
        v = load_vectors(value, place, keys.pixels, keys.inside, plan.value_channels, plan.value_dim)
        total += score_gradients(weights, do, v, d, plan)

    place = query_place((part * plan.query_tiles + query_tile) * sizes.heads + head, sizes, plan)
    queries = queries_of(place, sizes, plan)
    keys = keys_of(place.block_row, place.block_column, first_y, first_x, sizes, plan)
    rows: tl.constexpr = plan.block_rows // plan.stride
    columns: tl.constexpr = plan.block_columns // plan.stride
    height: tl.constexpr = plan.block_rows + 2 * plan.halo_rows
    width: tl.constexpr = plan.block_columns + 2 * plan.halo_columns
    row = (tl.program_id(2) * parts + part) * rows + queries.block_row
    start = (row * columns + queries.block_column).to(tl.int64) * (height * width)
    n = tl.arange(0, plan.num_keys)
    mine = (n < plan.key_rows * plan.key_columns) & (keys.y < height) & (keys.x < width)
    m = tl.arange(0, plan.num_queries)
    filled = (m < plan.query_rows * plan.query_columns) & (queries.block_row < rows) & (queries.block_column < columns)
    where = grad_bias + start[:, None] + (keys.y * width + keys.x)[None, :]
    tl.store(where, total, mask=filled[:, None] & mine[None, :])
