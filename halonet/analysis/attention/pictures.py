"""Pictures of attention: where pixels attend over the image, what layers' heads are like, and rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from halonet.analysis.attention.record import AttentionRecord, LayerRecord
from halonet.analysis.attention.statistics import Statistics
from halonet.analysis.overlay import draw_heat, draw_picture
from halonet.analysis.plots import BLUE, GREEN, GREY, ORANGE, RED, save_figure, start_figure

# More columns than this would be too small to read; deep models show an even choice of their layers.
MOST_COLUMNS = 6
QUERY, FRAME = "#00c2b2", "#3d9bff"
SHARES = {  # of all weight, by name in `Statistics`
    "own_block": ("own block", BLUE),
    "beside_block": ("map beside it", ORANGE),
    "tokens": ("global tokens", GREEN),
    "padding": ("zeros outside the map", RED),
}
Pixels = Sequence[tuple[int, int]]


def plot_attention(
    record: AttentionRecord,
    picture: Any,
    pixels: Pixels,
    path: str | Path,
    *,
    layers: Sequence[str] | None = None,
    head: int | None = None,
) -> None:
    """Draws where pixels attend as a PNG: a row a pixel, a column a layer.

    Args:
        record: of `record_attention`.
        picture: (H, W, 3) array of values 0 to 1, as `for_the_eye` gives; the image recorded.
        pixels: (row, column) of the image.
        path: file to write; written beside and renamed.
        layers: names of the layers to show; by default all, or six of them evenly chosen.
        head: the one to show, from 0; the mean of the heads if None.

    Raises:
        ValueError: a pixel outside the image, an unknown layer, or a head that a layer has not.
    """
    shown = record.chosen(layers, MOST_COLUMNS)
    views = [(layer, *attention_of(layer, pixels, head)) for layer in shown]
    figure, axes = _start(picture, len(pixels), 1 + len(shown))
    heat: Any = None
    signed = any(layer.signed for layer in shown)
    for index, pixel in enumerate(pixels):
        _draw_query(axes[index, 0], picture, pixel)
        for axis, (layer, weights, outside, tokens) in zip(axes[index, 1:], views, strict=True):
            told = float(outside[index]), float(tokens[index])
            heat = _draw_attention(axis, picture, pixel, layer, weights[index].numpy(), told, signed=signed)
    axes[0, 0].set_title("asking pixel", fontsize=9)
    for axis, layer in zip(axes[0, 1:], shown, strict=True):
        height, width = layer.map_size
        axis.set_title(f"{layer.label}\n{height}x{width} map, {layer.mechanism}", fontsize=9)
    whose = "mean of the heads" if head is None else f"head {head}"
    _bar(figure, heat, axes, f"attention weight, {whose}", signed=signed)
    figure.suptitle(
        "Where a pixel attends: the solid frame is its block, the dashed one all it can see\n"
        "(max: largest weight; outside: weight that falls on the zeros around the map)",
        fontsize=10,
    )
    save_figure(figure, path)


def attention_of(layer: LayerRecord, pixels: Pixels, head: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Of each pixel its weights (Q, h, w), and what falls outside the map and on global tokens, (Q,) each.

    Of one head, from 0, or the mean of them for None. Raises ValueError for a head that the layer has not.
    """
    if head is not None and not 0 <= head < layer.num_heads:
        raise ValueError(f"head must be from 0 to {layer.num_heads - 1} in {layer.name}, got {head}")
    rows = layer.at(pixels)
    parts = (rows.weights, rows.outside, rows.tokens.sum(-1))
    weights, outside, tokens = (part.mean(1) if head is None else part[:, head] for part in parts)
    return weights, outside, tokens


def plot_statistics(
    found: Mapping[str, Statistics], layers: Mapping[str, LayerRecord], path: str | Path, *, queries: int
) -> None:
    """Draws statistics of layers as a PNG: distance and entropy of every head over the layers, and shares of weight.

    Args:
        found: by name of the layer, in the order of running.
        layers: the layers themselves.
        path: file to write; written beside and renamed.
        queries: how many each is the mean of, for the title.
    """
    figure, axes = start_figure(1, 3, size=(15.0, 5.2))
    places = range(len(found))
    for axis, name, label in (
        (axes[0, 0], "distance", "mean attention distance (pixels of the image)"),
        (axes[0, 1], "entropy_share", "entropy over log(seen)"),
    ):
        for place, statistics in zip(places, found.values(), strict=True):
            values = getattr(statistics, name).numpy()
            axis.scatter([place] * len(values), values, s=18, color=BLUE, alpha=0.65, linewidths=0, zorder=3)
        means = [np.nanmean(getattr(one, name)) if _told(one, name) else np.nan for one in found.values()]
        axis.plot(places, means, color=GREY, linewidth=1.2, zorder=2)
        axis.set_ylabel(label)
        axis.set_ylim(0, 1.05 if name == "entropy_share" else None)
    axes[0, 0].set_title("How far heads look: a point a head")
    axes[0, 1].set_title("How evenly: 1 is the same everywhere")
    _draw_shares(axes[0, 2], list(found.values()))
    labels = [layers[name].label for name in found]
    for axis in axes.flat:
        axis.set_xticks(list(places), labels=labels, rotation=90, fontsize=7)
        axis.set_xlim(-0.6, len(labels) - 0.4)
    figure.suptitle(f"Attention of {len(labels)} layers, means over {queries} queries", fontsize=11)
    save_figure(figure, path)


