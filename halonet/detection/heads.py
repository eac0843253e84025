"""Heads and anchors of torchvision's detectors with what it leaves out: norms of each level, exact strides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.retinanet import (
    RetinaNetClassificationHead,
    RetinaNetHead,
    RetinaNetRegressionHead,
)
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from halonet.detection.config import DetectorConfig


class LevelTower(nn.Module):
    """3x3 convolutions shared by all levels of a pyramid, each with a batch norm of the level and a ReLU.

    Statistics of levels differ, so that one running estimate for all would fit none in evaluation.
    """

    def __init__(self, channels: int, *, convs: int, levels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(convs))
        self.norms = nn.ModuleList(nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(convs)) for _ in range(levels))
        for conv in self.convs:
            nn.init.normal_(conv.weight, std=0.01)  # type: ignore[arg-type]

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """(B, C, H, W) of each level -> the same shapes."""
        outputs = []
        norms_of_levels: Any = self.norms
        for x, norms in zip(levels, norms_of_levels, strict=True):
            for conv, norm in zip(self.convs, norms, strict=True):
                x = F.relu(norm(conv(x)))
            outputs.append(x)
        return outputs


class _AfterTower(nn.Module):
    """A head of torchvision with a `LevelTower` in place of its own convolutions."""

    def take_tower(self, channels: int, *, convs: int, levels: int) -> None:
        """Makes the tower."""
        self.conv = nn.Identity()
        self.tower = LevelTower(channels, convs=convs, levels=levels)

    def forward(self, x: list[Tensor]) -> Any:
        """What the head makes of the levels."""
        return super().forward(self.tower(x))


class LevelRPNHead(_AfterTower, RPNHead):
    """torchvision's RPNHead with norms."""


class LevelClassificationHead(_AfterTower, RetinaNetClassificationHead):
    """torchvision's RetinaNetClassificationHead with norms of each level."""


class LevelRegressionHead(_AfterTower, RetinaNetRegressionHead):
    """torchvision's RetinaNetRegressionHead with norms of each level."""


class Anchors(AnchorGenerator):
    """torchvision's, in float32 at least: in bfloat16, which autocast's maps have, pixels above 256 cannot be told
    apart."""

    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        super().set_cell_anchors(torch.promote_types(dtype, torch.float32), device)


class StridedAnchors(Anchors):
    """Anchors at multiples of each level's stride.

    torchvision's stand at multiples of image size // map size, which is less where a stride does not divide the image.
    """

    def __init__(self, sizes: Any, aspect_ratios: Any, *, strides: Sequence[int]) -> None:
        super().__init__(sizes, aspect_ratios)
        self.strides = tuple(strides)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """The anchors of each image, (N, 4) in pixels of the batch, levels one after the other."""
        first = feature_maps[0]
        self.set_cell_anchors(first.dtype, first.device)
        steps = [[torch.tensor(stride, device=first.device)] * 2 for stride in self.strides]
        anchors = torch.cat(self.grid_anchors([list(map_.shape[-2:]) for map_ in feature_maps], steps))
        return [anchors] * len(image_list.image_sizes)


class LevelPool(MultiScaleRoIAlign):
    """torchvision's, of maps in another precision than the boxes."""

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """(N, C, size, size) of N boxes, in the precision of the maps."""
        dtype = next(iter(x.values())).dtype
        pooled: Tensor = super().forward({name: x[name].to(boxes[0].dtype) for name in x}, boxes, image_shapes)
        return pooled.to(dtype)


def answer_in_float32(*heads: nn.Module) -> None:
    """Makes heads answer in float32 at least, whatever autocast computes them in.

    torchvision gives boxes the type of what the heads say of them, and bfloat16 has 8 pixels between neighbours at
    1024. The state dict stays as it is.
    """
    for head in heads:
        head.register_forward_hook(_in_float32)


