"""The backward pass of the CPU kernels: all gradients of one image and head, block after block, without atomics."""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import njit, prange

from halonet.ops.local_attention.custom_operator import HIDDEN
from halonet.ops.local_attention.numba_cpu.amx import begin_thread, end_thread
from halonet.ops.local_attention.numba_cpu.amx_parts import (
    only_with_parts,
    pack_given,
    pack_keys,
    pack_tables,
    places_of,
)
from halonet.ops.local_attention.numba_cpu.amx_products import (
    combine_tiles,
    content_scores,
    rows_by_chunk,
    slopes_to_parts,
    spread_tiles,
)
from halonet.ops.local_attention.numba_cpu.border import add_border
from halonet.ops.local_attention.numba_cpu.constants import CHUNK, LANES, SOURCES, TILE
from halonet.ops.local_attention.numba_cpu.layout import (
    Tables,
    bias_queries,
    chunks_of,
    clear,
    group_size,
    key_rows,
    make_scratch,
    of_chunk,
    position_length,
    query_pixel,
    release,
    reserve,
    sides,
    unpack_map,
    unpack_sizes,
)
from halonet.ops.local_attention.numba_cpu.loading import copy_row, load_extra, load_keys, load_queries, write_rows
from halonet.ops.local_attention.numba_cpu.pointers import address, after, null, pointer_to, typed
from halonet.ops.local_attention.numba_cpu.products import (
    add_position,
    columns_to_rows,
    combine,
    make_scores,
    rows_to_columns,
    score_gradients,
    spread,
)
from halonet.ops.local_attention.numba_cpu.table_gradients import add_bias, position_gradients, to_bias, to_tables
from halonet.ops.local_attention.numba_cpu.vectors import (
    exp,
    fma,
    load,
    load_part,
    splat,
    store,
    store_part,
    subtract,
    total,
)


class Gradients(NamedTuple):
    """Buffers of one thread beside its `Scratch`. `output` holds the gradient that came in."""

    key: Any  # keys x channels
    value: Any  # keys x value channels
    scores: Any  # TILE x CHUNK
    query: Any  # CHUNK x channels
    position: Any  # CHUNK x (rows and columns of the neighbourhood)
    output: Any  # a query's value channels
    one: Any  # CHUNK ones
    bias: Any  # places of the neighbourhood and one x queries of a block; of one image and head
    # a chunk's
    query_t: Any
    position_t: Any
    delta: Any  # CHUNK; sums of output times its gradient, and as that times one over the sum of exponentials
    largest: Any  # CHUNK


class Totals(NamedTuple):
    """Gradients that all blocks of an image and head add to, and what they are of.

    table_rows: both position tables one below the other, (R, channels). table_gradients: the same an image and head, as
    are bias_gradients, (rows of the one table, of the other), and extra_gradients, (extra keys). All flat.
    """

    table_rows: Any
    table_gradients: Any
    bias_gradients: Any
    extra_gradients: Any


@njit(nogil=True)
def gradients_at(sizes, start):
    """`Gradients` whose numbers begin at `start`, and where they end; as large as those of `Scratch`."""
    keys, tile, queries = key_rows(sizes), min(key_rows(sizes), TILE), group_size(sizes) * CHUNK
    value = after(start, keys * sizes.length)
    scores = after(value, keys * sizes.value_length)
    query = after(scores, tile * CHUNK)
    position = after(query, CHUNK * sizes.length)
    output = after(position, CHUNK * position_length(sizes))
    one = after(output, sizes.value_length)
    bias = after(one, CHUNK)
    query_t = after(bias, bias_size(sizes))
    position_t = after(query_t, queries * sizes.length)
    delta = after(position_t, queries * (position_length(sizes) + sizes.extra + 1))
    largest = after(delta, queries)
    own = query_t, position_t, delta, largest
    return Gradients(start, value, scores, query, position, output, one, bias, *own), after(largest, queries)


@njit(nogil=True)
def make_gradients(sizes, like):
    """`Gradients` of the type of `like`, and the array to keep as long as it."""
    _, end = gradients_at(sizes, null(like))
    memory, start = reserve(address(end), like)
    gradients, _ = gradients_at(sizes, start)
    for lane in range(0, CHUNK, LANES):
        store(gradients.one, lane, splat(typed(like, 1)))
    return gradients, memory


