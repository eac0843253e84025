"""Textured planes cut to shapes, and what two cameras see of them: the geometry of drawn stereo pairs.

Everything is told in coordinates (x, y) of the left view; pixel centres are whole numbers. A layer has the disparity
d(x, y) = level + slope_x * x + slope_y * y, and the right view shows its point (x, y) at x - d(x, y). The other way
round, column r of the right view shows x = (r + level + slope_y * y) / (1 - slope_x). Of all layers on a line of
sight the one of largest disparity is nearest and is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cos, hypot, sin
from typing import Protocol

import numpy as np

Texture = Callable[[np.ndarray, np.ndarray], np.ndarray]
Bounds = tuple[float, float, float, float]  # smallest x and y, largest x and y
_SAMPLES = 2  # colours a pixel in each direction
_TOLERANCE = 1e-9  # pixels of disparity that rounding may make between a layer and itself


class Shape(Protocol):
    """A region of the left view."""

    @property
    def bounds(self) -> Bounds: ...

    def covers(self, x: np.ndarray, y: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Ellipse:
    """With its first radius turned by `angle` (radians) from the x axis."""

    centre: tuple[float, float]
    radii: tuple[float, float]
    angle: float = 0.0

    @property
    def bounds(self) -> Bounds:
        (x, y), (a, b) = self.centre, self.radii
        wide = hypot(a * cos(self.angle), b * sin(self.angle))
        high = hypot(a * sin(self.angle), b * cos(self.angle))
        return x - wide, y - high, x + wide, y + high

    def covers(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        x, y = x - self.centre[0], y - self.centre[1]
        along = (cos(self.angle) * x + sin(self.angle) * y) / self.radii[0]
        across = (cos(self.angle) * y - sin(self.angle) * x) / self.radii[1]
        return along * along + across * across <= 1


@dataclass(frozen=True)
class ConvexPolygon:
    """With its corners in the order of growing angles, from the x to the y axis; a rectangle is one of four."""

    corners: tuple[tuple[float, float], ...]

    @property
    def bounds(self) -> Bounds:
        xs, ys = zip(*self.corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    def covers(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        inside = np.ones(np.broadcast_shapes(x.shape, y.shape), dtype=bool)
        for (x0, y0), (x1, y1) in zip(self.corners, (*self.corners[1:], self.corners[0]), strict=True):
            inside &= (x1 - x0) * (y - y0) >= (y1 - y0) * (x - x0)
        return inside


@dataclass(frozen=True)
class Plane:
    """Disparity, in pixels, as an affine function of the left view's coordinates; slope_x is below 1."""

    level: float
    slope_x: float = 0.0
    slope_y: float = 0.0

    def at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return self.level + self.slope_x * x + self.slope_y * y

    def from_right(self, column: np.ndarray, y: np.ndarray) -> np.ndarray:
        """x of the point that the right view shows at `column`."""
        return (column + (self.level + self.slope_y * y)) / (1 - self.slope_x)


@dataclass(frozen=True)
class Layer:
    """`texture` gives colours (N, 3) in 0..1 at x and y (N,). shape None: everywhere."""

    plane: Plane
    texture: Texture
    shape: Shape | None = None

    def window(self, columns: np.ndarray, rows: np.ndarray, *, right: bool) -> tuple[slice, slice]:
        """The part of a view's grid, rows and columns in growing order, outside of which the layer is not seen."""
        if self.shape is None:
            return slice(None), slice(None)
        x0, y0, x1, y1 = self.shape.bounds
        if right:
            shown = [
                x - self.plane.level - self.plane.slope_x * x - self.plane.slope_y * y
                for x in (x0, x1)
                for y in (y0, y1)
            ]
            x0, x1 = min(shown), max(shown)
        return slice(*np.searchsorted(rows, (y0, y1 + 1))), slice(*np.searchsorted(columns, (x0, x1 + 1)))


@dataclass(frozen=True)
class Views:
    """left, right: (H, W, 3) uint8. disparity: (H, W) float32. occluded: (H, W) bool, in the right view."""

    left: np.ndarray
    right: np.ndarray
    disparity: np.ndarray
    occluded: np.ndarray


def render(layers: Sequence[Layer], *, size: tuple[int, int]) -> Views:
    """What both cameras see of the layers, without any warping of pictures.

    Args:
        layers: any number, in any order; at least one without a shape, so that every line of sight ends somewhere.
        size: (H, W) of the views, in pixels.

    Returns:
        Colours are means of four samples a pixel; disparity and occlusion are those of the pixel's centre. A left
        pixel is occluded if its point leaves the right view's frame or is hidden there by another.

    Raises:
        ValueError: no layer without a shape.
    """
    if all(layer.shape is not None for layer in layers):
        raise ValueError("layers must hold one without a shape, got none")
    rows, columns = np.arange(size[0], dtype=np.float64), np.arange(size[1], dtype=np.float64)
    _, disparity = _frontmost(layers, columns, rows, right=False)
    return Views(
        left=_picture(layers, size, right=False),
        right=_picture(layers, size, right=True),
        disparity=disparity.astype(np.float32),
        occluded=_occluded(layers, columns, rows, disparity),
    )


def _frontmost(
    layers: Sequence[Layer], columns: np.ndarray, rows: np.ndarray, *, right: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Number and disparity of the layer seen at each place of a grid: (rows, columns) of a view."""
    number = np.zeros((len(rows), len(columns)), dtype=np.int8 if len(layers) < 128 else np.int64)
    nearest = np.full(number.shape, -np.inf)
    for i, layer in enumerate(layers):
        window = layer.window(columns, rows, right=right)
        y = rows[window[0], None]
        x = columns[None, window[1]]
        if right:
            x = layer.plane.from_right(x, y)
        disparity = layer.plane.at(x, y)
        seen = disparity > nearest[window]
        if layer.shape is not None:
            seen &= layer.shape.covers(x, y)
        np.copyto(nearest[window], disparity, where=seen)
        number[window][seen] = i
    return number, nearest


def _picture(layers: Sequence[Layer], size: tuple[int, int], *, right: bool) -> np.ndarray:
    rows, columns = ((np.arange(side * _SAMPLES) + 0.5) / _SAMPLES - 0.5 for side in size)
    number = _frontmost(layers, columns, rows, right=right)[0].ravel()
    colours = np.empty((number.size, 3), dtype=np.float32)
    for i, layer in enumerate(layers):
        places = np.flatnonzero(number == i)
        if places.size:
            row, column = np.divmod(places, len(columns))
            x, y = columns[column], rows[row]
            colours[places] = layer.texture(layer.plane.from_right(x, y) if right else x, y)
    samples = colours.reshape(size[0], _SAMPLES, size[1], _SAMPLES, 3)
    return np.rint(255 * samples.mean(axis=(1, 3))).astype(np.uint8)


def _occluded(layers: Sequence[Layer], columns: np.ndarray, rows: np.ndarray, disparity: np.ndarray) -> np.ndarray:
    shown_at = columns[None] - disparity
    # Pixels are squares around their centres, so that the frame goes half a pixel beyond the outer ones.
    occluded = (shown_at < -0.5) | (shown_at > len(columns) - 0.5)
    for layer in layers:
        window = layer.window(columns, rows, right=False)[0]
        y = rows[window, None]
        x = layer.plane.from_right(shown_at[window], y)
        hides = layer.plane.at(x, y) > disparity[window] + _TOLERANCE
        if layer.shape is not None:
            hides &= layer.shape.covers(x, y)
        occluded[window] |= hides
    return occluded
