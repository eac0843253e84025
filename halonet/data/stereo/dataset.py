"""Stereo pairs as a map-style data set of normalized tensors whose randomness can be repeated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from halonet.data.stereo.source import StereoItem
from halonet.data.transforms import seeded

# Of ImageNet's pictures, in values of 0 to 1; red, green, blue.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalize(picture: np.ndarray) -> Tensor:
    """A picture as a network reads it: scaled to 0..1, less `MEAN`, divided by `STD`.

    Args:
        picture: (H, W, 3) uint8.

    Returns:
        (3, H, W) float32.

    Raises:
        ValueError: another shape or dtype.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"picture must be (H, W, 3) uint8, got {picture.shape} {picture.dtype}")
    scaled = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    return (scaled - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


class StereoDataset(Dataset[dict[str, Tensor]]):
    """`dataset[epoch * len(dataset) + i]` is pair i as it is cut in that epoch.

    A pair is a dict: left and right (3, h, w) float32, normalized; disparity (h, w) float32, in pixels, 0 where it is
    not known; valid (h, w) bool, where it is. Cuts depend on `seed` and that index alone.

    Args:
        items: the pairs.
        crop_size: (height, width) of training crops; None: whole pictures.
        seed: of the places of crops.
        augment: True for training: crops at random places. False: whole pictures.

    Raises:
        ValueError: on access, a picture smaller than the crop.
    """

    def __init__(
        self, items: Sequence[StereoItem], *, crop_size: tuple[int, int] | None, seed: int, augment: bool
    ) -> None:
        self.items = items
        self.crop_size = crop_size
        self.seed = seed
        self.augment = augment

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        scene = self.items[index % len(self)].load()
        window = (slice(None), slice(None))
        if self.augment and self.crop_size is not None:
            window = self._crop(scene.disparity.shape, name=scene.name, index=index)
        valid = scene.valid[window]
        return {
            "left": normalize(scene.left[window]),
            "right": normalize(scene.right[window]),
            # An unknown disparity may be infinite, which times a weight of 0 would spoil a loss.
            "disparity": torch.from_numpy(np.where(valid, scene.disparity[window], np.float32(0))),
            "valid": torch.from_numpy(np.array(valid)),
        }

    def _crop(self, size: tuple[int, ...], *, name: str, index: int) -> tuple[slice, slice]:
        """The same rows and columns for both views, so that disparities stay what they are."""
        assert self.crop_size is not None
        if any(whole < part for whole, part in zip(size, self.crop_size, strict=True)):
            height, width = self.crop_size
            raise ValueError(
                f"stereo.crop_size: expected at most the picture's size, got {height} x {width} (height x width) "
                f"for {name} of {size[0]} x {size[1]}"
            )
        with seeded(self.seed * 1_000_003 + index):
            starts = [
                int(torch.randint(whole - part + 1, ())) for whole, part in zip(size, self.crop_size, strict=True)
            ]
        rows, columns = (slice(start, start + part) for start, part in zip(starts, self.crop_size, strict=True))
        return rows, columns
