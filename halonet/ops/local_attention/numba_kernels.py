"""What the CPU kernels share: sizes, buffers, loading, logits and products, compiled for the processor by numba.

The queries of a block lie along the lanes of vector registers, CHUNK at a time, and their logits are one row a key: so
maximum, exponential and sum go lane by lane, and nothing is gathered but the keys inside the map. Products keep
registers of sums, 4 x 2 or 8 x 1. Buffers are flat. Suffix _t: one row a channel, the queries in its columns. Rows of
channels are filled up with zeros to whole registers. Why: NOTES.md.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from halonet.ops.local_attention.numba_vectors import (
    LANES,
    add,
    fma,
    load,
    load_part,
    maximum,
    multiply,
    splat,
    splat_at,
    store,
    transpose,
)

CHUNK = 2 * LANES  # queries taken together
HIDDEN = -1e30  # exp() of it is 0, and a few of them add up without overflow


class Map(NamedTuple):
    """A map (B, H, W, N, D) in memory: its address, and strides in elements. Channels are adjacent."""

    address: int
    image: int
    row: int
    column: int
    head: int


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


class Tables(NamedTuple):
    """Position tables, scaled, with zeros around: (D, rows) each, and what windows hide: (i, y) and (j, x)."""

    row_t: Any
    row_length: int
    column_t: Any
    column_length: int
    hidden_row: Any
    hidden_column: Any


class Scratch(NamedTuple):
    """Buffers of one thread."""

    key: Any  # keys x channels
    value: Any  # keys x value channels
    place: Any  # keys x 2: where the logits of the key's row and of its column begin in position_t
    query: Any  # CHUNK x channels, scaled
    query_t: Any
    position: Any  # CHUNK x (rows and columns of the neighbourhood)
    position_t: Any
    scores: Any  # keys x CHUNK
    output: Any  # CHUNK x value channels
    output_t: Any
    largest: Any  # CHUNK
    sums: Any  # CHUNK
    border: Any  # 8 x CHUNK: largest logit and sum of rows outside, rows inside, columns outside, columns inside


@njit(inline="always")
def padded(count):  # type: ignore[no-untyped-def]
    """The next multiple of LANES."""
    return (count + LANES - 1) // LANES * LANES


@njit(inline="always")
def sides(sizes):  # type: ignore[no-untyped-def]
    """Rows and columns of a neighbourhood."""
    return sizes.block[0] + 2 * sizes.halo[0], sizes.block[1] + 2 * sizes.halo[1]


@njit(nogil=True, cache=True)
def make_scratch(sizes, like):  # type: ignore[no-untyped-def]
    """Buffers of one thread, of the type of the array `like`."""
    rows, columns = sides(sizes)
    keys = min(rows, sizes.height) * min(columns, sizes.width)
    channels, values = padded(sizes.channels), padded(sizes.value_channels)
    position = padded(rows) + padded(columns)
    return Scratch(
        np.zeros(keys * channels, like.dtype),
        np.zeros(keys * values, like.dtype),
        np.zeros(2 * keys, np.int64),
        np.zeros(CHUNK * channels, like.dtype),
        np.zeros(CHUNK * channels, like.dtype),
        np.zeros(CHUNK * position, like.dtype),
        np.zeros(CHUNK * position, like.dtype),
        np.zeros(keys * CHUNK, like.dtype),
        np.zeros(CHUNK * values, like.dtype),
        np.zeros(CHUNK * values, like.dtype),
        np.zeros(CHUNK, like.dtype),
        np.zeros(CHUNK, like.dtype),
        np.zeros(8 * CHUNK, like.dtype),
    )


@njit(nogil=True)
def clip(sizes, block_row, block_column):  # type: ignore[no-untyped-def]
    """The part of a block's neighbourhood inside the map: first and end row, first and end column."""
    rows, columns = sides(sizes)
    top = block_row * sizes.block[0] - sizes.halo[0]
    left = block_column * sizes.block[1] - sizes.halo[1]
    return max(0, -top), min(rows, sizes.height - top), max(0, -left), min(columns, sizes.width - left)


@njit(nogil=True)
def copy_row(map_, begin, channels, target, place, zero):  # type: ignore[no-untyped-def]
    """Copies the channels of a pixel to a zero-padded row."""
    for d in range(0, channels, LANES):
        store(target, place + d, load_part(map_.address, begin + d, channels - d, zero))


