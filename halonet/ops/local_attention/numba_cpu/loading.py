"""From maps to the buffers of a thread, and back: keys, values, extra keys, queries and their position logits."""

from __future__ import annotations

from numba import njit, types
from numba.extending import overload

from halonet.ops.local_attention.numba_cpu.amx_parts import only_with_parts, pack_queries, pack_query_rows
from halonet.ops.local_attention.numba_cpu.amx_products import table_products
from halonet.ops.local_attention.numba_cpu.constants import CHUNK, LANES
from halonet.ops.local_attention.numba_cpu.layout import clip, is_neighbor, padded, query_pixel, sides
from halonet.ops.local_attention.numba_cpu.products import rows_to_columns
from halonet.ops.local_attention.numba_cpu.vectors import (
    add,
    fma,
    load,
    load_bfloat16,
    load_part,
    multiply,
    splat,
    splat_at,
    store,
    store_bfloat16,
    store_part,
)


def load_numbers(kind, address, index, count, zero):
    """`load_part`, or `load_bfloat16` for maps of that `kind`; in kernels only."""
    raise NotImplementedError


@overload(load_numbers, inline="always")
def _load_numbers(kind, address, index, count, zero):
    if kind.dtype == types.uint16:
        return lambda kind, address, index, count, zero: load_bfloat16(address, index, count, zero)
    return lambda kind, address, index, count, zero: load_part(address, index, count, zero)


def store_numbers(kind, address, index, count, vector):
    """`store_part`, or `store_bfloat16` for maps of that `kind`; in kernels only."""
    raise NotImplementedError


@overload(store_numbers, inline="always")
def _store_numbers(kind, address, index, count, vector):
    if kind.dtype == types.uint16:
        return lambda kind, address, index, count, vector: store_bfloat16(address, index, count, vector)
    return lambda kind, address, index, count, vector: store_part(address, index, count, vector)


@njit(nogil=True)
def copy_row(map_, begin, channels, target, place, factor):
    """Copies the channels of a pixel, times a factor, to a zero-padded row."""
    zero = factor - factor
    for d in range(0, channels, LANES):
        numbers = load_numbers(map_.kind, map_.address, begin + d, channels - d, zero)
        store(target, place + d, multiply(numbers, splat(factor)))


@njit(nogil=True)
def load_keys(key, value, sizes, place, scratch, scale):
    """Copies the keys, scaled, and values a block sees to rows and notes their places; gives their number.

    Border keys are left out, unless they have no common sum.
    """
    image, head, block_row, block_column = place
    zero, one = scale - scale, scratch.key.dtype.type(1)
    rows, columns = sides(sizes)
    if sizes.every_place:
        first_row, end_row, first_column, end_column = 0, rows, 0, columns
    else:
        first_row, end_row, first_column, end_column = clip(sizes, block_row, block_column)
    top = block_row * sizes.block[0] - sizes.halo[0]
    left = block_column * sizes.block[1] - sizes.halo[1]
    channels, values = sizes.length, sizes.value_length
    rows_of_keys, rows_of_values, pixel = scratch.key, scratch.value, scratch.pixel
    count = 0
    for y in range(first_row, end_row):
        for x in range(first_column, end_column):
            if sizes.neighbors and not is_neighbor(sizes, y, x):
                continue
            row, column = top + y, left + x
            if sizes.circular:
                row, column = row % (sizes.blocks[0] * sizes.block[0]), column % (sizes.blocks[1] * sizes.block[1])
            scratch.place[3 * count] = y * CHUNK
            scratch.place[3 * count + 1] = (padded(rows) + x) * CHUNK
            scratch.place[3 * count + 2] = y * columns + x
            if 0 <= row < sizes.height and 0 <= column < sizes.width:
                begin = image * key.image + row * key.row + column * key.column + head * key.head
                copy_row(key, begin, sizes.channels, rows_of_keys, count * channels, scale)
                begin = image * value.image + row * value.row + column * value.column + head * value.head
                copy_row(value, begin, sizes.value_channels, rows_of_values, count * values, one)
                pixel[2 * count], pixel[2 * count + 1] = row, column
                count += 1
            elif sizes.border_takes_part:
                rows_of_keys[count * channels : (count + 1) * channels] = zero
                rows_of_values[count * values : (count + 1) * values] = zero
                pixel[2 * count] = -1
                count += 1
    return count


@njit(nogil=True)
def load_extra(key, value, sizes, place, count, scratch, scale):
    """Puts the extra keys and values after `count` others; gives the number of all."""
    image, head, _, _ = place
    one = scratch.key.dtype.type(1)
    rows, columns = sides(sizes)
    begin = padded(rows) + padded(columns)
    channels, values = sizes.length, sizes.value_length
    for g in range(sizes.extra):
        start = image * key.image + g * key.column + head * key.head
        copy_row(key, start, sizes.channels, scratch.key, count * channels, scale)
        start = image * value.image + g * value.column + head * value.head
        copy_row(value, start, sizes.value_channels, scratch.value, count * values, one)
        scratch.place[3 * count] = (begin + g) * CHUNK
        scratch.place[3 * count + 1] = (begin + sizes.extra) * CHUNK
        scratch.place[3 * count + 2] = rows * columns
        scratch.pixel[2 * count] = -1
        count += 1
    return count


