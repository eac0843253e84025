"""What one pixel attends to, in figures and as few bytes as a browser needs to draw it."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import torch
from torch import Tensor

from halonet.analysis.attention import LayerRecord, Rows

MEAN = -1  # in place of a head


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
        ValueError: a pixel outside the image, or no such head.
    """
    if not MEAN <= head < layer.num_heads:
        raise ValueError(f"head: expected 0 to {layer.num_heads - 1}, or {MEAN} for the mean, got {head}")
    rows = layer.at([pixel])
    frames = layer.frames(pixel)
    figures = figures_of(rows, extent=extent_of(layer))
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
    layout = layer.layout
    down, across = (
        full * covered / side
        for full, covered, side in zip(layer.image_size, layout.covered, layout.input_size, strict=True)
    )
    return down, across


def figures_of(rows: Rows, *, extent: tuple[float, float]) -> list[dict[str, float | None]]:
    """Of one query, the figures of each head.

    distance: mean distance from the query to the pixels of the map that it attends to, between centres, in pixels of
    the image. entropy: of all weights, those on padding and global tokens too, in bits. outside_block, padding, tokens:
    shares of the weight. What a layer does not have is None: blocks, tokens, and shares where weights may be negative.
    """
    weights, tokens, padding = rows.weights[0].double(), rows.tokens[0].double(), rows.outside[0].double()
    inside, on_tokens = weights.sum((-2, -1)), tokens.sum(1)
    assert rows.places is not None
    distance = (weights * _distances(weights, rows.places[0], extent)).sum((-2, -1)) / inside.clamp(min=1e-12)
    entropy = _bits(torch.cat([weights.flatten(1), tokens], dim=1)).sum(1) + _bits(padding)
    in_block = None if rows.in_block is None else rows.in_block[0].double()
    shares = bool((weights >= 0).all())
    return [
        {
            "distance": float(distance[head]) if shares else None,
            "entropy": float(entropy[head]) if shares else None,
            "outside_block": None if in_block is None else float(inside[head] - in_block[head]),
            "padding": float(padding[head]) if in_block is not None else None,
            "tokens": float(on_tokens[head]) if tokens.shape[1] else None,
        }
        for head in range(len(weights))
    ]


def _mean(figures: list[dict[str, float | None]]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for name in figures[0]:
        values = [head[name] for head in figures]
        known = [value for value in values if value is not None]
        means[name] = sum(known) / len(known) if len(known) == len(values) else None
    return means


def _distances(weights: Tensor, place: Tensor, extent: tuple[float, float]) -> Tensor:
    """(h, w): from the query's place to the map's pixels, in pixels of the image."""
    away = [
        (torch.arange(count, dtype=torch.float64) - float(at)) * (side / count)
        for count, side, at in zip(weights.shape[-2:], extent, place, strict=True)
    ]
    return torch.hypot(away[0][:, None], away[1][None])


def _bits(shares: Tensor) -> Tensor:
    return -torch.xlogy(shares, shares.clamp(min=1e-300)) / float(np.log(2))


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
