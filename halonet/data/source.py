"""A labelled set of pictures, before anything is resized or changed."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from PIL import Image

Split = Literal["train", "val", "test"]


class Encoded(ABC):
    """A picture as the bytes of an image file that lie somewhere else than in a file of their own; its text is the
    name that errors tell."""

    @abstractmethod
    def read(self) -> bytes:
        """The bytes of the image file. Raises OSError."""


Item = Path | Image.Image | Encoded  # read when needed, or small enough to be held


@dataclass(frozen=True)
class SplitItems:
    """One part of a set: `items[i]` shows class `labels[i]`."""

    items: Sequence[Item]
    labels: Sequence[int] | np.ndarray

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class Sample:
    """What a stream gives: the bytes of an image file, its class, and the name that errors tell."""

    name: str
    data: bytes
    label: int


class Shards(Protocol):
    """Files that each hold many images and are read from beginning to end."""

    @property
    def counts(self) -> Sequence[int] | None:
        """Images in each of them; None if that is not known."""

    def __len__(self) -> int: ...

    def read(self, shard: int, wanted: Sequence[int] | None) -> Iterator[tuple[int, Sample]]:
        """(place in the shard, sample), of the places `wanted` (rising) or of all. Raises ValueError naming the
        shard."""


@dataclass(frozen=True)
class StreamItems:
    """One part of a set that is read from shards. relabel: class index of each label in the shards; None: the label
    itself."""

    shards: Shards
    relabel: np.ndarray | None = None

    @property
    def count(self) -> int | None:
        """Images in all shards, None if that is not known."""
        return None if self.shards.counts is None else sum(self.shards.counts)

    def __len__(self) -> int:
        if self.count is None:
            raise ValueError("data.root: the number of images in these shards is not known")
        return self.count

    def label_of(self, sample: Sample) -> int:
        """The class index of a sample."""
        return sample.label if self.relabel is None else int(self.relabel[sample.label])


Part = SplitItems | StreamItems


@dataclass(frozen=True)
class ImageSource:
    """What a data set knows about itself.

    name: short, for the run's name. class_names: one a class index. in_chans: 1 or 3. splits: train is missing from a
    set that only judges. mean, std: of values in 0 to 1, one a channel; None where the model's own serve. augment:
    what suits it. test_is_val: the set holds no test part, so that its validation part is used twice. crop_pct: share
    of the resized picture that the centre crop keeps; img_size: side in pixels it is shown at; None: the model's own.
    class_ids: what the data themselves call the classes (folders, WordNet ids), where that is not their name. form:
    how it lies on disk.
    """

    name: str
    class_names: tuple[str, ...]
    in_chans: int
    splits: Mapping[Split, Part]
    augment: Literal["affine", "photo"]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_pct: float | None = None
    img_size: int | None = None
    test_is_val: bool = False
    class_ids: tuple[str, ...] | None = None
    form: str = "folder"

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def counts(self) -> dict[Split, int]:
        """Images in each part whose number is known."""
        return {
            name: len(part)
            for name, part in self.splits.items()
            if isinstance(part, SplitItems) or part.count is not None
        }
