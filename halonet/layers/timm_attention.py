"""timm's local and global attention layers, computed by our op from their own parameters, under their own names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, cast

import torch
from torch import Tensor, nn

from halonet.layers.memory_format import channels_first
from halonet.layers.pointwise import pointwise
from halonet.ops import local_attention


class TimmAttention(nn.Module, ABC):
    """What both have: the modules of the layer taken over, heads, scaling, tables, and the pooling that strides."""

    pos_embed: nn.Module
    pool: nn.Module

    def __init__(self, layer: nn.Module, backend: str) -> None:
        super().__init__()
        self.num_heads = cast(int, layer.num_heads)
        self.dim_head_qk, self.dim_head_v = cast(int, layer.dim_head_qk), cast(int, layer.dim_head_v)
        self.scale_pos_embed = cast(bool, layer.scale_pos_embed)
        for name, child in layer.named_children():  # in their order, and so that of the state dict
            self.add_module(name, child)
        self.backend = backend
        self.train(layer.training)

    def split_heads(self, pixels: Tensor) -> Tensor:
        """(B, H, W, N * D) -> (B, H, W, N, D), a view."""
        return pixels.unflatten(3, (self.num_heads, -1))

    def tables(self, unused: int) -> tuple[Tensor, Tensor]:
        """The position tables without their first, unused rows."""
        return cast(Tensor, self.pos_embed.height_rel)[unused:], cast(Tensor, self.pos_embed.width_rel)[unused:]

    @abstractmethod
    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a map: (B, C, H, W) -> (B, Hq, Wq, N, Dk), (B, H, W, N, Dk), (B, H, W, N, Dv)."""

    @abstractmethod
    def neighborhood(self, size: tuple[int, int]) -> dict[str, Any]:
        """Arguments of `local_attention` for a map of (H, W)."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The layer's attention on projected maps: (B, Hq, Wq, N, Dv), for values of any Dv."""
        options = self.neighborhood((key.shape[1], key.shape[2]))
        return local_attention(query, key, value, **options, backend=self.backend)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        return self.merge(self.attend(*self.project(x)), x)

    def merge(self, output: Tensor, like: Tensor) -> Tensor:
        """(B, H, W, N, D) -> (B, N * D, H, W), pooled, in the memory format of the layer's input.

        A model goes on as it was: two formats side by side cost its convolutions more than the copy here.
        """
        output = output.flatten(3).permute(0, 3, 1, 2)
        if not like.is_contiguous(memory_format=torch.channels_last):
            output = channels_first(output)
        return cast(Tensor, self.pool(output))


class TimmHaloAttention(TimmAttention):
    """`timm.layers.halo_attn.HaloAttn` by our op: (B, C, H, W) -> (B, C', H', W').

    Takes over the modules of the layer it is made of, so that parameters and the keys of its state dict are the same.
    Offsets of strided queries are counted as timm counts them, in steps of queries. Any H and W, where timm's needs
    multiples of the block.

    Args:
        layer: timm's. Its parameters are shared, not copied.
        backend: of the op; "auto" takes the fastest.
    """

    q: nn.Conv2d
    kv: nn.Conv2d

    def __init__(self, layer: nn.Module, *, backend: str = "auto") -> None:
        super().__init__(layer, backend)
        self.block_size, self.halo_size = cast(int, layer.block_size), cast(int, layer.halo_size)
        self.block_stride = cast(int, layer.block_stride)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a map: (B, C, H, W) -> (B, Hq, Wq, N, Dk), (B, H, W, N, Dk), (B, H, W, N, Dv)."""
        x = x.contiguous(memory_format=torch.channels_last)
        # timm's key-value projection goes head by head, [k_0, v_0, k_1, v_1, ...].
        key_value = self.split_heads(pointwise(x, self.kv))
        key, value = key_value.split([self.dim_head_qk, self.dim_head_v], dim=-1)
        return self.split_heads(pointwise(x, self.q)), key, value

    def neighborhood(self, size: tuple[int, int]) -> dict[str, Any]:
        """Arguments of `local_attention` for a map of (H, W)."""
        return {
            "block_size": self.block_size,
            "halo_size": self.halo_size,
            "stride": self.block_stride,
            # The first 2 * halo rows belong to offsets that no query and key have.
            "relative": self.tables(2 * self.halo_size),
            "scale_relative": self.scale_pos_embed,
            "relative_stride": 1,
        }


class TimmBottleneckAttention(TimmAttention):
    """`timm.layers.bottleneck_attn.BottleneckAttn` by our op, one block as large as the map.

    Takes over the modules of the layer it is made of. The map has the size the tables were made for, as in timm.

    Args:
        layer: timm's. Its parameters are shared, not copied.
        backend: of the op; "auto" takes the fastest.
    """

    qkv: nn.Conv2d

    def __init__(self, layer: nn.Module, *, backend: str = "auto") -> None:
        super().__init__(layer, backend)
        self.feat_size = cast(int, self.pos_embed.height), cast(int, self.pos_embed.width)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a map: (B, C, H, W) -> (B, H, W, N, Dk) twice and (B, H, W, N, Dv).

        Raises:
            ValueError: a map of another size than that of the tables.
        """
        if tuple(x.shape[-2:]) != self.feat_size:
            raise ValueError(f"x must be a map of {self.feat_size}, got {tuple(x.shape[-2:])}")
        pixels = pointwise(x.contiguous(memory_format=torch.channels_last), self.qkv)
        query_key = self.num_heads * self.dim_head_qk
        parts = pixels.split([query_key, query_key, self.num_heads * self.dim_head_v], dim=3)
        query, key, value = (self.split_heads(part) for part in parts)
        return query, key, value

    def neighborhood(self, size: tuple[int, int]) -> dict[str, Any]:
        """Arguments of `local_attention` for the one size of map."""
        options = {"relative": self.tables(0), "scale_relative": self.scale_pos_embed}
        return {"block_size": self.feat_size, "halo_size": 0, **options}
