"""Draws the pictures of docs/mechanism.md. What a query sees is not drawn by hand but asked of the op itself.

python docs/draw_mechanism.py [FOLDER]        (default: docs/images)
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from torch import Tensor

from halonet.ops import factorized_attention, local_attention

PAPER = "#ffffff"
INK = "#22303c"
FAINT = "#8795a1"
PIXEL = "#edf1f5"
SEEN = "#f6bd60"
BLOCK = "#84a59d"
QUERY = "#c8553d"
OUTSIDE = "#d5dbe1"


def seen_by(*, size: int, query: tuple[int, int], stride: int = 1, **options: Any) -> Tensor:
    """Whether each pixel of a size x size map takes part in the output of one query: (size, size) of bool.

    A value takes part exactly if the output has a gradient with respect to it.
    """
    side = -(-size // stride)
    query_map = torch.ones(1, side, side, 1, 1, dtype=torch.float64)
    key = torch.ones(1, size, size, 1, 1, dtype=torch.float64)
    value = torch.ones(1, size, size, 1, 1, dtype=torch.float64, requires_grad=True)
    output = local_attention(query_map, key, value, stride=stride, backend="reference", **options)
    (gradient,) = torch.autograd.grad(output[0, query[0], query[1], 0, 0], value)
    return gradient[0, :, :, 0, 0] > 0


def cell(axes: Axes, row: float, column: float, colour: str, *, alpha: float = 1.0) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (column + 0.07, row + 0.07),
            0.86,
            0.86,
            boxstyle="round,pad=0,rounding_size=0.16",
            facecolor=colour,
            edgecolor="none",
            alpha=alpha,
        )
    )


def frame(axes: Axes, row: float, column: float, height: float, width: float, colour: str, **style: Any) -> None:
    style = {"linewidth": 1.6, **style}
    axes.add_patch(Rectangle((column, row), width, height, fill=False, edgecolor=colour, **style))


def dot(axes: Axes, row: float, column: float, *, radius: float = 0.24) -> None:
    axes.add_patch(plt.Circle((column + 0.5, row + 0.5), radius, facecolor=QUERY, edgecolor=PAPER, linewidth=1.2))


def panel(axes: Axes, title: str, caption: str, *, margin: float, size: int) -> None:
    """An empty panel for a map of `size` pixels, with `margin` pixels above and left of it for what sticks out."""
    low, high = -margin - 0.1, size + 0.2
    axes.set(xlim=(low, high), ylim=(high, low), aspect="equal")
    axes.axis("off")
    axes.text(0, low - 0.35, title, fontsize=12.5, color=INK, fontweight="bold", va="bottom")
    axes.text(0, high + 0.25, caption, va="top", fontsize=10, color=INK, linespacing=1.45)


def block_lines(axes: Axes, size: int, block: int) -> None:
    for edge in range(0, size + 1, block):
        axes.plot([edge, edge], [0, size], color=INK, linewidth=1.1, solid_capstyle="round")
        axes.plot([0, size], [edge, edge], color=INK, linewidth=1.1, solid_capstyle="round")


def map_cells(axes: Axes, size: int, seen: Tensor | None = None, own: tuple[int, int, int] | None = None) -> None:
    """The map's pixels; `seen` ones in colour, those of the own block (row, column, side) in another."""
    for row in range(size):
        for column in range(size):
            colour = PIXEL
            if seen is not None and seen[row, column]:
                colour = SEEN
                if own is not None and own[0] <= row < own[0] + own[2] and own[1] <= column < own[1] + own[2]:
                    colour = BLOCK
            cell(axes, row, column, colour)


def outside_cells(axes: Axes, size: int, rows: range, columns: range, *, sign: str = "0") -> None:
    """Pixels of a neighbourhood that the map does not have."""
    for row in rows:
        for column in columns:
            if not (0 <= row < size and 0 <= column < size):
                cell(axes, row, column, OUTSIDE, alpha=0.65)
                axes.text(column + 0.5, row + 0.53, sign, ha="center", va="center", fontsize=8.5, color=FAINT)


