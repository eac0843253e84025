"""Vision Longformer's attention, local with global tokens, and full attention as its largest block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from halonet.layers.token_attention import INIT_STD, TokenAttention, attend_all
from halonet.ops import local_attention, resize_bias
from halonet.ops.local_attention.backends import BACKENDS

MASKINGS = {
    # Of section C: what chunks at the border of the map see, and whether a query sees all of its nine chunks.
    "chunk": {"border": "mask", "exact": False},
    "window": {"border": "mask", "exact": True},
    "cyclic": {"border": "circular", "exact": False},
}


class LongformerAttention(TokenAttention):
    """Local attention with global tokens (Vision Longformer, section 3.2 and appendix C; arXiv 2103.15358).

    A token of the map sees the global tokens and, by chunks of w x w, its own chunk and the eight around it; a global
    token sees every token. One call of `halonet.ops.local_attention` with blocks of w, halos of w and the global tokens
    as extra keys, and plain attention for the global tokens. Any H and W.

    Args:
        dim: channels C of a token.
        num_heads: attention heads; divides C.
        num_global: global tokens G.
        window: the paper's window size 2w + 1, odd, at least 3.
        masking: "chunk": all nine chunks that the map has. "window": of them the exact window around the query.
            "cyclic": chunks beyond the border are those of the other side.
        dilation: steps between the keys of a window along each axis, with "window" alone; chunks are w * dilation wide.
        bias: whether a learnt bias of the offset is added to each logit, and one of each global token (equation 4).
        backend: of the op; "auto" takes the fastest.

    Attributes:
        mode: random-shift training (appendix D). 0: all nine chunks. -1: the own chunk alone, in evaluation too.
            1 to 8: in training the own chunk and that one of the eight, row by row; in evaluation all nine.

    Raises:
        ValueError: channels that heads do not divide, an unknown option, or a number out of its range.
    """

    bias_table: nn.Parameter | None
    global_local_bias: nn.Parameter | None
    global_bias: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        num_global: int = 1,
        window: int = 15,
        masking: str = "chunk",
        dilation: int = 1,
        bias: bool = True,
        backend: str = "auto",
        **options: Any,
    ) -> None:
        super().__init__(dim, num_heads=num_heads, num_global=num_global, **options)
        if masking not in MASKINGS:
            raise ValueError(f"masking must be one of {', '.join(MASKINGS)}, got {masking!r}")
        if isinstance(window, bool) or not isinstance(window, int) or window < 3 or window % 2 == 0:
            raise ValueError(f"window must be an odd int of at least 3, got {window!r}")
        if isinstance(dilation, bool) or not isinstance(dilation, int) or dilation < 1:
            raise ValueError(f"dilation must be a positive int, got {dilation!r}")
        if dilation != 1 and masking != "window":
            raise ValueError(f"dilation must be 1 for masking={masking!r}, got {dilation}")
        if backend not in ("auto", *BACKENDS):
            raise ValueError(f"backend must be one of auto, {', '.join(BACKENDS)}, got {backend!r}")
        self.window, self.masking, self.dilation, self.backend = window, masking, dilation, backend
        self.mode = 0
        self.make_bias(self.table_size() if bias else None, **options)

    @property
    def chunk(self) -> int:
        """w, the side of a chunk."""
        return self.window // 2 * self.dilation

    def table_size(self) -> tuple[int, int]:
        """Offsets a bias table has along height and width: all between tokens of neighbouring chunks."""
        return 4 * self.chunk - 1, 4 * self.chunk - 1

    def make_bias(self, size: tuple[int, int] | None, **options: Any) -> None:
        """Makes the bias parameters, of offsets and of global tokens; none for no size.

        bias_table: (N, offsets down, offsets across), key minus query. global_local_bias: (2, N, G), of the global
        token's logits with tokens of the map, and the other way round. global_bias: (N, G, G).
        """
        heads, count = self.num_heads, self.num_global
        shapes = {"bias_table": (heads, *size)} if size is not None else {}
        if size is not None and count:
            shapes |= {"global_local_bias": (2, heads, count), "global_bias": (heads, count, count)}
        for name in ("bias_table", "global_local_bias", "global_bias"):
            parameter = nn.Parameter(torch.empty(shapes[name], **options)) if name in shapes else None
            self.register_parameter(name, parameter)
            if parameter is not None:
                nn.init.trunc_normal_(parameter, std=INIT_STD)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, size: tuple[int, int]) -> Tensor:
        """The layer's attention on what `project` gives: (B, G + H * W, N, Dv), for values of any Dv."""
        count = self.num_global
        maps = (part[:, count:].unflatten(1, size) for part in (query, key, value))
        options = self.local_options(key, size) | ({"extra_value": value[:, :count]} if count else {})
        local = local_attention(*maps, **options, backend=self.backend).flatten(1, 2)
        if not count:
            return local
        bias = self.bias_of_global(size[0] * size[1])
        return torch.cat([attend_all(query[:, :count], key, value, bias), local], dim=1)

    def local_options(self, key: Tensor, size: tuple[int, int]) -> dict[str, Any]:
        """Arguments of `local_attention` for the tokens of an (H, W) map, but for extra values; key as in `attend`."""
        options = {**self.neighborhood(size), "bias": self.bias_of(size)}
        if self.num_global:
            options["extra_key"] = key[:, : self.num_global]
            if self.global_local_bias is not None:
                options["extra_bias"] = self.global_local_bias[1]
        return options

    def neighborhood(self, size: tuple[int, int]) -> dict[str, Any]:
        """Arguments of `local_attention` that say what a token of an (H, W) map sees of it."""
        masking = MASKINGS[self.masking]
        options: dict[str, Any] = {"block_size": self.chunk, "halo_size": self.chunk, "border": masking["border"]}
        mode = self.mode if self.training or self.mode == -1 else 0
        if mode == -1:
            options["halo_size"] = 0
        elif mode > 0:
            options["neighbors"] = mode
        if masking["exact"] and mode <= 0:
            options |= {"window": self.window, "dilation": self.dilation}
        return options

    def bias_of(self, size: tuple[int, int]) -> Tensor | None:
        """The bias table for a map of (H, W) and what `neighborhood` says of it."""
        table, beyond = self.bias_table, self.chunk
        if table is None or self.mode != -1:
            return table
        return table[:, beyond:-beyond, beyond:-beyond]  # of the own chunk alone

    def bias_of_global(self, locals_: int) -> Tensor | None:
        """Of the global tokens' logits: (N, G, G + H * W)."""
        if self.global_local_bias is None or self.global_bias is None:
            return None
        to_local = self.global_local_bias[0].unsqueeze(2).expand(-1, -1, locals_)
        return torch.cat([self.global_bias, to_local], dim=2)

    def extra_repr(self) -> str:
        """The options that make this layer, for print(model)."""
        return f"{super().extra_repr()}, window={self.window}, masking={self.masking!r}"


