"""The loss of every optimizer step, in a file that is cut back to where a run goes on."""

import csv
import io
import math
import os
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from torch import Tensor

from halonet.files import replacing

COLUMNS = ("step", "epoch", "loss", "lr", "seconds")
# Steps between looks at the losses of a GPU: each look waits for the device.
INTERVAL = 10


class StepLog(lightning.Callback):
    """A line an optimizer step in `path`: step and epoch (from 1), loss, learning rate, seconds.

    The loss is that of the first process's images, over all batches of the step, written so that reading it gives the
    same number. Seconds are from the end of the step before, on the clock of the host. A run that goes on cuts the file
    back to the step it goes on from, so that two runs can be compared line by line. Losses stay on a GPU for `INTERVAL`
    steps.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._interval = 1
        self._waiting: list[tuple[int, int, Tensor, float, float]] = []
        self._loss: Tensor | None = None
        self._lr = 0.0
        self._step = 0
        self._ended = 0.0
        self._file: io.TextIOWrapper | None = None

    def is_due(self, step: int) -> bool:
        """Whether losses are looked at after this step; the same for all processes."""
        return step % self._interval == 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        on_cpu = trainer.strategy.root_device.type == "cpu"
        self._interval = 1 if on_cpu and trainer.world_size == 1 else INTERVAL
        self._step, self._ended = trainer.global_step, time.monotonic()
        if trainer.is_global_zero:
            cut_back(self.path, step=trainer.global_step)
            self._file = open(self.path, "a", encoding="utf-8", newline="")  # noqa: SIM115

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self._lr = float(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        loss = outputs["loss"].detach()  # already divided by the batches of a step
        self._loss = loss if self._loss is None else self._loss + loss
        if trainer.global_step == self._step:
            return
        now = time.monotonic()
        row = (trainer.global_step, trainer.current_epoch + 1, self._loss, self._lr, now - self._ended)
        self._waiting.append(row)
        self._loss, self._step, self._ended = None, trainer.global_step, now

    def flush(self) -> tuple[int, int, float] | None:
        """Write what waits, and return (step, epoch, loss) of the first that is not finite."""
        if not self._waiting:
            return None
        losses = torch.stack([row[2] for row in self._waiting]).tolist()
        rows = [(*row[:2], loss, *row[3:]) for row, loss in zip(self._waiting, losses, strict=True)]
        self._waiting = []
        if self._file is not None:
            self._file.write(
                "".join(f"{step},{epoch},{loss!r},{lr!r},{took:.6f}\n" for step, epoch, loss, lr, took in rows)
            )
            self._file.flush()
        return next((row[:3] for row in rows if not math.isfinite(row[2])), None)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """The lines of a checkpoint's steps are on the disk before it is."""
        self.flush()
        if self._file is not None:
            os.fsync(self._file.fileno())

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._close()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()


def read_steps(path: Path) -> list[dict[str, float]]:
    """The lines of a steps.csv by the names of its columns; a last line that a killed process left unfinished is
    passed over."""
    rows = []
    for line in csv.reader(whole_lines(path)[1:]):
        rows.append(dict(zip(COLUMNS, map(float, line), strict=True)))
    return rows


def cut_back(path: Path, *, step: int) -> None:
    """Leave the lines up to `step` alone; the file is made if it is not there."""
    header = ",".join(COLUMNS)
    lines = whole_lines(path)[1:] if path.is_file() else []
    kept = [line for line in lines if int(line.split(",", 1)[0]) <= step]
    if path.is_file() and len(kept) == len(lines) and path.read_bytes().endswith(b"\n"):
        return
    with replacing(path) as beside:
        beside.write_text("".join(f"{line}\n" for line in [header, *kept]), encoding="utf-8", newline="")


def whole_lines(path: Path) -> list[str]:
    """Header and lines of a steps.csv, but for what a killed process left unfinished."""
    text = path.read_text(encoding="utf-8")
    return [line for line in text[: text.rfind("\n") + 1].splitlines() if line.count(",") == len(COLUMNS) - 1]
