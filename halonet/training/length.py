"""How long a run is: passes over the data, or optimizer steps that may end within one."""

import math
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as lightning


@dataclass(frozen=True)
class Length:
    """steps: optimizer steps of the whole run. epochs: what they come to, a fraction where the last one is not whole.
    by_steps: whether the settings tell the steps (trainer.max_steps)."""

    steps: int
    epochs: float
    by_steps: bool


def length_of(trainer: lightning.Trainer) -> Length:
    """Of a run that is set up or training; the same before and within every epoch."""
    end = _end_of(trainer)
    if end is None:
        return Length(int(trainer.estimated_stepping_batches), trainer.max_epochs or 1, by_steps=False)
    if end.steps_per_epoch is None:
        trainer.fit_loop.setup_data()  # as Lightning's own estimate does: the optimizer is made before the loaders are
        end.steps_per_epoch = _steps_per_epoch(trainer)
    return Length(end.max_steps, end.max_steps / end.steps_per_epoch, by_steps=True)


def _end_of(trainer: lightning.Trainer) -> "EndAtStep | None":
    callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, EndAtStep)), None)


def _steps_per_epoch(trainer: lightning.Trainer) -> float:
    return math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)


class EndAtStep(lightning.Callback):
    """Ends a run after `max_steps` optimizer steps, wherever in an epoch that is: this last epoch is made so much
    shorter, and is then like every other validated, kept and told.

    Lightning's own max_steps would leave the validation out. trainer.max_epochs is set to the epochs, the last one
    included, once they are known.
    """

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps
        self.steps_per_epoch: float | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Raises ValueError for a run that goes on within an epoch beyond the end."""
        length_of(trainer)
        left, done = self._batches_left(trainer), _batches_done(trainer)
        if left <= 0 < done:
            raise ValueError(
                f"trainer.max_steps: expected more than the {trainer.global_step} steps that the checkpoint has had, "
                f"as it was taken within an epoch, got {self.max_steps}"
            )
        epochs = trainer.current_epoch
        if left > 0:
            epochs += math.ceil((left + done) / trainer.num_training_batches)
        trainer.fit_loop.max_epochs = epochs

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches:
            return  # within a step
        end = batch_idx + self._batches_left(trainer)
        if end < trainer.num_training_batches:
            trainer.fit_loop.max_batches = trainer.val_check_batch = end

    def _batches_left(self, trainer: lightning.Trainer) -> int:
        return (self.max_steps - trainer.global_step) * trainer.accumulate_grad_batches


def _batches_done(trainer: lightning.Trainer) -> int:
    """Of the epoch that a run goes on with."""
    loop: Any = trainer.fit_loop
    within = loop.epoch_progress.current.ready != loop.epoch_progress.current.processed
    return int(loop.epoch_loop.batch_progress.current.processed) if within else 0
