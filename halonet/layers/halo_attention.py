"""HaloNet's local self-attention layer, and SASA's as an option of it."""

from __future__ import annotations

import torch
from torch import Tensor

from halonet.layers.attention_layer import AttentionLayer
from halonet.ops import resize_table
from halonet.ops.local_attention.checks import pair


class HaloAttention(AttentionLayer):
    """Blocked local self-attention with haloing: (B, C, H, W) -> (B, C * r_v, ceil(H/stride), ceil(W/stride)).

    Projections W_Q (on the strided pixels), W_K and W_V without bias and without output projection, and one call of
    `halonet.ops.local_attention` (HaloNet, section 2.2 and equation 2; arXiv 2103.12731). The query is scaled
    before both the content and the position term. Any H and W; NCHW or channels_last memory (the latter is faster).

    Args:
        dim: channels C of the input.
        num_heads: attention heads; divides C * query_key_multiplier and C * value_multiplier.
        block_size: pixels of a block of queries, one int or (height, width); a multiple of `stride`.
        halo_size: pixels seen around a block, one int or (height, width).
        stride: downsampling of the output.
        value_multiplier: r_v, output channels as a multiple of C (Table A2).
        query_key_multiplier: r_qk, channels of queries and keys as a multiple of C (Table A1).
        relative: position. "split": relative, half a head's channels for height and half for width, shared by the
            heads (appendix A). "full": relative, every channel for both (the public BoTNet layout). "absolute":
            factorized tables, half the channels each, added to the layer's input (appendix F). "none".
        window: odd k: a query sees only the k x k pixels around it; with halo_size=k // 2 this is SASA.
        downsample: what stride does. "query": subsampled queries (section 2.2). "pool": full attention, then
            average pooling of stride x stride (SASA).
        feat_size: (H, W) at which absolute tables are stored; at other sizes they are interpolated linearly.
        border: pixels outside the map; see `halonet.ops.local_attention`.
        backend: of the op; "auto" takes the fastest.

    Raises:
        ValueError: channels that heads do not divide, sizes that are not positive, a block that `stride` does not
            divide, an even window, an unknown option, or absolute tables without feat_size.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int = 8,
        block_size: int | tuple[int, int] = 8,
        halo_size: int | tuple[int, int] = 3,
        stride: int = 1,
        value_multiplier: float = 1.0,
        query_key_multiplier: float = 1.0,
        relative: str = "split",
        window: int | None = None,
        downsample: str = "query",
        feat_size: tuple[int, int] | None = None,
        border: str = "zeros",
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            dim,
            num_heads=num_heads,
            stride=stride,
            downsample=downsample,
            value_multiplier=value_multiplier,
            query_key_multiplier=query_key_multiplier,
            relative=relative,
            border=border,
            backend=backend,
            window=window,
            device=device,
            dtype=dtype,
        )
        self.block_size = pair("block_size", block_size, minimum=1)
        self.halo_size = pair("halo_size", halo_size, minimum=0)
        if any(side % self.query_stride for side in self.block_size):
            raise ValueError(f"block_size must be a multiple of stride={stride}, got {block_size!r}")
        self.make_tables(*self._table_shapes(feat_size), device=device, dtype=dtype)
        self.reset_parameters()

    def _table_shapes(self, feat_size: tuple[int, int] | None) -> list[tuple[int, int]]:
        """(rows, channels) of the height and the width table."""
        channels = self.dim_qk // self.num_heads
        halves = [channels - channels // 2, channels // 2]
        if self.relative == "absolute":
            if feat_size is None:
                raise ValueError('feat_size must be given with relative="absolute", got None')
            height, width = pair("feat_size", feat_size, minimum=1)
            return [(height, self.dim - self.dim // 2), (width, self.dim // 2)]
        lengths = [2 * (block + halo) - 1 for block, halo in zip(self.block_size, self.halo_size, strict=True)]
        return list(zip(lengths, halves if self.relative == "split" else [channels, channels], strict=True))

    @property
    def table_std(self) -> float:
        """As of a key's channel; small for absolute tables, which are added to normalized maps."""
        return 0.02 if self.relative == "absolute" else super().table_std

    def blocks_of(self, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Block and halo: the layer's own, for a map of any size."""
        return self.block_size, self.halo_size

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a map: (B, C, H, W) -> (B, Hq, Wq, N, Dk), (B, H, W, N, Dk), (B, H, W, N, Dv)."""
        return super().project(self._add_absolute_position(x) if self.relative == "absolute" else x)

    def _add_absolute_position(self, x: Tensor) -> Tensor:
        """The map plus the factorized embedding of its size."""
        if self.height_table is None or self.width_table is None:
            return x
        height, width = x.shape[-2:]
        rows = resize_table(self.height_table, height).t()[:, :, None].expand(-1, height, width)
        columns = resize_table(self.width_table, width).t()[:, None, :].expand(-1, height, width)
        return x + torch.cat([rows, columns]).to(x.dtype)

    def extra_repr(self) -> str:
        """The options that make this layer, for print(model)."""
        window = "" if self.window is None else f", window={self.window}"
        return (
            f"{self.dim}, {self.dim_out}, num_heads={self.num_heads}, block_size={self.block_size}, "
            f"halo_size={self.halo_size}, stride={self.stride}, relative={self.relative!r}{window}"
        )
