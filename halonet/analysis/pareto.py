"""Published accuracy over size, published time or measured time: the points of a figure and their Pareto fronts."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from halonet.analysis.pareto_figures import FIGURES, Group, ParetoFigure
from halonet.analysis.row_counts import row_count, row_size
from halonet.models.config import nearest
from halonet.models.published import Published, best_published, lines, peers

# Horizontal axes: title, and how a value is written.
AXES: Mapping[str, str] = {
    "parameters": "parameters, M (counted by us; of peers as published)",
    "multiply_adds": "multiply-adds of one image, G (what runs, counted by us; of peers as published)",
    "step_time": "published: step on TPU v3, ms (forward and backward, 32 images a core)",
    "train_time": "published: training time on TPU v3, EfficientNet-B7 = 1",
    "speed": "measured by us: one pass in evaluation, ms an image",
    "train_speed": "measured by us: one training step, ms an image",
}
# Axes that a report of `halonet bench model` has, and what it calls them.
MEASURED: Mapping[str, str] = {"speed": "inference", "train_speed": "training step"}
_SAME = ("device", "threads", "dtype", "batch", "compiled")
_TOLD = ("device", "threads", "dtype", "batch", "versions")  # of a setting, under the picture
_B7 = "B7"  # of Table 14, by which HaloNet's training times are divided


@dataclass(frozen=True)
class Point:
    """One model of a figure.

    name: the row, or a peer's name at `halonet bench model`; label: as the papers call it.
    x: on the figure's axis; None where nothing is known. y: published top-1 accuracy, %; None where it is drawn only.
    on_front: whether no other of its family is better, in accuracy or x, and at least as good in the other;
        on_overall_front: no other of all families.
    """

    name: str
    label: str
    family: str
    x: float | None
    y: float | None
    source: str
    on_front: bool = False
    on_overall_front: bool = False


@dataclass(frozen=True)
class Pareto:
    """A figure's points: `points` have both coordinates, `left_out` say in words why they have not.

    marks: rows of known x whose accuracy is not told. setting: of measured axes.
    """

    figure: str
    axis: str
    points: tuple[Point, ...]
    marks: tuple[Point, ...] = ()
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    setting: Mapping[str, Any] | None = None


def pareto(figure: str = "zoo", *, axis: str | None = None, speed: Sequence[str | Path] = ()) -> Pareto:
    """The points of a figure.

    Args:
        figure: of FIGURES.
        axis: of AXES; the figure's own if None.
        speed: files of `halonet bench model --json`, for a measured axis.

    Raises:
        ValueError: no such figure or axis, a measured axis without files, or files that were not measured alike.
    """
    chosen, axis = _checked(figure, axis, speed)
    times, setting = _times(speed, MEASURED[axis]) if axis in MEASURED else ({}, None)
    points, left_out = [], []
    for group in chosen.groups:
        for line in _lines_of(group):
            point = _point(line, group.family, axis, times)
            if point.x is None:
                left_out.append(f"{point.label}: {_why(line, axis)}")
            else:
                points.append(point)
    marks = []
    for name in chosen.not_told:
        x = _of_row(name, axis, times)
        if x is not None:
            marks.append(Point(name, _short_label(name), "HaloNet", x, None, chosen.source))
    return Pareto(
        figure=figure,
        axis=axis,
        points=tuple(_with_fronts(points)),
        marks=tuple(marks),
        left_out=tuple(dict.fromkeys(left_out)),
        notes=chosen.notes,
        setting=setting,
    )


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (x, y) that no other is better than, with at most its x and at least its y; equal ones all stay.

    From the smallest x on.
    """
    kept: list[int] = []
    for index in sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1], index)):
        if not kept or points[index][1] > points[kept[-1]][1] or points[index] == points[kept[-1]]:
            kept.append(index)
    return kept


def _checked(figure: str, axis: str | None, speed: Sequence[str | Path]) -> tuple[ParetoFigure, str]:
    if figure not in FIGURES:
        raise ValueError(f"figure: expected one of {', '.join(FIGURES)}, got {figure!r}{nearest(figure, FIGURES)}")
    axis = axis or FIGURES[figure].axis
    if axis not in AXES:
        raise ValueError(f"x: expected one of {', '.join(AXES)}, got {axis!r}{nearest(axis, AXES)}")
    if axis in MEASURED and not speed:
        raise ValueError(f"speed: expected a file of `halonet bench model --json` for x {axis}, got none")
    if speed and axis not in MEASURED:
        raise ValueError(f"speed: files are drawn over x {' or '.join(MEASURED)}, got x {axis}")
    return FIGURES[figure], axis


def _lines_of(group: Group) -> list[Published]:
    """The published lines of a group that have an accuracy, of rows as they stand."""
    families = [pattern.removeprefix("peer:") for pattern in group.rows if pattern.startswith("peer:")]
    found: Iterable[Published] = [line for line in peers() if line.family in families]
    rows = dict.fromkeys(line.row for line in lines() if _matches(line.row, group.rows))
    if group.source:
        found = [*found, *(line for line in lines() if line.row in rows and not line.options)]
        found = [line for line in found if line.source == group.source and _matches(line.label, group.labels)]
    else:
        found = [*found, *filter(None, map(best_published, rows))]
    return [line for line in found if "top1" in line.figures]