@njit(nogil=True)
def load_keys(key, value, sizes, image, head, block_row, block_column, scratch, zero):  # type: ignore[no-untyped-def]
    """Copies the keys and values inside the map to rows and notes their places; gives their number."""
    first_row, end_row, first_column, end_column = clip(sizes, block_row, block_column)
    top = block_row * sizes.block[0] - sizes.halo[0]
    left = block_column * sizes.block[1] - sizes.halo[1]
    columns_begin = padded(sides(sizes)[0])
    channels, values = padded(sizes.channels), padded(sizes.value_channels)
    rows_of_keys, rows_of_values, place = scratch.key, scratch.value, scratch.place
    count = 0
    for y in range(first_row, end_row):
        for x in range(first_column, end_column):
            begin = image * key.image + (top + y) * key.row + (left + x) * key.column + head * key.head
            copy_row(key, begin, sizes.channels, rows_of_keys, count * channels, zero)
            begin = image * value.image + (top + y) * value.row + (left + x) * value.column + head * value.head
            copy_row(value, begin, sizes.value_channels, rows_of_values, count * values, zero)
            place[2 * count] = y * CHUNK
            place[2 * count + 1] = (columns_begin + x) * CHUNK
            count += 1
    return count


@njit(nogil=True)
def query_pixel(sizes, block_row, block_column, number):  # type: ignore[no-untyped-def]
    """Row and column in the query map of a block's query; row -1 if the map does not have it."""
    i, j = number // sizes.queries[1], number % sizes.queries[1]
    row, column = block_row * sizes.queries[0] + i, block_column * sizes.queries[1] + j
    if i >= sizes.queries[0] or row >= sizes.query_height or column >= sizes.query_width:
        return -1, 0
    return row, column


@njit(nogil=True)
def load_queries(query, tables, sizes, image, head, block_row, block_column, first, scratch, scale):  # type: ignore[no-untyped-def]
    """Loads the queries from number `first` on, scaled, and their position logits; those that are not there are 0."""
    channels = padded(sizes.channels)
    rows, columns = padded(sides(sizes)[0]), padded(sides(sizes)[1])
    reach = sizes.block[0] + sizes.halo[0] - 1, sizes.block[1] + sizes.halo[1] - 1
    zero = scale - scale
    factor = splat(scale)
    queries, position = scratch.query, scratch.position
    for lane in range(CHUNK):
        row, column = query_pixel(sizes, block_row, block_column, first + lane)
        if row < 0:
            for d in range(0, channels, LANES):
                store(queries, lane * channels + d, splat(zero))
            for d in range(0, rows + columns, LANES):
                store(position, lane * (rows + columns) + d, splat(zero))
            continue
        begin = image * query.image + row * query.row + column * query.column + head * query.head
        for d in range(0, sizes.channels, LANES):
            part = load_part(query.address, begin + d, sizes.channels - d, zero)
            store(queries, lane * channels + d, multiply(part, factor))
        if not sizes.has_position:
            continue
        i, j = (first + lane) // sizes.queries[1], (first + lane) % sizes.queries[1]
        start = reach[0] - sizes.halo[0] - i * sizes.relative_stride
        target = lane * (rows + columns)
        for y in range(0, rows, LANES):
            total = load(tables.hidden_row, i * rows + y)
            for d in range(sizes.channels):
                total = fma(
                    splat_at(queries, lane * channels + d), load(tables.row_t, d * tables.row_length + start + y), total
                )
            store(position, target + y, total)
        start = reach[1] - sizes.halo[1] - j * sizes.relative_stride
        for x in range(0, columns, LANES):
            total = load(tables.hidden_column, j * columns + x)
            for d in range(sizes.channels):
                total = fma(
                    splat_at(queries, lane * channels + d),
                    load(tables.column_t, d * tables.column_length + start + x),
                    total,
                )
            store(position, target + rows + x, total)
    rows_to_columns(queries, channels, scratch.query_t)
    if sizes.has_position:
        rows_to_columns(position, rows + columns, scratch.position_t)


@njit(nogil=True)
def rows_to_columns(rows, length, columns):  # type: ignore[no-untyped-def]
    """(CHUNK, length) to (length, CHUNK)."""
    for d in range(0, length, LANES):
        for lane in range(0, CHUNK, LANES):
            transpose(rows, lane * length + d, length, columns, d * CHUNK + lane, CHUNK)


@njit(nogil=True)
def columns_to_rows(columns, length, rows):  # type: ignore[no-untyped-def]
    """(length, CHUNK) to (CHUNK, length)."""
    for d in range(0, length, LANES):
        for lane in range(0, CHUNK, LANES):
            transpose(columns, d * CHUNK + lane, CHUNK, rows, lane * length + d, length)


