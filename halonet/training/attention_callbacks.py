"""What some attention layers want done while they train: chunks to choose, features to draw anew."""

from __future__ import annotations

import random
from typing import Any

import lightning.pytorch as lightning
import torch
from torch import nn

from halonet.layers import FullAttention, LongformerAttention, PerformerAttention
from halonet.training.length import length_of

MODES = range(1, 9)  # the neighbour chunks, row by row


class RandomShift(lightning.Callback):
    """Vision Longformer's random-shifting training (appendix D): each layer sees its own chunk and one of the eight.

    Which, is drawn for every layer and batch, from the seed, the epoch and the batch alone, so that a run that goes on
    equals one that was never stopped. The rest of the run trains with all nine chunks, as evaluation has them.

    Args:
        fraction: share of the steps before the switch, 0.75 in the paper.
        seed: of the draws.

    Raises:
        ValueError: a share that is not from 0 to 1.
    """

    def __init__(self, fraction: float = 0.75, *, seed: int = 0) -> None:
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction must be from 0 to 1, got {fraction}")
        self.fraction, self.seed = fraction, seed

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        shifts = trainer.global_step < self.fraction * length_of(trainer).steps
        draws = random.Random(f"{self.seed} {trainer.current_epoch} {batch_idx}")
        for layer in shifting_layers(pl_module):
            layer.mode = draws.choice(MODES) if shifts else 0

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._reset(pl_module)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self._reset(pl_module)

    def _reset(self, module: nn.Module) -> None:
        for layer in shifting_layers(module):
            layer.mode = 0


class RedrawFeatures(lightning.Callback):
    """Draws the random features of Performers anew (Vision Longformer, appendix E).

    Every `1 + 5 * epoch` steps, epochs from 0, as the paper trained on ImageNet, or every so many. All processes draw
    the same, and a run that goes on draws what it would have drawn.

    Args:
        every: steps between draws; None for the paper's growing number.
        seed: of the draws.

    Raises:
        ValueError: a number of steps that is not positive.
    """

    def __init__(self, every: int | None = None, *, seed: int = 0) -> None:
        if every is not None and every < 1:
            raise ValueError(f"every must be a positive number of steps or None, got {every}")
        self.every, self.seed = every, seed

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % (self.every or 1 + 5 * trainer.current_epoch):
            return
        generator = torch.Generator().manual_seed((self.seed * 100_003 + trainer.current_epoch) * 100_003 + batch_idx)
        for layer in pl_module.modules():
            if isinstance(layer, PerformerAttention):
                layer.redraw(generator)


def shifting_layers(module: nn.Module) -> list[LongformerAttention]:
    """The layers that have chunks to choose."""
    return [
        layer
        for layer in module.modules()
        if isinstance(layer, LongformerAttention) and not isinstance(layer, FullAttention)
    ]


def attention_callbacks(
    model: nn.Module, *, random_shift: float, redraw_features: int | None, seed: int
) -> list[lightning.Callback]:
    """The callbacks that a model's layers want.

    Raises:
        ValueError: random shifting asked for where no layer has chunks.
    """
    callbacks: list[lightning.Callback] = []
    if random_shift:
        if not shifting_layers(model):
            raise ValueError(f'model.random_shift: expected 0 for a model without attention="vil", got {random_shift}')
        callbacks.append(RandomShift(random_shift, seed=seed))
    if redraw_features != 0 and any(isinstance(layer, PerformerAttention) for layer in model.modules()):
        callbacks.append(RedrawFeatures(redraw_features, seed=seed))
    return callbacks
