"""The backward pass of the CPU kernels: all gradients of one image and head, block after block, without atomics."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange

from halonet.ops.local_attention.custom_operator import HIDDEN
from halonet.ops.local_attention.numba_cpu.border import add_border
from halonet.ops.local_attention.numba_cpu.constants import CHUNK, LANES, SOURCES
from halonet.ops.local_attention.numba_cpu.layout import (
    Tables,
    bias_queries,
    make_scratch,
    padded,
    query_pixel,
    sides,
    unpack_map,
    unpack_sizes,
)
from halonet.ops.local_attention.numba_cpu.loading import copy_row, load_extra, load_keys, load_queries, write_rows
from halonet.ops.local_attention.numba_cpu.products import (
    columns_to_rows,
    combine,
    make_scores,
    rows_to_columns,
    score_gradients,
    spread,
)
from halonet.ops.local_attention.numba_cpu.table_gradients import add_bias, position_gradients, to_bias, to_tables
from halonet.ops.local_attention.numba_cpu.vectors import (
    exp,
    fma,
    load,
    load_part,
    splat,
    store,
    store_part,
    subtract,
    total,
)


class Gradients(NamedTuple):
    """Buffers of one thread beside its `Scratch`. `output` holds the gradient that came in."""

    key: Any  # keys x channels
    value: Any  # keys x value channels
    scores: Any  # keys x CHUNK
    query: Any  # CHUNK x channels
    query_t: Any
    position: Any  # CHUNK x (rows and columns of the neighbourhood)
    position_t: Any
    output: Any  # a query's value channels
    delta: Any  # CHUNK; sums of output times its gradient, and as that times one over the sum of exponentials
    largest: Any  # CHUNK
    bias: Any  # places of the neighbourhood and one x queries of a block; of one image and head


class Totals(NamedTuple):
    """Gradients that all blocks of an image and head add to, and what they are of.

    table_rows: both position tables one below the other, (R, channels). table_gradients: the same an image and head, as
    are bias_gradients, (rows of the one table, of the other), and extra_gradients, (extra keys). All flat.
    """

    table_rows: Any
    table_gradients: Any
    bias_gradients: Any
    extra_gradients: Any


@njit(nogil=True)
def make_gradients(sizes, scratch):
    """Buffers for gradients, as large as those of `scratch`."""
    return Gradients(
        np.zeros_like(scratch.key),
        np.zeros_like(scratch.value),
        np.zeros_like(scratch.scores),
        np.zeros_like(scratch.query),
        np.zeros_like(scratch.query_t),
        np.zeros_like(scratch.position),
        np.zeros_like(scratch.position_t),
        np.zeros(padded(sizes.value_channels), scratch.key.dtype),
        np.zeros_like(scratch.largest),
        np.zeros_like(scratch.largest),
        np.zeros(bias_size(sizes), scratch.key.dtype),
    )


@njit(nogil=True)
def bias_size(sizes):
    """Numbers of one head's bias."""
    rows, columns = sides(sizes)
    return (rows * columns + 1) * bias_queries(sizes) if sizes.has_bias else 0


def _entry(sources):
    """`sources` is part of what numba's cache knows the kernel by."""

    @njit(nogil=True, cache=True, parallel=True)
    def backward(maps, kind, norm, totals, tables, numbers, scale, threads):
        """All gradients.

        maps: query, key, value, extra key, extra value, output and its gradient, and where the gradients of the first
        five go, as rows of `Map`'s numbers; those but the query's hold zeros and are of the kernels' own type. kind:
        `Map`'s. norm: as the forward pass left it. totals: the arrays of `Totals`. The others as for `forward`.
        """
        _ = sources
        slices = numbers[0] * numbers[3]
        table_rows, table_gradients, bias_gradients, extra_gradients = totals
        row_t, column_t, hidden_row, hidden_column, bias, extra_bias = tables
        for share in prange(threads):
            whole = Tables(row_t, column_t, hidden_row, hidden_column, bias, extra_bias)
            sums = Totals(table_rows, table_gradients, bias_gradients, extra_gradients)
            first, end = slices * share // threads, slices * (share + 1) // threads
            backward_slices(maps, kind, norm, sums, whole, unpack_sizes(numbers), scale, first, end)

    return backward


backward = _entry(SOURCES)


@njit(nogil=True)
def backward_slices(maps, kind, norm, totals, tables, sizes, scale, first, end):
    """Gradients of the slices (image, head) `first` to `end`."""
    key, value = unpack_map(maps, 1, kind), unpack_map(maps, 2, kind)
    extra_key, extra_value = unpack_map(maps, 3, kind), unpack_map(maps, 4, kind)
    scratch = make_scratch(sizes, tables.row_t)
    gradients = make_gradients(sizes, scratch)
    zero, one = scratch.key.dtype.type(0), scratch.key.dtype.type(1)
    rows, columns = sides(sizes)
    for part in range(first, end):
        image, head = part // sizes.heads, part % sizes.heads
        gradients.bias[:] = zero
        for block in range(sizes.blocks[0] * sizes.blocks[1]):
            place = image, head, block // sizes.blocks[1], block % sizes.blocks[1]
            own = load_keys(key, value, sizes, image, head, place[2], place[3], scratch, scale)
            has_border = sizes.border_takes_part and not sizes.every_place and own < rows * columns
            count = load_extra(extra_key, extra_value, tables, sizes, image, head, own, scratch, scale)
            gradients.key[:] = zero
            gradients.value[:] = zero
            for begin in range(0, sizes.queries[0] * sizes.queries[1], CHUNK):
                chunk = begin, count, part
                add_chunk(maps, kind, norm, totals, tables, sizes, place, chunk, has_border, scratch, gradients)
            channels, values = sizes.channels, sizes.value_channels
            add_keys(unpack_map(maps, 8, kind), sizes, place, own, gradients.key, channels, scratch.pixel, scale)
            add_keys(unpack_map(maps, 9, kind), sizes, place, own, gradients.value, values, scratch.pixel, one)
            add_extra(unpack_map(maps, 10, kind), sizes, place, own, gradients.key, channels, scale)
            add_extra(unpack_map(maps, 11, kind), sizes, place, own, gradients.value, values, one)
        if sizes.has_bias:
            to_bias(sizes, part, totals.bias_gradients, gradients)


