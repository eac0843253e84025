"""Detections drawn on their pictures, alone and beside the truth, and curves of precision over recall."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from halonet.analysis.plots import BLUE, GREEN, ORANGE, plain, save_figure, start_figure

FONT_SIZE = 12  # pixels, on a picture that is shown as it is
MASK_OPACITY = 0.45
LEAST_SIDE = 384  # pixels: smaller pictures are enlarged, so that labels can be read
# Turns of the colour circle: neighbouring classes lie far apart, and few ever meet.
GOLDEN_TURN = 0.618034
Rectangle = tuple[int, int, int, int]  # left, top, right, bottom: the last two outside
SHADES = ((0.85, 0.95), (0.95, 0.65), (0.5, 1.0))  # saturation and brightness, one after the other


@dataclass(frozen=True)
class JudgedPicture:
    """A picture, what is on it and what a detector told.

    image: (H, W, 3) uint8. truth and told: boxes (N, 4) xyxy in pixels, labels (N,) from 1, masks (N, H, W) or
    (N, 1, H, W) where there are any, and in `told` scores (N,); arrays, or tensors on the CPU.
    """

    image: np.ndarray
    truth: Mapping[str, Any]
    told: Mapping[str, Any]
    name: str = ""


def class_colour(label: int) -> tuple[int, int, int]:
    """Red, green and blue of a class; 1 is the first. Those of the first hundred all differ."""
    saturation, brightness = SHADES[(label - 1) % len(SHADES)]
    red, green, blue = colorsys.hsv_to_rgb(((label - 1) * GOLDEN_TURN) % 1, saturation, brightness)
    return round(255 * red), round(255 * green), round(255 * blue)


def enlargement(height: int, width: int) -> int:
    """The whole factor that brings a picture's shorter side to some 384 pixels; 1 for one that is not smaller."""
    return max(1, round(LEAST_SIDE / min(height, width)))


def draw_detections(
    image: np.ndarray,
    boxes: Any,
    labels: Any,
    scores: Any | None = None,
    masks: Any | None = None,
    names: Sequence[str] | None = None,
    *,
    score_threshold: float = 0.0,
    enlarge: int = 1,
) -> np.ndarray:
    """A picture with its objects: masks laid over and outlined, boxes, and labels such as "circle 93 %".

    A class has one colour everywhere. The surest lie on top; labels stay inside the picture, make
    room for those of surer objects, and are cut where they are wider than the picture.

    Args:
        image: (H, W, 3) uint8; it is not changed.
        boxes: (N, 4) xyxy in pixels of `image`.
        labels: (N,) integers from 1.
        scores: (N,), 0 to 1; None: of a truth, which has none.
        masks: (N, H, W) or (N, 1, H, W), zeros and ones or probabilities cut at 0.5; None: boxes alone.
        names: of the classes, label 1 is names[0]; None: their numbers.
        score_threshold: what is less sure is left out.
        enlarge: each pixel becomes so many in a row and a column before anything is drawn.

    Returns:
        (enlarge * H, enlarge * W, 3) uint8.

    Raises:
        ValueError: an image of another form, other numbers of labels, scores or masks than boxes, or a label without
            a name.
    """
    boxes, labels = np.asarray(boxes, dtype=np.float64).reshape(-1, 4), np.asarray(labels).reshape(-1)
    sure = np.ones(len(boxes)) if scores is None else np.asarray(scores, dtype=np.float64).reshape(-1)
    _check(image, boxes, labels, sure, masks, names)
    order = [number for number in np.argsort(sure, kind="stable") if scores is None or sure[number] >= score_threshold]
    shown = [] if masks is None else [(masks[number], class_colour(int(labels[number]))) for number in order]
    canvas = Image.fromarray(_under_masks(image, shown, enlarge))
    pen = ImageDraw.Draw(canvas)
    corners = boxes * enlarge
    for number in order:
        x0, y0, x1, y1 = corners[number]
        # The last pixel inside; a box may be thinner than a pixel, or lie on the border.
        pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=class_colour(int(labels[number])), width=2)
    taken: list[Rectangle] = []
    for number in reversed(order):  # the surest has the first choice of places
        label = int(labels[number])
        text = str(label) if names is None else names[label - 1]
        text += "" if scores is None else f" {100 * sure[number]:.0f} %"
        _write(pen, canvas.size, (corners[number][0], corners[number][1]), text, class_colour(label), taken)
    return np.asarray(canvas)


def _under_masks(image: np.ndarray, masks: Sequence[tuple[Any, tuple[int, int, int]]], enlarge: int) -> np.ndarray:
    """The picture enlarged, with masks in their colours laid over, then outlined."""
    pixels = image.astype(np.float32)
    edges = []
    for mask, shade in masks:
        inside = np.asarray(mask).reshape(image.shape[:2]) > 0.5
        colour = np.array(shade, dtype=np.float32)
        pixels[inside] += MASK_OPACITY * (colour - pixels[inside])
        edges.append((inside, colour))
    pixels = _enlarged(np.rint(pixels).astype(np.uint8), enlarge)
    for inside, colour in edges:
        pixels[_outline(_enlarged(inside, enlarge))] = colour
    return pixels


def _check(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
    masks: Any | None,
    names: Sequence[str] | None,
) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image: expected (H, W, 3) of uint8, got {image.shape} of {image.dtype}")
    for name, values in (("labels", labels), ("scores", scores), ("masks", masks)):
        if values is not None and len(values) != len(boxes):
            raise ValueError(f"{name}: expected one for each of {len(boxes)} boxes, got {len(values)}")
    most = max(labels.tolist(), default=1) if names is None else len(names)
    wrong = [label for label in labels.tolist() if not 1 <= label <= most]
    if wrong:
        raise ValueError(f"labels: expected 1 to {most}, got {wrong[0]}")


