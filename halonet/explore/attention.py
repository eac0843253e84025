"""What one pixel attends to, in figures and as few bytes as a browser needs to draw it."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

from halonet.analysis.attention import LayerRecord, Rows
from halonet.analysis.attention.statistics import per_query

MEAN = -1  # in place of a head
FIGURES = ("distance", "entropy", "beside_block", "padding", "tokens")  # of `halonet.analysis.attention.statistics`


def answer(layer: LayerRecord, pixel: tuple[int, int], *, head: int) -> bytes:
    """The attention of a pixel in one layer.

    Args:
        layer: of a record.
        pixel: (row, column) of the image as the model reads it.
        head: which head's map; `MEAN` for the mean of all.

    Returns:
        The length of the JSON that follows as uint32, little-endian; the JSON; then bytes, a row after the other, of
        the part of the map in which any weight is not 0. A byte is weight / largest * 255, of a layer whose weights may
        be negative 128 + weight / largest * 127. The JSON has "map" (h, w), "extent" (height and width that the map
        covers, in pixels of the image), "box" (top, left, height, width of the part), "largest", "signed", "frames"
        (block and all that is seen, in pixels of the image, or null), "heads", the figures of `figures_of` by head, and
        "shown", those of what is drawn.

    Raises:
        ValueError: a pixel outside the image, no such head, or weights that are not finite.
    """
    if not MEAN <= head < layer.num_heads:
        raise ValueError(f"head: expected 0 to {layer.num_heads - 1}, or {MEAN} for the mean, got {head}")
    rows = layer.at([pixel])
    if not bool(rows.weights.isfinite().all()):
        raise ValueError(f"the weights of {layer.name} are not finite numbers: did the model's training diverge?")
    frames = layer.frames(pixel)
    figures = figures_of(rows, layer)
    weights = rows.weights[0].mean(0) if head == MEAN else rows.weights[0, head]
    box, values, largest = _packed(weights.numpy(), signed=layer.signed)
    told: dict[str, Any] = {
        "map": list(weights.shape),
        "extent": extent_of(layer),
        "box": box,
        "largest": largest,
        "signed": layer.signed,
        "frames": None if frames is None else {"block": frames.block, "seen": frames.seen},
        "heads": figures,
        "shown": figures[head] if head != MEAN else _mean(figures),
    }
    header = json.dumps(told).encode()
    return struct.pack("<I", len(header)) + header + values


def extent_of(layer: LayerRecord) -> tuple[float, float]:
    """Height and width that the keys' map covers, in pixels of the image: all of it, but where a map was reduced by a
    number that does not divide it."""
    down, across = layer.layout.pixel_size(layer.image_size)
    return layer.map_size[0] * down, layer.map_size[1] * across


def figures_of(rows: Rows, layer: LayerRecord) -> list[dict[str, float | None]]:
    """Of one query, those of `FIGURES` by head; None for what the layer does not have.

    See `halonet.analysis.attention.Statistics`: distances are in pixels of the image, entropies in nats, the rest are
    shares of the weight.
    """
    told = per_query(rows, layer)
    absent = {"padding"} if rows.in_block is None else set()
    absent |= set() if rows.tokens.shape[2] else {"tokens"}
    return [
        {name: None if name in absent else _known(float(told[name][0, head])) for name in FIGURES}
        for head in range(layer.num_heads)
    ]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def _mean(figures: list[dict[str, float | None]]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for name in FIGURES:
        known = [value for head in figures if (value := head[name]) is not None]
        means[name] = sum(known) / len(known) if len(known) == len(figures) else None
    return means


def _packed(weights: np.ndarray, *, signed: bool) -> tuple[list[int], bytes, float]:
    """The box of what is not 0, its bytes, and the largest weight."""
    size = np.abs(weights)
    largest = float(size.max())
    rows, columns = (np.flatnonzero(size.any(axis)) for axis in (1, 0))
    if not len(rows):
        return [0, 0, 0, 0], b"", 0.0
    top, left, bottom, right = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
    part = weights[top:bottom, left:right] / largest
    scaled = 128 + 127 * part if signed else 255 * part
    box = [int(value) for value in (top, left, bottom - top, right - left)]
    return box, np.rint(scaled).astype(np.uint8).tobytes(), largest
