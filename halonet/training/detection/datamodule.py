"""Loaders of annotated images for a trainer."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader

from halonet.data import Split
from halonet.data.coco import (
    DetectionConfig,
    DetectionDataset,
    DetectionSource,
    collate,
    eval_transform,
    train_transform,
)
from halonet.data.config import DataConfig
from halonet.training.loading import epoch_sampler, make_loader
from halonet.training.unreadable import SkippingDataModule

Loader = DataLoader[Any]


class DetectionDataModule(SkippingDataModule):
    """The loaders of one source: batches are (list of images, list of targets), images of any sizes.

    largest: pixels; side of the crops that `detection.scale_jitter` gives, where no crop_size is set.
    """

    def __init__(
        self, source: DetectionSource, *, config: DataConfig, detection: DetectionConfig, largest: int, seed: int
    ) -> None:
        super().__init__(config=config)
        self.source = source
        self.seed = seed
        self._train_transform = train_transform(detection, largest=largest)
        self._truths: dict[Split, dict[str, Any]] = {}

    def dataset(self, split: Split) -> DetectionDataset:
        """One part, augmented if it is train."""
        items = self.source.splits[split]
        train = split == "train"
        return DetectionDataset(
            items,
            transform=self._train_transform if train else eval_transform(),
            seed=self.seed,
            # To judge by, an image in another's place would be counted for it.
            unreadable=self.log_of(split, len(items), world=self.place()[1]) if train else None,
        )

    def ground_truth(self, split: Split) -> dict[str, Any]:
        """A part in COCO's instances form; made once."""
        if split not in self._truths:
            self._truths[split] = self.source.splits[split].ground_truth()
        return self._truths[split]

    def train_dataloader(self) -> Loader:
        dataset = self.dataset("train")
        return self._loader(dataset, sampler=epoch_sampler(dataset, seed=self.seed, trainer=self.trainer))

    def val_dataloader(self) -> Loader:
        return self._judging("val")

    def test_dataloader(self) -> Loader:
        return self._judging("test")

    def _judging(self, split: Split) -> Loader:
        rank, world = self.place()
        return self._loader(self.dataset(split), rank=rank, world=world)

    def _loader(self, dataset: DetectionDataset, **options: Any) -> Loader:
        return make_loader(
            dataset,
            batch_size=self.config.batch_size,
            num_workers=self.config.num_workers,
            from_files=self.config.root is not None,
            collate_fn=collate,
            **options,
        )
