"""One file of annotations in COCO's instances form: read, looked through entry by entry, and packed."""

from __future__ import annotations

import gc
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halonet.data.coco.entries import WrongEntryError, read_annotation, read_category, read_image_entry
from halonet.data.coco.problems import Problem
from halonet.data.coco.records import Entry, Records, pack
from halonet.data.coco.source import Category

_LOOKED_AT = 20  # images of a file that a folder is told by


class AnnotationFileError(ValueError):
    """A file that is no COCO annotations at all; `problem` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass
class AnnotationFile:
    """What a file holds.

    path: of the file. images: folder of its images. records: what is right, by rising id of the images. categories:
    by rising id. problems: in the order of the file. images_listed, annotations_listed: all entries. crowds: crowd
    regions that are right. has_masks: whether any annotation has a segmentation.
    """

    path: Path
    images: Path
    records: Records
    categories: tuple[Category, ...]
    problems: list[Problem]
    images_listed: int
    annotations_listed: int
    annotations_kept: int
    crowds: int
    has_masks: bool


def read_annotations(path: Path, *, folders: Sequence[Path]) -> AnnotationFile:
    """Read a file and look through it.

    Args:
        path: the file.
        folders: where its images may lie; the first that holds most of the first images is taken.

    Returns:
        What it holds. That images are there is asked of their folders, once each; none is opened.

    Raises:
        AnnotationFileError: no file, no JSON, or not COCO's form.
    """
    with _without_collection():
        content = read_json(path)
        look = _Look(str(path))
        look.take_categories(content["categories"])
        images = _folder_of(content["images"], folders)
        look.take_images(content["images"], images)
        listed = len(content["images"]), len(content["annotations"])
        look.take_annotations(content["annotations"])
        kept = sum(map(len, look.annotations.values()))
        crowds = sum(entry["iscrowd"] for entries in look.annotations.values() for entry in entries)
        del content
        records = pack((look.images[key], look.annotations.pop(key, [])) for key in sorted(look.images))
    return AnnotationFile(
        path=path,
        images=images,
        records=records,
        categories=tuple(look.categories[key] for key in sorted(look.categories)),
        problems=look.problems,
        images_listed=listed[0],
        annotations_listed=listed[1],
        annotations_kept=kept,
        crowds=crowds,
        has_masks=look.has_masks,
    )


def read_json(path: Path) -> dict[str, list[Any]]:
    """The three lists of an annotation file. Raises AnnotationFileError."""

    def wrong(kind: str, text: str) -> AnnotationFileError:
        return AnnotationFileError(Problem(kind, str(path), text=text))

    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise wrong("json", f"cannot read the file: {error.strerror or error}") from error
    except json.JSONDecodeError as error:
        raise wrong("json", f"line {error.lineno}, column {error.colno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise wrong("json", f"byte {error.start} is not UTF-8") from error
    except RecursionError as error:
        raise wrong("json", "lists within lists without end") from error
    if not isinstance(content, dict):
        raise wrong("json", f"expected an object with images, annotations and categories, got {type(content).__name__}")
    for name in ("images", "annotations", "categories"):
        if name not in content:
            raise wrong("missing_key", f"expected images, annotations and categories, found no {name}")
        if not isinstance(content[name], list):
            raise wrong("json", f"{name}: expected a list, got {type(content[name]).__name__}")
    return content


@dataclass
class _Look:
    """What was found so far. wrong_images, wrong_categories: ids of those that are listed but wrong; the annotations
    of theirs are left out with them, without a word of their own."""

    where: str
    problems: list[Problem] = field(default_factory=list)
    categories: dict[int, Category] = field(default_factory=dict)
    images: dict[int, Entry] = field(default_factory=dict)
    annotations: dict[int, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    wrong_images: set[object] = field(default_factory=set)
    wrong_categories: set[object] = field(default_factory=set)
    has_masks: bool = False

    def note(self, kind: str, text: str, *, annotation_id: object = None, image_id: object = None) -> None:
        self.problems.append(Problem(kind, self.where, annotation_id, image_id, text))

    def take_categories(self, entries: list[Any]) -> None:
        for number, entry in enumerate(entries):
            try:
                category = read_category(entry)
            except WrongEntryError as error:
                self.note(error.kind, f"category {_id_of(entry, number)}: {error}")
                self.wrong_categories |= {_key(entry, "id")} - {None}
                continue
            if category.id in self.categories:
                self.note("duplicate_category", f"category {category.id} ({category.name}) was listed before")
            else:
                self.categories[category.id] = category

    def take_images(self, entries: list[Any], folder: Path) -> None:
        there = _Listing(folder)
        for number, entry in enumerate(entries):
            key = _key(entry, "id")
            try:
                image = read_image_entry(entry)
            except WrongEntryError as error:
                self.note(error.kind, f"image {_id_of(entry, number)}: {error}", image_id=key)
                self.wrong_images |= {key} - {None}
                continue
            if image["id"] in self.images or key in self.wrong_images:
                self.note("duplicate_image", f"{image['file_name']} has the id of another image", image_id=key)
            elif image["file_name"] not in there:
                self.note("file_missing", f"no file {folder / image['file_name']}", image_id=key)
                self.wrong_images.add(key)
            else:
                self.images[image["id"]] = image

    def take_annotations(self, entries: list[Any]) -> None:
        """A file without any segmentation is one of boxes alone; otherwise those without one are wrong."""
        self.has_masks = any(isinstance(entry, dict) and entry.get("segmentation") for entry in entries)
        seen: set[int] = set()
        for number, entry in enumerate(entries):
            if self._is_lost(entry):
                continue
            try:
                annotation, beyond = read_annotation(
                    entry, images=self.images, categories=self.categories, seen=seen, has_masks=self.has_masks
                )
            except WrongEntryError as error:
                key = _key(entry, "id")
                text = str(error) if key is not None else f"annotation {_id_of(entry, number)}: {error}"
                self.note(error.kind, text, annotation_id=key, image_id=_key(entry, "image_id"))
                continue
            if beyond:
                self.note("box_beyond", beyond, annotation_id=annotation["id"], image_id=annotation["image_id"])
            self.annotations[annotation["image_id"]].append(annotation)

    def _is_lost(self, entry: Any) -> bool:
        """Whether an annotation is of an image or category that is listed but wrong."""
        of_image = bool(self.wrong_images) and _key(entry, "image_id") in self.wrong_images
        return of_image or (bool(self.wrong_categories) and _key(entry, "category_id") in self.wrong_categories)


class _Listing:
    """Whether files lie below a folder; asks for the names in a folder once, which is quicker than for every file."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: dict[str, set[str]] = {}

    def __contains__(self, name: str) -> bool:
        parent, last = os.path.split(name)
        if parent not in self._names:
            try:
                self._names[parent] = set(os.listdir(self._root / parent))
            except (OSError, ValueError):  # ValueError: a name with a null
                self._names[parent] = set()
        return last in self._names[parent]


def _folder_of(entries: list[Any], folders: Sequence[Path]) -> Path:
    names = [entry.get("file_name") for entry in entries[:_LOOKED_AT] if isinstance(entry, dict)]
    texts = [name for name in names if isinstance(name, str)]
    listings = [_Listing(folder) for folder in folders]
    found = [sum(name in listing for name in texts) for listing in listings]
    return folders[found.index(max(found))]


def _key(entry: Any, name: str) -> Any:
    """A value that can be looked up, None where there is none."""
    value = entry.get(name) if isinstance(entry, dict) else None
    return value if isinstance(value, int | float | str) else None


def _id_of(entry: Any, number: int) -> str:
    key = _key(entry, "id")
    return f"number {number + 1} of the list" if key is None else str(key)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Millions of new objects, none of them garbage, through which the collector would go again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
