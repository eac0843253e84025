"""Stereo matching's two tensor functions: the volume of feature pairs, and disparities from scores."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from halonet.ops.checks import check_positive


def concat_volume(left: Tensor, right: Tensor, *, num_disparities: int) -> Tensor:
    """Every pixel's features beside those it may match, at every disparity (GC-Net, arXiv 1703.04309, section 3.2).

        volume[:, :, d, y, x] = left[:, :, y, x] followed by right[:, :, y, x - d]

    Both halves are 0 where x - d < 0, as in PSMNet (arXiv 1803.08669), whatever the features hold.

    Args:
        left: (B, C, H, W).
        right: (B, C, H, W), in the same dtype.
        num_disparities: D, in pixels of these maps; may be more than W.

    Returns:
        (B, 2C, D, H, W), with channels last in memory where both maps have them so.

    Raises:
        ValueError: maps of other ranks or of different shapes or dtypes, or a number that is not a positive int.
    """
    _check_pair(left, right)
    check_positive("num_disparities", num_disparities)
    if all(_has_channels_last(x) for x in (left, right)):
        return _volume_of_channels_last(left, right, num_disparities)
    width = left.shape[3]
    inside = _inside(width, num_disparities, left.device)
    own = torch.where(inside[:, None], left.unsqueeze(2), 0)
    # Of the map with D - 1 zeros before it, the W columns from k on are those of disparity D - 1 - k.
    windows = F.pad(right, (num_disparities - 1, 0)).unfold(3, width, 1)  # (B, C, H, D, W)
    return torch.cat([own, windows.transpose(2, 3).flip(2)], dim=1)


def _volume_of_channels_last(left: Tensor, right: Tensor, num_disparities: int) -> Tensor:
    """The same, the channels of a pixel adjacent all the way, so that neither half is copied twice."""
    left, right = (x.permute(0, 2, 3, 1) for x in (left, right))
    width = left.shape[2]
    inside = _inside(width, num_disparities, left.device)
    own = torch.where(inside[:, None, :, None], left.unsqueeze(1), 0)
    windows = F.pad(right, (0, 0, num_disparities - 1, 0)).unfold(2, width, 1)  # (B, H, D, C, W)
    other = windows.permute(0, 2, 1, 4, 3).flip(1)
    return torch.cat([own, other], dim=4).permute(0, 4, 1, 2, 3)


def _inside(width: int, num_disparities: int, device: torch.device) -> Tensor:
    """(D, W): which columns x have a column x - d."""
    columns, disparities = (torch.arange(count, device=device) for count in (width, num_disparities))
    return columns >= disparities[:, None]


def soft_argmin(cost: Tensor, *, num_disparities: int | None = None) -> Tensor:
    """The expected disparity under the softmax over all (GC-Net, section 3.4; PSMNet, "Disparity regression").

    A large score stands for a likely disparity: the sign of PSMNet's code. Its paper, like GC-Net's, writes the softmax
    of a negative cost instead.

    Args:
        cost: (B, D, H, W) scores of the disparities 0 to D - 1.
        num_disparities: how many of them count, from 0 on; all if None.

    Returns:
        (B, H, W), from 0 to one less than the number that counts; float32, of float64 scores float64.

    Raises:
        ValueError: scores of another rank or without a disparity, or a number that is not from 1 to D.
    """
    if cost.ndim != 4 or not cost.shape[1]:
        raise ValueError(f"cost must be (batch, disparities, height, width), got {tuple(cost.shape)}")
    if num_disparities is not None:
        check_positive("num_disparities", num_disparities)
        if num_disparities > cost.shape[1]:
            raise ValueError(f"num_disparities must be at most {cost.shape[1]}, got {num_disparities}")
        cost = cost[:, :num_disparities]
    shares = cost.to(torch.promote_types(cost.dtype, torch.float32)).softmax(dim=1)
    disparities = torch.arange(shares.shape[1], device=shares.device, dtype=shares.dtype)
    # Not a matrix product, which autocast would narrow and a GPU may round to 11 bits.
    return (shares * disparities[:, None, None]).sum(dim=1)


def _has_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _check_pair(left: Tensor, right: Tensor) -> None:
    for name, tensor in (("left", left), ("right", right)):
        if tensor.ndim != 4 or not tensor.numel():
            raise ValueError(f"{name} must be (batch, channels, height, width), none 0, got {tuple(tensor.shape)}")
    if left.shape != right.shape:
        raise ValueError(f"left and right must have one shape, got {tuple(left.shape)} and {tuple(right.shape)}")
    if left.dtype != right.dtype:
        raise ValueError(f"left and right must have one dtype, got {left.dtype} and {right.dtype}")
