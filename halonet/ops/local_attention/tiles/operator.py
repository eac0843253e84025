"""Local attention on a CPU by tiles that fit its cache, in torch's own operations, with their gradient."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from halonet.ops.local_attention import custom_operator
from halonet.ops.local_attention.call import Call
from halonet.ops.local_attention.custom_operator import working_dtype
from halonet.ops.local_attention.geometry import Geometry
from halonet.ops.local_attention.tiles.clipped import Tile, axis_padding, axis_runs
from halonet.ops.local_attention.tiles.folded_position import FoldedPosition
from halonet.ops.local_attention.tiles.tile_loop import Buffers, TileLoop


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
    return _operator(call)


def _forward(call: Call, for_backward: bool) -> tuple[Tensor, Tensor]:
    query, key, value, geometry = call.query, call.key, call.value, call.geometry
    maps = (geometry.split_queries(query), _padded(key, geometry), _padded(value, geometry))
    output = _empty_blocks(geometry, value, value.shape[-1], value.dtype)
    log_sum = _empty_blocks(geometry, value, int(for_backward), working_dtype(query.dtype))
    buffers: dict[tuple[int, ...], Buffers] = {}
    position = _position(call, gradients=False)
    for runs in product(axis_runs(geometry.rows), axis_runs(geometry.columns)):
        loop = TileLoop(maps, geometry, runs, position, scale=call.scale, shifted=False, buffers=buffers)
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


def _backward(grad: Tensor, output: Tensor, log_sum: Tensor, call: Call) -> tuple[Tensor | None, ...]:
    position = _position(call, gradients=True)
    gradients = _Gradients(grad, output, log_sum, call, position)
    gradients.run()
    query = call.geometry.merge_queries(gradients.query)
    key, value = (_unpadded(map_, call.geometry) for map_ in (gradients.key, gradients.value))
    tables: tuple[Tensor | None, Tensor | None] = (None, None)
    if position is not None:
        scale = call.relative_scale / call.scale
        tables = position.row_gradient.mul_(scale), position.column_gradient.mul_(scale)
    return query, key, value, *tables, None, None, None, None


_operator: Callable[[Call], Tensor] = custom_operator.define(
    "local_attention_tiles", _forward, _backward, kept=lambda dtype: 1
)


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
        call: Call,
        position: FoldedPosition | None,
    ) -> None:
        query, key, value, geometry = call.query, call.key, call.value, call.geometry
        self.geometry, self.position, self.scale = geometry, position, call.scale
        self.maps = (geometry.split_queries(query), _padded(key, geometry), _padded(value, geometry))
        dtype = working_dtype(query.dtype)
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


def _position(call: Call, *, gradients: bool) -> FoldedPosition | None:
    """The position channels of a call, its tables divided by the scale of queries; None where it needs none."""
    geometry, tables = call.geometry, call.relative or (None, None)
    axes = (geometry.rows, geometry.columns)
    clipped = any(run.length < axis.neighborhood for axis in axes for run in axis_runs(axis))
    virtual = clipped and geometry.rows.border == "zeros"
    if call.relative is None and geometry.rows.window is None and not virtual:
        return None
    dtype, channels = working_dtype(call.query.dtype), call.query.shape[-1]
    scaled = [
        torch.zeros(2 * axis.reach + 1, channels, dtype=dtype)
        if table is None
        else table.to(dtype) * (call.relative_scale / call.scale)
        for axis, table in zip(axes, tables, strict=True)
    ]
    return FoldedPosition(geometry, scaled, gradients=gradients)
