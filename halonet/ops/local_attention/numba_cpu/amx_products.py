"""The products of the CPU kernels on tile registers (AMX), of numbers in one or in three parts.

A part is a bfloat16. Three parts, each the upper half of what the ones before left, are a float32 to its last bit; of
their nine products the six largest are summed, the small ones first, so that the sum is as exact as one of float32 and
still takes less time than on vector registers. bfloat16 is one part.

A first factor lies in panels of 32 numbers that are summed over, (number // 32, row, number % 32), so that what a
register loads lies together; a second one in pairs of rows, (row // 2, column, row % 2).
"""

from __future__ import annotations

import inspect
from typing import NamedTuple

from numba import njit, types
from numba.extending import overload

from halonet.ops.local_attention.numba_cpu.amx import (
    store_pairs,
    store_uppers,
    tile_load,
    tile_multiply,
    tile_store,
    tile_zero,
    upper,
)
from halonet.ops.local_attention.numba_cpu.constants import CHUNK, GROUP, LANES, TILE
from halonet.ops.local_attention.numba_cpu.layout import chunks_of, key_rows
from halonet.ops.local_attention.numba_cpu.vectors import (
    add,
    exp,
    fma,
    load,
    multiply,
    splat,
    store,
    subtract,
    total,
    transpose,
)


def only_with_parts(function):
    """A kernel that is compiled where `Scratch` has parts, and else is False: those calls need not wait for it."""
    kernel = njit(nogil=True)(function)
    scratch_at = list(inspect.signature(function).parameters).index("scratch")

    def stub(*arguments):
        raise NotImplementedError("for kernels only")

    @overload(stub)
    def choose(*arguments):
        scratch = arguments[scratch_at] if len(arguments) > 1 else arguments[0][scratch_at]
        if scratch.types[scratch.fields.index("parts")].dtype == types.uint16:
            return lambda *arguments: kernel(*arguments)
        return lambda *arguments: False

    return stub


class Places(NamedTuple):
    """Where each factor begins in `Scratch.parts`; all of a factor's parts lie one after the other."""

    key: int  # rows (keys, channels)
    key_t: int  # rows (channels, keys); for gradients, as all without another word
    value: int  # rows (keys, value channels)
    value_t: int  # rows (value channels, keys); for the output
    scores: int  # pairs (keys, queries) of a tile
    weights: int  # rows (keys, queries) of a tile
    slopes: int  # rows (keys, queries) of a tile: gradients of the scores
    query: int  # pairs (channels, queries) of every chunk
    query_rows: int  # pairs (queries, channels) of every chunk
    grad: int  # pairs (value channels, queries) of every chunk: gradient of the output
    grad_rows: int  # pairs (queries, value channels) of every chunk
    row_table: int  # pairs (channels, rows)
    column_table: int
    query_panels: int  # rows (queries, channels) of a chunk, for the tables


@njit(nogil=True)
def places_of(sizes, tables):
    """The `Places`, and after them the length of all."""
    n, keys, chunks = sizes.parts, key_rows(sizes), min(GROUP, chunks_of(sizes))
    keys_size, values_size = n * keys * sizes.length, n * keys * sizes.value_length
    tile_size = n * TILE * CHUNK
    query_size, grad_size = n * chunks * CHUNK * sizes.length, n * chunks * CHUNK * sizes.value_length
    value = 2 * keys_size
    scores = value + 2 * values_size
    query = scores + 3 * tile_size
    grad = query + 2 * query_size
    table = grad + 2 * grad_size
    column_table = table + n * tables.row_t.size
    panels = column_table + n * tables.column_t.size
    end = panels + n * CHUNK * sizes.length
    own = 0, keys_size, value, value + values_size
    of_tile = scores, scores + tile_size, scores + 2 * tile_size
    of_chunks = query, query + query_size, grad, grad + grad_size
    return Places(*own, *of_tile, *of_chunks, table, column_table, panels), end


@njit(inline="always")
def _store_row(parts, place, distance, n, vector):
    """Writes LANES numbers in n parts, which lie `distance` apart."""
    if n == 1:
        store_uppers(parts, place, upper(vector, True))
    else:
        head = upper(vector, False)
        store_uppers(parts, place, head)
        vector = subtract(vector, head)
        head = upper(vector, False)
        store_uppers(parts, place + distance, head)
        store_uppers(parts, place + 2 * distance, subtract(vector, head))


