"""What every task's loaders share: samplers that go on where a run stopped, and workers."""

import os
from typing import Any

import lightning.pytorch as lightning
import torch
from torch.utils.data import DataLoader, Dataset

from halonet.data import EpochSampler

MAX_WORKERS = 8


def epoch_sampler(
    dataset: Dataset[Any], *, seed: int, trainer: lightning.Trainer | None, repeats: int = 1
) -> EpochSampler:
    """The sampler of this process's share of the training data, in the epoch that the trainer is in."""
    sampler = EpochSampler(
        dataset,
        seed=seed,
        num_replicas=trainer.world_size if trainer else 1,
        rank=trainer.global_rank if trainer else 0,
        repeats=repeats,
    )
    if trainer:
        # A run that goes on draws its first batches before Lightning tells samplers the epoch.
        progress: Any = trainer.fit_loop.epoch_progress.current
        sampler.set_epoch(progress.processed)
    return sampler


def make_loader(
    dataset: Dataset[Any],
    *,
    batch_size: int,
    num_workers: int | None,
    from_files: bool,
    sampler: EpochSampler | None = None,
) -> DataLoader[Any]:
    """A loader; of training data with a sampler.

    num_workers: None: none for what lies in memory, up to 8 for files.
    """
    workers = num_workers
    if workers is None:
        workers = min(MAX_WORKERS, max(1, (os.cpu_count() or 1) - 1)) if from_files else 0
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        # A left-over batch of one image would break batch norm; a set smaller than one batch is still used.
        drop_last=sampler is not None and len(sampler) >= batch_size,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
