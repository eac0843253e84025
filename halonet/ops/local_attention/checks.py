"""Validation of `local_attention`'s arguments: one place, one message a fault, each naming its argument."""

from __future__ import annotations

import torch
from torch import Tensor

from halonet.ops.local_attention.backends import BACKENDS
from halonet.ops.local_attention.geometry import Axis, Geometry

BORDERS = ("zeros", "mask", "circular")


def pair(name: str, value: object, *, minimum: int) -> tuple[int, int]:
    """An int or a pair of ints, each at least `minimum`, as a (height, width) pair."""
    both = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(both) != 2 or not all(_is_int(v) and v >= minimum for v in both):
        raise ValueError(f"{name} must be an int or a pair of ints of at least {minimum}, got {value!r}")
    return both[0], both[1]


def check_maps(query: Tensor, key: Tensor, value: Tensor) -> None:
    """Ranks, dtypes, devices and the sizes that query, key and value share."""
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} must be a tensor, got {type(tensor).__name__}")
        if tensor.ndim != 5:
            raise ValueError(f"{name} must have shape (batch, height, width, heads, channels), got {_shape(tensor)}")
        if not tensor.dtype.is_floating_point:
            raise ValueError(f"{name} must be a floating point tensor, got {tensor.dtype}")
        if any(size == 0 for size in tensor.shape):
            raise ValueError(f"{name} must not be empty, got shape {_shape(tensor)}")
    for name, tensor in (("key", key), ("value", value)):
        _same("dtype", name, tensor.dtype, "query", query.dtype)
        _same("device", name, tensor.device, "query", query.device)
        for what, dim in (("batch size", 0), ("number of heads", 3)):
            _same(what, name, tensor.shape[dim], "query", query.shape[dim])
    _same("map size", "value", _shape(value)[1:3], "key", _shape(key)[1:3])
    _same("number of channels", "key", key.shape[4], "query", query.shape[4])


def check_geometry(
    query: Tensor,
    key: Tensor,
    block_size: int | tuple[int, int],
    halo_size: int | tuple[int, int],
    stride: int,
    relative_stride: int | None,
    border: str,
    window: int | None,
    dilation: int,
    neighbors: int | None,
) -> Geometry:
    """The geometry of the call, from arguments that fit each other and the maps."""
    block = pair("block_size", block_size, minimum=1)
    halo = pair("halo_size", halo_size, minimum=0)
    if not _is_int(stride) or stride < 1:
        raise ValueError(f"stride must be a positive int, got {stride!r}")
    if any(side % stride for side in block):
        raise ValueError(f"block_size must be a multiple of stride={stride}, got {block_size!r}")
    if relative_stride is None:
        relative_stride = stride
    if not _is_int(relative_stride) or not 1 <= relative_stride <= stride:
        raise ValueError(f"relative_stride must be an int from 1 to stride={stride}, got {relative_stride!r}")
    if border not in BORDERS:
        raise ValueError(f"border must be one of {', '.join(BORDERS)}, got {border!r}")
    if window is not None and (not _is_int(window) or window < 1 or window % 2 == 0):
        raise ValueError(f"window must be an odd positive int or None, got {window!r}")
    if not _is_int(dilation) or dilation < 1:
        raise ValueError(f"dilation must be a positive int, got {dilation!r}")
    if neighbors is not None and (not _is_int(neighbors) or not 1 <= neighbors <= 8):
        raise ValueError(f"neighbors must be an int from 1 to 8 or None, got {neighbors!r}")
    if window is not None and neighbors is not None:
        raise ValueError(f"window and neighbors exclude each other, got window={window} and neighbors={neighbors}")
    axes = [
        Axis(key.shape[1 + axis], block[axis], halo[axis], stride, relative_stride, border, window, dilation)
        for axis in range(2)
    ]
    expected = (axes[0].queries, axes[1].queries)
    if (query.shape[1], query.shape[2]) != expected:
        raise ValueError(
            f"query must have map size {expected} for a key map of {_shape(key)[1:3]} and stride={stride}, "
            f"got {_shape(query)[1:3]}"
        )
    return Geometry(axes[0], axes[1], neighbors)


def check_tables(
    query: Tensor, geometry: Geometry, relative: tuple[Tensor, Tensor] | None, bias: Tensor | None
) -> None:
    """Position tables and static bias against the offsets that can occur."""
    reach = {"height": geometry.rows.reach, "width": geometry.columns.reach}
    if relative is not None:
        if not isinstance(relative, (tuple, list)) or len(relative) != 2:
            raise ValueError(f"relative must be a pair (height_table, width_table), got {_described(relative)}")
        for table, (axis, length) in zip(relative, reach.items(), strict=True):
            _check_float_tensor(f"relative ({axis} table)", table, (2 * length + 1, query.shape[4]), query)
    if bias is not None:
        shape = (query.shape[3], 2 * reach["height"] + 1, 2 * reach["width"] + 1)
        _check_float_tensor("bias", bias, shape, query)


def check_extra(
    query: Tensor,
    value: Tensor,
    extra_key: Tensor | None,
    extra_value: Tensor | None,
    extra_bias: Tensor | None,
) -> None:
    """Extra keys, their values and their bias against each other and the maps."""
    if (extra_key is None) != (extra_value is None):
        given, missing = ("extra_key", "extra_value") if extra_value is None else ("extra_value", "extra_key")
        raise ValueError(f"{missing} must be given with {given}")
    if extra_key is None or extra_value is None:
        if extra_bias is not None:
            raise ValueError("extra_bias needs extra_key and extra_value")
        return
    batch, heads = query.shape[0], query.shape[3]
    count = extra_key.shape[1] if isinstance(extra_key, Tensor) and extra_key.ndim == 4 else 1
    for name, tensor, channels in (
        ("extra_key", extra_key, query.shape[4]),
        ("extra_value", extra_value, value.shape[4]),
    ):
        _check_float_tensor(name, tensor, (batch, count, heads, channels), query)
        _same("dtype", name, tensor.dtype, "query", query.dtype)
    if extra_bias is not None:
        _check_float_tensor("extra_bias", extra_bias, (heads, count), query)


def check_scale(scale: float | None, scale_relative: bool, backend: str) -> None:
    """The remaining plain arguments."""
    if scale is not None and (isinstance(scale, bool) or not isinstance(scale, (int, float))):
        raise ValueError(f"scale must be a number or None, got {scale!r}")
    if not isinstance(scale_relative, bool):
        raise ValueError(f"scale_relative must be True or False, got {scale_relative!r}")
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"backend must be one of auto, {', '.join(BACKENDS)}, got {backend!r}")


def _check_float_tensor(name: str, tensor: Tensor, shape: tuple[int, ...], query: Tensor) -> None:
    if not isinstance(tensor, Tensor) or not tensor.dtype.is_floating_point:
        got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(f"{name} must be a floating point tensor, got {got}")
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {_shape(tensor)}")
    _same("device", name, tensor.device, "query", query.device)


def _same(what: str, name: str, got: object, other: str, expected: object) -> None:
    if got != expected:
        raise ValueError(f"{name} must have the {what} of {other}, {expected}, got {got}")


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _is_int(value: object) -> bool:
    return isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool)


def _described(value: object) -> str:
    return f"{len(value)} entries" if isinstance(value, (tuple, list)) else type(value).__name__
