"""CPU kernels with a gradient of their own as torch operators.

Operators, so that torch.compile sees one node, and autograd the kernels' formula instead of a tape of what they do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from halonet.ops.local_attention.call import Call
from halonet.ops.local_attention.geometry import Axis, Geometry

Pair = tuple[Tensor, Tensor]
# (query, key, value, tables, geometry, scale, relative_scale, for_backward) -> output, and the log-sum-exp of every
# query, (B, Hq, Wq, N, 1) in the working dtype, with no channel unless for_backward.
Forward = Callable[[Tensor, Tensor, Tensor, Pair | None, Geometry, float, float, bool], Pair]
# (grad, output, log_sum, query, key, value, tables, geometry, scale, relative_scale) -> gradients of query, key, value
# and tables, in any dtype.
Backward = Callable[..., tuple[Tensor, Tensor, Tensor, Pair | None]]


def define(name: str, forward: Forward, backward: Backward) -> Callable[[Call], Tensor]:
    """Makes operators halonet::<name> and halonet::<name>_backward of two functions; gives the way from a call in."""

    @torch.library.custom_op(f"halonet::{name}", mutates_args=(), device_types="cpu")
    def run_forward(
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
        geometry = _geometry(key, numbers, border)
        tables = None if height_table is None or width_table is None else (height_table, width_table)
        with torch.autocast("cpu", enabled=False):
            output, log_sum = forward(query, key, value, tables, geometry, scale, relative_scale, for_backward)
        return output.to(query.dtype), log_sum

    @run_forward.register_fake
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

    @torch.library.custom_op(f"halonet::{name}_backward", mutates_args=(), device_types="cpu")
    def run_backward(
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
        tables = None if height_table is None or width_table is None else (height_table, width_table)
        maps = (query, key, value)
        with torch.autocast("cpu", enabled=False):
            results = backward(grad, output, log_sum, *maps, tables, geometry, scale, relative_scale)
        *grad_maps, grad_tables = results
        pairs = list(zip(grad_maps, maps, strict=True))
        if tables is None or grad_tables is None:
            nothing = (query.new_empty(0), query.new_empty(0))
        else:
            nothing = ()
            pairs += zip(grad_tables, tables, strict=True)
        q, k, v, *rest = (part.to(like.dtype).contiguous() for part, like in pairs)
        height, width = (*rest, *nothing)
        return q, k, v, height, width

    @run_backward.register_fake
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

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Pair) -> None:
        *tensors, numbers, border, scale, relative_scale, _ = inputs
        ctx.rest = (numbers, border, scale, relative_scale)
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*tensors, *output)

    def gradient(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, output, log_sum = ctx.saved_tensors
        operator = getattr(torch.ops.halonet, f"{name}_backward")
        query, key, value, row, column = operator(grad, output, log_sum, *inputs, *ctx.rest)
        tables = (None, None) if inputs[3] is None else (row, column)
        return query, key, value, *tables, None, None, None, None, None

    run_forward.register_autograd(gradient, setup_context=setup_context)

    def call_operator(call: Call) -> Tensor:
        tensors = (call.query, call.key, call.value, *(call.relative or (None, None)))
        for_backward = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
        numbers, border = _geometry_numbers(call.geometry), call.geometry.rows.border
        operator = getattr(torch.ops.halonet, name)
        output, _ = operator(*tensors, numbers, border, call.scale, call.relative_scale, for_backward)
        return output

    return call_operator


def working_dtype(query: Tensor) -> torch.dtype:
    """Half precision is widened in the kernels: plain CPUs multiply it no faster, and the sums keep their digits."""
    return torch.float32 if query.dtype in (torch.bfloat16, torch.float16) else query.dtype


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
