"""From a picture's bytes to the numbers a network reads: a step that every image takes."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image


class Normalized:
    """A grey or colour picture as (C, H, W) float32: (value / 255 - mean) / std, a mean and std a channel.

    The same to the last bit as torchvision's ToImage, ToDtype and Normalize one after the other, which take nearly
    twice as long: they leave the channels of a pixel side by side in memory, where arithmetic by channel is slow.
    """

    def __init__(self, *, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean = torch.tensor(mean).view(-1, 1, 1)
        self.std = torch.tensor(std).view(-1, 1, 1)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        values = np.asarray(image)
        if values.ndim == 2:
            values = values[:, :, None]
        height, width, channels = values.shape
        planes = np.empty((channels, height, width), np.float32)
        np.copyto(planes, values.transpose(2, 0, 1))
        return torch.from_numpy(planes).mul_(1 / 255).sub_(self.mean).div_(self.std)
