"""Gradients of the queries and of the position tables: the loops of the forward kernel once more.

Programs take several tiles each. What they add up for the tables goes to a slot of their own, so that no two write
to one place and the sum over slots, and with it every bit of the gradient, does not depend on chance.
"""

from __future__ import annotations

import triton
import triton.language as tl

from halonet.ops.local_attention.triton_gpu.addressing import (
    corner,
    keys_of,
    load_vectors,
    queries_of,
    query_numbers,
    query_place,
    store_vectors,
)
from halonet.ops.local_attention.triton_gpu.forward import extra_scores
from halonet.ops.local_attention.triton_gpu.scores import (
    dot,
    load_norm,
    local_scores,
    one_hot,
    position_logits,
    slice_gradient,
    slice_rows,
    table_addresses,
    weights_of,
)


@triton.jit
def query_gradient_kernel(
    query,
    key,
    value,
    extra_key,
    extra_value,
    grad,
    output,
    norm,
    delta,
    table,
    bias,
    extra_bias,
    slots,
    grad_query,
    scales,
    sizes,
    items,
    plan,
):
    """Writes `grad_query`, the sum of output times its gradient of each query to `delta`, and adds to `slots`."""
    slot = slots
    if plan.has_relative:
        slot += tl.program_id(0).to(tl.int64) * plan.table_rows * plan.key_channels
    for item in tl.range(tl.program_id(0), items, tl.num_programs(0), num_stages=1, disable_licm=True):
        place = query_place(item, sizes, plan)
        queries = queries_of(place, sizes, plan)
        q = load_vectors(query, place, queries.pixels, queries.exist, plan.key_channels, plan.key_dim)
        do = load_vectors(grad, place, queries.pixels, queries.exist, plan.value_channels, plan.value_dim)
        o = load_vectors(output, place, queries.pixels, queries.exist, plan.value_channels, plan.value_dim)
        d = tl.sum(o.to(plan.working) * do.to(plan.working), 1)
        tl.store(query_numbers(delta, place, queries, sizes, 1), d, mask=queries.exist)
        shift, factor = load_norm(norm, place, queries, sizes, plan)
        dq = tl.zeros([plan.num_queries, plan.key_dim], plan.working)

        for region in tl.range(plan.regions_down * plan.regions_across, disable_licm=True):
            first_y, first_x = corner(region, plan.regions_across, plan.region_rows, plan.region_columns)
            position, rest = position_logits(q, table, place, queries, first_y, first_x, scales.relative, plan)
            by_key = tl.zeros([plan.num_queries, plan.key_dim], plan.working)
            by_position = tl.zeros([plan.num_queries, plan.position_channels], plan.working)
            for tile in range(plan.tiles_down * plan.tiles_across):
                y, x = corner(tile, plan.tiles_across, plan.key_rows, plan.key_columns)
                keys = keys_of(place.block_row, place.block_column, first_y + y, first_x + x, sizes, plan)
                k = load_vectors(key, place, keys.pixels, keys.inside, plan.key_channels, plan.key_dim)
                hot = one_hot(keys, first_y, first_x, plan)
                scores = local_scores(q, k, position, rest, hot, bias, place, queries, keys, scales, plan)
                weights = weights_of(scores, shift[:, None], factor[:, None], plan)
                weights = tl.where(keys.seen[None, :], weights, 0.0)
                v = load_vectors(value, place, keys.pixels, keys.inside, plan.value_channels, plan.value_dim)
                ds = score_gradients(weights, do, v, d, plan)
                by_key = dot(ds.to(k.dtype), k, by_key, plan)
                if plan.has_relative:
                    by_position = dot(ds.to(k.dtype), hot.to(k.dtype), by_position, plan)
            dq += by_key * scales.natural_product
            if plan.has_relative:
                dq = _through_table(
                    dq, by_position, q, table, slot, place, queries, first_y, first_x, scales.natural_relative, plan
                )

        if plan.has_extra:
            by_key = tl.zeros([plan.num_queries, plan.key_dim], plan.working)
            for first in range(0, sizes.extra, plan.num_extra):
                scores, pixels, seen = extra_scores(q, extra_key, extra_bias, place, first, scales, sizes, plan)
                v = load_vectors(extra_value, place, pixels, seen, plan.value_channels, plan.value_dim)
                k = load_vectors(extra_key, place, pixels, seen, plan.key_channels, plan.key_dim)
                ds = score_gradients(weights_of(scores, shift[:, None], factor[:, None], plan), do, v, d, plan)
                by_key = dot(ds.to(k.dtype), k, by_key, plan)
            dq += by_key * scales.natural_product
        store_vectors(grad_query, place, queries.pixels, queries.exist, dq, plan.key_channels, plan.key_dim)


@triton.jit
def _through_table(dq, by_position, q, table, slot, place, queries, first_y, first_x, scale, plan):
    """dq and the program's slot with what a region's position logits, of gradient `by_position`, add to each."""
    rows, exist = slice_rows(place, first_y, first_x, plan)
    mask = exist[:, None] & (tl.arange(0, plan.key_dim) < plan.key_channels)[None, :]
    part = tl.load(table_addresses(table, rows, plan), mask=mask, other=0.0)
    by_slice = slice_gradient(by_position, queries, plan).to(part.dtype)
    change = dot(by_slice.T, q, tl.zeros([2 * plan.slice, plan.key_dim], plan.working), plan)
    where = table_addresses(slot, rows, plan)
    tl.debug_barrier()  # other threads of this program may have written these numbers
    tl.store(where, tl.load(where, mask=mask, other=0.0) + change, mask=mask)
    tl.debug_barrier()
    return dq + dot(by_slice, part, tl.zeros_like(dq), plan) * scale


@triton.jit
def score_gradients(weights, do, v, delta, plan):
    """Gradients (M, N) of the scores, in natural units, from the weights."""
    dp = dot(do, v.T, tl.zeros_like(weights), plan)
    return weights * (dp - delta[:, None])