class FullAttention(LongformerAttention):
    """Every token sees every token: one chunk as large as the map (Vision Longformer's a = full).

    The bias of offsets has a table for `feat_size`; a map of another size gets it interpolated bilinearly, its ends
    kept.

    Args:
        dim: channels C of a token.
        num_heads: attention heads; divides C.
        feat_size: (H, W) of the map that the bias table is made for.
        num_global: global tokens G.
        bias: whether a learnt bias of the offset is added to each logit, and one of each global token.
        backend: of the op; "auto" takes the fastest.

    Raises:
        ValueError: channels that heads do not divide, or an unknown option.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        feat_size: tuple[int, int],
        num_global: int = 1,
        bias: bool = True,
        backend: str = "auto",
        **options: Any,
    ) -> None:
        self.feat_size = feat_size
        super().__init__(dim, num_heads=num_heads, num_global=num_global, bias=bias, backend=backend, **options)

    def table_size(self) -> tuple[int, int]:
        """Offsets a bias table has along height and width."""
        return 2 * self.feat_size[0] - 1, 2 * self.feat_size[1] - 1

    def neighborhood(self, size: tuple[int, int]) -> dict[str, Any]:
        """One block, as large as the map."""
        return {"block_size": size, "halo_size": 0, "border": "mask"}

    def bias_of(self, size: tuple[int, int]) -> Tensor | None:
        """The bias table for a map of (H, W)."""
        if self.bias_table is None:
            return None
        return resize_bias(self.bias_table, (2 * size[0] - 1, 2 * size[1] - 1))

    def extra_repr(self) -> str:
        """The options that make this layer, for print(model)."""
        return f"{TokenAttention.extra_repr(self)}, feat_size={self.feat_size}"
