"""Every multi-scale vision transformer by name, as data (Vision Longformer; arXiv 2103.15358). A new model is a row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halonet.models.token_config import TokenConfig, TokenStageConfig

# (heads, width) of the four stages; a model of three has the last three.
_STAGES = {
    "tiny": ((1, 48), (3, 96), (3, 192), (6, 384)),
    "small": ((3, 96), (3, 192), (6, 384), (12, 768)),
}
# Table 9: blocks a stage.
_DEPTHS = ((1, 10, 1), (2, 9, 1), (1, 9, 2), (2, 8, 2), (1, 1, 9, 1), (1, 2, 8, 1))
# Table 1: size and depths.
_VILS = {
    "tiny": ("tiny", (1, 1, 9, 1)),
    "small": ("small", (1, 2, 8, 1)),
    "medium": ("small", (1, 4, 16, 1)),
    "base": ("small", (1, 8, 24, 1)),
}


def multi_scale(size: str, depths: tuple[int, ...], *, image_size: int = 224, **options: Any) -> TokenConfig:
    """A model of Table 9: three stages begin with patches of 8, four with patches of 4.

    One global token a stage, none in the last (the paper's public code). options: of every stage.
    """
    widths = _STAGES[size][-len(depths) :]
    first = 4 if len(depths) == 4 else 8
    stages = tuple(
        TokenStageConfig(
            depth=depth,
            width=width,
            num_heads=heads,
            patch_size=first if index == 0 else 2,
            num_global=int(index < len(depths) - 1),
            **options,
        )
        for index, (depth, (heads, width)) in enumerate(zip(depths, widths, strict=True))
    )
    return TokenConfig(stages, image_size=image_size)


def with_full_last_stages(config: TokenConfig) -> TokenConfig:
    """Full attention in the last two stages, as a window of 15 is there at 224 (section 3.2)."""
    stages = config.stages
    full = tuple(replace(stage, attention="full") for stage in stages[-2:])
    return replace(config, stages=(*stages[:-2], *full))


def vil(name: str, *, image_size: int = 224, windows: tuple[int, int] = (15, 15)) -> TokenConfig:
    """ViL with relative position bias (Table 1): windows of the first two stages, which are local."""
    size, depths = _VILS[name]
    config = with_full_last_stages(multi_scale(size, depths, image_size=image_size))
    local = tuple(replace(stage, window=window) for stage, window in zip(config.stages, windows, strict=False))
    return replace(config, stages=(*local, *config.stages[2:]))


def flat(width: int, num_heads: int) -> TokenConfig:
    """E-ViT(full x 12 / 16): DeiT with a LayerNorm after the patches and a 2D position embedding (Table 2)."""
    stage = TokenStageConfig(
        depth=12, width=width, num_heads=num_heads, patch_size=16, attention="full", position="absolute"
    )
    return TokenConfig((stage,))


def _nano() -> TokenConfig:
    """A ViL that learns the handwritten digits on a CPU in a minute; not of the paper."""
    first = TokenStageConfig(depth=2, width=32, num_heads=2, patch_size=2, window=5)
    second = TokenStageConfig(depth=2, width=64, num_heads=4, window=5, num_global=0)
    return TokenConfig((first, second), image_size=32)


ROWS: dict[str, TokenConfig] = {
    **{f"vil_{name}_224": vil(name) for name in _VILS},
    **{f"vil_{name}_384": vil(name, image_size=384, windows=(13, 17)) for name in ("medium", "base")},
    **{
        f"msvit_{size}_{'_'.join(map(str, depths))}_224": multi_scale(
            size, depths, attention="full", position="absolute"
        )
        for size in _STAGES
        for depths in _DEPTHS
    },
    "evit_tiny_224": flat(192, 3),
    "evit_small_224": flat(384, 6),
    "vil_nano_32": _nano(),
}
