"""Annotated images as files in the layout of COCO 2017."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from halonet.data.coco.source import DetectionSource, to_coco
from halonet.files import replacing


def write_coco(source: DetectionSource, folder: str | Path, *, say: Callable[[str], None] = lambda line: None) -> None:
    """Write a source as PART/NUMBER.png and annotations/instances_PART.json, masks as compressed run lengths.

    Boxes, masks, labels and ids are the same when they are read back. The annotations of a part come after its
    images: where they are, the part is whole. A test part that is the validation part is not written.

    Args:
        source: such as drawn scenes.
        folder: made where it is missing.
        say: gets a line as a part is done.

    Raises:
        ValueError: a folder that holds other images or annotations, or a file in its place.
    """
    root = Path(folder).expanduser()
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(f"folder: expected none or an empty one, found {'files in ' if root.is_dir() else ''}{root}")
    for part, images in source.splits.items():
        if part == "test" and source.test_is_val:
            continue
        for item in images:
            with replacing(root / part / f"{item.image_id:012d}.png") as path:
                Image.fromarray(item.load().image).save(path, "png")
        with replacing(root / "annotations" / f"instances_{part}.json") as path:
            path.write_text(json.dumps(to_coco(images, source.categories)), encoding="utf-8")
        say(f"{part}: {len(images)} images")
