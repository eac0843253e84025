"""The products of the CPU kernels on tile registers (AMX), of numbers in one or in three parts (`amx_parts`).

Of the nine products of three parts the six largest are summed, the small ones first, so that the sum is as exact as one
of float32 and still takes less time than on vector registers.
"""

from __future__ import annotations

from numba import njit

from halonet.ops.local_attention.numba_cpu.amx import tile_load, tile_multiply, tile_store, tile_zero
from halonet.ops.local_attention.numba_cpu.amx_parts import store_pair, store_row
from halonet.ops.local_attention.numba_cpu.constants import CHUNK, LANES, TILE
from halonet.ops.local_attention.numba_cpu.layout import clear, key_rows
from halonet.ops.local_attention.numba_cpu.pointers import address, typed
from halonet.ops.local_attention.numba_cpu.vectors import add, exp, load, multiply, splat, store, subtract


@njit(inline="always")
def _load_first(a):
    tile_load(4, a, 64)
    tile_load(5, a + 1024, 64)


@njit(inline="always")
def _load_second(b, row):
    tile_load(6, b, row)
    tile_load(7, b + 64, row)


@njit(inline="always")
def _multiply():
    tile_multiply(0, 4, 6)
    tile_multiply(1, 4, 7)
    tile_multiply(2, 5, 6)
    tile_multiply(3, 5, 7)


@njit(nogil=True)
def multiply_tiles(a, a_panel, a_part, b, b_row, b_part, panels, n, target, row, adds):
    """target (32 x 32) = or += a (32, 32 * panels) @ b.

    All by address. In bytes: from a panel, a part, a row (of b: a pair of rows) to the next.
    """
    if adds:
        tile_load(0, target, row)
        tile_load(1, target + 64, row)
        tile_load(2, target + 16 * row, row)
        tile_load(3, target + 16 * row + 64, row)
    else:
        tile_zero(0)
        tile_zero(1)
        tile_zero(2)
        tile_zero(3)
    if n == 3:
        for panel in range(panels):
            high_a, high_b = a + panel * a_panel, b + panel * 16 * b_row
            _load_first(high_a + a_part)
            _load_second(high_b, b_row)
            _multiply()
            _load_first(high_a + 2 * a_part)
            _multiply()
            _load_first(high_a)
            _load_second(high_b + 2 * b_part, b_row)
            _multiply()
            _load_second(high_b + b_part, b_row)
            _multiply()
            _load_first(high_a + a_part)
            _multiply()
    for panel in range(panels):
        _load_first(a + panel * a_panel)
        _load_second(b + panel * 16 * b_row, b_row)
        _multiply()
    tile_store(0, target, row)
    tile_store(1, target + 64, row)
    tile_store(2, target + 16 * row, row)
    tile_store(3, target + 16 * row + 64, row)


