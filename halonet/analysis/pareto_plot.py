"""The picture of a `Pareto`, with labels that do not lie on each other."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from halonet.analysis.pareto import AXES, MEASURED, Pareto, Point
from halonet.analysis.pareto_figures import FIGURES
from halonet.analysis.plots import save_figure, start_figure

# By what a family's name begins with, so that a family looks alike in every figure.
_COLOURS = {
    "HaloNet with": ("#6d4c9f", "D"),
    "HaloNet-H7": ("#6d4c9f", "D"),
    "HaloNet-H4": ("#b8860b", "D"),
    "HaloNet-50": ("#4fa3c7", "o"),
    "HaloNet": ("#2a6f97", "o"),
    "BoTNet": ("#c1272d", "s"),
    "EfficientNet": ("#e07a2f", "^"),
    "SENet": ("#3a7d44", "v"),
    "ResNeXt": ("#5d4037", ">"),
    "ResNet": ("#8a8f98", "v"),
    "ViL (21k)": ("#9c2c77", "P"),
    "ViL": ("#d1559f", "P"),
    "MsViT": ("#b39ddb", "X"),
    "DeiT": ("#7f8c1f", "<"),
    "ViT": ("#3e4a56", "*"),
    "Swin": ("#00897b", ">"),
    "PVT": ("#a1887f", "h"),
}
ALL_LABELS = 40  # points up to which each has its label; of more those of a front have
_FONT = 8
_GAP = 1.5  # pixels between a label and what is beside it
_NEAR = 28.0  # pixels up to which a label goes to be clear of lines
_LEADER = 14.0  # pixels from which a line leads from a label to its point


def draw(result: Pareto, path: str | Path) -> Any:
    """Writes the PNG, and returns the figure.

    Raises:
        ValueError: there are no points to draw.
    """
    if not result.points:
        raise ValueError(f"x: expected an axis that {result.figure} has figures of, got {result.axis}")
    shown = FIGURES[result.figure]
    figure, axes = start_figure(1, 1, size=(10.0, 6.6))
    axis = axes[0, 0]
    axis.set_xscale("log")
    for family in dict.fromkeys(point.family for point in result.points):
        _draw_family(axis, family, [point for point in result.points if point.family == family])
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.set_xlabel(AXES[result.axis])
    axis.set_ylabel("published: top-1 accuracy on ImageNet, %")
    axis.margins(x=0.08, y=0.08)
    _draw_marks(axis, result.marks)
    _plain_ticks(axis)
    after = f"after {shown.source}: " if shown.source else ""
    figure.suptitle(f"{after}{shown.title}", fontsize=11)
    axis.set_title("\n".join(_below(result)), fontsize=7, color="#555555", loc="left")
    axis.legend(frameon=False, fontsize=_FONT, loc="upper left")
    figure.canvas.draw()  # places everything; labels then go where there is room
    figure.set_layout_engine("none")
    labelled = result.points if len(result.points) <= ALL_LABELS else [p for p in result.points if p.on_front]
    _place_labels(figure, axis, labelled, result.points)
    save_figure(figure, path)
    return figure


def _draw_family(axis: Any, family: str, points: Sequence[Point]) -> None:
    colour, marker = look_of(family)
    on_front = sorted((point for point in points if point.on_front), key=lambda point: (point.x, point.y))
    if len(on_front) > 1:
        axis.plot([p.x for p in on_front], [p.y for p in on_front], color=colour, linewidth=1.3, alpha=0.8, zorder=2)
    for overall, face in ((True, colour), (False, "white")):
        look = {"s": 34, "marker": marker, "facecolor": face, "edgecolor": colour, "zorder": 3}
        chosen = [point for point in points if point.on_overall_front is overall]
        axis.scatter([p.x for p in chosen], [p.y for p in chosen], **look)
    axis.plot([], [], color=colour, marker=marker, markersize=5.5, linewidth=1.3, label=family)


def look_of(family: str) -> tuple[str, str]:
    """Colour and marker of a family."""
    return next((look for begins, look in _COLOURS.items() if family.startswith(begins)), ("#000000", "."))


def _draw_marks(axis: Any, marks: Sequence[Point]) -> None:
    """Rows of which no accuracy is printed: at the foot of the picture, where their x is."""
    if not marks:
        return
    colour, _ = look_of("HaloNet")
    for mark in marks:
        axis.axvline(mark.x, ymax=0.025, color=colour, linewidth=1.2)
        axis.annotate(
            mark.label,
            (mark.x, 0.03),
            xycoords=("data", "axes fraction"),
            fontsize=_FONT - 1,
            color=colour,
            ha="center",
            va="bottom",
            rotation=90,
        )


def _plain_ticks(axis: Any) -> None:
    """Numbers such as 5, 10 and 20 on a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _below(result: Pareto) -> list[str]:
    """What the picture says of itself."""
    told = ["filled: no other model here is as accurate for as little; lines: the front of a family"]
    setting: Mapping[str, Any] = result.setting or {}
    if result.axis in MEASURED and setting:
        told.append(
            f"measured ({setting.get('clock', 'time on the clock')}) on {setting['device']}, {setting['threads']} "
            f"thread(s), {setting['dtype']}, batch {setting['batch']}, {setting['versions'].split(', triton')[0]}"
        )
    left = [f"left out: {', '.join(result.left_out)}"] if result.left_out else []
    return [line for text in [*told, *result.notes, *left] for line in textwrap.wrap(text, 170)]


