"""What attention layers on tokens share: projections, heads, and a few global tokens before those of the map."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

INIT_STD = 0.02  # of everything that learns, as in ViT (the paper's public code)


class TokenAttention(nn.Module, ABC):
    """(B, G + H * W, C) -> (B, G + H * W, C): G global tokens, then those of an H x W map, row by row.

    The multi-head self-attention of a transformer block (Vision Longformer, equation 2; arXiv 2103.15358). A subclass
    says which tokens meet (`attend`). Global and local tokens share all projections, as the paper found enough.

    Args:
        dim: channels C of a token.
        num_heads: attention heads; divides C.
        num_global: global tokens G.

    Raises:
        ValueError: channels that heads do not divide, or numbers out of their range.
    """

    def __init__(self, dim: int, *, num_heads: int, num_global: int = 1, **options: Any) -> None:
        super().__init__()
        for name, value, least in (("dim", dim, 1), ("num_heads", num_heads, 1), ("num_global", num_global, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an int of at least {least}, got {value!r}")
        if dim % num_heads:
            raise ValueError(f"dim must be a multiple of num_heads={num_heads}, got {dim}")
        self.dim, self.num_heads, self.num_global = dim, num_heads, num_global
        self.query = nn.Linear(dim, dim, **options)
        self.key_value = nn.Linear(dim, 2 * dim, **options)
        self.proj = nn.Linear(dim, dim, **options)
        for layer in (self.query, self.key_value, self.proj):
            nn.init.trunc_normal_(layer.weight, std=INIT_STD)
            nn.init.zeros_(layer.bias)

    def project(self, tokens: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, (B, G + H * W, N, D), and keys and values of what they meet, (B, S, N, D) each."""
        return self.split_heads(self.query(tokens)), *self.project_keys(tokens)

    @abstractmethod
    def attend(self, query: Tensor, key: Tensor, value: Tensor, size: tuple[int, int]) -> Tensor:
        """The layer's attention on what `project` gives: (B, G + H * W, N, Dv), for values of any Dv."""

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, G + H * W, C) of a map of `size`, (H, W), -> the same shape.

        Raises:
            ValueError: another number of tokens.
        """
        expected = self.num_global + size[0] * size[1]
        if tokens.shape[1] != expected:
            count = f"{self.num_global} global ones and a map of {tuple(size)}"
            raise ValueError(f"tokens must be {expected}, {count}, got {tokens.shape[1]}")
        return self.proj(self.attend(*self.project(tokens, size), size).flatten(2))

    def split_heads(self, tokens: Tensor) -> Tensor:
        """(B, T, N * D) -> (B, T, N, D), a view."""
        return tokens.unflatten(2, (self.num_heads, -1))

    def project_keys(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of tokens, (B, T, N, D) each."""
        key, value = self.key_value(tokens).chunk(2, dim=2)
        return self.split_heads(key), self.split_heads(value)

    def extra_repr(self) -> str:
        """The options that make this layer, for print(model)."""
        return f"{self.dim}, num_heads={self.num_heads}, num_global={self.num_global}"


def attend_all(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Every query attends to every key: (B, T, N, D), (B, S, N, D), (B, S, N, Dv), (N, T, S) -> (B, T, N, Dv)."""
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    mask = None if bias is None else bias.to(query.dtype)
    output = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return output.transpose(1, 2)
