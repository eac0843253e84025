"""Image folders: a sub-folder a class, split already (train/, val/, test/) or not."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from halonet.data.images import IMAGE_SUFFIXES
from halonet.data.items import Files
from halonet.data.source import ImageSource, Split, SplitItems
from halonet.data.splits import cut

SPLIT_FOLDERS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
LAYOUT = "expected a sub-folder of images per class, or train/, val/ and test/ that hold such sub-folders"


def load_folder_source(
    root: str | Path, *, in_chans: int, val_fraction: float, test_fraction: float, split_seed: int
) -> ImageSource:
    """Read which images and classes lie under `root`; the images themselves are opened later.

    A class is a sub-folder with at least one image in it or below it; classes are numbered by name. With a
    train/ folder the given parts are kept: a missing val/ is cut from train/ by `split_seed`, a missing test/
    means that val/ is used for the test as well. Without one, every class is cut in three. Raises ValueError
    where the folder, its classes or a part of them is missing.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise ValueError(f"data.root: expected a folder of images, found {found} at {root}")
    given = _given_splits(root)
    test_is_val = False
    if "train" in given:
        class_names = _class_names(given["train"])
        splits = {name: _read_split(folder, class_names) for name, folder in given.items()}
        if "val" not in splits:
            splits |= cut(splits["train"], val_fraction=val_fraction, test_fraction=0.0, seed=split_seed)
        if "test" not in splits:
            splits["test"] = splits["val"]
            test_is_val = True
    else:
        class_names = _class_names(root)
        whole = _read_split(root, class_names)
        splits = cut(whole, val_fraction=val_fraction, test_fraction=test_fraction, seed=split_seed)
    for name, part in splits.items():
        if not len(part):
            raise ValueError(
                f"data.root: no images left for {name} in {root}: expected at least three images in a class"
            )
    return ImageSource(
        name=root.resolve().name,
        class_names=class_names,
        in_chans=in_chans,
        splits=splits,
        augment="photo",
        test_is_val=test_is_val,
    )


def _given_splits(root: Path) -> dict[Split, Path]:
    """The parts lying ready; none unless train/ is there, since val or test may also be the name of a
    class."""
    given: dict[Split, Path] = {}
    for name, spellings in SPLIT_FOLDERS.items():
        for spelling in spellings:
            # A folder train/ that holds images itself is a class called "train".
            if (root / spelling).is_dir() and any(entry.is_dir() for entry in (root / spelling).iterdir()):
                given[name] = root / spelling
                break
    return given if "train" in given else {}


def _class_names(folder: Path) -> tuple[str, ...]:
    names = sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".") and _has_image(entry)
    )
    if not names:
        raise ValueError(f"data.root: no classes in {folder}: {LAYOUT}")
    if len(names) == 1:
        raise ValueError(f"data.root: one class only ({names[0]}) in {folder}: {LAYOUT}")
    return tuple(names)


def images_below(folder: Path) -> Iterator[Path]:
    """Image files in `folder` and its sub-folders, in any order; no file is opened or asked for its status."""
    for parent, _, names in os.walk(folder):
        for name in names:
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                yield Path(parent, name)


def _has_image(folder: Path) -> bool:
    return next(images_below(folder), None) is not None


def _read_split(folder: Path, class_names: tuple[str, ...]) -> SplitItems:
    unknown = sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".") and entry.name not in class_names and _has_image(entry)
    )
    if unknown:
        raise ValueError(f"data.root: {folder} has classes that train has not: {', '.join(unknown[:5])}")
    return read_classes(folder, class_names)


def read_classes(folder: Path, class_names: Sequence[str]) -> SplitItems:
    """Images of the sub-folders `class_names`, numbered as they stand there; within a class in the order of names."""
    counts: list[int] = []

    def paths() -> Iterator[Path]:
        for name in class_names:
            files = sorted(images_below(folder / name))
            counts.append(len(files))
            yield from files

    items = Files(paths())
    return SplitItems(items, np.repeat(np.arange(len(class_names)), counts))
