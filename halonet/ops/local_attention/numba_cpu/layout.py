"""What the CPU kernels read and write: maps, sizes, tables and the buffers of a thread, and where things are in them.

The queries of a block lie along the lanes of vector registers, CHUNK at a time, and their logits are one row a key: so
maximum, exponential and sum go lane by lane, and nothing is gathered but the keys inside the map. All buffers of a
thread are parts of one array a type, known by where they begin (`pointers`).
Suffix _t: one row a channel, the queries in its columns. Rows of channels are filled up with zeros to whole registers.
Why: NOTES.md.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from halonet.ops.local_attention.numba_cpu.constants import CHUNK, GROUP, LANES, TILE
from halonet.ops.local_attention.numba_cpu.pointers import address, after, at_address, null, pointer_to, typed
from halonet.ops.local_attention.numba_cpu.vectors import splat, store


class Map(NamedTuple):
    """A map (B, H, W, N, D) in memory: its address, and strides in elements. Channels are adjacent.

    kind: a pointer of the type its numbers have: the kernels' own, or 16 bits, which are bfloat16. A type, so that each
    has kernels of its own: asking in the loops takes a twentieth of the time.
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
    reciprocal: int  # of queries[1], times 2^32, rounded up: see `place_in_block`


class Tables(NamedTuple):
    """What is added to the logits of content.

    row_t, column_t: position tables, scaled, (`Sizes.length`, `table_rows`). hidden_row, hidden_column: what windows
    hide, (i, y) and (j, x). bias: of every head, place in the neighbourhood and query, (N, y * x + 1, queries), 0 in
    the last place, which is for extra keys. extra_bias: (N, extra).
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
    scores: Any  # TILE x CHUNK
    position: Any  # CHUNK x (rows and columns of the neighbourhood)
    products: Any  # CHUNK x rows of the longer position table
    border: Any  # 8 x CHUNK: largest logit and sum of rows outside, rows inside, columns outside, columns inside
    factor: Any  # CHUNK: what is left of sums when a larger logit has come
    parts: Any  # of 16 bits, what tile registers take: see `amx_parts.Places`; else of 8 bits, and of nothing
    place: Any  # keys x 3: where the logits of the key's row and column begin in position_t; its place in `bias`
    pixel: Any  # keys x 2: row and column in the map, row -1 where there is none
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


@njit(inline="always")
def position_length(sizes):
    """Rows and columns of a neighbourhood, each filled up to whole registers: a query's position logits."""
    return padded(sizes.block[0] + 2 * sizes.halo[0]) + padded(sizes.block[1] + 2 * sizes.halo[1])


@njit(inline="always")
def table_rows(sizes, axis):
    """Rows of a position table as `Tables` has them: and LANES more, filled up with zeros to 32."""
    return (2 * (sizes.block[axis] + sizes.halo[axis]) - 1 + LANES + 31) // 32 * 32


@njit(nogil=True)
def unpack_sizes(numbers):
    """`Sizes` of the same numbers in a flat array: threads are given arrays and numbers only."""
    n = numbers
    singles = n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]
    pairs = (n[8], n[9]), (n[10], n[11]), (n[12], n[13]), (n[14], n[15])
    flags = n[17] != 0, n[18] != 0, n[19] != 0, n[20] != 0
    reciprocal = ((1 << 32) + n[15] - 1) // n[15]
    return Sizes(*singles, *pairs, n[16], *flags, n[21], n[22], n[23] != 0, n[24], n[25], n[26], reciprocal)


@njit(inline="always")
def unpack_map(maps, number, kind):
    """A `Map` out of many, five numbers each."""
    m = 5 * number
    return Map(maps[m], maps[m + 1], maps[m + 2], maps[m + 3], maps[m + 4], kind)


@njit(inline="always")
def chunks_of(sizes):
    """Chunks of a block's queries."""
    return (sizes.queries[0] * sizes.queries[1] + CHUNK - 1) // CHUNK


@njit(inline="always")
def group_size(sizes):
    """Chunks of a group: one, from beginning to end, where all keys are one tile."""
    return min(GROUP, chunks_of(sizes)) if key_rows(sizes) > TILE else 1


@njit(inline="always")
def groups_of(sizes):
    """Groups of a block's chunks."""
    return (chunks_of(sizes) + group_size(sizes) - 1) // group_size(sizes)


@njit(inline="always")
def key_rows(sizes):
    """The most keys that a block sees, filled up to 32."""
    rows, columns = sides(sizes)
    keys = rows * columns
    if not sizes.every_place:
        keys = min(rows, sizes.height) * min(columns, sizes.width)
    return (keys + sizes.extra + 31) // 32 * 32


