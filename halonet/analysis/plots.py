"""Pictures of a run: its curves and what it answered."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from halonet.analysis.score import Score
from halonet.files import replacing

BLUE, ORANGE, GREY = "#2a6f97", "#e07a2f", "#8a8f98"
GREEN, RED = "#3a7d44", "#c1272d"


def plot_curves(
    history: Sequence[Mapping[str, float]],
    path: str | Path,
    *,
    score: Score,
    loss: str = "cross entropy (nats)",
    trained: str = "train (augmented, labels smoothed)",
) -> None:
    """Loss, score and learning rate over epochs, as one picture.

    history: a row an epoch with epoch, train/loss, val/SCORE, lr, and where the task logs them train/SCORE and
    val/loss. loss: label of its axis. trained: how the training part's curve is named. Raises ValueError without rows.
    """
    if not history:
        raise ValueError("history: expected at least one epoch, got none")
    epochs = [row["epoch"] for row in history]
    figure, axes = start_figure(1, 3, size=(13.0, 3.9))
    marker = "o" if len(epochs) < 3 else None
    for axis, name, factor in ((axes[0, 0], "loss", 1.0), (axes[0, 1], score.name, score.factor)):
        for split, label, colour in (("train", trained, ORANGE), ("val", "validation", BLUE)):
            if f"{split}/{name}" not in history[0]:
                continue
            values = [factor * row[f"{split}/{name}"] for row in history]
            axis.plot(epochs, values, color=colour, label=label, linewidth=2, marker=marker)
    axes[0, 0].set_title("Loss")
    axes[0, 0].set_ylabel(loss)
    axes[0, 0].set_ylim(0, _loss_ceiling(history))
    axes[0, 0].legend(frameon=False)
    axes[0, 1].set_title(score.title)
    axes[0, 1].set_ylabel(score.label)
    _mark_best(axes[0, 1], epochs, [row[f"val/{score.name}"] for row in history], score)
    axes[0, 2].plot(epochs, [row["lr"] for row in history], color=GREY, linewidth=2, marker=marker)
    axes[0, 2].set_title("Learning rate at the epoch's end")
    axes[0, 2].set_ylim(bottom=0)
    if score.most is None:
        axes[0, 1].set_ylim(bottom=0)
    else:
        axes[0, 1].set_ylim(top=score.most)
    for axis in axes.flat:
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
    save_figure(figure, path)


def plot_predictions(
    images: Sequence[Tensor],
    *,
    answers: Tensor,
    confidences: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    subtitle: str,
    path: str | Path,
) -> None:
    """Pictures with the answer given and, where it is wrong, the right one, as one PNG.

    images: n of (1 or 3, S, S), values 0 to 1; answers and labels (n,) int64; confidences (n,), the answers'
    probabilities; subtitle: a line under the title. Raises ValueError without images.
    """
    if not len(images):
        raise ValueError("images: expected at least one, got none")
    columns = min(8, len(images))
    rows = -(-len(images) // columns)
    figure, axes = start_figure(rows, columns, size=(1.55 * columns + 0.4, 2.0 * rows + 1.0), least_width=6.0)
    for axis in axes.flat:
        axis.axis("off")
    told = zip(answers.tolist(), confidences.tolist(), labels.tolist(), strict=True)
    for axis, image, (answer, confidence, label) in zip(axes.flat, images, told, strict=False):
        right = answer == label
        axis.axis("on")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.imshow(np.moveaxis(image.numpy(), 0, -1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        for spine in axis.spines.values():
            spine.set_visible(True)
            spine.set_color(GREEN if right else RED)
            spine.set_linewidth(1.5 if right else 3.0)
        axis.set_title(
            f"{plain(class_names[answer], most=14)}  {100 * confidence:.0f} %",
            fontsize=10,
            color="black" if right else RED,
            fontweight="normal" if right else "bold",
        )
        if not right:
            axis.set_xlabel(f"is {plain(class_names[label], most=14)}", fontsize=10, color=RED, labelpad=2)
    figure.suptitle(f"Answers on test images, with their probability\n{subtitle}", fontsize=11)
    save_figure(figure, path)


def start_figure(rows: int, columns: int, *, size: tuple[float, float], least_width: float = 0.0) -> tuple[Any, Any]:
    """An empty figure of the house's look, and its axes (rows, columns); size in inches."""
    # The object interface: pyplot would keep state and look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(size[0], least_width), size[1]), layout="constrained", dpi=130)
    layout: Any = figure.get_layout_engine()
    layout.set(w_pad=0.08, h_pad=0.06)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _mark_best(axis: Any, epochs: Sequence[float], values: Sequence[float], score: Score) -> None:
    sign = 1 if score.higher_is_better else -1
    best = max(range(len(values)), key=lambda i: (sign * values[i], i))
    axis.plot(epochs[best], score.factor * values[best], "o", color=BLUE, markersize=7)
    axis.text(
        0.98,
        0.04 if score.higher_is_better else 0.9,
        f"best on validation: {score.show(values[best])} (epoch {int(epochs[best])})",
        transform=axis.transAxes,
        ha="right",
        color=BLUE,
    )


def _loss_ceiling(history: Sequence[Mapping[str, float]]) -> float:
    """Top of the loss axis: one wild validation loss, as batch norm gives early on, must not flatten the rest."""
    train = max(row["train/loss"] for row in history)
    validation = float(np.median([row.get("val/loss", 0.0) for row in history]))
    return 1.1 * max(train, 1.5 * validation, 1e-6)


def plain(name: str, *, most: int | None = None) -> str:
    """A name of the user's as matplotlib is to be given it, at most so many letters: a dollar is no formula."""
    cut = name if most is None or len(name) <= most else f"{name[: most - 1]}…"
    return cut.replace("$", r"\$")


def save_figure(figure: Any, path: str | PathLike[str]) -> None:
    """Writes the figure, beside its name and renamed: where the path ends in .svg as that, without a ground of its own,
    else as PNG."""
    as_svg = Path(path).suffix == ".svg"
    with replacing(path) as beside:
        figure.savefig(beside, format="svg" if as_svg else "png", transparent=as_svg)
