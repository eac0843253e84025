"""Vector registers for numba: the few operations that the CPU kernels are made of.

numba's loops leave it to LLVM whether values stay in registers; the kernels live from their staying there. A `Vector`
is an LLVM vector of LANES numbers, and every function below is one or a few instructions on whatever vector unit the
processor has (LLVM splits longer vectors than it has). Memory is given by pointers (`pointers`), indices are in
elements, addresses are plain integers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, models, register_model

from halonet.ops.local_attention.numba_cpu.constants import LANES


class Vector(types.Type):
    """LANES numbers of one type."""

    def __init__(self, element: types.Type) -> None:
        super().__init__(name=f"Vector({element})")
        self.element = element


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, ir.VectorType(manager.lookup(kind.element).get_value_type(), LANES))


def _vector_pointer(builder: ir.IRBuilder, base: ir.Value, index: ir.Value, vector: ir.Type) -> ir.Value:
    return builder.bitcast(builder.gep(base, [index]), vector.as_pointer())


def _element_bytes(kind: Any) -> int:
    return int(kind.bitwidth) // 8


def _splat(builder: ir.IRBuilder, scalar: ir.Value) -> ir.Value:
    vector = ir.VectorType(scalar.type, LANES)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.IntType(32)(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), zeros)


def _constant(vector: ir.Type, value: float | int) -> ir.Constant:
    return ir.Constant(vector, [value] * LANES)


def _llvm(builder: ir.IRBuilder, name: str, arguments: list[ir.Value]) -> ir.Value:
    """Calls llvm.<name> for the type of the arguments, which is the type of the result."""
    kind = arguments[0].type
    suffix = f"v{LANES}{'f64' if kind.element == ir.DoubleType() else 'f32'}"
    function_type = ir.FunctionType(kind, [argument.type for argument in arguments])
    function = builder.module.declare_intrinsic(f"llvm.{name}.{suffix}", fnty=function_type)
    return builder.call(function, arguments)


@intrinsic
def load(typing: Any, pointer: Any, index: Any) -> Any:
    """LANES numbers from a pointer on."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vector = context.get_value_type(signature.return_type)
        place = _vector_pointer(builder, values[0], values[1], vector)
        return builder.load(place, align=_element_bytes(signature.args[0].dtype))

    return Vector(pointer.dtype)(pointer, types.intp), generate


@intrinsic
def store(typing: Any, pointer: Any, index: Any, vector: Any) -> Any:
    """Writes LANES numbers from a pointer on."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = _vector_pointer(builder, values[0], values[1], values[2].type)
        builder.store(values[2], pointer, align=_element_bytes(signature.args[0].dtype))
        return context.get_dummy_value()

    return types.void(pointer, types.intp, vector), generate


@intrinsic
def splat_at(typing: Any, pointer: Any, index: Any) -> Any:
    """One number from a pointer on in every lane."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _splat(builder, builder.load(builder.gep(values[0], [values[1]])))

    return Vector(pointer.dtype)(pointer, types.intp), generate


@intrinsic
def splat(typing: Any, scalar: Any) -> Any:
    """One number in every lane."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _splat(builder, values[0])

    return Vector(scalar)(scalar), generate


def _masked(context: Any, builder: Any, place: list[Any], element: Any) -> tuple[Any, Any]:
    """Of a place (address, index, count): the vector's pointer and the mask of its first `count` lanes."""
    address, index, count = place
    kind = context.get_value_type(element)
    base = builder.inttoptr(address, kind.as_pointer())
    vector = ir.VectorType(kind, LANES)
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), list(range(LANES)))
    mask = builder.icmp_signed("<", lanes, _splat(builder, builder.trunc(count, ir.IntType(32))))
    return _vector_pointer(builder, base, index, vector), mask


