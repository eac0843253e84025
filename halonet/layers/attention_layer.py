"""What the layers on `local_attention` share: projections, heads, position tables, the call of the op, pooling."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from halonet.layers.pointwise import Pointwise
from halonet.ops import local_attention, split_tables
from halonet.ops.checks import check_choice, check_positive
from halonet.ops.local_attention.backends import BACKENDS
from halonet.ops.local_attention.checks import BORDERS

POSITIONS = ("split", "full", "absolute", "none")
DOWNSAMPLES = ("query", "pool")


class AttentionLayer(nn.Module, ABC):
    """(B, C, H, W) -> (B, C * r_v, ceil(H/stride), ceil(W/stride)): 1x1 convolutions, one call of the op, pooling.

    A subclass says into which blocks it cuts a map (`blocks_of`), makes the position tables (`make_tables`) and, where
    they depend on the map, says which ones it takes (`relative_tables`).

    Args:
        dim: channels C of the input.
        num_heads: attention heads; divides C * query_key_multiplier and C * value_multiplier.
        stride: downsampling of the output.
        downsample: what stride does. "query": subsampled queries. "pool": full attention, then average pooling of
            stride x stride.
        value_multiplier: r_v, output channels as a multiple of C.
        query_key_multiplier: r_qk, channels of queries and keys as a multiple of C.
        content: whether the content of keys takes part; without it a logit is position alone.
        relative: position, as each layer explains it.
        window: odd k: a query sees only the k x k pixels around it.
        border: pixels outside the map; see `halonet.ops.local_attention`.
        backend: of the op; "auto" takes the fastest.

    Raises:
        ValueError: channels that heads do not divide, sizes that are not positive, an even window, an unknown option.
    """

    height_table: nn.Parameter | None
    width_table: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        stride: int,
        downsample: str,
        value_multiplier: float,
        query_key_multiplier: float,
        relative: str,
        border: str,
        backend: str,
        content: bool = True,
        window: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_choice("relative", relative, POSITIONS)
        check_choice("downsample", downsample, DOWNSAMPLES)
        check_choice("border", border, BORDERS)
        check_choice("backend", backend, ("auto", *BACKENDS))
        check_positive("dim", dim)
        check_positive("num_heads", num_heads)
        check_positive("stride", stride)
        if window is not None and (not isinstance(window, int) or window < 1 or window % 2 == 0):
            raise ValueError(f"window must be an odd positive int or None, got {window!r}")
        if not content and relative == "none":
            raise ValueError('relative must tell a position where content=False, got "none"')
        self.dim = dim
        self.dim_qk = _head_multiple("query_key_multiplier", dim, query_key_multiplier, num_heads)
        self.dim_out = _head_multiple("value_multiplier", dim, value_multiplier, num_heads)
        self.num_heads = num_heads
        self.stride = stride
        self.query_stride = stride if downsample == "query" else 1
        self.window = window
        self.content = content
        self.relative = relative
        self.border = border
        self.backend = backend
        options = {"device": device, "dtype": dtype}
        key_value = (self.dim_qk if content else 0) + self.dim_out
        self.query = Pointwise(dim, self.dim_qk, 1, stride=self.query_stride, bias=False, **options)  # type: ignore[arg-type]
        self.key_value = Pointwise(dim, key_value, 1, bias=False, **options)  # type: ignore[arg-type]
        pool = downsample == "pool" and stride > 1
        self.pool = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False) if pool else nn.Identity()

    def make_tables(
        self,
        height: tuple[int, int],
        width: tuple[int, int],
        *,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        """Makes the position tables, of (rows, channels) each; none with relative="none"."""
        for axis, shape in (("height", height), ("width", width)):
            empty = None if self.relative == "none" else torch.empty(shape, device=device, dtype=dtype)
            self.register_parameter(f"{axis}_table", None if empty is None else nn.Parameter(empty))

    def reset_parameters(self) -> None:
        """Truncated normal: projections with the input's fan-in, tables with the head's channels."""
        nn.init.trunc_normal_(self.query.weight, std=self.dim**-0.5)
        nn.init.trunc_normal_(self.key_value.weight, std=self.dim**-0.5)
        for table in (self.height_table, self.width_table):
            if table is not None:
                nn.init.trunc_normal_(table, std=self.table_std)

    @property
    def table_std(self) -> float:
        """Standard deviation with which tables begin: that of a projected key's channel."""
        return float((self.dim_qk // self.num_heads) ** -0.5)

    @abstractmethod
    def blocks_of(self, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Block and halo, (height, width) each, with which a map of (H, W) is cut."""

    def relative_tables(self, size: tuple[int, int]) -> tuple[Tensor, Tensor] | None:
        """The tables that the op takes for a map of (H, W), each (2 * reach + 1, Dk)."""
        height, width = self.height_table, self.width_table
        if height is None or width is None or self.relative == "absolute":
            return None
        return split_tables(height, width) if self.relative == "split" else (height, width)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a map: (B, C, H, W) -> (B, Hq, Wq, N, Dk), (B, H, W, N, Dk), (B, H, W, N, Dv)."""
        # The op reads whole pixels: with channels last in memory neither it nor the projections copy them about.
        x = x.contiguous(memory_format=torch.channels_last)
        query, key_value = self._split_heads(self.query(x)), self.key_value(x)
        if self.content:
            key, value = (self._split_heads(part) for part in key_value.split([self.dim_qk, self.dim_out], dim=1))
        else:
            value = self._split_heads(key_value)
            key = query.new_zeros(1).expand(*value.shape[:-1], query.shape[-1])
        return query, key, value

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The layer's attention on projected maps: (B, Hq, Wq, N, Dv), for values of any Dv."""
        return local_attention(
            query, key, value, **self.neighborhood((key.shape[1], key.shape[2])), backend=self.backend
        )

    def neighborhood(self, size: tuple[int, int]) -> dict[str, Any]:
        """Arguments of `local_attention` that say what a query of an (H, W) map sees of it, and at which places."""
        block_size, halo_size = self.blocks_of(size)
        return {
            "block_size": block_size,
            "halo_size": halo_size,
            "stride": self.query_stride,
            "border": self.border,
            "window": self.window,
            "relative": self.relative_tables(size),
            "scale_relative": True,
        }

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C * r_v, ceil(H/stride), ceil(W/stride))."""
        output = self.attend(*self.project(x))
        return self.pool(output.flatten(3).permute(0, 3, 1, 2))

    def _split_heads(self, map_: Tensor) -> Tensor:
        """(B, N*D, H, W) -> (B, H, W, N, D), without a copy."""
        return map_.unflatten(1, (self.num_heads, -1)).permute(0, 3, 4, 1, 2)


def _head_multiple(name: str, dim: int, multiplier: float, num_heads: int) -> int:
    """dim * multiplier as channels that the heads divide."""
    channels = dim * multiplier
    if not math.isclose(channels, round(channels), abs_tol=1e-6) or round(channels) % num_heads or channels < num_heads:
        raise ValueError(
            f"{name} * dim must be a multiple of num_heads={num_heads}, got {multiplier} * {dim} = {channels:g}"
        )
    return round(channels)
