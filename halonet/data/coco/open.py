"""From settings to annotated images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from halonet.data.coco.annotation_file import AnnotationFile, read_annotations
from halonet.data.coco.check import differing_categories
from halonet.data.coco.config import DetectionConfig
from halonet.data.coco.drawn import CATEGORIES, DrawnScenes
from halonet.data.coco.files import CocoImages
from halonet.data.coco.layout import find_parts
from halonet.data.coco.problems import told_left_out
from halonet.data.coco.records import Records
from halonet.data.coco.source import Category, DetectionSource
from halonet.data.source import Split
from halonet.data.splits import stratified_split

_LEAST_DRAWN = 32  # fewer scenes than that are no judges


def open_detection_source(
    detection: DetectionConfig, *, root: str | Path | None, split_seed: int, val_fraction: float
) -> DetectionSource:
    """The annotated images that `detection` names; images are opened when they are needed.

    Args:
        detection: the settings.
        root: folder of files; None for drawn scenes.
        split_seed: of the validation cut; of drawn scenes, what all of them are drawn from.
        val_fraction: share of the training images that is held out where the files hold no validation part.

    Returns:
        The source. Training images without an object, crowd regions aside, are left out, as torchvision's and
        Detectron's references do; validation and test images are all kept.

    Raises:
        ValueError: a folder that is missing, is not needed, is not laid out as expected, or has a larger share of
            wrong annotations or images than detection.max_bad.
    """
    dataset = detection.dataset
    if dataset == "auto":
        dataset = "drawn" if root is None else "coco"
    if dataset == "drawn":
        if root is not None:
            raise ValueError(f"data.root: expected null for drawn scenes, got {root}")
        return drawn_source(detection.drawn_images, size=detection.drawn_size, seed=split_seed)
    if root is None:
        raise ValueError("data.root: expected the folder of COCO's files, got null")
    return _coco_source(Path(root).expanduser(), detection, val_fraction=val_fraction, seed=split_seed)


def drawn_source(images: int, *, size: list[int] | tuple[int, int], seed: int) -> DetectionSource:
    """`images` training scenes, an eighth of that for validation and test each, at least 32; no two are the same."""
    held_out = max(_LEAST_DRAWN, images // 8)
    height, width = size
    # Three seeds that no other has.
    train, val, test = (
        DrawnScenes(count, 3 * seed + part, size=(height, width))
        for part, count in enumerate((images, held_out, held_out))
    )
    return DetectionSource(
        "drawn", {"train": train, "val": val, "test": test}, categories=CATEGORIES, test_is_val=False
    )


@dataclass(frozen=True)
class _Part:
    file: AnnotationFile
    records: Records

    def images(self, categories: tuple[Category, ...], *, train: bool) -> CocoImages:
        records = self.records.chosen(np.flatnonzero(self.records.objects)) if train else self.records
        return CocoImages(self.file.images, records, categories, has_masks=self.file.has_masks)


def _coco_source(root: Path, detection: DetectionConfig, *, val_fraction: float, seed: int) -> DetectionSource:
    form, found = find_parts(root, detection)
    files = {split: read_annotations(part.annotations, folders=part.images) for split, part in found.items()}
    for file in files.values():
        _refuse(file, root=root, most=detection.max_bad)
    first = next(iter(files.values()))
    for file in files.values():
        for problem in differing_categories(file, first):
            raise ValueError(f"data.root: all parts must have the same categories, but {problem}")
    parts = {split: _Part(file, file.records) for split, file in files.items()}
    if "val" not in parts and "train" in parts:
        parts |= _cut(parts["train"], val_fraction=val_fraction, seed=seed)
    test_is_val = "test" not in parts
    judged: Split = "val" if "val" in parts else "test"
    parts = {"val": parts[judged], "test": parts[judged], **parts}
    splits: dict[Split, CocoImages] = {}
    for split in ("train", "val", "test"):
        if split in parts:
            splits[split] = parts[split].images(first.categories, train=split == "train")
            if not len(splits[split]):
                raise ValueError(f"data.root: no annotated images left for {split} in {parts[split].file.path}")
    return DetectionSource(
        name=root.resolve().name,
        splits=splits,
        categories=first.categories,
        test_is_val=test_is_val,
        problems=[problem for file in files.values() for problem in file.problems],
        has_masks=all(file.has_masks or not file.annotations_listed for file in files.values()),
        form=form,
    )


def _cut(train: _Part, *, val_fraction: float, seed: int) -> dict[Split, _Part]:
    count = len(train.records)
    kept, held_out, _ = stratified_split([0] * count, val_fraction=val_fraction, test_fraction=0.0, seed=seed)
    if not kept or not held_out:
        raise ValueError(
            f"data.val_fraction: {val_fraction:g} of {count} images leaves {len(kept)} to train on and "
            f"{len(held_out)} to validate: expected at least one of both"
        )
    return {
        "train": _Part(train.file, train.records.chosen(kept)),
        "val": _Part(train.file, train.records.chosen(held_out)),
    }


def _refuse(file: AnnotationFile, *, root: Path, most: float) -> None:
    """Raises ValueError where more is wrong than a run may leave out."""
    for what, listed, kept in (
        ("annotations", file.annotations_listed, file.annotations_kept),
        ("images", file.images_listed, len(file.records)),
    ):
        if listed - kept > most * listed:
            raise ValueError(
                f"data.root: {listed - kept} of {listed} {what} of {file.path} are wrong, more than the share of "
                f"{most:g} that detection.max_bad allows ({told_left_out(file.problems)}); "
                f"`halonet data check {root}` lists them"
            )
