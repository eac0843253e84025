"""PSMNet: disparities of a rectified stereo pair by pyramid pooling and 3D convolutions (arXiv 1803.08669)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from halonet.models.hub import HubModel
from halonet.models.psmnet_config import PsmnetConfig
from halonet.models.psmnet_parts import ConvNorm, FeatureNetwork, Hourglass, residual_pair, run, score_head
from halonet.ops.stereo_volume import concat_volume, soft_argmin

REDUCTION = 4  # of the maps that are matched
# What sides and disparities are padded to: an hourglass halves the maps at 1/4 twice.
_MULTIPLES = {"basic": 4, "hourglass": 16}
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class PSMNet(HubModel, nn.Module):
    """A pyramid stereo matching network by its configuration.

    Takes images of any size. Where a side is no multiple of 16 ("basic": 4), zeros are put above and to the right of
    the image, as the authors' test code does, and the output is cropped; other images pass as they are. Training wants
    more than one value a channel in every norm: two pairs, or a map that the largest pool splits.

    Args:
        config: the network.
    """

    # Set by `create_model`, kept with saved weights.
    model_name: str | None = None
    model_arguments: dict[str, Any] | None = None
    default_cfg: dict[str, Any] | None = None

    def __init__(self, config: PsmnetConfig) -> None:
        super().__init__()
        self.config = config
        width, stacked = config.width, config.head == "hourglass"
        multiple = _MULTIPLES[config.head]
        # Disparities of the volume, in pixels of the maps.
        self.num_bins = -(-config.max_disparity // multiple) * multiple // REDUCTION
        self.feature_network = FeatureNetwork(config)
        self.entry = nn.Sequential(ConvNorm(3, 2 * width, width, relu=True), ConvNorm(3, width, width, relu=True))
        self.residuals = nn.ModuleList(residual_pair(width) for _ in range(1 if stacked else 4))
        self.hourglasses = nn.ModuleList(Hourglass(width) for _ in range(3 if stacked else 0))
        self.heads = nn.ModuleList(score_head(width) for _ in range(3 if stacked else 1))
        self.grad_checkpointing = False
        self._initialize()

    def _initialize(self) -> None:
        """He's normal distribution by outgoing connections, as the authors; the rest begins as torch's layers do."""
        attention = set(self.feature_network.attention.modules())
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d) and module not in attention:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, image: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> what is matched, after the pyramid: (B, width, ceil(H/4), ceil(W/4))."""
        return self.feature_network(_channels_last(image))

    def forward(self, left: Tensor, right: Tensor) -> Tensor | list[Tensor]:
        """Disparities of the left image's pixels: the left pixel at x is the right one at x minus its disparity.

        Args:
            left: (B, in_chans, H, W), normalized, rectified.
            right: the same of the right image.

        Returns:
            (B, H, W) in pixels, from 0 to max_disparity - 1, float32 (float64 of a network in float64). In training
            mode a list of them, one of each hourglass or a single one; the last is the best.

        Raises:
            ValueError: images of another rank or number of channels, or of unequal shapes.
        """
        self._check(left, right)
        height, width = left.shape[2:]
        left, right = self._padded(left), self._padded(right)
        left_map, right_map = (_channels_last(self.features(image)) for image in (left, right))
        scores = self._scores(concat_volume(left_map, right_map, num_disparities=self.num_bins))
        wanted = scores if self.training else scores[-1:]
        disparities = [self._disparity(score, left.shape[2:])[:, -height:, :width] for score in wanted]
        return disparities if self.training else disparities[0]

    def _scores(self, volume: Tensor) -> list[Tensor]:
        """(B, 2 * width, D, H, W) -> of each head (B, 1, D, H, W), every one added to the one before."""
        volume = self.entry(volume)
        for residual in self.residuals:
            volume = residual(volume) + volume
        outputs, x = [], volume
        before: Tensor | None = None
        after: Tensor | None = None
        for hourglass in self.hourglasses:
            x, down, after = run(hourglass, x, before, after, recompute=self.grad_checkpointing)
            x = x + volume
            before = down if before is None else before
            outputs.append(x)
        scores: list[Tensor] = []
        for output, head in zip(outputs or [volume], self.heads, strict=True):
            score = head(output)
            scores.append(score + scores[-1] if scores else score)
        return scores

    def _disparity(self, score: Tensor, size: torch.Size) -> Tensor:
        """(B, 1, D, H/4, W/4) -> (B, H, W); disparities that were only padded for are left out."""
        wide = score.to(torch.promote_types(score.dtype, torch.float32))
        # Of one channel, both memory formats are the same to torch, and the wrong one is resized slowly.
        wide = wide.squeeze(1).contiguous().unsqueeze(1)
        full = (REDUCTION * self.num_bins, *size)
        resized = F.interpolate(wide, size=full, mode="trilinear", align_corners=self.config.align_corners)
        return soft_argmin(resized.squeeze(1), num_disparities=self.config.max_disparity)

    def _padded(self, image: Tensor) -> Tensor:
        """The image with zeros above and to the right, so that every side is a multiple."""
        multiple = _MULTIPLES[self.config.head]
        top, right = (-side % multiple for side in image.shape[2:])
        return F.pad(image, (0, right, top, 0)) if top or right else image

    def _check(self, left: Tensor, right: Tensor) -> None:
        channels = self.config.in_chans
        for name, image in (("left", left), ("right", right)):
            if image.ndim != 4 or image.shape[1] != channels or not image.numel():
                raise ValueError(f"{name} must be (batch, {channels}, height, width), got {tuple(image.shape)}")
        if left.shape != right.shape:
            raise ValueError(f"left and right must have one shape, got {tuple(left.shape)} and {tuple(right.shape)}")

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each cluster and hourglass in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = self.feature_network.grad_checkpointing = enable

    def to(self, *args: Any, **options: Any) -> PSMNet:
        """As any module's; channels last, of either rank, is laid on 2D and on 3D weights alike.

        Of torch's own the 2D format refuses a module with 3D weights, and the other way round.
        """
        memory_format = options.pop("memory_format", None)
        super().to(*args, **options)
        if memory_format is not None:
            last = memory_format in _CHANNELS_LAST.values()
            for weight in self.parameters():
                own = _CHANNELS_LAST.get(weight.ndim, torch.contiguous_format) if last else memory_format
                weight.data = weight.data.contiguous(memory_format=own)
        return self


def _channels_last(x: Tensor) -> Tensor:
    """On a CPU with channels last in memory, where 3D convolutions are up to twice as fast, transposed ones five times.

    A volume of such maps is laid out the same way. Elsewhere as it is.
    """
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x
