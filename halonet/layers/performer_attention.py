"""Performer's attention as a layer, with random features that can be drawn anew."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from halonet.layers.token_attention import TokenAttention
from halonet.ops.performer import orthogonal_features, performer_attention


class PerformerAttention(TokenAttention):
    """Softmax attention by orthogonal random features (Performer; Vision Longformer, appendix E).

    Args:
        dim: channels C of a token.
        num_heads: attention heads; divides C.
        num_global: global tokens G, which are tokens as all others.
        num_features: random features K, 256 in the paper.

    Raises:
        ValueError: channels that heads do not divide, or numbers out of their range.
    """

    features: Tensor  # (K, D), a buffer: kept with the weights, which learn to live with them

    def __init__(
        self, dim: int, *, num_heads: int, num_global: int = 1, num_features: int = 256, **options: Any
    ) -> None:
        super().__init__(dim, num_heads=num_heads, num_global=num_global, **options)
        if isinstance(num_features, bool) or not isinstance(num_features, int) or num_features < 1:
            raise ValueError(f"num_features must be a positive int, got {num_features!r}")
        self.num_features = num_features
        features = orthogonal_features(num_features, dim // num_heads, device=options.get("device"))
        self.register_buffer("features", features)

    @torch.no_grad()
    def redraw(self, generator: torch.Generator | None = None) -> None:
        """Draws other random features, in place."""
        self.features.copy_(orthogonal_features(*self.features.shape, generator=generator))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, size: tuple[int, int]) -> Tensor:
        """The layer's attention on what `project` gives: (B, G + H * W, N, Dv), for values of any Dv."""
        return performer_attention(query, key, value, self.features)
