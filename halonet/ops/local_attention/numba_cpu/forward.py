"""The forward pass of the CPU kernels: softmax over the keys inside the map, and over the border by its position."""

from __future__ import annotations

from numba import njit, prange

from halonet.ops.local_attention.custom_operator import HIDDEN
from halonet.ops.local_attention.numba_cpu.amx import begin_thread, end_thread
from halonet.ops.local_attention.numba_cpu.amx_parts import (
    only_with_parts,
    pack_keys,
    pack_tables,
    places_of,
)
from halonet.ops.local_attention.numba_cpu.amx_products import combine_tiles, content_scores, exponentiate_tiles
from halonet.ops.local_attention.numba_cpu.border import border_sums
from halonet.ops.local_attention.numba_cpu.constants import CHUNK, LANES, SOURCES, TILE
from halonet.ops.local_attention.numba_cpu.layout import (
    Tables,
    chunks_of,
    group_size,
    groups_of,
    make_scratch,
    of_chunk,
    query_pixel,
    release,
    sides,
    unpack_map,
    unpack_sizes,
)
from halonet.ops.local_attention.numba_cpu.loading import load_extra, load_keys, load_queries, write_rows
from halonet.ops.local_attention.numba_cpu.pointers import pointer_to, typed
from halonet.ops.local_attention.numba_cpu.products import add_position, columns_to_rows, combine, make_scores
from halonet.ops.local_attention.numba_cpu.vectors import (
    add,
    divide,
    exp,
    load,
    multiply,
    splat,
    store,
    subtract,
)


def _entry(sources):
    """`sources` is part of what numba's cache knows the kernel by."""

    @njit(nogil=True, cache=True, parallel=True)
    def forward(maps, kind, parts, norm, tables, numbers, scale, threads):
        """Attention.

        maps: query, key, value, extra key, extra value and output as `Map`'s numbers. kind, parts: empty arrays of the
        types of `Map.kind` and `Scratch.parts`. norm: flat (B, Hq, Wq, N, 2), of each query the largest logit and one
        over the sum of exponentials, or empty where it is not wanted. tables: `Tables`' arrays. numbers: `Sizes`.
        scale: of keys.
        """
        _ = sources
        units = numbers[0] * numbers[3] * numbers[8] * numbers[9] * groups_of(unpack_sizes(numbers))
        row_t, column_t, hidden_row, hidden_column, bias, extra_bias = tables
        for share in prange(threads):
            of_axes = pointer_to(row_t), pointer_to(column_t), pointer_to(hidden_row), pointer_to(hidden_column)
            whole = Tables(*of_axes, pointer_to(bias), pointer_to(extra_bias))
            given = pointer_to(maps), pointer_to(kind), pointer_to(parts), pointer_to(norm), norm.size > 0
            first, end = units * share // threads, units * (share + 1) // threads
            forward_units(given, whole, unpack_sizes(numbers), scale, first, end)

    return forward


forward = _entry(SOURCES)


@njit(nogil=True)
def forward_units(given, tables, sizes, scale, first, end):
    """Attention of the units (image, block row, block column, head, group of chunks) `first` to `end`.

    given: pointers to `maps`, `kind`, `parts` and `norm`, and whether `norm` is wanted.
    """
    maps, kind, parts, norm, keeps_norm = given
    query, key, value = unpack_map(maps, 0, kind), unpack_map(maps, 1, kind), unpack_map(maps, 2, kind)
    extra_key, extra_value, output = unpack_map(maps, 3, kind), unpack_map(maps, 4, kind), unpack_map(maps, 5, kind)
    places, size = places_of(sizes)
    scratch, kept = make_scratch(sizes, tables.row_t, parts, size)
    registers = begin_thread(sizes.parts)
    tables_finite = pack_tables(places, tables, sizes, scratch)
    down, across = sizes.blocks
    rows, columns = sides(sizes)
    groups, loaded, count, has_border, finite = groups_of(sizes), -1, 0, False, False
    for unit in range(first, end):
        block = unit // groups
        head, block_column = block % sizes.heads, block // sizes.heads % across
        place = block // (sizes.heads * across * down), head, block // (sizes.heads * across) % down, block_column
        if block != loaded:
            count = load_keys(key, value, sizes, place, scratch, scale)
            has_border = sizes.border_takes_part and not sizes.every_place and count < rows * columns
            count = load_extra(extra_key, extra_value, sizes, place, count, scratch, scale)
            finite = tables_finite and pack_keys(count, places, sizes, scratch, False)
            loaded = block
        begin = unit % groups * group_size(sizes)
        chunks = min(group_size(sizes), chunks_of(sizes) - begin)
        for number in range(chunks):
            chunk = of_chunk(scratch, number, sizes)
            load_queries(query, places, finite, tables, sizes, place, (begin + number) * CHUNK, chunk)
            begin_sums(sizes, place, has_border, chunk)
        for tile in range(0, count, TILE):
            for number in range(chunks):
                chunk = of_chunk(scratch, number, sizes)
                add_tile(places, tables, sizes, place, (begin + number) * CHUNK, tile, count, chunk)
        for number in range(chunks):
            chunk = of_chunk(scratch, number, sizes)
            write_output(output, norm, keeps_norm, sizes, place, (begin + number) * CHUNK, chunk)
    end_thread(sizes.parts, registers)
    release(kept)


