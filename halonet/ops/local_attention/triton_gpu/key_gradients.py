"""Gradients of keys and values: one tile of keys meets the queries of the few blocks that see it.

Keys are cut into tiles that start where the halo of the block before ends: so a tile as large as a block lies in the
neighbourhoods of two blocks an axis, where one cut at the blocks would lie in those of three.
"""

from __future__ import annotations

import triton
import triton.language as tl

from halonet.ops.local_attention.triton_gpu.addressing import (
    Keys,
    Pixels,
    Place,
    corner,
    load_vectors,
    on_map,
    queries_of,
    sees,
    store_vectors,
)
from halonet.ops.local_attention.triton_gpu.scores import (
    dot,
    load_delta,
    load_queries,
    local_scores_t,
    weights_of,
)


@triton.jit
def key_gradient_kernel(
    query,
    key,
    value,
    grad,
    norm,
    delta,
    table,
    bias,
    grad_key,
    grad_value,
    scales,
    sizes,
    spans_down,
    spans_across,
    plan,
):
    """Writes `grad_key` and `grad_value`. A span is the tiles of one block's length."""
    batch, head, inner_row, inner_column, first_row, first_column = _tile_of(
        tl.program_id(0), sizes.heads, spans_down, spans_across, plan
    )
    n = tl.arange(0, plan.num_keys)
    row = n // plan.key_columns
    column = n % plan.key_columns
    pixels = Pixels(first_row, first_column, row, column)
    # The last tile of a span may be larger than what is left of it.
    mine = (inner_row + row < plan.block_rows) & (inner_column + column < plan.block_columns)
    mine &= (n < plan.key_rows * plan.key_columns) & on_map(pixels, sizes)
    here = Place(batch, head, 0, 0, 0, 0)
    k = load_vectors(key, here, pixels, mine, plan.key_channels, plan.key_dim)
    v = load_vectors(value, here, pixels, mine, plan.value_channels, plan.value_dim)
    dk = tl.zeros([plan.num_keys, plan.key_dim], plan.working)
    dv = tl.zeros([plan.num_keys, plan.value_dim], plan.working)

    last_row = tl.minimum(first_row + plan.key_rows, first_row - inner_row + plan.block_rows) - 1
    last_column = tl.minimum(first_column + plan.key_columns, first_column - inner_column + plan.block_columns) - 1
    from_row, to_row = _blocks(first_row, last_row, sizes.blocks_down, plan.block_rows, plan.halo_rows, plan)
    from_column, to_column = _blocks(
        first_column, last_column, sizes.blocks_across, plan.block_columns, plan.halo_columns, plan
    )
    across = to_column - from_column
    for step in tl.range((to_row - from_row) * across * plan.query_tiles, disable_licm=True):
        block = step // plan.query_tiles
        down, right = corner(block, across, 1, 1)
        block_row = from_row + down
        block_column = from_column + right
        row_on_map = (block_row + plan.turns_down * sizes.blocks_down) % sizes.blocks_down
        column_on_map = (block_column + plan.turns_across * sizes.blocks_across) % sizes.blocks_across
        tile = step - block * plan.query_tiles
        first_query = corner(tile, plan.query_tiles_across, plan.query_rows, plan.query_columns)
        place = Place(batch, head, row_on_map, column_on_map, first_query[0], first_query[1])
        first_y = first_row - block_row * plan.block_rows + plan.halo_rows
        first_x = first_column - block_column * plan.block_columns + plan.halo_columns
        y = first_y + row
        x = first_x + column
        keys = Keys(pixels, y, x, mine, mine & sees(y, x, plan))
        queries = queries_of(place, sizes, plan)
        q, do, shift, factor = load_queries(query, grad, norm, place, queries, sizes, plan)
        scores = local_scores_t(q, k, table, bias, place, queries, keys, first_y, first_x, scales, plan)
        weights = weights_of(scores, shift[None, :], factor[None, :], plan)
        weights = tl.where(keys.seen[:, None] & queries.exist[None, :], weights, 0.0)
        d = load_delta(delta, place, queries, sizes)
        dv = dot(weights.to(do.dtype), do, dv, plan)
        ds = weights * (dot(v, do.T, tl.zeros_like(weights), plan) - d[None, :])
        dk = dot(ds.to(q.dtype), q, dk, plan)

    dk *= scales.natural_product
    store_vectors(grad_key, here, pixels, mine, dk, plan.key_channels, plan.key_dim)
    store_vectors(grad_value, here, pixels, mine, dv, plan.value_channels, plan.value_dim)


@triton.jit
def _tile_of(item, heads, spans_down, spans_across, plan):
    """Batch, head, and the first pixel of tile number `item`, counted from the first of its span and on the map."""
    head = item % heads
    item = item // heads
    tile = item % (plan.tiles_down * plan.tiles_across)
    item = item // (plan.tiles_down * plan.tiles_across)
    inner_row, inner_column = corner(tile, plan.tiles_across, plan.key_rows, plan.key_columns)
    first_row = (item // spans_across % spans_down) * plan.block_rows - plan.span_rows + inner_row
    first_column = (item % spans_across) * plan.block_columns - plan.span_columns + inner_column
    batch = (item // spans_across // spans_down).to(tl.int64)
    return batch, head, inner_row, inner_column, first_row, first_column


@triton.jit
def _blocks(first, last, count, block: tl.constexpr, halo: tl.constexpr, plan):
    """The blocks, first and behind the last, that see some pixel from `first` to `last`.

    Around a circular border they are counted on, beyond the map, by as many turns as the halo makes.
    """
    turns: tl.constexpr = (halo + block - 1) // block + 2  # keeps the divisions away from negative numbers
    begin = (first - halo + turns * block) // block - turns
    end = (last + halo + turns * block) // block - turns + 1
    if plan.border == "circular":
        return begin, end
    return tl.maximum(begin, 0), tl.maximum(tl.minimum(end, count), tl.maximum(begin, 0))