@njit(nogil=True)
def load_queries(query, places, finite, tables, sizes, place, first, scratch):
    """Loads the queries from number `first` on and their position logits; those that are not there are 0.

    Into parts too where all else that tile registers would take is finite, and notes whether they are.
    """
    image, head, block_row, block_column = place
    channels = sizes.length
    rows, columns = padded(sides(sizes)[0]), padded(sides(sizes)[1])
    zero, one = scratch.key.dtype.type(0), scratch.key.dtype.type(1)
    for lane in range(CHUNK):
        row, column = query_pixel(sizes, block_row, block_column, first + lane)
        if row < 0:
            for d in range(0, channels, LANES):
                store(scratch.query, lane * channels + d, splat(zero))
            for d in range(0, rows + columns, LANES):
                store(scratch.position, lane * (rows + columns) + d, splat(zero))
            continue
        begin = image * query.image + row * query.row + column * query.column + head * query.head
        copy_row(query, begin, sizes.channels, scratch.query, lane * channels, one)
    rows_to_columns(scratch.query, channels, scratch.query_t)
    scratch.finite[scratch.number] = finite and pack_queries(places, sizes, scratch)
    if sizes.has_position:
        if not position_by_tiles(places, place, first, tables, sizes, scratch):
            make_position(tables, place, first, sizes, scratch)
        rows_to_columns(scratch.position, rows + columns, scratch.position_t)
    for g in range(sizes.extra):
        for half in range(0, CHUNK, LANES):
            bias = splat_at(tables.extra_bias, head * sizes.extra + g)
            store(scratch.position_t, (rows + columns + g) * CHUNK + half, bias)


@only_with_parts
def position_by_tiles(places, place, first, tables, sizes, scratch):
    """`make_position` of both axes on tile registers; False if that was not possible."""
    if not scratch.finite[scratch.number]:
        return False
    pack_query_rows(places, sizes, scratch)
    table_products(places.row_table, tables.row_t.size // sizes.length, places, sizes, scratch)
    copy_position(0, tables.row_t, tables.hidden_row, place, first, sizes, scratch)
    table_products(places.column_table, tables.column_t.size // sizes.length, places, sizes, scratch)
    copy_position(1, tables.column_t, tables.hidden_column, place, first, sizes, scratch)
    return True


@njit(inline="always")
def position_place(axis, number, sizes):
    """Places of an axis' neighbourhood, filled up; where query `number`'s part of the table and of `hidden` begin."""
    count = padded(sides(sizes)[axis])
    step = number // sizes.queries[1] if axis == 0 else number % sizes.queries[1]
    return count, sizes.block[axis] - 1 - step * sizes.relative_stride, step * count


@njit(nogil=True)
def copy_position(axis, table_t, hidden, place, first, sizes, scratch):
    """Position logits of an axis, out of the products with every row of its table."""
    length, side = table_t.size // sizes.length, scratch.position.size // CHUNK
    for lane in range(CHUNK):
        if query_pixel(sizes, place[2], place[3], first + lane)[0] < 0:
            continue
        count, start, start_hidden = position_place(axis, first + lane, sizes)
        to = lane * side + axis * (side - count)
        for y in range(0, count, LANES):
            products = load(scratch.products, lane * length + start + y)
            store(scratch.position, to + y, add(products, load(hidden, start_hidden + y)))


@njit(nogil=True)
def make_position(tables, place, first, sizes, scratch):
    """Position logits, each query's with its parts of the tables."""
    queries, position, length = scratch.query, scratch.position, sizes.length
    rows, columns = padded(sides(sizes)[0]), padded(sides(sizes)[1])
    row_length, column_length = tables.row_t.size // length, tables.column_t.size // length
    for lane in range(CHUNK):
        if query_pixel(sizes, place[2], place[3], first + lane)[0] < 0:
            continue
        i, j = (first + lane) // sizes.queries[1], (first + lane) % sizes.queries[1]
        start, target = sizes.block[0] - 1 - i * sizes.relative_stride, lane * (rows + columns)
        for y in range(0, rows, LANES):
            total = load(tables.hidden_row, i * rows + y)
            for d in range(sizes.channels):
                logits = load(tables.row_t, d * row_length + start + y)
                total = fma(splat_at(queries, lane * length + d), logits, total)
            store(position, target + y, total)
        start, target = sizes.block[1] - 1 - j * sizes.relative_stride, target + rows
        for x in range(0, columns, LANES):
            total = load(tables.hidden_column, j * columns + x)
            for d in range(sizes.channels):
                logits = load(tables.column_t, d * column_length + start + x)
                total = fma(splat_at(queries, lane * length + d), logits, total)
            store(position, target + x, total)


@njit(nogil=True)
def write_rows(target, sizes, place, begin, rows, length, channels):
    """Writes rows of queries, from number `begin` of a block on, to the pixels that the map has."""
    image, head, block_row, block_column = place
    for lane in range(CHUNK):
        row, column = query_pixel(sizes, block_row, block_column, begin + lane)
        if row < 0:
            continue
        start = image * target.image + row * target.row + column * target.column + head * target.head
        for d in range(0, channels, LANES):
            store_numbers(target.kind, target.address, start + d, channels - d, load(rows, lane * length + d))
