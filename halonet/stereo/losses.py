"""PSMNet's loss: smooth L1 of every output over the pixels whose disparity is known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from halonet.ops.checks import check_positive


def valid_mask(disparity: Tensor, valid: Tensor, *, max_disparity: int) -> Tensor:
    """Pixels to learn from: known, and a disparity above 0 and below `max_disparity` (the authors' fine-tuning code).

    Args:
        disparity: (B, H, W) in pixels; where unknown it may be anything.
        valid: (B, H, W) of bools: where it is known.
        max_disparity: of the network.

    Returns:
        (B, H, W) of bools.

    Raises:
        ValueError: shapes that differ, a mask that is not of bools, or a number that is not a positive int.
    """
    check_maps(disparity, valid)
    check_positive("max_disparity", max_disparity)
    return valid & (disparity > 0) & (disparity < max_disparity)


def disparity_loss(
    outputs: Sequence[Tensor] | Tensor,
    disparity: Tensor,
    valid: Tensor,
    *,
    weights: Sequence[float] = (0.5, 0.7, 1.0),
) -> Tensor:
    """Weighted sum over outputs of the mean smooth L1 error, with the weights of PSMNet (arXiv 1803.08669).

    The error of a pixel that is off by e is e^2 / 2 below 1 pixel and |e| - 1/2 from there on. The mean is over all
    valid pixels of the batch; without any the loss is 0, with gradients that are 0.

    Args:
        outputs: of the network: one (B, H, W) or a list, the best last.
        disparity: (B, H, W) in pixels; where invalid it may be anything, NaN too.
        valid: (B, H, W) of bools, see `valid_mask`.
        weights: of the outputs; fewer outputs take the last of them.

    Returns:
        A scalar, in float32 at least.

    Raises:
        ValueError: no output or more than weights, shapes that differ, or a mask that is not of bools.
    """
    listed = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    if not 1 <= len(listed) <= len(weights):
        raise ValueError(f"outputs must be 1 to {len(weights)}, one for each weight, got {len(listed)}")
    check_maps(disparity, valid)
    count = valid.sum().clamp(min=1)
    total = torch.zeros((), device=disparity.device)
    for output, weight in zip(listed, weights[-len(listed) :], strict=True):
        if output.shape != disparity.shape:
            raise ValueError(f"outputs must be {tuple(disparity.shape)} as disparity is, got {tuple(output.shape)}")
        wide = output.to(torch.promote_types(output.dtype, torch.float32))
        # Selected before they are compared: what is NaN or infinite elsewhere reaches neither loss nor gradients.
        error = F.smooth_l1_loss(
            torch.where(valid, wide, 0), torch.where(valid, disparity, 0).to(wide.dtype), reduction="sum"
        )
        total = total + weight * error / count
    return total


def check_maps(disparity: Tensor, valid: Tensor) -> None:
    """Raises ValueError unless the mask is one of bools and has the map's shape (B, H, W)."""
    if disparity.ndim != 3:
        raise ValueError(f"disparity must be (batch, height, width), got {tuple(disparity.shape)}")
    if valid.dtype != torch.bool:
        raise ValueError(f"valid must be of bools, got {valid.dtype}")
    if valid.shape != disparity.shape:
        raise ValueError(f"valid must be {tuple(disparity.shape)} as disparity is, got {tuple(valid.shape)}")
