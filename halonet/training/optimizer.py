"""The optimizer and schedule of the settings, the same for every task."""

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
    total_steps = int(trainer.estimated_stepping_batches)
    scheduler = LambdaLR(optimizer, schedule_of(optim, total_steps=total_steps, epochs=trainer.max_epochs or 1))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def schedule_of(optim: OptimConfig, *, total_steps: int, epochs: int) -> Schedule:
    """Share of the peak learning rate at each optimizer step."""
    steps_per_epoch = total_steps / epochs
    warmup_steps = round(optim.warmup_epochs * steps_per_epoch)
    if optim.drop_epochs is None:
        return WarmupCosine(warmup_steps=warmup_steps, total_steps=total_steps, final_ratio=optim.final_lr_ratio)
    drops = tuple(round(epoch * steps_per_epoch) for epoch in optim.drop_epochs)
    return WarmupSteps(warmup_steps=warmup_steps, drops=drops, ratio=optim.drop_ratio)
