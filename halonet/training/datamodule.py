"""Loaders for a trainer."""

import os
from typing import Any

import lightning.pytorch as lightning
import torch
from torch.utils.data import DataLoader

from halonet.data import (
    DataConfig,
    EpochSampler,
    ImageDataset,
    ImageSource,
    Preprocessing,
    Split,
    eval_transform,
    train_transform,
)

Loader = DataLoader[tuple[torch.Tensor, int]]
MAX_WORKERS = 8


class ImageDataModule(lightning.LightningDataModule):
    """The loaders of one source. Every part's images are (C, S, S) float32 as `preprocessing` says; only
    train is augmented.

    randaugment: the model's magnitude, which `config.randaugment` overrides.
    """

    def __init__(
        self,
        source: ImageSource,
        *,
        config: DataConfig,
        preprocessing: Preprocessing,
        randaugment: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.source = source
        self.config = config
        self.preprocessing = preprocessing
        self.seed = seed
        augment = source.augment if config.augment == "auto" else config.augment
        if config.randaugment is not None:
            magnitude = config.randaugment
        else:
            magnitude = randaugment if augment == "photo" else 0.0
        self._train_transform = train_transform(
            preprocessing,
            augment=augment,
            randaugment=magnitude,
            crop_scale=config.crop_scale,
            random_erasing=config.random_erasing,
        )

    def dataset(self, split: Split) -> ImageDataset:
        """One part, augmented if it is train."""
        transform = self._train_transform if split == "train" else eval_transform(self.preprocessing)
        return ImageDataset(
            self.source.splits[split],
            in_chans=self.preprocessing.in_chans,
            transform=transform,
            seed=self.seed,
        )

    def train_dataloader(self) -> Loader:
        dataset = self.dataset("train")
        trainer = self.trainer
        sampler = EpochSampler(
            dataset,
            seed=self.seed,
            num_replicas=trainer.world_size if trainer else 1,
            rank=trainer.global_rank if trainer else 0,
            repeats=self.config.repeats,
        )
        if trainer:
            # A run that goes on draws its first batches before Lightning tells samplers the epoch.
            progress: Any = trainer.fit_loop.epoch_progress.current
            sampler.set_epoch(progress.processed)
        # A left-over batch of one image would break batch norm; a set smaller than one batch is still used.
        return self._loader(dataset, sampler=sampler, drop_last=len(sampler) >= self.config.batch_size)

    def val_dataloader(self) -> Loader:
        return self._loader(self.dataset("val"))

    def test_dataloader(self) -> Loader:
        return self._loader(self.dataset("test"))

    def _loader(self, dataset: ImageDataset, *, sampler: EpochSampler | None = None, drop_last: bool = False) -> Loader:
        workers = self.config.num_workers
        if workers is None:
            workers = 0 if self.config.root is None else min(MAX_WORKERS, max(1, (os.cpu_count() or 1) - 1))
        return DataLoader(
            dataset,
            batch_size=self.config.batch_size,
            sampler=sampler,
            drop_last=drop_last,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
