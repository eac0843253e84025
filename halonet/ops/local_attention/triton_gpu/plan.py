"""How the kernels cut their work into tiles, from the shapes of a call alone. Needs no triton.

Tiles of queries and of keys are rectangles of a block and of its neighbourhood: sizes on a GPU are powers of two, and
14 x 14 keys fill four tiles of 7 x 7 in 64 better than 196 keys in a row fill any.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from halonet.ops.local_attention.call import Call
from halonet.ops.local_attention.geometry import NEIGHBOR_DIRECTIONS

MINIMUM = 16  # rows, columns and channels a product on the matrix units has at least


class Rectangle(NamedTuple):
    """A rectangle of queries or keys, and the tiles that cover what they are part of."""

    rows: int
    columns: int
    down: int
    across: int


class Tiles(NamedTuple):
    """What is tuned: how many queries and keys a tile may hold, and position logits a query; warps of a program."""

    num_queries: int
    num_keys: int
    num_warps: int
    num_positions: int = 32
    num_stages: int = 2  # tiles whose loads are under way at once


class Numerics(NamedTuple):
    """How a kernel multiplies."""

    precision: str  # of float32 products: "ieee" or "tf32"
    split: bool  # position logits are kept in two pieces of half precision
    widen: bool  # half precision is multiplied in float32
    kept: int  # numbers a query of which the backward pass makes the weights again
    working: Any  # triton's name for the type of sums


class Plan(NamedTuple):
    """What a kernel is compiled for. Sizes in pixels of the key map unless they say otherwise."""

    block_rows: int
    block_columns: int
    halo_rows: int
    halo_columns: int
    stride: int
    relative_stride: int
    border: str
    window: int  # 0 for none
    has_neighbor: bool
    neighbor_down: int
    neighbor_across: int
    turns_down: int  # whole blocks that lift every coordinate above zero
    turns_across: int
    key_channels: int
    key_dim: int  # channels filled up to a power of two
    value_channels: int
    value_dim: int
    query_rows: int  # of a tile, in queries
    query_columns: int
    num_queries: int
    query_tiles: int  # of a block
    query_tiles_across: int
    key_rows: int  # of a tile
    key_columns: int
    num_keys: int
    tiles_down: int  # of a region
    tiles_across: int
    region_rows: int  # the rectangle whose rows and columns have one position logit each
    region_columns: int
    regions_down: int
    regions_across: int
    span_rows: int  # how far the tiles of keys start before the map
    span_columns: int
    position_channels: int
    slice: int  # rows of a position table that a tile of queries and a region meet
    table_rows: int
    has_relative: bool
    has_position: bool
    has_bias: bool
    has_extra: bool
    num_extra: int
    precision: str
    split: bool
    widen: bool
    kept: int
    working: Any


def power_of_two(number: int, minimum: int = MINIMUM) -> int:
    """The next power of two, at least the minimum."""
    return max(minimum, 1 << (number - 1).bit_length())


def whole(size: int, part: int) -> int:
    """How many parts cover a size."""
    return -(-size // part)


@lru_cache(maxsize=1024)
def tile_of(rows: int, columns: int, most: int) -> Rectangle:
    """The rectangle of at most `most` that covers rows x columns in the fewest tiles, and of those the squarest."""
    choices = []
    for height in range(1, min(rows, most) + 1):
        width = min(columns, most // height)
        width = whole(columns, whole(columns, width))
        choices.append((whole(rows, height) * whole(columns, width), height + width, height, width))
    _, _, height, width = min(choices)
    return Rectangle(height, width, whole(rows, height), whole(columns, width))


@lru_cache(maxsize=1024)
def key_tile_of(block: tuple[int, int], halo: tuple[int, int], most: int) -> Rectangle:
    """The rectangle of at most `most` of a block's keys whose tiles meet the fewest blocks that see them."""
    choices = []
    for height in range(1, min(block[0], most) + 1):
        for width in range(1, min(block[1], most // height) + 1):
            visits = _visits(block[0], halo[0], height) * _visits(block[1], halo[1], width)
            choices.append((visits, height + width, height, width))
    _, _, height, width = min(choices)
    return Rectangle(height, width, whole(block[0], height), whole(block[1], width))


def tiles_together(keys: Rectangle, sides: tuple[int, int], most: int) -> tuple[int, int]:
    """How many tiles of keys down and across share position logits: a row and a column of them have one each."""
    for down in range(keys.down, 0, -1):
        if keys.down % down == 0 and min(sides[0], down * keys.rows) + sides[1] <= most:
            return down, keys.across
    return 1, 1


def span_of(block: int, halo: int) -> int:
    """How far before the map the tiles of keys start, so that one starts where the halo of the block before ends."""
    return halo % block


def _visits(block: int, halo: int, side: int) -> int:
    """Blocks that the tiles of one block's length meet on an axis, in all."""
    start = -span_of(block, halo)
    total = 0
    for first in range(start, start + block, side):
        last = min(first + side, start + block) - 1
        total += (last + halo) // block - (first - halo) // block + 1
    return total


def _regions(
    kernel: str, keys: Rectangle, neighborhood: tuple[int, int], most: int
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Rows and columns of a region; regions down and across; tiles of a region down and across."""
    if kernel not in ("forward", "query"):  # these go from tile to tile themselves
        return (keys.rows, keys.columns), (1, 1), (keys.down, keys.across)
    tiles = tiles_together(keys, neighborhood, most)
    sides = min(neighborhood[0], tiles[0] * keys.rows), min(neighborhood[1], tiles[1] * keys.columns)
    return sides, (whole(keys.down, tiles[0]), whole(keys.across, tiles[1])), tiles


def make_plan(call: Call, most: Tiles, kernel: str, numerics: Numerics) -> Plan:
    """The plan of a kernel, "forward", "query", "key" or "bias", with tiles of at most those sizes."""
    geometry = call.geometry
    rows, columns = geometry.rows, geometry.columns
    block, halo = (rows.block, columns.block), (rows.halo, columns.halo)
    queries = tile_of(rows.queries_per_block, columns.queries_per_block, most.num_queries)
    num_queries = power_of_two(queries.rows * queries.columns)
    neighborhood = (rows.neighborhood, columns.neighborhood)
    keys = key_tile_of(block, halo, most.num_keys) if kernel == "key" else tile_of(*neighborhood, most.num_keys)
    region, regions, tiles = _regions(kernel, keys, neighborhood, most.num_positions)
    reaches = [rows.relative_stride * (side - 1) for side in (queries.rows, queries.columns)]
    slices = max(side + reach for side, reach in zip(region, reaches, strict=True))
    down, across = (0, 0) if geometry.neighbors is None else NEIGHBOR_DIRECTIONS[geometry.neighbors - 1]
    return Plan(
        block_rows=rows.block,
        block_columns=columns.block,
        halo_rows=rows.halo,
        halo_columns=columns.halo,
        stride=rows.stride,
        relative_stride=rows.relative_stride,
        border=rows.border,
        window=rows.window or 0,
        has_neighbor=geometry.neighbors is not None,
        neighbor_down=down,
        neighbor_across=across,
        turns_down=whole(rows.halo, rows.block) + 2,
        turns_across=whole(columns.halo, columns.block) + 2,
        key_channels=call.query.shape[4],
        key_dim=power_of_two(call.query.shape[4]),
        value_channels=call.value.shape[4],
        value_dim=power_of_two(call.value.shape[4]),
        query_rows=queries.rows,
        query_columns=queries.columns,
        num_queries=num_queries,
        query_tiles=queries.down * queries.across,
        query_tiles_across=queries.across,
        key_rows=keys.rows,
        key_columns=keys.columns,
        num_keys=power_of_two(keys.rows * keys.columns),
        tiles_down=tiles[0],
        tiles_across=tiles[1],
        region_rows=region[0],
        region_columns=region[1],
        regions_down=regions[0],
        regions_across=regions[1],
        span_rows=span_of(rows.block, rows.halo),
        span_columns=span_of(columns.block, columns.halo),
        position_channels=power_of_two(region[0] + region[1]),
        slice=power_of_two(slices, MINIMUM // 2),
        table_rows=sum(2 * axis.reach + 1 for axis in (rows, columns)),
        has_relative=call.relative is not None,
        has_position=call.relative is not None or rows.window is not None,
        has_bias=call.bias is not None,
        has_extra=call.extra_key is not None,
        num_extra=power_of_two(min(64, call.extra_key.shape[1])) if call.extra_key is not None else MINIMUM,
        precision=numerics.precision,
        split=numerics.split,
        widen=numerics.widen,
        kept=numerics.kept,
        working=numerics.working,
    )
