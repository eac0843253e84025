"""Loaders of annotated images for a trainer."""

from __future__ import annotations

import atexit
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as lightning
from torch.utils.data import DataLoader

from halonet.data import Split, UnreadableLog
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
from halonet.training.unreadable import ReportUnreadable, say

Loader = DataLoader[Any]


class DetectionDataModule(lightning.LightningDataModule):
    """The loaders of one source: batches are (list of images, list of targets), images of any sizes.

    largest: pixels; side of the crops that `detection.scale_jitter` gives, where no crop_size is set.
    """

    def __init__(
        self, source: DetectionSource, *, config: DataConfig, detection: DetectionConfig, largest: int, seed: int
    ) -> None:
        super().__init__()
        self.source = source
        self.config = config
        self.seed = seed
        self._train_transform = train_transform(detection, largest=largest)
        self._truths: dict[Split, dict[str, Any]] = {}
        self._unreadable: dict[Split, UnreadableLog] = {}

    @property
    def unreadable(self) -> Mapping[Split, UnreadableLog]:
        """What each part lost so far, where unreadable images are skipped."""
        return self._unreadable

    def dataset(self, split: Split) -> DetectionDataset:
        """One part, augmented if it is train."""
        items = self.source.splits[split]
        train = split == "train"
        return DetectionDataset(
            items,
            transform=self._train_transform if train else eval_transform(),
            seed=self.seed,
            # To judge by, an image in another's place would be counted for it.
            unreadable=self._log(split, len(items)) if train else None,
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

    def teardown(self, stage: str) -> None:
        """Tells what `halonet validate` or `halonet test` had to skip; a training tells it every epoch."""
        if stage == "fit" or any(isinstance(one, ReportUnreadable) for one in getattr(self.trainer, "callbacks", ())):
            return
        for split, log in self.unreadable.items():
            if log.lines():
                say(split, log.lines())

    def _judging(self, split: Split) -> Loader:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return self._loader(self.dataset(split), rank=rank, world=world)

    def _log(self, split: Split, total: int) -> UnreadableLog | None:
        if self.config.on_error == "raise":
            return None
        if split not in self._unreadable:
            world = self.trainer.world_size if self.trainer else 1
            log = UnreadableLog(part=split, total=max(1, total // world), most=self.config.max_error_fraction)
            atexit.register(log.close)
            self._unreadable[split] = log
        return self._unreadable[split]

    def _loader(self, dataset: DetectionDataset, **options: Any) -> Loader:
        return make_loader(
            dataset,
            batch_size=self.config.batch_size,
            num_workers=self.config.num_workers,
            from_files=self.config.root is not None,
            collate_fn=collate,
            **options,
        )
