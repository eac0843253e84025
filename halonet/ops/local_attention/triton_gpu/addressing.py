"""Where the queries and keys of a tile lie: index arithmetic instead of gathered neighbourhoods.

Inside a kernel a tile of queries is M rows, a tile of keys N; both are rectangles, filled up to powers of two.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl


class Map(NamedTuple):
    """A tensor (B, H, W, N, D) whose channels are adjacent, by address and strides in numbers.

    vector: a power of two that divides all strides, so that as many channels may be loaded at once.
    """

    pointer: Any
    batch: Any
    row: Any
    column: Any
    head: Any
    vector: Any


class Sizes(NamedTuple):
    """What differs between calls that share compiled kernels."""

    height: Any
    width: Any
    query_height: Any
    query_width: Any
    blocks_down: Any
    blocks_across: Any
    heads: Any
    extra: Any


class Place(NamedTuple):
    """Which tile of queries: the tile's first query counts from the first of its block."""

    batch: Any
    head: Any
    block_row: Any
    block_column: Any
    first_row: Any
    first_column: Any


class Pixels(NamedTuple):
    """The pixels of a tile on a map: the sum of one corner and the way from there, so that loops move the corner."""

    corner_row: Any
    corner_column: Any
    row: Any
    column: Any


class Queries(NamedTuple):
    """The M queries of a tile: their pixels on the query map and their places in the block.

    `offset`s are distances from the tile's last query, in table rows.
    """

    pixels: Any
    block_row: Any
    block_column: Any
    offset_row: Any
    offset_column: Any
    exist: Any


class Keys(NamedTuple):
    """The N keys of a tile: their pixels on the key map and their places in the neighbourhood.

    `inside` the map they have something to load; those `seen` take part.
    """

    pixels: Any
    y: Any
    x: Any
    inside: Any
    seen: Any


@triton.jit
def corner(index, across, rows, columns):
    """First row and column of tile number `index`, counted along rows of `across` tiles."""
    row = index // across
    return row * rows, (index - row * across) * columns