@njit(inline="always")
def gradients_of_chunk(gradients, number, sizes):
    """`Gradients` with the buffers of one chunk of the group."""
    g, queries = gradients, number * CHUNK
    query_t = after(g.query_t, queries * sizes.length)
    position_t = after(g.position_t, queries * (position_length(sizes) + sizes.extra + 1))
    own = query_t, position_t, after(g.delta, queries), after(g.largest, queries)
    return Gradients(g.key, g.value, g.scores, g.query, g.position, g.output, g.one, g.bias, *own)


@njit(nogil=True)
def bias_size(sizes):
    """Numbers of one head's bias."""
    rows, columns = sides(sizes)
    return (rows * columns + 1) * bias_queries(sizes) if sizes.has_bias else 0


def _entry(sources):
    """`sources` is part of what numba's cache knows the kernel by."""

    @njit(nogil=True, cache=True, parallel=True)
    def backward(maps, kind, parts, norm, totals, tables, numbers, scale, threads):
        """All gradients.

        maps: query, key, value, extra key, extra value, output and its gradient, and where the gradients of the first
        five go, as `Map`'s numbers; those but the query's hold zeros and are of the kernels' own type. norm: as the
        forward pass left it. totals: the arrays of `Totals`. The others as for `forward`.
        """
        _ = sources
        slices = numbers[0] * numbers[3]
        rows_of_tables, table_gradients, bias_gradients, extra_gradients = totals
        row_t, column_t, hidden_row, hidden_column, bias, extra_bias = tables
        for share in prange(threads):
            of_axes = pointer_to(row_t), pointer_to(column_t), pointer_to(hidden_row), pointer_to(hidden_column)
            whole = Tables(*of_axes, pointer_to(bias), pointer_to(extra_bias))
            of_tables = pointer_to(rows_of_tables), pointer_to(table_gradients)
            sums = Totals(*of_tables, pointer_to(bias_gradients), pointer_to(extra_gradients))
            given = pointer_to(maps), pointer_to(kind), pointer_to(parts), pointer_to(norm)
            first, end = slices * share // threads, slices * (share + 1) // threads
            backward_slices(given, sums, whole, unpack_sizes(numbers), scale, first, end)

    return backward


backward = _entry(SOURCES)


@njit(nogil=True)
def backward_slices(given, totals, tables, sizes, scale, first, end):
    """Gradients of the slices (image, head) `first` to `end`. given: pointers to `maps`, `kind`, `parts` and `norm`."""
    maps, kind, parts, norm = given
    key, value = unpack_map(maps, 1, kind), unpack_map(maps, 2, kind)
    extra_key, extra_value = unpack_map(maps, 3, kind), unpack_map(maps, 4, kind)
    places, size = places_of(sizes)
    scratch, kept = make_scratch(sizes, tables.row_t, parts, size)
    registers = begin_thread(sizes.parts)
    tables_finite = pack_tables(places, tables, sizes, scratch)
    gradients, kept_too = make_gradients(sizes, scratch.key)
    one, keys = typed(scratch.key, 1), key_rows(sizes)
    for part in range(first, end):
        image, head = part // sizes.heads, part % sizes.heads
        clear(gradients.bias, 0, bias_size(sizes))
        for block in range(sizes.blocks[0] * sizes.blocks[1]):
            place = image, head, block // sizes.blocks[1], block % sizes.blocks[1]
            own = load_keys(key, value, sizes, place, scratch, scale)
            count = load_extra(extra_key, extra_value, sizes, place, own, scratch, scale)
            finite = tables_finite and pack_keys(count, places, sizes, scratch, True)
            clear(gradients.key, 0, keys * sizes.length)
            clear(gradients.value, 0, keys * sizes.value_length)
            for begin in range(0, chunks_of(sizes), group_size(sizes)):
                of_keys = own, count, finite
                add_group(maps, kind, norm, totals, tables, sizes, place, begin, of_keys, scratch, gradients)
            channels, values = (sizes.length, sizes.channels), (sizes.value_length, sizes.value_channels)
            add_keys(unpack_map(maps, 8, kind), place, own, gradients.key, channels, scratch.pixel, scale)
            add_keys(unpack_map(maps, 9, kind), place, own, gradients.value, values, scratch.pixel, one)
            add_extra(unpack_map(maps, 10, kind), sizes.extra, place, own, gradients.key, channels, scale)
            add_extra(unpack_map(maps, 11, kind), sizes.extra, place, own, gradients.value, values, one)
        if sizes.has_bias:
            to_bias(sizes, part, totals.bias_gradients, gradients)
    end_thread(sizes.parts, registers)
    release(kept)
    kept_too[0] = 0


