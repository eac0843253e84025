"""Checkpoints of a run: written whole or not at all, a few of the newest and the best, never of spoilt weights."""

import errno
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import lightning.pytorch as lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from torch import nn

from halonet.analysis.score import Score
from halonet.files import replacing
from halonet.training.files import BEST, LAST, is_whole, kept_checkpoints, older
from halonet.training.interruption import StopSignals
from halonet.training.position import Position
from halonet.training.steps import StepLog

# A stop while an epoch is validated costs no more training than this: the last step but one is saved where the newest
# checkpoint is older. (The last step itself has no place to go on from: validation follows, and the epoch's own.)
BEFORE_VALIDATION = 10.0  # seconds


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's files written beside and renamed, and read as plain data only.

    keep_last: before a new last.ckpt takes its place, the old one becomes last-1.ckpt, and so on up to so many.
    """

    def __init__(self, *, keep_last: int = 1) -> None:
        super().__init__()
        self.keep_last = keep_last

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Raises OSError that names the file where the disk is full."""
        self._write(Path(path), lambda file: torch.save(checkpoint, file))

    def copy(self, source: Path, path: Path) -> None:
        """As `save_checkpoint`, of what a file holds."""
        with open(source, "rb") as original:
            self._write(path, lambda file: shutil.copyfileobj(original, file))

    def _write(self, path: Path, write: Callable[[BinaryIO], None]) -> None:
        try:
            with replacing(path) as beside:
                # A Python file reports a full disk as OSError; torch's own writer would as RuntimeError.
                with open(beside, "wb") as file:
                    write(file)
                    file.flush()
                    os.fsync(file.fileno())
                if path.name == LAST:
                    _rotate(path.parent, keep=self.keep_last)
        except Exception as error:
            if _no_space(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
            raise

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        return read_checkpoint(Path(path))


def _no_space(error: BaseException | None) -> bool:
    """Whether a full disk is behind an error; torch's writer, once it failed, hides it behind one of its own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def _rotate(folder: Path, *, keep: int) -> None:
    """Make room for a new last.ckpt. At every instant the newest is there under its name or, on file systems without
    hard links, under the next."""
    for number in range(keep - 1, 1, -1):
        if (folder / older(number - 1)).is_file():
            (folder / older(number - 1)).replace(folder / older(number))
    if keep > 1 and (folder / LAST).is_file():
        link = folder / f".last.{os.getpid()}.ckpt.{os.getpid()}"
        link.unlink(missing_ok=True)
        try:
            os.link(folder / LAST, link)
            link.replace(folder / older(1))
            link.unlink(missing_ok=True)  # left where both are one file already, after a kill in this place
        except OSError:
            (folder / LAST).replace(folder / older(1))
    number = keep
    while (folder / older(number)).is_file():  # of a run that kept more
        (folder / older(number)).unlink()
        number += 1


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The contents of a .ckpt file on the CPU; nothing in it is executed. Raises ValueError if it is not one, or not
    as it was written."""
    if not path.is_file():
        raise ValueError(f"ckpt_path: no checkpoint at {path}")
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    # torch.load reports a damaged or foreign file as one of several unrelated types.
    except Exception as error:
        raise ValueError(
            f"ckpt_path: cannot read {path} as a checkpoint ({type(error).__name__}){_others(path)}"
        ) from error
    if not isinstance(contents, dict) or "state_dict" not in contents:
        raise ValueError(f"ckpt_path: {path} is no training checkpoint")
    if not is_whole(path):
        raise ValueError(f"ckpt_path: cannot read {path} as a checkpoint: it is damaged{_others(path)}")
    return contents


def _others(path: Path) -> str:
    whole = next((other for other in kept_checkpoints(path.parent) if other != path and is_whole(other)), None)
    return f"; {whole.name} beside it is whole" if whole else ""


def check_fits(path: Path, task: lightning.LightningModule, *, model_name: str) -> dict[str, Any]:
    """The contents of the checkpoint at `path`. Raises ValueError unless it holds exactly the parameters of `task`."""
    contents = read_checkpoint(path)
    found = {name: tuple(value.shape) for name, value in contents["state_dict"].items()}
    wanted = {name: tuple(value.shape) for name, value in task.state_dict().items()}
    wrong = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if wrong:
        listed = ", ".join(
            f"{name} {_shape(found.get(name))} instead of {_shape(wanted.get(name))}" for name in wrong[:3]
        )
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"ckpt_path: {path} is of another model than {model_name}: {listed}{more}")
    return contents


def load_task(path: Path, task: lightning.LightningModule, *, model_name: str) -> None:
    """Give `task` the weights to judge by of the checkpoint at `path` (with a moving average of the weights that is
    the average). Raises ValueError as `check_fits`."""
    task.load_state_dict(check_fits(path, task, model_name=model_name)["state_dict"])


