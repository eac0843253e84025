"""What a set of annotated images is: items, parts, categories, and what is wrong with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, overload

import numpy as np

from halonet.data.coco.problems import Problem, told_left_out
from halonet.data.source import Split


@dataclass(frozen=True)
class Category:
    """What the annotations call a class: its id there, and its name."""

    id: int
    name: str


@dataclass(frozen=True)
class Annotated:
    """An image and the N objects told of it.

    image: (H, W, 3) uint8, colour. boxes: (N, 4) float32, left, top, right and bottom edge in pixels, within the
    image. labels: (N,) int64, from 1. masks: (N, H, W) uint8, 1 where the object is seen. iscrowd: (N,) int64, 1 for a
    region of many objects that are not told apart. area: (N,) float32, in pixels, as the annotations tell it.
    annotation_ids: (N,) int64.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    iscrowd: np.ndarray
    area: np.ndarray
    annotation_ids: np.ndarray


class AnnotatedItem(Protocol):
    """An image that is read, or drawn, when it is needed."""

    @property
    def image_id(self) -> int: ...

    def load(self) -> Annotated: ...


class AnnotatedImages(Sequence[AnnotatedItem], ABC):
    """One part of a set."""

    @abstractmethod
    def _item(self, index: int) -> AnnotatedItem:
        """Item `index`, from 0 to the length less 1."""

    @overload
    def __getitem__(self, index: int) -> AnnotatedItem: ...
    @overload
    def __getitem__(self, index: slice) -> list[AnnotatedItem]: ...
    def __getitem__(self, index: int | slice) -> AnnotatedItem | list[AnnotatedItem]:
        if isinstance(index, slice):
            return [self._item(place) for place in range(len(self))[index]]
        return self._item(range(len(self))[index])  # negative and out of range as a list has it

    @abstractmethod
    def ground_truth(self) -> dict[str, Any]:
        """The part in COCO's instances form: images, annotations and categories, which pycocotools' COCO takes as its
        `dataset`.

        Annotations are numbered from 1 here, and have the id of their file as `annotation_id`: COCO's evaluation takes
        one of id 0 for none at all. Images are those of the part in its order; wrong annotations are left out.
        """


@dataclass(frozen=True)
class DetectionSource:
    """What a set of annotated images knows about itself.

    name: short, for the run's name. splits: its parts. categories: label i + 1 is categories[i]. test_is_val: the set
    holds no test part, so that its validation part is used twice. problems: what is wrong with the annotations, in the
    order of the files. has_masks: False where the annotations of some part have no segmentation; its masks are then
    filled boxes. form: how it lies on disk.
    """

    name: str
    splits: Mapping[Split, AnnotatedImages]
    categories: tuple[Category, ...]
    test_is_val: bool
    problems: list[Problem] = field(default_factory=list)
    has_masks: bool = True
    form: str = "drawn"

    @property
    def num_classes(self) -> int:
        """Labels of a detector: the categories, and 0 for the background."""
        return len(self.categories) + 1

    @property
    def warning(self) -> str:
        """What is wrong and is left out, in one line with the first ids; empty where nothing is."""
        lost = sum(problem.left_out for problem in self.problems)
        return f"{self.name}: {lost} wrong entries are left out ({told_left_out(self.problems)})" if lost else ""


def tight_boxes(masks: np.ndarray) -> np.ndarray:
    """The smallest boxes that hold masks: (N, 4) float32, edges in pixels, of (N, H, W); zeros for an empty one."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        if len(columns):
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def to_coco(
    items: Sequence[AnnotatedItem], categories: Sequence[Category], *, name: str = "{:012d}.png"
) -> dict[str, Any]:
    """Items in COCO's instances form, masks as compressed run lengths; every item is loaded.

    name: of an image's file, formatted with its id.
    """
    from pycocotools import mask as coco_mask

    images, annotations = [], []
    for item in items:
        scene = item.load()
        height, width = scene.image.shape[:2]
        images.append({"id": item.image_id, "file_name": name.format(item.image_id), "height": height, "width": width})
        for place, mask in enumerate(scene.masks):
            run_lengths = coco_mask.encode(np.asfortranarray(mask))
            left, top, right, bottom = scene.boxes[place].tolist()
            annotations.append(
                {
                    "id": int(scene.annotation_ids[place]),
                    "image_id": item.image_id,
                    "category_id": categories[int(scene.labels[place]) - 1].id,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": float(scene.area[place]),
                    "iscrowd": int(scene.iscrowd[place]),
                    "segmentation": {"size": [height, width], "counts": run_lengths["counts"].decode("ascii")},
                }
            )
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": category.id, "name": category.name} for category in categories],
    }


def numbered(truth: dict[str, Any]) -> dict[str, Any]:
    """The same with annotations numbered from 1, the ids they had as `annotation_id`."""
    annotations = [
        {**annotation, "id": number, "annotation_id": annotation["id"]}
        for number, annotation in enumerate(truth["annotations"], 1)
    ]
    return {**truth, "annotations": annotations}
