"""HaloNet's local self-attention layer, and SASA's as an option of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from halonet.layers.pointwise import Pointwise
from halonet.ops import local_attention, resize_table, split_tables
from halonet.ops.local_attention.backends import BACKENDS
from halonet.ops.local_attention.checks import BORDERS, pair

POSITIONS = ("split", "full", "absolute", "none")
DOWNSAMPLES = ("query", "pool")


class HaloAttention(nn.Module):
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

    height_table: nn.Parameter | None
    width_table: nn.Parameter | None

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
        super().__init__()
        _check_choice("relative", relative, POSITIONS)
        _check_choice("downsample", downsample, DOWNSAMPLES)
        _check_choice("border", border, BORDERS)
        _check_choice("backend", backend, ("auto", *BACKENDS))
        _check_positive("dim", dim)
        _check_positive("num_heads", num_heads)
        _check_positive("stride", stride)
        if window is not None and (not isinstance(window, int) or window < 1 or window % 2 == 0):
            raise ValueError(f"window must be an odd positive int or None, got {window!r}")
        self.dim = dim
        self.dim_qk = _head_multiple("query_key_multiplier", dim, query_key_multiplier, num_heads)
        self.dim_out = _head_multiple("value_multiplier", dim, value_multiplier, num_heads)
        self.num_heads = num_heads
        self.block_size = pair("block_size", block_size, minimum=1)
        self.halo_size = pair("halo_size", halo_size, minimum=0)
        self.stride = stride
        self.query_stride = stride if downsample == "query" else 1
        if any(side % self.query_stride for side in self.block_size):
            raise ValueError(f"block_size must be a multiple of stride={stride}, got {block_size!r}")
        self.window = window
        self.relative = relative
        self.border = border
        self.backend = backend

        options = {"device": device, "dtype": dtype}
        self.query = Pointwise(dim, self.dim_qk, 1, stride=self.query_stride, bias=False, **options)  # type: ignore[arg-type]
        self.key_value = Pointwise(dim, self.dim_qk + self.dim_out, 1, bias=False, **options)  # type: ignore[arg-type]
        for axis, (length, channels) in zip(("height", "width"), self._table_shapes(feat_size), strict=True):
            table = None if relative == "none" else nn.Parameter(torch.empty(length, channels, **options))  # type: ignore[arg-type]
            self.register_parameter(f"{axis}_table", table)
        pool = downsample == "pool" and stride > 1
        self.pool = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False) if pool else nn.Identity()
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

    def reset_parameters(self) -> None:
        """Truncated normal: projections with the input's fan-in, tables with the head's channels."""
        nn.init.trunc_normal_(self.query.weight, std=self.dim**-0.5)
        nn.init.trunc_normal_(self.key_value.weight, std=self.dim**-0.5)
        for table in (self.height_table, self.width_table):
            if table is not None:
                std = 0.02 if self.relative == "absolute" else (self.dim_qk // self.num_heads) ** -0.5
                nn.init.trunc_normal_(table, std=std)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a map: (B, C, H, W) -> (B, Hq, Wq, N, Dk), (B, H, W, N, Dk), (B, H, W, N, Dv)."""
        if self.relative == "absolute":
            x = self._add_absolute_position(x)
        # The op reads whole pixels: with channels last in memory neither it nor the projections copy them about.
        x = x.contiguous(memory_format=torch.channels_last)
        query = self._split_heads(self.query(x))
        key_value = self.key_value(x)
        key, value = key_value.split([self.dim_qk, self.dim_out], dim=1)
        return query, self._split_heads(key), self._split_heads(value)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The layer's attention on projected maps: (B, Hq, Wq, N, Dv), for values of any Dv."""
        return local_attention(
            query,
            key,
            value,
            block_size=self.block_size,
            halo_size=self.halo_size,
            stride=self.query_stride,
            border=self.border,
            window=self.window,
            relative=self._relative_tables(),
            scale_relative=True,
            backend=self.backend,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C * r_v, ceil(H/stride), ceil(W/stride))."""
        output = self.attend(*self.project(x))
        return self.pool(output.flatten(3).permute(0, 3, 1, 2))

    def _split_heads(self, map_: Tensor) -> Tensor:
        """(B, N*D, H, W) -> (B, H, W, N, D), without a copy."""
        return map_.unflatten(1, (self.num_heads, -1)).permute(0, 3, 4, 1, 2)

    def _relative_tables(self) -> tuple[Tensor, Tensor] | None:
        height, width = self.height_table, self.width_table
        if height is None or width is None or self.relative == "absolute":
            return None
        return split_tables(height, width) if self.relative == "split" else (height, width)

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


def _head_multiple(name: str, dim: int, multiplier: float, num_heads: int) -> int:
    """dim * multiplier as channels that the heads divide."""
    channels = dim * multiplier
    if not math.isclose(channels, round(channels), abs_tol=1e-6) or round(channels) % num_heads or channels < num_heads:
        raise ValueError(
            f"{name} * dim must be a multiple of num_heads={num_heads}, got {multiplier} * {dim} = {channels:g}"
        )
    return round(channels)


def _check_positive(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive int, got {value!r}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
