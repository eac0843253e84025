"""The backward pass of the CPU kernels: all gradients of one image and head, block after block, without atomics."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from halonet.ops.local_attention.numba_forward import border_groups, whole_axis
from halonet.ops.local_attention.numba_kernels import (
    CHUNK,
    clip,
    columns_to_rows,
    combine,
    copy_row,
    load_keys,
    load_queries,
    make_scores,
    make_scratch,
    padded,
    query_pixel,
    rows_to_columns,
    sides,
    store_4,
)
from halonet.ops.local_attention.numba_vectors import (
    LANES,
    add,
    exp,
    fma,
    load,
    load_part,
    multiply,
    splat,
    splat_at,
    store,
    store_part,
    subtract,
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
    delta: Any  # CHUNK
    log_sum: Any  # CHUNK


class Given(NamedTuple):
    """What the backward pass is given: the gradient of the output, a `Map`, and flat (B, Hq, Wq, N).

    delta: sum of output times its gradient. log_sum: as the forward pass left it.
    """

    output: Any
    delta: Any
    log_sum: Any


@njit(nogil=True)
def make_gradients(sizes, scratch):  # type: ignore[no-untyped-def]
    """Buffers for gradients, as large as those of `scratch`."""
    return Gradients(
        np.zeros_like(scratch.key),
        np.zeros_like(scratch.value),
        np.zeros_like(scratch.scores),
        np.zeros_like(scratch.query),
        np.zeros_like(scratch.query_t),
        np.zeros_like(scratch.position),
        np.zeros_like(scratch.position_t),
        np.zeros_like(scratch.largest),
        np.zeros_like(scratch.largest),
    )


@njit(nogil=True, cache=True)
def backward(given, maps, targets, table_rows, table_gradients, tables, sizes, scale, first, end):  # type: ignore[no-untyped-def]
    """Gradients of the slices (image, head) `first` to `end`.

    maps, targets: query, key, value and their gradients, `Map`; those of key and value hold zeros. table_rows: both
    tables row by row, (R, channels), flat. table_gradients: the same a slice.
    """
    scratch = make_scratch(sizes, tables.row_t)
    gradients = make_gradients(sizes, scratch)
    zero = scale - scale
    query, key, value = maps
    rows, columns = sides(sizes)
    for part in range(first, end):
        image, head = part // sizes.heads, part % sizes.heads
        for block in range(sizes.blocks[0] * sizes.blocks[1]):
            block_row, block_column = block // sizes.blocks[1], block % sizes.blocks[1]
            place = image, head, block_row, block_column
            count = load_keys(key, value, sizes, image, head, block_row, block_column, scratch, zero)
            has_border = sizes.border_takes_part and count < rows * columns
            gradients.key[:] = zero
            gradients.value[:] = zero
            for begin in range(0, sizes.queries[0] * sizes.queries[1], CHUNK):
                load_queries(query, tables, sizes, image, head, block_row, block_column, begin, scratch, scale)
                load_given(given, sizes, place, begin, scratch, gradients, zero)
                make_scores(count, sizes, scratch)
                make_weights(count, scratch, gradients)
                score_gradients(count, sizes, scratch, gradients)
                spread(scratch.scores, count, scratch.output, padded(sizes.value_channels), gradients.value)
                spread(gradients.scores, count, scratch.query, padded(sizes.channels), gradients.key)
                length = padded(sizes.channels)
                combine(scratch.key, length, sizes.channels, gradients.scores, count, gradients.query_t)
                columns_to_rows(gradients.query_t, length, gradients.query)
                if sizes.has_position:
                    position_gradients(sizes, block_row, block_column, scratch, gradients)
                    if has_border:
                        add_border(sizes, block_row, block_column, scratch, gradients)
                    columns_to_rows(gradients.position_t, padded(rows) + padded(columns), gradients.position)
                    to_tables(sizes, place, begin, part, table_rows, table_gradients, scratch, gradients)
                write_queries(targets[0], sizes, place, begin, gradients, scale)
            add_keys(targets[1], sizes, place, gradients.key, sizes.channels, zero)
            add_keys(targets[2], sizes, place, gradients.value, sizes.value_channels, zero)


@njit(nogil=True)
def load_given(given, sizes, place, begin, scratch, gradients, zero):  # type: ignore[no-untyped-def]
    """Loads what is given for the queries from number `begin` on; 0 for those that are not there."""
    image, head, block_row, block_column = place
    values = padded(sizes.value_channels)
    map_ = given.output
    for lane in range(CHUNK):
        row, column = query_pixel(sizes, block_row, block_column, begin + lane)
        if row < 0:
            for d in range(0, values, LANES):
                store(scratch.output, lane * values + d, splat(zero))
            gradients.delta[lane] = gradients.log_sum[lane] = zero
            continue
        start = image * map_.image + row * map_.row + column * map_.column + head * map_.head
        copy_row(map_, start, sizes.value_channels, scratch.output, lane * values, zero)
        pixel = ((image * sizes.query_height + row) * sizes.query_width + column) * sizes.heads + head
        gradients.delta[lane] = given.delta[pixel]
        gradients.log_sum[lane] = given.log_sum[pixel]
    rows_to_columns(scratch.output, values, scratch.output_t)


@njit(nogil=True)
def make_weights(count, scratch, gradients):  # type: ignore[no-untyped-def]
    """scores = exp(scores - log_sum)."""
    scores = scratch.scores
    for half in range(0, CHUNK, LANES):
        log_sum = load(gradients.log_sum, half)
        for t in range(count):
            store(scores, t * CHUNK + half, exp(subtract(load(scores, t * CHUNK + half), log_sum)))


@njit(nogil=True)
def score_gradients(count, sizes, scratch, gradients):  # type: ignore[no-untyped-def]
    """gradients.scores = weights * (values @ gradient of the output - delta)."""
    rows, columns_t = scratch.value, scratch.output_t
    length, channels = padded(sizes.value_channels), sizes.value_channels
    less_0 = subtract(splat(rows.dtype.type(0)), load(gradients.delta, 0))
    less_1 = subtract(splat(rows.dtype.type(0)), load(gradients.delta, LANES))
    weights, target = scratch.scores, gradients.scores
    t = 0
    while t + 4 <= count:
        a0 = b0 = c0 = d0 = less_0
        a1 = b1 = c1 = d1 = less_1
        for d in range(channels):
            g0, g1 = load(columns_t, d * CHUNK), load(columns_t, d * CHUNK + LANES)
            v = splat_at(rows, t * length + d)
            a0, a1 = fma(v, g0, a0), fma(v, g1, a1)
            v = splat_at(rows, (t + 1) * length + d)
            b0, b1 = fma(v, g0, b0), fma(v, g1, b1)
            v = splat_at(rows, (t + 2) * length + d)
            c0, c1 = fma(v, g0, c0), fma(v, g1, c1)
            v = splat_at(rows, (t + 3) * length + d)
            d0, d1 = fma(v, g0, d0), fma(v, g1, d1)
        p = t * CHUNK
        a0, a1 = multiply(a0, load(weights, p)), multiply(a1, load(weights, p + LANES))
        p += CHUNK
        b0, b1 = multiply(b0, load(weights, p)), multiply(b1, load(weights, p + LANES))
        p += CHUNK
        c0, c1 = multiply(c0, load(weights, p)), multiply(c1, load(weights, p + LANES))
        p += CHUNK
        d0, d1 = multiply(d0, load(weights, p)), multiply(d1, load(weights, p + LANES))
        store_4(target, t * CHUNK, a0, a1, b0, b1, c0, c1, d0, d1)
        t += 4
    while t < count:
        a0, a1 = less_0, less_1
        for d in range(channels):
            v = splat_at(rows, t * length + d)
            a0, a1 = fma(v, load(columns_t, d * CHUNK), a0), fma(v, load(columns_t, d * CHUNK + LANES), a1)
        store(target, t * CHUNK, multiply(a0, load(weights, t * CHUNK)))
        store(target, t * CHUNK + LANES, multiply(a1, load(weights, t * CHUNK + LANES)))
        t += 1


@njit(nogil=True)
def spread(scores, count, rows, length, target):  # type: ignore[no-untyped-def]
    """target (count, length) += scores (count, CHUNK) @ rows (CHUNK, length)."""
    for d in range(0, length, LANES):
        t = 0
        while t + 8 <= count:
            p = t * length + d
            a, b = load(target, p), load(target, p + length)
            c, e = load(target, p + 2 * length), load(target, p + 3 * length)
            p += 4 * length
            f, g = load(target, p), load(target, p + length)
            h, i = load(target, p + 2 * length), load(target, p + 3 * length)
            s = t * CHUNK
            for lane in range(CHUNK):
                row = load(rows, lane * length + d)
                a = fma(splat_at(scores, s + lane), row, a)
                b = fma(splat_at(scores, s + CHUNK + lane), row, b)
                c = fma(splat_at(scores, s + 2 * CHUNK + lane), row, c)
                e = fma(splat_at(scores, s + 3 * CHUNK + lane), row, e)
                f = fma(splat_at(scores, s + 4 * CHUNK + lane), row, f)
                g = fma(splat_at(scores, s + 5 * CHUNK + lane), row, g)
                h = fma(splat_at(scores, s + 6 * CHUNK + lane), row, h)
                i = fma(splat_at(scores, s + 7 * CHUNK + lane), row, i)
            for number, part in enumerate((a, b, c, e, f, g, h, i)):
                store(target, (t + number) * length + d, part)
            t += 8
        while t < count:
            a = load(target, t * length + d)
            for lane in range(CHUNK):
                a = fma(splat_at(scores, t * CHUNK + lane), load(rows, lane * length + d), a)
            store(target, t * length + d, a)
            t += 1


@njit(nogil=True)
def position_gradients(sizes, block_row, block_column, scratch, gradients):  # type: ignore[no-untyped-def]
    """gradients.position_t = sums of gradients.scores over the keys of a row and of a column."""
    first_row, end_row, first_column, end_column = clip(sizes, block_row, block_column)
    begin = padded(sides(sizes)[0])
    target, scores = gradients.position_t, gradients.scores
    target[:] = 0
    for half in range(0, CHUNK, LANES):
        t = 0
        for y in range(first_row, end_row):
            total = load(target, y * CHUNK + half)
            for x in range(first_column, end_column):
                part, place = load(scores, t * CHUNK + half), (begin + x) * CHUNK + half
                total = add(total, part)
                store(target, place, add(load(target, place), part))
                t += 1
            store(target, y * CHUNK + half, total)


@njit(nogil=True)
def add_border(sizes, block_row, block_column, scratch, gradients):  # type: ignore[no-untyped-def]
    """Adds the gradients of the position logits of border keys, whose score gradients are -weight * delta.

    A row outside the map meets every column, one inside only the columns outside; and so for columns.
    """
    first_row, end_row, first_column, end_column = clip(sizes, block_row, block_column)
    rows, columns = sides(sizes)
    border_groups(sizes, block_row, block_column, scratch)
    border = scratch.border
    for half in range(0, CHUNK, LANES):
        partners = whole_axis(border, 4, half), (load(border, 4 * CHUNK + half), load(border, 5 * CHUNK + half))
        _add_border_axis(0, rows, first_row, end_row, half, partners, scratch, gradients)
        partners = whole_axis(border, 0, half), (load(border, half), load(border, CHUNK + half))
        _add_border_axis(padded(rows), columns, first_column, end_column, half, partners, scratch, gradients)


@njit(nogil=True)
def _add_border_axis(begin, side, first, end, half, partners, scratch, gradients):  # type: ignore[no-untyped-def]
    """partners: largest logit and sum of the other axis' pixels that a pixel outside, and one inside, meets."""
    log_sum, delta = load(gradients.log_sum, half), load(gradients.delta, half)
    for y in range(side):
        most, total = partners[1] if first <= y < end else partners[0]
        place = (begin + y) * CHUNK + half
        weight = exp(subtract(add(load(scratch.position_t, place), most), log_sum))
        share = multiply(multiply(weight, total), delta)
        store(gradients.position_t, place, subtract(load(gradients.position_t, place), share))


