"""Local attention on a CPU by kernels that numba compiles for its processor, on the first call.

Needs numba (`pip install halonet[cpu]`), no compiler. The kernels are in `forward` and `backward`; here they are
made torch operators. Shape letters as in `geometry`.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from halonet.ops.local_attention import custom_operator
from halonet.ops.local_attention.call import NO_DILATION, Call
from halonet.ops.local_attention.custom_operator import HIDDEN
from halonet.ops.local_attention.geometry import Axis, Geometry
from halonet.ops.local_attention.numba_cpu.constants import CHUNK, LANES

Array = np.ndarray[Any, Any]
STRIP = 128  # queries at most of a block that `in_strips` makes, where a row has no more: measured on maps of 14 to 128
_LOCK = threading.Lock()  # not every threading layer of numba may be entered from two threads
_forked = False  # a flag, which torch.compile can read, where it cannot ask for the process


def _note_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def refusal(call: Call) -> str | None:
    """Why this backend cannot take the call: on a CPU it takes every one."""
    if call.query.device.type != "cpu":
        return f"its kernels run on a CPU, got tensors on {call.query.device}"
    if call.geometry.rows.dilation != 1:
        return NO_DILATION
    if torch.compiler.is_exporting():
        return "an exported program is to run where halonet is not installed"
    if _forked:
        return "it was loaded before this process was forked, and OpenMP does not survive that"
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed (pip install 'halonet[cpu]')"
    return None


def run(call: Call) -> Tensor:
    """Local attention: (B, Hq, Wq, N, Dv)."""
    return _operator(call)


def _forward(call: Call, for_backward: bool) -> tuple[Tensor, Tensor]:
    from halonet.ops.local_attention.numba_cpu.forward import forward

    given = _Given.of(in_strips(call))
    query, value = given.maps[0], given.maps[2]
    output = query.new_empty((*query.shape[:4], value.shape[4]))
    norm = query.new_empty((*query.shape[:4], 2 * for_backward), dtype=custom_operator.working_dtype(query.dtype))
    arguments = _addresses(*given.maps, output), given.kind, given.parts, norm.flatten().numpy()
    _launch(forward, *arguments, given.tables, given.sizes, given.scale)
    return output, norm


def _backward(grad: Tensor, output: Tensor, norm: Tensor, call: Call) -> tuple[Tensor | None, ...]:
    from halonet.ops.local_attention.numba_cpu.backward import backward

    call = in_strips(call)
    given = _Given.of(call)
    query, geometry, dtype = given.maps[0], call.geometry, norm.dtype
    # Several blocks add to a key's gradient: it is rounded when all have.
    targets = [torch.zeros(map_.shape, dtype=dtype if number else map_.dtype) for number, map_ in enumerate(given.maps)]
    produced = _prepared(output), _prepared(grad)  # kept: of a map the kernels are given no more than the address
    rows = _table_rows(call, dtype, given.length)
    slices, heads = query.shape[0] * query.shape[3], query.shape[3]
    lengths = [2 * axis.reach + 1 for axis in (geometry.rows, geometry.columns)]
    tables = rows.new_zeros(slices, *rows.shape)
    bias = rows.new_zeros(slices, *(lengths if call.bias is not None else (0, 0)))
    extra = rows.new_zeros(slices, given.maps[3].shape[1])
    _launch(
        backward,
        _addresses(*given.maps, *produced, *targets),
        given.kind,
        given.parts,
        *_flat(norm),
        _flat(rows, tables, bias, extra),
        given.tables,
        given.sizes,
        given.scale,
    )
    # The operator leaves out what the call has not.
    total = tables.sum(dim=0)[:, : query.shape[4]] * call.relative_scale
    row, column = total.split(lengths)
    bias, extra = (part.unflatten(0, (-1, heads)).sum(dim=0) for part in (bias, extra))
    return (*targets[:3], row.clone(), column.clone(), bias, *targets[3:], extra)


_operator: Callable[[Call], Tensor] = custom_operator.define(
    "local_attention_numba", _forward, _backward, kept=lambda dtype: 2
)


def in_strips(call: Call) -> Call:
    """The call itself, but a bias over a map that is one block: blocks of a few rows there that all see the whole map.

    `Tables.bias` holds a number for each query and key of a block: of (H, W) in one block, (H * W)^2 a head, more than
    any cache has. In strips, whose tables are the same, it is little more than one strip's share of them.
    """
    rows, columns = call.geometry.rows, call.geometry.columns
    plain = all(
        (axis.block, axis.halo, axis.stride, axis.window) == (axis.size, 0, 1, None) for axis in (rows, columns)
    )
    if call.bias is None or not plain or rows.size * columns.size <= STRIP:
        return call
    # A number that divides the rows of the map: a strip that went beyond its end would not see its first row.
    counts = (count for count in range(1, rows.size) if rows.size % count == 0 and count * columns.size <= STRIP)
    block = max(counts, default=1)
    rows = replace(rows, block=block, halo=rows.size - block, border="mask")
    return replace(call, geometry=Geometry(rows, replace(columns, border="mask"), None))


def _launch(kernel: Callable[..., None], *arguments: Any) -> None:
    """Runs a kernel with as many threads as torch uses.

    numba's threads are torch's own where both find the same OpenMP, so that none waits spinning for the other.
    """
    import numba

    with _LOCK:
        asked = torch.get_num_threads()
        threads = min(asked, numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
        numba.set_num_threads(threads)
        kernel(*arguments, threads)
        if torch.get_num_threads() != asked:  # numba, on starting its threads, tells OpenMP a number of its own
            torch.set_num_threads(asked)


@dataclass(frozen=True)
class _Given:
    """What both passes read: the maps query, key, value, extra key and extra value, and `Map`'s kind; the type of
    `Scratch.parts`; `Tables`, `Sizes` and the scale.

    Extra keys are maps of one row; of those a call has not, there are none.
    """

    maps: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
    kind: Array
    parts: Array
    tables: tuple[Array, ...]
    sizes: Array
    scale: np.floating[Any]

    @property
    def length(self) -> int:
        """Channels of queries and keys as kernels fill them up."""
        return int(self.sizes[-2])

    @classmethod
    def of(cls, call: Call) -> _Given:
        dtype = custom_operator.working_dtype(call.query.dtype)
        query, key, value = (_prepared(map_) for map_ in (call.query, call.key, call.value))
        batch, heads = query.shape[0], query.shape[3]
        extra_key, extra_value = (
            query.new_empty(batch, 0, heads, channels) if map_ is None else _prepared(map_)
            for map_, channels in ((call.extra_key, key.shape[4]), (call.extra_value, value.shape[4]))
        )
        extra_bias = torch.zeros(heads, extra_key.shape[1]) if call.extra_bias is None else call.extra_bias
        axes = call.geometry.rows, call.geometry.columns
        sizes = _sizes(call, extra_key.shape[1])
        arrays = (
            *_tables_t(call, dtype, int(sizes[-2])),
            *(_hidden(axis, dtype) for axis in axes),
            _bias(call.geometry, call.bias, dtype),
            *_flat(extra_bias.detach().to(dtype)),
        )
        maps = query, key, value, extra_key, extra_value
        kind = np.zeros(0, np.uint16 if query.dtype == torch.bfloat16 else arrays[0].dtype)
        # A type, as `kind`: most calls need no kernel compiled for tile registers.
        parts: Array = np.zeros(0, np.uint16 if sizes[-3] else np.uint8)
        return cls(maps, kind, parts, arrays, sizes, arrays[0].dtype.type(call.scale))


def _prepared(map_: Tensor) -> Tensor:
    """The map as the kernels read it: in the working dtype or bfloat16, channels adjacent."""
    map_ = map_.detach()
    if map_.dtype != torch.bfloat16:
        map_ = map_.to(custom_operator.working_dtype(map_.dtype))
    return map_ if map_.stride(-1) == 1 or map_.shape[-1] == 1 else map_.contiguous()


def _flat(*tensors: Tensor) -> tuple[Array, ...]:
    return tuple(tensor.flatten().numpy() for tensor in tensors)


def _addresses(*maps: Tensor) -> Array:
    """Address and strides of maps, as the kernels' `Map` has them, flat."""
    strides = ((s[0], 0, s[1], s[2]) if len(s) == 4 else s[:4] for s in (map_.stride() for map_ in maps))
    return np.array([(map_.data_ptr(), *s) for map_, s in zip(maps, strides, strict=True)], dtype=np.int64).ravel()


