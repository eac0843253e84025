"""Figures 4 and 5 of Shen et al. drawn anew: what attention needs on larger maps and longer sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halonet.analysis.complexity import Sizes, complexity
from halonet.analysis.plots import BLUE, GREY, RED, save_figure, start_figure

SMALL_GPU = 8e9  # bytes: the line in the drawing
_LABELS = {"FA": ("factorized", BLUE), "CA": ("conventional", RED)}


def map_costs(
    sides: Sequence[int] = (32, 64, 128, 256, 512),
    *,
    channels: int = 64,
    basis: int = 32,
    modules: Sequence[str] = ("FA-dot", "CA-dot"),
    counting: str = "paper",
) -> list[dict[str, Any]]:
    """Figure 4: bytes and macc of modules on square maps.

    Args:
        sides: of the maps, in pixels.
        channels: of the maps; the figure's 64.
        basis: channels of basis or keys, and of values where they have a bottleneck; half the map's as in Table 10.
        modules: keys of MODULES, of one head.
        counting: a key of COUNTINGS.

    Returns:
        A row a side: {"side": 64, "FA-dot": {"bytes": ..., "macc": ...}, ...}.

    Raises:
        ValueError: as `complexity` and `Sizes`.
    """
    rows = []
    for side in sides:
        costs = {name: complexity(name, Sizes(side**2, channels, basis, basis), counting=counting) for name in modules}
        rows.append({"side": side, **{name: {"bytes": cost.bytes, "macc": cost.macc} for name, cost in costs.items()}})
    return rows


@dataclass(frozen=True)
class Bert:
    """A BERT's layers, channels and heads (Devlin et al. 2018, section 3)."""

    layers: int
    channels: int
    heads: int


BERTS = {"base": Bert(layers=12, channels=768, heads=12), "large": Bert(layers=24, channels=1024, heads=16)}
# k = m as a part of c: a quarter is Table 11's, the whole is what a BERT has.
BERT_WIDTHS = {"c/4": 4, "c": 1}


def bert_costs(
    lengths: Sequence[int] = (128, 256, 512, 1024, 2048, 4096, 8192), *, counting: str = "paper"
) -> list[dict[str, Any]]:
    """Figure 5: bytes and macc of all layers of a BERT, conventional and factorized, without embeddings and head.

    The paper does not say which k = m it draws; both are given.

    Args:
        lengths: of the sequence, in tokens.
        counting: a key of COUNTINGS.

    Returns:
        A row for each model, width ("c/4" or "c") and length, {"model": "base", "width": "c/4", "length": 128,
        "FA-Tfm": {"bytes": ..., "macc": ...}, "CA-Tfm": {...}}.

    Raises:
        ValueError: as `complexity` and `Sizes`.
    """
    rows = []
    for model, bert in BERTS.items():
        for width, part in BERT_WIDTHS.items():
            for length in lengths:
                row: dict[str, Any] = {"model": model, "width": width, "length": length}
                inner = bert.channels // part
                for name in ("FA-Tfm", "CA-Tfm"):
                    sizes = Sizes(length, bert.channels, inner, inner, bert.heads)
                    layer = complexity(name, sizes, counting=counting)
                    row[name] = {"bytes": bert.layers * layer.bytes, "macc": bert.layers * layer.macc}
                rows.append(row)
    return rows


def plot_complexity(report: Mapping[str, Any], path: str | Path) -> None:
    """Writes the "map_costs" and "bert_costs" of a `complexity_report` as one PNG: bytes above, macc below."""
    figure, axes = start_figure(2, 1 + len(BERTS), size=(13.0, 7.4))
    sizes = report["sizes"]
    _draw(axes[:, 0], report["map_costs"], "side", style="-", note="")
    axes[0, 0].set_title(f"Square maps, c = {sizes['channels']}, b = k = {sizes['basis']}")
    for column, (model, bert) in enumerate(BERTS.items(), start=1):
        for width, style in zip(BERT_WIDTHS, ("-", "--"), strict=True):
            rows = [row for row in report["bert_costs"] if (row["model"], row["width"]) == (model, width)]
            _draw(axes[:, column], rows, "length", style=style, note=f", k = m = {width}")
        axes[0, column].set_title(f"BERT-{model}, {bert.layers} layers, c = {bert.channels}, h = {bert.heads}")
    for axis in axes[0]:
        axis.axhline(SMALL_GPU, color=GREY, linewidth=1, linestyle=":")
        axis.annotate("8 GB", (1, SMALL_GPU), (-2, 3), xycoords=axis.get_yaxis_transform(), ha="right", **_SMALL_GREY)
    for axis in axes.flat:
        axis.legend(frameon=False, fontsize=8, loc="upper left")
        axis.margins(y=0.12)
    axes[0, 0].set_ylabel("memory, bytes")
    axes[1, 0].set_ylabel("multiplications and additions")
    figure.suptitle("Forward pass of one input in single precision, by Table 9 as printed", fontsize=11)
    save_figure(figure, path)


_SMALL_GREY = {"textcoords": "offset points", "fontsize": 8, "color": GREY}


def _draw(axes: Any, rows: Sequence[Mapping[str, Any]], along: str, *, style: str, note: str) -> None:
    """A line a module into an axis of bytes and one of macc, over "side" or "length"."""
    places = [row[along] for row in rows]
    modules = [key for key, cell in rows[0].items() if isinstance(cell, Mapping)]
    for axis, quantity in zip(axes, ("bytes", "macc"), strict=True):
        for name in modules:
            label, colour = _LABELS[name[:2]]
            values = [row[name][quantity] for row in rows]
            axis.plot(places, values, style, marker="o", markersize=4, color=colour, label=f"{label} ({name}){note}")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(places, [str(place) for place in places])
        axis.set_xlabel("side of the map, pixels" if along == "side" else "length, tokens")