def _load_part(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    element = signature.args[3]
    pointer, mask = _masked(context, builder, values[:3], element)
    vector = pointer.type.pointee
    suffix = "f64" if _element_bytes(element) == 8 else "f32"
    align = ir.IntType(32)(_element_bytes(element))
    function_type = ir.FunctionType(vector, [pointer.type, ir.IntType(32), mask.type, vector])
    function = builder.module.declare_intrinsic(f"llvm.masked.load.v{LANES}{suffix}.p0", fnty=function_type)
    return builder.call(function, [pointer, align, mask, _constant(vector, 0.0)])


@intrinsic
def load_part(typing: Any, address: Any, index: Any, count: Any, zero: Any) -> Any:
    """The first `count` numbers, of the type of `zero`, at an address; zeros in the other lanes."""
    return Vector(zero)(types.int64, types.int64, types.int64, zero), _load_part


def _store_part(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    element = signature.args[3].element
    pointer, mask = _masked(context, builder, values[:3], element)
    suffix = "f64" if _element_bytes(element) == 8 else "f32"
    align = ir.IntType(32)(_element_bytes(element))
    function_type = ir.FunctionType(ir.VoidType(), [values[3].type, pointer.type, ir.IntType(32), mask.type])
    function = builder.module.declare_intrinsic(f"llvm.masked.store.v{LANES}{suffix}.p0", fnty=function_type)
    builder.call(function, [values[3], pointer, align, mask])
    return context.get_dummy_value()


@intrinsic
def store_part(typing: Any, address: Any, index: Any, count: Any, vector: Any) -> Any:
    """Writes the first `count` lanes to an address."""
    return types.void(types.int64, types.int64, types.int64, vector), _store_part


def _if_whole(builder: Any, count: Any) -> Any:
    """Two branches, for LANES numbers and for fewer: processors before AVX-512 have no mask for numbers so short."""
    return builder.if_else(builder.icmp_signed(">=", count, ir.IntType(64)(LANES)))


def _half_place(context: Any, builder: Any, place: list[Any]) -> tuple[Any, Any]:
    """`_masked` for bfloat16, as which numbers of 16 bits are taken."""
    return _masked(context, builder, place, types.uint16)


def _load_bfloat16(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    pointer, mask = _half_place(context, builder, values[:3])
    halves, bits = pointer.type.pointee, ir.VectorType(ir.IntType(32), LANES)
    function_type = ir.FunctionType(halves, [pointer.type, ir.IntType(32), mask.type, halves])
    name = f"llvm.masked.load.v{LANES}i16.p0"
    function = builder.module.declare_intrinsic(name, fnty=function_type)
    with _if_whole(builder, values[2]) as (whole, part):
        with whole:
            all_lanes = builder.load(pointer, align=2)
            whole_block = builder.block
        with part:
            arguments = [pointer, ir.IntType(32)(2), mask, _constant(halves, 0)]
            some_lanes = builder.call(function, arguments)
            part_block = builder.block
    loaded = builder.phi(halves)
    loaded.add_incoming(all_lanes, whole_block)
    loaded.add_incoming(some_lanes, part_block)
    upper = builder.shl(builder.zext(loaded, bits), _constant(bits, 16))
    single = builder.bitcast(upper, ir.VectorType(ir.FloatType(), LANES))
    wanted = context.get_value_type(signature.return_type)
    return single if wanted == single.type else builder.fpext(single, wanted)


@intrinsic
def load_bfloat16(typing: Any, address: Any, index: Any, count: Any, zero: Any) -> Any:
    """`load_part` of bfloat16, the upper halves of single precision, widened to the type of `zero`."""
    return Vector(zero)(types.int64, types.int64, types.int64, zero), _load_bfloat16


def _store_bfloat16(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    pointer, mask = _half_place(context, builder, values[:3])
    halves, integers = pointer.type.pointee, ir.VectorType(ir.IntType(32), LANES)
    single = values[3]
    if single.type.element != ir.FloatType():
        single = builder.fptrunc(single, ir.VectorType(ir.FloatType(), LANES))
    bits = builder.bitcast(single, integers)
    last = builder.and_(builder.lshr(bits, _constant(integers, 16)), _constant(integers, 1))
    rounded = builder.add(bits, builder.add(last, _constant(integers, 0x7FFF)))
    no_number = builder.fcmp_unordered("uno", single, single)
    rounded = builder.select(no_number, _constant(integers, 0x7FC00000), rounded)
    half = builder.trunc(builder.lshr(rounded, _constant(integers, 16)), halves)
    function_type = ir.FunctionType(ir.VoidType(), [halves, pointer.type, ir.IntType(32), mask.type])
    function = builder.module.declare_intrinsic(f"llvm.masked.store.v{LANES}i16.p0", fnty=function_type)
    with _if_whole(builder, values[2]) as (whole, part):
        with whole:
            builder.store(half, pointer, align=2)
        with part:
            builder.call(function, [half, pointer, ir.IntType(32)(2), mask])
    return context.get_dummy_value()


@intrinsic
def store_bfloat16(typing: Any, address: Any, index: Any, count: Any, vector: Any) -> Any:
    """`store_part` of numbers rounded to bfloat16, to the nearest, ties to the even one."""
    return types.void(types.int64, types.int64, types.int64, vector), _store_bfloat16


@intrinsic
def load_numbers(typing: Any, kind: Any, address: Any, index: Any, count: Any, zero: Any) -> Any:
    """`load_bfloat16` where `kind` is a pointer to 16 bits, else `load_part`."""
    load_kind = _load_bfloat16 if kind.dtype == types.uint16 else _load_part

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return load_kind(context, builder, signature.replace(args=signature.args[1:]), values[1:])

    return Vector(zero)(kind, types.int64, types.int64, types.int64, zero), generate


@intrinsic
def store_numbers(typing: Any, kind: Any, address: Any, index: Any, count: Any, vector: Any) -> Any:
    """`store_bfloat16` where `kind` is a pointer to 16 bits, else `store_part`."""
    store_kind = _store_bfloat16 if kind.dtype == types.uint16 else _store_part

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return store_kind(context, builder, signature.replace(args=signature.args[1:]), values[1:])

    return types.void(kind, types.int64, types.int64, types.int64, vector), generate


@intrinsic
def total(typing: Any, vector: Any) -> Any:
    """The sum of the lanes."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = values[0].type
        suffix = f"v{LANES}{'f64' if kind.element == ir.DoubleType() else 'f32'}"
        function_type = ir.FunctionType(kind.element, [kind.element, kind])
        function = builder.module.declare_intrinsic(f"llvm.vector.reduce.fadd.{suffix}", fnty=function_type)
        return builder.call(function, [ir.Constant(kind.element, 0.0), values[0]], fastmath=("reassoc",))

    return vector.element(vector), generate


@intrinsic
def add(typing: Any, a: Any, b: Any) -> Any:
    """a + b."""
    return a(a, b), lambda context, builder, signature, values: builder.fadd(*values)


@intrinsic
def subtract(typing: Any, a: Any, b: Any) -> Any:
    """a - b."""
    return a(a, b), lambda context, builder, signature, values: builder.fsub(*values)


@intrinsic
def multiply(typing: Any, a: Any, b: Any) -> Any:
    """a * b."""
    return a(a, b), lambda context, builder, signature, values: builder.fmul(*values)


@intrinsic
def divide(typing: Any, a: Any, b: Any) -> Any:
    """a / b."""
    return a(a, b), lambda context, builder, signature, values: builder.fdiv(*values)


@intrinsic
def maximum(typing: Any, a: Any, b: Any) -> Any:
    """The larger of a and b."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *values), *values)

    return a(a, b), generate


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once."""
    return a(a, b, c), lambda context, builder, signature, values: _llvm(builder, "fma", list(values))


@intrinsic
def exp(typing: Any, a: Any) -> Any:
    """exp of numbers that are not much above 0: below -87 it is 0 in single precision."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        if signature.args[0].element == types.float64:
            return _llvm(builder, "exp", list(values))
        return _exp_single(builder, values[0])

    return a(a), generate


# Minimax polynomial of (exp(x) - 1 - x) / x^2 on |x| <= log(2) / 2, highest power first; exp's relative error is 3e-9.
_EXP = (1.3814464762e-3, 8.3687806226e-3, 4.1668394259e-2, 1.6666520106e-1, 4.9999993412e-1)
# Adding it rounds to an integer, which then stands in the lowest bits, with the bias of an exponent on top.
_ROUND = 1.5 * 2.0**23 + 127


def _exp_single(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """2^n times a polynomial of the rest, without branches; NaN stays NaN.

    log(2) in one number makes less of an error than the rounding that x itself has been through.
    """
    vector, integers = x.type, ir.VectorType(ir.IntType(32), LANES)

    def single(value: float) -> ir.Constant:
        return _constant(vector, float(np.float32(value)))

    def multiply_add(a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        return _llvm(builder, "fma", [a, b, c])

    shifted = multiply_add(x, single(1.4426950408889634), single(_ROUND))
    power = builder.fsub(shifted, single(_ROUND))
    rest = multiply_add(power, single(-0.6931471805599453), x)
    polynomial: ir.Value = single(_EXP[0])
    for coefficient in (*_EXP[1:], 1.0, 1.0):
        polynomial = multiply_add(polynomial, rest, single(coefficient))
    bits = builder.shl(builder.bitcast(shifted, integers), _constant(integers, 23))
    result = builder.fmul(polynomial, builder.bitcast(bits, vector))
    return builder.select(builder.fcmp_ordered("<", x, single(-87.0)), _constant(vector, 0.0), result)


@intrinsic
def transpose(typing: Any, source: Any, first: Any, stride: Any, target: Any, to: Any, to_stride: Any) -> Any:
    """LANES rows of LANES numbers from a pointer on, `stride` apart, as columns at another."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vector = context.get_value_type(Vector(signature.args[0].dtype))
        align = _element_bytes(signature.args[0].dtype)

        def row(base: ir.Value, begin: ir.Value, step: ir.Value, number: int) -> ir.Value:
            index = builder.add(begin, builder.mul(step, step.type(number)))
            return _vector_pointer(builder, base, index, vector)

        rows = [builder.load(row(values[0], values[1], values[2], n), align=align) for n in range(LANES)]
        for n, column in enumerate(_transposed(builder, rows)):
            builder.store(column, row(values[3], values[4], values[5], n), align=align)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp), generate


def _transposed(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """log2(LANES) rounds, each of which swaps halves of blocks between pairs of rows."""
    distance = LANES // 2
    while distance:
        low = [n if not n & distance else LANES + n - distance for n in range(LANES)]
        high = [n + distance if not n & distance else LANES + n for n in range(LANES)]
        swapped = list(rows)
        for n in range(LANES):
            if not n & distance:
                pair = rows[n], rows[n + distance]
                swapped[n] = _shuffle(builder, pair, low)
                swapped[n + distance] = _shuffle(builder, pair, high)
        rows, distance = swapped, distance // 2
    return rows


def _shuffle(builder: ir.IRBuilder, pair: tuple[ir.Value, ir.Value], order: list[int]) -> ir.Value:
    return builder.shuffle_vector(*pair, ir.Constant(ir.VectorType(ir.IntType(32), LANES), order))
