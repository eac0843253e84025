"""The products of the CPU kernels. They keep registers of sums, 4 x 2 or 8 x 1, and read each number once for all."""

from __future__ import annotations

from numba import njit

from halonet.ops.local_attention.numba_cpu.constants import CHUNK, LANES
from halonet.ops.local_attention.numba_cpu.layout import bias_queries, sides
from halonet.ops.local_attention.numba_cpu.pointers import typed
from halonet.ops.local_attention.numba_cpu.vectors import (
    add,
    exp,
    fma,
    load,
    maximum,
    multiply,
    splat,
    splat_at,
    store,
    subtract,
    transpose,
)


@njit(nogil=True)
def rows_to_columns(rows, length, columns):
    """(CHUNK, length) to (length, CHUNK)."""
    for d in range(0, length, LANES):
        for lane in range(0, CHUNK, LANES):
            transpose(rows, lane * length + d, length, columns, d * CHUNK + lane, CHUNK)


@njit(nogil=True)
def columns_to_rows(columns, length, rows):
    """(length, CHUNK) to (CHUNK, length)."""
    for d in range(0, length, LANES):
        for lane in range(0, CHUNK, LANES):
            transpose(columns, d * CHUNK + lane, CHUNK, rows, lane * length + d, length)


@njit(nogil=True)
def make_scores(first, count, begin, head, tables, sizes, scratch):
    """The logits of the `count` keys from `first` on and the queries from `begin` on to `scores`.

    `largest` becomes the largest that each query has met, `factor` what is left of sums that the one before was in.
    """
    keys, queries_t, position_t = scratch.key, scratch.query_t, scratch.position_t
    place, scores = scratch.place, scratch.scores
    length, channels = sizes.length, sizes.channels
    most_0, most_1 = load(scratch.largest, 0), load(scratch.largest, LANES)
    t = 0
    while t + 4 <= count:
        p = 3 * (first + t)
        a0, a1 = _column_logits(position_t, place[p + 1])
        b0, b1 = _column_logits(position_t, place[p + 4])
        c0, c1 = _column_logits(position_t, place[p + 7])
        d0, d1 = _column_logits(position_t, place[p + 10])
        a0, a1, b0, b1, c0, c1, d0, d1 = _multiply_4(
            keys, (first + t) * length, length, queries_t, channels, a0, a1, b0, b1, c0, c1, d0, d1
        )
        a0, a1 = _with_row(a0, a1, position_t, place[p])
        b0, b1 = _with_row(b0, b1, position_t, place[p + 3])
        c0, c1 = _with_row(c0, c1, position_t, place[p + 6])
        d0, d1 = _with_row(d0, d1, position_t, place[p + 9])
        if sizes.has_bias:
            a0, a1 = _with_bias(a0, a1, place[p + 2], begin, head, tables, sizes)
            b0, b1 = _with_bias(b0, b1, place[p + 5], begin, head, tables, sizes)
            c0, c1 = _with_bias(c0, c1, place[p + 8], begin, head, tables, sizes)
            d0, d1 = _with_bias(d0, d1, place[p + 11], begin, head, tables, sizes)
        store_4(scores, t * CHUNK, a0, a1, b0, b1, c0, c1, d0, d1)
        most_0 = maximum(most_0, maximum(maximum(a0, b0), maximum(c0, d0)))
        most_1 = maximum(most_1, maximum(maximum(a1, b1), maximum(c1, d1)))
        t += 4
    while t < count:
        p = 3 * (first + t)
        a0, a1 = _column_logits(position_t, place[p + 1])
        for d in range(channels):
            k = splat_at(keys, (first + t) * length + d)
            a0, a1 = fma(k, load(queries_t, d * CHUNK), a0), fma(k, load(queries_t, d * CHUNK + LANES), a1)
        a0, a1 = _with_row(a0, a1, position_t, place[p])
        a0, a1 = _finish_row(a0, a1, t, place[p + 2], begin, head, tables, sizes, scores)
        most_0, most_1 = maximum(most_0, a0), maximum(most_1, a1)
        t += 1
    _note_largest(most_0, most_1, scratch)


@njit(nogil=True)
def add_position(first, count, begin, head, tables, sizes, scratch):
    """`make_scores` where `scores` are products of content already."""
    position_t, place, scores = scratch.position_t, scratch.place, scratch.scores
    most_0, most_1 = load(scratch.largest, 0), load(scratch.largest, LANES)
    t = 0
    while t < count:
        row = place[3 * (first + t)]
        row_0, row_1 = load(position_t, row), load(position_t, row + LANES)
        while t < count and place[3 * (first + t)] == row:
            p = 3 * (first + t)
            a0, a1 = _column_logits(position_t, place[p + 1])
            a0 = add(add(load(scores, t * CHUNK), a0), row_0)
            a1 = add(add(load(scores, t * CHUNK + LANES), a1), row_1)
            a0, a1 = _finish_row(a0, a1, t, place[p + 2], begin, head, tables, sizes, scores)
            most_0, most_1 = maximum(most_0, a0), maximum(most_1, a1)
            t += 1
    _note_largest(most_0, most_1, scratch)


@njit(inline="always")
def _finish_row(a0, a1, t, place, begin, head, tables, sizes, scores):
    """Adds the bias to a key's logits and writes them."""
    if sizes.has_bias:
        a0, a1 = _with_bias(a0, a1, place, begin, head, tables, sizes)
    store(scores, t * CHUNK, a0)
    store(scores, t * CHUNK + LANES, a1)
    return a0, a1


