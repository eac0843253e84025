"""A labelled set of pictures, before anything is resized or changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

Split = Literal["train", "val", "test"]
Item = Path | Image.Image  # read when needed, or small enough to be held


@dataclass(frozen=True)
class SplitItems:
    """One part of a set: `items[i]` shows class `labels[i]`."""

    items: Sequence[Item]
    labels: Sequence[int]

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class ImageSource:
    """What a data set knows about itself.

    name: short, for the run's name. class_names: one a class index. in_chans: 1 or 3. mean, std: of values in
    0 to 1, one a channel; None where the model's own serve. augment: what suits it. test_is_val: the set
    holds no test part, so that its validation part is used twice. crop_pct: share of the resized picture that
    the centre crop keeps; img_size: side in pixels it is shown at; None: the model's own.
    """

    name: str
    class_names: tuple[str, ...]
    in_chans: int
    splits: dict[Split, SplitItems]
    augment: Literal["affine", "photo"]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_pct: float | None = None
    img_size: int | None = None
    test_is_val: bool = False

    @property
    def num_classes(self) -> int:
        return len(self.class_names)
