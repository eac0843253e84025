"""The stereo task: loss, metrics, optimizer."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import MeanMetric

from halonet.stereo import disparity_errors, disparity_loss, valid_mask
from halonet.training.config import OptimConfig
from halonet.training.optimizer import configure
from halonet.training.sharding import ShardableModule

Batch = dict[str, Tensor]
FIGURES = ("epe", "bad1", "bad3", "d1")


class StereoTask(ShardableModule):
    """Trains `model` to tell the disparity of every pixel of the left picture.

    A batch is what `halonet.data.stereo.StereoDataset` gives. Pixels count whose disparity is known, above 0 and below
    the model's `max_disparity`. Logged an epoch: train/loss and train/epe, val/ and test/ loss, epe (pixels), bad1 and
    bad3 (shares of pixels off by more than 1 and 3) and d1 (KITTI 2015); lr a step. Figures are means over pairs of
    each pair's mean over its pixels, as PSMNet prints them.

    loss_weights: of the outputs a stacked network has while it trains.
    """

    def __init__(self, model: nn.Module, *, optim: OptimConfig, loss_weights: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.optim = optim
        self.loss_weights = tuple(loss_weights)
        names = [f"{split}_{figure}" for split in ("train", "val", "test") for figure in ("loss", *FIGURES)]
        self.means = nn.ModuleDict({name: MeanMetric() for name in names})

    @property
    def max_disparity(self) -> int:
        """Disparities from which on the model tells none."""
        config: Any = self.model.config
        return int(config.max_disparity)

    def forward(self, left: Tensor, right: Tensor) -> Tensor | list[Tensor]:
        """Disparities (B, H, W); while training, those of every output."""
        return self.model(left, right)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self._step("train", batch, ("epe",))
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"], on_step=True, on_epoch=False)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._step("val", batch, FIGURES)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._step("test", batch, FIGURES)

    def _step(self, split: str, batch: Batch, figures: Sequence[str]) -> Tensor:
        outputs = self(batch["left"], batch["right"])
        mask = valid_mask(batch["disparity"], batch["valid"], max_disparity=self.max_disparity)
        loss = disparity_loss(outputs, batch["disparity"], mask, weights=self.loss_weights)
        last = outputs if isinstance(outputs, Tensor) else outputs[-1]
        errors = disparity_errors(last.detach(), batch["disparity"], mask)
        judged = errors["pixels"] > 0
        values = {"loss": loss.detach().expand(len(mask)), **{name: errors[name][judged] for name in figures}}
        for name, value in values.items():
            metric = self.means[f"{split}_{name}"]
            assert isinstance(metric, MeanMetric)
            if len(value):
                metric.update(value)
            self.log(f"{split}/{name}", metric, on_step=False, on_epoch=True, prog_bar=name in ("loss", "epe"))
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer of `optim`, with its schedule stepped every optimizer step."""
        return configure(self.model, self.optim, self.trainer)


@torch.inference_mode()
def constant_error(disparities: Sequence[tuple[Tensor, Tensor]], constant: float) -> float:
    """End-point error, in pixels, of telling `constant` everywhere: the mean over pairs of (disparity, mask)."""
    errors = [float((disparity[mask] - constant).abs().mean()) for disparity, mask in disparities if mask.any()]
    return sum(errors) / len(errors) if errors else float("nan")
