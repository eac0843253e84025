"""Images and annotations in files, as torchvision's CocoDetection and as parts of a set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torchvision.datasets import CocoDetection, VisionDataset

from halonet.data.coco.records import Entry, Records
from halonet.data.coco.segmentation import decode, run_lengths
from halonet.data.coco.source import Annotated, AnnotatedImages, Category
from halonet.data.images import UnreadableImageError, read_image, to_mode


class CocoFile(CocoDetection):
    """torchvision's CocoDetection, `dataset[i]` -> (colour picture, list of annotations), on packed entries.

    Its index of Python objects would be copied into every loading process, and it takes every entry for right.
    Pictures are read as the house reads them: grey, transparent, CMYK and turned ones too.

    Args:
        root: folder of the images.
        records: the images and their annotations, by rising id.
    """

    def __init__(self, root: Path, records: Records) -> None:
        VisionDataset.__init__(self, root)
        self.records = records
        self.ids = records.ids

    def entry(self, image_id: int) -> Entry:
        """What the file tells of an image."""
        return self._record(image_id)[0]

    def _load_image(self, id: int) -> Image.Image:
        return read_told(Path(self.root), self.entry(id))

    def _load_target(self, id: int) -> list[Any]:
        return self._record(id)[1]

    def _record(self, image_id: int) -> tuple[Entry, list[Entry]]:
        return self.records[int(np.searchsorted(self.ids, image_id))]


def read_told(folder: Path, entry: Entry) -> Image.Image:
    """The picture of an entry, in colour.

    A camera's turn is applied, as annotators saw it; where only the picture as it lies in the file has the size that
    the entry tells, that one is taken.

    Raises:
        UnreadableImageError: no image, or one of another size (SizeDiffersError).
    """
    path = folder / entry["file_name"]
    told = entry["width"], entry["height"]
    image = read_image(path, in_chans=3)
    if image.size != told and image.size == told[::-1]:
        with Image.open(path) as lying:
            image = to_mode(lying, in_chans=3).copy() if lying.size == told else image
    if image.size != told:
        wide, high = image.size
        raise SizeDiffersError(
            f"cannot use image {path}: it is {wide} wide and {high} high, its annotations tell {told[0]} and {told[1]}"
        )
    return image


class SizeDiffersError(UnreadableImageError):
    """An image file of another size than its annotations tell."""


@dataclass(frozen=True)
class CocoItem:
    """Image `place` of a part."""

    part: CocoImages
    place: int

    @property
    def image_id(self) -> int:
        return int(self.part.file.ids[self.place])

    def load(self) -> Annotated:
        """Raises UnreadableImageError: no image, or one of another size than the annotations tell."""
        image, annotations = self.part.file[self.place]
        pixels = np.asarray(image)
        height, width = pixels.shape[:2]
        boxes = np.array([annotation["bbox"] for annotation in annotations], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes = np.clip(boxes, 0, [width, height, width, height]).astype(np.float32)
        if self.part.has_masks:
            masks = [decode(annotation["segmentation"], height=height, width=width) for annotation in annotations]
        else:
            masks = [_filled(box, height=height, width=width) for box in boxes]
        stacked = np.stack(masks) if masks else np.zeros((0, height, width), np.uint8)
        area = [
            annotation.get("area", float(mask.sum())) for annotation, mask in zip(annotations, stacked, strict=True)
        ]
        labels = [self.part.labels[annotation["category_id"]] for annotation in annotations]
        return Annotated(
            image=pixels,
            boxes=boxes,
            labels=np.array(labels, np.int64),
            masks=stacked,
            iscrowd=np.array([annotation["iscrowd"] for annotation in annotations], np.int64),
            area=np.array(area, np.float32),
            annotation_ids=np.array([annotation["id"] for annotation in annotations], np.int64),
        )


class CocoImages(AnnotatedImages):
    """Images of one annotation file, by rising id.

    Args:
        images: folder of the images.
        records: the images and their annotations.
        categories: label i + 1 is categories[i].
        has_masks: False: annotations are boxes alone, and masks are filled boxes.
    """

    def __init__(self, images: Path, records: Records, categories: Sequence[Category], *, has_masks: bool) -> None:
        self.file = CocoFile(images, records)
        self.categories = tuple(categories)
        self.labels = {category.id: label for label, category in enumerate(categories, 1)}
        self.has_masks = has_masks

    def __len__(self) -> int:
        return len(self.file.records)

    def _item(self, index: int) -> CocoItem:
        return CocoItem(self, index)

    def ground_truth(self) -> dict[str, Any]:
        images: list[Entry] = []
        annotations: list[Entry] = []
        for place in range(len(self)):
            image, own = self.file.records[place]
            images.append(image)
            for annotation in own:
                truth = {**annotation, "id": len(annotations) + 1, "annotation_id": annotation["id"]}
                annotations.append({"area": self._area(annotation, image), **truth})
        categories = [{"id": category.id, "name": category.name} for category in self.categories]
        return {"images": images, "annotations": annotations, "categories": categories}

    def _area(self, annotation: Entry, image: Entry) -> float:
        if "area" in annotation:
            return annotation["area"]
        if not self.has_masks:
            return float(annotation["bbox"][2] * annotation["bbox"][3])
        from pycocotools import mask as coco_mask

        size = {"height": image["height"], "width": image["width"]}
        return float(coco_mask.area(run_lengths(annotation["segmentation"], **size)))


def _filled(box: np.ndarray, *, height: int, width: int) -> np.ndarray:
    """A mask of the pixels whose centre lies in a box, at least one."""
    mask = np.zeros((height, width), np.uint8)
    left, top = np.minimum(np.ceil(box[:2] - 0.5).astype(int), (width - 1, height - 1))
    right, bottom = np.maximum(np.ceil(box[2:] - 0.5).astype(int), (left + 1, top + 1))
    mask[top:bottom, left:right] = 1
    return mask
