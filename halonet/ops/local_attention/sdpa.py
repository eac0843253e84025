"""Local attention through torch's fused `scaled_dot_product_attention`, with position folded into the channels.

A query's position term is one number a key row plus one a key column. Appending these numbers to the query, and
a one-hot row and column to the key, makes the dot product of the longer vectors the whole logit; windows and
borders are large negative numbers in the same places. Only a static bias needs a mask, of one block. On a CPU most
calls go through the tiles of `tiles`, with the same folding and explicit products. See NOTES.md. Shape letters as
in `geometry`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from halonet.ops.local_attention import tiles
from halonet.ops.local_attention.call import NO_DILATION, Call
from halonet.ops.local_attention.geometry import NEIGHBOR_DIRECTIONS, Axis, Geometry


def refusal(call: Call) -> str | None:
    """Why this backend cannot take the call; it takes every one that torch's attention has a kernel for."""
    if call.query.device.type == "mps" and call.query.dtype == torch.float64:
        return "torch has no float64 on mps"
    return NO_DILATION if call.geometry.rows.dilation != 1 else None


def run(call: Call) -> Tensor:
    """Local attention by `scaled_dot_product_attention` over gathered neighbourhoods: (B, Hq, Wq, N, Dv)."""
    if tiles.takes(call):
        return tiles.run(call)
    geometry = call.geometry
    query = _append_query_channels(call)  # (B, I, J, N, i, j, C)
    batch, down, across, heads, q_rows, q_columns, _ = query.shape
    query = query.reshape(batch * down * across, heads, q_rows * q_columns, -1)
    key = _append_key_channels(_neighborhoods(call.key, geometry), call)  # (B, I, J, N, K, C)
    value = _append_extra_values(_neighborhoods(call.value, geometry), call)  # (B, I, J, N, K, Dv)
    mask = None if call.bias is None else _bias_mask(call)
    channels = value.shape[-1]
    # The fused kernels want one channel count; zeros change neither the logits nor the kept part of the output.
    width = max(channels, query.shape[-1])
    output = F.scaled_dot_product_attention(
        _widened(query, width),
        _widened(key.flatten(0, 2), width),
        _widened(value.flatten(0, 2), width),
        attn_mask=mask,
        scale=1.0,
    )[..., :channels]
    blocks = output.reshape(batch, down, across, heads, q_rows, q_columns, channels)
    return geometry.merge_queries(blocks.permute(0, 1, 2, 4, 5, 3, 6))


def _widened(x: Tensor, channels: int) -> Tensor:
    """The tensor with zeros after its own channels; itself where it has as many."""
    return x if x.shape[-1] == channels else F.pad(x, (0, channels - x.shape[-1]))


def _folds_position(call: Call) -> bool:
    """Whether row and column channels are needed: for positions, windows or keys that must not take part."""
    return call.relative is not None or _hides(call.geometry.rows) or _hides(call.geometry.columns)


def _hides(axis: Axis) -> bool:
    """Whether a query must not see some pixels of its neighbourhood because of where they lie on the axis."""
    return axis.has_hidden_keys or axis.window is not None


def _append_query_channels(call: Call) -> Tensor:
    """[scale * q, a logit per key row, a logit per key column, 1]: (B, I, J, N, i, j, C)."""
    geometry = call.geometry
    query = geometry.split_queries(call.query).permute(0, 1, 2, 5, 3, 4, 6)  # (B, I, J, N, i, j, D)
    parts = [query * call.scale]
    if _folds_position(call):
        tables = (None, None) if call.relative is None else call.relative
        row = _axis_logits(query, geometry.rows, tables[0], call.relative_scale, "bIJnijd,iyd->bIJnijy")
        column = _axis_logits(query, geometry.columns, tables[1], call.relative_scale, "bIJnijd,jxd->bIJnijx")
        if _hides(geometry.rows):
            row = row + _hidden_logits(geometry.rows, query)[:, None, None, :, None]  # (I, J, N, i, j, y)
        if _hides(geometry.columns):
            column = column + _hidden_logits(geometry.columns, query)[None, :, None, None, :]
        shape = query.shape[:-1]
        parts += [row.expand(*shape, geometry.rows.neighborhood), column.expand(*shape, geometry.columns.neighborhood)]
    if call.extra_bias is not None:
        parts.append(query.new_ones(()).expand(*query.shape[:-1], 1))
    return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]


def _axis_logits(query: Tensor, axis: Axis, table: Tensor | None, scale: float, equation: str) -> Tensor:
    """Position logits of one axis: (B, I, J, N, i, j, y), or a zero."""
    if table is None:
        return query.new_zeros(())
    return torch.einsum(equation, query, table[axis.table_rows(query.device)] * scale)


