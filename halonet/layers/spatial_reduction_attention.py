"""Spatial reduction attention (SRA): keys and values of a smaller map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from halonet.layers.token_attention import INIT_STD, TokenAttention, attend_all


class SpatialReductionAttention(TokenAttention):
    """Attention to the map at 1/R of its side (Pyramid Vision Transformer; Vision Longformer, appendix E).

    A convolution of R x R with stride R reduces the map; its channels are normalized over the reduced map, without
    parameters, as in the paper's public code. Of a map that R does not divide the last rows and columns stay out, as
    there; one smaller than R is filled up with zeros.

    Args:
        dim: channels C of a token.
        num_heads: attention heads; divides C.
        num_global: global tokens G; they are keys beside the reduced map.
        reduction: R.

    Raises:
        ValueError: channels that heads do not divide, or numbers out of their range.
    """

    def __init__(self, dim: int, *, num_heads: int, num_global: int = 1, reduction: int = 8, **options: Any) -> None:
        super().__init__(dim, num_heads=num_heads, num_global=num_global, **options)
        if isinstance(reduction, bool) or not isinstance(reduction, int) or reduction < 1:
            raise ValueError(f"reduction must be a positive int, got {reduction!r}")
        self.reduction = reduction
        self.reduce = nn.Conv2d(dim, dim, reduction, stride=reduction, bias=False, **options)
        nn.init.trunc_normal_(self.reduce.weight, std=INIT_STD)

    def project(self, tokens: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of all tokens, and keys and values of the global ones and of the reduced map."""
        count = self.num_global
        map_ = tokens[:, count:].transpose(1, 2).unflatten(2, size)
        below, right = (max(0, self.reduction - side) for side in size)
        reduced = self.reduce(F.pad(map_, (0, right, 0, below)) if below or right else map_).flatten(2)
        if reduced.shape[2] > 1:  # of one pixel normalizing would leave nothing
            reduced = F.layer_norm(reduced, reduced.shape[2:])
        sources = torch.cat([tokens[:, :count], reduced.transpose(1, 2)], dim=1)
        return self.split_heads(self.query(tokens)), *self.project_keys(sources)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, size: tuple[int, int]) -> Tensor:
        """The layer's attention on what `project` gives: (B, G + H * W, N, Dv), for values of any Dv."""
        return attend_all(query, key, value)
