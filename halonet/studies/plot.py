"""A study's picture: published on the left, measured on the right, each on its own axis."""

import textwrap
from pathlib import Path
from typing import Any

from halonet.analysis.plots import BLUE, GREEN, GREY, ORANGE, RED, save_figure, start_figure
from halonet.studies.results import Results, RowResult

_COLOURS = (BLUE, ORANGE, GREEN, RED)


def plot_results(results: Results, path: Path) -> None:
    """Draw a table as dots line by line, a figure on its own axes, with one standard deviation as error bars; the marks
    stand under the title. Nothing is written if nothing was measured and nothing published."""
    study = results.study
    published = [result for result in results.rows if result.row.published[0] is not None]
    measured = [result for result in results.rows if result.measured is not None]
    if not published and not measured:
        return
    curves = bool(study.axis)
    sides = [("published", published)] if published else []
    sides += [("measured", measured)] if measured else []
    height = 4.6 if curves else 0.3 * len(results.rows) + 1.9
    figure, axes = start_figure(1, len(sides), size=(5.8 * len(sides) + (0 if curves else 1.2), height + 0.5))
    for axis, (side, rows) in zip(axes.flat, sides, strict=True):
        if curves:
            _draw_curves(axis, results, rows, measured=side == "measured")
        else:
            _draw_lines(axis, results, rows, measured=side == "measured", named=axis is axes.flat[0])
        axis.set_title(_side_title(results, side), fontsize=10)
    words = [f"{study.name}: {study.title}"]
    if not published:
        words.append("published: the text gives no values")
    figure.suptitle("\n".join(words), fontsize=11)
    marks = [line for mark in results.marks for line in textwrap.wrap(mark, 70 * len(sides))]
    figure.supxlabel("\n".join(marks), fontsize=9, color=RED)
    save_figure(figure, path)


def _side_title(results: Results, side: str) -> str:
    if side == "published":
        measure = results.study.measures[0]
        return f"published: {measure}" + ("" if results.study.other_task else ", ImageNet")
    seeds = {result.measured.n for result in results.rows if result.measured is not None}
    many = f"{min(seeds)}" if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)}"
    return f"measured here: top-1 %, {many} seed{'' if many == '1' else 's'}" + (
        ", ± sample deviation" if max(seeds) > 1 else ""
    )


def _value(result: RowResult, *, measured: bool) -> tuple[float, float]:
    """Height and error bar of a point."""
    if not measured:
        value = result.row.published[0]
        assert value is not None
        return value, 0.0
    assert result.measured is not None
    return result.measured.mean, result.measured.deviation or 0.0


def _colours(results: Results) -> dict[str, str]:
    return {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(results.study.baselines)}


def _draw_lines(axis: Any, results: Results, rows: list[RowResult], *, measured: bool, named: bool) -> None:
    """A line a row, the first on top; a dashed line through the baseline of each series."""
    places = {result.row.name: len(results.rows) - index for index, result in enumerate(results.rows)}
    colours, seen = _colours(results), set()
    for result in rows:
        series = result.row.series
        height, error = _value(result, measured=measured)
        axis.errorbar(
            height,
            places[result.row.name],
            xerr=error or None,
            fmt="o",
            color=colours[series],
            capsize=3,
            label=series if series and series not in seen else None,
        )
        seen.add(series)
        if result.row.name == results.study.baselines[series]:
            own = [places[other.row.name] for other in results.rows if other.row.series == series]
            axis.vlines(height, min(own) - 0.4, max(own) + 0.4, color=colours[series], linestyle="--", linewidth=1)
    axis.set_yticks(list(places.values()), [result.row.label for result in results.rows] if named else [])
    axis.set_ylim(0.3, len(results.rows) + 0.7)
    axis.grid(axis="x", color=GREY, alpha=0.25)
    if seen - {""} and named:
        axis.legend(frameon=False, fontsize=8)


def _draw_curves(axis: Any, results: Results, rows: list[RowResult], *, measured: bool) -> None:
    """A curve a series over the figure's own axis, each point with its words, such as (b, h)."""
    small = results.small
    words_by_x: dict[float, str] = {}
    for series, colour in _colours(results).items():
        own = [result for result in rows if result.row.series == series]
        own.sort(key=lambda result: _place(result, small=small))
        if not own:
            continue
        xs = [_place(result, small=small) for result in own]
        heights, errors = zip(*(_value(result, measured=measured) for result in own), strict=True)
        # Several points of one x are no curve: dots alone.
        style = "-o" if len(set(xs)) == len(xs) and len(xs) > 1 else "o"
        error = list(errors) if any(errors) else None
        axis.errorbar(xs, heights, yerr=error, fmt=style, color=colour, capsize=3, linewidth=1.5, label=series or None)
        for result, x, height in zip(own, xs, heights, strict=True):
            words = result.row.small_mark if small else result.row.mark
            if words.startswith("("):
                axis.annotate(words, (x, height), xytext=(5, 5), textcoords="offset points", fontsize=8, color=colour)
            elif words:
                words_by_x[x] = words
    if words_by_x:
        axis.set_xticks(list(words_by_x), list(words_by_x.values()))
    axis.set_xlabel(results.study.axis)
    axis.set_ylabel("top-1 (%)")
    axis.margins(x=0.12, y=0.12)
    axis.grid(color=GREY, alpha=0.25)
    if any(results.study.baselines):
        axis.legend(frameon=False, fontsize=8)


def _place(result: RowResult, *, small: bool) -> float:
    x = result.row.small_x if small else result.row.x
    assert x is not None, "rows of a figure have a place on its axis"
    return x