@njit(nogil=True)
def add_chunk(maps, kind, norm, totals, tables, sizes, place, chunk, has_border, scratch, gradients):
    """Adds what the queries of a block from number `begin` on contribute."""
    begin, count, part = chunk
    image, head, block_row, block_column = place
    rows, columns = sides(sizes)
    length, position_length = padded(sizes.channels), padded(rows) + padded(columns)
    load_queries(unpack_map(maps, 0, kind), tables, sizes, image, head, block_row, block_column, begin, scratch)
    load_given(unpack_map(maps, 5, kind), unpack_map(maps, 6, kind), norm, sizes, place, begin, scratch, gradients)
    make_scores(count, begin, head, tables, sizes, scratch)
    make_weights(count, scratch, gradients)
    score_gradients(count, sizes, scratch, gradients)
    spread(scratch.scores, count, scratch.output, padded(sizes.value_channels), gradients.value)
    spread(gradients.scores, count, scratch.query, length, gradients.key)
    combine(scratch.key, length, sizes.channels, gradients.scores, count, gradients.query_t)
    columns_to_rows(gradients.query_t, length, gradients.query)
    if sizes.has_bias:
        add_bias(count, begin, sizes, scratch, gradients)
    if sizes.has_position:
        position_gradients(count, scratch, gradients)
        if has_border:
            add_border(sizes, block_row, block_column, scratch, gradients)
        columns_to_rows(gradients.position_t, position_length, gradients.position)
        to_tables(sizes, place, begin, part, totals.table_rows, totals.table_gradients, scratch, gradients)
    for g in range(sizes.extra):
        for lane in range(CHUNK):
            totals.extra_gradients[part * sizes.extra + g] += gradients.scores[(count - sizes.extra + g) * CHUNK + lane]
    write_rows(unpack_map(maps, 7, kind), sizes, place, begin, gradients.query, sizes.channels)


@njit(nogil=True)
def load_given(output, grad, norm, sizes, place, begin, scratch, gradients):
    """Loads what is given for the queries from number `begin` on; those that are not there get weights of 0.

    The gradient of the output takes the division by the sum of exponentials over, so that weights need none.
    """
    image, head, block_row, block_column = place
    values = padded(sizes.value_channels)
    zero, one = scratch.key.dtype.type(0), scratch.key.dtype.type(1)
    for lane in range(CHUNK):
        row, column = query_pixel(sizes, block_row, block_column, begin + lane)
        if row < 0:
            for d in range(0, values, LANES):
                store(scratch.output, lane * values + d, splat(zero))
            gradients.delta[lane], gradients.largest[lane] = zero, -HIDDEN
            continue
        pixel = ((image * sizes.query_height + row) * sizes.query_width + column) * sizes.heads + head
        gradients.largest[lane], inverse = norm[2 * pixel], norm[2 * pixel + 1]
        start = image * grad.image + row * grad.row + column * grad.column + head * grad.head
        copy_row(grad, start, sizes.value_channels, scratch.output, lane * values, inverse)
        start = image * output.image + row * output.row + column * output.column + head * output.head
        copy_row(output, start, sizes.value_channels, gradients.output, 0, one)
        products = splat(zero)
        for d in range(0, values, LANES):
            products = fma(load(scratch.output, lane * values + d), load(gradients.output, d), products)
        gradients.delta[lane] = total(products)
    rows_to_columns(scratch.output, values, scratch.output_t)


@njit(nogil=True)
def make_weights(count, scratch, gradients):
    """scores = exp(scores - largest)."""
    scores = scratch.scores
    for half in range(0, CHUNK, LANES):
        largest = load(gradients.largest, half)
        for t in range(count):
            store(scores, t * CHUNK + half, exp(subtract(load(scores, t * CHUNK + half), largest)))


@njit(nogil=True)
def add_keys(target, sizes, place, count, source, channels, pixel, factor):
    """Adds the rows of a block's own keys, times a factor, to a map."""
    image, head, _, _ = place
    for t in range(count):
        if pixel[2 * t] >= 0:
            start = image * target.image + pixel[2 * t] * target.row + pixel[2 * t + 1] * target.column
            add_row(target.address, start + head * target.head, channels, source, t * padded(channels), factor)


@njit(nogil=True)
def add_extra(target, sizes, place, count, source, channels, factor):
    """Adds the rows of extra keys, times a factor, which come after `count` others."""
    image, head, _, _ = place
    for g in range(sizes.extra):
        start = image * target.image + g * target.column + head * target.head
        add_row(target.address, start, channels, source, (count + g) * padded(channels), factor)


@njit(nogil=True)
def add_row(address, start, channels, source, begin, factor):
    """Adds a row of a buffer, times a factor, to the channels of a pixel."""
    zero = factor - factor
    for d in range(0, channels, LANES):
        numbers = load_part(address, start + d, channels - d, zero)
        numbers = fma(load(source, begin + d), splat(factor), numbers)
        store_part(address, start + d, channels - d, numbers)
