"""From settings to annotated images."""

from __future__ import annotations

from halonet.data.coco.config import DetectionConfig
from halonet.data.coco.drawn import CATEGORIES, DrawnScenes
from halonet.data.coco.source import DetectionSource

_LEAST_DRAWN = 32  # fewer scenes than that are no judges


def open_detection_source(
    detection: DetectionConfig, *, root: str | None, split_seed: int, val_fraction: float
) -> DetectionSource:
    """The annotated images that `detection` names; images are opened when they are needed.

    Args:
        detection: the settings.
        root: folder of files; None for drawn scenes.
        split_seed: of the validation cut; of drawn scenes, what all of them are drawn from.
        val_fraction: share of the training images that is held out where the files hold no validation part.

    Returns:
        The source.

    Raises:
        ValueError: a folder that is missing, is not needed, is not laid out as expected, or has more wrong annotations
            than detection.max_bad.
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
    raise ValueError(f"detection.dataset: reading COCO's files is not there yet, got {root}")


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