@njit(nogil=True)
def to_tables(sizes, place, begin, part, table_rows, table_gradients, scratch, gradients):  # type: ignore[no-untyped-def]
    """From the gradients of position logits to those of the queries and of the tables."""
    _, _, block_row, block_column = place
    rows, columns = sides(sizes)
    length, position_length = padded(sizes.channels), padded(rows) + padded(columns)
    reach = sizes.block[0] + sizes.halo[0] - 1, sizes.block[1] + sizes.halo[1] - 1
    table_length = 2 * (reach[0] + reach[1]) + 2
    own = part * table_length * length
    for lane in range(CHUNK):
        if query_pixel(sizes, block_row, block_column, begin + lane)[0] < 0:
            continue
        i, j = (begin + lane) // sizes.queries[1], (begin + lane) % sizes.queries[1]
        row_start = reach[0] - sizes.halo[0] - i * sizes.relative_stride
        column_start = 2 * reach[0] + 1 + reach[1] - sizes.halo[1] - j * sizes.relative_stride
        for d in range(0, length, LANES):
            query = load(scratch.query, lane * length + d)
            total = load(gradients.query, lane * length + d)
            for y in range(rows + columns):
                if y < rows:
                    source, row = y, row_start + y
                else:
                    source, row = padded(rows) + y - rows, column_start + y - rows
                gradient = splat_at(gradients.position, lane * position_length + source)
                total = fma(gradient, load(table_rows, row * length + d), total)
                target = own + row * length + d
                store(table_gradients, target, fma(gradient, query, load(table_gradients, target)))
            store(gradients.query, lane * length + d, total)


