"""The optimizer and schedule of the settings, the same for every task."""

from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from halonet.training.config import OptimConfig
from halonet.training.parameter_groups import parameter_groups
from halonet.training.schedule import Schedule, WarmupCosine, WarmupSteps


def configure(model: nn.Module, optim: OptimConfig, trainer: lightning.Trainer) -> OptimizerLRScheduler:
    """The optimizer of `optim`, with its schedule stepped every optimizer step."""
    groups = parameter_groups(model, weight_decay=optim.weight_decay)
    optimizer: torch.optim.Optimizer
    if optim.name == "sgd":
        optimizer = torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=True)
    else:
        optimizer = torch.optim.AdamW(groups, lr=optim.lr, betas=(optim.momentum, 0.999))
    total_steps, epochs = int(trainer.estimated_stepping_batches), trainer.max_epochs or 1
    schedule = schedule_of(optim, total_steps=total_steps, epochs=epochs)
    scheduler = EpochSteps(optimizer, schedule, steps_per_epoch=total_steps / epochs)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class EpochSteps(LambdaLR):
    """A schedule whose place in a checkpoint is told in epochs: a run that goes on with other devices, so with another
    number of steps an epoch, or with other settings, is where it was in the schedule that its settings now mean."""

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: Schedule, *, steps_per_epoch: float) -> None:
        self.steps_per_epoch = steps_per_epoch
        super().__init__(optimizer, schedule)

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.last_epoch, "steps_per_epoch": self.steps_per_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Peak rates and shape stay those of the settings; checkpoints of earlier versions tell steps alone."""
        taken = state_dict["last_epoch"]
        before = state_dict.get("steps_per_epoch", self.steps_per_epoch)
        self.last_epoch = round(taken / before * self.steps_per_epoch) if before != self.steps_per_epoch else taken
        self._last_lr = []
        for group, peak, schedule in zip(self.optimizer.param_groups, self.base_lrs, self.lr_lambdas, strict=True):
            group["initial_lr"], group["lr"] = peak, peak * schedule(self.last_epoch)
            self._last_lr.append(group["lr"])


def schedule_of(optim: OptimConfig, *, total_steps: int, epochs: int) -> Schedule:
    """Share of the peak learning rate at each optimizer step."""
    steps_per_epoch = total_steps / epochs
    warmup_steps = round(optim.warmup_epochs * steps_per_epoch)
    if optim.drop_epochs is None:
        return WarmupCosine(warmup_steps=warmup_steps, total_steps=total_steps, final_ratio=optim.final_lr_ratio)
    drops = tuple(round(epoch * steps_per_epoch) for epoch in optim.drop_epochs)
    return WarmupSteps(warmup_steps=warmup_steps, drops=drops, ratio=optim.drop_ratio)
