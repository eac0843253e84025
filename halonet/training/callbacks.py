"""What a run does besides steps: repeatable randomness, a history, a voice.

What begins an epoch hangs on its batch 0: Lightning leaves on_train_epoch_start out for the epoch a run goes on with,
which may be anywhere in that epoch.
"""

import sys
import time
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as lightning
import torch

from halonet.analysis.score import Score
from halonet.training.length import length_of
from halonet.training.throughput import FIGURES

Batch = Any


class ReseedEveryBatch(lightning.Callback):
    """Makes dropout, stochastic depth and mixup of a batch depend on seed, epoch, batch and rank only, so that a run
    that goes on equals one that was never stopped. (Order and augmentation are the data set's own affair.)"""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        epoch_seed = (self.seed * 100_003 + trainer.current_epoch) * 1009 + trainer.global_rank
        # The generator of a CPU takes the lower 32 bits of a seed: times an odd number, they differ within an epoch.
        torch.manual_seed((epoch_seed + batch_idx * 0x9E3779B97F4A7C15) % 2**64)


class History(lightning.Callback):
    """One row an epoch: epoch (from 1), train/ and val/ loss and score (those that the task logs), lr of its last step,
    seconds, and the figures of `Throughput`, which stands before it; kept in the checkpoints."""

    def __init__(self, score: Score) -> None:
        self.score = score
        self.metrics = [f"{part}/{name}" for part in ("train", "val") for name in ("loss", score.name)]
        self.rows: list[dict[str, float]] = []
        self._started = 0.0
        self._before = 0.0  # seconds that the epoch had taken where the run was stopped
        self._lr = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._started = time.monotonic() - self._before

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            self._started = time.monotonic()

    def on_before_optimizer_step(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self._lr = float(optimizer.param_groups[0]["lr"])

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        row = {"epoch": float(trainer.current_epoch + 1)}
        logged = trainer.callback_metrics
        row |= {name: float(logged[name]) for name in self.metrics if name in logged}
        row |= {"lr": self._lr, "seconds": time.monotonic() - self._started}
        row |= {name: float(logged[name]) for name in FIGURES if name in logged}
        self.rows.append(row)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "seconds": time.monotonic() - self._started}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.rows = list(state_dict["rows"])
        self._before = float(state_dict.get("seconds", 0.0))


class Speak(lightning.Callback):
    """A line an epoch, from `history`; with `bar`, under it a bar over all steps of the run."""

    def __init__(self, history: History, *, bar: bool) -> None:
        self.history = history
        self.bar = bar
        self._progress: Any = None
        self._task: Any = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not (self.bar and trainer.is_global_zero):
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed}/{task.total} steps"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            transient=True,
        )
        told = trainer.num_training_batches != float("inf")  # infinite for a stream that does not tell
        total = _batches_in_all(trainer) if told else None
        done = trainer.fit_loop.total_batch_idx + 1
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self._task = self._progress.add_task(epoch, total=total, completed=done)
        self._progress.start()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        if self._progress is not None and batch_idx == 0:
            description = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            self._progress.update(self._task, description=description)

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any, **__: Any) -> None:
        if self._progress is not None:
            self._progress.advance(self._task)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        row = self.history.rows[-1]
        width = len(str(trainer.max_epochs))
        score = self.history.score
        parts = [_of_part(row, part, score) for part in ("train", "val")]
        epoch = f"epoch {int(row['epoch']):{width}d}/{trainer.max_epochs}"
        line = "   ".join([epoch, *parts, f"lr {row['lr']:.2g}", f"{row['seconds']:.1f} s"])
        if "waiting" in row:
            line += f"   {row['images_per_second']:.0f}/s, {row['waiting']:.0%} waiting"
        if self._progress is not None:
            self._progress.console.print(line, highlight=False, soft_wrap=True)
        else:
            print(line, flush=True)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._stop()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _of_part(row: Mapping[str, float], part: str, score: Score) -> str:
    """Loss and score of train or val, those that there are."""
    told = [part]
    if f"{part}/loss" in row:
        told.append(f"loss {row[f'{part}/loss']:.3f} ")
    if f"{part}/{score.name}" in row:
        told.append(f"{score.name} {score.show(row[f'{part}/{score.name}']):>7}")
    return " ".join(told).rstrip()


def _batches_in_all(trainer: lightning.Trainer) -> int:
    length = length_of(trainer)
    if length.by_steps:
        return length.steps * trainer.accumulate_grad_batches
    return int(trainer.num_training_batches) * (trainer.max_epochs or 1)


def voices(history: History, *, progress: str) -> list[lightning.Callback]:
    """The callbacks for TrainerConfig.progress; History must stand before them among a trainer's
    callbacks."""
    if progress == "none":
        return []
    return [Speak(history, bar=progress == "bar" or (progress == "auto" and sys.stdout.isatty()))]
