"""The border that takes part, without its keys: sums over the rows and columns outside the map. Maths: NOTES.md."""

from __future__ import annotations

from numba import njit

from halonet.ops.local_attention.custom_operator import HIDDEN
from halonet.ops.local_attention.numba_cpu.constants import CHUNK, LANES
from halonet.ops.local_attention.numba_cpu.layout import clip, padded, sides
from halonet.ops.local_attention.numba_cpu.pointers import typed
from halonet.ops.local_attention.numba_cpu.vectors import add, exp, fma, load, maximum, multiply, splat, store, subtract


@njit(nogil=True)
def border_groups(sizes, block_row, block_column, scratch):
    """Largest position logit, and sum of exponentials of differences to it, of rows and columns outside and inside."""
    first_row, end_row, first_column, end_column = clip(sizes, block_row, block_column)
    rows, columns = sides(sizes)
    begin = padded(rows)
    axis_groups(scratch.position_t, 0, rows, first_row, end_row, scratch.border, 0)
    axis_groups(scratch.position_t, begin, columns, first_column, end_column, scratch.border, 4)


@njit(nogil=True)
def axis_groups(position_t, begin, side, first, end, border, slot):
    """Of one axis, whose pixels `first` to `end` are inside: slots largest and sum outside, then inside."""
    hidden = typed(position_t, HIDDEN)
    for half in range(0, CHUNK, LANES):
        outside = inside = splat(hidden)
        for y in range(side):
            logit = load(position_t, (begin + y) * CHUNK + half)
            if first <= y < end:
                inside = maximum(inside, logit)
            else:
                outside = maximum(outside, logit)
        sum_outside = sum_inside = splat(typed(position_t, 0))
        for y in range(side):
            logit = load(position_t, (begin + y) * CHUNK + half)
            if first <= y < end:
                sum_inside = add(sum_inside, exp(subtract(logit, inside)))
            else:
                sum_outside = add(sum_outside, exp(subtract(logit, outside)))
        store(border, slot * CHUNK + half, outside)
        store(border, (slot + 1) * CHUNK + half, sum_outside)
        store(border, (slot + 2) * CHUNK + half, inside)
        store(border, (slot + 3) * CHUNK + half, sum_inside)


@njit(inline="always")
def whole_axis(border, slot, half):
    """Largest logit and sum of all pixels of an axis, from those of its groups."""
    outside, inside = load(border, slot * CHUNK + half), load(border, (slot + 2) * CHUNK + half)
    most = maximum(outside, inside)
    total = multiply(load(border, (slot + 1) * CHUNK + half), exp(subtract(outside, most)))
    return most, fma(load(border, (slot + 3) * CHUNK + half), exp(subtract(inside, most)), total)


@njit(nogil=True)
def border_sums(sizes, block_row, block_column, scratch):
    """Brings the border keys, all of value 0, into `largest` and starts `sums` with theirs.

    They are the rows outside the map with every column, and the rows inside with the columns outside.
    """
    border_groups(sizes, block_row, block_column, scratch)
    border = scratch.border
    for half in range(0, CHUNK, LANES):
        row_out, row_in = load(border, half), load(border, 2 * CHUNK + half)
        column_out = load(border, 4 * CHUNK + half)
        column_all, sum_all = whole_axis(border, 4, half)
        above, beside = add(row_out, column_all), add(row_in, column_out)
        largest = maximum(load(scratch.largest, half), maximum(above, beside))
        sum_above = multiply(load(border, CHUNK + half), sum_all)
        sum_beside = multiply(load(border, 3 * CHUNK + half), load(border, 5 * CHUNK + half))
        total = multiply(sum_above, exp(subtract(above, largest)))
        store(scratch.sums, half, fma(sum_beside, exp(subtract(beside, largest)), total))
        store(scratch.largest, half, largest)


@njit(nogil=True)
def add_border(sizes, block_row, block_column, scratch, gradients):
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
def _add_border_axis(begin, side, first, end, half, partners, scratch, gradients):
    """partners: largest logit and sum of the other axis' pixels that a pixel outside, and one inside, meets."""
    largest, delta = load(gradients.largest, half), load(gradients.delta, half)
    for y in range(side):
        most, total = partners[1] if first <= y < end else partners[0]
        place = (begin + y) * CHUNK + half
        weight = exp(subtract(add(load(scratch.position_t, place), most), largest))
        share = multiply(multiply(weight, total), delta)
        store(gradients.position_t, place, subtract(load(gradients.position_t, place), share))
