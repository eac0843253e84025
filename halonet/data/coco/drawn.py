"""Scenes of overlapping textured shapes drawn from a seed, with the exact visible mask of every object.

A scene is a textured background and 1 to 6 shapes, later ones before earlier ones. The shape tells the category; its
texture tells nothing. Every shape that is seen is annotated: one of which too little would be seen is not drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from math import pi
from typing import Any

import numpy as np

from halonet.data.coco.shapes import SHAPES, Shape
from halonet.data.coco.source import Annotated, AnnotatedImages, Category, numbered, tight_boxes, to_coco
from halonet.data.drawn_texture import Texture, draw_texture

CATEGORIES = tuple(Category(number, name) for number, name in enumerate(SHAPES, 1))
LEAST_SIDE = 32  # pixels; on less the small shapes cannot be told apart
MOST_OBJECTS = 6
_SIZES = (0.12, 0.6)  # width of a shape, as a share of the shorter side
_NARROWEST = 0.65  # of a shape's two radii, the shorter over the longer
_LEAST_SHARE = 0.2  # of a shape that must be seen
_LEAST_PIXELS = 30
_TRIES = 10  # places for a shape before it is given up
_COLOURS = 12  # drawn for a texture, of which the one farthest from all others of the scene is taken
_NOISE = 0.4  # of the textures' own contrast


@dataclass(frozen=True)
class DrawnImage:
    """A scene as it is kept: image (H, W, 3) uint8, and `seen` (H, W) uint8, the number of the object seen at each
    pixel, 0 for the background; object i is of labels[i - 1]."""

    image: np.ndarray
    seen: np.ndarray
    labels: tuple[int, ...]


def draw_scene(seed: int, index: int, *, size: tuple[int, int] = (128, 128)) -> DrawnImage:
    """Draw scene `index` of `seed`; it depends on nothing but the arguments.

    Args:
        seed: not negative.
        index: not negative.
        size: (H, W), in pixels, at least 32 each.

    Returns:
        The scene.

    Raises:
        ValueError: numbers out of range.
    """
    if min(seed, index) < 0:
        raise ValueError(f"seed and index must not be negative, got {seed} and {index}")
    check_size(size)
    rng = np.random.default_rng((seed, index))
    seen, shapes = _arrange(rng, size)
    rows, columns = np.indices(size, dtype=np.float32)
    image = np.empty((*size, 3), np.float32)
    colours: list[np.ndarray] = []
    for number in range(len(shapes) + 1):
        texture = _texture(rng, colours)
        colours.append(texture.base)
        places = seen == number
        image[places] = texture(columns[places], rows[places])
    labels = tuple(list(SHAPES).index(shape.kind) + 1 for shape in shapes)
    return DrawnImage(np.rint(255 * image).astype(np.uint8), seen, labels)


def check_size(size: tuple[int, int]) -> None:
    """Raises ValueError unless scenes of `size` can be drawn."""
    if min(size) < LEAST_SIDE:
        raise ValueError(f"size of drawn scenes must be at least {LEAST_SIDE} x {LEAST_SIDE} pixels, got {tuple(size)}")


def _arrange(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, list[Shape]]:
    """Which shape is seen at each pixel, and the shapes, back to front."""
    seen = np.zeros(size, np.uint8)
    shapes: list[Shape] = []
    whole: list[int] = []  # pixels of each shape, hidden ones included
    for _ in range(int(rng.integers(1, MOST_OBJECTS + 1))):
        for _ in range(_TRIES):
            shape = _shape(rng, size)
            covered = shape.covers(size)
            pixels = int(covered.sum())
            if pixels >= _LEAST_PIXELS and _leaves_enough(seen, covered, whole):
                shapes.append(shape)
                whole.append(pixels)
                seen[covered] = len(shapes)
                break
    if not shapes:  # on small pictures a shape may find no place
        shape = Shape("ellipse", (size[1] / 2, size[0] / 2), (min(size) / 4, min(size) / 4), 0.0)
        shapes.append(shape)
        seen[shape.covers(size)] = 1
    return seen, shapes


def _leaves_enough(seen: np.ndarray, covered: np.ndarray, whole: list[int]) -> bool:
    """Whether enough of all earlier shapes is seen behind a new one."""
    left = np.bincount(seen[~covered], minlength=len(whole) + 1)[1:]
    return all(now >= max(_LEAST_PIXELS, _LEAST_SHARE * before) for now, before in zip(left, whole, strict=True))


def _shape(rng: np.random.Generator, size: tuple[int, int]) -> Shape:
    """Its centre is far enough inside that most of it is in the picture."""
    kind = tuple(SHAPES)[rng.integers(len(SHAPES))]
    radius = rng.uniform(*_SIZES) * min(size) / 2
    height, width = size
    margin = 0.7 * radius
    centre = (rng.uniform(margin, width - margin), rng.uniform(margin, height - margin))
    return Shape(kind, centre, (radius, radius * rng.uniform(_NARROWEST, 1)), rng.uniform(0, 2 * pi))


def _texture(rng: np.random.Generator, others: list[np.ndarray]) -> Texture:
    """In a colour that stands out from `others`, with less contrast than between colours."""
    texture = draw_texture(rng)
    bases = rng.uniform(0.1, 0.9, (_COLOURS, 3)).astype(np.float32)
    if others:
        distances = np.linalg.norm(bases[:, None] - np.stack(others)[None], axis=2).min(axis=1)
        base = bases[distances.argmax()]
    else:
        base = bases[0]
    return replace(
        texture,
        base=base,
        wave_colours=_NOISE * texture.wave_colours,
        noise_colours=_NOISE * texture.noise_colours,
        pattern_colour=_NOISE * texture.pattern_colour,
    )


class DrawnItem:
    """A scene that is drawn on first use and kept from then on. Its id is its index + 1."""

    def __init__(self, seed: int, index: int, *, size: tuple[int, int]) -> None:
        self.image_id = index + 1
        self._draw = partial(draw_scene, seed, index, size=size)
        self._scene: DrawnImage | None = None

    def load(self) -> Annotated:
        if self._scene is None:
            self._scene = self._draw()
        scene = self._scene
        numbers = np.arange(1, len(scene.labels) + 1)
        masks = (scene.seen == numbers[:, None, None]).astype(np.uint8)
        return Annotated(
            image=scene.image,
            boxes=tight_boxes(masks),
            labels=np.array(scene.labels, np.int64),
            masks=masks,
            iscrowd=np.zeros(len(masks), np.int64),
            area=masks.sum(axis=(1, 2), dtype=np.float32),
            annotation_ids=self.image_id * 10 + numbers,
        )


class DrawnScenes(AnnotatedImages):
    """`count` scenes; scene i is `draw_scene(seed, i, size=size)`.

    Args:
        count: at least 1.
        seed: not negative.
        size: (H, W), in pixels, at least 32 each.

    Raises:
        ValueError: numbers out of range.
    """

    categories = CATEGORIES

    def __init__(self, count: int, seed: int, *, size: tuple[int, int] = (128, 128)) -> None:
        if count < 1 or seed < 0:
            raise ValueError(f"count must be at least 1 and seed at least 0, got {count} and {seed}")
        check_size(size)
        self._items = [DrawnItem(seed, index, size=size) for index in range(count)]

    def __len__(self) -> int:
        return len(self._items)

    def _item(self, index: int) -> DrawnItem:
        return self._items[index]

    def ground_truth(self) -> dict[str, Any]:
        return numbered(to_coco(self, CATEGORIES))
