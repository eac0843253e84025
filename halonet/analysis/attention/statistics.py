"""What a layer's attention is like, head by head: how far, how spread out, how much beside its block and its map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from halonet.analysis.attention.record import LayerRecord, Rows
from halonet.analysis.attention.weights import Size

GRID = 8  # queries along each side of the image where none are given: 64 of them
_NUMBERS = 1 << 24  # of weights that are held at once


@dataclass(frozen=True)
class Statistics:
    """Means over queries of one layer, (N,) float64 each, a head after the other; NaN where there is none.

    Where weights have signs their magnitudes count, as shares of their sum.

    distance: from the query to the pixels of the map it looks at, weighted by the weight on the map, between centres,
        in pixels of the image. Pixels that a cyclic border brings in count where they really lie.
    distance_map: the same in pixels of the keys' map.
    entropy: of the weight on the map and the global tokens, as shares of its sum, in nats.
    entropy_share: the same over log(pixels and tokens seen): 1 is an even look at everything. NaN where one is seen.
    own_block, beside_block: share of all weight inside the query's own block, and on the map outside it. NaN for
        layers without blocks, whose query sees the whole map.
    padding: share on the zeros outside the map.
    tokens: share on the global tokens.
    """

    distance: Tensor
    distance_map: Tensor
    entropy: Tensor
    entropy_share: Tensor
    own_block: Tensor
    beside_block: Tensor
    padding: Tensor
    tokens: Tensor


NAMES = tuple(field.name for field in fields(Statistics))


def even_grid(image_size: Size, side: int = GRID) -> list[tuple[int, int]]:
    """The pixels (row, column) in the middle of side x side even cells of an image; fewer in a smaller image."""
    rows, columns = (sorted({(2 * number + 1) * full // (2 * side) for number in range(side)}) for full in image_size)
    return [(row, column) for row in rows for column in columns]


def layer_statistics(layer: LayerRecord, pixels: Sequence[tuple[int, int]] | None = None) -> Statistics:
    """Statistics of a layer over the queries that answer for pixels of the image.

    Args:
        layer: of a record.
        pixels: (row, column) each; an even grid of 8 x 8 if None.

    Raises:
        ValueError: no pixel, or one outside the image.
    """
    asked = even_grid(layer.image_size) if pixels is None else list(pixels)
    size = layer.num_heads * layer.map_size[0] * layer.map_size[1]
    at_once = max(1, _NUMBERS // size)
    starts = range(0, max(len(asked), 1), at_once)
    parts = [per_query(layer.at(asked[start : start + at_once]), layer) for start in starts]
    return Statistics(**{name: torch.cat([part[name] for part in parts]).nanmean(0) for name in NAMES})


def per_query(rows: Rows, layer: LayerRecord) -> dict[str, Tensor]:
    """The numbers of `Statistics` of every query: (Q, N) float64 by name.

    Args:
        rows: of `layer.at`; global tokens stand nowhere and have no distance.
        layer: the same layer.
    """
    tokens, outside = (part.double().abs() for part in (rows.tokens, rows.outside))
    looked_at = [_looked_at(weights) for weights in rows.weights]
    on_map = torch.stack([weights.sum((-2, -1)) for weights, _ in looked_at])
    total = on_map + tokens.sum(-1) + outside
    nothing = torch.full_like(total, torch.nan)
    in_block = nothing if rows.in_block is None else rows.in_block.double()
    everything = [torch.cat([weights.flatten(1), of], 1) for (weights, _), of in zip(looked_at, tokens, strict=True)]
    entropy = torch.stack([_entropy(weights) for weights in everything])
    most = rows.seen.double().log()[:, None]
    return {
        "distance": _distances(looked_at, rows.places, layer.layout.pixel_size(layer.image_size)) / on_map,
        "distance_map": _distances(looked_at, rows.places, (1.0, 1.0)) / on_map,
        "entropy": entropy,
        "entropy_share": torch.where(most > 0, entropy / most, torch.nan),
        "own_block": in_block / total,
        "beside_block": (on_map - in_block) / total,
        "padding": outside / total,
        "tokens": tokens.sum(-1) / total,
    }


def _looked_at(weights: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Of one query's (N, h, w) the magnitudes in the rectangle outside which all are 0, and its first pixel.

    A local query sees little of a large map.
    """
    magnitudes = weights.abs()
    rows, columns = (magnitudes.amax((0, axis)).nonzero()[:, 0] for axis in (2, 1))
    if not len(rows):
        return magnitudes[:, :1, :1].double(), (0, 0)
    top, left = int(rows[0]), int(columns[0])
    return magnitudes[:, top : int(rows[-1]) + 1, left : int(columns[-1]) + 1].double(), (top, left)


def _distances(
    looked_at: Sequence[tuple[Tensor, tuple[int, int]]], places: Tensor | None, pixel_size: tuple[float, float]
) -> Tensor:
    """(Q, N): of each query the sum of weights times distances."""
    if places is None:
        return torch.full((len(looked_at), looked_at[0][0].shape[0]), torch.nan, dtype=torch.float64)
    sums = []
    for (weights, first), place in zip(looked_at, places.double(), strict=True):
        down, across = (
            (torch.arange(side) + start - standing) * pixel
            for side, start, standing, pixel in zip(weights.shape[1:], first, place, pixel_size, strict=True)
        )
        sums.append((weights * torch.hypot(down[:, None], across)).sum((1, 2)))
    return torch.stack(sums)


def _entropy(weights: Tensor) -> Tensor:
    """(N, K) -> (N,), of the weights as shares of their sum; NaN where that is 0."""
    shares = weights / weights.sum(-1, keepdim=True)
    return -torch.special.xlogy(shares, shares).sum(-1)