@triton.jit
def query_place(item, sizes, plan):
    """Place number `item`, heads first, so that neighbours in time are neighbours in memory."""
    head = item % sizes.heads
    item = item // sizes.heads
    tile = item % plan.query_tiles
    item = item // plan.query_tiles
    block_column = item % sizes.blocks_across
    item = item // sizes.blocks_across
    first_row, first_column = corner(tile, plan.query_tiles_across, plan.query_rows, plan.query_columns)
    batch = (item // sizes.blocks_down).to(tl.int64)
    return Place(batch, head, item % sizes.blocks_down, block_column, first_row, first_column)


@triton.jit
def queries_of(place, sizes, plan):
    """The queries of a tile. Those that fill it up to M repeat the last row, and do not exist."""
    m = tl.arange(0, plan.num_queries)
    row = tl.minimum(m // plan.query_columns, plan.query_rows - 1)
    column = m % plan.query_columns
    block_row = place.first_row + row
    block_column = place.first_column + column
    rows: tl.constexpr = plan.block_rows // plan.stride
    columns: tl.constexpr = plan.block_columns // plan.stride
    corner_row = place.block_row * rows + place.first_row
    corner_column = place.block_column * columns + place.first_column
    exist = (m < plan.query_rows * plan.query_columns) & (block_row < rows) & (block_column < columns)
    exist &= (corner_row + row < sizes.query_height) & (corner_column + column < sizes.query_width)
    offset_row = row * -plan.relative_stride + (plan.query_rows - 1) * plan.relative_stride
    offset_column = column * -plan.relative_stride + (plan.query_columns - 1) * plan.relative_stride
    pixels = Pixels(corner_row, corner_column, row, column)
    return Queries(pixels, block_row, block_column, offset_row, offset_column, exist)


@triton.jit
def keys_of(block_row, block_column, first_y, first_x, sizes, plan):
    """The keys of a tile whose first is (first_y, first_x) of a block's neighbourhood."""
    n = tl.arange(0, plan.num_keys)
    row = n // plan.key_columns
    column = n % plan.key_columns
    y = first_y + row
    x = first_x + column
    corner_row = block_row * plan.block_rows - plan.halo_rows + first_y
    corner_column = block_column * plan.block_columns - plan.halo_columns + first_x
    if plan.border == "circular":
        height = sizes.blocks_down * plan.block_rows
        width = sizes.blocks_across * plan.block_columns
        row = (row + (corner_row + plan.turns_down * height)) % height
        column = (column + (corner_column + plan.turns_across * width)) % width
        corner_row *= 0  # row and column are those of the map now
        corner_column *= 0
    belong = (n < plan.key_rows * plan.key_columns) & sees(y, x, plan)
    pixels = Pixels(corner_row, corner_column, row, column)
    inside = belong & on_map(pixels, sizes)
    return Keys(pixels, y, x, inside, belong if plan.border == "zeros" else inside)


@triton.jit
def on_map(pixels, sizes):
    """Whether the map has the pixels."""
    row = pixels.corner_row + pixels.row
    column = pixels.corner_column + pixels.column
    return (row >= 0) & (row < sizes.height) & (column >= 0) & (column < sizes.width)


@triton.jit
def sees(y, x, plan):
    """Whether a block sees pixel (y, x), counted from the first of its neighbourhood."""
    seen = (y >= 0) & (y < plan.block_rows + 2 * plan.halo_rows)
    seen &= (x >= 0) & (x < plan.block_columns + 2 * plan.halo_columns)
    if plan.has_neighbor:
        # Blocks away from the own one; the whole turns keep the division away from negative numbers.
        down = (y + plan.turns_down * plan.block_rows - plan.halo_rows) // plan.block_rows - plan.turns_down
        across = (
            x + plan.turns_across * plan.block_columns - plan.halo_columns
        ) // plan.block_columns - plan.turns_across
        own = (down == 0) & (across == 0)
        seen &= own | ((down == plan.neighbor_down) & (across == plan.neighbor_across))
    return seen


@triton.jit
def extra_of(first, sizes, plan):
    """The extra keys from number `first`: pixels whose row and column are both that number, and which there are."""
    g = tl.arange(0, plan.num_extra)
    return Pixels(first, first, g, g), first + g < sizes.extra


@triton.jit
def addresses(map_, place, pixels, dim: tl.constexpr):
    """Addresses (tile, dim) of vectors of a map. 64 bits: a large map has more numbers than 32 count."""
    start = place.batch * map_.batch + place.head.to(tl.int64) * map_.head
    start += tl.cast(pixels.corner_row, tl.int64) * map_.row + tl.cast(pixels.corner_column, tl.int64) * map_.column
    steps = pixels.row.to(tl.int64) * map_.row + pixels.column.to(tl.int64) * map_.column
    steps = tl.multiple_of(steps, map_.vector)
    return (map_.pointer + tl.multiple_of(start, map_.vector) + steps)[:, None] + tl.arange(0, dim)[None, :]


@triton.jit
def channel_mask(exist, channels: tl.constexpr, dim: tl.constexpr):
    """(tile, dim): which vectors exist, and of them which channels; dim fills channels up to a power of two."""
    mask = exist[:, None]
    if channels < dim:
        mask = mask & (tl.arange(0, dim) < channels)[None, :]
    return mask


@triton.jit
def load_vectors(map_, place, pixels, exist, channels: tl.constexpr, dim: tl.constexpr):
    """Vectors of a map, (tile, dim), zeros where they do not exist."""
    return tl.load(addresses(map_, place, pixels, dim), mask=channel_mask(exist, channels, dim), other=0.0)


@triton.jit
def store_vectors(map_, place, pixels, exist, vectors, channels: tl.constexpr, dim: tl.constexpr):
    """Writes vectors (tile, dim) into a map where they exist."""
    vectors = vectors.to(map_.pointer.dtype.element_ty)
    tl.store(addresses(map_, place, pixels, dim), vectors, mask=channel_mask(exist, channels, dim))


@triton.jit
def query_numbers(pointer, place, queries, sizes, count: tl.constexpr):
    """Addresses of the first of the `count` numbers each query has in a tensor (B, Hq, Wq, N, count)."""
    pixels = queries.pixels
    corner = (place.batch * sizes.query_height + pixels.corner_row) * sizes.query_width + pixels.corner_column
    steps = pixels.row.to(tl.int64) * sizes.query_width + pixels.column
    return pointer + (corner * sizes.heads + place.head) * count + steps * (sizes.heads * count)