def draw_blocks() -> Figure:
    """Blocks, one block with its halo, and a halo that leaves the map."""
    size, block, halo = 12, 4, 2
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13.2, 5.5), facecolor=PAPER)

    panel(
        left,
        "1  Cut the map into blocks",
        "A 12 x 12 map, block_size = 4.\nThe queries of a block are answered together:\nthey share one set of keys.",
        margin=halo,
        size=size,
    )
    map_cells(left, size)
    for row in range(0, size, block):
        for column in range(0, size, block):
            shade = BLOCK if (row // block + column // block) % 2 == 0 else "#b9cdc7"
            for pixel in range(block * block):
                cell(left, row + pixel // block, column + pixel % block, shade)
    block_lines(left, size, block)

    panel(
        middle,
        "2  A block sees itself and its halo",
        "halo_size = 2: each of the 16 queries (dots) sees\nall (4 + 2*2)$^2$ = 64 keys of the neighbourhood,\n"
        "so it is not centred on the query.",
        margin=halo,
        size=size,
    )
    map_cells(middle, size, seen_by(size=size, query=(4, 4), block_size=block, halo_size=halo), (4, 4, block))
    block_lines(middle, size, block)
    frame(middle, 2, 2, 8, 8, QUERY, linewidth=2.2)
    for pixel in range(block * block):
        dot(middle, 4 + pixel // block, 4 + pixel % block)

    panel(
        right,
        "3  At the border",
        "The halo of a corner block leaves the map.\n"
        'border = "zeros" (HaloNet): those keys and\nvalues are 0 and take part; "mask": they do not.',
        margin=halo,
        size=size,
    )
    map_cells(right, size, seen_by(size=size, query=(0, 0), block_size=block, halo_size=halo), (0, 0, block))
    block_lines(right, size, block)
    outside_cells(right, size, range(-halo, block + halo), range(-halo, block + halo))
    frame(right, -halo, -halo, 8, 8, QUERY, linewidth=2.2)
    for pixel in range(block * block):
        dot(right, pixel // block, pixel % block)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.93, bottom=0.14, wspace=0.0)
    return figure


def draw_options() -> Figure:
    """What one query sees under each option, as the op says."""
    size, block = 12, 4
    cases: list[tuple[str, str, tuple[int, int], dict[str, Any]]] = [
        (
            "stride = 2",
            "A quarter of the queries, each with\nthe same neighbourhood: downsampling.",
            (2, 2),
            {"stride": 2},
        ),
        ("window = 3", "Only the 3 x 3 pixels around the query:\nSASA's centred attention.", (5, 6), {"window": 3}),
        ("halo_size = 0", "Separate windows: no block sees\nits neighbours.", (5, 6), {"halo_size": 0}),
        (
            "neighbors = 5, halo_size = 4",
            "The own block and one neighbour block;\n1 to 8, row-major around the own block.",
            (5, 6),
            {"halo_size": 4, "neighbors": 5},
        ),
        (
            'border = "circular"',
            "The map wraps around\n(Vision Longformer).",
            (1, 2),
            {"border": "circular"},
        ),
        (
            "10 x 10 map, blocks of 4",
            "A map that blocks do not divide is extended\ninside the op; the rest follows the border.",
            (9, 8),
            {"map": 10, "border": "mask"},
        ),
    ]
    figure, grid = plt.subplots(2, 3, figsize=(11.4, 9.2), facecolor=PAPER)
    for axes, (title, caption, query, options) in zip(grid.flat, cases, strict=True):
        options = {"halo_size": 2, **options}
        side = options.pop("map", size)
        stride = options.get("stride", 1)
        at = (query[0] * stride, query[1] * stride)
        own = (at[0] // block * block, at[1] // block * block, block)
        panel(axes, title, caption, margin=0, size=size)
        map_cells(axes, side, seen_by(size=side, query=query, block_size=block, **options), own)
        if side != size:
            outside_cells(axes, side, range(size), range(size), sign="")
        block_lines(axes, size, block)
        if stride == 1:
            dot(axes, *at, radius=0.28)
        else:
            for row in range(0, block, stride):
                for column in range(0, block, stride):
                    dot(axes, own[0] + row, own[1] + column, radius=0.28)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.955, bottom=0.07, wspace=0.08, hspace=0.28)
    return figure


def draw_position() -> Figure:
    """Offsets of keys from queries along one axis, with and without stride."""
    block, halo = 4, 2
    reach = block + halo - 1
    figure, grid = plt.subplots(1, 3, figsize=(13.2, 3.0), facecolor=PAPER)
    cases = [
        ("stride = 1", 1, 1, "offset = key - query, in pixels"),
        ("stride = 2", 2, 2, "still pixels: the default"),
        ("stride = 2, relative_stride = 1", 2, 1, "counted in query steps: timm's HaloAttn"),
    ]
    for axes, (title, stride, relative_stride, caption) in zip(grid, cases, strict=True):
        queries = range(block // stride)
        for index in queries:
            for key in range(-halo, block + halo):
                offset = key - relative_stride * index
                colour = plt.get_cmap("RdYlBu_r")(0.5 + 0.42 * offset / reach)
                cell(axes, index, key, colour)
                axes.text(
                    key + 0.5,
                    index + 0.52,
                    f"{offset:+d}" if offset else "0",
                    ha="center",
                    va="center",
                    fontsize=9,
                    color=PAPER if abs(offset) > 3 else INK,
                )
            axes.text(-halo - 0.3, index + 0.52, f"query {index}", ha="right", va="center", fontsize=10, color=INK)
        frame(axes, 0, 0, len(queries), block, INK)
        axes.text(block / 2, -0.25, "own block", ha="center", va="bottom", fontsize=9.5, color=INK)
        axes.text(-halo / 2, -0.25, "halo", ha="center", va="bottom", fontsize=9.5, color=FAINT)
        axes.text(block + halo / 2, -0.25, "halo", ha="center", va="bottom", fontsize=9.5, color=FAINT)
        axes.text(block / 2, len(queries) + 0.25, caption, ha="center", va="top", fontsize=10, color=INK)
        axes.set(xlim=(-halo - 2.4, block + halo + 0.1), ylim=(4.9, -1.1), aspect="equal")
        axes.axis("off")
        axes.text(block / 2, -1.1, title, ha="center", va="bottom", fontsize=12.5, color=INK, fontweight="bold")
    figure.subplots_adjust(left=0.01, right=0.99, top=0.88, bottom=0.0, wspace=0.0)
    return figure


def draw_papers() -> Figure:
    """Whose neighbourhood is whose: the keys of one query in HaloNet, BoTNet and Vision Longformer, as the op says."""
    size, query = 12, (5, 6)
    cases: list[tuple[str, str, int, dict[str, Any]]] = [
        ("HaloNet", "block_size = 4, halo_size = 2:\nthe own block and a halo around it.", 4, {"halo_size": 2}),
        (
            "BoTNet",
            "One block as large as the map, no halo:\nevery query sees every key.",
            size,
            {"halo_size": 0},
        ),
        (
            "Vision Longformer",
            "Chunks of 2, halo_size = 2: the own chunk and\neight around it, global tokens as extra keys.",
            2,
            {"halo_size": 2, "border": "mask"},
        ),
    ]
    figure, grid = plt.subplots(1, 3, figsize=(13.2, 5.5), facecolor=PAPER)
    for axes, (title, caption, block, options) in zip(grid, cases, strict=True):
        panel(axes, title, caption, margin=2, size=size)
        own = (query[0] // block * block, query[1] // block * block, block)
        map_cells(axes, size, seen_by(size=size, query=query, block_size=block, **options), own)
        block_lines(axes, size, block)
        dot(axes, *query, radius=0.28)
        if "border" in options:
            for column in range(2):
                cell(axes, -1.5, column, SEEN)
            axes.text(2.3, -0.95, "global tokens", va="center", fontsize=10, color=INK)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.93, bottom=0.14, wspace=0.0)
    return figure


def between(one: str, other: str, share: float) -> str:
    """The colour that a share from 0 to 1 of the other makes of one."""
    pairs = ((int(one[at : at + 2], 16), int(other[at : at + 2], 16)) for at in (1, 3, 5))
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def draw_factorized() -> Figure:
    """Three basis masks, what two pixels take of each, and the attention that comes of it, as the op gives it."""
    size, centres, pixels = 12, [(2.5, 3.0), (6.0, 8.5), (9.5, 2.5)], [(3, 4), (8, 6)]
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    bumps = [-((rows - row) ** 2 + (columns - column) ** 2) / 7 for row, column in centres]
    basis = torch.stack(bumps, dim=-1).double().reshape(1, size * size, 1, 3)
    # Of each mask a pixel takes the more, the nearer it lies.
    coefficients = 0.35 * basis
    everything = torch.eye(size * size, dtype=torch.float64)[None, :, None]
    attention = factorized_attention(coefficients, basis, everything, kind="gaussian")[0, :, 0]
    shares = coefficients[0, :, 0].softmax(-1)
    figure, grid = plt.subplots(1, 5, figsize=(13.2, 3.6), facecolor=PAPER)
    masks = enumerate(basis[0, :, 0].softmax(0).t(), 1)
    panels = [(f"basis mask {number}", "shared by all pixels", mask) for number, mask in masks]
    for number, (row, column) in enumerate(pixels):
        told = " + ".join(f"{share:.2f} x {mask + 1}" for mask, share in enumerate(shares[row * size + column]))
        panels.append((f"pixel {number + 1} attends", told, attention[row * size + column]))
    for axes, (title, caption, weights) in zip(grid, panels, strict=True):
        panel(axes, title, caption, margin=0, size=size)
        for place, weight in enumerate((weights / weights.max()).tolist()):
            cell(axes, place // size, place % size, between(PIXEL, SEEN, weight))
    for axes, (row, column) in zip(grid[3:], pixels, strict=True):
        dot(axes, row, column, radius=0.4)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.9, bottom=0.08, wspace=0.1)
    return figure


PICTURES = {
    "blocks": draw_blocks,
    "options": draw_options,
    "papers": draw_papers,
    "factorized": draw_factorized,
    "position": draw_position,
}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        figure = draw()
        figure.savefig(folder / f"{name}.png", dpi=110, facecolor=PAPER, metadata={"Software": None})
        plt.close(figure)
        print(folder / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images")
