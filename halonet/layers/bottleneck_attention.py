"""BoTNet's global self-attention layer (MHSA), with tables that follow the size of the map."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor
from torch.nn import functional as F

from halonet.layers.attention_layer import AttentionLayer
from halonet.ops import resize_table
from halonet.ops.local_attention.checks import pair

_KEPT_SIZES = 16  # of maps whose resized tables are kept: a detector sees a few shapes again and again
Tables = tuple[Tensor, Tensor]


class BottleneckAttention(AttentionLayer):
    """Global self-attention over a map: (B, C, H, W) -> (B, C * r_v, ceil(H/stride), ceil(W/stride)).

    The MHSA layer of BoTNet (figure 4; arXiv 2101.11605): W_Q, W_K and W_V without bias, no output projection, and
    logits q.k + q.r, both scaled. One call of `halonet.ops.local_attention` with a single block as large as the map and
    no halo, which streams the keys: nothing of size (H * W)^2 is made where the backend is a kernel.

    A map of another size than `feat_size` gets the tables interpolated linearly, their ends kept: a distance is then
    told as a share of the map. What appendix A.8 leaves open; the same weights run at any size, and exactly as before
    at their own. Without gradients the resized tables of the last few sizes are kept.

    Args:
        dim: channels C of the input.
        feat_size: (H, W) of the map that the position tables are made for.
        num_heads: attention heads, 4 in the paper; divides C * query_key_multiplier and C * value_multiplier.
        stride: downsampling of the output.
        downsample: what stride does. "pool": attention of all pixels, then average pooling (appendix A.4). "query":
            only every stride-th query is asked, a quarter of the work at stride 2.
        value_multiplier: output channels as a multiple of C.
        query_key_multiplier: channels of queries and keys as a multiple of C.
        relative: position, in tables shared by the heads. "full": q.r for the row and the column offset, every channel
            of a head for both. "split": half a head's channels each. "absolute": q.p with p the sum of an embedding of
            the key's row and one of its column (Table 4, q.r_abs). "none".
        content: the term q.k; False leaves position alone (Table 4, second row).
        backend: of the op; "auto" takes the fastest.

    Raises:
        ValueError: channels that heads do not divide, sizes that are not positive, an unknown option, or neither
            content nor position.
    """

    def __init__(
        self,
        dim: int,
        *,
        feat_size: int | tuple[int, int],
        num_heads: int = 4,
        stride: int = 1,
        downsample: str = "pool",
        value_multiplier: float = 1.0,
        query_key_multiplier: float = 1.0,
        relative: str = "full",
        content: bool = True,
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
            content=content,
            border="mask",  # there is none but where strided queries round the block up
            backend=backend,
            device=device,
            dtype=dtype,
        )
        self.feat_size = pair("feat_size", feat_size, minimum=1)
        channels = self.dim_qk // num_heads
        widths = (channels - channels // 2, channels // 2) if relative == "split" else (channels, channels)
        lengths = self._lengths(self.feat_size)
        self.make_tables((lengths[0], widths[0]), (lengths[1], widths[1]), device=device, dtype=dtype)
        self._resized: OrderedDict[object, Tables] = OrderedDict()
        self.reset_parameters()

    def blocks_of(self, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """One block, as large as the map (with strided queries, rounded up to whole strides), and no halo."""
        stride = self.query_stride
        return (-(-size[0] // stride) * stride, -(-size[1] // stride) * stride), (0, 0)

    def relative_tables(self, size: tuple[int, int]) -> Tables | None:
        """The tables of a map of (H, W) for its block; offsets that only a rounded block has are 0."""
        tables = super().relative_tables(size) if self.relative in ("full", "split") else None
        if tables is None:
            return None
        height, width = self._tables_at(size, tables)
        (rows, columns), _ = self.blocks_of(size)
        more_rows, more_columns = rows - size[0], columns - size[1]
        if not (more_rows or more_columns):
            return height, width
        return F.pad(height, (0, 0, more_rows, more_rows)), F.pad(width, (0, 0, more_columns, more_columns))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a map: (B, C, H, W) -> (B, Hq, Wq, N, Dk), (B, H, W, N, Dk), (B, H, W, N, Dv).

        Absolute position is part of the keys: q.k + q.p = q.(k + p).
        """
        query, key, value = super().project(x)
        if self.relative == "absolute" and self.height_table is not None and self.width_table is not None:
            size = (key.shape[1], key.shape[2])
            rows, columns = self._tables_at(size, (self.height_table, self.width_table))
            key = key + (rows[:, None] + columns[None])[:, :, None].to(key.dtype)
        return query, key, value

    def _lengths(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows of the height and of the width table for a map of (H, W)."""
        if self.relative == "absolute":
            return size
        return 2 * size[0] - 1, 2 * size[1] - 1

    def _tables_at(self, size: tuple[int, int], tables: Tables) -> Tables:
        """Tables for a map of (H, W)."""
        if size == self.feat_size:
            return tables
        lengths = self._lengths(size)
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or any(table.is_inference() for table in tables):
            return resize_table(tables[0], lengths[0]), resize_table(tables[1], lengths[1])
        # The numbers of a table change with its version, or with the memory it stands in.
        own = (self.height_table, self.width_table)
        versions = [(table._version, table.data_ptr(), table.dtype, table.device) for table in own if table is not None]
        key = (size, *versions)
        if key not in self._resized:
            self._resized[key] = resize_table(tables[0], lengths[0]), resize_table(tables[1], lengths[1])
            while len(self._resized) > _KEPT_SIZES:
                self._resized.popitem(last=False)
        return self._resized[key]

    def extra_repr(self) -> str:
        """The options that make this layer, for print(model)."""
        content = "" if self.content else ", content=False"
        return (
            f"{self.dim}, {self.dim_out}, num_heads={self.num_heads}, feat_size={self.feat_size}, "
            f"stride={self.stride}, relative={self.relative!r}{content}"
        )
