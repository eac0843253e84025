"""The forward pass of the CPU kernels: softmax over the keys inside the map, and over the border by its position."""

from __future__ import annotations

from numba import njit

from halonet.ops.local_attention.numba_kernels import (
    CHUNK,
    HIDDEN,
    clip,
    columns_to_rows,
    combine,
    load_keys,
    load_queries,
    make_scores,
    make_scratch,
    padded,
    query_pixel,
    sides,
)
from halonet.ops.local_attention.numba_vectors import (
    LANES,
    add,
    divide,
    exp,
    fma,
    load,
    log,
    maximum,
    multiply,
    splat,
    store,
    store_part,
    subtract,
)


@njit(nogil=True, cache=True)
def forward(query, key, value, output, log_sum, tables, sizes, scale, first, end):  # type: ignore[no-untyped-def]
    """Attention of the units (image, block row, block column, head) `first` to `end`.

    query, key, value, output: `Map`. log_sum: flat (B, Hq, Wq, N), or empty where it is not wanted.
    """
    scratch = make_scratch(sizes, tables.row_t)
    zero = scale - scale
    down, across = sizes.blocks
    rows, columns = sides(sizes)
    for unit in range(first, end):
        head, block_column = unit % sizes.heads, unit // sizes.heads % across
        block_row, image = unit // (sizes.heads * across) % down, unit // (sizes.heads * across * down)
        count = load_keys(key, value, sizes, image, head, block_row, block_column, scratch, zero)
        has_border = sizes.border_takes_part and count < rows * columns
        for begin in range(0, sizes.queries[0] * sizes.queries[1], CHUNK):
            load_queries(query, tables, sizes, image, head, block_row, block_column, begin, scratch, scale)
            make_scores(count, sizes, scratch)
            if has_border:
                border_sums(sizes, block_row, block_column, scratch)
            else:
                store(scratch.sums, 0, splat(zero))
                store(scratch.sums, LANES, splat(zero))
            exponentiate(count, scratch)
            combine(
                scratch.value,
                padded(sizes.value_channels),
                sizes.value_channels,
                scratch.scores,
                count,
                scratch.output_t,
            )
            write_output(output, log_sum, sizes, image, head, block_row, block_column, begin, scratch)


@njit(nogil=True)
def exponentiate(count, scratch):  # type: ignore[no-untyped-def]
    """scores = exp(scores - largest), and their sums on top of those in `sums`."""
    scores = scratch.scores
    for half in range(0, CHUNK, LANES):
        largest, total = load(scratch.largest, half), load(scratch.sums, half)
        for t in range(count):
            value = exp(subtract(load(scores, t * CHUNK + half), largest))
            store(scores, t * CHUNK + half, value)
            total = add(total, value)
        store(scratch.sums, half, total)


@njit(nogil=True)
def border_groups(sizes, block_row, block_column, scratch):  # type: ignore[no-untyped-def]
    """Largest position logit, and sum of exponentials of differences to it, of rows and columns outside and inside."""
    first_row, end_row, first_column, end_column = clip(sizes, block_row, block_column)
    rows, columns = sides(sizes)
    begin = padded(rows)
    axis_groups(scratch.position_t, 0, rows, first_row, end_row, scratch.border, 0)
    axis_groups(scratch.position_t, begin, columns, first_column, end_column, scratch.border, 4)


@njit(nogil=True)
def axis_groups(position_t, begin, side, first, end, border, slot):  # type: ignore[no-untyped-def]
    """Of one axis, whose pixels `first` to `end` are inside: slots largest and sum outside, then inside."""
    hidden = position_t.dtype.type(HIDDEN)
    for half in range(0, CHUNK, LANES):
        outside = inside = splat(hidden)
        for y in range(side):
            logit = load(position_t, (begin + y) * CHUNK + half)
            if first <= y < end:
                inside = maximum(inside, logit)
            else:
                outside = maximum(outside, logit)
        sum_outside = sum_inside = splat(position_t.dtype.type(0))
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
def whole_axis(border, slot, half):  # type: ignore[no-untyped-def]
    """Largest logit and sum of all pixels of an axis, from those of its groups."""
    outside, inside = load(border, slot * CHUNK + half), load(border, (slot + 2) * CHUNK + half)
    most = maximum(outside, inside)
    total = multiply(load(border, (slot + 1) * CHUNK + half), exp(subtract(outside, most)))
    return most, fma(load(border, (slot + 3) * CHUNK + half), exp(subtract(inside, most)), total)


@njit(nogil=True)
def border_sums(sizes, block_row, block_column, scratch):  # type: ignore[no-untyped-def]
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
def write_output(output, log_sum, sizes, image, head, block_row, block_column, begin, scratch):  # type: ignore[no-untyped-def]
    """Divides by the sums and writes the queries the map has, and their log-sum-exp."""
    values = padded(sizes.value_channels)
    one = scratch.sums.dtype.type(1)
    for half in range(0, CHUNK, LANES):
        total = load(scratch.sums, half)
        inverse = divide(splat(one), total)
        for d in range(sizes.value_channels):
            place = d * CHUNK + half
            store(scratch.output_t, place, multiply(load(scratch.output_t, place), inverse))
        store(scratch.largest, half, add(load(scratch.largest, half), log(total)))
    columns_to_rows(scratch.output_t, values, scratch.output)
    for lane in range(CHUNK):
        row, column = query_pixel(sizes, block_row, block_column, begin + lane)
        if row < 0:
            continue
        place = image * output.image + row * output.row + column * output.column + head * output.head
        for d in range(0, sizes.value_channels, LANES):
            store_part(output.address, place + d, sizes.value_channels - d, load(scratch.output, lane * values + d))
        if log_sum.size:
            pixel = (image * sizes.query_height + row) * sizes.query_width + column
            log_sum[pixel * sizes.heads + head] = scratch.largest[lane]
