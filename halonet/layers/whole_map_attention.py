"""What factorized and non-local attention share as layers: the four forms of the paper's Table 8."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from halonet.layers.pointwise import PositionLinear
from halonet.ops.checks import check_choice, check_positive
from halonet.ops.factorized_attention import KINDS


@dataclass(frozen=True)
class Form:
    """A column of Table 8. bottleneck: values have fewer channels, and a last projection brings the map's back."""

    bottleneck: bool
    multi_head: bool = False
    feed_forward: bool = False


FORMS = {
    "dot": Form(bottleneck=False),
    "bot": Form(bottleneck=True),
    "multi": Form(bottleneck=True, multi_head=True),
    "transformer": Form(bottleneck=True, multi_head=True, feed_forward=True),
}


class WholeMapAttention(nn.Module, ABC):
    """x + what every position takes from all positions, the shape kept (Shen et al., sections 3.1 and 3.2, Table 8).

    Takes maps (B, C, H, W), volumes (B, C, H, W, T) and tokens (B, S, C). Of the forms

        "dot":          values have all C channels and are added to x as they are
        "bot":          values have fewer channels; a last projection brings C back
        "multi":        the same with heads
        "transformer":  the same as a Transformer's layer, with a norm after each residual sum and a pointwise
                        feed-forward of `expansion` * C hidden channels and ReLU (Vaswani et al. 2017, figure 1)

    the first three begin as the identity (the last projection is 0) and may be put anywhere into a trained network.

    Args:
        dim: channels C.
        form: "dot", "bot", "multi" or "transformer".
        kind: "gaussian" or "dot", see the op.
        channels: of coefficients and basis, or of queries and keys, all heads together: b and k of the paper.
        value_channels: of values, all heads together: m of the paper; C / 2 if None (Table 10), C for "dot".
        num_heads: divides channels and value_channels; more than 1 in "multi" and "transformer" only.
        bias: of the projections; True if None, but not for "dot", which the paper writes as products of matrices.
        expansion: hidden channels of the feed-forward as a multiple of C.

    Raises:
        ValueError: an unknown form or kind, or numbers out of their range.
    """

    # Names of the three projections: what mixes, what is mixed by, what is mixed.
    PROJECTIONS: tuple[str, str, str]

    def __init__(
        self,
        dim: int,
        *,
        form: str = "bot",
        kind: str = "gaussian",
        channels: int = 64,
        value_channels: int | None = None,
        num_heads: int = 1,
        bias: bool | None = None,
        expansion: int = 4,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_choice("form", form, FORMS)
        check_choice("kind", kind, KINDS)
        shape = FORMS[form]
        if value_channels is None:
            value_channels = max(1, dim // 2) if shape.bottleneck else dim
        numbers = {"dim": dim, "channels": channels, "value_channels": value_channels}
        _check_numbers(**numbers, num_heads=num_heads, expansion=expansion)
        _check_form(form, dim, value_channels, num_heads)
        self.dim, self.form, self.kind, self.num_heads = dim, form, kind, num_heads
        self.channels, self.value_channels = channels, value_channels
        bias = shape.bottleneck if bias is None else bias
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        widths = zip(self.PROJECTIONS, (channels, channels, value_channels), strict=True)
        self.projections = nn.ModuleDict(
            {name: PositionLinear(dim, width, bias=bias, **options) for name, width in widths}
        )
        self.output = PositionLinear(value_channels, dim, bias=bias, **options) if shape.bottleneck else nn.Identity()
        self.norms = nn.ModuleList()
        self.feed_forward: nn.Module | None = None
        if shape.feed_forward:
            self.norms.extend(nn.LayerNorm(dim, **options) for _ in range(2))
            hidden = expansion * dim
            self.feed_forward = nn.Sequential(
                nn.Linear(dim, hidden, bias=bias, **options), nn.ReLU(), nn.Linear(hidden, dim, bias=bias, **options)
            )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Projections as `nn.Linear` begins, biases 0; the last one 0 where no norm follows."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm):
                module.reset_parameters()
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        if self.feed_forward is None:
            last = self.output if isinstance(self.output, nn.Linear) else self.projections[self.PROJECTIONS[2]]
            nn.init.zeros_(last.get_parameter("weight"))

    @abstractmethod
    def attend(self, first: Tensor, second: Tensor, value: Tensor) -> Tensor:
        """The op on projected positions, (B, S, N, D) twice and (B, S, N, Dv) -> (B, S, N, Dv)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), (B, C, H, W, T) or (B, S, C) -> the same shape."""
        tokens = self.tokens_of(x)
        tokens = tokens + self.output(self.attend(*self.project(tokens)).flatten(2))
        if self.feed_forward is not None:
            tokens = self.norms[0](tokens)
            tokens = self.norms[1](tokens + self.feed_forward(tokens))
        return tokens if x.ndim == 3 else tokens.transpose(1, 2).unflatten(2, x.shape[2:])

    def project(self, tokens: Tensor) -> list[Tensor]:
        """The three projections of positions, head by head: (B, S, C) -> (B, S, N, D) twice and (B, S, N, Dv)."""
        return [projection(tokens).unflatten(2, (self.num_heads, -1)) for projection in self.projections.values()]

    def tokens_of(self, x: Tensor) -> Tensor:
        """(B, S, C) of a map, a volume or tokens.

        Raises:
            ValueError: another number of dimensions or channels.
        """
        if x.ndim not in (3, 4, 5) or x.shape[2 if x.ndim == 3 else 1] != self.dim:
            raise ValueError(
                f"x must be (B, {self.dim}, H, W), (B, {self.dim}, H, W, T) or (B, S, {self.dim}), got {tuple(x.shape)}"
            )
        return x if x.ndim == 3 else x.flatten(2).transpose(1, 2)

    def extra_repr(self) -> str:
        """The options that make this layer, for print(model)."""
        return f"{self.dim}, form={self.form!r}, kind={self.kind!r}, num_heads={self.num_heads}"


def _check_numbers(**numbers: int) -> None:
    for name, value in numbers.items():
        check_positive(name, value)
    for name in ("channels", "value_channels"):
        if numbers[name] % numbers["num_heads"]:
            raise ValueError(f"{name} must be a multiple of num_heads={numbers['num_heads']}, got {numbers[name]}")


def _check_form(form: str, dim: int, value_channels: int, num_heads: int) -> None:
    if num_heads > 1 and not FORMS[form].multi_head:
        raise ValueError(f'num_heads must be 1 in the form {form!r}, got {num_heads}; "multi" has heads')
    if value_channels != dim and not FORMS[form].bottleneck:
        raise ValueError(f"value_channels must be dim={dim} in the form {form!r}, got {value_channels}")
