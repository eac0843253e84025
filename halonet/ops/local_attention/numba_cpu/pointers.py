"""Places in memory for numba's kernels: what they work on instead of arrays.

numba counts who holds an array, once or more a function that is given one, in instructions that lock memory: of kernels
that run for a microsecond this took a fifth. A `Pointer` is a plain address with a type. Whoever makes one keeps the
array it points into.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, models, overload, register_model


class Pointer(types.Type):
    """An address of numbers of one type. `p[i]` reads and writes them; vectors have functions of their own."""

    def __init__(self, dtype: types.Type) -> None:
        super().__init__(name=f"Pointer({dtype})")
        self.dtype = dtype


@register_model(Pointer)
class _PointerModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Pointer) -> None:
        super().__init__(manager, kind, manager.lookup(kind.dtype).get_data_type().as_pointer())


@intrinsic
def pointer_to(typing: Any, array: Any) -> Any:
    """The first number of a contiguous array."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return context.make_array(signature.args[0])(context, builder, values[0]).data

    return Pointer(array.dtype)(array), generate


@intrinsic
def at_address(typing: Any, pointer: Any, number: Any) -> Any:
    """An address in bytes as a pointer of the type of another."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[1], values[0].type)

    return pointer(pointer, types.intp), generate


@intrinsic
def null(typing: Any, pointer: Any) -> Any:
    """Address 0, of the type of a pointer: to count from."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return ir.Constant(values[0].type, None)

    return pointer(pointer), generate


@intrinsic
def after(typing: Any, pointer: Any, count: Any) -> Any:
    """The place `count` numbers further."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.gep(values[0], [values[1]])

    return pointer(pointer, types.intp), generate


@intrinsic
def address(typing: Any, pointer: Any) -> Any:
    """The address in bytes, an integer."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.ptrtoint(values[0], ir.IntType(64))

    return types.intp(pointer), generate


@intrinsic
def typed(typing: Any, pointer: Any, value: Any) -> Any:
    """A number in the type that a pointer's have."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return values[1]

    return pointer.dtype(pointer, pointer.dtype), generate


@intrinsic
def _read(typing: Any, pointer: Any, index: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(builder.gep(values[0], [values[1]]))

    return pointer.dtype(pointer, types.intp), generate


@intrinsic
def _write(typing: Any, pointer: Any, index: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store(values[2], builder.gep(values[0], [values[1]]))
        return context.get_dummy_value()

    return types.void(pointer, types.intp, pointer.dtype), generate


@overload(operator.getitem)
def _get(pointer, index):  # not annotated: numba compares the names with the lambda's
    if isinstance(pointer, Pointer):
        return lambda pointer, index: _read(pointer, index)
    return None


@overload(operator.setitem)
def _set(pointer, index, value):
    if isinstance(pointer, Pointer):
        return lambda pointer, index, value: _write(pointer, index, value)
    return None
