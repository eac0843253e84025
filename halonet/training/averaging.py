"""A moving average of the weights, which is what a run validates, tests and writes."""

from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class MovingAverage(WeightAveraging):
    """After each optimizer step average = decay * average + (1 - decay) * weights, beginning with the first step's.

    Running means and variances of batch norms are averaged like weights, so that they fit them; other buffers (random
    features of a Performer) and counters are those of the latest step. Validation sees the average. A checkpoint holds
    the average as its `state_dict`, and the weights that train on as `current_model_state`.

    Lightning's callback does the work; here it keeps the average where the device is, leaves whole numbers alone, and
    puts the weights back when a validation is interrupted.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=lambda average, current, _: _move(average, current, decay))
        self._swapped = False

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        # At this point the module is still on the CPU, and the average would stay there.
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *rest: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *rest)
        assert self._average_model is not None
        _copy_latest(pl_module, self._average_model.module)

    def on_validation_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_validation_epoch_start(trainer, pl_module)
        self._swapped = self._average_model is not None

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_validation_epoch_end(trainer, pl_module)
        self._swapped = False

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        if self._swapped:
            self.on_validation_epoch_end(trainer, pl_module)


@torch.no_grad()
def _move(average: tuple[Tensor, ...] | list[Tensor], current: tuple[Tensor, ...] | list[Tensor], decay: float) -> None:
    """One dtype a call. Whole numbers are copied: a share of them would be cut off."""
    if average[0].is_floating_point():
        torch._foreach_lerp_(average, current, 1 - decay)
    else:
        torch._foreach_copy_(average, current)


@torch.no_grad()
def _copy_latest(current: nn.Module, average: nn.Module) -> None:
    for module, twin in zip(current.modules(), average.modules(), strict=True):
        if not isinstance(module, _BatchNorm):
            for buffer, latest in zip(twin.buffers(recurse=False), module.buffers(recurse=False), strict=True):
                buffer.copy_(latest)
