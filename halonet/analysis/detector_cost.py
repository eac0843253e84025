"""Parameters and multiply-adds of a detector, part by part: what really runs on an image of one size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from halonet.analysis.cost import Count, ModelCost, count_costs
from halonet.detection import create_detector, detector_config

PROPOSALS, DETECTIONS = 1000, 100  # boxes that a detector's box head and mask head are counted with

PARTS = ("backbone", "pyramid", "proposals", "dense head", "box head", "mask head")
IMAGE_SIZE = (800, 1333)  # that detectors are usually counted at
_BODIES = ("backbone", "body")  # what the network below a pyramid is called, by us and by torchvision


@dataclass(frozen=True)
class DetectorCost:
    """What one image costs a detector.

    name: a row, or the class of a model that was given.
    image_size: (height, width) in pixels that was asked for.
    padded_size: the same filled up to what the detector runs at.
    proposals: boxes that the box head judges.
    detections: boxes that the mask head draws.
    parts: of PARTS those that the detector has. "pyramid" holds attention after its levels too; "proposals" is the
        R-CNN's head that proposes regions, "dense head" the two of a RetinaNet.
    """

    name: str
    image_size: tuple[int, int]
    padded_size: tuple[int, int]
    proposals: int
    detections: int
    parts: Mapping[str, Count]

    @property
    def total(self) -> Count:
        """Of all parts."""
        return sum(self.parts.values(), Count())


class DetectorPass(nn.Module):
    """A detector's networks on one image and a fixed number of boxes; nothing is selected, so shapes are enough.

    Args:
        detector: of torchvision's kinds, on any device.
        proposals: boxes for the box head.
        detections: boxes for the mask head.
    """

    def __init__(self, detector: nn.Module, *, proposals: int, detections: int) -> None:
        super().__init__()
        self.detector, self.proposals, self.detections = detector, proposals, detections

    def forward(self, images: Tensor) -> list[Any]:
        """(1, 3, H, W) -> what each part gives."""
        detector: Any = self.detector
        levels = detector.backbone(images)
        maps = [levels] if isinstance(levels, Tensor) else list(levels.values())
        if not hasattr(detector, "roi_heads"):
            return [detector.head(maps)]
        heads, channels = detector.roi_heads, maps[0].shape[1]
        outputs = [detector.rpn.head(maps)]

        def regions(pool: Any, count: int) -> Tensor:
            return images.new_empty(count, channels, *pool.output_size)

        outputs.append(heads.box_predictor(heads.box_head(regions(heads.box_roi_pool, self.proposals))))
        if heads.has_mask():
            outputs.append(heads.mask_predictor(heads.mask_head(regions(heads.mask_roi_pool, self.detections))))
        return outputs


def detector_cost(
    model_or_name: nn.Module | str,
    *,
    image_size: tuple[int, int] = IMAGE_SIZE,
    proposals: int = PROPOSALS,
    detections: int = DETECTIONS,
) -> DetectorCost:
    """Counts a detector from the shapes of one pass in which nothing is computed.

    Args:
        model_or_name: a detector of torchvision's kinds, left as it was, or a name that `create_detector` takes alone.
        image_size: (height, width) of the image after resizing; filled up as the detector does before it counts.
        proposals: boxes that the box head judges, 1000 as in evaluation.
        detections: boxes that the mask head draws.

    Returns:
        One multiply-accumulate is 1; counted are convolutions, linear layers and the products of attention.

    Raises:
        ValueError: an unknown name, a model that is no detector of torchvision's kinds, or a size that is not positive.
    """
    _check_positive(image_size, proposals=proposals, detections=detections)
    if isinstance(model_or_name, str):
        with torch.device("meta"):
            detector, name = create_detector(model_or_name), model_or_name
    else:
        detector, name = model_or_name, type(model_or_name).__name__
    if not hasattr(detector, "backbone") or not hasattr(detector, "transform"):
        raise ValueError(f"model must be a detector of torchvision's kinds, got {name}")
    padded = padded_size(detector, image_size)
    one_pass = DetectorPass(detector, proposals=proposals, detections=detections)
    cost = count_costs(one_pass, input_size=(3, *padded))
    return DetectorCost(name, image_size, padded, proposals, detections, _by_part(detector, cost))


def own_size(name: str) -> tuple[int, int]:
    """(height, width) that a row is counted at: a square where it has one, 800 x 1333 otherwise.

    Raises:
        ValueError: an unknown row.
    """
    config = detector_config(name)
    return config.min_size[-1], config.max_size


def padded_size(detector: nn.Module, image_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) filled up to the multiple that the detector wants."""
    multiple: int = detector.transform.size_divisible  # type: ignore[union-attr, assignment]
    height, width = (-(-side // multiple) * multiple for side in image_size)
    return height, width


def part_of(detector: nn.Module, name: str) -> str | None:
    """The part that a module belongs to, None for those that do nothing.

    name: as in the detector's `named_modules`.
    """
    first, _, rest = name.partition(".")
    if first == "backbone":
        has_body = any(hasattr(detector.backbone, body) for body in _BODIES)
        return "backbone" if not has_body or rest.split(".")[0] in _BODIES else "pyramid"
    if first in ("rpn", "head"):
        return "proposals" if first == "rpn" else "dense head"
    if first == "roi_heads":
        return "mask head" if rest.startswith("mask") else "box head"
    return None


def _by_part(detector: nn.Module, cost: ModelCost) -> dict[str, Count]:
    counts: dict[str, Count] = {}
    for module in cost.modules:
        part = part_of(detector, module.name.removeprefix("detector."))
        if part is not None:
            counts[part] = counts.get(part, Count()) + module.executed
    return {part: counts[part] for part in PARTS if part in counts}


def _check_positive(image_size: tuple[int, int], **counts: int) -> None:
    if len(image_size) != 2 or any(not isinstance(side, int) or side < 1 for side in image_size):
        raise ValueError(f"image_size must be (height, width), each positive, got {image_size!r}")
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be a positive int, got {count!r}")
