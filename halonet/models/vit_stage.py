"""An E-ViT stage of a multi-scale vision transformer: a map to tokens, and transformer blocks (equations 1 to 3)."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import DropPath, Mlp
from torch import Tensor, nn
from torch.nn import functional as F

from halonet.layers import (
    FullAttention,
    GlobalAttention,
    LinformerAttention,
    LongformerAttention,
    PerformerAttention,
    SpatialReductionAttention,
    TokenAttention,
)
from halonet.layers.token_attention import INIT_STD
from halonet.models.token_config import TokenStageConfig
from halonet.ops import resize_table

NORM_EPS = 1e-6  # of every LayerNorm, as in the paper's public code
Size = tuple[int, int]


class PatchEmbedding(nn.Module):
    """A map to tokens, one a patch: (B, C, H, W) -> (B, ceil(H/p) * ceil(W/p), d), and (ceil(H/p), ceil(W/p)).

    A map that patches do not divide is filled up with zeros, right and below.
    """

    def __init__(self, dim: int, width: int, patch_size: int, *, norm: bool) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(dim, width, patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS) if norm else nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Size]:
        """(B, C, H, W) -> tokens, and the size of their map."""
        below, right = (-side % self.patch_size for side in x.shape[2:])
        x = self.proj(F.pad(x, (0, right, 0, below)) if below or right else x)
        return self.norm(x.flatten(2).transpose(1, 2)), (x.shape[2], x.shape[3])


class AbsolutePosition(nn.Module):
    """The 2D position embedding (APE): half the channels tell the row, half the column; one vector a global token.

    Tables are made for a map of `size`, and interpolated linearly along each axis for another.
    """

    def __init__(self, width: int, size: Size, num_global: int) -> None:
        super().__init__()
        self.height_table = nn.Parameter(torch.empty(size[0], width // 2))
        self.width_table = nn.Parameter(torch.empty(size[1], width - width // 2))
        self.global_table = nn.Parameter(torch.empty(num_global, width)) if num_global else None
        for table in self.parameters():
            nn.init.trunc_normal_(table, std=INIT_STD)

    def forward(self, size: Size) -> Tensor:
        """What is added to the tokens of a map of `size`: (G + H * W, d)."""
        rows, columns = resize_table(self.height_table, size[0]), resize_table(self.width_table, size[1])
        both = torch.cat([rows[:, None].expand(-1, size[1], -1), columns[None].expand(size[0], -1, -1)], dim=2)
        local = both.flatten(0, 1)
        return local if self.global_table is None else torch.cat([self.global_table, local])


class Block(nn.Module):
    """Attention and a feed-forward block, each after a LayerNorm and beside a shortcut."""

    def __init__(self, stage: TokenStageConfig, size: Size, *, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(stage.width, eps=NORM_EPS)
        self.attn = make_attention(stage, size)
        self.norm2 = nn.LayerNorm(stage.width, eps=NORM_EPS)
        self.mlp = Mlp(stage.width, round(stage.width * stage.mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, tokens: Tensor, size: Size) -> Tensor:
        """(B, G + H * W, d) of a map of `size` -> the same shape."""
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), size))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))


def make_attention(stage: TokenStageConfig, size: Size) -> TokenAttention:
    """The attention layer of a stage whose maps have `size` at the model's image size."""
    shared: dict[str, Any] = {"num_heads": stage.num_heads, "num_global": stage.num_global}
    if stage.attention in ("vil", "full"):
        shared |= {"bias": stage.position == "relative", "backend": stage.backend}
        if stage.attention == "full":
            return FullAttention(stage.width, feat_size=size, **shared)
        return LongformerAttention(stage.width, window=stage.window, masking=stage.masking, **shared)
    if stage.attention == "linformer":
        return LinformerAttention(stage.width, feat_size=size, num_features=stage.num_features, **shared)
    if stage.attention == "sra":
        return SpatialReductionAttention(stage.width, reduction=stage.reduction, **shared)
    if stage.attention == "performer":
        return PerformerAttention(stage.width, num_features=stage.num_features, **shared)
    return GlobalAttention(stage.width, **shared)


class TokenStage(nn.Module):
    """E-ViT (figure 1): patch embedding, global tokens, position, blocks.

    Args:
        dim: channels of the map before.
        stage: the stage.
        size: (H, W) of its own map at the model's image size.
        patch_norm: whether a LayerNorm follows the patch embedding.
        drop_paths: stochastic depth of each block.
    """

    def __init__(
        self, dim: int, stage: TokenStageConfig, size: Size, *, patch_norm: bool, drop_paths: list[float]
    ) -> None:
        super().__init__()
        self.num_global = stage.num_global
        self.embedding = PatchEmbedding(dim, stage.width, stage.patch_size, norm=patch_norm)
        self.global_tokens: nn.Parameter | None = None
        if stage.num_global:
            self.global_tokens = nn.Parameter(torch.empty(stage.num_global, stage.width))
            nn.init.trunc_normal_(self.global_tokens, std=INIT_STD)
        absolute = stage.position == "absolute"
        self.position = AbsolutePosition(stage.width, size, stage.num_global) if absolute else None
        self.blocks = nn.ModuleList(Block(stage, size, drop_path=rate) for rate in drop_paths)

    def embed(self, x: Tensor) -> tuple[Tensor, Size]:
        """(B, C, H, W) -> the tokens the blocks begin with, (B, G + H' * W', d), and (H', W')."""
        tokens, size = self.embedding(x)
        if self.global_tokens is not None:
            tokens = torch.cat([self.global_tokens.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        return tokens if self.position is None else tokens + self.position(size), size

    def to_map(self, tokens: Tensor, size: Size) -> Tensor:
        """The tokens of the map alone: (B, G + H * W, d) -> (B, d, H, W)."""
        return tokens[:, self.num_global :].transpose(1, 2).unflatten(2, size)
