"""Signals that ask a run to stop: it saves first, and says how to go on."""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as lightning
import torch

from halonet.training.files import CHECKPOINTS, LAST

# What a shell gives for a process that ends by a signal: 128 and the signal's number.
CTRL_C, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


class Interrupted(Exception):
    """A signal ended a run; the text says where, and the command that goes on; `status` is the exit status."""

    def __init__(self, text: str, *, status: int) -> None:
        super().__init__(text)
        self.status = status


class Stop(BaseException):
    """A signal asked for an end, and whatever had to be saved is. No Exception: nobody must pass over it."""


class StopSignals(lightning.Callback):
    """SIGTERM, Ctrl-C and, in a job of SLURM, SIGUSR1: while training they are noted in `requested`, and the run stops
    after the step it is in (see `KeepLastAndBest`); a second Ctrl-C, or one while not training, stops at once.

    at: where the run stood when it was stopped: (epoch, epochs, batch, batches of an epoch), epochs from 1; None before
    and after training.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self.at: tuple[int, int, int, int | None] | None = None
        self.folder: Path | None = None  # of the run, as soon as there is one
        self._training = False
        self._set_aside: dict[int, Any] = {}
        self.saved: tuple[int, int] | None = None  # (epoch from 1, batches) of the newest checkpoint

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Within the block signals are heeded, and Stop and Ctrl-C become `Interrupted` once a run's folder is
        there."""
        before = {number: signal.getsignal(number) for number in self._numbers()}
        self._install()
        try:
            yield
        except (Stop, KeyboardInterrupt, RuntimeError, ConnectionError, EOFError) as error:
            if not self._explains(error):
                raise
            by_hand = isinstance(error, KeyboardInterrupt) or self.requested == signal.SIGINT
            raise Interrupted(self._text(), status=CTRL_C if by_hand else TERMINATED) from None
        finally:
            for number, handler in {**before, **self._set_aside}.items():
                if handler is not None:  # None: not set by Python
                    signal.signal(number, handler)

    def _explains(self, error: BaseException) -> bool:
        """Whether a signal is behind an error. Sent to a whole group of processes, as a terminal does, it ends the
        loading processes too, which shows as errors of the data."""
        if isinstance(error, KeyboardInterrupt):
            return self.folder is not None
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            return False
        return isinstance(error, Stop) or self.requested is not None

    @staticmethod
    def _numbers() -> list[int]:
        if threading.current_thread() is not threading.main_thread():
            return []  # Python hands signals to the main thread alone
        slurm = [signal.SIGUSR1] if "SLURM_JOB_ID" in os.environ else []
        return [signal.SIGTERM, signal.SIGINT, *slurm]

    def _install(self) -> None:
        for number in self._numbers():
            signal.signal(number, self._heed)

    def _heed(self, number: int, frame: FrameType | None) -> None:
        again = self.requested is not None
        if number == signal.SIGINT and (again or not self._training):
            raise KeyboardInterrupt
        self.requested = self.requested or number
        if not self._training:
            raise Stop
        if not again:
            # torch looks out for loading processes that end, and would break off the step in which it hears of one.
            self._set_aside[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if number == signal.SIGINT:
            print("\nstopping after this step (Ctrl-C again: at once)", file=sys.stderr, flush=True)

    def stop(self) -> None:
        """End the training, everything being saved."""
        if self.requested is None:
            self.requested = signal.SIGTERM  # that another process was given
        raise Stop

    @staticmethod
    def agree(trainer: lightning.Trainer, flags: list[bool]) -> list[bool]:
        """Each flag, True in every process if it is in any. All processes must ask in the same step."""
        if trainer.world_size == 1:
            return flags
        tensor = torch.tensor(flags, dtype=torch.int32, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX)
        return [bool(flag) for flag in tensor.tolist()]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._install()  # Lightning has put its own handlers in their place
        self._training = True

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._training = False

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.saved = _position(trainer)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        if not self._training:
            return
        self._training = False
        batches = trainer.num_training_batches
        epoch, batch = _position(trainer)
        self.at = (epoch, trainer.max_epochs or 0, batch, None if batches == float("inf") else int(batches))

    def _text(self) -> str:
        if self.folder is None:
            return "stopped before the run began; nothing is written yet"
        command = shlex.join(["halonet", "fit", "--ckpt_path", str(self.folder / CHECKPOINTS / LAST)])
        if self.at is None:
            return f"stopped; nothing is lost, go on with:\n{command}"
        epoch, epochs, batch, batches = self.at
        of = "" if batches is None else f" of {batches}"
        stopped = f"stopped in epoch {epoch} of {epochs}, after step {batch}{of}"
        if self.saved is None:
            return f"{stopped}; no checkpoint was written yet, start again with:\n{command}"
        if self.saved == (epoch, batch):
            return f"{stopped}; nothing is lost, go on with:\n{command}"
        return f"{stopped}; go on from epoch {self.saved[0]}, step {self.saved[1]} with:\n{command}"


def _position(trainer: lightning.Trainer) -> tuple[int, int]:
    """(epoch from 1, whole batches of it that are done)."""
    epochs: Any = trainer.fit_loop.epoch_progress.current
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    between = epochs.ready == epochs.processed
    # A batch counts as completed after its last hook only, but what was learnt from it is there before.
    return epochs.processed + 1, 0 if between else batches.processed
