"""Cases of local attention shared by the tests: the list with its ids, tensors for a case, and comparisons."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

BACKENDS = ("reference", "sdpa", "numba")  # triton, which is interpreted here and slow, has a file of its own

# Tensors whose gradients are compared, under the names of the op's arguments ("relative" is two tables).
TENSORS = (
    "query",
    "key",
    "value",
    "height_table",
    "width_table",
    "bias",
    "extra_key",
    "extra_value",
    "extra_bias",
)


def pair(size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


@dataclass(frozen=True)
class Case:
    """Sizes of one call. `options` are arguments of the op that are not tensors."""

    map_size: tuple[int, int]
    block_size: int | tuple[int, int]
    halo_size: int | tuple[int, int]
    options: Mapping[str, Any] = field(default_factory=dict)
    relative: bool = False
    bias: bool = False
    extra: int = 0
    extra_bias: bool = False
    batch: int = 1
    heads: int = 2
    key_dim: int = 3
    value_dim: int = 4

    @property
    def reach(self) -> tuple[int, int]:
        (block_h, block_w), (halo_h, halo_w) = pair(self.block_size), pair(self.halo_size)
        return block_h + halo_h - 1, block_w + halo_w - 1

    @property
    def arguments(self) -> dict[str, Any]:
        return {"block_size": self.block_size, "halo_size": self.halo_size, **self.options}

    def tensors(self, *, dtype=torch.float64, seed: int = 0, requires_grad: bool = True) -> dict[str, Tensor]:
        """Random leaves. The values do not depend on dtype before rounding."""
        generator = torch.Generator().manual_seed(seed)
        stride = self.options.get("stride", 1)
        query_map = tuple(math.ceil(size / stride) for size in self.map_size)
        shapes = {
            "query": (self.batch, *query_map, self.heads, self.key_dim),
            "key": (self.batch, *self.map_size, self.heads, self.key_dim),
            "value": (self.batch, *self.map_size, self.heads, self.value_dim),
        }
        rows, columns = (2 * reach + 1 for reach in self.reach)
        if self.relative:
            shapes |= {"height_table": (rows, self.key_dim), "width_table": (columns, self.key_dim)}
        if self.bias:
            shapes |= {"bias": (self.heads, rows, columns)}
        if self.extra:
            shapes |= {
                "extra_key": (self.batch, self.extra, self.heads, self.key_dim),
                "extra_value": (self.batch, self.extra, self.heads, self.value_dim),
            }
        if self.extra_bias:
            shapes |= {"extra_bias": (self.heads, self.extra)}
        return {
            name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(requires_grad)
            for name, shape in shapes.items()
        }


def call(attention: Callable[..., Tensor], tensors: Mapping[str, Tensor], **arguments) -> Tensor:
    """`attention` on tensors named as in TENSORS."""
    named = dict(tensors)
    if "height_table" in named:
        arguments["relative"] = (named.pop("height_table"), named.pop("width_table"))
    return attention(named.pop("query"), named.pop("key"), named.pop("value"), **named, **arguments)


def weights_like(output: Tensor) -> Tensor:
    """What the output is multiplied with before it is summed, so that no gradient is uniform."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    return weights.to(dtype=output.dtype, device=output.device)


def output_and_gradients(attention, tensors: Mapping[str, Tensor], **arguments) -> dict[str, Tensor]:
    """The output under "output", and the gradient of every tensor under its name (zeros where none arrived)."""
    output = call(attention, tensors, **arguments)
    gradients = torch.autograd.grad(output, list(tensors.values()), weights_like(output), materialize_grads=True)
    return {"output": output.detach(), **dict(zip(tensors, gradients, strict=True))}


def assert_same(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, tolerance: float = 1e-10) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            actual[name], tensor, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


def _strided(case: Case, stride: int, **options) -> Case:
    return replace(case, options={**case.options, "stride": stride, **options})


_PLAIN = Case(map_size=(4, 4), block_size=2, halo_size=1)
_ODD = Case(map_size=(5, 7), block_size=(2, 3), halo_size=(1, 2), relative=True, bias=True)

