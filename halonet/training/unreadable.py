"""Says which images a run could not read and passed over."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch

from halonet.data import UnreadableLog
from halonet.files import replacing

UNREADABLE = "unreadable.txt"


class ReportUnreadable(lightning.Callback):
    """At the end of each part of an epoch: how many images were skipped so far and the first of them, if there are new
    ones; all of them in unreadable.txt of the run's folder.

    logs: by part, filled as loaders are made; empty where unreadable images end the run.
    """

    def __init__(self, logs: Mapping[Any, UnreadableLog]) -> None:
        self.logs = logs
        self.told: dict[str, list[str]] = {}

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._tell(trainer, "train")

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._tell(trainer, "val")

    def on_test_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._tell(trainer, "test")

    def _tell(self, trainer: lightning.Trainer, part: str) -> None:
        if part not in self.logs:
            return
        lines = of_all_processes(self.logs[part].lines())
        if not trainer.is_global_zero or lines == self.told.get(part, []):
            return
        self.told[part] = lines
        say(part, lines)
        if trainer.loggers and trainer.loggers[0].save_dir:
            with replacing(Path(trainer.loggers[0].save_dir) / UNREADABLE) as beside:
                every = [f"{name}: {line}\n" for name, told in self.told.items() for line in told]
                beside.write_text("".join(every), encoding="utf-8")


def say(part: str, lines: list[str]) -> None:
    """One line on stderr."""
    print(f"{len(lines)} unreadable {part} images skipped, first: {lines[0]}", file=sys.stderr, flush=True)


def of_all_processes(lines: list[str]) -> list[str]:
    """What all processes of a run noted, each image once."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return lines
    gathered: list[list[str]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(gathered, lines)
    return list(dict.fromkeys(line for one in gathered for line in one))