@njit(inline="always")
def _store_pair(parts, place, distance, n, a, b):
    """Writes two rows' LANES numbers as pairs in n parts, which lie `distance` apart."""
    if n == 1:
        store_pairs(parts, place, upper(a, True), upper(b, True))
    else:
        head, other = upper(a, False), upper(b, False)
        store_pairs(parts, place, head, other)
        a, b = subtract(a, head), subtract(b, other)
        head, other = upper(a, False), upper(b, False)
        store_pairs(parts, place + distance, head, other)
        store_pairs(parts, place + 2 * distance, subtract(a, head), subtract(b, other))


@njit(nogil=True)
def pack_rows(source, rows, length, target, begin, panel, n):
    """Rows (rows, length) as a first factor that sums over `length`; whether all are finite.

    begin: where in the target. panel: rows of a panel, of which the target may have more.
    """
    bad = splat(source.dtype.type(0))
    for row in range(rows):
        for column in range(0, length, LANES):
            numbers = load(source, row * length + column)
            bad = fma(numbers, splat(source.dtype.type(0)), bad)
            place = begin + (column // 32 * panel + row) * 32 + column % 32
            _store_row(target, place, panel * length, n, numbers)
    return total(bad) == 0


@njit(nogil=True)
def pack_columns(source, rows, length, target, begin, capacity, n, block):
    """Rows (rows, length) as a first factor (length, rows) that sums over `rows`.

    capacity: of rows in the target. block: LANES x LANES numbers to work in.
    """
    for row in range(0, rows, LANES):
        for column in range(0, length, LANES):
            transpose(source, row * length + column, length, block, 0, LANES)
            for d in range(LANES):
                place = begin + (row // 32 * length + column + d) * 32 + row % 32
                _store_row(target, place, capacity * length, n, load(block, d * LANES))


@njit(nogil=True)
def pack_pairs(source, rows, length, target, begin, n):
    """Rows (rows, length), two and two, as a second factor; whether all are finite."""
    bad = splat(source.dtype.type(0))
    for row in range(0, rows, 2):
        for column in range(0, length, LANES):
            a, b = load(source, row * length + column), load(source, (row + 1) * length + column)
            bad = fma(a, splat(source.dtype.type(0)), fma(b, splat(source.dtype.type(0)), bad))
            _store_pair(target, begin + row * length + 2 * column, rows * length, n, a, b)
    return total(bad) == 0


@only_with_parts
def pack_keys(count, places, sizes, scratch, for_backward):
    """The block's keys and values into parts, filled up with zeros to 32; whether all are finite."""
    n, keys, length, values = sizes.parts, key_rows(sizes), sizes.length, sizes.value_length
    end, zero = (count + 31) // 32 * 32, scratch.key.dtype.type(0)
    scratch.key[count * length : end * length] = zero
    scratch.value[count * values : end * values] = zero
    key, value, parts, block = scratch.key, scratch.value, scratch.parts, scratch.position
    finite = pack_rows(key, end, length, parts, places.key, keys, n)
    pack_columns(value, end, values, parts, places.value_t, keys, n, block)
    finite = finite and all_finite(value, end * values)
    if for_backward:
        pack_columns(key, end, length, parts, places.key_t, keys, n, block)
        pack_rows(value, end, values, parts, places.value, keys, n)
    return finite


@only_with_parts
def pack_tables(places, tables, sizes, scratch):
    """The position tables into parts; whether all are finite."""
    for_rows = tables.row_t.size // sizes.length
    for_columns = tables.column_t.size // sizes.length
    finite = pack_pairs(tables.row_t, sizes.length, for_rows, scratch.parts, places.row_table, sizes.parts)
    place = places.column_table
    return pack_pairs(tables.column_t, sizes.length, for_columns, scratch.parts, place, sizes.parts) and finite


@njit(nogil=True)
def pack_query_rows(places, sizes, scratch):
    """The chunk's queries into parts, for `table_products`."""
    pack_rows(scratch.query, CHUNK, sizes.length, scratch.parts, places.query_panels, CHUNK, sizes.parts)


@njit(nogil=True)
def table_products(table, rows, places, sizes, scratch):
    """products (CHUNK, rows) = the chunk's queries @ a table, which begins at `table` in `parts`."""
    n, length, base, to = sizes.parts, sizes.length, scratch.parts.ctypes.data, scratch.products.ctypes.data
    a, b = base + 2 * places.query_panels, base + 2 * table
    for r in range(0, rows, 32):
        second = b + 4 * r
        a_part, b_part = 2 * CHUNK * length, 2 * length * rows
        multiply_tiles(a, 64 * CHUNK, a_part, second, 4 * rows, b_part, length // 32, n, to + 4 * r, 4 * rows, False)


@only_with_parts
def pack_queries(places, sizes, scratch):
    """The chunk's queries into parts; whether all are finite."""
    n, size = sizes.parts, CHUNK * sizes.length
    place = places.query + scratch.number * n * size
    return pack_pairs(scratch.query_t, sizes.length, CHUNK, scratch.parts, place, n)


@only_with_parts
def pack_given(places, sizes, scratch):
    """For the backward pass the chunk's queries in rows, and gradients of outputs; whether these are finite."""
    n, number, parts = sizes.parts, scratch.number, scratch.parts
    size, values = CHUNK * sizes.length, CHUNK * sizes.value_length
    pack_pairs(scratch.query, CHUNK, sizes.length, parts, places.query_rows + number * n * size, n)
    place = places.grad + number * n * values
    finite = pack_pairs(scratch.output_t, sizes.value_length, CHUNK, parts, place, n)
    pack_pairs(scratch.output, CHUNK, sizes.value_length, parts, places.grad_rows + number * n * values, n)
    return finite


@njit(nogil=True)
def all_finite(source, count):
    """Whether the first `count` numbers, a multiple of LANES, are."""
    zero = splat(source.dtype.type(0))
    bad = zero
    for index in range(0, count, LANES):
        bad = fma(load(source, index), zero, bad)
    return total(bad) == 0


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
    n, base, to = sizes.parts, scratch.parts.ctypes.data, target.ctypes.data
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
    n, keys, base, to = sizes.parts, key_rows(sizes), scratch.parts.ctypes.data, target_t.ctypes.data
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
    n, base, to = sizes.parts, scratch.parts.ctypes.data, target.ctypes.data
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
    zero = splat(source.dtype.type(0))
    for half in range(0, CHUNK, LANES):
        largest = load(scratch.largest, half)
        sums = multiply(load(scratch.sums, half), load(scratch.factor, half))
        for t in range(0, count - 1, 2):
            a = exp(subtract(load(source, t * CHUNK + half), largest))
            b = exp(subtract(load(source, (t + 1) * CHUNK + half), largest))
            sums = add(sums, add(a, b))
            _store_pair(parts, scores + t * CHUNK + 2 * half, distance, n, a, b)
        for t in range(count // 2 * 2, (count + 31) // 32 * 32, 2):
            a = zero
            if t < count:
                a = exp(subtract(load(source, t * CHUNK + half), largest))
                sums = add(sums, a)
            _store_pair(parts, scores + t * CHUNK + 2 * half, distance, n, a, zero)
        store(scratch.sums, half, sums)


@njit(nogil=True)
def slopes_to_parts(count, scratch, gradients, places, n):
    """gradients.scores = weights * (what it was - delta); both into parts, filled up with zeros to 32 keys."""
    weights, slopes, parts = scratch.scores, gradients.scores, scratch.parts
    distance, end = TILE * CHUNK, (count + 31) // 32 * 32
    weights[count * CHUNK : end * CHUNK] = 0
    slopes[count * CHUNK : end * CHUNK] = 0
    for half in range(0, CHUNK, LANES):
        delta = load(gradients.delta, half)
        for t in range(0, end, 2):
            place = t * CHUNK + half
            p, q = load(weights, place), load(weights, place + CHUNK)
            a = multiply(p, subtract(load(slopes, place), delta))
            b = multiply(q, subtract(load(slopes, place + CHUNK), delta))
            store(slopes, place, a)
            store(slopes, place + CHUNK, b)
            _store_row(parts, places.weights + place, distance, n, p)
            _store_row(parts, places.weights + place + CHUNK, distance, n, q)
            _store_row(parts, places.slopes + place, distance, n, a)
            _store_row(parts, places.slopes + place + CHUNK, distance, n, b)
            _store_pair(parts, places.scores + place + half, distance, n, a, b)
