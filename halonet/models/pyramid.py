"""A feature pyramid on any residual backbone, with attention after the levels and blocks that are named."""

from __future__ import annotations

import fnmatch
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from halonet.models.config import ResidualConfig, nearest
from halonet.models.inserted_attention import InsertedAttention, place_names
from halonet.models.zoo import create_model, model_config
from halonet.ops.checks import check_positive

LEVELS = 5
_LEVEL = re.compile(r"fpn([1-5])")


@dataclass(frozen=True)
class PyramidConfig(InsertedAttention):
    """A backbone with a feature pyramid of five levels (Shen et al., section 4.1).

    backbone: a residual model that `list_models` names, of four stages.
    channels: of every level.
    attention_at: places of the backbone, see `inserted_attention.residual_places`, and "fpn1" (stride 4) to "fpn5"
        (stride 64) or "fpn_all": after the level's 3x3 convolution, or its pooling.
    """

    backbone: str
    channels: int = 256
    attention_at: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.check_attention()
        check_positive("channels", self.channels)
        object.__setattr__(self, "attention_at", place_names(self.attention_at))
        config = model_config(self.backbone)
        if not isinstance(config, ResidualConfig) or len(config.stages) != 4:
            raise ValueError(f"backbone must be a residual model of four stages, got {self.backbone!r}")
        _ = self.levels, model_config(self.backbone, **self.backbone_options)

    @property
    def levels(self) -> tuple[int, ...]:
        """The levels, from 1, that attention follows."""
        named = [name for name in self.attention_at if name.startswith("fpn")]
        wrong = [name for name in named if name != "fpn_all" and not _LEVEL.fullmatch(name)]
        if wrong:
            raise ValueError(f"attention_at must name fpn1 to fpn{LEVELS}, fpn_all or res..., got {wrong[0]!r}")
        found = [int(name[3:]) for name in named if name != "fpn_all"]
        found += range(1, LEVELS + 1) if "fpn_all" in named else []
        if len(set(found)) < len(found):
            raise ValueError(f"attention_at names a level twice: {', '.join(named)}")
        return tuple(sorted(found))

    @property
    def backbone_options(self) -> dict[str, Any]:
        """What `create_model` is to be given for the backbone with its share of the attention."""
        shared = {field.name: getattr(self, field.name) for field in fields(InsertedAttention)}
        return {**shared, "attention_at": tuple(name for name in self.attention_at if not name.startswith("fpn"))}


class FeaturePyramid(nn.Module):
    """Backbone and pyramid: (B, 3, H, W) -> {"fpn1": (B, channels, H/4, W/4), ..., "fpn5": (B, channels, H/64, W/64)}.

    Lin et al.'s pyramid on the four stages; the fifth level is every second pixel of the fourth. It is what detectors
    of torchvision take as a backbone: `out_channels` says the channels.

    Args:
        config: the pyramid.
        backbone_options: of `create_model` for the backbone, such as `in_chans` or `drop_path_rate`.

    Raises:
        ValueError: options that do not fit.
    """

    def __init__(self, config: PyramidConfig, **backbone_options: Any) -> None:
        super().__init__()
        self.config, self.out_channels = config, config.channels
        options = {**config.backbone_options, **backbone_options}
        self.backbone = create_model(config.backbone, features_only=True, out_indices=(-4, -3, -2, -1), **options)
        widths = self.backbone.feature_info.channels()  # type: ignore[union-attr, operator]
        self.pyramid = FeaturePyramidNetwork(widths, config.channels, extra_blocks=LastLevelMaxPool())
        layers = {f"fpn{level}": config.make_attention(config.channels) for level in config.levels}
        self.attention = nn.ModuleDict(layers)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """(B, 3, H, W) -> the levels by name, finest first."""
        stages = OrderedDict((str(index), map_) for index, map_ in enumerate(self.backbone(x)))
        levels = self.pyramid(stages).values()
        named = OrderedDict((f"fpn{number}", map_) for number, map_ in enumerate(levels, start=1))
        for name, layer in self.attention.items():
            named[name] = layer(named[name])
        return named


def _position_rows() -> dict[str, PyramidConfig]:
    """Tables 1 to 4: a ResNet-50 with attention in one place, in several, and the last of these varied."""
    plain = PyramidConfig(backbone="resnet50_224")
    everywhere = ("fpn_all", "res3", "res4")
    places = {
        **{name: (name,) for name in ("res1", "res2", "res3", "res4", "fpn1", "fpn2", "fpn3", "fpn4", "fpn5")},
        "fpn_all": ("fpn_all",),
        "fpn1234_res3": ("fpn1", "fpn2", "fpn3", "fpn4", "res3"),
        "fpn_all_res34": everywhere,
    }
    rows = {"resnet50_fpn": plain}
    for prefix, attention in (("fa", "factorized"), ("nl", "nonlocal")):  # figure 6: both in one place
        for name, at in places.items():
            rows[f"resnet50_fpn_{prefix}_{name}"] = replace(plain, attention_at=at, attention=attention)
    best = rows["resnet50_fpn_fa_fpn_all_res34"]
    rows |= {f"resnet50_fpn_fa_fpn_all_res34_b{basis}": replace(best, basis=basis) for basis in (32, 128)}
    for heads in (2, 4, 8):
        rows[f"resnet50_fpn_fa_fpn_all_res34_h{heads}"] = replace(best, attention_form="multi", attention_heads=heads)
    for name in ("resnet101", "resnext101_32x8d"):
        rows[f"{name}_fpn"] = replace(plain, backbone=f"{name}_224")
        rows[f"{name}_fpn_fa_fpn_all_res34"] = replace(best, backbone=f"{name}_224")
    return rows


# Rows of Shen et al.'s Tables 1 to 4. Any of them with non-local attention: attention="nonlocal".
PYRAMIDS: Mapping[str, PyramidConfig] = _position_rows()


def list_pyramids(pattern: str = "*") -> list[str]:
    """Names of the pyramids, sorted; `pattern` with shell wildcards."""
    return sorted(fnmatch.filter(PYRAMIDS, pattern))


def create_pyramid(name: str, *, backbone_options: Mapping[str, Any] | None = None, **overrides: Any) -> FeaturePyramid:
    """A backbone with its feature pyramid, by name or by the name of its backbone.

    Args:
        name: of PYRAMIDS, or a residual model of `list_models`.
        backbone_options: of `create_model` for the backbone.
        overrides: fields of `PyramidConfig`: `attention_at="fpn_all,res3"`, `attention="nonlocal"`, `basis=32`.

    Raises:
        ValueError: an unknown name or option, with the nearest right ones, or a value out of its range.
    """
    known = {field.name for field in fields(PyramidConfig)}
    for option in overrides:
        if option not in known:
            raise ValueError(f"unknown pyramid option {option!r}{nearest(option, known)}")
    row = PYRAMIDS[name] if name in PYRAMIDS else PyramidConfig(backbone=name)
    return FeaturePyramid(replace(row, **overrides), **(backbone_options or {}))
