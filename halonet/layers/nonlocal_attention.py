"""Conventional attention of all pixels to all as a layer, factorized attention's counterpart."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from halonet.layers.whole_map_attention import WholeMapAttention
from halonet.ops.checks import check_choice
from halonet.ops.factorized_attention import nonlocal_attention
from halonet.ops.local_attention.backends import BACKENDS


class NonLocal(WholeMapAttention):
    """Attention of every position to every other, quadratic in pixels: CA-dot, CA-bot, CA-multi and CA-Tfm of Table 8.

    Forms and arguments are those of `WholeMapAttention`; of the kind "dot" it computes what `FactorizedAttention`
    computes with the same weights. Wang et al.'s own block, with a batch norm and no 1/b, is `NonLocal2d`.

    Args:
        dim: channels C.
        backend: of `halonet.ops.nonlocal_attention`; "materialized" writes the whole map, as the paper counts.
        options: as in `WholeMapAttention`.

    Raises:
        ValueError: as `WholeMapAttention`, or an unknown backend.
    """

    PROJECTIONS = ("query", "key", "value")

    def __init__(self, dim: int, *, backend: str = "auto", **options: Any) -> None:
        super().__init__(dim, **options)
        check_choice("backend", backend, ("auto", "materialized", *BACKENDS))
        self.backend = backend

    def attend(self, first: Tensor, second: Tensor, value: Tensor) -> Tensor:
        """Queries (B, S, N, D), keys (B, S, N, D) and values (B, S, N, Dv) -> (B, S, N, Dv)."""
        return nonlocal_attention(first, second, value, kind=self.kind, backend=self.backend)
