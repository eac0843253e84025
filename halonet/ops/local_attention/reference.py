"""The definition of local attention: gather, multiply, softmax, sum. Slow, obvious, differentiable, any dtype.

Shape letters as in `geometry`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from halonet.ops.local_attention.call import Call
from halonet.ops.local_attention.geometry import Geometry


def refusal(call: Call) -> str | None:
    """Why this backend cannot take the call; the reference takes every one."""
    return None


def run(call: Call) -> Tensor:
    """Local attention by its definition: (B, Hq, Wq, N, Dv)."""
    geometry = call.geometry
    query = geometry.split_queries(call.query)
    local, extra = weights(call, geometry, query, neighborhoods(call.key, geometry))
    output = _sum_values(local, neighborhoods(call.value, geometry))
    if extra is not None and call.extra_value is not None:
        output = output + torch.einsum("bIJnijg,bgnd->bIJijnd", extra, call.extra_value)
    return geometry.merge_queries(output)


def weights(call: Call, geometry: Geometry, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor | None]:
    """What each query makes of the values it sees.

    Args:
        call: scales, tables, biases and extra keys.
        geometry: the call's, or of one query of it (`Geometry.at`).
        query: (B, I, J, i, j, N, D).
        key: its neighbourhoods, (B, I, J, y, x, N, D).

    Returns:
        (B, I, J, N, i, j, y * x), and of the extra keys (B, I, J, N, i, j, G); None where there are none.
    """
    logits = call.scale * torch.einsum("bIJijnd,bIJyxnd->bIJnijyx", query, key)
    if call.relative is not None:
        logits = logits + call.relative_scale * _position_logits(query, call.relative, geometry)
    if call.bias is not None:
        logits = logits + _bias_logits(call.bias, geometry)
    hidden = hidden_keys(geometry, logits.device)  # (I, J, i, j, y, x)
    # Not -inf: a query of the extension may see no key at all, and is dropped, but a NaN would live on in gradients.
    logits = logits.masked_fill(hidden[None, :, :, None], torch.finfo(logits.dtype).min).flatten(-2)
    if call.extra_key is None:
        return torch.softmax(logits, dim=-1), None
    extra = call.scale * torch.einsum("bIJijnd,bgnd->bIJnijg", query, call.extra_key)
    if call.extra_bias is not None:
        extra = extra + call.extra_bias[:, None, None]
    both = torch.softmax(torch.cat([logits, extra], dim=-1), dim=-1)
    local, of_extra = both.split([logits.shape[-1], extra.shape[-1]], dim=-1)
    return local, of_extra


def neighborhoods(map_: Tensor, geometry: Geometry) -> Tensor:
    """(B, H, W, N, D) -> (B, I, J, y, x, N, D), zero where the map has no pixel."""
    row, row_exists = geometry.rows.key_pixels(map_.device)
    column, column_exists = geometry.columns.key_pixels(map_.device)
    gathered = map_[:, row[:, None, :, None], column[None, :, None, :]]
    exists = row_exists[:, None, :, None] & column_exists[None, :, None, :]
    return gathered.masked_fill(~exists[None, ..., None, None], 0)


def _position_logits(query: Tensor, relative: tuple[Tensor, Tensor], geometry: Geometry) -> Tensor:
    """q.r for every query and neighbourhood pixel: (B, I, J, N, i, j, y, x)."""
    height_table, width_table = relative
    height = height_table[geometry.rows.table_rows(query.device)]  # (i, y, D)
    width = width_table[geometry.columns.table_rows(query.device)]  # (j, x, D)
    by_row = torch.einsum("bIJijnd,iyd->bIJnijy", query, height)
    by_column = torch.einsum("bIJijnd,jxd->bIJnijx", query, width)
    return by_row[..., :, None] + by_column[..., None, :]


def _bias_logits(bias: Tensor, geometry: Geometry) -> Tensor:
    """The static bias of every query and neighbourhood pixel of a block: (N, i, j, y, x)."""
    row = geometry.rows.table_rows(bias.device)[:, None, :, None]
    column = geometry.columns.table_rows(bias.device)[None, :, None, :]
    return bias[:, row, column]


def hidden_keys(geometry: Geometry, device: torch.device) -> Tensor:
    """Which neighbourhood pixels a query must not see: (I, J, i, j, y, x)."""
    row = geometry.rows.in_window(device)[None]  # (1, i, y)
    column = geometry.columns.in_window(device)[None]
    if geometry.rows.border != "zeros":
        row = row & geometry.rows.key_pixels(device)[1][:, None]
        column = column & geometry.columns.key_pixels(device)[1][:, None]
    seen = row[:, None, :, None, :, None] & column[None, :, None, :, None, :]
    in_neighbor = geometry.in_neighbor(device)
    if in_neighbor is not None:
        seen = seen & in_neighbor
    return ~seen


def _sum_values(weights: Tensor, value: Tensor) -> Tensor:
    """(B, I, J, N, i, j, y*x) weights, (B, I, J, y, x, N, D) values -> (B, I, J, i, j, N, D)."""
    return torch.einsum("bIJnijk,bIJknd->bIJijnd", weights, value.flatten(3, 4))
