"""From maps to the buffers of a thread, and back: keys, values, extra keys, queries and their position logits."""

from __future__ import annotations

import numpy as np
from numba import njit

from halonet.ops.local_attention.numba_cpu.amx_parts import only_with_parts, pack_queries, pack_query_rows
from halonet.ops.local_attention.numba_cpu.amx_products import table_products
from halonet.ops.local_attention.numba_cpu.constants import CHUNK, LANES
from halonet.ops.local_attention.numba_cpu.layout import (
    clear,
    clip,
    is_neighbor,
    padded,
    place_in_block,
    position_length,
    query_pixel,
    sides,
    table_rows,
)
from halonet.ops.local_attention.numba_cpu.pointers import typed
from halonet.ops.local_attention.numba_cpu.products import rows_to_columns
from halonet.ops.local_attention.numba_cpu.vectors import (
    add,
    fma,
    load,
    load_numbers,
    multiply,
    splat,
    splat_at,
    store,
    store_numbers,
)


@njit(nogil=True)
def copy_row(map_, begin, channels, length, target, place, factor):
    """Copies the channels of a pixel, times a factor, to a row of `length`, filled up with zeros."""
    zero = factor - factor
    for d in range(0, length, LANES):
        numbers = load_numbers(map_.kind, map_.address, begin + d, channels - d, zero)
        store(target, place + d, multiply(numbers, splat(factor)))


@njit(nogil=True)
def load_keys(key, value, sizes, place, scratch, scale):
    """Copies the keys, scaled, and values a block sees to rows and notes their places; gives their number.

    Border keys are left out, unless they have no common sum.
    """
    image, head, block_row, block_column = place
    one = typed(scratch.key, 1)
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
                copy_row(key, begin, sizes.channels, channels, rows_of_keys, count * channels, scale)
                begin = image * value.image + row * value.row + column * value.column + head * value.head
                copy_row(value, begin, sizes.value_channels, values, rows_of_values, count * values, one)
                pixel[2 * count], pixel[2 * count + 1] = row, column
                count += 1
            elif sizes.border_takes_part:
                clear(rows_of_keys, count * channels, (count + 1) * channels)
                clear(rows_of_values, count * values, (count + 1) * values)
                pixel[2 * count] = -1
                count += 1
    return count


@njit(nogil=True)
def load_extra(key, value, sizes, place, count, scratch, scale):
    """Puts the extra keys and values after `count` others; gives the number of all."""
    image, head, _, _ = place
    one = typed(scratch.key, 1)
    rows, columns = sides(sizes)
    begin = position_length(sizes)
    channels, values = sizes.length, sizes.value_length
    for g in range(sizes.extra):
        start = image * key.image + g * key.column + head * key.head
        copy_row(key, start, sizes.channels, channels, scratch.key, count * channels, scale)
        start = image * value.image + g * value.column + head * value.head
        copy_row(value, start, sizes.value_channels, values, scratch.value, count * values, one)
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
    channels, side, one = sizes.length, position_length(sizes), typed(scratch.key, 1)
    whole = True
    for lane in range(CHUNK):
        row, column = query_pixel(sizes, block_row, block_column, first + lane)
        if row < 0:
            clear(scratch.query, lane * channels, (lane + 1) * channels)
            whole = False
            continue
        begin = image * query.image + row * query.row + column * query.column + head * query.head
        copy_row(query, begin, sizes.channels, channels, scratch.query, lane * channels, one)
    rows_to_columns(scratch.query, channels, scratch.query_t)
    scratch.finite[scratch.number] = finite and pack_queries(places, sizes, scratch)
    if sizes.has_position:
        if not position_by_tiles(places, place, first, tables, sizes, scratch):
            axis = np.int64(0)  # a literal would be compiled for on its own
            make_position(axis, tables.row_t, tables.hidden_row, place, first, sizes, scratch)
            make_position(axis + 1, tables.column_t, tables.hidden_column, place, first, sizes, scratch)
        if not whole:
            clear_position(place, first, sizes, scratch)
        rows_to_columns(scratch.position, side, scratch.position_t)
    for g in range(sizes.extra):
        for half in range(0, CHUNK, LANES):
            bias = splat_at(tables.extra_bias, head * sizes.extra + g)
            store(scratch.position_t, (side + g) * CHUNK + half, bias)


@njit(nogil=True)
def clear_position(place, first, sizes, scratch):
    """Position logits of 0 for queries the map has not."""
    side = position_length(sizes)
    for lane in range(CHUNK):
        if query_pixel(sizes, place[2], place[3], first + lane)[0] < 0:
            clear(scratch.position, lane * side, (lane + 1) * side)


