"""Local attention on a CPU by kernels that numba compiles for its processor, on the first call.

Needs numba (`pip install halonet[cpu]`), no compiler. The kernels are in `numba_forward` and `numba_backward`; here
they are made torch operators and given to threads. Shape letters as in `geometry`.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from halonet.ops.local_attention import cpu_operator
from halonet.ops.local_attention.call import Call
from halonet.ops.local_attention.geometry import Axis, Geometry

if TYPE_CHECKING:
    from halonet.ops.local_attention.numba_kernels import Map, Sizes, Tables

REACH_OF_TABLES = 16  # zeros after a table, for loads of whole registers


def refusal(call: Call) -> str | None:
    """Why this backend cannot take the call."""
    if call.query.device.type != "cpu":
        return f"its kernels run on a CPU, got tensors on {call.query.device}"
    if torch.compiler.is_exporting():
        return "an exported program is to run where halonet is not installed"
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed (pip install 'halonet[cpu]')"
    if call.bias is not None or call.extra_key is not None or call.geometry.neighbors is not None:
        return "it knows no bias, extra keys or neighbors"
    if call.geometry.rows.border == "circular":
        return "it knows no circular border"
    if not 1e-9 < abs(call.scale) < 1e9:
        return f"it divides position tables by the scale, got scale={call.scale:g}"
    return None


def run(call: Call) -> Tensor:
    """Local attention: (B, Hq, Wq, N, Dv)."""
    return _operator(call)


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tables: tuple[Tensor, Tensor] | None,
    geometry: Geometry,
    scale: float,
    relative_scale: float,
    for_backward: bool,
) -> tuple[Tensor, Tensor]:
    from halonet.ops.local_attention.numba_forward import forward

    dtype = cpu_operator.working_dtype(query)
    query, key, value = (_prepared(map_, dtype) for map_ in (query, key, value))
    output = query.new_empty((*query.shape[:4], value.shape[-1]))
    log_sum = query.new_empty((*query.shape[:4], int(for_backward)))
    sizes = _sizes(query, value, geometry, tables is not None)
    arrays = _tables(geometry, tables, relative_scale / scale, query)
    maps = [_map(map_) for map_ in (query, key, value, output)]
    flat = log_sum.flatten().numpy() if for_backward else np.empty(0, arrays.row_t.dtype)
    units = sizes.images * sizes.blocks[0] * sizes.blocks[1] * sizes.heads
    number = arrays.row_t.dtype.type(scale)
    _in_threads(units, lambda first, end: forward(*maps, flat, arrays, sizes, number, first, end))
    return output, log_sum


def _backward(
    grad: Tensor,
    output: Tensor,
    log_sum: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tables: tuple[Tensor, Tensor] | None,
    geometry: Geometry,
    scale: float,
    relative_scale: float,
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor] | None]:
    from halonet.ops.local_attention.numba_backward import Given, backward

    dtype = cpu_operator.working_dtype(query)
    query, key, value, grad = (_prepared(map_, dtype) for map_ in (query, key, value, grad))
    targets = (query.new_empty(query.shape), key.new_zeros(key.shape), value.new_zeros(value.shape))
    delta = (grad * output).sum(dim=-1).flatten()
    given = Given(_map(grad), delta.numpy(), log_sum.flatten().numpy())
    sizes = _sizes(query, value, geometry, tables is not None)
    arrays = _tables(geometry, tables, relative_scale / scale, query)
    slices = sizes.images * sizes.heads
    rows = _table_rows(geometry, tables, relative_scale / scale, query)
    gradients = torch.zeros(slices, *rows.shape, dtype=dtype)
    maps = tuple(_map(map_) for map_ in (query, key, value))
    to = tuple(_map(map_) for map_ in targets)
    number = arrays.row_t.dtype.type(scale)
    flat_rows, flat_gradients = rows.flatten().numpy(), gradients.flatten().numpy()
    _in_threads(
        slices,
        lambda first, end: backward(given, maps, to, flat_rows, flat_gradients, arrays, sizes, number, first, end),
    )
    if tables is None:
        return (*targets, None)
    total = gradients.sum(dim=0)[:, : query.shape[-1]] * (relative_scale / scale)
    row, column = total.split([table.shape[0] for table in tables])
    return (*targets, (row.clone(), column.clone()))


_operator: Callable[[Call], Tensor] = cpu_operator.define("local_attention_numba", _forward, _backward)


def _prepared(map_: Tensor, dtype: torch.dtype) -> Tensor:
    """The map as the kernels read it: in the working dtype, channels adjacent."""
    map_ = map_.detach().to(dtype)
    return map_ if map_.stride(-1) == 1 or map_.shape[-1] == 1 else map_.contiguous()


def _map(map_: Tensor) -> Map:
    from halonet.ops.local_attention.numba_kernels import Map

    return Map(map_.data_ptr(), *map_.stride()[:4])


def _sizes(query: Tensor, value: Tensor, geometry: Geometry, has_tables: bool) -> Sizes:
    from halonet.ops.local_attention.numba_kernels import Sizes

    rows, columns = geometry.rows, geometry.columns
    takes_part = rows.border == "zeros"
    beyond = any(axis.halo > 0 or axis.size != axis.extended for axis in (rows, columns))
    return Sizes(
        images=query.shape[0],
        height=rows.size,
        width=columns.size,
        heads=query.shape[3],
        query_height=rows.queries,
        query_width=columns.queries,
        channels=query.shape[4],
        value_channels=value.shape[4],
        blocks=(rows.num_blocks, columns.num_blocks),
        block=(rows.block, columns.block),
        halo=(rows.halo, columns.halo),
        queries=(rows.queries_per_block, columns.queries_per_block),
        relative_stride=rows.relative_stride,
        has_position=has_tables or rows.window is not None or (takes_part and beyond),
        border_takes_part=takes_part,
    )


def _tables(geometry: Geometry, tables: tuple[Tensor, Tensor] | None, scale: float, query: Tensor) -> Tables:
    from halonet.ops.local_attention.numba_kernels import Tables

    parts: list[Any] = []
    for number, axis in enumerate((geometry.rows, geometry.columns)):
        table_t = query.new_zeros(query.shape[-1], 2 * axis.reach + 1 + REACH_OF_TABLES)
        if tables is not None:
            table_t[:, : 2 * axis.reach + 1] = tables[number].t()
            table_t *= scale
        parts += [table_t.flatten().numpy(), table_t.shape[1]]
    hidden = (_hidden(axis, query.dtype) for axis in (geometry.rows, geometry.columns))
    return Tables(*parts, *hidden)


@lru_cache(maxsize=256)
def _hidden(axis: Axis, dtype: torch.dtype) -> np.ndarray[Any, Any]:
    """What is added to the position logits of an axis: (i, y), y filled up to whole registers, flat."""
    from halonet.ops.local_attention.numba_kernels import HIDDEN, padded

    hidden = torch.zeros(axis.queries_per_block, padded.py_func(axis.neighborhood), dtype=dtype)
    hidden[:, : axis.neighborhood].masked_fill_(~axis.in_window(torch.device("cpu")), HIDDEN)
    return hidden.flatten().numpy()


def _table_rows(geometry: Geometry, tables: tuple[Tensor, Tensor] | None, scale: float, query: Tensor) -> Tensor:
    """Both tables, one below the other, rows filled up to whole registers."""
    from halonet.ops.local_attention.numba_kernels import padded

    lengths = [2 * axis.reach + 1 for axis in (geometry.rows, geometry.columns)]
    rows = query.new_zeros(sum(lengths), padded.py_func(query.shape[-1]))
    if tables is not None:
        torch.cat([table.to(query.dtype) for table in tables], out=rows[:, : query.shape[-1]])
        rows *= scale
    return rows


_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def _in_threads(count: int, work: Callable[[int, int], None]) -> None:
    """work(first, end) for even shares of 0 .. count, in as many threads as torch uses. The shares do not overlap."""
    threads = max(1, min(torch.get_num_threads(), count))
    bounds = [count * number // threads for number in range(threads + 1)]
    shares = list(pairwise(bounds))
    if threads == 1:
        work(0, count)
        return
    kind = (os.getpid(), threads)  # threads do not survive a fork
    if kind not in _pools:
        _pools[kind] = ThreadPoolExecutor(threads - 1, thread_name_prefix="halonet")
    waiting = [_pools[kind].submit(work, *share) for share in shares[1:]]
    work(*shares[0])
    for other in waiting:
        other.result()
