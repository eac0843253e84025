"""Small attending layers of every mechanism, in float64, with something for each to read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.layers.bottleneck_attn import BottleneckAttn
from timm.layers.halo_attn import HaloAttn
from torch import nn

from halonet import layers as kinds
from halonet.layers.timm_attention import TimmBottleneckAttention, TimmHaloAttention

DIM, SIZE, GLOBALS = 8, (7, 9), 2
HALO: dict[str, Any] = {"num_heads": 2, "block_size": 4, "halo_size": 2}
TOKENS: dict[str, Any] = {"num_heads": 2, "num_global": GLOBALS}


def _halo(**options: Any) -> nn.Module:
    return kinds.HaloAttention(DIM, **{**HALO, **options})


def _bottleneck(**options: Any) -> nn.Module:
    return kinds.BottleneckAttention(DIM, feat_size=SIZE, num_heads=2, **options)


def _vil(mode: int = 0, **options: Any) -> nn.Module:
    layer = kinds.LongformerAttention(DIM, **{**TOKENS, "window": 5, **options})
    layer.mode = mode
    return layer


def _timm_halo(**options: Any) -> nn.Module:
    return TimmHaloAttention(HaloAttn(DIM, num_heads=2, block_size=4, halo_size=1, **options), backend="reference")


def _timm_bottleneck(**options: Any) -> nn.Module:
    return TimmBottleneckAttention(BottleneckAttn(DIM, feat_size=(4, 6), num_heads=2, **options), backend="reference")


MAKERS: dict[str, Callable[[], nn.Module]] = {
    "halo": _halo,
    "halo-reference": lambda: _halo(backend="reference"),
    "halo-sdpa": lambda: _halo(backend="sdpa"),
    "halo-full-stride": lambda: _halo(relative="full", stride=2),
    "halo-absolute": lambda: _halo(relative="absolute", feat_size=(6, 6)),
    "halo-mask": lambda: _halo(relative="none", border="mask", block_size=(4, 2), halo_size=(1, 3)),
    "halo-circular": lambda: _halo(border="circular"),
    "halo-window-pool": lambda: _halo(window=3, halo_size=1, stride=2, downsample="pool"),
    "bottleneck": _bottleneck,
    "bottleneck-split": lambda: _bottleneck(relative="split"),
    "bottleneck-absolute": lambda: _bottleneck(relative="absolute"),
    "bottleneck-position-alone": lambda: _bottleneck(content=False),
    "bottleneck-none": lambda: _bottleneck(relative="none"),
    "bottleneck-query": lambda: _bottleneck(stride=2, downsample="query"),
    "bottleneck-pool": lambda: _bottleneck(stride=2),
    "bottleneck-resized": lambda: kinds.BottleneckAttention(DIM, feat_size=(5, 5), num_heads=2),
    "vil-chunk": _vil,
    "vil-window": lambda: _vil(masking="window"),
    "vil-cyclic": lambda: _vil(masking="cyclic"),
    "vil-dilated": lambda: _vil(masking="window", dilation=2, backend="reference"),
    "vil-own-chunk": lambda: _vil(mode=-1),
    "vil-shifted": lambda: _vil(mode=3),
    "vil-unbiased": lambda: _vil(bias=False),
    "vil-no-tokens": lambda: _vil(num_global=0),
    "full": lambda: kinds.FullAttention(DIM, feat_size=SIZE, **TOKENS),
    "full-resized": lambda: kinds.FullAttention(DIM, feat_size=(5, 5), **TOKENS),
    "memory": lambda: kinds.GlobalAttention(DIM, **TOKENS),
    "linformer": lambda: kinds.LinformerAttention(DIM, feat_size=SIZE, num_features=5, **TOKENS),
    "linformer-two": lambda: kinds.LinformerAttention(
        DIM, feat_size=SIZE, num_features=5, share_key_value=False, **TOKENS
    ),
    "sra": lambda: kinds.SpatialReductionAttention(DIM, reduction=2, **TOKENS),
    "sra-beyond": lambda: kinds.SpatialReductionAttention(DIM, reduction=8, **TOKENS),
    "performer": lambda: kinds.PerformerAttention(DIM, num_features=6, **TOKENS),
    "factorized": lambda: kinds.FactorizedAttention(DIM, form="multi", channels=6, num_heads=2),
    "factorized-dot": lambda: kinds.FactorizedAttention(DIM, kind="dot", channels=6),
    "factorized-transformer": lambda: kinds.FactorizedAttention(DIM, form="transformer", channels=6, num_heads=2),
    "nonlocal": lambda: kinds.NonLocal(DIM, form="multi", channels=6, num_heads=2),
    "nonlocal-dot": lambda: kinds.NonLocal(DIM, kind="dot", channels=6),
    "nonlocal2d": lambda: kinds.NonLocal2d(DIM),
    "nonlocal2d-dot": lambda: kinds.NonLocal2d(DIM, kind="dot"),
    "timm-halo": _timm_halo,
    "timm-halo-stride": lambda: _timm_halo(stride=2),
    "timm-bottleneck": _timm_bottleneck,
    "timm-bottleneck-stride": lambda: _timm_bottleneck(stride=2),
}


def make(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    """A layer in evaluation mode, its parameters random and large enough to be seen, and what its forward takes."""
    torch.manual_seed(0)
    layer = MAKERS[name]().double().eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
        parameter.requires_grad_(False)
    size = (4, 6) if "timm-bottleneck" in name else SIZE
    if isinstance(layer, kinds.TokenAttention):
        return layer, (torch.randn(1, layer.num_global + size[0] * size[1], DIM, dtype=torch.float64), size)
    return layer, (torch.randn(1, DIM, *size, dtype=torch.float64),)


class Reading(nn.Module):
    """A model of one layer that reads what is given, whatever the image is."""

    def __init__(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        super().__init__()
        self.layer, self.inputs = layer, inputs

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The layer's output."""
        return self.layer(*self.inputs)
