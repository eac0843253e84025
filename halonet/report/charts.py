"""Charts that only a report has: losses step by step, throughput, several runs in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from halonet.analysis.plots import BLUE, GREEN, GREY, ORANGE, RED, plain, save_figure, start_figure
from halonet.analysis.score import Score

Rows = Sequence[Mapping[str, float]]
MOST_POINTS = 600  # of a line: steps are summed up in so many stretches
COLOURS = (BLUE, ORANGE, GREEN, RED, GREY, "#7d5ba6", "#b08900", "#00807b")


def plot_steps(steps: Rows, path: Path, *, loss: str) -> None:
    """The loss of every step, its running mean, and the learning rate. loss: label of its axis. Raises ValueError
    without steps."""
    if not steps:
        raise ValueError("steps: expected at least one, got none")
    figure, axes = start_figure(1, 2, size=(13.0, 3.6))
    losses, numbers = column(steps, "loss"), column(steps, "step")
    left, right = axes[0]
    low, middle, high = stretches(losses)
    places = stretches(numbers)[1]
    left.fill_between(places, low, high, color=ORANGE, alpha=0.25, linewidth=0)
    few = len(places) < 3
    left.plot(places, middle, color=ORANGE, linewidth=0.8, alpha=0.7, marker="o" if few else None)
    if len(middle) >= 20:
        window = max(5, len(middle) // 30)
        kernel = np.ones(window) / window
        left.plot(
            places[window - 1 :],
            np.convolve(middle, kernel, "valid"),
            color=RED,
            linewidth=1.8,
            label=f"mean of {window * max(1, round(len(steps) / len(middle)))} steps",
        )
        left.legend(frameon=False)
    finite = losses[np.isfinite(losses)]
    if len(finite):
        left.set_ylim(0, 1.05 * float(np.quantile(finite, 0.995)) or 1.0)
    left.set_title("Loss of each step")
    left.set_ylabel(loss)
    right.plot(places, stretches(column(steps, "lr"))[1], color=GREY, linewidth=2, marker="o" if few else None)
    right.set_title("Learning rate")
    right.set_ylim(bottom=0)
    for axis in (left, right):
        axis.set_xlabel("step")
    save_figure(figure, path)


def column(rows: Rows, name: str) -> np.ndarray:
    """A figure of every row; nan where a row has none."""
    return np.array([row.get(name, np.nan) for row in rows], dtype=np.float64)


def stretches(values: np.ndarray, most: int = MOST_POINTS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least, mean and largest of at most `most` stretches, as equal in length as they can be."""
    parts = np.array_split(values, min(most, len(values)))
    told = [(part.min(), part.mean(), part.max()) for part in parts]
    low, middle, high = (np.array(side) for side in zip(*told, strict=True))
    return low, middle, high


def plot_throughput(history: Rows, path: Path, *, of: str) -> None:
    """Examples a second and the share of time spent waiting for data, epoch by epoch. of: "images" or "pairs"."""
    figure, axes = start_figure(1, 2, size=(13.0, 3.0))
    epochs = column(history, "epoch")
    marker = "o" if len(epochs) < 3 else None
    for axis, name, factor, colour, title in (
        (axes[0, 0], "images_per_second", 1.0, BLUE, f"{of.capitalize()} a second"),
        (axes[0, 1], "waiting", 100.0, ORANGE, "Waiting for data (%)"),
    ):
        values = factor * column(history, name)
        axis.plot(epochs, values, color=colour, linewidth=2, marker=marker)
        axis.set_title(title)
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_ylim(0, 100 if factor > 1 else 1.1 * float(np.nanmax(values)))
    save_figure(figure, path)


def plot_runs(histories: Mapping[str, Rows], path: Path, *, score: Score) -> None:
    """Score on validation and loss on training, a line a run. histories: by the name of the run."""
    figure, axes = start_figure(1, 2, size=(13.0, 4.2))
    for name, factor, axis, title, label in (
        (f"val/{score.name}", score.factor, axes[0, 0], f"{score.title}, validation", score.label),
        ("train/loss", 1.0, axes[0, 1], "Loss, train", "loss"),
    ):
        for (run, history), colour in zip(histories.items(), cycle(COLOURS)):
            marker = "o" if len(history) < 3 else None
            values = factor * column(history, name)
            axis.plot(column(history, "epoch"), values, color=colour, linewidth=1.8, label=plain(run), marker=marker)
        axis.set_title(title)
        axis.set_ylabel(label)
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
    if score.most is not None:
        axes[0, 0].set_ylim(top=score.most)
    axes[0, 1].set_ylim(bottom=0)
    axes[0, 0].legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def plot_rows(rows: Mapping[str, Sequence[Rows]], path: Path, *, score: Score, columns: int = 4) -> None:
    """A small field a row of a study: the validation score of each of its trainings, over all others in grey."""
    across = min(columns, len(rows))
    down = -(-len(rows) // across)
    figure, axes = start_figure(down, across, size=(2.7 * across, 2.0 * down + 0.3), least_width=5.4)
    every = [history for histories in rows.values() for history in histories]
    values = np.concatenate([score.factor * column(history, f"val/{score.name}") for history in every])
    finite = values[np.isfinite(values)]
    for axis in axes.flat[len(rows) :]:
        axis.axis("off")
    for axis, (label, histories) in zip(axes.flat, rows.items(), strict=False):
        for history in every:
            _score_line(axis, history, score, color=GREY, alpha=0.25, linewidth=0.8)
        for history in histories:
            _score_line(axis, history, score, color=BLUE, alpha=0.9, linewidth=1.5)
        axis.set_title(plain(label, most=34), fontsize=8.5)
        axis.tick_params(labelsize=7)
        if len(finite):
            axis.set_ylim(float(np.quantile(finite, 0.1)), score.most)
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.supxlabel("epoch", fontsize=8.5)
    figure.supylabel(f"{score.label}, validation", fontsize=8.5)
    save_figure(figure, path)


def _score_line(axis: Any, history: Rows, score: Score, **style: Any) -> None:
    marker = "o" if len(history) < 3 else None
    values = score.factor * column(history, f"val/{score.name}")
    axis.plot(column(history, "epoch"), values, marker=marker, markersize=3, **style)