@njit(nogil=True)
def scratch_at(sizes, start, parts, integers):
    """`Scratch` whose numbers begin at `start`, and where they end; each buffer whole registers."""
    keys, tile, queries = key_rows(sizes), min(key_rows(sizes), TILE), group_size(sizes) * CHUNK
    position = position_length(sizes)
    value = after(start, keys * sizes.length)
    scores = after(value, keys * sizes.value_length)
    position_rows = after(scores, tile * CHUNK)
    products = after(position_rows, CHUNK * position)
    border = after(products, CHUNK * max(table_rows(sizes, 0), table_rows(sizes, 1)))
    factor = after(border, 8 * CHUNK)
    query = after(factor, CHUNK)
    query_t = after(query, queries * sizes.length)
    position_t = after(query_t, queries * sizes.length)
    output = after(position_t, queries * (position + sizes.extra + 1))
    output_t = after(output, queries * sizes.value_length)
    largest = after(output_t, queries * sizes.value_length)
    sums = after(largest, queries)
    of_tile = scores, position_rows, products, border, factor
    of_keys = integers, after(integers, 3 * keys), after(integers, 5 * keys)
    of_chunk = query, query_t, position_t, output, output_t, largest, sums
    return Scratch(start, value, *of_tile, parts, *of_keys, 0, *of_chunk), after(sums, queries)


@njit(nogil=True)
def make_scratch(sizes, like, parts, count):
    """`Scratch` of the type of `like`, with `count` numbers of the type of `parts`; arrays to keep as long as it."""
    keys = key_rows(sizes)
    integers = np.zeros(5 * keys + GROUP, np.int64)
    _, end = scratch_at(sizes, null(like), null(parts), pointer_to(integers))
    memory, start = reserve(address(end), like)
    parts_memory, parts_start = reserve(2 * count, parts)
    scratch, _ = scratch_at(sizes, start, parts_start, pointer_to(integers))
    clear(scratch.position_t, 0, group_size(sizes) * CHUNK * (position_length(sizes) + sizes.extra + 1))
    return scratch, (integers, memory, parts_memory)


@njit(nogil=True)
def release(kept):
    """After the last use of what points into these arrays: numba frees them after their own."""
    kept[0][0] = 0
    kept[1][0] = 0
    kept[2][0] = 0


@njit(nogil=True)
def reserve(size, like):
    """An array of `size` bytes, of any content, and of the type of `like` where its first cache line begins.

    A register read across two lines costs both. Zeros would take as long as a tenth of a call.
    """
    memory = np.empty(size + 64, np.uint8)
    start = address(pointer_to(memory))
    return memory, at_address(like, (start + 63) // 64 * 64)


@njit(inline="always")
def of_chunk(scratch, number, sizes):
    """`Scratch` with the buffers of one chunk of the group."""
    s, queries = scratch, number * CHUNK
    of_tile = s.scores, s.position, s.products, s.border, s.factor
    own = (
        after(s.query, queries * sizes.length),
        after(s.query_t, queries * sizes.length),
        after(s.position_t, queries * (position_length(sizes) + sizes.extra + 1)),
        after(s.output, queries * sizes.value_length),
        after(s.output_t, queries * sizes.value_length),
        after(s.largest, queries),
        after(s.sums, queries),
    )
    return Scratch(s.key, s.value, *of_tile, s.parts, s.place, s.pixel, s.finite, number, *own)


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
    return chunks_of(sizes) * CHUNK


@njit(inline="always")
def place_in_block(sizes, number):
    """Row and column in its block of a query, without a division; exact while number * columns is below 2^32."""
    i = number * sizes.reciprocal >> 32
    return i, number - i * sizes.queries[1]


@njit(nogil=True)
def query_pixel(sizes, block_row, block_column, number):
    """Row and column in the query map of a block's query; row -1 if the map does not have it."""
    i, j = place_in_block(sizes, number)
    row, column = block_row * sizes.queries[0] + i, block_column * sizes.queries[1] + j
    if i >= sizes.queries[0] or row >= sizes.query_height or column >= sizes.query_width:
        return -1, 0
    return row, column


@njit(nogil=True)
def clear(pointer, begin, end):
    """Zeros from one place to another, a multiple of LANES further."""
    zero = splat(typed(pointer, 0))
    for index in range(begin, end, LANES):
        store(pointer, index, zero)
