"""Disparities as colour pictures, alone and beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from halonet.analysis.plots import save_figure, start_figure

COLOURS = "turbo"
MOST_ERROR = 3.0  # pixels from which on an error is as red as it gets: KITTI's threshold


class Judged(Protocol):
    """A pair with its truth, as `halonet.data.stereo.Scene` has it."""

    @property
    def left(self) -> np.ndarray: ...

    @property
    def disparity(self) -> np.ndarray: ...

    @property
    def valid(self) -> np.ndarray: ...

    @property
    def name(self) -> str: ...


def colour_disparity(disparity: np.ndarray, *, most: float | None = None) -> np.ndarray:
    """(H, W) pixels -> (H, W, 3) uint8: blue is far (0), red is near (`most`; the largest if None)."""
    from matplotlib import colormaps

    top = float(np.nanmax(disparity)) if most is None else most
    shares = np.clip(np.nan_to_num(disparity) / max(top, 1e-6), 0, 1)
    return np.asarray(colormaps[COLOURS](shares, bytes=True))[..., :3]


def plot_disparities(scenes: Sequence[Judged], told: Sequence[np.ndarray], path: str | Path) -> None:
    """One PNG, a row a pair: the left picture, its true disparity, the one told, and where it errs.

    Args:
        scenes: pairs with their truth.
        told: a disparity (H, W) for each, in pixels.
        path: of the PNG.

    Raises:
        ValueError: no pair, or another number of answers.
    """
    if not scenes or len(scenes) != len(told):
        raise ValueError(f"told must have an answer for each of at least one pair, got {len(told)} for {len(scenes)}")
    height, width = told[0].shape
    side = 3.2
    figure, axes = start_figure(len(scenes), 4, size=(4 * side, len(scenes) * (side * height / width + 0.45)))
    for row, (scene, answer) in enumerate(zip(scenes, told, strict=True)):
        truth = np.where(scene.valid, scene.disparity, np.nan)
        error = np.abs(answer - truth)
        most = float(np.nanmax(truth)) if scene.valid.any() else float(answer.max())
        _show(axes[row, 0], scene.left, f"left picture, {scene.name}")
        _show(axes[row, 1], truth, f"true disparity, up to {most:.1f} px", vmin=0, vmax=most, cmap=COLOURS)
        _show(axes[row, 2], answer, "told", vmin=0, vmax=most, cmap=COLOURS)
        mean = float(np.nanmean(error)) if scene.valid.any() else float("nan")
        title = f"error: {mean:.2f} px, black {MOST_ERROR:.0f} and more"
        _show(axes[row, 3], error, title, vmin=0, vmax=MOST_ERROR, cmap="Greys")
    save_figure(figure, path)


def _show(axis: Any, picture: np.ndarray, title: str, **options: Any) -> None:
    axis.imshow(picture, interpolation="nearest", **options)
    axis.set_title(title, fontsize=9)
    axis.axis("off")
