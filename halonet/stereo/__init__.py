"""Stereo matching beside the model: losses and metrics of disparity maps."""

from halonet.stereo.losses import disparity_loss, valid_mask
from halonet.stereo.metrics import disparity_errors

__all__ = ["disparity_errors", "disparity_loss", "valid_mask"]
