"""Annotated images as a map-style data set in the form of torchvision's detectors, its randomness repeatable."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from halonet.data.coco.source import Annotated, AnnotatedItem
from halonet.data.coco.transforms import DetectionTransform, Target
from halonet.data.transforms import seeded
from halonet.data.unreadable import UnreadableLog, load_readable

Sample = tuple[Tensor, Target]


class DetectionDataset(Dataset[Sample]):
    """`dataset[epoch * len(dataset) + i]` is image i as it is transformed in that epoch: (3, H, W) float32 in 0..1,
    and its target.

    A target is a dict: boxes (N, 4) float32, left, top, right and bottom edge in pixels; labels (N,) int64, from 1;
    masks (N, H, W) uint8; image_id () int64; area (N,) float32; iscrowd (N,) int64. N may be 0. What is random depends
    on `seed` and that index alone, neither on the number of workers nor on what ran before.

    Args:
        items: the images.
        transform: `train_transform(...)`, which leaves crowd regions out, or `eval_transform()`.
        seed: of the transform's randomness.
        unreadable: notes images that cannot be read, or are of another size than their annotations tell, in whose
            place the next readable one then stands; None: such an image raises.

    Raises:
        UnreadableImageError: on access, as said.
    """

    def __init__(
        self,
        items: Sequence[AnnotatedItem],
        *,
        transform: DetectionTransform,
        seed: int,
        unreadable: UnreadableLog | None = None,
    ) -> None:
        self.items = items
        self.transform = transform
        self.seed = seed
        self.unreadable = unreadable

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        annotated, image_id = load_readable(self._load, index, total=len(self), unreadable=self.unreadable)
        image, target = as_tensors(annotated)
        with seeded(self.seed * 1_000_003 + index):
            image, target = self.transform(image, target)
        return _plain(image, target, image_id=image_id)

    def _load(self, number: int) -> tuple[Annotated, int]:
        item = self.items[number]
        return item.load(), item.image_id


def as_tensors(annotated: Annotated) -> tuple[tv_tensors.Image, Target]:
    """An image, (3, H, W) uint8, and its objects as torchvision's transforms take them."""
    # Copies: drawn scenes are kept, and a transform may write.
    image = tv_tensors.Image(torch.from_numpy(annotated.image.transpose(2, 0, 1).copy()))
    size = functional.get_size(image)
    boxes = torch.from_numpy(annotated.boxes.copy())
    return image, {
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(size[0], size[1])),
        "masks": tv_tensors.Mask(torch.from_numpy(annotated.masks.copy())),
        "labels": torch.from_numpy(annotated.labels.copy()),
        "iscrowd": torch.from_numpy(annotated.iscrowd.copy()),
        "area": torch.from_numpy(annotated.area.copy()),
    }


def collate(samples: Sequence[Sample]) -> tuple[list[Tensor], list[Target]]:
    """A batch as torchvision's detectors take it: images of any sizes, and their targets."""
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)


def _plain(image: Tensor, target: Target, *, image_id: int) -> Sample:
    """Ordinary tensors: their subclasses would cost time in the network, and carry sizes that are not so there."""
    values = {name: value.as_subclass(Tensor) for name, value in target.items()}
    values["image_id"] = torch.tensor(image_id, dtype=torch.int64)
    return functional.to_dtype(image, torch.float32, scale=True).as_subclass(Tensor), values
