"""What can be wrong with annotations, and how it is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

# Kind of problem: what it means. In the order in which they are looked for.
PROBLEMS = {
    "json": "the file cannot be read as JSON of COCO's form",
    "missing_key": "an entry lacks a key it must have",
    "not_a_number": "a value that is no finite number, or an id that is no whole one",
    "duplicate_category": "two categories of one id; the second is left out",
    "category_differs": "a category that the first part does not list, or calls otherwise; training refuses the data",
    "duplicate_image": "two images of one id; the second is left out",
    "duplicate_annotation": "two annotations of one id; the second is left out",
    "unknown_image": "an annotation of an image that is not listed",
    "unknown_category": "an annotation of a category that is not listed",
    "box_empty": "a box without width or height",
    "box_outside": "a box wholly outside its image",
    "box_beyond": "a box more than 1 pixel beyond its image; it is clipped and kept",
    "segmentation_empty": "no segmentation, where others of the file have one, or one without a pixel of the image",
    "segmentation_polygon": "a polygon of an odd number of coordinates, of fewer than 6, or of what is no number",
    "segmentation_rle": "run lengths of another size than the image, or that do not add up",
    "file_missing": "an image file that is not there",
    "file_unreadable": "an image file that cannot be read",
    "size_differs": "an image file of another size than the annotations tell",
}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    kind: a key of PROBLEMS. where: file of the annotations, or the image's. annotation_id, image_id: as the file has
    them, None where there is none. text: what is wrong, without ids and file.
    """

    kind: str
    where: str
    annotation_id: object = None
    image_id: object = None
    text: str = ""

    @property
    def left_out(self) -> bool:
        """Whether what has this problem takes no part in training and judging."""
        return self.kind != "box_beyond"

    def __str__(self) -> str:
        ids = [
            f"{name} {value}"
            for name, value in (("annotation", self.annotation_id), ("image", self.image_id))
            if value is not None
        ]
        return f"{self.where}: {', '.join(ids)}{': ' if ids else ''}{self.kind}: {self.text}"


def counted(problems: Sequence[Problem]) -> dict[str, int]:
    """Problems of each kind that occurs, in the order of PROBLEMS."""
    counts = Counter(problem.kind for problem in problems)
    return {kind: counts[kind] for kind in PROBLEMS if counts[kind]}


def told_left_out(problems: Sequence[Problem], *, first: int = 3) -> str:
    """What is left out for being wrong, in one line: how many of each kind, and the ids of the `first` ones."""
    lost = [problem for problem in problems if problem.left_out]
    if not lost:
        return ""
    kinds = ", ".join(f"{count} {kind}" for kind, count in counted(lost).items())
    ids = [
        f"annotation {problem.annotation_id}"
        if problem.annotation_id is not None
        else f"image {problem.image_id}"
        if problem.image_id is not None
        else problem.text
        for problem in lost[:first]
    ]
    return f"{kinds}: {', '.join(ids)}{', ...' if len(lost) > first else ''}"