CASES: dict[str, Case] = {
    # The map against blocks and halos.
    "whole-blocks": _PLAIN,
    "batch-and-heads": replace(_PLAIN, batch=2, heads=3, relative=True),
    "one-head-one-channel": replace(_PLAIN, heads=1, key_dim=1, value_dim=1),
    "odd-map": Case(map_size=(5, 7), block_size=4, halo_size=1),
    "rectangular-blocks-and-halos": _ODD,
    "tall-halo-only": Case(map_size=(5, 4), block_size=(2, 2), halo_size=(2, 0), relative=True, bias=True),
    "map-smaller-than-block": Case(map_size=(3, 2), block_size=4, halo_size=1, relative=True),
    "map-smaller-than-halo": Case(map_size=(2, 1), block_size=2, halo_size=3, relative=True, bias=True),
    "one-pixel": Case(map_size=(1, 1), block_size=1, halo_size=0, relative=True),
    "one-pixel-large-block": Case(map_size=(1, 1), block_size=3, halo_size=2, relative=True, bias=True),
    "one-row": Case(map_size=(1, 7), block_size=3, halo_size=1, relative=True),
    "halo-zero": Case(map_size=(5, 6), block_size=3, halo_size=0, relative=True),
    "block-one": Case(map_size=(3, 4), block_size=1, halo_size=1, relative=True),
    "halo-larger-than-block": Case(map_size=(5, 4), block_size=2, halo_size=3, relative=True),
    # Channels.
    "narrow-values": replace(_PLAIN, key_dim=5, value_dim=2),
    "wide-values": replace(_PLAIN, key_dim=2, value_dim=7),
    # Stride.
    "stride-2": _strided(replace(_PLAIN, relative=True), 2),
    "stride-2-odd-map": _strided(Case(map_size=(5, 7), block_size=4, halo_size=1, relative=True, bias=True), 2),
    "stride-3-rectangular": _strided(Case(map_size=(7, 4), block_size=(3, 6), halo_size=1, relative=True), 3),
    "stride-equals-block": _strided(Case(map_size=(5, 4), block_size=2, halo_size=1, relative=True), 2),
    "stride-2-query-steps": _strided(
        Case(map_size=(6, 5), block_size=4, halo_size=1, relative=True), 2, relative_stride=1
    ),
    "stride-4-relative-2": _strided(
        Case(map_size=(5, 4), block_size=4, halo_size=1, relative=True), 4, relative_stride=2
    ),
    # Borders.
    "mask": replace(_PLAIN, map_size=(5, 3), options={"border": "mask"}, relative=True),
    "mask-map-smaller-than-halo": Case(map_size=(2, 1), block_size=2, halo_size=3, options={"border": "mask"}),
    "circular": replace(_PLAIN, options={"border": "circular"}, relative=True),
    "circular-odd-map": replace(_ODD, options={"border": "circular"}),
    "circular-more-than-once": Case(
        map_size=(2, 3), block_size=2, halo_size=5, options={"border": "circular"}, relative=True, bias=True
    ),
    "stride-2-mask": _strided(replace(_ODD, block_size=(2, 4), options={"border": "mask"}), 2),
    "stride-2-circular": _strided(replace(_ODD, block_size=(2, 4), options={"border": "circular"}), 2),
    # Window.
    "window-3": Case(map_size=(5, 4), block_size=2, halo_size=1, options={"window": 3}, relative=True, bias=True),
    "window-1": Case(map_size=(3, 4), block_size=2, halo_size=1, options={"window": 1}, relative=True),
    "window-beyond-halo": Case(map_size=(5, 4), block_size=2, halo_size=1, options={"window": 5}, relative=True),
    "window-larger-than-everything": Case(map_size=(4, 3), block_size=2, halo_size=1, options={"window": 99}),
    "window-mask": replace(_ODD, options={"window": 3, "border": "mask"}),
    "window-circular": replace(_ODD, options={"window": 3, "border": "circular"}),
    "window-stride-2": _strided(Case(map_size=(5, 6), block_size=4, halo_size=2, relative=True), 2, window=3),
    # Neighbours.
    **{
        f"neighbor-{n}-{border}": Case(
            map_size=(5, 4),
            block_size=2,
            halo_size=2,
            options={"neighbors": n, "border": border},
            relative=True,
            bias=True,
        )
        for n, border in zip(range(1, 9), ("zeros", "mask", "circular") * 3, strict=False)
    },
    "neighbor-halo-smaller-than-block": Case(
        map_size=(6, 7), block_size=3, halo_size=(1, 2), options={"neighbors": 5, "border": "mask"}, bias=True
    ),
    "neighbor-halo-larger-than-block": Case(
        map_size=(7, 6), block_size=2, halo_size=3, options={"neighbors": 4}, relative=True
    ),
    # Position, scale, extra keys.
    "relative": replace(_PLAIN, relative=True),
    "bias": replace(_PLAIN, bias=True),
    "scale": replace(_PLAIN, relative=True, options={"scale": 1.7}),
    "scale-zero": replace(_PLAIN, relative=True, options={"scale": 0.0}),
    "scale-relative": replace(_PLAIN, relative=True, bias=True, options={"scale_relative": True}),
    "scale-and-scale-relative": replace(_PLAIN, relative=True, options={"scale": 0.3, "scale_relative": True}),
    "extra": replace(_PLAIN, extra=1),
    "extra-bias": replace(_PLAIN, extra=3, extra_bias=True, batch=2),
    "vision-longformer": Case(
        map_size=(5, 4),
        block_size=2,
        halo_size=2,
        options={"border": "mask", "window": 5},
        bias=True,
        extra=2,
        extra_bias=True,
    ),
    "everything": _strided(
        replace(
            _ODD,
            map_size=(5, 5),
            block_size=(2, 4),
            extra=2,
            extra_bias=True,
            options={"border": "circular", "window": 3, "scale": 0.6, "scale_relative": True},
        ),
        2,
        relative_stride=1,
    ),
}
