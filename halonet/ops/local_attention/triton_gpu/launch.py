"""From a call to kernels: allocates what they write, and starts them."""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F
from triton import JITFunction

from halonet.ops.local_attention.call import Call
from halonet.ops.local_attention.custom_operator import working_dtype
from halonet.ops.local_attention.triton_gpu.addressing import Map, Sizes
from halonet.ops.local_attention.triton_gpu.constants import LOG2E, kept
from halonet.ops.local_attention.triton_gpu.forward import forward_kernel
from halonet.ops.local_attention.triton_gpu.key_gradients import key_gradient_kernel
from halonet.ops.local_attention.triton_gpu.plan import Numerics, Plan, Tiles, make_plan, whole
from halonet.ops.local_attention.triton_gpu.query_gradients import query_gradient_kernel
from halonet.ops.local_attention.triton_gpu.shared_gradients import bias_gradient_kernel, extra_gradient_kernel
from halonet.ops.local_attention.triton_gpu.tile_table import tiles_for

SLOT_BYTES = 64 << 20  # the most that partial sums for what all queries share may take
INTERPRETED = not isinstance(forward_kernel, JITFunction)
Kind = tuple[Any, ...]
TUNED: dict[Kind, Tiles] = {}  # what `tuning` found, in this process


class Scales(NamedTuple):
    """Factors of products and of position terms, for exponentials to base 2 and as they are."""

    product: Any
    relative: Any
    natural_product: Any
    natural_relative: Any


def forward(call: Call, for_backward: bool) -> tuple[Tensor, Tensor]:
    """The output, and for the backward pass what `load_norm` reads of each query's softmax."""
    query, value = call.query, call.value
    output = query.new_empty((*query.shape[:4], value.shape[4]))
    norm = query.new_empty((*query.shape[:4], kept(query.dtype) * for_backward), dtype=working_dtype(query.dtype))
    tiles, plan = _plan(call, "forward")
    start(
        forward_kernel,
        (_items(call, plan),),
        tiles,
        *_maps(call.query, call.key, call.value, call.extra_key, call.extra_value),
        _map(output),
        norm if for_backward else None,
        _stacked_tables(call),
        _contiguous(call.bias),
        _contiguous(call.extra_bias),
        _scales(call),
        _sizes(call),
        _constants(plan),
    )
    return output, norm


def backward(grad: Tensor, output: Tensor, norm: Tensor, call: Call) -> tuple[Tensor | None, ...]:
    """Gradients of query, key, value, both tables, bias, extra key, extra value and extra bias."""
    grad = _adjacent(grad)
    delta = norm.new_empty(norm.shape[:-1])
    # The kernel of the queries goes first: it writes delta, which the others read.
    grad_query, tables = query_gradients(grad, output, norm, delta, call)
    grad_key, grad_value = key_gradients(grad, norm, delta, call)
    bias = None if call.bias is None else bias_gradient(grad, norm, delta, call)
    extra = (None, None, None) if call.extra_key is None else extra_gradients(grad, norm, delta, call)
    return grad_query, grad_key, grad_value, *tables, bias, *extra


def query_gradients(
    grad: Tensor, output: Tensor, norm: Tensor, delta: Tensor, call: Call
) -> tuple[Tensor, tuple[Tensor | None, Tensor | None]]:
    """Gradients of the query and of both tables. Writes each query's sum of output times its gradient to `delta`."""
    tiles, plan = _plan(call, "query")
    grad_query = torch.empty(call.query.shape, dtype=call.query.dtype, device=call.query.device)
    items = programs = _items(call, plan)
    slots = None
    if call.relative is not None:
        channels = call.query.shape[4]
        programs = min(items, _programs(call, plan.table_rows * channels * norm.element_size()))
        slots = torch.zeros(programs, plan.table_rows, channels, dtype=norm.dtype, device=norm.device)
    start(
        query_gradient_kernel,
        (programs,),
        tiles,
        *_maps(call.query, call.key, call.value, call.extra_key, call.extra_value, grad),
        _map(output),
        norm,
        delta,
        _stacked_tables(call),
        _contiguous(call.bias),
        _contiguous(call.extra_bias),
        slots,
        _map(grad_query),
        _scales(call),
        _sizes(call),
        items,
        _constants(plan),
    )
    if slots is None:
        return grad_query, (None, None)
    total = slots.sum(dim=0) * call.relative_scale
    height, width = total.split([2 * axis.reach + 1 for axis in (call.geometry.rows, call.geometry.columns)])
    return grad_query, (height.clone(), width.clone())