def plot_rollout(picture: Any, pixels: Pixels, relevance: Tensor, path: str | Path, *, label: str) -> None:
    """Draws rollouts as a PNG: the asking pixel, and what its query has taken in, a row a pixel.

    Args:
        picture: as in `plot_attention`.
        pixels: (row, column) of the image, Q of them.
        relevance: (Q, H, W), of `attention_rollout`.
        path: file to write; written beside and renamed.
        label: what the asked layer is called.
    """
    figure, axes = _start(picture, len(pixels), 2)
    heat: Any = None
    for index, (pixel, weights) in enumerate(zip(pixels, relevance.numpy(), strict=True)):
        _draw_query(axes[index, 0], picture, pixel)
        # A single pixel's shortcut outweighs everything else: the scale ends at the highest per mille.
        most = float(np.quantile(weights, 0.999)) or float(weights.max()) or 1.0
        heat = draw_heat(axes[index, 1], picture, np.minimum(weights, most))
        _mark(axes[index, 1], pixel)
        axes[index, 1].set_xlabel(f"{weights.sum():.0%} of it from the image", fontsize=8)
    axes[0, 0].set_title("asking pixel", fontsize=9)
    axes[0, 1].set_title("rollout to the image", fontsize=9)
    _bar(figure, heat, axes, "relevance, up to its 99.9 % quantile", signed=False)
    figure.suptitle(f"What {label} has taken in, through all layers", fontsize=10)
    save_figure(figure, path)


def _told(statistics: Statistics, name: str) -> bool:
    return not bool(getattr(statistics, name).isnan().all())


def _draw_shares(axis: Any, found: list[Statistics]) -> None:
    """Stacked bars: where a layer's weight lies, the mean of its heads."""
    below = np.zeros(len(found))
    for name, (label, colour) in SHARES.items():
        values = np.array([float(getattr(one, name).nanmean()) for one in found])
        if name == "beside_block":  # without blocks all of the map
            whole = np.array([1 - float((one.padding + one.tokens).nanmean()) for one in found])
            values = np.where(np.isnan(values), whole, values)
        values = np.nan_to_num(values)
        if values.any():
            axis.bar(range(len(found)), values, bottom=below, color=colour, width=0.8, label=label)
        below += values
    axis.set_ylabel("share of the weight")
    axis.set_ylim(0, 1)
    axis.set_title("Where the weight lies", pad=24)
    axis.legend(frameon=False, fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _start(picture: Any, rows: int, columns: int) -> tuple[Any, Any]:
    """A figure of pictures side by side."""
    height = min(max(1.85 * picture.shape[0] / picture.shape[1], 0.6), 4.0)
    size = (1.9 * columns + 0.7, (height + 0.25) * rows + 1.1)
    figure, axes = start_figure(rows, columns, size=size, least_width=6.5)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(True)
    return figure, axes


def _draw_query(axis: Any, picture: Any, pixel: tuple[int, int]) -> None:
    draw_picture(axis, picture)
    _mark(axis, pixel)
    axis.set_ylabel(f"row {pixel[0]}, column {pixel[1]}", fontsize=8)


def _draw_attention(
    axis: Any,
    picture: Any,
    pixel: tuple[int, int],
    layer: LayerRecord,
    weights: Any,
    told: tuple[float, float],
    *,
    signed: bool,
) -> Any:
    """Weights over the picture, with frames, and in words what falls outside and on tokens; for a colour bar."""
    height, width = picture.shape[:2]
    heat = draw_heat(axis, picture, weights, signed=signed)
    _draw_frames(axis, layer, pixel)
    _mark(axis, pixel)
    axis.set_xlim(-0.5, width - 0.5)
    axis.set_ylim(height - 0.5, -0.5)
    words = [f"max {abs(weights).max():.2g}"]
    words += [f"{share:.0%} {where}" for share, where in zip(told, ("outside", "tokens"), strict=True) if share > 0.005]
    axis.set_xlabel(", ".join(words), fontsize=8)
    return heat


def _draw_frames(axis: Any, layer: LayerRecord, pixel: tuple[int, int]) -> None:
    from matplotlib.patches import Rectangle

    frames = layer.frames(pixel)
    if frames is None:
        return
    for ((top, left), (bottom, right)), style in ((frames.block, "-"), (frames.seen, (0, (4, 3)))):
        corner = (left - 0.5, top - 0.5)
        frame = Rectangle(corner, right - left, bottom - top, fill=False, edgecolor=FRAME, lw=1.8, ls=style)
        frame.set_clip_on(False)
        frame.set_zorder(3)  # over the picture's own border
        axis.add_patch(frame)


def _mark(axis: Any, pixel: tuple[int, int]) -> None:
    axis.plot(pixel[1], pixel[0], "o", color=QUERY, markersize=6, markeredgecolor="white", zorder=4)


def _bar(figure: Any, heat: Any, axes: Any, label: str, *, signed: bool) -> None:
    bar = figure.colorbar(heat, ax=axes, shrink=0.6, aspect=30, pad=0.01)
    bar.set_ticks([-1, 0, 1] if signed else [0, 1], labels=["-max", "0", "max"] if signed else ["0", "max"])
    bar.ax.set_facecolor("0.2")
    bar.set_label(label, fontsize=8)
