"""The tiled CPU kernels of `clipped` as torch operators, with their gradient.

Operators, so that torch.compile sees one node, and autograd the formula below instead of a tape of tiles.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from halonet.ops.local_attention.call import Call
from halonet.ops.local_attention.clipped import (
    Buffers,
    Position,
    Tile,
    TileLoop,
    axis_padding,
    axis_runs,
    working_dtype,
)
from halonet.ops.local_attention.geometry import Axis, Geometry


def takes(call: Call) -> bool:
    """Whether the tiled kernels cover the call: no wrapping, and logits that are content plus row plus column."""
    if torch.compiler.is_exporting():
        return False  # an exported program is to run where halonet is not installed
    plain = call.bias is None and call.extra_key is None and call.geometry.neighbors is None
    return plain and call.query.device.type == "cpu" and call.geometry.rows.border != "circular"


def run(call: Call) -> Tensor:
    """Local attention by tiles: (B, Hq, Wq, N, Dv)."""
    height_table, width_table = (None, None) if call.relative is None else call.relative
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
) -> tuple[Tensor, Tensor]:
    geometry = _geometry(key, numbers, border)
    maps = (geometry.split_queries(query), _padded(key, geometry), _padded(value, geometry))
    tables = _join_tables(query, height_table, width_table, relative_scale)
    output = _empty_blocks(geometry, value, value.shape[-1], value.dtype)
    log_sum = _empty_blocks(geometry, value, 1, working_dtype(query))
    buffers: dict[tuple[int, int, int], Buffers] = {}
    with torch.autocast("cpu", enabled=False):
        for runs in product(axis_runs(geometry.rows), axis_runs(geometry.columns)):
            loop = TileLoop(maps, geometry, runs, tables, scale, buffers)
            for tile in loop.tiles():
                keys, values = loop.load_keys(tile)
                for rows in loop.query_rows():
                    queries, _ = loop.load_queries(tile, rows)
                    exponentials, largest = loop.exponentials(queries, keys)
                    sums = exponentials.sum(dim=-1, keepdim=True)
                    result = torch.bmm(exponentials, values).div_(sums)
                    target = loop.take_queries(output, tile, rows)
                    target.copy_(result.view(target.shape))
                    target = loop.take_queries(log_sum, tile, rows)
                    target.copy_((largest + sums.log()).view(target.shape))
    return geometry.merge_queries(output).contiguous(), geometry.merge_queries(log_sum).contiguous()


@_forward.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    output = query.new_empty((*query.shape[:4], value.shape[4]))
    return output, query.new_empty((*query.shape[:4], 1), dtype=working_dtype(query))


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
    tables = _join_tables(query, height_table, width_table, relative_scale)
    with torch.autocast("cpu", enabled=False):
        gradients = _Gradients(grad, output, log_sum, (query, key, value), geometry, tables, scale)
        gradients.run()
    grad_query = geometry.merge_queries(gradients.query).contiguous()
    grad_key, grad_value = (_unpadded(map_, geometry) for map_ in (gradients.key.mul_(scale), gradients.value))
    maps = grad_query.to(query.dtype), grad_key.to(key.dtype), grad_value.to(value.dtype)
    if height_table is None or width_table is None:
        return (*maps, query.new_empty(0), query.new_empty(0))
    total = gradients.tables * relative_scale
    row, column = total.split([height_table.shape[0], width_table.shape[0]])
    return (*maps, row.to(height_table.dtype, copy=True), column.to(width_table.dtype, copy=True))


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
        joined: Tensor | None,
        scale: float,
    ) -> None:
        query, key, value = maps
        self.geometry, self.joined, self.scale = geometry, joined, scale
        self.maps = (geometry.split_queries(query), _padded(key, geometry), _padded(value, geometry))
        dtype = working_dtype(query)
        grad = grad.to(dtype).contiguous()
        self.grad = geometry.split_queries(grad)
        self.delta = geometry.split_queries((grad * output).sum(dim=-1, keepdim=True))
        self.log_sum = geometry.split_queries(log_sum)
        self.query = _empty_blocks(geometry, query, query.shape[-1], dtype)
        self.key, self.value = (torch.zeros(map_.shape, dtype=dtype) for map_ in self.maps[1:])
        self.tables = torch.zeros(0 if joined is None else joined.shape, dtype=dtype)

    def run(self) -> None:
        buffers: dict[tuple[int, int, int], Buffers] = {}
        for runs in product(axis_runs(self.geometry.rows), axis_runs(self.geometry.columns)):
            loop = TileLoop(self.maps, self.geometry, runs, self.joined, self.scale, buffers)
            grad_scores = torch.empty_like(loop.buffers.scores)
            for tile in loop.tiles():
                keys, values = loop.load_keys(tile)
                grad_keys = grad_values = keys.new_empty(0)
                for rows in loop.query_rows():
                    queries, position = loop.load_queries(tile, rows, self.log_sum)
                    weights = loop.weights(queries, keys)
                    grad = loop.take_queries(self.grad, tile, rows).reshape(*weights.shape[:2], -1)
                    scores = grad_scores[: weights.numel()].view(weights.shape)
                    delta = loop.take_queries(self.delta, tile, rows).reshape(*weights.shape[:2], 1)
                    torch.bmm(grad, values.transpose(1, 2), out=scores).sub_(delta).mul_(weights)
                    grad_values = _accumulate(grad_values, weights.transpose(1, 2), grad, rows)
                    grad_keys = _accumulate(grad_keys, scores.transpose(1, 2), position.query, rows)
                    self._add_query(loop, tile, rows, torch.bmm(scores, keys), position)
                _add_windows(loop, tile, self.key, grad_keys)
                _add_windows(loop, tile, self.value, grad_values)

    def _add_query(self, loop: TileLoop, tile: Tile, rows: slice, folded: Tensor, position: Position) -> None:
        """Gradient of a tile's queries and of the tables, from that of the folded queries."""
        target = loop.take_queries(self.query, tile, rows)
        content = folded[..., : loop.channels]
        if loop.tables is not None:
            logits = position.gradient(folded)
            content = (logits @ loop.tables).add_(content)
            self.tables += torch.bmm(logits.transpose(1, 2), position.query).sum(dim=0)
        target.copy_(content.unflatten(1, target.shape[4:6]).unflatten(0, target.shape[:4]))


def _accumulate(total: Tensor, left: Tensor, right: Tensor, rows: slice) -> Tensor:
    """total + left @ right; the first query rows of a block start the total."""
    return torch.bmm(left, right) if rows.start == 0 else total.baddbmm_(left, right)


def _add_windows(loop: TileLoop, tile: Tile, total: Tensor, part: Tensor) -> None:
    """Adds (u, K, D) of a tile's keys to a map; blocks whose neighbourhoods overlap take turns."""
    target, source = loop.windows(total, tile), loop.as_windows(part, tile)
    down = -(-loop.height // loop.geometry.rows.block)
    across = -(-loop.width // loop.geometry.columns.block)
    for row, column in product(range(down), range(across)):
        target[:, row::down, column::across] += source[:, row::down, column::across]


def _setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    query, key, value, height_table, width_table, *ctx.rest = inputs  # type: ignore[attr-defined]
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
    return query, key, value, *tables, None, None, None, None


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


def _join_tables(query: Tensor, height: Tensor | None, width: Tensor | None, relative_scale: float) -> Tensor | None:
    """Both tables, scaled, one below the other: (R, D)."""
    if height is None or width is None:
        return None
    return torch.cat([height, width]).to(working_dtype(query)) * relative_scale
