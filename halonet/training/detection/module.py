"""The detection task: losses, average precision, optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import MeanMetric

from halonet.detection.evaluation import Evaluation, judge_results
from halonet.detection.results import coco_results, gather_results
from halonet.processes import gather
from halonet.training.config import OptimConfig
from halonet.training.detection.categories import ELSEWHERE
from halonet.training.optimizer import configure
from halonet.training.sharding import ShardableModule

Batch = tuple[list[Tensor], list[dict[str, Tensor]]]
# What torchvision's detectors return while they train.
_R_CNN = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")
LOSSES = {
    "maskrcnn": (*_R_CNN, "loss_mask"),
    "fasterrcnn": _R_CNN,
    "retinanet": ("classification", "bbox_regression"),
}


class DetectionTask(ShardableModule):
    """Trains `model`, a detector of `halonet.detection`, and judges it by COCO's own code.

    A batch is (list of images, list of targets), as `halonet.data.coco.collate` gives. Logged an epoch: train/loss, the
    sum that is minimized, and its parts by torchvision's names; val/ and test/ box_ap, box_ap50, ... and, of a detector
    with masks, mask_ap, ... (shares from 0 to 1; see `Evaluation`); lr a step.

    category_ids: the data's id of each label: label 1 is category_ids[0]; detections of ELSEWHERE do not count.
    masks: False: a Mask R-CNN is judged by its boxes alone, as the data have no masks.
    """

    def __init__(
        self, model: nn.Module, *, optim: OptimConfig, category_ids: Sequence[int], masks: bool = True
    ) -> None:
        super().__init__()
        self.model = model
        self.optim = optim
        self.category_ids = tuple(category_ids)
        config: Any = model.config
        self.losses: tuple[str, ...] = LOSSES[config.kind]
        self.kinds: tuple[str, ...] = ("bbox", "segm") if config.kind == "maskrcnn" and masks else ("bbox",)
        self.means = nn.ModuleDict({name: MeanMetric() for name in ("loss", *self.losses)})
        self.results: list[dict[str, Any]] = []  # of the part that was judged last, in COCO's form
        self.seen: list[int] = []  # its images
        self.evaluation: Evaluation | None = None

    @property
    def compiled_part(self) -> nn.Module:
        """What torch.compile is for: what follows the backbone depends on the boxes found, and breaks the graph."""
        part: nn.Module = self.model.backbone  # type: ignore[assignment]
        return part

    def take_over(self, tested: DetectionTask) -> None:
        """See `ShardableModule`."""
        self.results, self.seen, self.evaluation = tested.results, tested.seen, tested.evaluation

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        """Losses by name while training, else each image's boxes, labels, scores and masks."""
        return self.model(images, targets)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, targets = batch
        parts = self(images, targets)
        loss = torch.stack([parts[name].float() for name in self.losses]).sum()
        for name, value in {"loss": loss, **parts}.items():
            mean = self.means[name]
            assert isinstance(mean, MeanMetric)
            mean.update(value.detach(), len(images))
            self.log(f"train/{name}", mean, on_step=False, on_epoch=True, batch_size=len(images))
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"], on_step=True, on_epoch=False)
        return loss

    def on_validation_epoch_start(self) -> None:
        self.results, self.seen, self.evaluation = [], [], None

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, targets = batch
        ids = [int(target["image_id"]) for target in targets]
        self.seen += ids
        told = coco_results(self(images), ids, category_ids=self.category_ids, masks="segm" in self.kinds)
        self.results += [result for result in told if result["category_id"] != ELSEWHERE]

    def on_validation_epoch_end(self) -> None:
        self._judge("val")

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        self._judge("test")

    def _judge(self, split: Literal["val", "test"]) -> None:
        """The figures of what all processes saw; worked out by the first."""
        self.results = gather_results(self.results)
        self.seen = sorted({one for part in gather(self.seen) for one in part})
        figures: dict[str, float] = {}
        if self.trainer.is_global_zero:
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            self.evaluation = judge_results(
                truth_of(data.ground_truth(split), self.seen), self.results, kinds=self.kinds
            )
            figures = self.evaluation.figures
        figures = self.trainer.strategy.broadcast(figures)
        self.log_dict({f"{split}/{name}": value for name, value in figures.items()})

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer of `optim`, with its schedule stepped every optimizer step."""
        return configure(self.model, self.optim, self.trainer)


def truth_of(ground_truth: dict[str, Any], seen: Sequence[int]) -> dict[str, Any]:
    """COCO's instances of the images `seen` alone, where trainer.limit_*_batches left some out."""
    ids = set(seen)
    if len(ids) == len(ground_truth["images"]):
        return ground_truth
    return {
        **ground_truth,
        "images": [image for image in ground_truth["images"] if image["id"] in ids],
        "annotations": [one for one in ground_truth["annotations"] if one["image_id"] in ids],
    }
