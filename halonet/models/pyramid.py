"""A feature pyramid on any residual backbone, with attention after the levels and blocks that are named."""

from __future__ import annotations

import fnmatch
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

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
    """Backbone and pyramid: (B, 3, H, W) -> {"fpn1": (B, channels, H/4, W/4), "fpn2": ..., ...}, finest first.

    Lin et al.'s pyramid on maps of a backbone, further levels on top of it, and attention after levels. A level's name
    tells its stride: fpn1 has 4, fpn2 has 8 and so on. It is what detectors of torchvision take as a backbone:
    `out_channels` says the channels.

    Args:
        backbone: a `features_only` model, whose `feature_info` tells channels and reduction of each map it returns.
        indices: which of its maps carry a level, finest first, each of twice the stride of the one before.
        channels: of every level.
        further: levels on top, each of twice the stride of the one below.
        extra_blocks: what makes them; every second pixel of the level below if None.
        attention: layers by the name of the level that they follow.
        norm_layer: of the norms after the pyramid's convolutions; none, and biases, if None.

    Raises:
        ValueError: attention after a level that there is not.
    """

    config: PyramidConfig | None = None  # of `create_pyramid`

    def __init__(
        self,
        backbone: nn.Module,
        *,
        indices: Sequence[int],
        channels: int = 256,
        further: int = 1,
        extra_blocks: ExtraFPNBlock | None = None,
        attention: Mapping[str, nn.Module] | None = None,
        norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None:
        super().__init__()
        info: Any = backbone.feature_info
        self.indices, self.out_channels = tuple(indices), channels
        strides = [info.reduction()[index] for index in indices]
        strides += [strides[-1] * 2**level for level in range(1, further + 1)]
        self.strides = {f"fpn{stride.bit_length() - 2}": stride for stride in strides}
        self.backbone = backbone
        extra_blocks = SubsampledLevels(further) if extra_blocks is None else extra_blocks
        widths = [info.channels()[index] for index in indices]
        self.pyramid = FeaturePyramidNetwork(widths, channels, extra_blocks=extra_blocks, norm_layer=norm_layer)
        self.attention = nn.ModuleDict(attention or {})
        absent = [name for name in self.attention if name not in self.strides]
        if absent:
            raise ValueError(
                f"attention_at must name levels that there are, {', '.join(self.strides)}, got {absent[0]!r}"
            )
        self._channels_last = str(getattr(backbone, "output_fmt", "NCHW")).endswith("NHWC")  # some models of timm

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """(B, 3, H, W) -> the levels by name, finest first."""
        maps = self.backbone(x)
        if self._channels_last:
            maps = [map_.permute(0, 3, 1, 2) for map_ in maps]
        levels = self.pyramid(OrderedDict((str(index), maps[index]) for index in self.indices)).values()
        named = OrderedDict(zip(self.strides, levels, strict=True))
        for name, layer in self.attention.items():
            named[name] = layer(named[name])
        return named


class SubsampledLevels(ExtraFPNBlock):
    """Levels on top of a pyramid, each every second pixel of the one below."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        """The levels and their names, with those on top."""
        for number in range(self.count):
            results.append(F.max_pool2d(results[-1], kernel_size=1, stride=2))
            names.append(f"pool{number}")
        return results, names


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
    config = replace(row, **overrides)
    options: dict[str, Any] = {**config.backbone_options, **(backbone_options or {})}
    backbone = create_model(config.backbone, features_only=True, out_indices=(-4, -3, -2, -1), **options)
    attention = {f"fpn{level}": config.make_attention(config.channels) for level in config.levels}
    pyramid = FeaturePyramid(backbone, indices=range(4), channels=config.channels, attention=attention)
    pyramid.config = config
    return pyramid
