"""The tiled CPU kernels of `clipped` as torch operators, with their gradient.

Operators, so that torch.compile sees one node, and autograd the formula below instead of a tape of tiles.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from halonet.ops.local_attention.call import Call
from halonet.ops.local_attention.clipped import Tile, axis_padding, axis_runs
from halonet.ops.local_attention.folded_position import FoldedPosition
from halonet.ops.local_attention.geometry import Axis, Geometry
from halonet.ops.local_attention.tile_loop import Buffers, TileLoop, working_dtype


def takes(call: Call) -> bool:
    """Whether the tiled kernels cover the call: no wrapping, and logits that are content plus row plus column."""
    if torch.compiler.is_exporting():
        return False  # an exported program is to run where halonet is not installed
    plain = call.bias is None and call.extra_key is None and call.geometry.neighbors is None
    # The folded queries are scaled and the position tables divided by the scale.
    plain = plain and 1e-9 < abs(call.scale) < 1e9
    return plain and call.query.device.type == "cpu" and call.geometry.rows.border != "circular"


def run(call: Call) -> Tensor:
    """Local attention by tiles: (B, Hq, Wq, N, Dv)."""
    height_table, width_table = (None, None) if call.relative is None else call.relative
    tensors = (call.query, call.key, call.value, height_table, width_table)
    for_backward = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    output, _ = torch.ops.halonet.local_attention_cpu(
        call.query,
        call.key,
        call.value,
        height_table,
        width_table,
        _geometry_numbers(call.geometry),
        call.geometry.rows.border,
        call.scale,
        call.relative_scale,
        for_backward,
    )
    return output


@torch.library.custom_op("halonet::local_attention_cpu", mutates_args=(), device_types="cpu")
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    height_table: Tensor | None,
    width_table: Tensor | None,
    numbers: list[int],
    border: str,
    scale: float,
    relative_scale: float,
    for_backward: bool,
) -> tuple[Tensor, Tensor]:
    """Output and, for the backward pass, the log-sum-exp of every query."""
    geometry = _geometry(key, numbers, border)
    maps = (geometry.split_queries(query), _padded(key, geometry), _padded(value, geometry))
    output = _empty_blocks(geometry, value, value.shape[-1], value.dtype)
    log_sum = _empty_blocks(geometry, value, int(for_backward), working_dtype(query))
    buffers: dict[tuple[int, ...], Buffers] = {}
    with torch.autocast("cpu", enabled=False):
        position = _position(geometry, query, height_table, width_table, relative_scale / scale, gradients=False)
        for runs in product(axis_runs(geometry.rows), axis_runs(geometry.columns)):
            loop = TileLoop(maps, geometry, runs, position, scale=scale, shifted=False, buffers=buffers)
            for tile, steps in loop.steps():
                keys, values = loop.load_keys(tile)
                for rows in steps:
                    exponentials, largest = loop.exponentials(loop.load_queries(tile, rows).folded, keys)
                    sums = exponentials.sum(dim=-1, keepdim=True)
                    target = loop.take_queries(output, tile, rows)
                    result = torch.bmm(exponentials, values).view(target.shape)
                    torch.div(result, sums.view(*target.shape[:-1], 1), out=target)
                    if for_backward:
                        target = loop.take_queries(log_sum, tile, rows)
                        torch.add(largest.view(target.shape), sums.log_().view(target.shape), out=target)
    return geometry.merge_queries(output).contiguous(), geometry.merge_queries(log_sum).contiguous()


@_forward.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    height_table: Tensor | None,
    width_table: Tensor | None,
    numbers: list[int],
    border: str,
    scale: float,
    relative_scale: float,
    for_backward: bool,
) -> tuple[Tensor, Tensor]:
    output = query.new_empty((*query.shape[:4], value.shape[4]))
    return output, query.new_empty((*query.shape[:4], int(for_backward)), dtype=working_dtype(query))


@torch.library.custom_op("halonet::local_attention_cpu_backward", mutates_args=(), device_types="cpu")
def _backward(
    grad: Tensor,
    output: Tensor,
    log_sum: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    height_table: Tensor | None,
    width_table: Tensor | None,
    numbers: list[int],
    border: str,
    scale: float,
    relative_scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    geometry = _geometry(key, numbers, border)
    with torch.autocast("cpu", enabled=False):
        position = _position(geometry, query, height_table, width_table, relative_scale / scale, gradients=True)
        gradients = _Gradients(grad, output, log_sum, (query, key, value), geometry, position, scale)
        gradients.run()
    grad_query = geometry.merge_queries(gradients.query).contiguous()
    grad_key, grad_value = (_unpadded(map_, geometry) for map_ in (gradients.key, gradients.value))
    maps = grad_query.to(query.dtype), grad_key.to(key.dtype), grad_value.to(value.dtype)
    if position is None or height_table is None or width_table is None:
        return (*maps, query.new_empty(0), query.new_empty(0))
    tables = position.row_gradient, position.column_gradient
    row, column = (total.mul_(relative_scale / scale) for total in tables)
    return (*maps, row.to(height_table.dtype), column.to(width_table.dtype))


@_backward.register_fake
def _(
    grad: Tensor,
    output: Tensor,
    log_sum: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    height_table: Tensor | None,
    width_table: Tensor | None,
    *_: object,
) -> tuple[Tensor, ...]:
    tables = [query.new_empty(0) if t is None else t.new_empty(t.shape) for t in (height_table, width_table)]
    return (*(t.new_empty(t.shape) for t in (query, key, value)), *tables)


class _Gradients:
    """Gradients of all inputs, gathered tile by tile.

    With P the weights, O the output: dV = P^T dO, dS = P * (dO V^T - sum(dO * O)), dQ = dS K, dK = dS^T Q, where Q
    and K are the folded ones; the folded parts of dQ then go to the position tables.
    """

    def __init__(
        self,
        grad: Tensor,
        output: Tensor,
        log_sum: Tensor,
        maps: tuple[Tensor, Tensor, Tensor],
        geometry: Geometry,
        position: FoldedPosition | None,
        scale: float,
    ) -> None:
        query, key, value = maps
        self.geometry, self.position, self.scale = geometry, position, scale
        self.maps = (geometry.split_queries(query), _padded(key, geometry), _padded(value, geometry))
        dtype = working_dtype(query)
        grad = grad.to(dtype).contiguous()
        self.grad = geometry.split_queries(grad)
        self.delta = geometry.split_queries((grad * output).sum(dim=-1, keepdim=True))
        self.log_sum = geometry.split_queries(log_sum)
        self.query = _empty_blocks(geometry, query, query.shape[-1], dtype)
        self.key, self.value = (torch.zeros(map_.shape, dtype=dtype) for map_ in self.maps[1:])

    def run(self) -> None:
        buffers: dict[tuple[int, ...], Buffers] = {}
        for runs in product(axis_runs(self.geometry.rows), axis_runs(self.geometry.columns)):
            loop = TileLoop(
                self.maps, self.geometry, runs, self.position, scale=self.scale, shifted=True, buffers=buffers
            )
            grad_scores = torch.empty_like(loop.buffers.scores)
            for tile, steps in loop.steps():
                self._add_tile(loop, tile, steps, grad_scores)
        if self.position is not None:
            self.position.collect()

    def _add_tile(self, loop: TileLoop, tile: Tile, steps: list[slice], grad_scores: Tensor) -> None:
        keys, values = loop.load_keys(tile)
        grad_keys = grad_values = keys.new_empty(0)
        for rows in steps:
            queries = loop.load_queries(tile, rows, self.log_sum)
            weights = loop.scores(queries.folded, keys).exp_()
            grad = loop.take_queries(self.grad, tile, rows).reshape(*weights.shape[:2], -1)
            scores = grad_scores[: weights.numel()].view(weights.shape)
            delta = loop.take_queries(self.delta, tile, rows).reshape(*weights.shape[:2], 1)
            torch.bmm(grad, values.transpose(1, 2), out=scores).sub_(delta).mul_(weights)
            grad_values = _accumulate(grad_values, weights.transpose(1, 2), grad, rows)
            grad_keys = _accumulate(grad_keys, scores.transpose(1, 2), queries.content.transpose(0, 1), rows)
            target = loop.take_positions(self.query, tile, rows)
            target.copy_(queries.gradient(torch.bmm(scores, keys)))
        _add_windows(loop, tile, self.key, grad_keys)
        _add_windows(loop, tile, self.value, grad_values)


def _accumulate(total: Tensor, left: Tensor, right: Tensor, rows: slice) -> Tensor:
    """total + left @ right; the first query rows of a block start the total."""
    return torch.bmm(left, right) if rows.start == 0 else total.baddbmm_(left, right)


def _add_windows(loop: TileLoop, tile: Tile, total: Tensor, part: Tensor) -> None:
    """Adds (u, K, D) of a tile's keys to a map; blocks whose neighbourhoods overlap take turns."""
    target, source = loop.windows(total, tile), loop.as_windows(part, tile)
    turns = (
        min(count, -(-length // run.step) if run.step else count)
        for count, length, run in zip(tile.counts[1:], (loop.height, loop.width), loop.runs, strict=True)
    )
    down, across = turns
    for row, column in product(range(down), range(across)):
        target[:, row::down, column::across] += source[:, row::down, column::across]


def _setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    query, key, value, height_table, width_table, *ctx.rest, _ = inputs  # type: ignore[attr-defined]
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(query, key, value, height_table, width_table, *output)


def _gradient(ctx: torch.autograd.function.FunctionCtx, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, output, log_sum = ctx.saved_tensors  # type: ignore[attr-defined]
    query, key, value, row, column = torch.ops.halonet.local_attention_cpu_backward(
        grad,
        output,
        log_sum,
        *inputs,
        *ctx.rest,  # type: ignore[attr-defined]
    )
    tables = (None, None) if inputs[3] is None else (row, column)
    return query, key, value, *tables, None, None, None, None, None


_forward.register_autograd(_gradient, setup_context=_setup_context)


def _geometry_numbers(geometry: Geometry) -> list[int]:
    rows, columns = geometry.rows, geometry.columns
    window = -1 if rows.window is None else rows.window
    return [rows.block, columns.block, rows.halo, columns.halo, rows.stride, rows.relative_stride, window]


def _geometry(key: Tensor, numbers: list[int], border: str) -> Geometry:
    """The geometry again, from what an operator can be given."""
    *blocks_and_halos, stride, relative_stride, window = numbers
    axes = [
        Axis(
            key.shape[1 + axis],
            blocks_and_halos[axis],
            blocks_and_halos[2 + axis],
            stride,
            relative_stride,
            border,
            None if window < 0 else window,
        )
        for axis in range(2)
    ]
    return Geometry(axes[0], axes[1], None)


def _padded(map_: Tensor, geometry: Geometry) -> Tensor:
    """A map with zeros along the axes that are not clipped."""
    padding = (0, 0, 0, 0, *axis_padding(geometry.columns), *axis_padding(geometry.rows))
    return F.pad(map_, padding) if any(padding) else map_


def _unpadded(map_: Tensor, geometry: Geometry) -> Tensor:
    """The map itself out of a padded one, contiguous."""
    above, left = axis_padding(geometry.rows)[0], axis_padding(geometry.columns)[0]
    return map_[:, above : above + geometry.rows.size, left : left + geometry.columns.size].contiguous()


def _empty_blocks(geometry: Geometry, like: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """(B, I, J, i, j, N, channels), laid out as the map it will be."""
    rows, columns = geometry.rows, geometry.columns
    sides = (rows.num_blocks, rows.queries_per_block, columns.num_blocks, columns.queries_per_block)
    return torch.empty((like.shape[0], *sides, like.shape[3], channels), dtype=dtype).transpose(2, 3)


def _position(
    geometry: Geometry, query: Tensor, height: Tensor | None, width: Tensor | None, scale: float, *, gradients: bool
) -> FoldedPosition | None:
    """The position channels of a call with these tables, scaled; None where there are none."""
    axes = (geometry.rows, geometry.columns)
    clipped = any(run.length < axis.neighborhood for axis in axes for run in axis_runs(axis))
    virtual = clipped and geometry.rows.border == "zeros"
    if height is None and geometry.rows.window is None and not virtual:
        return None
    dtype, channels = working_dtype(query), query.shape[-1]
    tables = [
        torch.zeros(2 * axis.reach + 1, channels, dtype=dtype) if table is None else table.to(dtype) * scale
        for axis, table in zip(axes, (height, width), strict=True)
    ]
    return FoldedPosition(geometry, tables, gradients=gradients)