@njit(inline="always")
def _note_largest(most_0, most_1, scratch):
    store(scratch.factor, 0, exp(subtract(load(scratch.largest, 0), most_0)))
    store(scratch.factor, LANES, exp(subtract(load(scratch.largest, LANES), most_1)))
    store(scratch.largest, 0, most_0)
    store(scratch.largest, LANES, most_1)


@njit(inline="always")
def _multiply_4(rows, begin, length, columns_t, channels, a0, a1, b0, b1, c0, c1, d0, d1):
    """Adds the products of four rows, which begin at `begin`, with columns_t (channels, CHUNK)."""
    for d in range(channels):
        first, second = load(columns_t, d * CHUNK), load(columns_t, d * CHUNK + LANES)
        row = splat_at(rows, begin + d)
        a0, a1 = fma(row, first, a0), fma(row, second, a1)
        row = splat_at(rows, begin + length + d)
        b0, b1 = fma(row, first, b0), fma(row, second, b1)
        row = splat_at(rows, begin + 2 * length + d)
        c0, c1 = fma(row, first, c0), fma(row, second, c1)
        row = splat_at(rows, begin + 3 * length + d)
        d0, d1 = fma(row, first, d0), fma(row, second, d1)
    return a0, a1, b0, b1, c0, c1, d0, d1


@njit(inline="always")
def _with_bias(first, second, place, begin, head, tables, sizes):
    rows, columns = sides(sizes)
    start = (head * (rows * columns + 1) + place) * bias_queries(sizes) + begin
    return add(first, load(tables.bias, start)), add(second, load(tables.bias, start + LANES))


@njit(inline="always")
def _column_logits(position_t, column):
    """What the sums begin with. Not with both position logits: they are rounded once a channel at that size."""
    return load(position_t, column), load(position_t, column + LANES)


@njit(inline="always")
def _with_row(first, second, position_t, row):
    return add(first, load(position_t, row)), add(second, load(position_t, row + LANES))


@njit(inline="always")
def store_4(target, place, a0, a1, b0, b1, c0, c1, d0, d1):
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
def combine(rows, first, length, channels, scores, count, target_t, factor, is_first):
    """target_t (channels, CHUNK) = target_t * factor + rows (count, channels) transposed @ scores (count, CHUNK).

    The rows are those from `first` on; the first ones, with is_first, find nothing to add to.
    """
    zero = splat(typed(rows, 0))
    for c in range(0, channels, 4):
        a0 = a1 = b0 = b1 = c0 = c1 = d0 = d1 = zero
        if not is_first:
            f0, f1, p = load(factor, 0), load(factor, LANES), c * CHUNK
            a0, a1 = multiply(load(target_t, p), f0), multiply(load(target_t, p + LANES), f1)
            p += CHUNK
            b0, b1 = multiply(load(target_t, p), f0), multiply(load(target_t, p + LANES), f1)
            p += CHUNK
            c0, c1 = multiply(load(target_t, p), f0), multiply(load(target_t, p + LANES), f1)
            p += CHUNK
            d0, d1 = multiply(load(target_t, p), f0), multiply(load(target_t, p + LANES), f1)
        for t in range(count):
            s0, s1, r = load(scores, t * CHUNK), load(scores, t * CHUNK + LANES), (first + t) * length + c
            row = splat_at(rows, r)
            a0, a1 = fma(row, s0, a0), fma(row, s1, a1)
            row = splat_at(rows, r + 1)
            b0, b1 = fma(row, s0, b0), fma(row, s1, b1)
            row = splat_at(rows, r + 2)
            c0, c1 = fma(row, s0, c0), fma(row, s1, c1)
            row = splat_at(rows, r + 3)
            d0, d1 = fma(row, s0, d0), fma(row, s1, d1)
        store_4(target_t, c * CHUNK, a0, a1, b0, b1, c0, c1, d0, d1)


@njit(nogil=True)
def score_gradients(first, count, sizes, scratch, gradients):
    """gradients.scores = weights * (values @ gradient of the output - delta), of the values from `first` on."""
    rows, columns_t = scratch.value, scratch.output_t
    length, channels = sizes.value_length, sizes.value_channels
    zero = splat(typed(rows, 0))
    less_0, less_1 = subtract(zero, load(gradients.delta, 0)), subtract(zero, load(gradients.delta, LANES))
    weights, target = scratch.scores, gradients.scores
    t = 0
    while t + 4 <= count:
        a0 = b0 = c0 = d0 = less_0
        a1 = b1 = c1 = d1 = less_1
        a0, a1, b0, b1, c0, c1, d0, d1 = _multiply_4(
            rows, (first + t) * length, length, columns_t, channels, a0, a1, b0, b1, c0, c1, d0, d1
        )
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
            v = splat_at(rows, (first + t) * length + d)
            a0, a1 = fma(v, load(columns_t, d * CHUNK), a0), fma(v, load(columns_t, d * CHUNK + LANES), a1)
        store(target, t * CHUNK, multiply(a0, load(weights, t * CHUNK)))
        store(target, t * CHUNK + LANES, multiply(a1, load(weights, t * CHUNK + LANES)))
        t += 1


@njit(nogil=True)
def spread(scores, count, rows, length, target, first):
    """target (count, length), from row `first` on, += scores (count, CHUNK) @ rows (CHUNK, length)."""
    for d in range(0, length, LANES):
        t = 0
        while t + 8 <= count:
            p = (first + t) * length + d
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
                store(target, (first + t + number) * length + d, part)
            t += 8
        while t < count:
            a = load(target, (first + t) * length + d)
            for lane in range(CHUNK):
                a = fma(splat_at(scores, t * CHUNK + lane), load(rows, lane * length + d), a)
            store(target, (first + t) * length + d, a)
            t += 1
