"""Logits of a tile of queries against a tile of keys, in base 2, and what their gradients mean for the tables.

The position term of a query is one number a key row plus one a key column of a *region*, the rectangle of the
neighbourhood that a loop is at. These numbers are the products of the query with a slice of each table, shifted by
the query's place in the block (`position_logits`); a product with one-hot rows and columns then spreads them over the
keys, on the same matrix units as the products of queries and keys. NOTES.md has the maths.
"""

from __future__ import annotations

import triton
import triton.language as tl

from halonet.ops.local_attention.triton_gpu import constants
from halonet.ops.local_attention.triton_gpu.addressing import load_vectors, query_numbers

LOG2E = tl.constexpr(constants.LOG2E)
HIDDEN = tl.constexpr(-1e30)  # logit of a hidden key: exp2() of it is 0, and a few of them add up without overflow


@triton.jit
def dot(a, b, acc, plan):
    """acc + a @ b in the working precision."""
    if plan.widen:  # the interpreter multiplies the bits of half precision
        a = a.to(plan.working)
        b = b.to(plan.working)
    return tl.dot(a, b, acc, input_precision=plan.precision, out_dtype=plan.working)


@triton.jit
def store_norm(norm, place, queries, sizes, largest, total, plan):
    """Keeps of each query's softmax what the backward pass makes weights of: `load_norm`."""
    where = query_numbers(norm, place, queries, sizes, plan.kept)
    if plan.kept == 1:
        tl.store(where, largest + tl.log2(total), mask=queries.exist)
    else:
        tl.store(where, largest, mask=queries.exist)
        tl.store(where + 1, 1 / total, mask=queries.exist)


@triton.jit
def load_norm(norm, place, queries, sizes, plan):
    """A shift and a factor (M,): weight = factor * exp2(score - shift), 0 for queries that do not exist.

    One logarithm stands for both in half precision. In float32 its own rounding would be the largest error of all.
    """
    where = query_numbers(norm, place, queries, sizes, plan.kept)
    shift = tl.load(where, mask=queries.exist, other=float("inf"))
    factor = shift
    if plan.kept == 2:
        factor = tl.load(where + 1, mask=queries.exist, other=0.0)
    return shift, factor


@triton.jit
def load_queries(query, grad, norm, place, queries, sizes, plan):
    """Of a tile: queries, output gradients, and what `load_norm` gives."""
    q = load_vectors(query, place, queries.pixels, queries.exist, plan.key_channels, plan.key_dim)
    do = load_vectors(grad, place, queries.pixels, queries.exist, plan.value_channels, plan.value_dim)
    shift, factor = load_norm(norm, place, queries, sizes, plan)
    return q, do, shift, factor


@triton.jit
def load_delta(delta, place, queries, sizes):
    """Of a tile: each query's sum of output times its gradient. Loaded late, for it takes registers."""
    return tl.load(query_numbers(delta, place, queries, sizes, 1), mask=queries.exist, other=0.0)


@triton.jit
def weights_of(scores, shift, factor, plan):
    """The weights of scores, from what `load_norm` gave, in a shape that fits them."""
    weights = tl.exp2(scores - shift)
    if plan.kept == 2:
        weights *= factor
    return weights


@triton.jit
def slice_rows(place, first_y, first_x, plan):
    """Rows of the stacked tables that a query tile and a region meet, and whether there are such: (2 * slice,).

    The first half are rows of the height table, from the one of the region's first row and the tile's last query.
    """
    r = tl.arange(0, 2 * plan.slice)
    is_height = r < plan.slice
    last_row = place.first_row + plan.query_rows - 1
    last_column = place.first_column + plan.query_columns - 1
    row = r + (first_y + plan.block_rows - 1 - last_row * plan.relative_stride)
    column = r - plan.slice + (first_x + plan.block_columns - 1 - last_column * plan.relative_stride)
    height: tl.constexpr = 2 * (plan.block_rows + plan.halo_rows) - 1
    width: tl.constexpr = 2 * (plan.block_columns + plan.halo_columns) - 1
    exist = tl.where(is_height, (row >= 0) & (row < height), (column >= 0) & (column < width))
    return tl.where(is_height, row, column + height), exist


@triton.jit
def table_addresses(pointer, rows, plan):
    """Addresses (2 * slice, dim) of rows of the stacked tables."""
    return pointer + rows[:, None] * plan.key_channels + tl.arange(0, plan.key_dim)[None, :]


