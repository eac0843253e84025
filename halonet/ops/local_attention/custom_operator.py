"""Kernels with a gradient of their own as torch operators.

Operators, so that torch.compile sees one node, and autograd the kernels' formula instead of a tape of what they do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from halonet.ops.local_attention.call import Call
from halonet.ops.local_attention.geometry import Axis, Geometry

HIDDEN = -1e30  # logit of a hidden key: exp() of it is 0, and a few of them add up without overflow

# (call, for_backward) -> output, in any dtype, and what the softmax was normalized with, which the backward pass needs:
# (B, Hq, Wq, N, kept) in the working dtype, with no channel unless for_backward.
Forward = Callable[[Call, bool], tuple[Tensor, Tensor]]
# (grad, output, norm, call) -> gradients of `_tensors` in any dtype; for one the call has not, None or anything.
Backward = Callable[[Tensor, Tensor, Tensor, Call], tuple[Tensor | None, ...]]

_SCHEMA_TENSORS = (
    "Tensor query, Tensor key, Tensor value, Tensor? height_table, Tensor? width_table, Tensor? bias, "
    "Tensor? extra_key, Tensor? extra_value, Tensor? extra_bias"
)
_SCHEMA_REST = "SymInt[] numbers, str border, float scale, float relative_scale"


def define(
    name: str,
    forward: Forward,
    backward: Backward,
    *,
    kept: Callable[[torch.dtype], int],
    device_types: str | tuple[str, ...] = "cpu",
) -> Callable[[Call], Tensor]:
    """Makes operators halonet::<name> and halonet::<name>_backward of two functions; gives the way from a call in.

    kept: numbers a query that the forward pass keeps for the backward pass, for maps of a dtype.
    """
    options: dict[str, Any] = {"mutates_args": (), "device_types": device_types}

    def run_forward(*arguments: Any) -> tuple[Tensor, Tensor]:
        call = _call(arguments[:-1])
        with torch.autocast(call.query.device.type, enabled=False):
            output, norm = forward(call, arguments[-1])
        return output.to(call.query.dtype), norm

    def fake_forward(*arguments: Any) -> tuple[Tensor, Tensor]:
        query, value, for_backward = arguments[0], arguments[2], arguments[-1]
        output = query.new_empty((*query.shape[:4], value.shape[4]))
        numbers = kept(query.dtype) * for_backward
        return output, query.new_empty((*query.shape[:4], numbers), dtype=working_dtype(query.dtype))

    def run_backward(grad: Tensor, output: Tensor, norm: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        with torch.autocast(grad.device.type, enabled=False):
            gradients = backward(grad, output, norm, _call(arguments))
        query = arguments[0]
        return tuple(
            query.new_empty(0) if like is None or part is None else part.to(like.dtype).contiguous()
            for part, like in zip(gradients, arguments[:9], strict=True)
        )

    def fake_backward(grad: Tensor, output: Tensor, norm: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        return tuple(arguments[0].new_empty(0 if like is None else like.shape) for like in arguments[:9])

    schema = f"({_SCHEMA_TENSORS}, {_SCHEMA_REST}, bool for_backward) -> (Tensor, Tensor)"
    operator = torch.library.custom_op(f"halonet::{name}", run_forward, schema=schema, **options)
    operator.register_fake(fake_forward)
    schema = f"(Tensor grad, Tensor output, Tensor norm, {_SCHEMA_TENSORS}, {_SCHEMA_REST}) -> ("
    schema += ", ".join(["Tensor"] * 9) + ")"
    gradient_operator = torch.library.custom_op(f"halonet::{name}_backward", run_backward, schema=schema, **options)
    gradient_operator.register_fake(fake_backward)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.rest = inputs[9:-1]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs[:9], *output)

    def gradient(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, output, norm = ctx.saved_tensors
        gradients = gradient_operator(grad, output, norm, *inputs, *ctx.rest)
        nothing = (None, None, None, None, None)
        return *(None if like is None else g for g, like in zip(gradients, inputs, strict=True)), *nothing

    operator.register_autograd(gradient, setup_context=setup_context)

    def call_operator(call: Call) -> Tensor:
        tensors = _tensors(call)
        for_backward = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
        numbers, border = _geometry_numbers(call.geometry), call.geometry.rows.border
        return operator(*tensors, numbers, border, call.scale, call.relative_scale, for_backward)[0]

    return call_operator


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """What kernels add up in. Those of a CPU widen half precision before: plain CPUs multiply it no faster."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def _tensors(call: Call) -> tuple[Tensor | None, ...]:
    relative = (None, None) if call.relative is None else call.relative
    return call.query, call.key, call.value, *relative, call.bias, call.extra_key, call.extra_value, call.extra_bias


def _geometry_numbers(geometry: Geometry) -> list[int]:
    rows, columns = geometry.rows, geometry.columns
    window = -1 if rows.window is None else rows.window
    sides = [rows.block, columns.block, rows.halo, columns.halo]
    return [*sides, rows.stride, rows.relative_stride, window, geometry.neighbors or 0]


def _call(arguments: tuple[Any, ...]) -> Call:
    """The call again, from what an operator can be given."""
    query, key, value, height_table, width_table, *rest = arguments
    bias, extra_key, extra_value, extra_bias, numbers, border, scale, relative_scale = rest
    *sides, stride, relative_stride, window, neighbors = numbers
    axes = [
        Axis(
            size=key.shape[1 + axis],
            block=sides[axis],
            halo=sides[2 + axis],
            stride=stride,
            relative_stride=relative_stride,
            border=border,
            window=None if window < 0 else window,
        )
        for axis in range(2)
    ]
    return Call(
        query=query,
        key=key,
        value=value,
        geometry=Geometry(axes[0], axes[1], neighbors or None),
        relative=None if height_table is None else (height_table, width_table),
        bias=bias,
        extra_key=extra_key,
        extra_value=extra_value,
        extra_bias=extra_bias,
        scale=scale,
        relative_scale=relative_scale,
    )
