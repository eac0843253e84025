"""Tables of relative position: the paper's halves as full tables, and tables for another neighbourhood."""

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
