"""Passes over images that cannot be read, where that is wanted, and says which."""

import atexit
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning

from halonet.data import DataConfig, Split, UnreadableLog
from halonet.files import replacing
from halonet.processes import gather

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


class SkippingDataModule(lightning.LightningDataModule):
    """Loaders of parts that skip images which cannot be read, if `config.on_error` says so."""

    def __init__(self, *, config: DataConfig) -> None:
        super().__init__()
        self.config = config
        self._unreadable: dict[Split, UnreadableLog] = {}

    @property
    def unreadable(self) -> Mapping[Split, UnreadableLog]:
        """What each part lost so far, where unreadable images are skipped."""
        return self._unreadable

    def place(self) -> tuple[int, int]:
        """The number of this process, and of how many that share the parts out."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def log_of(self, split: Split, total: int, *, world: int) -> UnreadableLog | None:
        """For the data set of a part with `total` images, shared out between `world` processes; None: the first
        unreadable image ends the run."""
        if self.config.on_error == "raise":
            return None
        if split not in self._unreadable:
            log = UnreadableLog(part=split, total=max(1, total // world), most=self.config.max_error_fraction)
            atexit.register(log.close)
            self._unreadable[split] = log
        return self._unreadable[split]

    def teardown(self, stage: str) -> None:
        """Tells what `halonet validate` or `halonet test` had to skip; a training tells it every epoch."""
        if stage == "fit" or any(isinstance(one, ReportUnreadable) for one in getattr(self.trainer, "callbacks", ())):
            return
        for split, log in self.unreadable.items():
            if log.lines():
                say(split, log.lines())


def say(part: str, lines: list[str]) -> None:
    """One line on stderr."""
    print(f"{len(lines)} unreadable {part} images skipped, first: {lines[0]}", file=sys.stderr, flush=True)


def of_all_processes(lines: list[str]) -> list[str]:
    """What all processes of a run noted, each image once."""
    return list(dict.fromkeys(line for one in gather(lines) for line in one))