def _parts(call: Call) -> int:
    """In how many parts tile registers are to take each number; 0 where vector registers do as well or better.

    Tiles are 32 channels deep: of fewer, most of their work is on zeros. Taking keys to three parts pays where enough
    queries meet them.
    """
    from halonet.ops.local_attention.numba_cpu import amx

    narrow = min(call.query.shape[4], call.value.shape[4]) < 32
    if narrow or call.query.dtype == torch.float64 or not amx.is_permitted():
        return 0
    if call.query.dtype == torch.bfloat16:
        return 1
    queries = call.geometry.rows.queries_per_block * call.geometry.columns.queries_per_block
    return 3 if queries >= 128 else 0


def _sizes(call: Call, extra: int) -> Array:
    """The kernels' `Sizes`, as an array."""
    geometry = call.geometry
    axes = rows, columns = geometry.rows, geometry.columns
    takes_part = rows.border == "zeros"
    beyond = any(axis.halo > 0 or axis.size != axis.extended for axis in axes)
    has_position = call.relative is not None or rows.window is not None or (takes_part and beyond)
    circular, has_bias = rows.border == "circular", call.bias is not None
    every_place = circular or geometry.neighbors is not None or (takes_part and has_bias)
    numbers = [call.query.shape[0], rows.size, columns.size, call.query.shape[3]]
    numbers += [rows.queries, columns.queries, call.query.shape[4], call.value.shape[4]]
    for number in ("num_blocks", "block", "halo", "queries_per_block"):
        numbers += [getattr(axis, number) for axis in axes]
    numbers += [rows.relative_stride, has_position, takes_part, circular, every_place]
    parts = _parts(call)
    lengths = [_whole(map_.shape[4], 32 if parts else LANES) for map_ in (call.query, call.value)]
    return np.array([*numbers, geometry.neighbors or 0, extra, has_bias, parts, *lengths], dtype=np.int64)


