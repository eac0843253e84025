"""Where chosen queries of local attention look: the weights of these queries alone, by the reference's own maths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from halonet.ops.local_attention import reference
from halonet.ops.local_attention.api import call_of
from halonet.ops.local_attention.call import Call
from halonet.ops.local_attention.geometry import Geometry


@dataclass(frozen=True)
class LocalWeights:
    """Weights of Q queries; of each query and head `map`, `extra` and `outside` sum to 1 together.

    map: (B, Q, N, H, W), on the pixels of the key map; 0 where a query does not look.
    extra: (B, Q, N, G), on the extra keys; G is 0 where there are none.
    outside: (B, Q, N), on the zeros outside the map, which take part with border="zeros".
    seen: (Q,) int64, how many pixels of the map take part.
    """

    map: Tensor
    extra: Tensor
    outside: Tensor
    seen: Tensor


def local_attention_weights(
    query: Tensor, key: Tensor, *, queries: Sequence[tuple[int, int]], **options: Any
) -> LocalWeights:
    """The weights with which chosen queries of `local_attention` sum up values.

    Its output is linear in its values: `output[b, i, j, n]` is the sum of these weights times the values of the map and
    of the extra keys. They do not depend on a backend. Of each query only its own neighbourhood is gathered and
    multiplied: no other query is computed, and nothing of size queries x keys is made.

    Args:
        query: (B, Hq, Wq, N, Dk), as in `local_attention`.
        key: (B, H, W, N, Dk).
        queries: Q pairs (row, column) into Hq and Wq.
        options: of `local_attention`, but for values and backend.

    Returns:
        `LocalWeights`, in the dtype of the query, differentiable.

    Raises:
        ValueError: as `local_attention`, no queries, or one outside the map of queries.
    """
    call = call_of(query, key, key, **options, extra_value=options.get("extra_key"), backend="reference")
    height, width = call.query.shape[1:3]
    if not len(queries):
        raise ValueError("queries must hold at least one (row, column), got none")
    for row, column in queries:
        if not (0 <= row < height and 0 <= column < width):
            raise ValueError(f"queries must lie inside the map of {height}x{width} queries, got {(row, column)}")
    neighborhoods: dict[tuple[int, int], Tensor] = {}  # of the block that was asked last
    found = [_of_query(call, row, column, neighborhoods) for row, column in queries]
    of_map, extra, outside, seen = ([one[part] for one in found] for part in range(4))
    counts = torch.tensor(seen, device=call.query.device)
    return LocalWeights(torch.stack(of_map, 1), torch.stack(extra, 1), torch.stack(outside, 1), counts)


def _of_query(call: Call, row: int, column: int, neighborhoods: dict[tuple[int, int], Tensor]) -> tuple[Any, ...]:
    """Of one query (B, N, H, W), (B, N, G), (B, N) and a number: see `LocalWeights`."""
    geometry = call.geometry.at(row, column)
    block = (row // geometry.rows.queries_per_block, column // geometry.columns.queries_per_block)
    if block not in neighborhoods:
        neighborhoods.clear()
        neighborhoods[block] = reference.neighborhoods(call.key, geometry)
    asking = call.query[:, None, None, row : row + 1, column : column + 1]  # (B, 1, 1, 1, 1, N, D)
    local, extra = reference.weights(call, geometry, asking, neighborhoods[block])
    local = local[:, 0, 0, :, 0, 0]  # (B, N, y * x)
    extra = local[..., :0] if extra is None else extra[:, 0, 0, :, 0, 0]
    pixels, exists = _pixels(geometry, local.device)
    size = (geometry.rows.size, geometry.columns.size)
    inside = local.masked_fill(~exists, 0)
    flat = local.new_zeros(*local.shape[:2], size[0] * size[1]).index_add(2, pixels, inside)
    takes_part = exists & ~reference.hidden_keys(geometry, local.device).flatten()
    return flat.unflatten(2, size), extra, (local - inside).sum(-1), pixels[takes_part].unique().numel()


def _pixels(geometry: Geometry, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of each neighbourhood pixel its number in the map, row by row, and whether the map has it: (y * x,) each."""
    row, row_exists = geometry.rows.key_pixels(device)
    column, column_exists = geometry.columns.key_pixels(device)
    pixels = row[0, :, None] * geometry.columns.size + column[0]
    return pixels.flatten(), (row_exists[0, :, None] & column_exists[0]).flatten()
