"""Single entries of COCO's lists: what they must have, and as what they are kept."""

from __future__ import annotations

from collections.abc import Container, Mapping
from math import isfinite
from typing import Any

from halonet.data.coco.problems import PROBLEMS
from halonet.data.coco.records import Entry
from halonet.data.coco.segmentation import wrong_segmentation
from halonet.data.coco.source import Category

_TOLERATED = 1.0  # pixels that a box may reach beyond its image without a word; COCO's own do
_MOST = 2**63  # an id must fit in 64 bits


class WrongEntryError(ValueError):
    """An entry that cannot be used; `kind` is one of PROBLEMS."""

    def __init__(self, kind: str, text: str) -> None:
        assert kind in PROBLEMS
        super().__init__(text)
        self.kind = kind


def read_category(entry: Any) -> Category:
    """Raises WrongEntryError."""
    _need(entry, ("id", "name"))
    _whole(entry, "id")
    if not isinstance(entry["name"], str):
        raise WrongEntryError("missing_key", f"name: expected text, got {_short(entry['name'])}")
    return Category(entry["id"], entry["name"])


def read_image_entry(entry: Any) -> Entry:
    """id, file_name, height and width. Raises WrongEntryError."""
    _need(entry, ("id", "file_name", "height", "width"))
    _whole(entry, "id")
    if not isinstance(entry["file_name"], str) or not entry["file_name"]:
        raise WrongEntryError("missing_key", f"file_name: expected text, got {_short(entry['file_name'])}")
    for name in ("height", "width"):
        value = entry[name]
        if not _is_number(value) or value != int(value) or value < 1:
            raise WrongEntryError("not_a_number", f"{name}: expected a whole number above 0, got {_short(value)}")
    return {
        "id": entry["id"],
        "file_name": entry["file_name"],
        "height": int(entry["height"]),
        "width": int(entry["width"]),
    }


def read_annotation(
    entry: Any,
    *,
    images: Mapping[int, Entry],
    categories: Container[int],
    seen: set[int],
    has_masks: bool,
) -> tuple[Entry, str]:
    """An annotation as it is kept, and by how much its box reaches beyond the image, empty where it hardly does.

    Args:
        entry: of the file.
        images, categories: by id.
        seen: ids of annotations before it; its own is added.
        has_masks: whether it must have a segmentation.

    Returns:
        id, image_id, category_id, iscrowd, bbox (left, top, width, height), and area and segmentation where it has
        them; `bbox` is cut off at the image's border where it reaches more than a pixel beyond, else as in the file.

    Raises:
        WrongEntryError: one that cannot be used.
    """
    _need(entry, ("id", "image_id", "category_id", "bbox"))
    for name in ("id", "image_id", "category_id"):
        _whole(entry, name)
    if entry["id"] in seen:
        raise WrongEntryError("duplicate_annotation", "another annotation has this id")
    seen.add(entry["id"])
    if entry["image_id"] not in images:
        raise WrongEntryError("unknown_image", f"image {entry['image_id']} is not listed")
    if entry["category_id"] not in categories:
        raise WrongEntryError("unknown_category", f"category {entry['category_id']} is not listed")
    image = images[entry["image_id"]]
    height, width = image["height"], image["width"]
    box, beyond = _read_box(entry["bbox"], height=height, width=width)
    crowd, area = entry.get("iscrowd", 0), entry.get("area")
    if crowd not in (0, 1):
        raise WrongEntryError("not_a_number", f"iscrowd: expected 0 or 1, got {_short(crowd)}")
    if area is not None and not (_is_number(area) and area >= 0):
        raise WrongEntryError("not_a_number", f"area: expected a number of at least 0, got {_short(area)}")
    kept = {name: entry[name] for name in ("id", "image_id", "category_id")}
    kept |= {"iscrowd": int(crowd), "bbox": box}
    if area is not None:
        kept["area"] = area
    if has_masks:
        segmentation = entry.get("segmentation")
        if segmentation in (None, [], {}, ""):
            raise WrongEntryError("segmentation_empty", "expected polygons or run lengths, got none")
        wrong = wrong_segmentation(segmentation, height=height, width=width)
        if wrong is not None:
            raise WrongEntryError(*wrong)
        kept["segmentation"] = segmentation
    return kept, beyond


def _read_box(box: Any, *, height: int, width: int) -> tuple[list[float], str]:
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise WrongEntryError("not_a_number", f"bbox: expected left, top, width and height, got {_short(box)}")
    left, top, wide, high = box
    if wide <= 0 or high <= 0:
        raise WrongEntryError("box_empty", f"bbox: expected a width and height above 0, got {_short(box)}")
    right, bottom = left + wide, top + high
    if left >= width or top >= height or right <= 0 or bottom <= 0:
        raise WrongEntryError("box_outside", _told(box, height=height, width=width))
    most = max(-left, -top, right - width, bottom - height)
    if most <= _TOLERATED:
        return box, ""
    left, top = max(left, 0), max(top, 0)
    clipped = [left, top, min(right, width) - left, min(bottom, height) - top]
    return clipped, f"{_told(box, height=height, width=width)}, {most:g} pixels beyond it"


def _told(box: list[float], *, height: int, width: int) -> str:
    return f"bbox: {_short(box)} (left, top, width, height) in an image {width} wide and {height} high"


def _need(entry: Any, names: tuple[str, ...]) -> None:
    if not isinstance(entry, dict):
        raise WrongEntryError("missing_key", f"expected an object, got {_short(entry)}")
    for name in names:
        if name not in entry:
            raise WrongEntryError("missing_key", f"expected {', '.join(names)}, found no {name}")


def _whole(entry: Entry, name: str) -> None:
    value = entry[name]
    if type(value) is not int or not -_MOST <= value < _MOST:
        raise WrongEntryError("not_a_number", f"{name}: expected a whole number, got {_short(value)}")


def _is_number(value: Any) -> bool:
    # A bool is an int to Python; a whole number of hundreds of digits is no float.
    return (type(value) is float and isfinite(value)) or (type(value) is int and abs(value) < _MOST)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