def _point(line: Published, family: str, axis: str, times: Mapping[str, float]) -> Point:
    x = _of_peer(line, axis, times) if line.family else _of_row(line.row, axis, times, line)
    label = line.label if line.family or line.source.startswith("BoTNet") else _short_label(line.row)
    if label.startswith(("ResNet", "SENet", "BoTNet")) and line.image_size:
        label = f"{label.replace('ResNet-', 'R').replace('SENet-', 'SE')}-{line.image_size}"
    return Point(line.row, label, family, x, line.figures["top1"], line.source)


def _of_row(name: str, axis: str, times: Mapping[str, float], line: Published | None = None) -> float | None:
    if axis == "parameters":
        return row_count(name).parameters / 1e6
    if axis == "multiply_adds":
        return row_count(name).multiply_adds / 1e9
    if axis in MEASURED:
        height, width = row_size(name)
        return times.get(name, times.get(f"{name}@{height}") if height == width else None)
    return None if line is None else _published_time(line, axis)


def _of_peer(line: Published, axis: str, times: Mapping[str, float]) -> float | None:
    if axis in MEASURED:
        return times.get(line.row) if line.row else None
    return line.figures.get(axis) if axis in ("parameters", "multiply_adds") else _published_time(line, axis)


def _published_time(line: Published, axis: str) -> float | None:
    key = "step_ms" if axis == "step_time" else "train_time"
    if key in line.unmet:
        return None
    if key == "train_time" and key not in line.figures and "step_ms" in line.figures:
        (whole,) = (peer.figures["step_ms"] for peer in peers() if peer.label == _B7)
        return None if "step_ms" in line.unmet else line.figures["step_ms"] / whole
    return line.figures.get(key)


def _why(line: Published, axis: str) -> str:
    if axis in MEASURED:
        return "not measured" if line.row else "not measured, timm has it not"
    if "step_ms" in line.unmet and axis in ("step_time", "train_time"):
        return line.note
    return f"{line.source} prints none"


def _times(speed: Sequence[str | Path], mode: str) -> tuple[dict[str, float], dict[str, Any]]:
    """Milliseconds an image by name, of all files, and the setting that they share."""
    times: dict[str, float] = {}
    setting: dict[str, Any] = {}
    for path in speed:
        try:
            report = json.loads(Path(path).read_text())
            told, rows = report["setting"], report.get(mode)
            if rows is None:
                raise ValueError(f"speed: expected a file with times of a pass in mode {mode!r}, got {path} without")
            if not set(_TOLD) <= set(told):
                raise KeyError(*_TOLD)
            found = {name: row["median_ms"] / told["batch"] for name, row in rows.items()}
        except FileNotFoundError as error:
            raise ValueError(f"speed: expected a file of `halonet bench model --json`, nothing is at {path}") from error
        except (
            json.JSONDecodeError,
            UnicodeDecodeError,
            LookupError,
            TypeError,
            AttributeError,
            ZeroDivisionError,
        ) as error:
            raise ValueError(f"speed: expected a file of `halonet bench model --json`, got {path}") from error
        differing = [key for key in _SAME if setting and told.get(key) != setting.get(key)]
        if differing:
            raise ValueError(f"speed: expected files measured alike, got {path} with another {', '.join(differing)}")
        setting = setting or told
        times |= found
    return times, setting


def _with_fronts(points: Sequence[Point]) -> list[Point]:
    families = dict.fromkeys(point.family for point in points)
    marked = {id(points[index]) for index in front([_place(point) for point in points])}
    kept = set()
    for family in families:
        members = [point for point in points if point.family == family]
        kept |= {id(members[index]) for index in front([_place(point) for point in members])}
    return [replace(point, on_front=id(point) in kept, on_overall_front=id(point) in marked) for point in points]


def _place(point: Point) -> tuple[float, float]:
    assert point.x is not None
    assert point.y is not None
    return point.x, point.y


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _short_label(name: str) -> str:
    """halonet_h7_c12_600 -> H7 C12; vil_base_224 -> ViL-base; msvit_tiny_1_2_8_1_224 -> tiny 1-2-8-1."""
    parts = name.split("_")
    kind, middle, size = parts[0], parts[1:-1], parts[-1]
    if kind == "halonet":
        told = " ".join(part.upper() if part[0] in "hc" else part.replace("base", "b") for part in middle)
        return f"{told} {size}" if "base128" in middle else told
    if kind in ("vil", "evit"):
        return f"{'ViL' if kind == 'vil' else 'E-ViT'}-{middle[0]}" + ("" if size == "224" else f"-{size}")
    if kind == "msvit":
        return f"{middle[0]} {'-'.join(middle[1:])}"
    return " ".join([kind.replace("halonet", "HaloNet-"), *middle])
