"""A 1 x 1 convolution as the matrix product that it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def pointwise(x: Tensor, convolution: nn.Conv2d) -> Tensor:
    """What a 1 x 1 convolution computes, channels last: (B, C, H, W) -> (B, ceil(H/stride), ceil(W/stride), C').

    On a CPU the product over channels-last pixels is faster than the convolution, most of all where pixels are few and
    channels many, and so is its gradient.
    """
    down, across = convolution.stride
    pixels = x.permute(0, 2, 3, 1)[:, ::down, ::across]
    return F.linear(pixels, convolution.weight.flatten(1), convolution.bias)


class Pointwise(nn.Conv2d):
    """`nn.Conv2d` with a kernel of 1, by `pointwise`: the same in all but speed."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ceil(H/stride), ceil(W/stride)), channels last in memory."""
        return pointwise(input, self).permute(0, 3, 1, 2)


class PositionLinear(nn.Linear):
    """`nn.Linear` on (B, S, C) that keeps the order which the numbers have in memory: the same in all but speed.

    The view of a channels-first map, whose positions lie side by side, gives such a view, so that nothing is turned
    round on the way through several layers and back into the map.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, S, C) -> (B, S, C')."""
        if input.stride(1) != 1 or input.stride(2) == 1:
            return F.linear(input, self.weight, self.bias)
        weight, maps = self.weight.expand(input.shape[0], -1, -1), input.transpose(1, 2)
        bias: Tensor | None = self.bias
        if bias is None:
            return torch.bmm(weight, maps).transpose(1, 2)
        return torch.baddbmm(bias[:, None], weight, maps).transpose(1, 2)
