"""Stereo pairs drawn from a seed, with the exact disparity of every pixel and exact occlusion.

A scene is a slanted background and 4 to 9 shapes at several depths, all planes with textures of their own. A point at
column x of the left view is at x - d of the right view, d being its disparity; see `drawn_layers` for the geometry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi, sin
from typing import overload

import numpy as np

from halonet.data.drawn_texture import draw_texture
from halonet.data.stereo.drawn_layers import ConvexPolygon, Ellipse, Layer, Plane, Shape, render
from halonet.data.stereo.source import Scene

LEAST_DISPARITY = 1.0
_STEEPEST = 0.25  # pixels of disparity a pixel: beyond it one view sees a shape much narrower than the other


@dataclass(frozen=True)
class DrawnScene(Scene):
    """All pixels are valid, as in Scene Flow; occluded: (H, W) bool, where the right view does not show the point."""

    occluded: np.ndarray


def draw_scene(seed: int, index: int, *, size: tuple[int, int] = (64, 128), max_disparity: float = 32.0) -> DrawnScene:
    """Draw pair `index` of `seed`; it depends on nothing but the arguments.

    Args:
        seed: not negative.
        index: not negative.
        size: (H, W), in pixels.
        max_disparity: in pixels; disparities lie from 1 to below it.

    Returns:
        The pair, named drawn-SEED-INDEX.

    Raises:
        ValueError: numbers out of range.
    """
    if min(seed, index) < 0:
        raise ValueError(f"seed and index must not be negative, got {seed} and {index}")
    _check(size, max_disparity)
    rng = np.random.default_rng((seed, index))
    background = _background(rng, size, max_disparity)
    count = int(rng.integers(4, 10))
    shapes = [_foreground(rng, background.plane, size, max_disparity) for _ in range(count)]
    views = render([background, *shapes], size=size)
    return DrawnScene(
        left=views.left,
        right=views.right,
        disparity=views.disparity,
        valid=np.ones(size, dtype=bool),
        name=f"drawn-{seed}-{index}",
        occluded=views.occluded,
    )


class DrawnItem:
    """A pair that is drawn on first use and kept from then on."""

    def __init__(self, seed: int, index: int, *, size: tuple[int, int], max_disparity: float) -> None:
        self.name = f"drawn-{seed}-{index}"
        self._seed, self._index = seed, index
        self._size, self._max_disparity = size, max_disparity
        self._scene: DrawnScene | None = None

    def load(self) -> DrawnScene:
        if self._scene is None:
            self._scene = draw_scene(self._seed, self._index, size=self._size, max_disparity=self._max_disparity)
        return self._scene


class DrawnScenes(Sequence[DrawnItem]):
    """`count` pairs; pair i is `draw_scene(seed, i, ...)`.

    Args:
        count: at least 1.
        seed: not negative.
        size: (H, W), in pixels.
        max_disparity: in pixels; 2 to the width.

    Raises:
        ValueError: numbers out of range.
    """

    def __init__(
        self, count: int, seed: int, *, size: tuple[int, int] = (64, 128), max_disparity: float = 32.0
    ) -> None:
        if count < 1 or seed < 0:
            raise ValueError(f"count must be at least 1 and seed at least 0, got {count} and {seed}")
        _check(size, max_disparity)
        self._items = [DrawnItem(seed, i, size=size, max_disparity=max_disparity) for i in range(count)]

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> DrawnItem: ...

    @overload
    def __getitem__(self, index: slice) -> list[DrawnItem]: ...

    def __getitem__(self, index: int | slice) -> DrawnItem | list[DrawnItem]:
        return self._items[index]


def _check(size: tuple[int, int], max_disparity: float) -> None:
    if min(size) < 1:
        raise ValueError(f"size must be two positive ints, got {size}")
    if not 2 <= max_disparity <= size[1]:
        raise ValueError(f"max_disparity must be 2 to the width {size[1]}, got {max_disparity}")


def _plane(
    rng: np.random.Generator,
    level: float,
    *,
    centre: tuple[float, float],
    reach: tuple[float, float],
    max_disparity: float,
    slant: float,
) -> Plane:
    """Through `level` at `centre`; within `reach` of it all disparities are from 1 to below `max_disparity`.

    slant: 0 to 1, the share of the room for that which may be used.
    """
    room = slant * 0.95 * min(level - LEAST_DISPARITY, max_disparity - level)
    along = rng.uniform(-1, 1)
    across = rng.uniform(-1, 1) * (1 - abs(along))
    slope_x, slope_y = (
        float(np.clip(room * part / far, -_STEEPEST, _STEEPEST))
        for part, far in zip((along, across), reach, strict=True)
    )
    return Plane(level - slope_x * centre[0] - slope_y * centre[1], slope_x, slope_y)


def _background(rng: np.random.Generator, size: tuple[int, int], max_disparity: float) -> Layer:
    """Its disparities stay in range as far to the right as the right view sees."""
    height, width = size
    level = LEAST_DISPARITY + rng.uniform(0.05, 0.45) * (max_disparity - LEAST_DISPARITY)
    plane = _plane(
        rng,
        level,
        centre=((width + max_disparity) / 2, height / 2),
        reach=((width + max_disparity) / 2 + 1, height / 2 + 1),
        max_disparity=max_disparity,
        slant=1.0,
    )
    return Layer(plane, draw_texture(rng))


def _foreground(rng: np.random.Generator, background: Plane, size: tuple[int, int], max_disparity: float) -> Layer:
    """Before the background at its centre, which lies anywhere in the frame as a camera between the two sees it."""
    height, width = size
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    behind = background.level + background.slope_x * x + background.slope_y * y
    level = behind + rng.uniform(0.15, 0.95) * (max_disparity - behind)
    centre = (x + level / 2, y)
    shape = _shape(rng, centre, size)
    x0, y0, x1, y1 = shape.bounds
    reach = (max(x1 - centre[0], centre[0] - x0), max(y1 - y, y - y0))
    slant = rng.choice((0.0, 1.0))  # half of all face the cameras
    plane = _plane(rng, level, centre=centre, reach=reach, max_disparity=max_disparity, slant=slant)
    return Layer(plane, draw_texture(rng), shape)


def _shape(rng: np.random.Generator, centre: tuple[float, float], size: tuple[int, int]) -> Shape:
    a, b = rng.uniform(0.08, 0.35, 2) * min(size)
    angle = rng.uniform(0, pi)
    kind = rng.choice(("rectangle", "ellipse", "polygon"))
    if kind == "ellipse":
        return Ellipse(centre, (a, b), angle)
    if kind == "rectangle":
        corners = [(-a, -b), (a, -b), (a, b), (-a, b)]
    else:  # corners on an ellipse, one in each of equal sectors, so that they are convex and no sliver
        count = int(rng.integers(3, 8))
        turns = 2 * pi * (np.arange(count) + rng.uniform(0, 0.6, count)) / count
        corners = [(a * cos(turn), b * sin(turn)) for turn in turns]
    return ConvexPolygon(
        tuple(
            (centre[0] + cos(angle) * u - sin(angle) * v, centre[1] + sin(angle) * u + cos(angle) * v)
            for u, v in corners
        )
    )