@njit(nogil=True)
def add_group(maps, kind, norm, totals, tables, sizes, place, first, keys, scratch, gradients):
    """Adds what the queries of a block's chunks from `first` on contribute.

    keys: how many are the block's own, how many there are with the extra ones, which come after them, and whether
    all are finite.
    """
    query, output, grad = unpack_map(maps, 0, kind), unpack_map(maps, 5, kind), unpack_map(maps, 6, kind)
    target = unpack_map(maps, 7, kind)
    own, count, finite = keys
    places, _ = places_of(sizes)
    chunks = min(group_size(sizes), chunks_of(sizes) - first)
    for number in range(chunks):
        chunk, sums = of_chunk(scratch, number, sizes), gradients_of_chunk(gradients, number, sizes)
        load_queries(query, places, finite, tables, sizes, place, (first + number) * CHUNK, chunk)
        load_given(output, grad, norm, sizes, place, (first + number) * CHUNK, chunk, sums)
        if scratch.finite[number]:
            scratch.finite[number] = pack_given(places, sizes, chunk)
    for tile in range(0, count, TILE):
        for number in range(chunks):
            chunk, sums = of_chunk(scratch, number, sizes), gradients_of_chunk(gradients, number, sizes)
            add_tile(places, totals, tables, sizes, place, (first + number) * CHUNK, tile, keys, chunk, sums)
    for number in range(chunks):
        chunk, sums = of_chunk(scratch, number, sizes), gradients_of_chunk(gradients, number, sizes)
        finish_chunk(target, totals, sizes, place, (first + number) * CHUNK, own, chunk, sums)


@njit(inline="always")
def add_tile(places, totals, tables, sizes, place, begin, tile, keys, scratch, gradients):
    """Adds what the queries from `begin` on and a tile of keys contribute to each other's gradients."""
    length, values, count, is_first = sizes.length, sizes.value_length, min(TILE, keys[1] - tile), tile == 0
    if not attend_tiles(tile, count, begin, places, place, tables, sizes, scratch, gradients, is_first):
        scores, slopes = scratch.scores, gradients.scores
        make_scores(tile, count, begin, place[1], tables, sizes, scratch)
        make_weights(count, scratch, gradients)
        score_gradients(tile, count, sizes, scratch, gradients)
        spread(scores, count, scratch.output, values, gradients.value, tile)
        spread(slopes, count, scratch.query, length, gradients.key, tile)
        query_t, one = gradients.query_t, gradients.one
        combine(scratch.key, tile, length, sizes.channels, slopes, count, query_t, one, is_first)
    if sizes.has_bias:
        add_bias(tile, count, begin, sizes, scratch, gradients)
    if sizes.has_position:
        position_gradients(tile, count, sizes, scratch, gradients)
    part = place[0] * sizes.heads + place[1]
    for t in range(max(tile, keys[0]), tile + count):
        for lane in range(CHUNK):
            totals.extra_gradients[part * sizes.extra + t - keys[0]] += gradients.scores[(t - tile) * CHUNK + lane]


@only_with_parts
def attend_tiles(first, count, begin, places, place, tables, sizes, scratch, gradients, is_first):
    """The products of `add_tile` on tile registers; False if that was not possible."""
    if not scratch.finite[scratch.number]:
        return False
    length, values = sizes.length, sizes.value_length
    content_scores(first, count, places, sizes, scratch)
    add_position(first, count, begin, place[1], tables, sizes, scratch)
    make_weights(count, scratch, gradients)
    rows_by_chunk(places.value, places.grad, values, first, count, sizes, scratch, gradients.scores)
    slopes_to_parts(count, scratch, gradients, places, sizes.parts)
    spread_tiles(places.weights, places.grad_rows, values, first, count, sizes, scratch, gradients.value)
    spread_tiles(places.slopes, places.query_rows, length, first, count, sizes, scratch, gradients.key)
    query_t, one = gradients.query_t, gradients.one
    combine_tiles((places.key_t, length), first, count, places, sizes, scratch, query_t, one, is_first)
    return True


