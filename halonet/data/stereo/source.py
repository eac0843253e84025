"""Stereo pairs with the disparities of their left views, before anything is cut or scaled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from halonet.data.images import read_image
from halonet.data.source import Split
from halonet.data.splits import stratified_split
from halonet.data.stereo.disparity_files import read_disparity


@dataclass(frozen=True)
class Scene:
    """A rectified pair: what the left view shows at column x, the right view shows at x - disparity.

    left, right: (H, W, 3) uint8. disparity: (H, W) float32, in pixels, of the left view. valid: (H, W) bool, where it
    is known. name: tells the pair from others.
    """

    left: np.ndarray
    right: np.ndarray
    disparity: np.ndarray
    valid: np.ndarray
    name: str


class StereoItem(Protocol):
    """A pair that is read, or drawn, when it is needed."""

    @property
    def name(self) -> str: ...

    def load(self) -> Scene: ...


@dataclass(frozen=True)
class ScenePaths:
    """A pair in three files; `name` is the left one's, without folders and suffix, unless given."""

    left: Path
    right: Path
    disparity: Path
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", Path(self.left).stem)

    def load(self) -> Scene:
        """Read all three. Raises ValueError where a file cannot be read or the sizes differ."""
        left, right = read_pair(self.left, self.right)
        disparity, valid = read_disparity(self.disparity)
        if disparity.shape != left.shape[:2]:
            raise ValueError(
                f"left image {self.left} is {_size(left)}, disparity {self.disparity} is {_size(disparity)}: "
                "they must have one size"
            )
        return Scene(left, right, disparity, valid, self.name)


@dataclass(frozen=True)
class StereoSource:
    """What a set of pairs knows about itself.

    name: short, for the run's name. splits: its parts. test_is_val: the set holds no test part, so that its validation
    part is used twice. crop_size: (height, width) in pixels of training crops; None: whole pictures.
    """

    name: str
    splits: dict[Split, Sequence[StereoItem]]
    test_is_val: bool
    crop_size: tuple[int, int] | None


def read_pair(left_path: str | Path, right_path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the two pictures of a pair.

    Args:
        left_path: picture of the left camera.
        right_path: picture of the right camera.

    Returns:
        Both as (H, W, 3) uint8, colour.

    Raises:
        ValueError: a picture that cannot be read, or two of different sizes.
    """
    left, right = (np.asarray(read_image(path, in_chans=3)) for path in (left_path, right_path))
    if left.shape != right.shape:
        raise ValueError(
            f"left image {left_path} is {_size(left)}, right image {right_path} is {_size(right)}: "
            "a pair must have one size"
        )
    return left, right


def cut_validation(groups: Sequence[int], *, val_fraction: float, seed: int, root: Path) -> tuple[set[int], set[int]]:
    """Indices of `groups` for training and for validation; of every group a share, at least one of two or more.

    Raises ValueError that names `root` where one part would be empty.
    """
    train, val, _ = stratified_split(groups, val_fraction=val_fraction, test_fraction=0.0, seed=seed)
    if not train or not val:
        raise ValueError(
            f"data.root: {root} holds {len(groups)} training scenes, of which data.val_fraction {val_fraction:g} "
            f"leaves {len(train)} to train on and {len(val)} to validate: expected at least one of both"
        )
    return set(train), set(val)


def _size(picture: np.ndarray) -> str:
    return f"{picture.shape[1]} x {picture.shape[0]}"
