"""The shapes of drawn scenes: regions of the plane, one kind a category."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np

_STAR_INNER = 0.45  # radius of a star's inner corners, of a ring's hole and half the width of a cross's arms:
_RING_HOLE = 0.55  # shares of the outer radius
_CROSS_ARM = 0.3


def _ellipse(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return u * u + v * v <= 1


def _rectangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v)) <= 0.8


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Regular, its corners on the unit circle: each side lies at distance 1/2 from the centre."""
    normals = [pi + 2 * pi * k / 3 for k in range(3)]
    return np.max([u * cos(angle) + v * sin(angle) for angle in normals], axis=0) <= 0.5


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Five points. Folded into half a point, it is what lies on the centre's side of one line."""
    fold = pi / 5
    angle = np.abs((np.arctan2(v, u) + fold) % (2 * fold) - fold)
    radius = np.hypot(u, v)
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    inner_x, inner_y = _STAR_INNER * cos(fold), _STAR_INNER * sin(fold)
    return (x - 1) * inner_y - y * (inner_x - 1) <= 0


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    radius = u * u + v * v
    return (radius <= 1) & (radius >= _RING_HOLE**2)


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    u, v = np.abs(u), np.abs(v)
    return (np.minimum(u, v) <= _CROSS_ARM) & (np.maximum(u, v) <= 1)


# Name of the category: whether points of the unit circle's neighbourhood belong to the shape.
SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "ellipse": _ellipse,
    "rectangle": _rectangle,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
}


@dataclass(frozen=True)
class Shape:
    """A shape of SHAPES, of two radii, the first turned by `angle` (radians), around `centre` (x, y); in pixels."""

    kind: str
    centre: tuple[float, float]
    radii: tuple[float, float]
    angle: float

    def window(self, size: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns of a picture of `size` outside of which the shape covers nothing."""
        reach = max(self.radii) * 1.2  # a rectangle's corners lie at 1.13 of its radius
        (x, y), (height, width) = self.centre, size
        top, bottom, left, right = (
            int(np.clip(value, 0, most))
            for value, most in (
                (y - reach, height),
                (y + reach + 1, height),
                (x - reach, width),
                (x + reach + 1, width),
            )
        )
        return slice(top, bottom), slice(left, right)

    def covers(self, size: tuple[int, int]) -> np.ndarray:
        """(H, W) bool of a picture of `size`: pixels whose centre, half a pixel from their edges, lies in the shape."""
        covered = np.zeros(size, dtype=bool)
        rows, columns = self.window(size)
        y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + np.float32(0.5 - self.centre[1])
        x = np.arange(columns.start, columns.stop, dtype=np.float32)[None] + np.float32(0.5 - self.centre[0])
        cosine, sine = np.float32(cos(self.angle)), np.float32(sin(self.angle))
        u = (cosine * x + sine * y) / np.float32(self.radii[0])
        v = (cosine * y - sine * x) / np.float32(self.radii[1])
        covered[rows, columns] = SHAPES[self.kind](u, v)
        return covered