@njit(nogil=True)
def make_scores(count, sizes, scratch):  # type: ignore[no-untyped-def]
    """The logits of `count` keys to `scores`, and the largest of every query to `largest`."""
    keys, queries_t, position_t = scratch.key, scratch.query_t, scratch.position_t
    place, scores = scratch.place, scratch.scores
    length, channels = padded(sizes.channels), sizes.channels
    most_0 = most_1 = splat(scores.dtype.type(HIDDEN))
    t = 0
    while t + 4 <= count:
        row, column = place[2 * t], place[2 * t + 1]
        a0, a1 = _position_logits(position_t, row, column)
        row, column = place[2 * t + 2], place[2 * t + 3]
        b0, b1 = _position_logits(position_t, row, column)
        row, column = place[2 * t + 4], place[2 * t + 5]
        c0, c1 = _position_logits(position_t, row, column)
        row, column = place[2 * t + 6], place[2 * t + 7]
        d0, d1 = _position_logits(position_t, row, column)
        for d in range(channels):
            q0, q1 = load(queries_t, d * CHUNK), load(queries_t, d * CHUNK + LANES)
            k = splat_at(keys, t * length + d)
            a0, a1 = fma(k, q0, a0), fma(k, q1, a1)
            k = splat_at(keys, (t + 1) * length + d)
            b0, b1 = fma(k, q0, b0), fma(k, q1, b1)
            k = splat_at(keys, (t + 2) * length + d)
            c0, c1 = fma(k, q0, c0), fma(k, q1, c1)
            k = splat_at(keys, (t + 3) * length + d)
            d0, d1 = fma(k, q0, d0), fma(k, q1, d1)
        store_4(scores, t * CHUNK, a0, a1, b0, b1, c0, c1, d0, d1)
        most_0 = maximum(most_0, maximum(maximum(a0, b0), maximum(c0, d0)))
        most_1 = maximum(most_1, maximum(maximum(a1, b1), maximum(c1, d1)))
        t += 4
    while t < count:
        a0, a1 = _position_logits(position_t, place[2 * t], place[2 * t + 1])
        for d in range(channels):
            k = splat_at(keys, t * length + d)
            a0, a1 = fma(k, load(queries_t, d * CHUNK), a0), fma(k, load(queries_t, d * CHUNK + LANES), a1)
        store(scores, t * CHUNK, a0)
        store(scores, t * CHUNK + LANES, a1)
        most_0, most_1 = maximum(most_0, a0), maximum(most_1, a1)
        t += 1
    store(scratch.largest, 0, most_0)
    store(scratch.largest, LANES, most_1)


@njit(inline="always")
def _position_logits(position_t, row, column):  # type: ignore[no-untyped-def]
    first = add(load(position_t, row), load(position_t, column))
    return first, add(load(position_t, row + LANES), load(position_t, column + LANES))


@njit(inline="always")
def store_4(target, place, a0, a1, b0, b1, c0, c1, d0, d1):  # type: ignore[no-untyped-def]
    """Writes four rows of CHUNK numbers."""
    store(target, place, a0)
    store(target, place + LANES, a1)
    store(target, place + 2 * LANES, b0)
    store(target, place + 3 * LANES, b1)
    store(target, place + 4 * LANES, c0)
    store(target, place + 5 * LANES, c1)
    store(target, place + 6 * LANES, d0)
    store(target, place + 7 * LANES, d1)


@njit(nogil=True)
def combine(rows, length, channels, scores, count, target_t):  # type: ignore[no-untyped-def]
    """target_t (channels, CHUNK) = rows (count, channels) transposed @ scores (count, CHUNK)."""
    for c in range(0, channels, 4):
        a0 = a1 = b0 = b1 = c0 = c1 = d0 = d1 = splat(rows.dtype.type(0))
        for t in range(count):
            s0, s1 = load(scores, t * CHUNK), load(scores, t * CHUNK + LANES)
            r = splat_at(rows, t * length + c)
            a0, a1 = fma(r, s0, a0), fma(r, s1, a1)
            r = splat_at(rows, t * length + c + 1)
            b0, b1 = fma(r, s0, b0), fma(r, s1, b1)
            r = splat_at(rows, t * length + c + 2)
            c0, c1 = fma(r, s0, c0), fma(r, s1, c1)
            r = splat_at(rows, t * length + c + 3)
            d0, d1 = fma(r, s0, d0), fma(r, s1, d1)
        store_4(target_t, c * CHUNK, a0, a1, b0, b1, c0, c1, d0, d1)
