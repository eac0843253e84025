"""Loaders for a trainer."""

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
from halonet.data.randaugment import RandAugmentForm
from halonet.training.loading import epoch_sampler, make_loader

Loader = DataLoader[tuple[torch.Tensor, int]]


class ImageDataModule(lightning.LightningDataModule):
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
            randaugment_form=randaugment_form,
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
        sampler = epoch_sampler(dataset, seed=self.seed, trainer=self.trainer, repeats=self.config.repeats)
        return self._loader(dataset, sampler=sampler)

    def val_dataloader(self) -> Loader:
        return self._loader(self.dataset("val"))

    def test_dataloader(self) -> Loader:
        return self._loader(self.dataset("test"))

    def _loader(self, dataset: ImageDataset, *, sampler: EpochSampler | None = None) -> Loader:
        return make_loader(
            dataset,
            batch_size=self.config.batch_size,
            num_workers=self.config.num_workers,
            from_files=self.config.root is not None,
            sampler=sampler,
        )
