"""Tile registers (Intel AMX) for numba: products of 16 x 32 by 32 x 16 numbers of bfloat16, summed in float32.

Where LLVM finds no AMX in this processor every instruction compiles to nothing, and `is_permitted` says False: kernels
then never take the way that needs them. Addresses are plain integers, strides are in bytes. Here too: how a thread is
told what to do with numbers too small to be normal.
"""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import types
from numba.extending import intrinsic

from halonet.ops.local_attention.numba_cpu.constants import LANES

_FEATURES = llvmlite.binding.get_host_cpu_features()
HAS_AMX = all(_FEATURES.get(name, False) for name in ("amx-tile", "amx-bf16"))
_HAS_SSE = bool(_FEATURES.get("sse", False))
_NO_DENORMALS = 0x8040  # of the control register: results to 0, and numbers read as 0
_BYTE, _LONG = ir.IntType(8), ir.IntType(64)
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18  # Linux, x86-64


@lru_cache(maxsize=1)
def is_permitted() -> bool:
    """Whether this process may use tile registers: Linux saves them for those alone that have asked."""
    if not (HAS_AMX and sys.platform == "linux"):
        return False
    return ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0


def _emit(builder: ir.IRBuilder, name: str, arguments: list[ir.Value]) -> None:
    if not (_HAS_SSE if name.startswith("sse") else HAS_AMX):
        return
    name, module = f"llvm.x86.{name}", builder.module
    kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    builder.call(module.globals.get(name) or ir.Function(module, kind, name), arguments)


def _pointer(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return builder.inttoptr(address, _BYTE.as_pointer())


def _on_memory(name: str, doc: str) -> Any:
    """An instruction that takes an address."""

    def instruction(typing: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            _emit(builder, name, [_pointer(builder, values[0])])
            return context.get_dummy_value()

        return types.void(types.intp), generate

    instruction.__doc__ = doc
    return intrinsic(instruction)


def _on_tile(name: str, doc: str) -> Any:
    """An instruction that moves a tile register, whose number is a literal, to or from rows in memory."""

    def instruction(typing: Any, tile: Any, address: Any, stride: Any) -> Any:
        number = tile.literal_value

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            _emit(builder, name, [_BYTE(number), _pointer(builder, values[1]), values[2]])
            return context.get_dummy_value()

        return types.void(tile, types.intp, types.intp), generate

    instruction.__doc__ = doc
    return intrinsic(prefer_literal=True)(instruction)


tile_load = _on_tile("tileloadd64", "Loads 16 rows of 64 bytes.")
tile_store = _on_tile("tilestored64", "Stores 16 rows of 64 bytes.")
_load_settings = _on_memory("ldtilecfg", "Sets the shapes of all tile registers from 64 bytes.")
_store_settings = _on_memory("sttilecfg", "Writes them to 64 bytes.")
_load_mode = _on_memory("sse.ldmxcsr", "Sets the control register of vector arithmetic from 4 bytes.")
_store_mode = _on_memory("sse.stmxcsr", "Writes it to 4 bytes.")


@intrinsic(prefer_literal=True)
def tile_zero(typing: Any, tile: Any) -> Any:
    """Zeros in a tile register."""
    number = tile.literal_value

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _emit(builder, "tilezero", [_BYTE(number)])
        return context.get_dummy_value()

    return types.void(tile), generate


@intrinsic(prefer_literal=True)
def tile_multiply(typing: Any, target: Any, a: Any, b: Any) -> Any:
    """target (16 x 16) += a (16 x 32) @ b (32 x 16), where b's rows lie in pairs: (16, 16, 2)."""
    numbers = [tile.literal_value for tile in (target, a, b)]

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _emit(builder, "tdpbf16ps", [_BYTE(number) for number in numbers])
        return context.get_dummy_value()

    return types.void(target, a, b), generate


@njit(nogil=True)
def begin_thread(parts):
    """Sets this thread's registers to what the kernels need; gives how they were, for `end_thread`.

    All eight tile registers as 16 rows of 64 bytes; without parts they stay, for the processor may have none. And
    numbers below 1.2e-38 as 0: a weight near there has parts below, and a vector with one of those takes a hundred
    times as long.
    """
    modes, before, settings = np.zeros(2, np.uint32), np.zeros(64, np.uint8), np.zeros(64, np.uint8)
    _store_mode(modes.ctypes.data)
    modes[1] = modes[0] | np.uint32(_NO_DENORMALS)
    _load_mode(modes.ctypes.data + 4)
    if parts:
        _store_settings(before.ctypes.data)
        settings[0] = 1  # the palette
        settings[16:32:2] = 64  # bytes of a row
        settings[48:56] = 16  # rows
        _load_settings(settings.ctypes.data)
        settings[0] = 0  # numba must not free it earlier
    return modes, before


@njit(nogil=True)
def end_thread(parts, state):
    """Sets the registers back to how they were."""
    modes, before = state
    if parts:
        _load_settings(before.ctypes.data)
        before[0] = 0
    _load_mode(modes.ctypes.data)
    modes[0] = 0


def _bits(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """A vector's bits, in single precision."""
    single = ir.VectorType(ir.FloatType(), LANES)
    if vector.type != single:
        vector = builder.fptrunc(vector, single)
    return builder.bitcast(vector, ir.VectorType(ir.IntType(32), LANES))


def _all(value: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(ir.IntType(32), LANES), [value] * LANES)


@intrinsic
def upper(typing: Any, vector: Any, rounds: Any) -> Any:
    """The upper half of each number's bits, a bfloat16; rounded, halves away from zero, or cut off."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        bits = _bits(builder, values[0])
        more = builder.select(values[1], _all(0x8000), _all(0))
        bits = builder.and_(builder.add(bits, more), _all(0xFFFF0000))
        single = builder.bitcast(bits, ir.VectorType(ir.FloatType(), LANES))
        wanted = context.get_value_type(signature.return_type)
        return single if wanted == single.type else builder.fpext(single, wanted)

    return vector(vector, types.boolean), generate


@intrinsic
def store_uppers(typing: Any, pointer: Any, index: Any, vector: Any) -> Any:
    """Writes the upper halves of LANES numbers as 16-bit numbers from a pointer on."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        halves = ir.VectorType(ir.IntType(16), LANES)
        data = builder.gep(values[0], [values[1]])
        half = builder.trunc(builder.lshr(_bits(builder, values[2]), _all(16)), halves)
        builder.store(half, builder.bitcast(data, halves.as_pointer()), align=2)
        return context.get_dummy_value()

    return types.void(pointer, types.intp, vector), generate


@intrinsic
def store_pairs(typing: Any, pointer: Any, index: Any, first: Any, second: Any) -> Any:
    """Writes the upper halves of two vectors in turn, 2 * LANES numbers of 16 bits."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = builder.gep(values[0], [values[1]])
        low = builder.lshr(_bits(builder, values[2]), _all(16))
        high = builder.and_(_bits(builder, values[3]), _all(0xFFFF0000))
        pairs = builder.or_(low, high)
        builder.store(pairs, builder.bitcast(data, pairs.type.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(pointer, types.intp, first, second), generate
