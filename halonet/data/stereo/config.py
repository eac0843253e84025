"""Which stereo pairs a run reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class StereoConfig:
    """Stereo pairs.

    Args:
        dataset: drawn: pairs drawn from a seed; scene_flow, kitti2012, kitti2015: files below data.root; auto: drawn
            without data.root, else what its folders say
        render: which pictures of Scene Flow: finalpass, with blur, or cleanpass
        crop_size: height and width in pixels of training crops; null: 256 x 512 of files, whole drawn pairs
        drawn_size: height and width in pixels of drawn pairs
        drawn_pairs: drawn training pairs; validation and test have an eighth of that each, at least 16, of their own
        drawn_disparity: largest disparity of drawn pairs, in pixels
        loss_weights: of the outputs of a network with stacked hourglasses, the first first
    """

    dataset: Literal["auto", "drawn", "scene_flow", "kitti2012", "kitti2015"] = "auto"
    render: Literal["finalpass", "cleanpass"] = "finalpass"
    crop_size: list[int] | None = None
    drawn_size: list[int] = field(default_factory=lambda: [64, 128])
    drawn_pairs: int = 256
    drawn_disparity: float = 24.0
    loss_weights: list[float] = field(default_factory=lambda: [0.5, 0.7, 1.0])

    def __post_init__(self) -> None:
        for name in ("crop_size", "drawn_size"):
            size = getattr(self, name)
            if size is not None and (len(size) != 2 or min(size) < 1):
                raise ValueError(f"stereo.{name}: expected height and width of at least 1, got {list(size)}")
        if not self.loss_weights or min(self.loss_weights) < 0 or self.loss_weights[-1] == 0:
            raise ValueError(
                f"stereo.loss_weights: expected weights of at least 0, the last above it, got {self.loss_weights}"
            )
        if self.drawn_pairs < 1:
            raise ValueError(f"stereo.drawn_pairs: expected at least 1, got {self.drawn_pairs}")
        if not 2 <= self.drawn_disparity <= self.drawn_size[1]:
            raise ValueError(
                f"stereo.drawn_disparity: expected 2 to the width of drawn pairs, {self.drawn_size[1]}, "
                f"got {self.drawn_disparity}"
            )
