"""Draws the picture of docs/coco.md: drawn scenes, above as a detector sees them, below with all that is told of them.

python docs/draw_scenes.py [FOLDER]        (default: docs/images)
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from halonet.analysis.detection_pictures import draw_detections
from halonet.data.coco import DrawnScenes
from halonet.data.coco.drawn import CATEGORIES

COLUMNS = 5
SCALE = 2  # pixels of the picture a pixel of a scene
GAP = 6


def draw_scenes() -> Image.Image:
    """The first scenes of seed 0."""
    names = [category.name for category in CATEGORIES]
    columns = []
    for item in DrawnScenes(COLUMNS, 0):
        scene = item.load()
        told = draw_detections(scene.image, scene.boxes, scene.labels, masks=scene.masks, names=names, enlarge=SCALE)
        plain = scene.image.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
        columns += [framed(np.concatenate([framed(plain, axis=0), told]), axis=1)]
    return Image.fromarray(np.concatenate(columns, axis=1)[:, :-GAP])


def framed(picture: np.ndarray, *, axis: int) -> np.ndarray:
    """With white below it (axis 0) or to its right (axis 1)."""
    shape = list(picture.shape)
    shape[axis] = GAP
    return np.concatenate([picture, np.full(shape, 255, np.uint8)], axis=axis)


if __name__ == "__main__":
    path = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "images") / "drawn_scenes.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_scenes().save(path)
    print(path)
