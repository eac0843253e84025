"""ImageNet-1k, ImageNet-21k and ImageNetV2 as they are handed out: class folders, or tar files read in place."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from halonet.data.archives import (
    Index,
    Scan,
    TarImages,
    images_by_name,
    images_of_class,
    images_of_nested,
    index_of,
)
from halonet.data.class_map import told_apart
from halonet.data.config import DataConfig
from halonet.data.devkit import DEVKIT, TRUTH, Devkit, read_devkit
from halonet.data.folder import images_below, read_classes
from halonet.data.items import Files
from halonet.data.source import ImageSource, Item, Part, Split, SplitItems
from halonet.data.splits import cut

WNID = re.compile(r"n\d{8}")
TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
MORE_THAN_1K = 1000
IMAGENET_LAYOUT = (
    f"expected train/ and val/ with folders n01440764/ ..., val/ may be flat beside {DEVKIT}.tar.gz; "
    f"or {TRAIN_TAR}, {VAL_TAR} and {DEVKIT}.tar.gz"
)


@dataclass(frozen=True)
class Labelled:
    """Images that show the classes `ids[number[i]]`."""

    items: Sequence[Item]
    number: np.ndarray
    ids: tuple[str, ...]

    def as_split(self, class_ids: Sequence[str], where: Path) -> SplitItems:
        """The same with the classes numbered as in `class_ids`. Raises ValueError for one that is not there."""
        numbers = {name: label for label, name in enumerate(class_ids)}
        unknown = sorted({self.ids[number] for number in np.unique(self.number)} - numbers.keys())
        if unknown:
            raise ValueError(f"data.root: {where} has classes that train has not: {', '.join(unknown[:5])}")
        labels = np.array([numbers.get(name, -1) for name in self.ids], np.int64)[self.number]
        return SplitItems(self.items, labels)


def is_imagenet(root: Path) -> bool:
    """Whether the folder looks like ImageNet-1k."""
    if any((root / name).is_file() for name in (TRAIN_TAR, VAL_TAR)):
        return True
    return any(_only_classes(root / part) or _class_tars(root / part) for part in ("train", "val"))


def is_imagenet21k(root: Path) -> bool:
    """Whether the folder looks like ImageNet-21k: tar files of classes, or more class folders than ImageNet-1k has."""
    return bool(_class_tars(root)) or (_only_classes(root) and len(_class_folders(root)) > MORE_THAN_1K)


def is_imagenetv2(root: Path) -> bool:
    """Whether the folder looks like ImageNetV2: folders 0 to 999."""
    return {path.name for path in root.iterdir() if path.is_dir()} == set(map(str, range(1000)))


def open_imagenet(config: DataConfig) -> ImageSource:
    """ImageNet-1k, its classes numbered by WordNet id, called by the kit's words where the kit is there.

    Raises:
        ValueError: what lies there does not fit.
    """
    root = folder_of(config)
    kit = read_devkit(root)
    train = _train(root)
    val = _val(root, kit)
    if train is None and val is None:
        raise ValueError(f"data.root: no ImageNet in {root}: {IMAGENET_LAYOUT}")
    first = train or val
    assert first is not None
    class_ids = tuple(sorted(set(first.ids)))
    splits: dict[Split, Part] = {}
    if train is not None:
        splits["train"] = train.as_split(class_ids, root)
    if val is not None:
        splits["val"] = val.as_split(class_ids, root / "val")
    else:
        assert train is not None
        whole = train.as_split(class_ids, root)
        splits = {**cut(whole, val_fraction=config.val_fraction, test_fraction=0.0, seed=config.split_seed)}
    test_is_val = not _class_folders(root / "test")  # ImageNet's own test images have no published classes
    splits["test"] = splits["val"] if test_is_val else _from_folders(root / "test").as_split(class_ids, root / "test")
    return _source(root, config, class_ids, splits, form="imagenet", kit=kit, test_is_val=test_is_val)


def open_imagenet21k(config: DataConfig) -> ImageSource:
    """ImageNet-21k, which has no validation part: it is cut out of each class.

    Raises:
        ValueError: what lies there does not fit.
    """
    root = folder_of(config)
    place = next((path for path in (root, root / "train") if _class_tars(path) or _class_folders(path)), None)
    if place is None:
        raise ValueError(f"data.root: no ImageNet-21k in {root}: expected folders n01440764/ ... or n01440764.tar ...")
    whole = _from_class_tars(place) if _class_tars(place) else _from_folders(place)
    class_ids = tuple(sorted(whole.ids))
    splits: dict[Split, Part] = {
        **cut(
            whole.as_split(class_ids, place),
            val_fraction=config.val_fraction,
            test_fraction=0.0,
            seed=config.split_seed,
        )
    }
    splits["test"] = splits["val"]
    return _source(root, config, class_ids, splits, form="imagenet21k")


def open_imagenetv2(config: DataConfig) -> ImageSource:
    """ImageNetV2: folders that are numbers, of classes sorted by WordNet id; images to judge by alone.

    Raises:
        ValueError: what lies there does not fit.
    """
    root = folder_of(config)
    numbers = sorted(int(path.name) for path in root.iterdir() if path.is_dir() and path.name.isdigit())
    if len(numbers) < 2 or numbers != list(range(len(numbers))):
        raise ValueError(
            f"data.root: no ImageNetV2 in {root}: expected folders 0, 1, ... 999, as in "
            f"imagenetv2-matched-frequency-format-val, found {len(numbers)} folders that are numbers"
        )
    class_ids = tuple(map(str, numbers))
    test = read_classes(root, class_ids)
    return _source(root, config, class_ids, {"val": test, "test": test}, form="imagenetv2")


def class_tars_as_split(folder: Path) -> SplitItems:
    """Images of the tar files of classes in a folder, the classes numbered by WordNet id."""
    whole = _from_class_tars(folder)
    return whole.as_split(sorted(whole.ids), folder)


def folder_of(config: DataConfig) -> Path:
    """`data.root` as a folder. Raises ValueError if it is none."""
    root = Path(config.root or "").expanduser()
    if config.root is None or not root.is_dir():
        found = "none" if config.root is None else f"{'a file' if root.exists() else 'nothing'} at {root}"
        raise ValueError(f"data.root: expected a folder of {config.dataset}, found {found}")
    return root


def _source(
    root: Path,
    config: DataConfig,
    class_ids: tuple[str, ...],
    splits: dict[Split, Part],
    *,
    form: str,
    kit: Devkit | None = None,
    test_is_val: bool = True,
) -> ImageSource:
    for name, part in splits.items():
        if not len(part):
            raise ValueError(f"data.root: no images for {name} in {root}")
    names = class_ids if kit is None else tuple(kit.names.get(name, name) for name in class_ids)
    return ImageSource(
        name=root.resolve().name,
        class_names=told_apart(names, class_ids),
        class_ids=class_ids,
        in_chans=config.in_chans or 3,
        splits=splits,
        augment="photo",
        test_is_val=test_is_val,
        form=form,
    )


def _train(root: Path) -> Labelled | None:
    tar, folder = root / TRAIN_TAR, root / "train"
    if tar.is_file():
        return _labelled([tar], images_of_nested, beside=tar.with_name(f"{tar.name}.index.npz"))
    if _class_tars(folder):
        return _from_class_tars(folder)
    return _from_folders(folder) if _class_folders(folder) else None


def _val(root: Path, kit: Devkit | None) -> Labelled | None:
    tar, folder = root / VAL_TAR, root / "val"
    if tar.is_file():
        index = index_of([tar], images_by_name, kind="names", beside=tar.with_name(f"{tar.name}.index.npz"))
        order = np.array(sorted(range(len(index.words)), key=lambda number: index.words[number]), np.int64)
        images = TarImages([tar], index.files[order], index.offsets[order], index.sizes[order])
        return _by_ground_truth(images, kit, tar)
    if _class_folders(folder):
        return _from_folders(folder)
    if not folder.is_dir():
        return None
    files = sorted(images_below(folder), key=lambda path: path.name)
    return _by_ground_truth(Files(files), kit, folder) if files else None


def _by_ground_truth(items: Sequence[Item], kit: Devkit | None, where: Path) -> Labelled:
    if kit is None:
        raise ValueError(f"data.root: {where} says no classes: expected {DEVKIT}.tar.gz, or its folder, beside it")
    if len(items) != len(kit.truth):
        raise ValueError(f"data.root: {where} has {len(items)} images, {TRUTH} has {len(kit.truth)} lines")
    ids = tuple(sorted(set(kit.truth)))
    numbers = {name: number for number, name in enumerate(ids)}
    return Labelled(items, np.array([numbers[name] for name in kit.truth], np.int64), ids)


def _labelled(paths: list[Path], scan: Scan, *, beside: Path) -> Labelled:
    index: Index = index_of(paths, scan, kind="classes", beside=beside)
    order = np.argsort(np.array(index.words)[index.word], kind="stable") if index.words else index.word
    columns = (column[order] for column in (index.files, index.offsets, index.sizes))
    return Labelled(TarImages(paths, *columns), index.word[order], index.words)


def _from_class_tars(folder: Path) -> Labelled:
    return _labelled(_class_tars(folder), images_of_class, beside=folder / "halonet.index.npz")


def _from_folders(folder: Path) -> Labelled:
    ids = tuple(path.name for path in _class_folders(folder))
    part = read_classes(folder, ids)
    labels = np.asarray(part.labels)
    kept = np.unique(labels)  # without those that are empty
    return Labelled(part.items, np.searchsorted(kept, labels), tuple(ids[number] for number in kept))


def _class_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if WNID.fullmatch(path.name) and path.is_dir())


def _class_tars(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix == ".tar" and WNID.fullmatch(path.stem))


def _only_classes(folder: Path) -> bool:
    """Whether all sub-folders, two at least, are called like classes."""
    if not folder.is_dir():
        return False
    names = [path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return len(names) > 1 and all(map(WNID.fullmatch, names))
