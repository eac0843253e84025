"""Tables of relative position: the paper's halves as full tables, and tables for another neighbourhood or map."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def split_tables(height_table: Tensor, width_table: Tensor) -> tuple[Tensor, Tensor]:
    """Tables of half the head's channels an axis, as the full tables that `local_attention` takes.

    HaloNet (appendix A) gives the first half of a head's channels to height and the second to width. A full table
    whose other half is zero gives the same logits.

    Args:
        height_table: (rows, Dk - Dk // 2); a head of odd Dk gives height the spare channel.
        width_table: (columns, Dk // 2).

    Returns:
        (rows, Dk) and (columns, Dk).
    """
    height_channels, width_channels = height_table.shape[-1], width_table.shape[-1]
    return F.pad(height_table, (0, width_channels)), F.pad(width_table, (height_channels, 0))


def resize_table(table: Tensor, length: int) -> Tensor:
    """A position table at another length by linear interpolation, its ends kept (HaloNet, appendix E).

    With relative tables, 2 * reach + 1 rows with offset 0 in the middle, the middle row stays in the middle; with
    absolute ones the first and last rows stay at the border.

    Args:
        table: (rows, channels).
        length: rows of the result. The table itself comes back when it has them already.

    Returns:
        (length, channels), in the dtype of the table.
    """
    if length < 1:
        raise ValueError(f"length must be positive, got {length}")
    if table.shape[0] == length:
        return table
    wide = table.to(torch.promote_types(table.dtype, torch.float32))  # half precision would round the weights
    resized = F.interpolate(wide.t()[None], size=length, mode="linear", align_corners=True)
    return resized[0].t().to(table.dtype)


def resize_bias(table: Tensor, size: tuple[int, int]) -> Tensor:
    """A table of biases at other numbers of offsets, bilinearly, its ends kept (Vision Longformer, section 4.3).

    Offset 0 stays in the middle.

    Args:
        table: (N, offsets down, offsets across).
        size: offsets down and across of the result. The table itself comes back when it has them already.

    Returns:
        (N, *size), in the dtype of the table.
    """
    if min(size) < 1:
        raise ValueError(f"size must be positive, got {tuple(size)}")
    if tuple(table.shape[1:]) == tuple(size):
        return table
    wide = table.to(torch.promote_types(table.dtype, torch.float32))
    return F.interpolate(wide[None], size=tuple(size), mode="bilinear", align_corners=True)[0].to(table.dtype)
