"""Numbers in parts, as tile registers (AMX) take them: where they lie, and how they get there.

A part is a bfloat16. Three parts, each the upper half of what the ones before left, are a float32 to its last bit;
bfloat16 is one part. A first factor lies in panels of 32 numbers that are summed over, (number // 32, row, number %
32), so that what a register loads lies together; a second one in pairs of rows, (row // 2, column, row % 2).
"""

from __future__ import annotations

import inspect
from typing import NamedTuple

from numba import njit, types
from numba.extending import overload

from halonet.ops.local_attention.numba_cpu.amx import store_pairs, store_uppers, upper
from halonet.ops.local_attention.numba_cpu.constants import CHUNK, LANES, TILE
from halonet.ops.local_attention.numba_cpu.layout import clear, group_size, key_rows, table_rows
from halonet.ops.local_attention.numba_cpu.pointers import typed
from halonet.ops.local_attention.numba_cpu.vectors import fma, load, splat, subtract, total, transpose


def only_with_parts(function):
    """A kernel that is compiled where `Scratch` has parts, and else is False: those calls need not wait for it."""
    kernel = njit(nogil=True)(function)
    scratch_at = list(inspect.signature(function).parameters).index("scratch")

    def in_kernels(*arguments):
        return False

    @overload(in_kernels)
    def choose(*arguments):
        scratch = arguments[scratch_at]
        if scratch.types[scratch.fields.index("parts")].dtype == types.uint16:
            return lambda *arguments: kernel(*arguments)
        return lambda *arguments: False

    return in_kernels


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
def places_of(sizes):
    """The `Places`, and after them the length of all."""
    n, keys, chunks = sizes.parts, key_rows(sizes), group_size(sizes)
    keys_size, values_size = n * keys * sizes.length, n * keys * sizes.value_length
    tile_size = n * TILE * CHUNK
    query_size, grad_size = n * chunks * CHUNK * sizes.length, n * chunks * CHUNK * sizes.value_length
    value = 2 * keys_size
    scores = value + 2 * values_size
    query = scores + 3 * tile_size
    grad = query + 2 * query_size
    table = grad + 2 * grad_size
    column_table = table + n * sizes.length * table_rows(sizes, 0)
    panels = column_table + n * sizes.length * table_rows(sizes, 1)
    end = panels + n * CHUNK * sizes.length
    own = 0, keys_size, value, value + values_size
    of_tile = scores, scores + tile_size, scores + 2 * tile_size
    of_chunks = query, query + query_size, grad, grad + grad_size
    return Places(*own, *of_tile, *of_chunks, table, column_table, panels), end


@njit(inline="always")
def store_row(parts, place, distance, n, vector):
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
def store_pair(parts, place, distance, n, a, b):
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
    zero = splat(typed(source, 0))
    bad = zero
    for row in range(rows):
        for column in range(0, length, LANES):
            numbers = load(source, row * length + column)
            bad = fma(numbers, zero, bad)
            place = begin + (column // 32 * panel + row) * 32 + column % 32
            store_row(target, place, panel * length, n, numbers)
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
                store_row(target, place, capacity * length, n, load(block, d * LANES))


@njit(nogil=True)
def pack_pairs(source, rows, length, target, begin, n):
    """Rows (rows, length), two and two, as a second factor; whether all are finite."""
    zero = splat(typed(source, 0))
    bad = zero
    for row in range(0, rows, 2):
        for column in range(0, length, LANES):
            a, b = load(source, row * length + column), load(source, (row + 1) * length + column)
            bad = fma(a, zero, fma(b, zero, bad))
            store_pair(target, begin + row * length + 2 * column, rows * length, n, a, b)
    return total(bad) == 0


@only_with_parts
def pack_keys(count, places, sizes, scratch, for_backward):
    """The block's keys and values into parts, filled up with zeros to 32; whether all are finite."""
    n, keys, length, values = sizes.parts, key_rows(sizes), sizes.length, sizes.value_length
    end = (count + 31) // 32 * 32
    clear(scratch.key, count * length, end * length)
    clear(scratch.value, count * values, end * values)
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
    length, parts, n = sizes.length, scratch.parts, sizes.parts
    finite = pack_pairs(tables.row_t, length, table_rows(sizes, 0), parts, places.row_table, n)
    return pack_pairs(tables.column_t, length, table_rows(sizes, 1), parts, places.column_table, n) and finite


@njit(nogil=True)
def pack_query_rows(places, sizes, scratch):
    """The chunk's queries into parts, for `table_products`."""
    pack_rows(scratch.query, CHUNK, sizes.length, scratch.parts, places.query_panels, CHUNK, sizes.parts)


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
    zero = splat(typed(source, 0))
    bad = zero
    for index in range(0, count, LANES):
        bad = fma(load(source, index), zero, bad)
    return total(bad) == 0
