"""The tables of `halonet bench` as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from halonet.analysis.plots import save_figure, start_figure
from halonet.analysis.speed import factorized_table, model_table, rows

COLOURS = ("#2a6f97", "#e07a2f", "#3a7d44", "#8a8f98", "#c1272d", "#6d4c9f", "#b8860b")


def plot_report(kind: str, report: dict[str, Any], path: Path) -> None:
    """Writes the PNG of a report of `halonet bench` KIND."""
    if kind in ("vil", "factorized"):
        draw = _plot_vil if kind == "vil" else _plot_factorized
        draw(report, path)
        return
    modes = [mode for mode in model_table.MODES if mode in report] if kind == "model" else rows.MODES
    setting = report["setting"]
    figure, axes = start_figure(1, len(modes), size=(6.5 * len(modes), 4.6))
    for axis, mode in zip(axes[0], modes, strict=True):
        if kind == "scaling":
            _plot_scaling(axis, report["entries"], mode)
        elif kind == "memory":
            fitting = [(name, {"": row}) for name, row in report[mode].items() if row.get("side")]
            plot_bars(axis, fitting, "side")
            axis.set_ylabel(f"largest side within {setting['limit']}, pixels")
        elif kind in ("op", "layer"):
            plot_bars(axis, [(entry["shape"]["label"], entry[mode]) for entry in report["entries"]], "median_ms")
            axis.set_ylabel("ms a call")
            axis.set_yscale("log")
        else:
            plot_bars(axis, [(name, {"": row}) for name, row in report[mode].items()], "images_per_second")
            axis.set_ylabel("images a second")
        axis.set_title(mode)
    figure.suptitle(f"{setting['device']}, {setting['dtype']}, batch {setting['batch']}", fontsize=9)
    save_figure(figure, path)


def _plot_vil(report: dict[str, Any], path: Path) -> None:
    """Time above and memory below, a column a table."""
    setting, tables = report["setting"], report["tables"]
    figure, axes = start_figure(2, len(tables), size=(13.0, 7.4))
    for column, (title, entries) in enumerate(tables.items()):
        for axis, figure_of, unit in zip(axes[:, column], ("median_ms", "peak_mib"), ("ms", "MiB"), strict=True):
            for index, name in enumerate(dict.fromkeys(name for entry in entries for name in entry["rows"])):
                points = [(entry["side"], entry["rows"][name].get(figure_of)) for entry in entries]
                known = [(side, value) for side, value in points if value]
                if known:
                    axis.plot(*zip(*known, strict=True), marker="o", label=name, color=COLOURS[index % len(COLOURS)])
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.set_xlabel("side of the map, tokens")
            axis.set_ylabel(f"{unit}, forward and backward")
            axis.legend(frameon=False, fontsize=8)
        axes[0, column].set_title(title)
    figure.suptitle(f"{setting['device']}, {setting['dtype']}, batch {setting['batch']}", fontsize=9)
    save_figure(figure, path)


def _plot_factorized(report: dict[str, Any], path: Path) -> None:
    """Time above and memory below, a column a kind and mode; at the end of a line the power of the pixels."""
    columns = [(kind, mode) for kind in report["tables"] for mode in rows.MODES]
    figure, axes = start_figure(2, len(columns), size=(18.0, 8.0))
    for column, (kind, mode) in enumerate(columns):
        entries = [(entry["side"], entry[mode]) for entry in report["tables"][kind]]
        growth = report["growth"][kind][mode]
        for axis, figure_of, label in zip(
            axes[:, column], ("median_ms", "peak_bytes"), ("time", "memory"), strict=True
        ):
            for name, colour in zip(factorized_table.PEERS, COLOURS, strict=False):
                points = [(side, at[name][figure_of]) for side, at in entries if at.get(name, {}).get(figure_of)]
                if points:
                    axis.plot(*zip(*points, strict=True), marker="o", label=name, color=colour)
                    power = growth.get(name, {}).get(label)
                    told = "" if power is None else f"pixels^{power:.2f}"
                    axis.annotate(told, points[-1], (-6, 6), textcoords="offset points", ha="right", color=colour)
                counted = [(side, at.get(name, {}).get("closed_form_bytes")) for side, at in entries]
                if label == "memory" and all(value for _, value in counted):
                    axis.plot(*zip(*counted, strict=True), ":", label=f"{name}, closed form", color=colour)
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.set_xlabel("side of the map, pixels")
        axes[0, column].set_title(f"{kind}, {mode}")
        axes[0, column].set_ylabel("ms")
        axes[1, column].set_ylabel("peak memory, bytes")
        axes[1, column].axhline(report["threshold"], color="black", linewidth=0.8, linestyle="--")
        axes[1, column].annotate(
            f"{report['threshold'] / 1e9:g} GB",
            (0.01, report["threshold"]),
            (0, 3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            fontsize=8,
        )
        for axis in axes[:, column]:
            if axis.get_legend_handles_labels()[0]:
                axis.legend(frameon=False, fontsize=8)
    setting = report["setting"]
    figure.suptitle(
        f"{setting['device']}, {setting['dtype']}, batch {setting['batch']}, {setting['layer']}", fontsize=9
    )
    save_figure(figure, path)


def plot_bars(axis: Any, groups: Sequence[tuple[str, Mapping[str, Any]]], figure_of: str) -> None:
    """Groups of bars, (label, rows by name), of the figure of that name; rows without it have no bar."""
    names = list(dict.fromkeys(name for _, rows in groups for name, row in rows.items() if figure_of in row))
    width = 0.8 / max(1, len(names))
    for index, name in enumerate(names):
        places = [place for place, (_, rows) in enumerate(groups) if figure_of in rows.get(name, {})]
        values = [groups[place][1][name][figure_of] for place in places]
        shifted = [place + (index - (len(names) - 1) / 2) * width for place in places]
        axis.bar(shifted, values, width, label=name, color=COLOURS[index % len(COLOURS)])
    axis.set_xticks(range(len(groups)), [label for label, _ in groups], rotation=30, ha="right", fontsize=8)
    if names != [""]:
        axis.legend(frameon=False, fontsize=8)


def _plot_scaling(axis: Any, entries: list[dict[str, Any]], mode: str) -> None:
    names = list(dict.fromkeys(name for entry in entries for name in entry[mode]))
    for index, name in enumerate(names):
        rows = [(entry["shape"]["height"], entry[mode].get(name, {})) for entry in entries]
        points = [(side, row["ns_per_pixel"]) for side, row in rows if "ns_per_pixel" in row]
        if points:
            sides, values = zip(*points, strict=True)
            axis.plot(sides, values, marker="o", label=name, color=COLOURS[index % len(COLOURS)])
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("side of the map, pixels")
    axis.set_ylabel("ns a pixel")
    axis.legend(frameon=False, fontsize=8)
