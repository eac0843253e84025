"""The backbone of a detector: maps of a network of ours or of timm's, and a feature pyramid on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.models import is_model
from torch import nn
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from halonet.detection.config import DetectorConfig
from halonet.models import create_model, list_models, list_pyramids
from halonet.models.config import nearest
from halonet.models.pyramid import PYRAMIDS, FeaturePyramid

STRIDES = (4, 8, 16, 32)  # of the maps that carry a level
TOP = 64  # stride of the coarsest level of an R-CNN
TIMM = "timm/"
_TRIED = 128  # pixels: about the least side of an image that a network of timm's is tried on


def make_backbone(config: DetectorConfig) -> FeaturePyramid:
    """Backbone and pyramid of a detector.

    Of the backbone's maps the last of each stride from 4 to 32 carries a level. An R-CNN's pyramid goes on to stride 64
    by taking every second pixel; a RetinaNet's leaves out stride 4 and goes on by two strided convolutions.

    Raises:
        ValueError: an unknown backbone or option, or a backbone without such a map.
    """
    pyramid = PYRAMIDS.get(config.backbone)
    options: dict[str, Any] = dict(config.backbone_options)
    if pyramid is not None:
        body = make_body(pyramid.backbone, {**pyramid.backbone_options, **options})
    else:
        body = make_body(config.backbone, options)
    if config.backbone not in list_models() and pyramid is None:
        check_body(body, config)
    info: Any = body.feature_info
    strides, widths = info.reduction(), info.channels()
    indices = level_indices(strides, finest=8 if config.kind == "retinanet" else 4, name=config.backbone)
    extra, further = None, (TOP // strides[indices[-1]]).bit_length() - 1
    if config.kind == "retinanet":
        of_map = config.top_levels == "c5"
        extra = LastLevelP6P7(widths[indices[-1]] if of_map else config.fpn_channels, config.fpn_channels)
        extra.use_P5, further = not of_map, 2
    attention = {}
    if pyramid is not None:
        named = [level for level in pyramid.levels if level > 1 or config.kind != "retinanet"]
        attention = {f"fpn{level}": pyramid.make_attention(config.fpn_channels) for level in named}
    return FeaturePyramid(
        body,
        indices=indices,
        channels=config.fpn_channels,
        further=further,
        extra_blocks=extra,
        attention=attention,
        norm_layer=nn.BatchNorm2d if config.norm == "batch" else None,
    )


def make_body(name: str, options: Mapping[str, Any]) -> nn.Module:
    """A network that returns its maps: of `list_models`, or of timm.

    Raises:
        ValueError: an unknown name, with the nearest right ones, or options that do not fit.
    """
    ours = list_models()
    if name in ours:
        return create_model(name, features_only=True, **options)
    plain = name.removeprefix(TIMM)
    if not is_model(plain) or plain in ours:
        close = nearest(name, [*ours, *list_pyramids()]) or nearest(plain, timm.list_models())
        raise ValueError(f"unknown backbone {name!r}{close}")
    try:
        return timm.create_model(plain, features_only=True, **options)
    except (TypeError, RuntimeError, AttributeError, AssertionError) as error:
        raise ValueError(f"timm cannot make a backbone of {plain} with {dict(options)}: {error}") from error


@torch.no_grad()
def check_body(body: Any, config: DetectorConfig) -> None:
    """Tries a network of timm's on an image such as the detector will give it: many take images of one size alone.

    Raises:
        ValueError: it does not take it, or its maps are not those that its `feature_info` tells.
    """
    step, least = config.size_divisible, max(1, _TRIED // config.size_divisible)
    most = -(-config.max_size // step)
    height, width = (step * min(most, count) for count in (least, least + 1))
    parameter = next(body.parameters())
    was_training, channels = body.training, body.feature_info.channels()
    try:
        maps = body.eval()(torch.zeros(1, 3, height, width, device=parameter.device, dtype=parameter.dtype))
    except (TypeError, ValueError, RuntimeError, AttributeError, AssertionError) as error:
        told = (str(error).strip() or "no reason given").splitlines()[0]
        raise ValueError(
            f"backbone {config.backbone} does not take images of {height} x {width} pixels ({told}); one that takes "
            "some sizes alone needs a size_divisible, and max_size, that suit it"
        ) from error
    finally:
        body.train(was_training)
    axis = 3 if str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC") else 1
    if [map_.ndim for map_ in maps] != [4] * len(channels) or [map_.shape[axis] for map_ in maps] != channels:
        shapes = ", ".join(str(tuple(map_.shape)) for map_ in maps)
        raise ValueError(f"backbone {config.backbone} must return maps of {channels} channels, it returns {shapes}")


def level_indices(strides: list[int], *, finest: int, name: str) -> list[int]:
    """Which maps carry a level: of each stride from 4 to 32 the last, from `finest` on where there is one.

    Raises:
        ValueError: no map has such a stride.
    """
    last = {stride: index for index, stride in enumerate(strides)}
    found = [last[stride] for stride in STRIDES if stride in last]
    if not found:
        told = ", ".join(map(str, strides))
        raise ValueError(f"backbone must have maps of stride 4, 8, 16 or 32, {name} has {told}")
    return [index for index in found if strides[index] >= finest] or found
