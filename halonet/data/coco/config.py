"""Which annotated images a detector trains on, and how they are cut."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class DetectionConfig:
    """Annotated images of a detector.

    Args:
        dataset: drawn: scenes drawn from a seed; coco: files below data.root; auto: drawn without data.root, else coco
        annotations: annotation file of each part, train, val and test, below data.root or a whole path; empty: told by
            what lies there
        images: image folder of each part, as annotations
        scale_jitter: least and largest factor of the size that fills crop_size; null: the detector's own resizing
        crop_size: height and width in pixels of training images with scale_jitter; null: the detector's largest side
        flip: chance of a training image to be mirrored
        drawn_size: height and width in pixels of drawn scenes
        drawn_images: drawn training scenes; validation and test have an eighth of that each, at least 32, of their own
        backbone_weights: file that the backbone starts from: a classifier of ours, or a ResNet of torchvision or timm
        max_bad: share of annotations that may be wrong, and are left out, before a run refuses the data
    """

    dataset: Literal["auto", "drawn", "coco"] = "auto"
    annotations: dict[str, str] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)
    scale_jitter: list[float] | None = None
    crop_size: list[int] | None = None
    flip: float = 0.5
    drawn_size: list[int] = field(default_factory=lambda: [128, 128])
    drawn_images: int = 512
    backbone_weights: str | None = None
    max_bad: float = 0.01

    def __post_init__(self) -> None:
        for name in ("annotations", "images"):
            for part in getattr(self, name):
                if part not in ("train", "val", "test"):
                    raise ValueError(f"detection.{name}: expected parts train, val or test, got {part!r}")
        for name in ("crop_size", "drawn_size"):
            size = getattr(self, name)
            if size is not None and (len(size) != 2 or min(size) < 1):
                raise ValueError(f"detection.{name}: expected height and width of at least 1, got {list(size)}")
        jitter = self.scale_jitter
        if jitter is not None and (len(jitter) != 2 or not 0 < jitter[0] <= jitter[1]):
            raise ValueError(f"detection.scale_jitter: expected two rising factors above 0, got {list(jitter)}")
        for name in ("flip", "max_bad"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"detection.{name}: expected 0 to 1, got {getattr(self, name)}")
        if self.drawn_images < 1:
            raise ValueError(f"detection.drawn_images: expected at least 1, got {self.drawn_images}")