def _enlarged(pixels: np.ndarray, factor: int) -> np.ndarray:
    return pixels if factor == 1 else pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _outline(inside: np.ndarray) -> np.ndarray:
    """Pixels of a mask that have a neighbour outside; beyond the picture is outside."""
    padded = np.pad(inside, 1)
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~core


def label_place(
    corner: tuple[float, float], size: tuple[int, int], picture: tuple[int, int], taken: Sequence[Rectangle] = ()
) -> tuple[int, int]:
    """Left and top of a label of `size` (width, height): above the box's upper left `corner` if there is room, else
    inside the box, and below whatever is `taken` there (left, top, right, bottom) while the picture goes on. Always
    within `picture` (width, height) where the label is not larger than that."""
    width, height = size
    most = max(0, picture[1] - height)
    x = int(np.clip(corner[0], 0, max(0, picture[0] - width)))
    first = top = int(np.clip(corner[1] - height if corner[1] >= height else corner[1], 0, most))
    while top <= most:
        below = [b for left, t, right, b in taken if x < right and x + width > left and top < b and top + height > t]
        if not below:
            return x, top
        top = max(below)
    return x, first


def _write(
    pen: ImageDraw.ImageDraw,
    picture: tuple[int, int],
    corner: tuple[float, float],
    text: str,
    colour: tuple[int, int, int],
    taken: list[Rectangle],
) -> None:
    """A label on a ground of the class's colour, in black or white, whichever is easier to read on it; its place is
    added to those taken."""
    font = ImageFont.load_default(FONT_SIZE)

    def measured(words: str) -> tuple[int, int]:
        box = pen.textbbox((0, 0), words, font=font)
        return round(box[2]) + 4, round(box[3]) + 3

    while text and measured(text)[0] > picture[0]:
        text = text[:-1]
    size = measured(text)
    if not text or size[1] > picture[1]:
        return
    x, y = label_place(corner, size, picture, taken)
    taken.append((x, y, x + size[0], y + size[1]))
    pen.rectangle((x, y, x + size[0] - 1, y + size[1] - 1), fill=colour)
    brightness = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    pen.text((x + 2, y + 1), text, fill="black" if brightness > 140 else "white", font=font)


def plot_detections(
    samples: Sequence[JudgedPicture], path: str | Path, *, names: Sequence[str] | None = None, threshold: float = 0.5
) -> None:
    """One PNG, a row a picture: what is on it at the left, what was told at the right.

    Args:
        samples: pictures with their truth and answers.
        path: of the PNG.
        names: of the classes, label 1 is names[0].
        threshold: answers that are less sure are left out.

    Raises:
        ValueError: no picture, or see `draw_detections`.
    """
    if not samples:
        raise ValueError("samples: expected at least one picture, got none")
    side = 4.2
    shares = [sample.image.shape[0] / sample.image.shape[1] for sample in samples]
    figure, axes = start_figure(len(samples), 2, size=(2 * side, sum(side * share + 0.4 for share in shares)))
    for row, sample in enumerate(samples):
        factor = enlargement(*sample.image.shape[:2])
        told = sample.told["scores"]
        count = int((np.asarray(told) >= threshold).sum())
        for axis, found, scores, title in (
            (axes[row, 0], sample.truth, None, f"truth, {plain(sample.name)}" if sample.name else "truth"),
            (axes[row, 1], sample.told, told, f"told, {count} from {100 * threshold:.0f} % on"),
        ):
            picture = draw_detections(
                sample.image,
                found["boxes"],
                found["labels"],
                scores,
                found.get("masks"),
                names,
                score_threshold=threshold,
                enlarge=factor,
            )
            axis.imshow(picture, interpolation="nearest")
            axis.set_title(title, fontsize=9)
            axis.axis("off")
    save_figure(figure, path)


def plot_ap_curve(curves: Mapping[str, Mapping[float, np.ndarray]], path: str | Path) -> None:
    """One PNG, a field for boxes and one for masks: precision over recall at three thresholds of the IoU.

    Args:
        curves: of each kind and threshold the precision at recall 0, 0.01, ... 1, as
            `halonet.detection.judge_results(...).curves` has it; nan where there is nothing to find.
        path: of the PNG.

    Raises:
        ValueError: no curve.
    """
    if not curves:
        raise ValueError("curves: expected those of at least one kind, got none")
    figure, axes = start_figure(1, len(curves), size=(4.6 * len(curves), 3.9), least_width=5.2)
    for axis, (kind, by_threshold) in zip(axes[0], curves.items(), strict=True):
        for threshold, colour in ((0.5, BLUE), (0.75, ORANGE), (0.9, GREEN)):
            precision = by_threshold[threshold]
            mean = float(np.mean(precision))
            label = f"IoU {threshold:.2f}: AP {100 * mean:.1f} %"
            axis.plot(np.linspace(0, 1, len(precision)), precision, color=colour, linewidth=2, label=label)
        axis.set_title({"box": "Boxes", "mask": "Masks"}.get(kind, kind))
        axis.set_xlabel("recall")
        axis.set_ylabel("precision (interpolated, mean of classes)")
        axis.set_xlim(0, 1.01)
        axis.set_ylim(0, 1.03)
        axis.legend(frameon=False, fontsize=8, loc="best")
    save_figure(figure, path)