@njit(nogil=True)
def rows_by_chunk(rows, columns, length, first, count, sizes, scratch, target):
    """target (count, CHUNK) = rows (count from `first` on, length) @ the chunk's columns (length, CHUNK).

    rows, columns: where they begin in `scratch.parts`.
    """
    n, base, to = sizes.parts, address(scratch.parts), address(target)
    a, b = base + 2 * (rows + first * 32), base + 2 * (columns + scratch.number * n * CHUNK * length)
    panel, a_part, b_part = 64 * key_rows(sizes), 2 * key_rows(sizes) * length, 2 * CHUNK * length
    for t in range(0, count, 32):
        multiply_tiles(a + 64 * t, panel, a_part, b, 128, b_part, length // 32, n, to + 128 * t, 128, False)


@njit(inline="always")
def content_scores(first, count, places, sizes, scratch):
    """scores = keys from `first` on @ the chunk's queries."""
    rows_by_chunk(places.key, places.query, sizes.length, first, count, sizes, scratch, scratch.scores)


@njit(nogil=True)
def combine_tiles(rows_t, first, count, places, sizes, scratch, target_t, factor, is_first):
    """`combine` with what is in parts: target_t (length, CHUNK) = target_t * factor + rows_t (length, count) @ scores.

    rows_t: where they begin, and their length.
    """
    begin, length = rows_t
    if not is_first:
        for d in range(length):
            for half in range(0, CHUNK, LANES):
                place = d * CHUNK + half
                store(target_t, place, multiply(load(target_t, place), load(factor, half)))
    n, keys, base, to = sizes.parts, key_rows(sizes), address(scratch.parts), address(target_t)
    a, b = base + 2 * (begin + first * length), base + 2 * places.scores
    a_part, b_part, panels = 2 * keys * length, 2 * TILE * CHUNK, (count + 31) // 32
    for d in range(0, length, 32):
        target = to + 128 * d
        multiply_tiles(a + 64 * d, 64 * length, a_part, b, 128, b_part, panels, n, target, 128, not is_first)


@njit(nogil=True)
def spread_tiles(scores, rows, length, first, count, sizes, scratch, target):
    """`spread` with what is in parts: target (keys from `first` on, length) += scores @ the chunk's rows.

    scores, rows: where they begin.
    """
    n, base, to = sizes.parts, address(scratch.parts), address(target)
    b, b_row, b_part = base + 2 * (rows + scratch.number * n * CHUNK * length), 4 * length, 2 * CHUNK * length
    for t in range(0, count, 32):
        a = base + 2 * (scores + t * CHUNK)
        for d in range(0, length, 32):
            place = to + 4 * ((first + t) * length + d)
            multiply_tiles(a, 0, 2 * TILE * CHUNK, b + 4 * d, b_row, b_part, 1, n, place, 4 * length, True)


@njit(nogil=True)
def exponentiate_tiles(count, scratch, scores, n):
    """`exponentiate`, the scores going into parts as a second factor, filled up with zeros to 32 keys."""
    source, parts, distance = scratch.scores, scratch.parts, TILE * CHUNK
    zero = splat(typed(source, 0))
    for half in range(0, CHUNK, LANES):
        largest = load(scratch.largest, half)
        sums = multiply(load(scratch.sums, half), load(scratch.factor, half))
        for t in range(0, count - 1, 2):
            a = exp(subtract(load(source, t * CHUNK + half), largest))
            b = exp(subtract(load(source, (t + 1) * CHUNK + half), largest))
            sums = add(sums, add(a, b))
            store_pair(parts, scores + t * CHUNK + 2 * half, distance, n, a, b)
        for t in range(count // 2 * 2, (count + 31) // 32 * 32, 2):
            a = zero
            if t < count:
                a = exp(subtract(load(source, t * CHUNK + half), largest))
                sums = add(sums, a)
            store_pair(parts, scores + t * CHUNK + 2 * half, distance, n, a, zero)
        store(scratch.sums, half, sums)


@njit(nogil=True)
def slopes_to_parts(count, scratch, gradients, places, n):
    """gradients.scores = weights * (what it was - delta); both into parts, filled up with zeros to 32 keys."""
    weights, slopes, parts = scratch.scores, gradients.scores, scratch.parts
    distance, end = TILE * CHUNK, (count + 31) // 32 * 32
    clear(weights, count * CHUNK, end * CHUNK)
    clear(slopes, count * CHUNK, end * CHUNK)
    for half in range(0, CHUNK, LANES):
        delta = load(gradients.delta, half)
        for t in range(0, end, 2):
            place = t * CHUNK + half
            p, q = load(weights, place), load(weights, place + CHUNK)
            a = multiply(p, subtract(load(slopes, place), delta))
            b = multiply(q, subtract(load(slopes, place + CHUNK), delta))
            store(slopes, place, a)
            store(slopes, place + CHUNK, b)
            store_row(parts, places.weights + place, distance, n, p)
            store_row(parts, places.weights + place + CHUNK, distance, n, q)
            store_row(parts, places.slopes + place, distance, n, a)
            store_row(parts, places.slopes + place + CHUNK, distance, n, b)
            store_pair(parts, places.scores + place + half, distance, n, a, b)


@njit(nogil=True)
def table_products(table, rows, places, sizes, scratch):
    """products (CHUNK, rows) = the chunk's queries @ a table, which begins at `table` in `parts`."""
    n, length, base, to = sizes.parts, sizes.length, address(scratch.parts), address(scratch.products)
    a, b = base + 2 * places.query_panels, base + 2 * table
    for r in range(0, rows, 32):
        second = b + 4 * r
        a_part, b_part = 2 * CHUNK * length, 2 * length * rows
        multiply_tiles(a, 64 * CHUNK, a_part, second, 4 * rows, b_part, length // 32, n, to + 4 * r, 4 * rows, False)
