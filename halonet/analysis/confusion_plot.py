"""Pictures of a judgement: which classes are taken for which, and whether confidence can be trusted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from halonet.analysis.classification import BINS, Figures, most_confused
from halonet.analysis.plots import BLUE, GREY, ORANGE, plain, save_figure, start_figure

MOST_CLASSES = 30  # that fit into one picture with their names


def plot_confusion(figures: Figures, class_names: Sequence[str], path: str | Path) -> None:
    """A square of true classes (rows) by answers (columns), as one PNG; images are written into their cells.

    Up to 30 classes are all shown, of more those of the most frequent mistakes. Blue is the share of a class's images
    that are right; orange are mistakes, each a share of the same images, with a scale of their own so that rare ones
    can be seen.

    Args:
        figures: of a tally.
        class_names: one a class.
        path: of the PNG.
    """
    chosen = most_confused(figures, most=MOST_CLASSES)
    picked = torch.tensor(chosen)
    counts = figures.confusion.index_select(0, picked).index_select(1, picked).to_dense().numpy()
    shares = counts / np.maximum(figures.class_images[picked].numpy()[:, None], 1)
    names = [plain(class_names[index], most=16) for index in chosen]
    side = max(4.5, 0.36 * len(chosen) + 2.0)
    figure, axes = start_figure(1, 1, size=(side + 0.6, side))
    axis = axes[0, 0]
    diagonal = np.eye(len(chosen), dtype=bool)
    most_wrong = max(float(shares[~diagonal].max(initial=0.0)), 1e-9)
    axis.imshow(np.where(diagonal, shares, np.nan), cmap="Blues", vmin=0, vmax=1.3, interpolation="nearest")
    wrong = np.where(diagonal | (counts == 0), np.nan, shares)
    axis.imshow(wrong, cmap="Oranges", vmin=-0.3 * most_wrong, vmax=1.3 * most_wrong, interpolation="nearest")
    for row, column in zip(*counts.nonzero(), strict=True):
        number = str(counts[row, column])
        colour = "white" if row == column and shares[row, column] > 0.6 else "black"
        size = 8 if len(number) < 4 else 6
        axis.text(column, row, number, ha="center", va="center", color=colour, fontsize=size)
    axis.set_xticks(range(len(chosen)), names, rotation=0 if max(map(len, names)) < 3 else 90, fontsize=9)
    axis.set_yticks(range(len(chosen)), names, fontsize=9)
    axis.set_xlabel("answer")
    axis.set_ylabel("true class")
    axis.set_title(_title(figures, len(chosen)), fontsize=11)
    axis.spines[:].set_visible(False)
    save_figure(figure, path)


def _title(figures: Figures, shown: int) -> str:
    share = figures.accuracy
    title = f"{share.right} of {share.total} images right ({100 * share.value:.1f} %)"
    return title if shown >= figures.classes else f"{title}\nthe {shown} classes of the most frequent mistakes"


def plot_calibration(figures: Figures, path: str | Path) -> None:
    """A reliability diagram (Guo et al. 2017) over a histogram of confidence, as one PNG.

    Args:
        figures: of a tally.
        path: of the PNG.
    """
    figure, axes = start_figure(2, 1, size=(5.2, 5.8))
    upper, lower = axes[:, 0]
    left = [100 * bin_.low for bin_ in figures.bins]
    bars: dict[str, Any] = {"width": 100 / BINS, "align": "edge", "edgecolor": "white"}
    upper.bar(left, [100 * bin_.accuracy for bin_ in figures.bins], color=BLUE, **bars)
    upper.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=1, label="as sure as right")
    upper.plot(
        [100 * bin_.confidence for bin_ in figures.bins],
        [100 * bin_.accuracy for bin_ in figures.bins],
        "o",
        color=ORANGE,
        markersize=4,
        label="mean confidence of the bin",
    )
    upper.set_ylim(0, 104)
    upper.set_ylabel("images right (%)")
    upper.legend(frameon=False, fontsize=8, loc="upper left")
    error, largest = 100 * figures.calibration_error, 100 * figures.max_calibration_error
    upper.set_title(f"Calibration error {error:.1f} %, largest of a bin {largest:.1f} %", fontsize=11)
    lower.bar(left, [bin_.images for bin_ in figures.bins], color=GREY, **bars)
    lower.set_yscale("symlog", linthresh=1)
    lower.set_ylim(bottom=0)
    lower.set_ylabel("images")
    lower.set_xlabel("confidence: probability of the answer (%)")
    for axis in (upper, lower):
        axis.set_xlim(0, 100)
    save_figure(figure, path)
