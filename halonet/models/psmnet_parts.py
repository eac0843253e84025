"""The parts of PSMNet: feature network with pyramid pooling, blocks of 3D convolutions, hourglasses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from halonet.layers.pointwise import Pointwise
from halonet.models.psmnet_config import PsmnetConfig

# Of the four clusters: channels as multiples of the width, stride and dilation. As the authors' code has them; the
# paper's table 1 dilates the last two by 2 and 4.
_CLUSTERS = ((1, 1, 1), (2, 2, 1), (4, 1, 1), (4, 1, 2))


class ConvNorm(nn.Sequential):
    """Convolution without bias over `dims` dimensions, batch norm and, if asked for, ReLU."""

    def __init__(
        self,
        dims: int,
        dim: int,
        dim_out: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        relu: bool = False,
    ) -> None:
        super().__init__()
        convolution, norm = (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
        padding = dilation * (kernel_size // 2)
        if dims == 2 and kernel_size == 1:
            # torch 2.15's own writes beyond its memory on some CPUs: gradients of strided ones of less than 8 channels.
            convolution = Pointwise
        self.conv = convolution(dim, dim_out, kernel_size, stride, padding, dilation, bias=False)
        self.norm = norm(dim_out)
        if relu:
            self.relu = nn.ReLU(inplace=True)


class UpConvNorm(nn.Sequential):
    """A 3D transposed convolution that doubles every side, without bias, and batch norm."""

    def __init__(self, dim: int, dim_out: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose3d(dim, dim_out, 3, stride=2, padding=1, output_padding=1, bias=False)
        self.norm = nn.BatchNorm3d(dim_out)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, without an activation after the sum."""

    def __init__(self, dim: int, dim_out: int, *, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(2, dim, dim_out, stride=stride, dilation=dilation, relu=True)
        self.conv2 = ConvNorm(2, dim_out, dim_out, dilation=dilation)
        changes_shape = stride != 1 or dim != dim_out
        self.shortcut = ConvNorm(2, dim, dim_out, 1, stride=stride) if changes_shape else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, dim_out, ceil(H/stride), ceil(W/stride))."""
        return self.conv2(self.conv1(x)) + self.shortcut(x)


class PyramidPooling(nn.Module):
    """Averages over squares of several sizes, each projected and resized to the map (the paper's SPP module).

    Args:
        dim: channels of the map.
        dim_out: channels of each branch.
        pools: sides of the squares; one that exceeds the map's side covers all of it. What is left at the bottom and
            right after the last whole square is in no average.
        align_corners: of the resizing.
    """

    def __init__(self, dim: int, dim_out: int, *, pools: tuple[int, ...], align_corners: bool) -> None:
        super().__init__()
        self.pools, self.align_corners = pools, align_corners
        self.branches = nn.ModuleList(ConvNorm(2, dim, dim_out, 1, relu=True) for _ in pools)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, dim, H, W) -> (B, dim_out, H, W) of each pool."""
        size = x.shape[2:]
        maps = []
        for pool, branch in zip(self.pools, self.branches, strict=True):
            averages = F.avg_pool2d(x, (min(pool, size[0]), min(pool, size[1])))
            maps.append(F.interpolate(branch(averages), size=size, mode="bilinear", align_corners=self.align_corners))
        return maps


class FeatureNetwork(nn.Module):
    """The features of one image at 1/4 of its size (table 1): stem, four clusters, attention if any, pyramid."""

    def __init__(self, config: PsmnetConfig) -> None:
        super().__init__()
        width = config.width
        self.stem = nn.Sequential(
            ConvNorm(2, config.in_chans, width, stride=2, relu=True),
            *(ConvNorm(2, width, width, relu=True) for _ in range(2)),
        )
        clusters, dim = [], width
        for depth, (multiple, stride, dilation) in zip(config.depths, _CLUSTERS, strict=True):
            blocks = [ResidualBlock(dim, multiple * width, stride=stride, dilation=dilation)]
            dim = multiple * width
            blocks += [ResidualBlock(dim, dim, stride=1, dilation=dilation) for _ in range(depth - 1)]
            clusters.append(nn.Sequential(*blocks))
        self.clusters = nn.ModuleList(clusters)
        self.attention = nn.Identity() if config.attention == "none" else config.inserted.make_attention(dim)
        self.pyramid = PyramidPooling(dim, width, pools=config.pools, align_corners=config.align_corners)
        joined = 2 * width + dim + len(config.pools) * width
        self.fuse = nn.Sequential(ConvNorm(2, joined, dim, relu=True), nn.Conv2d(dim, width, 1, bias=False))
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, width, ceil(H/4), ceil(W/4))."""
        maps = []
        x = self.stem(x)
        for cluster in self.clusters:
            x = run(cluster, x, recompute=self.grad_checkpointing)
            maps.append(x)
        x = self.attention(x)
        return self.fuse(torch.cat([maps[1], x, *reversed(self.pyramid(x))], dim=1))


class Hourglass(nn.Module):
    """3D convolutions down to 1/4 of the volume and up again (figure 1), linked to those before it.

    Every side of the volume must be a multiple of 4.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.down1 = ConvNorm(3, dim, 2 * dim, stride=2, relu=True)
        self.mix1 = ConvNorm(3, 2 * dim, 2 * dim)
        self.down2 = ConvNorm(3, 2 * dim, 2 * dim, stride=2, relu=True)
        self.mix2 = ConvNorm(3, 2 * dim, 2 * dim, relu=True)
        self.up1 = UpConvNorm(2 * dim, 2 * dim)
        self.up2 = UpConvNorm(2 * dim, dim)

    def forward(self, x: Tensor, before: Tensor | None, after: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """One pass, without the sum with the volume around it.

        Args:
            x: (B, dim, D, H, W).
            before: at 1/2, (B, 2 * dim, D/2, H/2, W/2), what is added on the way up: the first hourglass's map of the
                way down; None for this one's own.
            after: at 1/2, what is added on the way down: the last hourglass's map of the way up; None for nothing.

        Returns:
            The output, in the shape of x, and the maps at 1/2 of the way down and of the way up.
        """
        down = self.mix1(self.down1(x))
        down = F.relu(down if after is None else down + after, inplace=True)
        up = self.up1(self.mix2(self.down2(down)))
        up = F.relu(up + (down if before is None else before), inplace=True)
        return self.up2(up), down, up


def residual_pair(dim: int) -> nn.Sequential:
    """Two 3D convolutions, the branch of a residual sum."""
    return nn.Sequential(ConvNorm(3, dim, dim, relu=True), ConvNorm(3, dim, dim))


def score_head(dim: int) -> nn.Sequential:
    """Two 3D convolutions to one score a cell, (B, dim, D, H, W) -> (B, 1, D, H, W)."""
    return nn.Sequential(ConvNorm(3, dim, dim, relu=True), nn.Conv3d(dim, 1, 3, padding=1, bias=False))


def run(module: nn.Module, *inputs: Tensor | None, recompute: bool) -> Any:
    """The module's output; with `recompute` its activations are computed again in the backward pass, not kept."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(module, *inputs, use_reentrant=False)
    return module(*inputs)
