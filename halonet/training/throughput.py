"""How fast a run is, and whether its devices wait for data."""

import resource
import sys
import time
from typing import Any, NamedTuple

import lightning.pytorch as lightning
import torch
from lightning.pytorch.profilers import Profiler

# What an epoch's row of the history and the logs have; see `Throughput`.
FIGURES = ("images_per_second", "waiting", "utilization", "loader_images_per_second", "peak_memory_mib")
TOO_MUCH_WAITING = 0.2
SECONDS_BETWEEN_SAMPLES = 2.0


class DataClock(Profiler):
    """Lightning's profiler that keeps one sum: `waited`, seconds the training loop stood waiting for its next batch."""

    def __init__(self) -> None:
        super().__init__()
        self.waited = 0.0
        self._since = 0.0

    def start(self, action_name: str) -> None:
        if action_name.endswith("train_dataloader_next"):
            self._since = time.monotonic()

    def stop(self, action_name: str) -> None:
        if action_name.endswith("train_dataloader_next"):
            self.waited += time.monotonic() - self._since


class Mark(NamedTuple):
    """A moment of an epoch: the time, seconds waited and images seen by this process so far."""

    at: float
    waited: float
    images: int


class Throughput(lightning.Callback):
    """Logs once an epoch, measured from the end of its first step (workers start and kernels are compiled in that) to
    the end of its last:

    images_per_second: of all devices together (pairs in stereo); the slowest device's time.
    waiting: share of that time that the training loop stood waiting for the loader, on the device that waited most.
    utilization: of a GPU by its driver, the mean of a sample every two seconds, where NVML can be read; of a CPU
        1 - waiting.
    loader_images_per_second: what the loaders give when nothing holds them up; known only where they load in the
        training process itself, or where the device waits for them (then it is images_per_second), else left out.
    peak_memory_mib: most memory of the first device's process so far: allocated by torch on a GPU, resident on a CPU.

    Nothing synchronizes within an epoch. Once a run it prints a line if more than a fifth is waiting and the GPU, where
    known, is idle for as much.

    clock: the trainer's profiler. num_workers: the setting, for the advice. warn: whether to print at all.
    """

    def __init__(self, clock: DataClock, *, num_workers: int | None, warn: bool) -> None:
        self.clock = clock
        self.num_workers = num_workers
        self.warn = warn
        self._first: Mark | None = None  # before the epoch's first step
        self._steady: Mark | None = None  # after it
        self._last: Mark | None = None
        self._utilization: list[float] = []
        self._sampled = 0.0

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._first is None:
            self._first = Mark(time.monotonic(), self.clock.waited, 0)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        images = batch_size_of(batch) + (self._last.images if self._last else 0)
        self._last = Mark(time.monotonic(), self.clock.waited, images)
        if self._steady is None:
            self._steady = self._last
        device = trainer.strategy.root_device
        if device.type == "cuda" and self._last.at - self._sampled > SECONDS_BETWEEN_SAMPLES:
            self._sampled = self._last.at
            self._utilization += gpu_utilization(device)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        first, steady, last = self._first, self._steady, self._last
        if first is None or steady is None or last is None:
            return
        start = steady if last.images > steady.images else first
        spent = torch.tensor([last.at - start.at, last.waited - start.waited], dtype=torch.float32)
        # Where the device runs ahead of its timing, or an epoch has one step, the sum may be a little off.
        spent = trainer.strategy.reduce(spent.to(trainer.strategy.root_device), reduce_op="max").cpu()
        seconds, waited = max(float(spent[0]), 1e-9), float(spent[1])
        images = (last.images - start.images) * trainer.world_size
        row = self._row(trainer, images=images, seconds=seconds, waited=min(waited, seconds))
        pl_module.log_dict(row, on_step=False, on_epoch=True)
        self._advise(trainer, row)
        self._first = self._steady = self._last = None
        self._utilization = []

    def _row(self, trainer: lightning.Trainer, *, images: int, seconds: float, waited: float) -> dict[str, float]:
        device = trainer.strategy.root_device
        waiting = waited / seconds
        row = {"images_per_second": images / seconds, "waiting": waiting}
        if device.type == "cpu":
            row["utilization"] = 1 - waiting
        elif self._utilization:
            row["utilization"] = sum(self._utilization) / len(self._utilization)
        loader: Any = trainer.train_dataloader
        if getattr(loader, "num_workers", None) == 0 and waited > 0:
            row["loader_images_per_second"] = images / waited
        elif waiting > TOO_MUCH_WAITING:
            row["loader_images_per_second"] = images / seconds
        return row | {"peak_memory_mib": peak_memory(device) / 2**20}

    def _advise(self, trainer: lightning.Trainer, row: dict[str, float]) -> None:
        busy = row.get("utilization", 0.0)
        if self.warn and row["waiting"] > TOO_MUCH_WAITING and busy < 1 - TOO_MUCH_WAITING:
            self.warn = False
            if trainer.is_global_zero:
                now = "null" if self.num_workers is None else self.num_workers
                print(
                    f"the loader keeps the device waiting {row['waiting']:.0%} of the time: more loading processes may "
                    f"help (data.num_workers, now {now})",
                    flush=True,
                )


def batch_size_of(batch: Any) -> int:
    """Images in a batch, whatever the task's: of its first tensor, or the number of them in a list, as detectors take
    images of several sizes."""
    while not isinstance(batch, torch.Tensor):
        first = next(iter(batch.values())) if isinstance(batch, dict) else batch[0]
        if isinstance(first, torch.Tensor) and first.ndim == 3:
            return len(batch)
        batch = first
    return len(batch)


def gpu_utilization(device: torch.device) -> list[float]:
    """One sample, 0 to 1, or none where NVML (the package nvidia-ml-py) cannot be read."""
    try:
        return [torch.cuda.utilization(device) / 100]
    # What is missing is told by several unrelated types: the package, the library, or the right to read.
    except Exception:
        return []


def peak_memory(device: torch.device) -> int:
    """Bytes, see `Throughput`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
