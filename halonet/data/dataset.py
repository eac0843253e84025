"""Items, labels and a transform as a map-style data set whose randomness can be repeated."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler

from halonet.data.images import load_item
from halonet.data.source import SplitItems
from halonet.data.transforms import ImageTransform, seeded
from halonet.data.unreadable import UnreadableLog, load_readable


class ImageDataset(Dataset[tuple[torch.Tensor, int]]):
    """`dataset[epoch * len(dataset) + i]` is image i, ((C, S, S) float32, class index), as augmented in that
    epoch.

    The random choices depend on `seed` and that index alone, neither on the number of workers nor on what ran
    before: a training that is interrupted and goes on sees what the uninterrupted one saw.

    unreadable: notes images that cannot be read, in whose place the next readable one then stands; None: such an image
        raises UnreadableImageError.
    """

    def __init__(
        self,
        split: SplitItems,
        *,
        in_chans: int,
        transform: ImageTransform,
        seed: int,
        unreadable: UnreadableLog | None = None,
    ) -> None:
        self.split = split
        self.in_chans = in_chans
        self.transform = transform
        self.seed = seed
        self.unreadable = unreadable

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, label = load_readable(self._load, index, total=len(self), unreadable=self.unreadable)
        with seeded(self.seed * 1_000_003 + index):
            return self.transform(image), label

    def _load(self, number: int) -> tuple[Any, int]:
        return load_item(self.split.items[number], in_chans=self.in_chans), int(self.split.labels[number])


class EpochSampler(DistributedSampler[Any]):
    """A permutation an epoch, shared out between devices, that tells the data set the epoch in its
    indices.

    repeats: of each image that many copies follow each other, each augmented by itself and dealt to the next
        device; the epoch ends after as many images as without (repeated augmentation, arXiv 1902.05509).
    """

    def __init__(self, dataset: Dataset[Any], *, seed: int, num_replicas: int, rank: int, repeats: int = 1) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=True, seed=seed)
        self.repeats = repeats
        self._skipped = 0

    def skip(self, images: int) -> None:
        """The next iteration, and only that, begins after so many images of this process; its length is still told as
        the whole epoch's."""
        self._skipped = images

    def __iter__(self) -> Iterator[int]:
        skipped, self._skipped = self._skipped, 0
        return islice(self._whole_epoch(), skipped, None)

    def _whole_epoch(self) -> Iterator[int]:
        size = len(self.dataset)  # type: ignore[arg-type]
        if self.repeats == 1:
            return (self.epoch * size + index for index in super().__iter__())
        order = torch.randperm(size, generator=torch.Generator().manual_seed(self.seed + self.epoch)).tolist()
        first = self.epoch * self.repeats
        draws = [(first + copy) * size + index for index in order for copy in range(self.repeats)]
        return iter(draws[self.rank :: self.num_replicas][: self.num_samples])
