"""What every task's loaders share: samplers that go on where a run stopped, and workers."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as lightning
import torch
from torch.utils.data import DataLoader, Dataset

from halonet.data import EpochSampler, StreamDataset
from halonet.data.stream import batch_sizes

MAX_WORKERS = 8
PREFETCH = 4  # batches a worker is ahead: images differ in size, and so in the time they take


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
        sampler.set_epoch(epoch_of(trainer))
    return sampler


def epoch_of(trainer: lightning.Trainer) -> int:
    """The epoch that the trainer is in, or begins next."""
    progress: Any = trainer.fit_loop.epoch_progress.current
    return int(progress.processed)


def shared_batches(total: int, *, batch_size: int, rank: int, world: int) -> list[list[int]]:
    """Indices of the batches of process `rank` of `world` that judge by `total` images: each image on one process, and
    as many batches on each, since some strategies wait for each other in every one.

    Fewer images than processes: all images on each.
    """
    mine = list(range(rank, total, world)) if total >= world else list(range(total))
    most = -(-total // world) if total >= world else total
    batches = iter(mine)
    return [[next(batches) for _ in range(size)] for size in batch_sizes(len(mine), most=most, batch_size=batch_size)]


def make_loader(
    dataset: Dataset[Any],
    *,
    batch_size: int,
    num_workers: int | None,
    from_files: bool,
    sampler: EpochSampler | None = None,
    rank: int = 0,
    world: int = 1,
    collate_fn: Callable[[Any], Any] | None = None,
) -> DataLoader[Any]:
    """A loader; of training data with a sampler, of data to judge by without one, then shared out between processes.

    num_workers: None: none for what lies in memory, up to 8 for files. collate_fn: examples to a batch; None: torch's,
    which stacks them.
    """
    shared: dict[str, Any] = {"batch_size": batch_size, "sampler": sampler}
    if sampler is not None:
        # A left-over batch of one image would break batch norm; a set smaller than one batch is still used.
        shared["drop_last"] = len(sampler) >= batch_size
    elif world > 1:
        total = len(dataset)  # type: ignore[arg-type]
        shared = {"batch_sampler": shared_batches(total, batch_size=batch_size, rank=rank, world=world)}
    shared["collate_fn"] = collate_fn
    return LateLoader(dataset, **shared, **_machinery(_workers(num_workers, from_files=from_files)))


class LateLoader(DataLoader[Any]):
    """Begins with its first batch, not with `iter`: Lightning calls that while it sets up the optimizer, before it
    knows which epoch a run goes on with, and loading processes would be at work on another."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        yield from self._begin()

    def _begin(self) -> Iterator[Any]:
        return super().__iter__()


class StreamLoader(LateLoader):
    """A loader of the batches of a `StreamDataset`, which it tells the epoch whenever it begins.

    `loader.dataset.skip(batches)` lets the next iteration begin later; `loader.dataset.set_epoch(epoch)` is for loaders
    without a trainer.
    """

    def __init__(self, dataset: StreamDataset, *, num_workers: int | None, epoch: Callable[[], int] | None) -> None:
        workers = min(_workers(num_workers, from_files=True), dataset.most_workers)
        super().__init__(dataset, batch_size=None, **_machinery(workers))
        self._epoch = epoch

    def _begin(self) -> Iterator[Any]:
        if self._epoch is not None:
            dataset: Any = self.dataset
            dataset.set_epoch(self._epoch())
        return super()._begin()


def _workers(wanted: int | None, *, from_files: bool) -> int:
    if wanted is not None:
        return wanted
    return min(MAX_WORKERS, max(1, (os.cpu_count() or 1) - 1)) if from_files else 0


def _machinery(workers: int) -> dict[str, Any]:
    return {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "prefetch_factor": PREFETCH if workers else None,
        "pin_memory": torch.cuda.is_available(),
    }
