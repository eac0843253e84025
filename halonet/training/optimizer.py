"""The optimizer and schedule of the settings, the same for every task."""

from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from halonet.training.config import OptimConfig
from halonet.training.length import length_of
from halonet.training.parameter_groups import layer_shares, parameter_groups
from halonet.training.schedule import Schedule, WarmupCosine, WarmupSteps


def configure(model: nn.Module, optim: OptimConfig, trainer: lightning.Trainer) -> OptimizerLRScheduler:
    """The optimizer of `optim`, with its schedule stepped every optimizer step."""
    shares = None if optim.layer_decay == 1 else layer_shares(model, optim.layer_decay)
    groups = parameter_groups(model, weight_decay=optim.weight_decay, shares=shares)
    for group in groups:
        group["lr"] = optim.lr * group.pop("share")
    optimizer: torch.optim.Optimizer
    if optim.name == "sgd":
        optimizer = torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=optim.nesterov)
    else:
        optimizer = torch.optim.AdamW(groups, lr=optim.lr, betas=(optim.momentum, 0.999))
    length = length_of(trainer)
    schedule = schedule_of(optim, total_steps=length.steps, epochs=length.epochs)
    per_epoch = length.steps / length.epochs
    scheduler = EpochSteps(optimizer, schedule, steps_per_epoch=per_epoch, counts_epochs=not length.by_steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class EpochSteps(LambdaLR):
    """A schedule whose place in a checkpoint is told in epochs: a run that goes on with other devices, so with another
    number of steps an epoch, or with other settings, is where it was in the schedule that its settings now mean.

    counts_epochs: False for a run whose length is told in steps: its place is, too.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        *,
        steps_per_epoch: float,
        counts_epochs: bool = True,
    ) -> None:
        self.steps_per_epoch, self.counts_epochs = steps_per_epoch, counts_epochs
        super().__init__(optimizer, schedule)

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.last_epoch, "steps_per_epoch": self.steps_per_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Peak rates and shape stay those of the settings; checkpoints of earlier versions tell steps alone."""
        taken = state_dict["last_epoch"]
        before = state_dict.get("steps_per_epoch", self.steps_per_epoch)
        moved = self.counts_epochs and before != self.steps_per_epoch
        self.last_epoch = round(taken / before * self.steps_per_epoch) if moved else taken
        self._last_lr = []
        for group, peak, schedule in zip(self.optimizer.param_groups, self.base_lrs, self.lr_lambdas, strict=True):
            group["initial_lr"], group["lr"] = peak, peak * schedule(self.last_epoch)
            self._last_lr.append(group["lr"])


def schedule_of(optim: OptimConfig, *, total_steps: int, epochs: float) -> Schedule:
    """Share of the peak learning rate at each optimizer step; epochs: that total_steps come to."""
    per_epoch = total_steps / epochs
    warmup = round(optim.warmup_epochs * per_epoch) if optim.warmup_steps is None else optim.warmup_steps
    start = optim.warmup_start
    if optim.drop_steps is not None:
        return WarmupSteps(warmup_steps=warmup, drops=tuple(optim.drop_steps), ratio=optim.drop_ratio, start=start)
    if optim.drop_epochs is not None:
        drops = tuple(round(epoch * per_epoch) for epoch in optim.drop_epochs)
        return WarmupSteps(warmup_steps=warmup, drops=drops, ratio=optim.drop_ratio, start=start)
    return WarmupCosine(warmup_steps=warmup, total_steps=total_steps, final_ratio=optim.final_lr_ratio, start=start)
