"""How far predicted disparities are from true ones: end-point error, bad pixels, KITTI's D1."""

from __future__ import annotations

import torch
from torch import Tensor

from halonet.stereo.losses import check_maps

BAD_PIXELS = {"bad1": 1.0, "bad3": 3.0}  # error in pixels above which a pixel is bad
D1_PIXELS, D1_SHARE = 3.0, 0.05


def disparity_errors(predicted: Tensor, disparity: Tensor, valid: Tensor) -> dict[str, Tensor]:
    """Errors of each image, over its valid pixels.

        "epe":     mean absolute error in pixels (end-point error; PSMNet's number for Scene Flow)
        "bad1":    share of pixels that are off by more than 1 pixel
        "bad3":    by more than 3 pixels (KITTI 2012)
        "d1":      by more than 3 pixels and by more than 5 % of the true disparity (KITTI 2015)
        "pixels":  how many are valid

    Both KITTI and PSMNet average images, each with the mean over its own pixels. An image without a valid pixel has 0
    everywhere, "pixels" too: leave it out of an average (`errors["epe"][errors["pixels"] > 0]`), or weight it with 0.
    A prediction that is NaN is bad.

    Args:
        predicted: (B, H, W) in pixels.
        disparity: (B, H, W), true ones; where invalid they may be anything.
        valid: (B, H, W) of bools.

    Returns:
        (B,) each, float32 (float64 where an argument is), the shares from 0 to 1; "pixels" as integers.

    Raises:
        ValueError: shapes that differ, or a mask that is not of bools.
    """
    check_maps(disparity, valid)
    if predicted.shape != disparity.shape:
        raise ValueError(f"predicted must be {tuple(disparity.shape)} as disparity is, got {tuple(predicted.shape)}")
    dtype = torch.promote_types(torch.promote_types(predicted.dtype, disparity.dtype), torch.float32)
    truth = torch.where(valid, disparity.to(dtype), 0)
    error = torch.where(valid, predicted.to(dtype) - truth, 0).abs()
    pixels = valid.sum(dim=(1, 2))

    def mean(values: Tensor) -> Tensor:
        return values.to(dtype).sum(dim=(1, 2)) / pixels.clamp(min=1)

    # "not at most" instead of "more than": a NaN is not at most anything, and counts.
    errors = {"epe": mean(error)}
    errors |= {name: mean(~(error <= limit)) for name, limit in BAD_PIXELS.items()}
    errors["d1"] = mean(~(error <= D1_PIXELS) & ~(error <= D1_SHARE * truth))
    return {**errors, "pixels": pixels}
