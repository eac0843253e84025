"""A small set of annotated images in COCO's form, right in all."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 12, 16
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 1, "name": "dog"}, {"id": 90, "name": "brush"}]
# Rows 2 to 5, columns 4 to 7: outside 4 * 12 + 2 pixels, then 4 inside and 8 outside four times.
SQUARE = {"size": [HEIGHT, WIDTH], "counts": [50, 4, 8, 4, 8, 4, 8, 4, HEIGHT * WIDTH - 90]}
POLYGON = [[4.0, 2.0, 8.0, 2.0, 8.0, 6.0, 4.0, 6.0]]


def compressed(mask: np.ndarray) -> dict[str, Any]:
    from pycocotools import mask as coco_mask

    told = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": told["counts"].decode("ascii")}


def square() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[2:6, 4:8] = 1
    return mask


def annotation(number: int, image: int, **values: Any) -> dict[str, Any]:
    entry = {
        "id": number,
        "image_id": image,
        "category_id": 3,
        "bbox": [4, 2, 4, 4],
        "area": 16,
        "iscrowd": 0,
        "segmentation": copy.deepcopy(POLYGON),
    }
    return {**entry, **values}


def content(images: int = 6) -> dict[str, list[Any]]:
    """Images 10, 20, ...; image 10 has all three forms of segmentations and a crowd region, the last image has
    nothing, the others one object each."""
    entries = [
        {"id": 10 * number, "file_name": f"{10 * number}.png", "height": HEIGHT, "width": WIDTH}
        for number in range(1, images + 1)
    ]
    annotations = [
        annotation(101, 10),
        annotation(102, 10, category_id=1, segmentation=copy.deepcopy(SQUARE)),
        annotation(103, 10, category_id=90, segmentation=compressed(square())),
        annotation(104, 10, iscrowd=1, segmentation=copy.deepcopy(SQUARE)),
        *(annotation(number, number) for number in range(20, 10 * images, 10)),
    ]
    return {"images": entries, "annotations": annotations, "categories": copy.deepcopy(CATEGORIES)}


def write_images(folder: Path, told: dict[str, list[Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for entry in told["images"]:
        pixels = np.full((HEIGHT, WIDTH, 3), entry["id"] % 256, np.uint8)
        Image.fromarray(pixels).save(folder / entry["file_name"])


def write_json(path: Path, told: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told), encoding="utf-8")
    return path


def write_set(root: Path, *, parts: tuple[str, ...] = ("train2017", "val2017"), images: int = 6) -> Path:
    """The layout of COCO 2017."""
    for part in parts:
        told = content(images)
        write_images(root / part, told)
        write_json(root / "annotations" / f"instances_{part}.json", told)
    return root
