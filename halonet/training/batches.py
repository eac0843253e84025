"""The batch of one optimizer step, shared out: over devices, and over passes that a device adds up."""

import math
from dataclasses import dataclass, replace

from halonet.training.config import RunConfig


@dataclass(frozen=True)
class BatchPlan:
    """What `devices` devices do for one optimizer step: `accumulation` passes of `device_batch` images each.

    lr_scale: what the learning rate is multiplied by; 1 unless the batch that was asked for cannot be met.
    """

    devices: int
    device_batch: int
    accumulation: int
    lr_scale: float = 1.0

    @property
    def global_batch(self) -> int:
        """Images of one optimizer step on all devices."""
        return self.devices * self.device_batch * self.accumulation


def plan_batches(*, global_batch: int, devices: int, largest: int, least_passes: int = 1) -> BatchPlan:
    """The plan of fewest passes whose steps have `global_batch` images, or as near to that as `devices` allows.

    It is met exactly where it is a multiple of `devices` and a device's share can be cut into equal passes, at most
    twice as many as needed. Else every device takes the nearest whole number of images (the smaller of two as near) in
    the fewest passes, and the learning rate follows linearly (Goyal et al. 2017, arXiv 1706.02677): `lr_scale` is the
    batch there is by the batch that was asked for.

    largest: images a device can take in one pass. least_passes: not fewer passes than that, where there are so many
    images.
    """
    share = max(1, math.ceil(global_batch / devices - 0.5))
    fewest = min(share, max(least_passes, math.ceil(share / largest)))
    # Not more: a share with few divisors, as 127, would be cut into single images, which batch norm cannot use.
    accumulation = next((passes for passes in range(fewest, 2 * fewest + 1) if share % passes == 0), fewest)
    device_batch = min(largest, max(1, math.ceil(share / accumulation - 0.5)))
    actual = devices * device_batch * accumulation
    return BatchPlan(devices, device_batch, accumulation, lr_scale=actual / global_batch)


def settled(config: RunConfig, *, devices: int) -> RunConfig:
    """`config` with the device batch, the accumulation and the learning rate that `optim.global_batch` means on so many
    devices, all nodes together; unchanged without one.

    Weight decay and warm-up, which is counted in epochs, stay.
    """
    if config.optim.global_batch is None:
        return config
    plan = plan_batches(
        global_batch=config.optim.global_batch,
        devices=devices,
        largest=config.data.batch_size,
        least_passes=config.trainer.accumulate_grad_batches,
    )
    return replace(
        config,
        data=replace(config.data, batch_size=plan.device_batch),
        optim=replace(config.optim, lr=config.optim.lr * plan.lr_scale),
        trainer=replace(config.trainer, accumulate_grad_batches=plan.accumulation),
    )


def whole_steps(batches: int, *, accumulation: int, limit: int | float = 1.0) -> int:
    """How many of an epoch's batches are used so that every optimizer step has all its passes.

    A step of fewer would weigh its images less, since every pass counts 1 / accumulation. An epoch too short for one
    whole step keeps all its batches.

    limit: Lightning's limit_train_batches: a number, or with a point a share.
    """
    used = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    return used // accumulation * accumulation or used
