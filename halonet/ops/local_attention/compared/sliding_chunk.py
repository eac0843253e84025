"""Sliding chunks, by torch's operations and autograd: queries of a chunk meet nine chunks of keys, one after the other.

Each of the nine is a copy of the map that autograd keeps. Shape letters as in `geometry`; P the pixels of a chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from halonet.ops.local_attention.call import NO_DILATION, Call
from halonet.ops.local_attention.compared.extra import softmax_with_extra
from halonet.ops.local_attention.geometry import NEIGHBOR_DIRECTIONS, Axis, Geometry


def refusal(call: Call) -> str | None:
    """Why this backend cannot take the call: a query sees its own chunk and those around it."""
    rows, columns = call.geometry.rows, call.geometry.columns
    if (rows.halo, columns.halo) != (rows.block, columns.block):
        return "its halos are whole blocks"
    if rows.dilation != 1:
        return NO_DILATION
    if rows.stride != 1 or rows.border == "zeros" or call.relative is not None:
        return "it has no stride, no border of zeros and no position but a bias"
    return None


def run(call: Call) -> Tensor:
    """Local attention: (B, H, W, N, Dv)."""
    geometry = call.geometry
    rows, columns = geometry.rows, geometry.columns
    query, key, value = (_chunks(map_, geometry) for map_ in (call.query, call.key, call.value))
    steps = [(0, 0), *NEIGHBOR_DIRECTIONS]
    if geometry.neighbors is not None:
        steps = [(0, 0), NEIGHBOR_DIRECTIONS[geometry.neighbors - 1]]
    logits = []
    for step in steps:
        part = call.scale * query @ _moved(key, step).transpose(4, 5)  # (B, N, I, J, P, P)
        if call.bias is not None:
            part = part + _bias(call.bias, geometry, step)
        logits.append(part.masked_fill(_hidden(geometry, step, part.device), torch.finfo(part.dtype).min))
    flat = torch.cat(logits, dim=5).flatten(2, 4)
    weights, extra = softmax_with_extra(call, query.flatten(2, 4), flat)
    grid = (rows.num_blocks, columns.num_blocks, query.shape[4])
    by_step = weights.unflatten(2, grid).split(query.shape[4], dim=5)
    output = torch.stack([part @ _moved(value, step) for part, step in zip(by_step, steps, strict=True)]).sum(dim=0)
    output = output if extra is None else output + extra.unflatten(2, grid)
    blocks = output.permute(0, 2, 3, 4, 1, 5).unflatten(3, (rows.block, columns.block))
    return geometry.merge_queries(blocks)


def _chunks(map_: Tensor, geometry: Geometry) -> Tensor:
    """(B, H, W, N, D) -> (B, N, I, J, P, D), zeros where the map has no pixel."""
    below = geometry.rows.extended - geometry.rows.size
    right = geometry.columns.extended - geometry.columns.size
    map_ = F.pad(map_, (0, 0, 0, 0, 0, right, 0, below))
    chunks = map_.unflatten(2, (-1, geometry.columns.block)).unflatten(1, (-1, geometry.rows.block))
    return chunks.permute(0, 5, 1, 3, 2, 4, 6).flatten(4, 5)


def _moved(chunks: Tensor, step: tuple[int, int]) -> Tensor:
    """For each chunk the one `step` chunks down and across, around the border."""
    return chunks.roll((-step[0], -step[1]), dims=(2, 3))


def _hidden(geometry: Geometry, step: tuple[int, int], device: torch.device) -> Tensor:
    """Keys of the chunks at a step that a query must not see: (I, J, P, P)."""
    seen = [_seen(axis, move, device) for axis, move in zip((geometry.rows, geometry.columns), step, strict=True)]
    both = seen[0][:, None, :, None, :, None] & seen[1][None, :, None, :, None, :]  # (I, J, i, j, y, x)
    return ~both.flatten(4, 5).flatten(2, 3)


def _seen(axis: Axis, move: int, device: torch.device) -> Tensor:
    """Of one axis: (I, i, y), y pixels of the chunk `move` chunks away."""
    place = slice(axis.block * (1 + move), axis.block * (2 + move))
    return axis.key_pixels(device)[1][:, None, place] & axis.in_window(device)[None, :, place]


def _bias(bias: Tensor, geometry: Geometry, step: tuple[int, int]) -> Tensor:
    """Of every query and key of the chunk at a step: (N, 1, 1, P, P)."""
    axes = geometry.rows, geometry.columns
    row, column = (
        axis.table_rows(bias.device)[:, axis.block * (1 + move) : axis.block * (2 + move)]
        for axis, move in zip(axes, step, strict=True)
    )
    return bias[:, row[:, None, :, None], column[None, :, None, :]].flatten(3, 4).flatten(1, 2)[:, None, None]