def _place_labels(figure: Any, axis: Any, points: Sequence[Point], obstacles: Sequence[Point]) -> None:
    """Beside each point the nearest place that is free of labels, points, the legend and the picture's edge, and of
    lines too where there is one not far off."""
    from matplotlib.transforms import Bbox

    renderer = figure.canvas.get_renderer()
    inside = axis.get_window_extent(renderer)
    legend = axis.get_legend()
    taken = [legend.get_window_extent(renderer)] if legend else []
    taken += [text.get_window_extent(renderer) for text in axis.texts]
    for point in obstacles:
        x, y = axis.transData.transform((point.x, point.y))
        taken.append(Bbox.from_extents(x - 5, y - 5, x + 5, y + 5))
    lines = _along_lines(axis)
    for point in sorted(points, key=lambda point: (point.x, point.y)):
        x, y = axis.transData.transform((point.x, point.y))
        text = axis.text(0, 0, point.label, fontsize=_FONT, color=look_of(point.family)[0], zorder=4)
        size = text.get_window_extent(renderer)
        found = _free_place((x, y), (size.width, size.height), inside, taken, lines)
        if found is None:  # no room anywhere near: the point stays without its name
            text.remove()
            continue
        box, distance = found
        text.set_position(axis.transData.inverted().transform((box.x0, box.y0 + _drop(text, renderer))))
        taken.append(box)
        if distance > _LEADER:
            ends = axis.transData.inverted().transform([(x, y), ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)])
            axis.plot(*ends.T, color=look_of(point.family)[0], linewidth=0.5, alpha=0.6, zorder=1)


def _free_place(
    point: tuple[float, float], size: tuple[float, float], inside: Any, taken: Sequence[Any], lines: np.ndarray
) -> tuple[Any, float] | None:
    """The box of a label and how far it is from its point, in pixels; None where there is no room."""
    from matplotlib.transforms import Bbox

    crossing = None
    for left, bottom, distance in _candidates(*point, *size):
        if crossing is not None and distance > _NEAR:
            break
        box = Bbox.from_extents(left, bottom, left + size[0], bottom + size[1])
        if not (inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1)):
            continue
        if any(box.padded(_GAP).overlaps(other) for other in taken):
            continue
        if not _crossed(lines, box):
            return box, distance
        crossing = crossing or (box, distance)
    return crossing


def _drop(text: Any, renderer: Any) -> float:
    """How far a text's baseline stands above the lower edge of its box, in pixels."""
    _, anchor = text.get_transform().transform(text.get_position())
    return float(anchor - text.get_window_extent(renderer).y0)


def _along_lines(axis: Any) -> np.ndarray:
    """(n, 2) pixels on all lines that are drawn, close enough for none to slip through a label."""
    found = [np.empty((0, 2))]
    for line in axis.lines:
        corners = axis.transData.transform(line.get_xydata())
        for begin, end in pairwise(corners):
            steps = int(np.abs(end - begin).max() / 2) + 2
            found.append(np.linspace(begin, end, steps))
    return np.concatenate(found)


def _crossed(pixels: np.ndarray, box: Any) -> bool:
    inside = (pixels > (box.x0, box.y0)) & (pixels < (box.x1, box.y1))
    return bool(inside.all(axis=1).any())


def _candidates(x: float, y: float, width: float, height: float) -> Iterator[tuple[float, float, float]]:
    """Lower left corners of a label around a point, the nearest first, and their distance in pixels."""
    for distance in (7.0, 11.0, 18.0, 28.0, 40.0, 55.0, 75.0):
        for angle in (90, 270, 0, 180, 45, 135, 315, 225, 22, 158, 202, 338):
            across, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            centre_x = x + across * (distance + width / 2)
            centre_y = y + up * (distance + height / 2)
            yield centre_x - width / 2, centre_y - height / 2, distance
