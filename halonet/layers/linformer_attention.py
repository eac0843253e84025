"""Linformer's attention: keys and values of all tokens projected to a few."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from halonet.layers.token_attention import TokenAttention, attend_all


class LinformerAttention(TokenAttention):
    """Attention to `num_features` mixtures of all tokens (Linformer; Vision Longformer, appendix E).

    The mixtures are learnt for one number of tokens: a map of another size cannot be taken.

    Args:
        dim: channels C of a token.
        num_heads: attention heads; divides C.
        feat_size: (H, W) of the map.
        num_global: global tokens G; they are mixed as the others are.
        num_features: mixtures K, 256 in the paper.
        share_key_value: one projection of tokens for keys and values, as in the paper's models.

    Raises:
        ValueError: channels that heads do not divide, numbers out of their range, or in `forward` another map.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        feat_size: tuple[int, int],
        num_global: int = 1,
        num_features: int = 256,
        share_key_value: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(dim, num_heads=num_heads, num_global=num_global, **options)
        if isinstance(num_features, bool) or not isinstance(num_features, int) or num_features < 1:
            raise ValueError(f"num_features must be a positive int, got {num_features!r}")
        self.feat_size, self.num_features = feat_size, num_features
        count, bound = num_global + feat_size[0] * feat_size[1], num_features**-0.5
        self.mix_key = nn.Parameter(torch.empty(count, num_features, **options).uniform_(-bound, bound))
        self.mix_value: nn.Parameter | None = None
        if not share_key_value:
            self.mix_value = nn.Parameter(torch.empty(count, num_features, **options).uniform_(-bound, bound))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, size: tuple[int, int]) -> Tensor:
        """The layer's attention on what `project` gives: (B, G + H * W, N, Dv), for values of any Dv."""
        if tuple(size) != tuple(self.feat_size):
            raise ValueError(
                f"size must be {tuple(self.feat_size)}, which the mixtures are made for, got {tuple(size)}"
            )
        mix_value = self.mix_key if self.mix_value is None else self.mix_value
        key = torch.einsum("btnd,tk->bknd", key, self.mix_key)
        value = torch.einsum("btnd,tk->bknd", value, mix_value)
        return attend_all(query, key, value)
