"""Loaders for a trainer."""

from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from halonet.data import (
    DataConfig,
    ImageDataset,
    ImageSource,
    Preprocessing,
    Split,
    SplitItems,
    StreamDataset,
    eval_transform,
    train_transform,
)
from halonet.data.randaugment import RandAugmentForm
from halonet.training.loading import StreamLoader, epoch_of, epoch_sampler, make_loader
from halonet.training.unreadable import SkippingDataModule

Loader = DataLoader[tuple[torch.Tensor, int]]


class ImageDataModule(SkippingDataModule):
    """The loaders of one source. Every part's images are (C, S, S) float32 as `preprocessing` says; only
    train is augmented.

    randaugment: the model's magnitude, which `config.randaugment` overrides; randaugment_form: of its card.
    """

    def __init__(
        self,
        source: ImageSource,
        *,
        config: DataConfig,
        preprocessing: Preprocessing,
        randaugment: float,
        seed: int,
        randaugment_form: RandAugmentForm = "tensorflow",
    ) -> None:
        super().__init__(config=config)
        self.source = source
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
            randaugment_form=randaugment_form,
        )

    def counts(self, *, limit: int | float) -> dict[str, int]:
        """Images in each part; of a stream of unknown length what `limit` (as TrainerConfig.limit_train_batches) makes
        of it, nothing if that is a share."""
        counts: dict[str, int] = {str(split): count for split, count in self.source.counts.items()}
        if "train" in self.source.splits and "train" not in counts and isinstance(limit, int):
            counts = {"train": limit * self.config.batch_size, **counts}
        return counts

    def dataset(self, split: Split, *, whole: bool = True) -> ImageDataset | StreamDataset:
        """One part, augmented if it is train; of a stream, unless `whole`, this process's share of it."""
        train = split == "train"
        part = self.source.splits[split]
        rank, world = (0, 1) if whole else self.place()
        options: dict[str, Any] = {
            "in_chans": self.preprocessing.in_chans,
            "transform": self._train_transform if train else eval_transform(self.preprocessing),
            "seed": self.seed,
        }
        if isinstance(part, SplitItems):
            return ImageDataset(part, **options, unreadable=self.log_of(split, len(part), world=world))
        limit = self.trainer.limit_train_batches if train and self.trainer else None
        batches = limit if isinstance(limit, int) else None
        total = part.count or (batches or 1) * world * self.config.batch_size
        return StreamDataset(
            part,
            **options,
            batch_size=self.config.batch_size,
            shuffle=train,
            buffer=self.config.shuffle_buffer,
            rank=rank,
            world=world,
            batches=batches,
            unreadable=self.log_of(split, total, world=world),
        )

    def train_dataloader(self) -> Loader:
        dataset = self.dataset("train", whole=False)
        if isinstance(dataset, StreamDataset):
            trainer = self.trainer
            epoch = partial(epoch_of, trainer) if trainer else None
            return StreamLoader(dataset, num_workers=self.config.num_workers, epoch=epoch)
        sampler = epoch_sampler(dataset, seed=self.seed, trainer=self.trainer, repeats=self.config.repeats)
        return self._loader(dataset, sampler=sampler)

    def val_dataloader(self) -> Loader:
        return self._judging("val", *self.place())

    def test_dataloader(self) -> Loader:
        return self._judging("test", *self.place())

    def whole_loader(self, split: Split) -> Loader:
        """A part to judge by on this process alone, in its own order, which is that of `dataset(split)`."""
        return self._judging(split, 0, 1, num_workers=0 if self.config.num_workers == 0 else 1)

    def _judging(self, split: Split, rank: int, world: int, *, num_workers: int | None = None) -> Loader:
        dataset = self.dataset(split, whole=world == 1)
        if isinstance(dataset, StreamDataset):
            wanted = self.config.num_workers if num_workers is None else num_workers
            return StreamLoader(dataset, num_workers=wanted, epoch=None)
        return self._loader(dataset, rank=rank, world=world)

    @property
    def world_size(self) -> int:
        """Processes that share the parts out."""
        return self.place()[1]

    def _loader(self, dataset: ImageDataset, **options: Any) -> Loader:
        return make_loader(
            dataset,
            batch_size=self.config.batch_size,
            num_workers=self.config.num_workers,
            from_files=self.config.root is not None,
            **options,
        )
