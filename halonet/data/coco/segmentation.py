"""The three forms of a segmentation in COCO's files: polygons, run lengths as numbers, and run lengths as text.

Run lengths go down the columns of the mask, from left to right, and count pixels outside and inside in turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import numpy as np

_FARTHEST = 10  # times the longer side of the image: what lies beyond is no coordinate
_MOST_CHARACTERS = 7  # of a run length as text, 5 bits each: 35 bits hold any


def decode(segmentation: Any, *, height: int, width: int) -> np.ndarray:
    """The mask, (height, width) uint8, of a segmentation without problems."""
    from pycocotools import mask as coco_mask

    return coco_mask.decode(run_lengths(segmentation, height=height, width=width))


def run_lengths(segmentation: Any, *, height: int, width: int) -> dict[str, Any]:
    """The same as pycocotools' run lengths, a dict of `size` and `counts`."""
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, list):  # parts of one object
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, height, width)
    return segmentation


def wrong_segmentation(segmentation: Any, *, height: int, width: int) -> tuple[str, str] | None:
    """Kind of problem and what is wrong, of a segmentation that is not empty; None where nothing is.

    pycocotools reads and writes beyond its memory on run lengths that are longer than the mask: nothing wrong may
    reach it.
    """
    if isinstance(segmentation, list):
        text = _wrong_polygons(segmentation, farthest=_FARTHEST * max(height, width))
        if text is None and all(_is_outside(polygon, height=height, width=width) for polygon in segmentation):
            return (
                "segmentation_empty",
                f"expected a polygon in the image, got none, the first {_short(segmentation[0])}",
            )
        return None if text is None else ("segmentation_polygon", text)
    text = _wrong_run_lengths(segmentation, height=height, width=width)
    if text is None and not _pixels(segmentation["counts"]):
        return "segmentation_empty", "expected run lengths of at least one pixel, got none"
    return None if text is None else ("segmentation_rle", text)


def _is_outside(polygon: list[float], *, height: int, width: int) -> bool:
    """Whether all of a polygon is beyond one side of the image."""
    if 0 < polygon[0] < width and 0 < polygon[1] < height:  # so for nearly all: the rest is not looked at
        return False
    columns, rows = polygon[::2], polygon[1::2]
    return max(columns) <= 0 or min(columns) >= width or max(rows) <= 0 or min(rows) >= height


def _pixels(counts: list[int] | str) -> int:
    """Pixels of a mask by its run lengths, without problems."""
    lengths = _from_text(counts) if isinstance(counts, str) else np.array(counts, np.int64)
    assert lengths is not None
    return int(lengths[1::2].sum())


def _wrong_polygons(polygons: list[Any], *, farthest: float) -> str | None:
    for polygon in polygons:
        if not isinstance(polygon, list):
            return f"expected lists of coordinates, got {_short(polygon)}"
        if len(polygon) % 2 or len(polygon) < 6:
            return f"expected an even number of coordinates, at least 6, got {len(polygon)}"
        try:
            # One pass in C over numbers of which COCO has 40 million. NaN and infinity survive a sum.
            fine = isfinite(sum(polygon)) and max(polygon) <= farthest and min(polygon) >= -farthest
        except (TypeError, OverflowError):
            fine = False
        if not fine:
            wrong = [value for value in polygon if not _is_coordinate(value, farthest)]
            return f"expected coordinates in pixels, got {_short(wrong[0] if wrong else polygon)}"
    return None


def _is_coordinate(value: Any, farthest: float) -> bool:
    return isinstance(value, int | float) and -farthest <= value <= farthest


def _wrong_run_lengths(segmentation: Any, *, height: int, width: int) -> str | None:
    if not isinstance(segmentation, Mapping) or not {"size", "counts"} <= segmentation.keys():
        return f"expected polygons, or size and counts, got {_short(segmentation)}"
    size, counts = segmentation["size"], segmentation["counts"]
    if size != [height, width]:
        return f"expected size [{height}, {width}] (height, width) as of the image, got {_short(size)}"
    if isinstance(counts, list):
        if not set(map(type, counts)) <= {int}:
            return f"expected counts that are whole numbers, got {_short(counts)}"
        least, total = min(counts, default=0), sum(counts)
    elif isinstance(counts, str):
        lengths = _from_text(counts)
        if lengths is None:
            return f"expected counts as COCO's text, got {_short(counts)}"
        least, total = int(lengths.min(initial=0)), int(lengths.sum())
    else:
        return f"expected counts as numbers or text, got {_short(counts)}"
    if least < 0 or total != height * width:
        told = f"a count of {least}" if least < 0 else f"{total}"
        return f"expected counts that add up to {height} x {width} = {height * width} pixels, got {told}"
    return None


def _from_text(text: str) -> np.ndarray | None:
    """Run lengths of pycocotools' text, (n,) int64; None for what is no such text.

    A character is 48 + six bits, of which the lowest five belong to the number, low ones first, and the sixth says
    that more follow; the last but one of the last character is the sign. From the fourth on the difference to the
    number two before is told.
    """
    values = np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int64) - 48
    if not len(values) or values.min() < 0 or values.max() > 63 or values[-1] & 32:
        return None
    ends = np.flatnonzero((values & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() >= _MOST_CHARACTERS:
        return None
    place = np.arange(len(values)) - np.repeat(starts, ends - starts + 1)
    numbers = np.add.reduceat((values & 31) << (5 * place), starts)
    numbers -= np.where(values[ends] & 16, np.int64(1) << (5 * (ends - starts + 1)), 0)
    numbers[2::2] = np.cumsum(numbers[2::2])
    numbers[1::2] = np.cumsum(numbers[1::2])
    return numbers


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
