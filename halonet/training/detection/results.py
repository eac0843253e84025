"""What a detection run leaves behind: weights, detections, figures and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from halonet.analysis.detection_pictures import JudgedPicture, plot_ap_curve, plot_detections
from halonet.analysis.plots import plot_curves
from halonet.analysis.score import Score
from halonet.data import Split
from halonet.data.coco import Category
from halonet.detection.checkpoints import save_detector
from halonet.detection.evaluation import Evaluation
from halonet.detection.results import plain_figures
from halonet.files import replacing
from halonet.training.detection.datamodule import DetectionDataModule
from halonet.training.detection.module import DetectionTask
from halonet.training.files import WEIGHTS
from halonet.training.judgement import Judgement

DETECTIONS = "detections.json"
PICTURES = "detections.png"
PRECISION = "precision.png"
CURVES = "curves.png"
CURVE_LABELS = {"loss": "sum of the detector's losses", "trained": "train"}
SHOWN_IMAGES = 4


@dataclass(frozen=True)
class DetectionJudgement(Judgement):
    """See `Judgement`; evaluation: with what the figures are means of. results: in COCO's form."""

    evaluation: Evaluation
    results: Sequence[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """See `Judgement`; with the average precision of each category."""
        return {**super().to_dict(), "per_category": per_category(self.evaluation)}

    def write(self, folder: Path) -> list[str]:
        """See `Judgement`; detections.json, precision.png."""
        return [*super().write(folder), *write_detections(self.results, self.evaluation, folder)]


def per_category(evaluation: Evaluation) -> dict[str, dict[str, float | None]]:
    """As JSON has it: None where there is nothing to find."""
    return {name: plain_figures(figures) for name, figures in evaluation.per_category.items()}


def write_detections(results: Sequence[dict[str, Any]], evaluation: Evaluation, folder: Path) -> list[str]:
    """Detections in COCO's results form, which pycocotools and COCO's server read, and their precision over recall."""
    with replacing(folder / DETECTIONS) as beside:
        beside.write_text(json.dumps(list(results)), encoding="utf-8")
    plot_ap_curve(evaluation.curves, folder / PRECISION)
    return [DETECTIONS, PRECISION]


def write_weights(model: nn.Module, folder: Path, *, categories: Sequence[Category], extra: Mapping[str, str]) -> None:
    """The detector, with the categories that `halonet predict` names."""
    named = json.dumps([{"id": category.id, "name": category.name} for category in categories])
    save_detector(model, folder / WEIGHTS, metadata={"categories": named, **extra})


def draw_pictures(
    task: DetectionTask, data: DetectionDataModule, history: Sequence[dict[str, float]], folder: Path, *, score: Score
) -> None:
    """curves.png, and detections.png of some test images."""
    plot_curves(history, folder / CURVES, score=score, **CURVE_LABELS)
    samples = judged_pictures(task, data, "test")
    names = [category.name for category in data.source.categories]
    plot_detections(samples, folder / PICTURES, names=names)


@torch.inference_mode()
def judged_pictures(task: DetectionTask, data: DetectionDataModule, split: Split) -> list[JudgedPicture]:
    """The first images of a part with their truth and what the detector tells."""
    task.model.eval()
    device = next(task.model.parameters()).device
    dataset = data.dataset(split)
    pictures = []
    for index in range(min(SHOWN_IMAGES, len(dataset))):
        image, target = dataset[index]
        told = task.model([image.to(device)])[0]
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        answers = {name: value.float().cpu() for name, value in told.items()}
        truth = {name: target[name] for name in ("boxes", "labels", "masks")}
        pictures.append(JudgedPicture(pixels, truth, answers, name=f"image {int(target['image_id'])}"))
    return pictures
