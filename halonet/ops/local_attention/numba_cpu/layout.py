"""What the CPU kernels read and write: maps, sizes, tables and the buffers of a thread, and where things are in them.

The queries of a block lie along the lanes of vector registers, CHUNK at a time, and their logits are one row a key: so
maximum, exponential and sum go lane by lane, and nothing is gathered but the keys inside the map. Buffers are flat.
Suffix _t: one row a channel, the queries in its columns. Rows of channels are filled up with zeros to whole registers.
Why: NOTES.md.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from halonet.ops.local_attention.numba_cpu.constants import CHUNK, GROUP, LANES, TILE


class Map(NamedTuple):
    """A map (B, H, W, N, D) in memory: its address, and strides in elements. Channels are adjacent.

    kind: an empty array of the type its numbers have: the kernels' own, or 16 bits, which are bfloat16. A type, so that
    each has kernels of its own: asking in the loops takes a twentieth of the time.
    """

    address: int
    image: int
    row: int
    column: int
    head: int
    kind: Any


class Sizes(NamedTuple):
    """What the kernels need to know of a call; see `geometry`. Of pairs the row's comes first."""

    images: int
    height: int
    width: int
    heads: int
    query_height: int
    query_width: int
    channels: int
    value_channels: int
    blocks: tuple[int, int]
    block: tuple[int, int]
    halo: tuple[int, int]
    queries: tuple[int, int]  # of a block
    relative_stride: int
    has_position: bool
    border_takes_part: bool
    circular: bool
    every_place: bool  # keys outside the map are taken one by one where they take part, having no common sum
    neighbors: int  # 0: the whole halo
    extra: int  # keys every query sees
    has_bias: bool
    parts: int  # that each number is taken in by tile registers; 0: vector registers (`amx_parts`)
    length: int  # of rows of channels, filled up with zeros
    value_length: int


class Tables(NamedTuple):
    """What is added to the logits of content.

    row_t, column_t: position tables, scaled, (`Sizes.length`, rows), filled up with zeros to 32 rows and at least
    LANES. hidden_row, hidden_column: what windows hide, (i, y) and (j, x). bias: of every head, place in the
    neighbourhood and query, (N, y * x + 1, queries), 0 in the last place, which is for extra keys. extra_bias: (N,
    extra).
    """

    row_t: Any
    column_t: Any
    hidden_row: Any
    hidden_column: Any
    bias: Any
    extra_bias: Any


class Scratch(NamedTuple):
    """Buffers of one thread: for the keys of a block, for a tile, and for each chunk of a group (see `of_chunk`)."""

    key: Any  # keys x channels, scaled
    value: Any  # keys x value channels
    place: Any  # keys x 3: where the logits of the key's row and column begin in position_t; its place in `bias`
    pixel: Any  # keys x 2: row and column in the map, row -1 where there is none
    scores: Any  # TILE x CHUNK
    position: Any  # CHUNK x (rows and columns of the neighbourhood)
    products: Any  # CHUNK x rows of the longer position table
    parts: Any  # of 16 bits, what tile registers take: see `amx_parts.Places`; else of bool, and empty
    border: Any  # 8 x CHUNK: largest logit and sum of rows outside, rows inside, columns outside, columns inside
    factor: Any  # CHUNK: what is left of sums when a larger logit has come
    finite: Any  # GROUP: whether all that is in parts is finite; else a chunk takes vector registers
    number: int  # of the chunk in its group
    # a chunk's
    query: Any  # CHUNK x channels
    query_t: Any
    position_t: Any  # and one row an extra key, and one of zeros
    output: Any  # CHUNK x value channels
    output_t: Any
    largest: Any  # CHUNK
    sums: Any  # CHUNK


@njit(inline="always")
def padded(count):
    """The next multiple of LANES."""
    return (count + LANES - 1) // LANES * LANES


@njit(inline="always")
def sides(sizes):
    """Rows and columns of a neighbourhood."""
    return sizes.block[0] + 2 * sizes.halo[0], sizes.block[1] + 2 * sizes.halo[1]


@njit(nogil=True)
def unpack_sizes(numbers):
    """`Sizes` of the same numbers in a flat array: threads are given arrays and numbers only."""
    n = numbers
    singles = n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]
    pairs = (n[8], n[9]), (n[10], n[11]), (n[12], n[13]), (n[14], n[15])
    flags = n[17] != 0, n[18] != 0, n[19] != 0, n[20] != 0
    return Sizes(*singles, *pairs, n[16], *flags, n[21], n[22], n[23] != 0, n[24], n[25], n[26])


@njit(nogil=True)
def unpack_map(maps, number, kind):
    """A `Map` out of an array of them."""
    m = maps[number]
    return Map(m[0], m[1], m[2], m[3], m[4], kind)