@only_with_parts
def position_by_tiles(places, place, first, tables, sizes, scratch):
    """`make_position` of both axes on tile registers; False if that was not possible."""
    if not scratch.finite[scratch.number]:
        return False
    axis = np.int64(0)  # a literal would be compiled for on its own
    pack_query_rows(places, sizes, scratch)
    table_products(places.row_table, table_rows(sizes, 0), places, sizes, scratch)
    copy_position(axis, tables.hidden_row, place, first, sizes, scratch)
    table_products(places.column_table, table_rows(sizes, 1), places, sizes, scratch)
    copy_position(axis + 1, tables.hidden_column, place, first, sizes, scratch)
    return True


@njit(inline="always")
def position_place(axis, number, sizes):
    """Places of an axis' neighbourhood, filled up; where query `number`'s part of the table and of `hidden` begin."""
    count = padded(sides(sizes)[axis])
    step = place_in_block(sizes, number)[axis]
    return count, sizes.block[axis] - 1 - step * sizes.relative_stride, step * count


@njit(nogil=True)
def copy_position(axis, hidden, place, first, sizes, scratch):
    """Position logits of an axis, out of the products with every row of its table."""
    length, side = table_rows(sizes, axis), position_length(sizes)
    for lane in range(CHUNK):
        if query_pixel(sizes, place[2], place[3], first + lane)[0] < 0:
            continue
        count, start, start_hidden = position_place(axis, first + lane, sizes)
        to = lane * side + axis * (side - count)
        for y in range(0, count, LANES):
            products = load(scratch.products, lane * length + start + y)
            store(scratch.position, to + y, add(products, load(hidden, start_hidden + y)))


@njit(nogil=True)
def make_position(axis, table_t, hidden, place, first, sizes, scratch):
    """Position logits of an axis, each query's with its part of the table.

    Four queries that have the same part, of one row or of one column of the block, take it together. Those the map has
    not get numbers too.
    """
    across = sizes.queries[1]
    step = across if axis else 1  # from a query to the next that has the same part
    shared = CHUNK % (4 * across) == 0 if axis else across % 4 == 0
    for group in range(0, CHUNK, 4):
        if shared:
            lane = group // (4 * step) * 4 * step + group // 4 % step
            make_logits_4(axis, lane, step, table_t, hidden, first, sizes, scratch)
        else:
            for lane in range(group, group + 4):
                if query_pixel(sizes, place[2], place[3], first + lane)[0] >= 0:
                    make_logits(axis, lane, table_t, hidden, first, sizes, scratch)


@njit(nogil=True)
def make_logits(axis, lane, table_t, hidden, first, sizes, scratch):
    """Position logits of an axis and one query."""
    queries, position, length = scratch.query, scratch.position, table_rows(sizes, axis)
    side, query = position_length(sizes), lane * sizes.length
    count, start, start_hidden = position_place(axis, first + lane, sizes)
    to = lane * side + axis * (side - count)
    for y in range(0, count, LANES):
        total = load(hidden, start_hidden + y)
        for d in range(sizes.channels):
            total = fma(splat_at(queries, query + d), load(table_t, d * length + start + y), total)
        store(position, to + y, total)


@njit(nogil=True)
def make_logits_4(axis, lane, step, table_t, hidden, first, sizes, scratch):
    """Position logits of an axis and four queries, `step` apart, that have the same part of the table."""
    if place_in_block(sizes, first + lane)[0] >= sizes.queries[0]:
        return
    queries, position, length = scratch.query, scratch.position, table_rows(sizes, axis)
    side, query, apart = position_length(sizes), lane * sizes.length, step * sizes.length
    count, start, start_hidden = position_place(axis, first + lane, sizes)
    to = lane * side + axis * (side - count)
    for y in range(0, count, LANES):
        a = b = c = e = load(hidden, start_hidden + y)
        for d in range(sizes.channels):
            row, q = load(table_t, d * length + start + y), query + d
            a, b = fma(splat_at(queries, q), row, a), fma(splat_at(queries, q + apart), row, b)
            q += 2 * apart
            c, e = fma(splat_at(queries, q), row, c), fma(splat_at(queries, q + apart), row, e)
        store(position, to + y, a)
        store(position, to + side * step + y, b)
        store(position, to + 2 * side * step + y, c)
        store(position, to + 3 * side * step + y, e)


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
