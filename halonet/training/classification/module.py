"""The classification task: loss, metrics, optimizer."""

from collections.abc import Callable, Mapping
from functools import reduce
from operator import add
from typing import Any

from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric
from torchvision.transforms import v2

from halonet.analysis.classification import Tally, tally
from halonet.processes import gather
from halonet.training.config import OptimConfig
from halonet.training.optimizer import configure
from halonet.training.sharding import ShardableModule

Batch = tuple[Tensor, Tensor]
Mix = Callable[[Tensor, Tensor], Batch]


def mixing(*, mixup: float, cutmix: float, num_classes: int) -> Mix | None:
    """Mixup, cutmix, or one of both drawn each batch, by their alphas; None for neither.

    Of images (B, C, S, S) and labels (B,) it gives images and the shares (B, num_classes) of the blended labels. Draws
    come from torch's generator of the CPU, so that a run can be repeated.
    """
    kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
    mixes = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha]
    return v2.RandomChoice(mixes) if mixes else None


class ClassificationTask(ShardableModule):
    """Trains `model` to name the class of an image.

    A batch is images (B, C, S, S) and class indices (B,) int64. Logged an epoch: train/loss and
    train/accuracy (as augmented, with label smoothing), val/ and test/ loss (without smoothing), accuracy
    and, from six classes on, top5; lr a step.

    mix: blends the images of a training batch and gives labels (B, num_classes), see `mixing`; the training accuracy is
        then that of the first of the blended labels.
    metadata: what a weights file would say of classes and preprocessing; checkpoints keep it.

    After `trainer.validate` or `trainer.test`: `tally` sums up the part that was judged, over all processes; after a
    test `answered` holds answer (int64), confidence (float32) and label, three tensors (n,) a batch, of the images that
    this process saw.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optim: OptimConfig,
        num_classes: int,
        mix: Mix | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.mix = mix
        self.metadata = dict(metadata or {})
        self.tally: Tally | None = None
        self.answered: list[tuple[Tensor, Tensor, Tensor]] = []
        self.model = model
        self.optim = optim
        self.num_classes = num_classes
        names = [f"{split}_{metric}" for split in ("train", "val", "test") for metric in ("loss", "accuracy", "top5")]
        self.means = nn.ModuleDict({name: MeanMetric() for name in names})

    def take_over(self, tested: "ClassificationTask") -> None:
        """See `ShardableModule`."""
        self.tally, self.answered = tested.tally, tested.answered

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes)."""
        return self.model(images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        targets = labels
        if self.mix is not None:
            images, targets = self.mix(images, labels)
        logits = self(images)
        loss = F.cross_entropy(logits, targets, label_smoothing=self.optim.label_smoothing)
        self._record("train", loss.detach(), logits.detach(), labels)
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"], on_step=True, on_epoch=False)
        return loss

    def on_validation_epoch_start(self) -> None:
        self.tally = None

    def on_test_epoch_start(self) -> None:
        self.tally, self.answered = None, []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch)

    def on_validation_epoch_end(self) -> None:
        self._sum_tallies()

    def on_test_epoch_end(self) -> None:
        self._sum_tallies()

    def _sum_tallies(self) -> None:
        """Each process has seen its share of the part."""
        if self.tally is not None:
            self.tally = reduce(add, gather(self.tally))

    def _evaluate(self, split: str, batch: Batch) -> None:
        images, labels = batch
        logits = self(images)
        self._record(split, F.cross_entropy(logits, labels), logits, labels)
        if self.trainer.validating or self.trainer.testing:  # not after each epoch of a training, for it costs time
            batch_tally = tally(logits, labels)
            self.tally = batch_tally if self.tally is None else self.tally + batch_tally
        if self.trainer.testing:
            confidence, answer = logits.detach().float().softmax(1).max(1)
            self.answered.append((answer.cpu(), confidence.cpu(), labels.cpu()))

    def _record(self, split: str, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        values = {"loss": loss.expand(len(labels)), "accuracy": (logits.argmax(1) == labels).float()}
        if self.num_classes > 5 and split != "train":
            values["top5"] = (logits.topk(5, dim=1).indices == labels[:, None]).any(1).float()
        for name, value in values.items():
            metric = self.means[f"{split}_{name}"]
            assert isinstance(metric, MeanMetric)
            metric.update(value)
            self.log(f"{split}/{name}", metric, on_step=False, on_epoch=True, prog_bar=name != "top5")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds "metadata", so that a checkpoint can be judged on data with other classes than its own."""
        checkpoint["metadata"] = self.metadata

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer of `optim`, with the schedule stepped every optimizer step."""
        return configure(self.model, self.optim, self.trainer)
