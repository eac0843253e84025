"""From the gradients of logits to those of position tables, bias and the queries that met them."""

from __future__ import annotations

from numba import njit

from halonet.ops.local_attention.numba_cpu.constants import CHUNK, LANES
from halonet.ops.local_attention.numba_cpu.layout import (
    bias_queries,
    clear,
    padded,
    place_in_block,
    position_length,
    query_pixel,
    sides,
)
from halonet.ops.local_attention.numba_cpu.vectors import add, fma, load, splat_at, store


@njit(nogil=True)
def position_gradients(first, count, sizes, scratch, gradients):
    """gradients.position_t += sums of gradients.scores, of the keys from `first` on, over a row and over a column."""
    target, scores, place = gradients.position_t, gradients.scores, scratch.place
    if first == 0:
        clear(target, 0, CHUNK * (position_length(sizes) + sizes.extra + 1))
    for half in range(0, CHUNK, LANES):
        t = 0
        while t < count:
            row = place[3 * (first + t)]
            total = load(target, row + half)
            while t < count and place[3 * (first + t)] == row:
                part, column = load(scores, t * CHUNK + half), place[3 * (first + t) + 1] + half
                total = add(total, part)
                store(target, column, add(load(target, column), part))
                t += 1
            store(target, row + half, total)


@njit(nogil=True)
def to_tables(sizes, place, begin, part, rows_of_tables, table_gradients, scratch, gradients):
    """From the gradients of position logits to those of the queries and of the tables."""
    _, _, block_row, block_column = place
    rows, columns = sides(sizes)
    length, side = sizes.length, position_length(sizes)
    reach = sizes.block[0] + sizes.halo[0] - 1, sizes.block[1] + sizes.halo[1] - 1
    table_length = 2 * (reach[0] + reach[1]) + 2
    own = part * table_length * length
    for lane in range(CHUNK):
        if query_pixel(sizes, block_row, block_column, begin + lane)[0] < 0:
            continue
        i, j = place_in_block(sizes, begin + lane)
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
                gradient = splat_at(gradients.position, lane * side + source)
                total = fma(gradient, load(rows_of_tables, row * length + d), total)
                target = own + row * length + d
                store(table_gradients, target, fma(gradient, query, load(table_gradients, target)))
            store(gradients.query, lane * length + d, total)


@njit(nogil=True)
def add_bias(first, count, begin, sizes, scratch, gradients):
    """Adds gradients.scores, of the keys from `first` on, to the gradient of the bias."""
    target, scores, place = gradients.bias, gradients.scores, scratch.place
    for t in range(count):
        start = place[3 * (first + t) + 2] * bias_queries(sizes) + begin
        for half in range(0, CHUNK, LANES):
            store(target, start + half, add(load(target, start + half), load(scores, t * CHUNK + half)))


@njit(nogil=True)
def to_bias(sizes, part, bias_gradients, gradients):
    """From the gradient of every place and query to that of the offsets between them."""
    rows, columns = sides(sizes)
    reach = sizes.block[0] + sizes.halo[0] - 1, sizes.block[1] + sizes.halo[1] - 1
    width = 2 * reach[1] + 1
    for y in range(rows):
        for x in range(columns):
            start = (y * columns + x) * bias_queries(sizes)
            for number in range(sizes.queries[0] * sizes.queries[1]):
                i, j = number // sizes.queries[1], number % sizes.queries[1]
                row = reach[0] + y - sizes.halo[0] - i * sizes.relative_stride
                column = reach[1] + x - sizes.halo[1] - j * sizes.relative_stride
                offset = part * (2 * reach[0] + 1) * width + row * width + column
                bias_gradients[offset] += gradients.bias[start + number]
