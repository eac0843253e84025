"""Everything that is wrong with a folder of annotated images."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from halonet.data.coco.annotation_file import AnnotationFile, AnnotationFileError, read_annotations
from halonet.data.coco.config import DetectionConfig
from halonet.data.coco.files import SizeDiffersError, read_told
from halonet.data.coco.layout import find_parts
from halonet.data.coco.problems import Problem
from halonet.data.coco.records import Entry
from halonet.data.images import UnreadableImageError
from halonet.data.source import Split


@dataclass(frozen=True)
class PartFacts:
    """What one part holds, wrong entries included. file: of its annotations. crowds: crowd regions. boxes_only: no
    annotation has a segmentation."""

    file: str
    images: int
    annotations: int
    crowds: int
    categories: int
    boxes_only: bool


@dataclass(frozen=True)
class Check:
    """form: how the files lie. parts: those that could be read. problems: all, in the order of the files."""

    form: str
    parts: dict[Split, PartFacts]
    problems: list[Problem]


def check_folder(
    root: str | Path, *, detection: DetectionConfig | None = None, open_images: bool = True, jobs: int = 1
) -> list[Problem]:
    """All that is wrong with a folder of annotated images; see `look_through`."""
    return look_through(root, detection=detection, open_images=open_images, jobs=jobs).problems


def look_through(
    root: str | Path, *, detection: DetectionConfig | None = None, open_images: bool = True, jobs: int = 1
) -> Check:
    """Look through a folder of annotated images.

    Args:
        root: the folder.
        detection: its `annotations` and `images` say where files lie; None: told by what lies there.
        open_images: whether every image file is opened and decoded, or only looked for.
        jobs: threads that open images.

    Returns:
        What it holds and what is wrong.

    Raises:
        ValueError: no folder, or nothing of COCO's form in it.
    """
    folder = Path(root).expanduser()
    form, found = find_parts(folder, detection or DetectionConfig())
    parts: dict[Split, PartFacts] = {}
    problems: list[Problem] = []
    first: AnnotationFile | None = None
    for split, part in found.items():
        try:
            file = read_annotations(part.annotations, folders=part.images)
        except AnnotationFileError as error:
            problems.append(error.problem)
            continue
        first = first or file
        problems += file.problems
        if not file.images_listed:
            problems.append(Problem("json", str(file.path), text="expected images, got none"))
        problems += differing_categories(file, first)
        if open_images:
            problems += _image_problems(file, jobs=jobs)
        parts[split] = PartFacts(
            file=str(file.path),
            images=file.images_listed,
            annotations=file.annotations_listed,
            crowds=file.crowds,
            categories=len(file.categories),
            boxes_only=file.annotations_listed > 0 and not file.has_masks,
        )
    return Check(form, parts, problems)


def differing_categories(file: AnnotationFile, first: AnnotationFile) -> Iterator[Problem]:
    """Categories of a part that are not those of the first."""
    known = {category.id: category.name for category in first.categories}
    for category in file.categories:
        if known.get(category.id) != category.name:
            text = (
                f"category {category.id} is {category.name!r}, in {first.path} "
                f"{repr(known[category.id]) if category.id in known else 'not listed'}"
            )
            yield Problem("category_differs", str(file.path), text=text)


def _image_problems(file: AnnotationFile, *, jobs: int) -> Iterator[Problem]:
    def look(entry: Entry) -> Problem | None:
        try:
            read_told(file.images, entry)
        except UnreadableImageError as error:
            kind = "size_differs" if isinstance(error, SizeDiffersError) else "file_unreadable"
            return Problem(kind, str(file.path), image_id=entry["id"], text=str(error))
        return None

    entries = (file.records[place][0] for place in range(len(file.records)))
    with ThreadPoolExecutor(jobs) as threads:
        yield from (problem for problem in threads.map(look, entries) if problem is not None)
