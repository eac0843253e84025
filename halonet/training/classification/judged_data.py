"""Which images weights are judged on: the part that their run held out, or all of a folder it never saw."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from halonet.data import DataConfig, ImageSource, Split, open_source
from halonet.data.class_map import read_class_map, relabelled
from halonet.data.folder import SPLIT_FOLDERS
from halonet.data.images import IMAGE_SUFFIXES
from halonet.data.source import Part, SplitItems
from halonet.training.classification.class_matching import match_classes
from halonet.training.files import CONFIG, run_folder_of

PARTS = ("all", "train", "val", "test")
# Of a folder that the weights' run did not read the first part is judged that lies ready.
ORDER: dict[Split, tuple[Split, ...]] = {
    "val": ("val", "test", "train"),
    "test": ("test", "val", "train"),
    "train": ("train", "val", "test"),
}


@dataclass(frozen=True)
class JudgedData:
    """source: a data set; items: its images to judge; part: says in words which these are."""

    source: ImageSource
    items: Part
    part: str


def judged_data(config: DataConfig, *, weights: Path, split: Split, part: str | None) -> JudgedData:
    """The images to judge, labelled with the classes of the data.

    The data of the run that the weights lie in are cut as it cut them. Of any other folder of class folders the part
    is taken that lies ready in val/, test/ or train/ (in this order; for the test test/ first); without them all its
    images are. Other data sets (digits, shards, ...) have parts of their own.

    Args:
        config: of the data.
        weights: the file that is judged; its run is the one it lies in.
        split: "val" or "test".
        part: "train", "val" or "test": as `fit` cuts the data, whoever reads them; "all": every image; None: as above.

    Raises:
        ValueError: data that cannot be used, or have no such part.
    """
    if part is not None and part not in PARTS:
        raise ValueError(f"--part: expected one of {', '.join(PARTS)}, got {part!r}")
    folder = _foreign_folder(config, weights, split) if part in (None, "all") else None
    if folder is not None:
        return _read_folder(folder, split=split, whole=part == "all")
    source = open_source(replace(config, class_map=None))  # it is for the weights' classes here
    if part == "all":
        return JudgedData(source, _joined(source), "all images")
    chosen: Any = part or split
    if chosen not in source.splits:
        raise ValueError(f"--part: {source.name} has no part {chosen}, only {', '.join(source.splits)}")
    told = {"train": "training part", "val": "validation part", "test": "test part"}[chosen]
    if chosen == "test" and source.test_is_val:
        told = "validation part, for there is no test part"
    return JudgedData(source, source.splits[chosen], told)


def with_classes_of(
    data: JudgedData,
    class_names: Sequence[str] | None,
    *,
    class_ids: Sequence[str] | None = None,
    num_classes: int,
    class_map: str | None,
    weights: str,
) -> ImageSource:
    """The images to judge as all parts of a source whose classes are those of the weights.

    Args:
        data: what `judged_data` gave.
        class_names: of the weights, None if they name none; class_ids: what their data called them, if that is known;
            num_classes: their outputs.
        class_map: as DataConfig.class_map.
        weights: what error messages call them.

    Raises:
        ValueError: a class that the weights do not know, see `match_classes`.
    """
    renames = {} if class_map is None else read_class_map(class_map)
    names, items = data.source.class_names, data.items
    matches = match_classes(
        names,
        class_names,
        num_classes=num_classes,
        class_map=renames,
        ids=data.source.class_ids,
        known_ids=class_ids,
        data=data.source.name,
        weights=weights,
    )
    if matches != list(range(len(names))):
        items = relabelled(items, matches)
    if class_names is None:
        told = {index: renames.get(name, name) for name, index in zip(names, matches, strict=True)}
        class_names = [told.get(index, str(index)) for index in range(num_classes)]
    parts: dict[Split, Part] = {"train": items, "val": items, "test": items}
    return replace(data.source, class_names=tuple(class_names), class_ids=None, splits=parts, test_is_val=False)


def _foreign_folder(config: DataConfig, weights: Path, split: Split) -> Path | None:
    """The folder of class folders at `config.root`, unless it is the one that the weights' own run read."""
    if config.root is None or config.dataset not in ("auto", "folder"):
        return None
    root = Path(config.root).expanduser()
    run = run_folder_of(weights)
    if run is not None:
        settings: Mapping[str, Mapping[str, str | None]] = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
        own = settings.get("data", {}).get("root")
        if own is not None and Path(own).expanduser().resolve() == root.resolve():
            return None
    return root if _classes_in(root) and not _lies_flat(root, split) else None


def _lies_flat(root: Path, split: Split) -> bool:
    """Whether the part that would be judged has its images in no class folders, as ImageNet's val/ and test/ come: the
    data set itself knows where their classes are told."""
    parts = _parts_in(root)
    for name in ORDER[split] if parts else ():
        if name in parts:
            return False
        if any((root / spelling).is_dir() for spelling in SPLIT_FOLDERS[name]):
            return True
    return False


def _read_folder(root: Path, *, split: Split, whole: bool) -> JudgedData:
    parts = _parts_in(root)
    if parts and not whole:
        chosen = next(name for name in ORDER[split] if name in parts)
        folders, told = [parts[chosen]], f"all images of {parts[chosen].name}/"
    else:
        folders, told = list(parts.values()) or [root], "all images"
    names = sorted({name for folder in folders for name in _classes_in(folder)})
    items: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        files = [path for folder in folders for path in _images_below(folder / name)]
        items += files
        labels += [label] * len(files)
    source = ImageSource(
        name=root.resolve().name,
        class_names=tuple(names),
        in_chans=3,
        splits={},
        augment="photo",
    )
    return JudgedData(source, SplitItems(items, labels), told)


def _parts_in(root: Path) -> dict[Split, Path]:
    """The parts that lie ready; none where class folders lie beside val/ or test/, which may be classes too."""
    parts: dict[Split, Path] = {}
    for name, spellings in SPLIT_FOLDERS.items():
        ready = [root / spelling for spelling in spellings if _classes_in(root / spelling)]
        if ready:
            parts[name] = ready[0]
    others = set(_classes_in(root)) - {spelling for spellings in SPLIT_FOLDERS.values() for spelling in spellings}
    return parts if "train" in parts or not others else {}


def _classes_in(folder: Path) -> list[str]:
    """Names of sub-folders with an image in them or below them, sorted."""
    if not folder.is_dir():
        return []
    entries = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return [entry.name for entry in entries if _images_below(entry, first=True)]


def _images_below(folder: Path, *, first: bool = False) -> list[Path]:
    """Image files in `folder` and below, sorted; with `first` those of one place only."""
    found: list[Path] = []
    for parent, _, names in os.walk(folder):
        found += [Path(parent, n) for n in names if n.lower().endswith(IMAGE_SUFFIXES) and not n.startswith(".")]
        if first and found:
            break
    return sorted(found)


def _joined(source: ImageSource) -> Part:
    """Every image of a source once."""
    parts = [part for name, part in source.splits.items() if not (name == "test" and source.test_is_val)]
    if len(parts) == 1:
        return parts[0]
    listed = [part for part in parts if isinstance(part, SplitItems)]
    if len(listed) < len(parts):
        raise ValueError(
            f"--part: {source.name} is read as it comes: expected one of {', '.join(source.splits)}, got all"
        )
    items = [item for part in listed for item in part.items]
    return SplitItems(items, [int(label) for part in listed for label in part.labels])