@triton.jit
def position_logits(q, table, place, queries, first_y, first_x, scale, plan):
    """One number a row and one a column of the region, (M, position_channels), and their shortfall from rounding.

    Half precision keeps the numbers in two pieces, so that the sum loses no more than the products do.
    """
    c = tl.arange(0, plan.position_channels)[None, :]
    is_row = c < plan.region_rows
    x = c - plan.region_rows
    if plan.has_relative:
        rows, exist = slice_rows(place, first_y, first_x, plan)
        where = table_addresses(table, rows, plan)
        mask = exist[:, None] & (tl.arange(0, plan.key_dim) < plan.key_channels)[None, :]
        part = tl.load(where, mask=mask, other=0.0)
        products = tl.zeros([plan.num_queries, 2 * plan.slice], plan.working)
        products = dot(q, part.T, products, plan) * scale
        row = c + queries.offset_row[:, None]
        column = x + queries.offset_column[:, None] + plan.slice
        index = tl.minimum(tl.where(is_row, row, column), 2 * plan.slice - 1)
        logits = tl.gather(products, index, 1)
    else:
        logits = tl.zeros([plan.num_queries, plan.position_channels], plan.working)
    if plan.window > 0:
        row = c + (first_y - plan.halo_rows) - queries.block_row[:, None] * plan.stride
        column = x + (first_x - plan.halo_columns) - queries.block_column[:, None] * plan.stride
        logits = tl.where(tl.abs(tl.where(is_row, row, column)) > plan.window // 2, HIDDEN, logits)
    rounded = logits
    rest = logits
    if plan.split:
        rounded = logits.to(tl.bfloat16)
        rest = (logits - rounded.to(tl.float32)).to(tl.bfloat16)
    return rounded, rest


@triton.jit
def one_hot(keys, first_y, first_x, plan):
    """(N, position_channels): 1 at the row and the column of the region that a key stands in."""
    c = tl.arange(0, plan.position_channels)[None, :]
    row = (keys.y - first_y)[:, None]
    column = (keys.x - first_x)[:, None] + plan.region_rows
    return tl.where((c == row) | (c == column), 1.0, 0.0).to(tl.bfloat16 if plan.split else plan.working)


@triton.jit
def slice_gradient(gradient, queries, plan):
    """Gradient of a query's products with the slice, (M, 2 * slice), from that of its position logits."""
    r = tl.arange(0, 2 * plan.slice)[None, :]
    is_height = r < plan.slice
    row = r - queries.offset_row[:, None]
    column = r - plan.slice - queries.offset_column[:, None]
    in_row = is_height & (row >= 0) & (row < plan.region_rows)
    in_column = (r >= plan.slice) & (column >= 0) & (column < plan.region_columns)
    index = tl.where(in_row, row, tl.where(in_column, column + plan.region_rows, 0))
    return tl.where(in_row | in_column, tl.gather(gradient, index, 1), 0.0)


@triton.jit
def bias_addresses(bias, head, queries, y, x, plan):
    """Addresses (M, N) of the static bias for each offset."""
    height: tl.constexpr = 2 * (plan.block_rows + plan.halo_rows) - 1
    width: tl.constexpr = 2 * (plan.block_columns + plan.halo_columns) - 1
    row = y[None, :] + (plan.block_rows - 1) - queries.block_row[:, None] * plan.relative_stride
    column = x[None, :] + (plan.block_columns - 1) - queries.block_column[:, None] * plan.relative_stride
    return bias + (head * height + row) * width + column


@triton.jit
def local_scores(q, k, position, rest, hot, bias, place, queries, keys, scales, plan):
    """Scores (M, N) of a tile of the neighbourhood; those of hidden keys mean nothing.

    position, rest, hot: from `position_logits` and `one_hot`; left unused, and so not computed, without position.
    """
    scores = dot(q, k.T, tl.zeros([plan.num_queries, plan.num_keys], plan.working), plan) * scales.product
    if plan.has_position:
        scores = dot(position, hot.T, scores, plan)
        if plan.split:
            scores = dot(rest, hot.T, scores, plan)
    if plan.has_bias:
        where = bias_addresses(bias, place.head, queries, keys.y, keys.x, plan)
        values = tl.load(where, mask=queries.exist[:, None] & keys.seen[None, :], other=0.0)
        scores += values.to(plan.working) * LOG2E
    return scores


@triton.jit
def local_scores_t(q, k, table, bias, place, queries, keys, first_y, first_x, scales, plan):
    """`local_scores` as (N, M), for the kernel whose sums are over queries: there each tile has its own slice."""
    scores = dot(k, q.T, tl.zeros([plan.num_keys, plan.num_queries], plan.working), plan) * scales.product
    if plan.has_position:
        position, rest = position_logits(q, table, place, queries, first_y, first_x, scales.relative, plan)
        hot = one_hot(keys, first_y, first_x, plan)
        scores = dot(hot, position.T, scores, plan)
        if plan.split:
            scores = dot(hot, rest.T, scores, plan)
    if plan.has_bias:
        where = bias_addresses(bias, place.head, queries, keys.y, keys.x, plan).T
        values = tl.load(where, mask=keys.seen[:, None] & queries.exist[None, :], other=0.0)
        scores += values.to(plan.working) * LOG2E
    return scores
