"""The forward pass of the CPU kernels: softmax over the keys inside the map, and over the border by its position."""

from __future__ import annotations

from numba import njit, prange

from halonet.ops.local_attention.numba_cpu.border import border_sums
from halonet.ops.local_attention.numba_cpu.constants import CHUNK, LANES, SOURCES
from halonet.ops.local_attention.numba_cpu.layout import (
    Tables,
    make_scratch,
    padded,
    query_pixel,
    sides,
    unpack_map,
    unpack_sizes,
)
from halonet.ops.local_attention.numba_cpu.loading import load_extra, load_keys, load_queries, write_rows
from halonet.ops.local_attention.numba_cpu.products import columns_to_rows, combine, make_scores
from halonet.ops.local_attention.numba_cpu.vectors import (
    add,
    divide,
    exp,
    load,
    multiply,
    splat,
    store,
    subtract,
)


def _entry(sources):
    """`sources` is part of what numba's cache knows the kernel by."""

    @njit(nogil=True, cache=True, parallel=True)
    def forward(maps, kind, norm, tables, numbers, scale, threads):
        """Attention.

        maps: query, key, value, extra key, extra value and output as rows of `Map`'s numbers. kind: `Map`'s. norm: flat
        (B, Hq, Wq, N, 2), of each query the largest logit and one over the sum of exponentials, or empty where it is
        not wanted. tables: `Tables`' arrays. numbers: `Sizes`. scale: of keys.
        """
        _ = sources
        units = numbers[0] * numbers[3] * numbers[8] * numbers[9]
        row_t, column_t, hidden_row, hidden_column, bias, extra_bias = tables
        for share in prange(threads):
            whole = Tables(row_t, column_t, hidden_row, hidden_column, bias, extra_bias)
            first, end = units * share // threads, units * (share + 1) // threads
            forward_units(maps, kind, norm, whole, unpack_sizes(numbers), scale, first, end)

    return forward


forward = _entry(SOURCES)


@njit(nogil=True)
def forward_units(maps, kind, norm, tables, sizes, scale, first, end):
    """Attention of the units (image, block row, block column, head) `first` to `end`."""
    query, key, value = unpack_map(maps, 0, kind), unpack_map(maps, 1, kind), unpack_map(maps, 2, kind)
    extra_key, extra_value, output = unpack_map(maps, 3, kind), unpack_map(maps, 4, kind), unpack_map(maps, 5, kind)
    scratch = make_scratch(sizes, tables.row_t)
    zero = scratch.key.dtype.type(0)
    down, across = sizes.blocks
    rows, columns = sides(sizes)
    length = padded(sizes.value_channels)
    for unit in range(first, end):
        head, block_column = unit % sizes.heads, unit // sizes.heads % across
        block_row, image = unit // (sizes.heads * across) % down, unit // (sizes.heads * across * down)
        count = load_keys(key, value, sizes, image, head, block_row, block_column, scratch, scale)
        has_border = sizes.border_takes_part and not sizes.every_place and count < rows * columns
        count = load_extra(extra_key, extra_value, tables, sizes, image, head, count, scratch, scale)
        for begin in range(0, sizes.queries[0] * sizes.queries[1], CHUNK):
            load_queries(query, tables, sizes, image, head, block_row, block_column, begin, scratch)
            make_scores(count, begin, head, tables, sizes, scratch)
            if has_border:
                border_sums(sizes, block_row, block_column, scratch)
            else:
                store(scratch.sums, 0, splat(zero))
                store(scratch.sums, LANES, splat(zero))
            exponentiate(count, scratch)
            combine(scratch.value, length, sizes.value_channels, scratch.scores, count, scratch.output_t)
            write_output(output, norm, sizes, image, head, block_row, block_column, begin, scratch)


@njit(nogil=True)
def exponentiate(count, scratch):
    """scores = exp(scores - largest), and their sums on top of those in `sums`."""
    scores = scratch.scores
    for half in range(0, CHUNK, LANES):
        largest, total = load(scratch.largest, half), load(scratch.sums, half)
        for t in range(count):
            value = exp(subtract(load(scores, t * CHUNK + half), largest))
            store(scores, t * CHUNK + half, value)
            total = add(total, value)
        store(scratch.sums, half, total)


@njit(nogil=True)
def write_output(output, norm, sizes, image, head, block_row, block_column, begin, scratch):
    """Divides by the sums and writes the queries the map has, and what normalized them."""
    values = padded(sizes.value_channels)
    one = scratch.sums.dtype.type(1)
    for half in range(0, CHUNK, LANES):
        total = load(scratch.sums, half)
        inverse = divide(splat(one), total)
        for d in range(sizes.value_channels):
            at = d * CHUNK + half
            store(scratch.output_t, at, multiply(load(scratch.output_t, at), inverse))
        store(scratch.sums, half, inverse)
    columns_to_rows(scratch.output_t, values, scratch.output)
    place = image, head, block_row, block_column
    write_rows(output, sizes, place, begin, scratch.output, sizes.value_channels)
    for lane in range(CHUNK if norm.size else 0):
        row, column = query_pixel(sizes, block_row, block_column, begin + lane)
        if row >= 0:
            pixel = ((image * sizes.query_height + row) * sizes.query_width + column) * sizes.heads + head
            norm[2 * pixel], norm[2 * pixel + 1] = scratch.largest[lane], scratch.sums[lane]
