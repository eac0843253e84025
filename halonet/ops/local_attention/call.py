"""One checked call of `local_attention`: what every backend receives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from halonet.ops.local_attention.geometry import Geometry

NO_DILATION = "it has no dilation"  # why most backends refuse such a call


@dataclass(frozen=True)
class Call:
    """The arguments of `local_attention` after validation, with defaults resolved (see `api` for their meaning)."""

    query: Tensor
    key: Tensor
    value: Tensor
    geometry: Geometry
    relative: tuple[Tensor, Tensor] | None
    bias: Tensor | None
    extra_key: Tensor | None
    extra_value: Tensor | None
    extra_bias: Tensor | None
    scale: float
    relative_scale: float