def _hidden_logits(axis: Axis, like: Tensor) -> Tensor:
    """0 for a neighbourhood pixel that may be seen, a large negative number otherwise: (I, i, y)."""
    seen = axis.in_window(like.device)[None]
    if axis.border != "zeros":
        seen = seen & axis.key_pixels(like.device)[1][:, None]
    # A quarter of the range: a row and a column add up without overflow, and exp() of it is exactly zero.
    hidden = torch.finfo(like.dtype).min / 4
    return torch.zeros((), dtype=like.dtype, device=like.device).where(seen, hidden)


def _append_key_channels(key: Tensor, call: Call) -> Tensor:
    """[k, one-hot row, one-hot column, extra bias] of the keys a block sees: (B, I, J, N, K, C)."""
    batch, down, across, heads, height, width, _ = key.shape
    parts = [key]
    if _folds_position(call):
        row = torch.eye(height, dtype=key.dtype, device=key.device)[:, None].expand(height, width, height)
        column = torch.eye(width, dtype=key.dtype, device=key.device)[None].expand(height, width, width)
        shape = (batch, down, across, heads, height, width, -1)
        parts += [row.expand(shape), column.expand(shape)]
    if call.extra_bias is not None:
        parts.append(key.new_zeros(()).expand(*key.shape[:-1], 1))
    local = (torch.cat(parts, dim=-1) if len(parts) > 1 else key).flatten(4, 5)
    local = _own_and_neighbor(local, call.geometry)
    if call.extra_key is None:
        return local
    extra = call.extra_key.transpose(1, 2)  # (B, N, G, D)
    if call.extra_bias is None:
        extra = F.pad(extra, (0, local.shape[-1] - extra.shape[-1]))
    else:
        extra = F.pad(extra, (0, local.shape[-1] - 1 - extra.shape[-1]))
        extra = torch.cat([extra, call.extra_bias[None, :, :, None].expand(batch, -1, -1, 1)], dim=-1)
    return torch.cat([local, extra[:, None, None].expand(-1, down, across, -1, -1, -1)], dim=4)


def _append_extra_values(value: Tensor, call: Call) -> Tensor:
    """The values a block sees, extra ones last: (B, I, J, N, K, Dv)."""
    local = _own_and_neighbor(value.flatten(4, 5), call.geometry)
    if call.extra_value is None:
        return local
    extra = call.extra_value.transpose(1, 2)[:, None, None]
    return torch.cat([local, extra.expand(-1, *local.shape[1:3], -1, -1, -1)], dim=4)


def _own_and_neighbor(keys: Tensor, geometry: Geometry) -> Tensor:
    """Keeps of (..., y*x, D) the keys of the own and of the chosen neighbour block."""
    if geometry.neighbors is None:
        return keys
    down, across = NEIGHBOR_DIRECTIONS[geometry.neighbors - 1]
    rows, columns = geometry.rows, geometry.columns
    kept = [
        y * columns.neighborhood + x
        for y in range(rows.neighborhood)
        for x in range(columns.neighborhood)
        if (rows.block_offset(y), columns.block_offset(x)) in ((0, 0), (down, across))
    ]
    return keys.index_select(-2, torch.tensor(kept, device=keys.device))


def _bias_mask(call: Call) -> Tensor:
    """The static bias as the additive mask of one block: (1, N, Q, K), zero for extra keys."""
    assert call.bias is not None
    geometry, device = call.geometry, call.bias.device
    row = geometry.rows.table_rows(device)[:, None, :, None]
    column = geometry.columns.table_rows(device)[None, :, None, :]
    bias = call.bias[:, row, column].flatten(3, 4).flatten(1, 2)  # (N, Q, y*x)
    bias = _own_and_neighbor(bias[..., None], geometry)[None, ..., 0]
    if call.extra_key is not None:
        bias = F.pad(bias, (0, call.extra_key.shape[1]))
    return bias


def _neighborhoods(map_: Tensor, geometry: Geometry) -> Tensor:
    """(B, H, W, N, D) -> a view (B, I, J, N, y, x, D) of the padded map."""
    rows, columns = geometry.rows, geometry.columns
    if rows.border == "circular":
        map_ = F.pad(map_, (0, 0, 0, 0, 0, columns.extended - columns.size, 0, rows.extended - rows.size))
        map_ = map_.index_select(1, _wrapped(rows, map_.device)).index_select(2, _wrapped(columns, map_.device))
    else:
        below, right = rows.extended - rows.size + rows.halo, columns.extended - columns.size + columns.halo
        map_ = F.pad(map_, (0, 0, 0, 0, columns.halo, right, rows.halo, below))
    windows = map_.unfold(1, rows.neighborhood, rows.block).unfold(2, columns.neighborhood, columns.block)
    return windows.permute(0, 1, 2, 3, 5, 6, 4)


def _wrapped(axis: Axis, device: torch.device) -> Tensor:
    """Pixel of the extended map for each pixel from the first halo to the last: (extended + 2 * halo,)."""
    return torch.arange(-axis.halo, axis.extended + axis.halo, device=device) % axis.extended
