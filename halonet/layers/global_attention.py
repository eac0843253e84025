"""Pure global memory: tokens of the map meet only through the global ones."""

from __future__ import annotations

import torch
from torch import Tensor

from halonet.layers.token_attention import TokenAttention, attend_all


class GlobalAttention(TokenAttention):
    """Attention with global tokens alone (Vision Longformer, appendix E; arXiv 2103.15358).

    A token of the map sees the global tokens, a global token sees every token. Linear in the tokens of the map; takes
    many global tokens, 256 at the first stages in the paper.

    Args:
        dim: channels C of a token.
        num_heads: attention heads; divides C.
        num_global: global tokens G, at least 1.

    Raises:
        ValueError: channels that heads do not divide, or no global token.
    """

    def __init__(self, dim: int, *, num_heads: int, num_global: int = 256, **options: object) -> None:
        super().__init__(dim, num_heads=num_heads, num_global=num_global, **options)
        if not num_global:
            raise ValueError("num_global must be at least 1, for tokens of the map see nothing else, got 0")

    def attend(self, query: Tensor, key: Tensor, value: Tensor, size: tuple[int, int]) -> Tensor:
        """The layer's attention on what `project` gives: (B, G + H * W, N, Dv), for values of any Dv."""
        count = self.num_global
        of_global = attend_all(query[:, :count], key, value)
        of_local = attend_all(query[:, count:], key[:, :count], value[:, :count])
        return torch.cat([of_global, of_local], dim=1)
