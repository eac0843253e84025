"""Loaders of stereo pairs for a trainer."""

from typing import Any

import lightning.pytorch as lightning
from torch.utils.data import DataLoader

from halonet.data import Split
from halonet.data.config import DataConfig
from halonet.data.stereo import StereoDataset, StereoSource
from halonet.training.loading import epoch_sampler, make_loader


class StereoDataModule(lightning.LightningDataModule):
    """The loaders of one source: random crops to train on, whole pictures, one at a time where files differ in size,
    to judge by."""

    def __init__(self, source: StereoSource, *, config: DataConfig, seed: int) -> None:
        super().__init__()
        self.source = source
        self.config = config
        self.seed = seed

    def dataset(self, split: Split) -> StereoDataset:
        """One part, cropped if it is train."""
        return StereoDataset(
            self.source.splits[split], crop_size=self.source.crop_size, seed=self.seed, augment=split == "train"
        )

    def train_dataloader(self) -> DataLoader[Any]:
        dataset = self.dataset("train")
        return self._loader(dataset, sampler=epoch_sampler(dataset, seed=self.seed, trainer=self.trainer))

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.dataset("val"))

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.dataset("test"))

    def _loader(self, dataset: StereoDataset, **options: Any) -> DataLoader[Any]:
        from_files = self.config.root is not None
        whole_files = from_files and "sampler" not in options
        return make_loader(
            dataset,
            batch_size=1 if whole_files else self.config.batch_size,
            num_workers=self.config.num_workers,
            from_files=from_files,
            **options,
        )
