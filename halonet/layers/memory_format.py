"""A faster copy of a map from channels last to channels first."""

from __future__ import annotations

import torch
from torch import Tensor

_LARGE = 1 << 19  # numbers of an image: smaller ones torch copies as fast


def channels_first(x: Tensor) -> Tensor:
    """What `x.contiguous()` gives, (B, C, H, W), with the pixels of a channel adjacent in memory.

    On a CPU a large image with channels last is copied as the transpose of a matrix, two to four times as fast. Not
    where that would be recorded, by autograd or in a graph, image by image.
    """
    recorded = (torch.is_grad_enabled() and x.requires_grad) or torch.compiler.is_compiling()
    large = x.dim() == 4 and x.shape[1:].numel() >= _LARGE
    if recorded or x.device.type != "cpu" or not large or not x.is_contiguous(memory_format=torch.channels_last):
        return x.contiguous()
    copy = torch.empty_like(x, memory_format=torch.contiguous_format)
    for source, target in zip(x, copy, strict=True):
        target.flatten(1).copy_(source.permute(1, 2, 0).flatten(0, 1).t())
    return copy