@njit(inline="always")
def chunks_of(sizes):
    """Chunks of a block's queries."""
    return (sizes.queries[0] * sizes.queries[1] + CHUNK - 1) // CHUNK


@njit(inline="always")
def groups_of(sizes):
    """Groups of a block's chunks."""
    return (chunks_of(sizes) + GROUP - 1) // GROUP


@njit(inline="always")
def key_rows(sizes):
    """The most keys that a block sees, filled up to 32."""
    rows, columns = sides(sizes)
    keys = rows * columns
    if not sizes.every_place:
        keys = min(rows, sizes.height) * min(columns, sizes.width)
    return (keys + sizes.extra + 31) // 32 * 32


@njit(nogil=True)
def zeros(count, like):
    """Zeros of the type of the array `like` that begin with a cache line: a register read across two costs both."""
    buffer = np.zeros(count + 64 // like.itemsize, like.dtype)
    begin = (64 - np.int64(buffer.ctypes.data) % 64) % 64 // like.itemsize
    return buffer[begin : begin + count]


@njit(nogil=True)
def make_scratch(sizes, tables, parts, size):
    """Buffers of one thread; `size` numbers of the type of the array `parts` for tile registers."""
    like, table_rows = tables.row_t, max(tables.row_t.size, tables.column_t.size) // sizes.length
    rows, columns = sides(sizes)
    keys = key_rows(sizes)
    position = padded(rows) + padded(columns)
    queries = min(GROUP, chunks_of(sizes)) * CHUNK
    return Scratch(
        zeros(keys * sizes.length, like),
        zeros(keys * sizes.value_length, like),
        np.zeros(3 * keys, np.int64),
        np.zeros(2 * keys, np.int64),
        zeros(min(keys, TILE) * CHUNK, like),
        zeros(CHUNK * position, like),
        zeros(CHUNK * table_rows, like),
        zeros(size, parts),
        zeros(8 * CHUNK, like),
        zeros(CHUNK, like),
        np.zeros(GROUP, np.bool_),
        0,
        zeros(queries * sizes.length, like),
        zeros(queries * sizes.length, like),
        zeros(queries * (position + sizes.extra + 1), like),
        zeros(queries * sizes.value_length, like),
        zeros(queries * sizes.value_length, like),
        zeros(queries, like),
        zeros(queries, like),
    )


@njit(inline="always")
def part_of(buffer, number, count):
    """The part of one chunk, of `count` that have parts."""
    length = buffer.size // count
    return buffer[number * length : (number + 1) * length]


@njit(nogil=True)
def of_chunk(scratch, number):
    """`Scratch` with the buffers of one chunk of the group."""
    s, count = scratch, scratch.largest.size // CHUNK
    return Scratch(
        s.key,
        s.value,
        s.place,
        s.pixel,
        s.scores,
        s.position,
        s.products,
        s.parts,
        s.border,
        s.factor,
        s.finite,
        number,
        part_of(s.query, number, count),
        part_of(s.query_t, number, count),
        part_of(s.position_t, number, count),
        part_of(s.output, number, count),
        part_of(s.output_t, number, count),
        part_of(s.largest, number, count),
        part_of(s.sums, number, count),
    )


@njit(nogil=True)
def clip(sizes, block_row, block_column):
    """The part of a block's neighbourhood inside the map: first and end row, first and end column."""
    rows, columns = sides(sizes)
    top = block_row * sizes.block[0] - sizes.halo[0]
    left = block_column * sizes.block[1] - sizes.halo[1]
    return max(0, -top), min(rows, sizes.height - top), max(0, -left), min(columns, sizes.width - left)


@njit(nogil=True)
def is_neighbor(sizes, y, x):
    """Whether a place of the neighbourhood belongs to the own block or to the chosen neighbour, 1 to 8 row by row."""
    down, across = (y - sizes.halo[0]) // sizes.block[0], (x - sizes.halo[1]) // sizes.block[1]
    number = sizes.neighbors - 1 if sizes.neighbors <= 4 else sizes.neighbors
    own = down == 0 and across == 0
    return own or (down == number // 3 - 1 and across == number % 3 - 1)


@njit(nogil=True)
def bias_queries(sizes):
    """Queries of a block, filled up to whole chunks, as `bias` has them."""
    return (sizes.queries[0] * sizes.queries[1] + CHUNK - 1) // CHUNK * CHUNK


@njit(nogil=True)
def query_pixel(sizes, block_row, block_column, number):
    """Row and column in the query map of a block's query; row -1 if the map does not have it."""
    i, j = number // sizes.queries[1], number % sizes.queries[1]
    row, column = block_row * sizes.queries[0] + i, block_column * sizes.queries[1] + j
    if i >= sizes.queries[0] or row >= sizes.query_height or column >= sizes.query_width:
        return -1, 0
    return row, column