@njit(inline="always")
def begin_sums(sizes, place, has_border, scratch):
    """`largest` and `sums` of no key but those of the border."""
    zero, hidden = typed(scratch.key, 0), typed(scratch.key, HIDDEN)
    for half in range(0, CHUNK, LANES):
        store(scratch.largest, half, splat(hidden))
        store(scratch.sums, half, splat(zero))
    if has_border:
        border_sums(sizes, place[2], place[3], scratch)


@njit(inline="always")
def add_tile(places, tables, sizes, place, begin, tile, count, scratch):
    """Adds the keys from `tile` on, of `count`, to the outputs and sums of the queries from `begin` on."""
    keys, is_first = min(TILE, count - tile), tile == 0
    scores, output_t, factor = scratch.scores, scratch.output_t, scratch.factor
    if not attend_tiles(tile, keys, begin, places, place, tables, sizes, scratch, is_first):
        make_scores(tile, keys, begin, place[1], tables, sizes, scratch)
        exponentiate(keys, scratch)
        length, channels = sizes.value_length, sizes.value_channels
        combine(scratch.value, tile, length, channels, scores, keys, output_t, factor, is_first)


@only_with_parts
def attend_tiles(first, keys, begin, places, place, tables, sizes, scratch, is_first):
    """`add_tile` on tile registers; False if that was not possible."""
    if not scratch.finite[scratch.number]:
        return False
    content_scores(first, keys, places, sizes, scratch)
    add_position(first, keys, begin, place[1], tables, sizes, scratch)
    exponentiate_tiles(keys, scratch, places.scores, sizes.parts)
    values = places.value_t, sizes.value_length
    combine_tiles(values, first, keys, places, sizes, scratch, scratch.output_t, scratch.factor, is_first)
    return True


@njit(nogil=True)
def exponentiate(count, scratch):
    """scores = exp(scores - largest), and their sums on top of what is left of those in `sums`."""
    scores = scratch.scores
    for half in range(0, CHUNK, LANES):
        largest = load(scratch.largest, half)
        total = multiply(load(scratch.sums, half), load(scratch.factor, half))
        for t in range(count):
            value = exp(subtract(load(scores, t * CHUNK + half), largest))
            store(scores, t * CHUNK + half, value)
            total = add(total, value)
        store(scratch.sums, half, total)


@njit(nogil=True)
def write_output(output, norm, keeps_norm, sizes, place, begin, scratch):
    """Divides by the sums and writes the queries the map has, and what normalized them."""
    values = sizes.value_length
    one = splat(typed(scratch.sums, 1))
    image, head, block_row, block_column = place
    for half in range(0, CHUNK, LANES):
        total = load(scratch.sums, half)
        inverse = divide(one, total)
        for d in range(sizes.value_channels):
            at = d * CHUNK + half
            store(scratch.output_t, at, multiply(load(scratch.output_t, at), inverse))
        store(scratch.sums, half, inverse)
    columns_to_rows(scratch.output_t, values, scratch.output)
    write_rows(output, sizes, place, begin, scratch.output, values, sizes.value_channels)
    for lane in range(CHUNK if keeps_norm else 0):
        row, column = query_pixel(sizes, block_row, block_column, begin + lane)
        if row >= 0:
            pixel = ((image * sizes.query_height + row) * sizes.query_width + column) * sizes.heads + head
            norm[2 * pixel], norm[2 * pixel + 1] = scratch.largest[lane], scratch.sums[lane]
