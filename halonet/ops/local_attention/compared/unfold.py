"""Windows by unfolding: every query has its k x k keys and values copied out of the map.

Shape letters as in `geometry`; P the queries of a map, row by row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from halonet.ops.local_attention.call import Call
from halonet.ops.local_attention.compared.extra import softmax_with_extra


def refusal(call: Call) -> str | None:
    """Why this backend cannot take the call: it knows windows around every pixel, and no more."""
    rows, columns = call.geometry.rows, call.geometry.columns
    if rows.window is None:
        return "it takes windows only, and none is given"
    if min(rows.halo, columns.halo) < rows.window // 2 * rows.dilation:
        return f"its windows are whole, and a halo of {min(rows.halo, columns.halo)} cuts one of {rows.window}"
    if rows.stride != 1 or rows.border == "circular" or call.relative is not None:
        return "it has no stride, no circular border and no position but a bias"
    return None


def run(call: Call) -> Tensor:
    """Local attention: (B, H, W, N, Dv)."""
    rows, columns = call.geometry.rows, call.geometry.columns
    window, dilation, size = rows.window or 1, rows.dilation, (rows.size, columns.size)
    options = {"kernel_size": window, "dilation": dilation, "padding": window // 2 * dilation}
    query = call.query.flatten(1, 2).transpose(1, 2)  # (B, N, P, D)
    logits = call.scale * torch.einsum("bnpd,bndkp->bnpk", query, _unfold(call.key, options))
    if call.bias is not None:
        steps = torch.arange(window, device=query.device) * dilation - window // 2 * dilation
        logits = logits + call.bias[:, rows.reach + steps[:, None], columns.reach + steps].flatten(1)[:, None]
    if rows.border == "mask":
        inside = F.unfold(query.new_ones(1, 1, *size), **options)[0].t()
        logits = logits.masked_fill(inside == 0, torch.finfo(logits.dtype).min)
    weights, extra = softmax_with_extra(call, query, logits)
    output = torch.einsum("bnpk,bndkp->bnpd", weights, _unfold(call.value, options))
    output = output if extra is None else output + extra
    return output.transpose(1, 2).unflatten(1, size)


def _unfold(map_: Tensor, options: dict[str, int]) -> Tensor:
    """(B, H, W, N, D) -> (B, N, D, k * k, P): the window of each pixel, zero outside the map."""
    batch, _, _, heads, channels = map_.shape
    images = map_.permute(0, 3, 4, 1, 2).flatten(0, 1)
    windows = F.unfold(images, **options)  # (B * N, D * k * k, P)
    return windows.unflatten(1, (channels, -1)).unflatten(0, (batch, heads))