def _tables_t(call: Call, dtype: torch.dtype, channels: int) -> list[Array]:
    """`row_t` and `column_t` of `Tables`, flat, of `channels` with those filled up; zeros without tables."""
    arrays = []
    for number, axis in enumerate((call.geometry.rows, call.geometry.columns)):
        length = 2 * axis.reach + 1
        table_t = torch.zeros(channels, _whole(length + LANES, 32), dtype=dtype)
        if call.relative is not None:
            table_t[: call.query.shape[4], :length] = call.relative[number].detach().t()
            table_t *= call.relative_scale
        arrays.append(table_t.flatten().numpy())
    return arrays


def _table_rows(call: Call, dtype: torch.dtype, length: int) -> Tensor:
    """Both tables, one below the other, rows filled up to `length`."""
    lengths = [2 * axis.reach + 1 for axis in (call.geometry.rows, call.geometry.columns)]
    channels = call.query.shape[4]
    rows = torch.zeros(sum(lengths), length, dtype=dtype)
    if call.relative is not None:
        rows[:, :channels] = torch.cat([table.detach() for table in call.relative])
        rows *= call.relative_scale
    return rows


@lru_cache(maxsize=256)
def _hidden(axis: Axis, dtype: torch.dtype) -> Array:
    """`hidden_row` or `hidden_column` of `Tables`, (i, y) with y filled up to whole registers, flat."""
    hidden = torch.zeros(axis.queries_per_block, _whole(axis.neighborhood), dtype=dtype)
    hidden[:, : axis.neighborhood].masked_fill_(~axis.in_window(torch.device("cpu")), HIDDEN)
    return hidden.flatten().numpy()


def _bias(geometry: Geometry, bias: Tensor | None, dtype: torch.dtype) -> Array:
    """`bias` of `Tables`: (N, y * x + 1, i * j), queries filled up to two registers, flat; empty without a bias."""
    if bias is None:
        return np.zeros(0, _NUMPY[dtype])
    cpu = torch.device("cpu")
    row = geometry.rows.table_rows(cpu).t()[:, None, :, None]  # (y, 1, i, 1)
    column = geometry.columns.table_rows(cpu).t()[None, :, None, :]
    by_place = bias.detach().to(dtype)[:, row, column].flatten(3, 4).flatten(1, 2)
    heads, places, queries = by_place.shape
    filled = by_place.new_zeros(heads, places + 1, _whole(queries, CHUNK))
    filled[:, :places, :queries] = by_place
    return filled.flatten().numpy()


_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


def _whole(count: int, multiple: int = LANES) -> int:
    """The next multiple."""
    return -(-count // multiple) * multiple