def _in_float32(module: nn.Module, inputs: Any, output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.to(torch.promote_types(output.dtype, torch.float32))
    if isinstance(output, dict):
        return {name: _in_float32(module, inputs, value) for name, value in output.items()}
    return type(output)(_in_float32(module, inputs, value) for value in output)


def never_the_background(head: RetinaNetHead) -> None:
    """Makes a RetinaNet find no background: torchvision takes label 0, which no target has, for a class as any."""
    head.register_forward_hook(_without_background)


def _without_background(module: nn.Module, inputs: Any, output: dict[str, Tensor]) -> dict[str, Tensor]:
    if module.training:
        return output
    logits = output["cls_logits"].clone()
    logits[..., 0] = -torch.inf
    return {**output, "cls_logits": logits}


def make_anchors(config: DetectorConfig, strides: Sequence[int]) -> AnchorGenerator:
    """Anchors of a pyramid with these strides: the configuration's ratios and octaves at each."""
    octaves = [2 ** (step / config.anchor_octaves) for step in range(config.anchor_octaves)]
    # Whole pixels, as torchvision's RetinaNet has them.
    sizes = tuple(tuple(int(config.anchor_scale * stride * octave) for octave in octaves) for stride in strides)
    ratios = (config.anchor_ratios,) * len(sizes)
    return StridedAnchors(sizes, ratios, strides=strides) if config.exact_strides else Anchors(sizes, ratios)


def make_rpn_head(config: DetectorConfig, *, levels: int) -> RPNHead:
    """What proposes regions: `rpn_convs` convolutions, and logits and boxes of each anchor."""
    anchors, channels = config.anchor_octaves * len(config.anchor_ratios), config.fpn_channels
    if config.norm != "batch":
        return RPNHead(channels, anchors, conv_depth=config.rpn_convs)
    head = LevelRPNHead(channels, anchors, conv_depth=1)
    head.take_tower(channels, convs=config.rpn_convs, levels=levels)
    return head


def make_retina_head(config: DetectorConfig, *, levels: int) -> RetinaNetHead:
    """A RetinaNet's two heads of four convolutions each."""
    anchors, channels = config.anchor_octaves * len(config.anchor_ratios), config.fpn_channels
    head = RetinaNetHead(channels, anchors, config.num_classes)
    if config.norm == "batch":
        head.classification_head = LevelClassificationHead(channels, anchors, config.num_classes)
        head.regression_head = LevelRegressionHead(channels, anchors)
        for part in (head.classification_head, head.regression_head):
            part.take_tower(channels, convs=4, levels=levels)
    return head


def make_box_head(config: DetectorConfig) -> nn.Module:
    """Convolutions, then fully connected layers, on 7x7 pixels of a region."""
    norm = nn.BatchNorm2d if config.norm == "batch" else None
    channels = config.fpn_channels
    if not config.box_convs and config.box_fcs == 2:
        return TwoMLPHead(channels * 7**2, config.fc_dim)
    return FastRCNNConvFCHead(
        (channels, 7, 7), [channels] * config.box_convs, [config.fc_dim] * config.box_fcs, norm_layer=norm
    )


def make_mask_parts(config: DetectorConfig) -> dict[str, nn.Module]:
    """What torchvision's MaskRCNN takes for its masks, but the pooling."""
    norm = nn.BatchNorm2d if config.norm == "batch" else None
    widths = [config.mask_channels] * config.mask_convs
    return {
        "mask_head": MaskRCNNHeads(config.fpn_channels, widths, dilation=1, norm_layer=norm),
        "mask_predictor": MaskRCNNPredictor(config.mask_channels, config.mask_channels, config.num_classes),
    }


def make_pool(levels: dict[str, int], size: int) -> MultiScaleRoIAlign:
    """Pools a region to size x size pixels, from the level of its size (Lin et al.).

    Args:
        levels: stride of each level that carries regions, by name.
        size: pixels.
    """
    pool = LevelPool(featmap_names=list(levels), output_size=size, sampling_ratio=2)
    # torchvision guesses these from the first batch, wrongly where its images are very small.
    pool.scales = [1 / stride for stride in levels.values()]
    finest, coarsest = (stride.bit_length() - 1 for stride in (min(levels.values()), max(levels.values())))
    pool.map_levels = initLevelMapper(
        finest, coarsest, canonical_scale=pool.canonical_scale, canonical_level=pool.canonical_level
    )
    return pool
