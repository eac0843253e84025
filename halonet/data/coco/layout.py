"""Which files of a folder are annotations of which part, and where their images may lie."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from halonet.data.coco.config import DetectionConfig
from halonet.data.source import Split

EXPECTED = (
    "expected annotations/instances_{train,val}2017.json beside train2017/ and val2017/, "
    "train/_annotations.coco.json, or one JSON file in COCO's form"
)
_SPELLINGS: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
_NAME = re.compile(r"(?:instances_)?(train|valid|validation|val|test)[-_]?(\d{4})?\.json")
_ROBOFLOW = "_annotations.coco.json"


@dataclass(frozen=True)
class PartFiles:
    """annotations: a file. images: folders, of which one holds its images."""

    annotations: Path
    images: tuple[Path, ...]


def find_parts(root: Path, detection: DetectionConfig) -> tuple[str, dict[Split, PartFiles]]:
    """How the files of a folder lie, in words, and its parts.

    Args:
        root: the folder.
        detection: its `annotations` and `images` stand in for what is told by names.

    Raises:
        ValueError: no such folder, file or images, or none that fits.
    """
    if not root.is_dir():
        raise ValueError(f"data.root: expected a folder of images and annotations, found none at {root}")
    if detection.annotations:
        form, parts = "files by name", _named(root, detection)
    else:
        form, parts = _told(root)
        if not parts:
            raise ValueError(f"data.root: no annotations of COCO's form in {root}: {EXPECTED}")
    for part, folder in detection.images.items():
        split: Split = _SPELLINGS[part]
        path = root / Path(folder).expanduser()
        if split not in parts:
            raise ValueError(f"detection.images: there are no annotations of part {part}, found {', '.join(parts)}")
        if not path.is_dir():
            raise ValueError(f"detection.images: expected a folder for {part}, found none at {path}")
        parts[split] = PartFiles(parts[split].annotations, (path,))
    return form, {split: parts[split] for split in ("train", "val", "test") if split in parts}


def _named(root: Path, detection: DetectionConfig) -> dict[Split, PartFiles]:
    parts: dict[Split, PartFiles] = {}
    for part, name in detection.annotations.items():
        path = root / Path(name).expanduser()
        if not path.is_file():
            raise ValueError(f"detection.annotations: expected a file for {part}, found none at {path}")
        folders = dict.fromkeys([*_folders(root, path, part=part), path.parent])
        parts[_SPELLINGS[part]] = PartFiles(path, tuple(folders))
    return parts


def _told(root: Path) -> tuple[str, dict[Split, PartFiles]]:
    roboflow: dict[Split, PartFiles] = {}
    for folder, split in _SPELLINGS.items():
        path = root / folder / _ROBOFLOW
        if path.is_file():
            roboflow.setdefault(split, PartFiles(path, (path.parent,)))
    if roboflow:
        return "a folder a part, with _annotations.coco.json", roboflow
    by_year = _instances(root)
    if by_year:
        # The parts of one year belong together: COCO's of 2014 and 2017 have images in common.
        best = max(by_year, key=lambda year: ("train" in by_year[year], year))
        return "annotations of each part", by_year[best]
    single = [path for folder in (root, root / "annotations") for path in _json_files(folder)]
    if len(single) > 1:
        names = ", ".join(str(path.relative_to(root)) for path in single[:5])
        raise ValueError(
            f"data.root: {len(single)} JSON files in {root} ({names}), none named after a part: "
            "name them in detection.annotations"
        )
    parts: dict[Split, PartFiles] = {}
    if single:
        parts["train"] = PartFiles(single[0], tuple(_folders(root, single[0], part="train")))
    return "one file of annotations", parts


def _instances(root: Path) -> dict[str, dict[Split, PartFiles]]:
    """Of every year, or of none, the parts that files are named after."""
    found: dict[str, dict[Split, PartFiles]] = {}
    for folder in (root / "annotations", root):
        for path in _json_files(folder):
            match = _NAME.fullmatch(path.name)
            if match:
                part, year = match[1], match[2] or ""
                folders = tuple(_folders(root, path, part=part, year=year))
                found.setdefault(year, {}).setdefault(_SPELLINGS[part], PartFiles(path, folders))
    return found


def _json_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.json") if path.is_file() and not path.name.startswith("."))


def _folders(root: Path, annotations: Path, *, part: str, year: str = "") -> Iterator[Path]:
    """Folders that may hold the images of a part, the likeliest first; the last is the root."""
    names = [name for name, split in _SPELLINGS.items() if split == _SPELLINGS[part]]
    for name in dict.fromkeys([f"{part}{year}", part, *names]):
        yield from (root / name, root / "images" / name, root / name / "images")
    for name in ("images", "data", annotations.stem):
        yield root / name
    yield root