def _shape(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else str(list(shape))


class KeepLastAndBest(Checkpoint):
    """Writes last.ckpt after every epoch and within one, and best.ckpt if no epoch before had a better score on the
    validation part.

    Within an epoch it writes after an optimizer step, when steps or minutes are over or a stop is asked for, which it
    then raises. Nothing is written, and the run ends with a ValueError, if the loss since the last checkpoint or the
    weights are not finite.

    Args:
        folder: where they go.
        score: which epoch is best.
        steps: the losses.
        position: what else a run within an epoch needs to go on.
        signals: that ask for a stop.
        every_steps: optimizer steps between checkpoints; None: by time alone.
        every_minutes: minutes between checkpoints; 0: by steps alone.
    """

    def __init__(
        self,
        folder: Path,
        score: Score,
        *,
        steps: StepLog,
        position: Position,
        signals: StopSignals,
        every_steps: int | None = None,
        every_minutes: float = 0.0,
    ) -> None:
        super().__init__()
        self.folder, self.score = folder, score
        self.steps, self.position, self.signals = steps, position, signals
        self.every_steps, self.every_minutes = every_steps, every_minutes
        self.best_score: float | None = None
        self.best_epoch = 0  # counted from 1
        self._saved_at = time.monotonic()
        self._step = 0
        self._between_steps = False

    @property
    def last(self) -> Path:
        return self.folder / LAST

    @property
    def best(self) -> Path:
        return self.folder / BEST

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._saved_at, self._step = time.monotonic(), trainer.global_step

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any, **__: Any) -> None:
        self._between_steps = False

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.global_step == self._step:
            return  # gradients are being accumulated
        self._step = trainer.global_step
        if _is_last_batch(trainer):
            self._refuse_spoilt(trainer)
            return  # validation follows, and the epoch's own checkpoint
        self._between_steps = True
        by_steps = self.every_steps is not None and self._step % self.every_steps == 0
        before_validation = _one_step_left(trainer)
        if not (trainer.world_size == 1 or self.steps.is_due(self._step) or by_steps or before_validation):
            return  # the processes of several devices meet, and agree, in these steps alone
        waited = time.monotonic() - self._saved_at
        by_time = self.every_minutes > 0 and waited >= 60 * self.every_minutes
        due = by_steps or by_time or (before_validation and waited >= BEFORE_VALIDATION)
        stop, due = self.signals.agree(trainer, [self.signals.requested is not None, due])
        if stop or due:
            self._save_within_epoch(trainer, pl_module)
        elif self.steps.is_due(self._step):
            self._refuse_spoilt(trainer)
        if stop:
            self.signals.stop()

    def on_validation_batch_start(self, trainer: lightning.Trainer, *_: Any, **__: Any) -> None:
        """A single process need not wait for the end of a validation, which is done again when the run goes on."""
        if trainer.world_size == 1 and self.signals.requested is not None:
            self.signals.stop()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._refuse_spoilt(trainer, pl_module)
        value = float(trainer.callback_metrics[f"val/{self.score.name}"])
        is_best = self.score.better(value, self.best_score)
        if is_best:
            self.best_score, self.best_epoch = value, trainer.current_epoch + 1
        self.position.forget()
        # The best one first: were last.ckpt first and the process killed, it would tell of a best.ckpt that is not.
        trainer.save_checkpoint(self.best if is_best else self.last)
        if is_best and trainer.is_global_zero:
            files = trainer.strategy.checkpoint_io
            assert isinstance(files, AtomicCheckpointIO)
            files.copy(self.best, self.last)
        self._saved_at = time.monotonic()
        if self.signals.agree(trainer, [self.signals.requested is not None])[0]:
            self.signals.stop()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """A signal sent to all processes of a terminal ends the loading processes too, and with them the training
        before its next step: the step before is saved."""
        if self._between_steps and self.signals.requested is not None and trainer.world_size == 1:
            self._between_steps = False
            self._save_within_epoch(trainer, pl_module)

    def _save_within_epoch(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._refuse_spoilt(trainer, pl_module)
        self.position.note(trainer, pl_module)
        trainer.save_checkpoint(self.last)
        self._saved_at = time.monotonic()
        self._between_steps = False

    def _refuse_spoilt(self, trainer: lightning.Trainer, module: nn.Module | None = None) -> None:
        """Raise ValueError in every process if the loss of a step not looked at yet, or the weights of `module`, are
        not finite in any."""
        bad = self.steps.flush()
        found = [bad is not None, bad is None and module is not None and not weights_are_finite(module)]
        bad_loss, bad_weights = self.signals.agree(trainer, found)
        if not (bad_loss or bad_weights):
            return
        step, epoch, loss = bad or (trainer.global_step, trainer.current_epoch + 1, math.nan)
        what = f"the loss is {loss}" if bad else "the loss on another device is not finite"
        if not bad_loss:
            what = "the weights are no longer finite"
        kept = f"the last good checkpoint is {self.last}" if self.last.is_file() else "no checkpoint was written yet"
        raise ValueError(f"step {step}, epoch {epoch}: {what}; stopped, {kept} (a lower optim.lr may help)")

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.best_score = state_dict["best_score"]
        self.best_epoch = int(state_dict["best_epoch"])


def weights_are_finite(module: nn.Module) -> bool:
    """Whether every parameter, and every running statistic of a batch norm, is finite; waits for the device once."""
    tensors = [parameter.detach() for parameter in module.parameters()]
    tensors += [
        buffer
        for norm in module.modules()
        if isinstance(norm, nn.modules.batchnorm._BatchNorm)
        for buffer in norm.buffers()
    ]
    tensors = [tensor for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    # The largest magnitude is nan or inf where any is; a sum might overflow where none is.
    return not tensors or bool(torch.stack([tensor.abs().amax().float() for tensor in tensors]).isfinite().all())


def _is_last_batch(trainer: lightning.Trainer) -> bool:
    progress = trainer.fit_loop.epoch_loop.batch_progress
    return progress.is_last_batch or progress.current.ready >= trainer.num_training_batches


def _one_step_left(trainer: lightning.Trainer) -> bool:
    left = trainer.num_training_batches - trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return left <= trainer.accumulate_grad_batches