@njit(nogil=True)
def write_queries(target, sizes, place, begin, gradients, scale):  # type: ignore[no-untyped-def]
    """Writes the gradients of the queries the map has."""
    image, head, block_row, block_column = place
    length = padded(sizes.channels)
    factor = splat(scale)
    for lane in range(CHUNK):
        row, column = query_pixel(sizes, block_row, block_column, begin + lane)
        if row < 0:
            continue
        start = image * target.image + row * target.row + column * target.column + head * target.head
        for d in range(0, sizes.channels, LANES):
            part = multiply(load(gradients.query, lane * length + d), factor)
            store_part(target.address, start + d, sizes.channels - d, part)


@njit(nogil=True)
def add_keys(target, sizes, place, source, channels, zero):  # type: ignore[no-untyped-def]
    """Adds rows of a block's keys to a map."""
    image, head, block_row, block_column = place
    first_row, end_row, first_column, end_column = clip(sizes, block_row, block_column)
    top = block_row * sizes.block[0] - sizes.halo[0]
    left = block_column * sizes.block[1] - sizes.halo[1]
    length = padded(channels)
    t = 0
    for y in range(top + first_row, top + end_row):
        for x in range(left + first_column, left + end_column):
            start = image * target.image + y * target.row + x * target.column + head * target.head
            for d in range(0, channels, LANES):
                total = add(load_part(target.address, start + d, channels - d, zero), load(source, t * length + d))
                store_part(target.address, start + d, channels - d, total)
            t += 1