def key_gradients(grad: Tensor, norm: Tensor, delta: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    """Gradients of key and value; `delta` is what `query_gradients` wrote."""
    tiles, plan = _plan(call, "key")
    rows, columns = call.geometry.rows, call.geometry.columns
    spans = whole(rows.size + plan.span_rows, rows.block), whole(columns.size + plan.span_columns, columns.block)
    grad_key, grad_value = (
        torch.empty(map_.shape, dtype=map_.dtype, device=map_.device) for map_ in (call.key, call.value)
    )
    batch, heads = call.query.shape[0], call.query.shape[3]
    start(
        key_gradient_kernel,
        (batch * spans[0] * spans[1] * plan.tiles_down * plan.tiles_across * heads,),
        tiles,
        *_maps(call.query, call.key, call.value, grad),
        norm,
        delta,
        _stacked_tables(call),
        _contiguous(call.bias),
        _map(grad_key),
        _map(grad_value),
        _scales(call),
        _sizes(call),
        *spans,
        _constants(plan),
    )
    return grad_key, grad_value


def extra_gradients(grad: Tensor, norm: Tensor, delta: Tensor, call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of extra key, extra value and extra bias; `delta` is what `query_gradients` wrote."""
    tiles, plan = _plan(call, "query")
    assert call.extra_key is not None
    assert call.extra_value is not None
    batch, extra, heads = call.extra_key.shape[:3]
    query_tiles = _items(call, plan) // (batch * heads)
    groups = whole(extra, plan.num_extra)
    bytes_a_part = batch * extra * heads * (plan.key_channels + plan.value_channels) * norm.element_size()
    parts = min(query_tiles, max(1, _programs(call, bytes_a_part) // (batch * heads * groups)))
    grad_key, grad_value = (
        torch.empty(batch * parts, extra, heads, channels, dtype=norm.dtype, device=norm.device)
        for channels in (plan.key_channels, plan.value_channels)
    )
    grad_bias = torch.empty(batch * parts, extra, heads, dtype=norm.dtype, device=norm.device)
    start(
        extra_gradient_kernel,
        (batch * parts * heads, groups),
        tiles,
        *_maps(call.query, call.extra_key, call.extra_value, grad),
        norm,
        delta,
        _contiguous(call.extra_bias),
        _map(grad_key),
        _map(grad_value),
        grad_bias,
        _scales(call),
        _sizes(call),
        query_tiles,
        parts,
        _constants(plan),
    )
    by_key, by_value = (part.unflatten(0, (batch, parts)).sum(dim=1) for part in (grad_key, grad_value))
    return by_key, by_value, grad_bias.sum(dim=0).t()


def bias_gradient(grad: Tensor, norm: Tensor, delta: Tensor, call: Call) -> Tensor:
    """Gradient of the static bias; `delta` is what `query_gradients` wrote.

    Sums over blocks first, then over the queries of a block; as many heads at once as memory is meant to hold.
    """
    tiles, plan = _plan(call, "bias")
    assert call.bias is not None
    rows, columns = call.geometry.rows, call.geometry.columns
    heads = call.query.shape[3]
    blocks = call.query.shape[0] * rows.num_blocks * columns.num_blocks
    pairs_of_tiles = plan.query_tiles * plan.tiles_down * plan.tiles_across
    shape = (rows.queries_per_block, columns.queries_per_block, rows.neighborhood, columns.neighborhood)
    bytes_a_part = shape[0] * shape[1] * shape[2] * shape[3] * norm.element_size()
    at_once = max(1, min(heads, SLOT_BYTES // bytes_a_part))
    parts = min(blocks, max(1, _programs(call, bytes_a_part * at_once) // (pairs_of_tiles * at_once)))
    gradients = []
    for first in range(0, heads, at_once):
        count = min(at_once, heads - first)
        pairs = torch.empty(count, parts, *shape, dtype=norm.dtype, device=norm.device)
        start(
            bias_gradient_kernel,
            (pairs_of_tiles, parts, count),
            tiles,
            *_maps(call.query, call.key, call.value, grad),
            norm,
            delta,
            _stacked_tables(call),
            _contiguous(call.bias),
            pairs,
            _scales(call),
            _sizes(call),
            blocks,
            parts,
            first,
            _constants(plan),
        )
        gradients.append(_by_offset(pairs.sum(dim=1), call))
    return torch.cat(gradients)


def _by_offset(pairs: Tensor, call: Call) -> Tensor:
    """(N, i, j, y, x) -> (N, rows, columns) of the table of offsets: each query's part, shifted, added up."""
    rows, columns = call.geometry.rows, call.geometry.columns
    step = rows.relative_stride
    heads, down, across, height, width = pairs.shape
    # fold() lays patch p at p: the last query meets the smallest offsets.
    patches = pairs.flip(1, 2).permute(0, 3, 4, 1, 2).reshape(heads, height * width, down * across)
    size = height + step * (down - 1), width + step * (across - 1)
    total = F.fold(patches, size, (height, width), stride=step)[:, 0]
    above, left = rows.block - 1 - step * (down - 1), columns.block - 1 - step * (across - 1)
    below = 2 * rows.reach + 1 - size[0] - above
    right = 2 * columns.reach + 1 - size[1] - left
    return F.pad(total, (left, right, above, below))


def start(kernel: Any, grid: tuple[int, ...], tiles: Tiles, *arguments: Any) -> None:
    """Runs a kernel on the device its tensors are on."""
    device = arguments[0].pointer.device
    with nullcontext() if INTERPRETED else torch.cuda.device(device):
        kernel[grid](*arguments, num_warps=tiles.num_warps, num_stages=tiles.num_stages, enable_fp_fusion=True)


def tiles_of(call: Call, kernel: str) -> Tiles:
    """The tiles of a kernel for a call: those that tuning found for calls of its kind, or those of the table."""
    return TUNED.get(kind_of(call, kernel)) or tiles_for(call, kernel, capability(call.query.device))


def kind_of(call: Call, kernel: str) -> Kind:
    """What tiles may depend on. Calls that differ in batch, heads or the size of the map are of one kind."""
    axes = call.geometry.rows, call.geometry.columns
    shape = tuple((axis.block, axis.halo, axis.stride, axis.window) for axis in axes)
    options = call.relative is not None, call.bias is not None, call.extra_key is not None
    widths = call.query.shape[4], call.value.shape[4]
    return kernel, call.query.device, call.query.dtype, widths, shape, options


def _plan(call: Call, kernel: str) -> tuple[Tiles, Plan]:
    tiles = tiles_of(call, kernel)
    half = call.query.dtype in (torch.bfloat16, torch.float16)
    precision = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
    working = tl.float64 if call.query.dtype == torch.float64 else tl.float32
    split = half or (precision == "tf32" and working == tl.float32)
    return tiles, make_plan(
        call, tiles, kernel, Numerics(precision, split, INTERPRETED and half, kept(call.query.dtype), working)
    )


def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability of the device; interpreted kernels are those of the newest."""
    return (9, 0) if INTERPRETED else torch.cuda.get_device_capability(device)


def processors(device: torch.device) -> int:
    """Multiprocessors of the device."""
    return 1 if INTERPRETED else torch.cuda.get_device_properties(device).multi_processor_count


@lru_cache(maxsize=1024)
def _constants(plan: Plan) -> Plan:
    return Plan(*map(tl.constexpr, plan))


def _programs(call: Call, bytes_each: int) -> int:
    """How many programs add up parts of their own: a few for each multiprocessor, if memory allows."""
    return max(1, min(4 * processors(call.query.device), SLOT_BYTES // bytes_each))


def _items(call: Call, plan: Plan) -> int:
    """Tiles of queries of all maps and heads."""
    rows, columns = call.geometry.rows, call.geometry.columns
    return call.query.shape[0] * call.query.shape[3] * rows.num_blocks * columns.num_blocks * plan.query_tiles


def _sizes(call: Call) -> Sizes:
    rows, columns = call.geometry.rows, call.geometry.columns
    extra = 0 if call.extra_key is None else call.extra_key.shape[1]
    blocks = rows.num_blocks, columns.num_blocks
    return Sizes(rows.size, columns.size, rows.queries, columns.queries, *blocks, call.query.shape[3], extra)


def _scales(call: Call) -> Scales:
    scales = call.scale * LOG2E, call.relative_scale * LOG2E, call.scale, call.relative_scale
    # Numbers reach a kernel in single precision.
    return Scales(*map(tl.constexpr, scales)) if call.query.dtype == torch.float64 else Scales(*scales)


def _stacked_tables(call: Call) -> Tensor | None:
    """Both position tables, one below the other."""
    return None if call.relative is None else torch.cat(call.relative)


def _maps(*maps: Tensor | None) -> tuple[Map | None, ...]:
    return tuple(None if map_ is None else _map(_adjacent(map_)) for map_ in maps)


def _map(map_: Tensor) -> Map:
    """Extra keys (B, G, N, D) are a map whose rows and columns are both their number."""
    batch, *within, head = map_.stride()[:-1]
    row, column = within if map_.ndim == 5 else (0, *within)
    vector = math.gcd(16 // map_.element_size(), batch, row, column, head)
    return Map(map_, batch, row, column, head, tl.constexpr(vector))


def _adjacent(map_: Tensor) -> Tensor:
    return map_ if map_.stride(-1) == 1 or map_.shape[-1] == 1 else map_.contiguous()


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()
