"""What happens to an annotated image before a detector, which resizes by itself, gets it: torchvision's transforms v2.

A transform takes and gives (image, target): a tv_tensors.Image and a dict with `boxes` (N, 4) tv_tensors.BoundingBoxes
and `masks` (N, H, W) tv_tensors.Mask, and `labels`, `iscrowd`, `area`, (N,) tensors. Chance comes from torch's global
generator, as in all of torchvision's transforms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from halonet.data.coco.config import DetectionConfig
from halonet.data.coco.source import tight_boxes

Target = dict[str, Tensor]
DetectionTransform = Callable[[tv_tensors.Image, Target], tuple[tv_tensors.Image, Target]]

# Of ImageNet's pictures: what torchvision's detectors subtract, so that the padding is 0 for the network, as theirs
# is, but for the step of 255.
_FILL = tuple(round(255 * mean) for mean in (0.485, 0.456, 0.406))
_OF_OBJECTS = ("boxes", "labels", "masks", "iscrowd", "area")


def train_transform(detection: DetectionConfig, *, largest: int) -> DetectionTransform:
    """Crowd regions taken out, then a flip, then scale jitter with a crop of fixed size, and what vanished taken out.

    Args:
        detection: scale_jitter, null for neither jitter nor crop; crop_size; flip.
        largest: pixels; both sides of the crop where crop_size is null: the detector's largest side.

    Returns:
        The transform.
    """
    # The flip comes first, so that the padding of a flipped picture lies to the right as of any other.
    steps: list[Any] = [WithoutCrowds(), v2.RandomHorizontalFlip(detection.flip)]
    if detection.scale_jitter is not None:
        height, width = detection.crop_size or (largest, largest)
        low, high = detection.scale_jitter
        steps += [ScaleJitter((width, height), (low, high)), CropOrPad((height, width))]
    return v2.Compose([*steps, Sanitize()])


def eval_transform() -> DetectionTransform:
    """Nothing is changed."""
    return v2.Identity()


def chosen(target: Target, keep: Tensor) -> Target:
    """The objects of a target where `keep` (N,) bool is true."""
    return {
        name: tv_tensors.wrap(value[keep], like=value) if name in _OF_OBJECTS else value
        for name, value in target.items()
    }


class WithoutCrowds(torch.nn.Module):
    """Takes out regions of many objects: they can be told from no single one."""

    def forward(self, image: tv_tensors.Image, target: Target) -> tuple[tv_tensors.Image, Target]:
        return image, chosen(target, target["iscrowd"] == 0)


class ScaleJitter(v2.ScaleJitter):
    """torchvision's, that leaves at least a pixel of a narrow picture."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = super().make_params(flat_inputs)["size"]
        return {"size": (max(1, height), max(1, width))}


class CropOrPad(torch.nn.Module):
    """A picture of `size` (height, width): a part at a random place where it is larger, with the mean colour below and
    to the right where it is smaller.

    The box of an object that the border cuts becomes that of what is left of its mask, zeros where nothing is. Areas
    are counted anew.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, image: tv_tensors.Image, target: Target) -> tuple[tv_tensors.Image, Target]:
        sides = functional.get_size(image)
        kept = [min(side, wanted) for side, wanted in zip(sides, self.size, strict=True)]
        top, left = (int(torch.randint(side - part + 1, ())) for side, part in zip(sides, kept, strict=True))
        padding = [0, 0, self.size[1] - kept[1], self.size[0] - kept[0]]

        def part(value: Tensor, fill: Any = 0) -> Any:
            return functional.pad(functional.crop(value, top, left, *kept), padding, fill=fill)

        boxes, masks = part(target["boxes"]), part(target["masks"])
        moved = target["boxes"] - torch.tensor([left, top, left, top], dtype=boxes.dtype)
        cut = (moved != boxes).any(dim=1)
        if cut.any():
            boxes[cut] = torch.from_numpy(tight_boxes(masks[cut].numpy()))
        area = masks.sum(dim=(1, 2), dtype=torch.float32).as_subclass(Tensor)
        return part(image, list(_FILL)), {**target, "boxes": boxes, "masks": masks, "area": area}


class Sanitize(torch.nn.Module):
    """Takes out objects of which less than a pixel is left, in height, width or mask."""

    def forward(self, image: tv_tensors.Image, target: Target) -> tuple[tv_tensors.Image, Target]:
        _, valid = functional.sanitize_bounding_boxes(target["boxes"])
        return image, chosen(target, valid & target["masks"].as_subclass(Tensor).flatten(1).any(dim=1).bool())