@njit(inline="always")
def finish_chunk(target, totals, sizes, place, begin, own, scratch, gradients):
    """Adds the border's part, goes from position logits to queries and tables, and writes the queries' gradients."""
    rows, columns = sides(sizes)
    columns_to_rows(gradients.query_t, sizes.length, gradients.query)
    if sizes.has_position:
        if sizes.border_takes_part and not sizes.every_place and own < rows * columns:
            add_border(sizes, place[2], place[3], scratch, gradients)
        columns_to_rows(gradients.position_t, position_length(sizes), gradients.position)
        part = place[0] * sizes.heads + place[1]
        to_tables(sizes, place, begin, part, totals.table_rows, totals.table_gradients, scratch, gradients)
    write_rows(target, sizes, place, begin, gradients.query, sizes.length, sizes.channels)


@njit(nogil=True)
def load_given(output, grad, norm, sizes, place, begin, scratch, gradients):
    """Loads what is given for the queries from number `begin` on; those that are not there get weights of 0.

    The gradient of the output takes the division by the sum of exponentials over, so that weights need none.
    """
    image, head, block_row, block_column = place
    values = sizes.value_length
    zero, hidden, one = typed(scratch.key, 0), typed(scratch.key, -HIDDEN), typed(scratch.key, 1)
    for lane in range(CHUNK):
        row, column = query_pixel(sizes, block_row, block_column, begin + lane)
        if row < 0:
            clear(scratch.output, lane * values, (lane + 1) * values)
            gradients.delta[lane], gradients.largest[lane] = zero, hidden
            continue
        pixel = ((image * sizes.query_height + row) * sizes.query_width + column) * sizes.heads + head
        gradients.largest[lane], inverse = norm[2 * pixel], norm[2 * pixel + 1]
        start = image * grad.image + row * grad.row + column * grad.column + head * grad.head
        copy_row(grad, start, sizes.value_channels, values, scratch.output, lane * values, inverse)
        start = image * output.image + row * output.row + column * output.column + head * output.head
        copy_row(output, start, sizes.value_channels, values, gradients.output, 0, one)
        products = splat(zero)
        for d in range(0, values, LANES):
            products = fma(load(scratch.output, lane * values + d), load(gradients.output, d), products)
        gradients.delta[lane] = total(products)
    rows_to_columns(scratch.output, values, scratch.output_t)


@njit(nogil=True)
def make_weights(count, scratch, gradients):
    """scores = exp(scores - largest)."""
    scores = scratch.scores
    for half in range(0, CHUNK, LANES):
        largest = load(gradients.largest, half)
        for t in range(count):
            store(scores, t * CHUNK + half, exp(subtract(load(scores, t * CHUNK + half), largest)))


@njit(nogil=True)
def add_keys(target, place, count, source, lengths, pixel, factor):
    """Adds the rows of a block's own keys, times a factor, to a map."""
    (image, head, _, _), (length, channels) = place, lengths
    for t in range(count):
        if pixel[2 * t] >= 0:
            start = image * target.image + pixel[2 * t] * target.row + pixel[2 * t + 1] * target.column
            add_row(target.address, start + head * target.head, channels, source, t * length, factor)


@njit(nogil=True)
def add_extra(target, extra, place, count, source, lengths, factor):
    """Adds the rows of extra keys, times a factor, which come after `count` others."""
    (image, head, _, _), (length, channels) = place, lengths
    for g in range(extra):
        start = image * target.image + g * target.column + head * target.head
        add_row(target.address, start, channels, source, (count + g) * length, factor)


@njit(nogil=True)
def add_row(address, start, channels, source, begin, factor):
    """Adds a row of a buffer, times a factor, to the channels of a pixel."""
    zero = factor - factor
    for d in range(0, channels, LANES):
        numbers = load_part(address, start + d, channels - d, zero)
        numbers = fma(load(source, begin + d), splat(factor), numbers)
        store_part(address, start + d, channels - d, numbers)
