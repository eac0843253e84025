"""Weights as colour over the darkened picture that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# Weight as colour: nothing is clear glass over the darkened image, the largest is opaque.
GLOW = ((0.85, 0.3, 0.0, 0.0), (1.0, 0.5, 0.05, 0.7), (1.0, 0.93, 0.5, 1.0))
# Of weights with signs: clear glass at 0; above it the same, below it in blue.
SIGNED_GLOW = (*((blue, green, red, alpha) for red, green, blue, alpha in reversed(GLOW)), *GLOW)
SIGNED_PLACES = (0.0, 0.25, 0.5, 0.5, 0.75, 1.0)
BRIGHTNESS = 0.55
LARGEST = 512  # pixels a side of a picture that is drawn as it is: a cell of a figure has fewer


def for_the_eye(image: Tensor, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Any:
    """(C, H, W) -> (H, W, 3) array of values 0 to 1.

    mean, std: what was subtracted from each channel when the image was prepared, and what it was divided by; without
    them it is stretched from its smallest to its largest value.

    Raises:
        ValueError: an image that is not grey or RGB, only one of `mean` and `std`, or not one number a channel.
    """
    channels = image.shape[0]
    if channels not in (1, 3):
        raise ValueError(f"image must have 1 or 3 channels to be drawn, got {channels}")
    if (mean is None) != (std is None):
        raise ValueError(f"mean and std must be given together, got mean={mean!r}, std={std!r}")
    image = image.detach().float().cpu()
    if mean is not None and std is not None:
        if not {len(mean), len(std)} <= {1, channels}:
            raise ValueError(f"mean and std must have 1 or {channels} numbers, got mean={mean!r}, std={std!r}")
        image = image * torch.tensor(std).view(-1, 1, 1) + torch.tensor(mean).view(-1, 1, 1)
    else:
        low, high = image.min(), image.max()
        image = (image - low) / (high - low).clamp(min=1e-12)
    return image.clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).numpy()


def draw_heat(axis: Any, picture: Any, weights: Any, *, signed: bool = False) -> Any:
    """Weights (h, w) over the darkened grey (H, W, 3) picture, scaled to their own largest magnitude.

    Returns what a colour bar describes: 0 to 1, or -1 to 1 where they have signs.
    """
    from matplotlib.colors import LinearSegmentedColormap

    height, width = picture.shape[:2]
    largest = float(abs(weights).max())
    draw_picture(axis, BRIGHTNESS * picture.mean(-1, keepdims=True))
    return axis.imshow(
        weights / largest if largest > 0 else weights,
        cmap=LinearSegmentedColormap.from_list(
            "glow", list(zip(SIGNED_PLACES, SIGNED_GLOW, strict=True)) if signed else GLOW
        ),
        vmin=-1 if signed else 0,
        vmax=1,
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        interpolation="nearest",
    )


def draw_picture(axis: Any, picture: Any) -> None:
    """A picture (H, W, 1 or 3) of values 0 to 1, an axis's unit a pixel; a large one by the means of even cells."""
    height, width, channels = picture.shape
    step = -(-max(height, width) // LARGEST)
    cells = picture
    if 1 < step <= min(height, width):
        rows, columns = height // step, width // step
        height, width = rows * step, columns * step
        cells = picture[:height, :width].reshape(rows, step, columns, step, channels).mean((1, 3))
    axis.imshow(
        cells.repeat(3, axis=2) if channels == 1 else cells,
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        interpolation="nearest",
    )


def contrasting_pixels(image: Tensor) -> list[tuple[int, int]]:
    """Three pixels (row, column) of an image (C, H, W) where something is to be seen: the most contrasting
    ones that lie a quarter of the shorter side apart."""
    grey = image.mean(0).cpu()
    contrast = (grey - grey.median()).abs()
    side = min(grey.shape)
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in grey.shape), indexing="ij")
    queries: list[tuple[int, int]] = []
    for _ in range(3):
        row, column = divmod(int(contrast.argmax()), grey.shape[1])
        queries.append((row, column))
        contrast[((rows - row) ** 2 + (columns - column) ** 2) < (side / 4) ** 2] = -1
    return queries
