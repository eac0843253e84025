"""The task of finding objects: its parts, its score, what it leaves behind."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
from torch import nn

from halonet.analysis.score import Score
from halonet.data.coco import DetectionSource, open_detection_source
from halonet.detection import create_detector, init_backbone, load_detector, load_detector_weights
from halonet.detection.checkpoints import category_names
from halonet.models.checkpoints import read_weights
from halonet.training.config import RunConfig
from halonet.training.detection.categories import ids_of_labels
from halonet.training.detection.datamodule import DetectionDataModule
from halonet.training.detection.module import DetectionTask
from halonet.training.detection.results import (
    CURVE_LABELS,
    DetectionJudgement,
    draw_pictures,
    per_category,
    write_detections,
    write_weights,
)
from halonet.training.judgement import Judgement
from halonet.training.results import first_process
from halonet.training.task import Judging, Parts, TaskKind, refuse_settings
from halonet.training.unreadable import ReportUnreadable

# Settings of the sections `data` and `model` that mean something here; others must be left as they are.
DATA_SETTINGS = {"root", "batch_size", "num_workers", "val_fraction", "split_seed", "on_error", "max_error_fraction"}
MODEL_SETTINGS = {"name", "weights", "grad_checkpointing", "drop_path_rate", "overrides"}


@dataclass(frozen=True)
class DetectionParts(Parts):
    """`Parts` with the images' source."""

    source: DetectionSource


class Detection(TaskKind):
    """Boxes, classes and masks of the objects in an image."""

    small_without_files = True
    curve_labels = CURVE_LABELS
    score = Score(
        "box_ap",
        higher_is_better=True,
        factor=100.0,
        unit="%",
        digits=1,
        title="Average precision of boxes",
        label="box AP, mean over IoU 0.50 to 0.95 (%)",
        most=100.0,
    )

    def build(self, config: RunConfig) -> DetectionParts:
        """See `TaskKind`."""
        _check_settings(config)
        source = _open(config)
        lightning.seed_everything(config.seed, workers=False, verbose=False)
        model = create_detector(config.model.name, num_classes=source.num_classes, **_options(config))
        _check_masks(model, source)
        notes: list[str] = []
        if config.detection.backbone_weights is not None:
            report = init_backbone(model, config.detection.backbone_weights)
            counts = (
                f"{len(report.loaded)} tensors taken, {len(report.resized)} resized, {len(report.fresh)} start anew"
            )
            notes.append(f"backbone started from {config.detection.backbone_weights}: {counts}")
        if config.model.weights is not None:
            notes.append(_begin(model, config.model.weights, source))
        return _assemble(model, source, config, notes)

    def from_weights(self, config: RunConfig, weights: Path, *, judging: Judging) -> DetectionParts:
        """See `TaskKind`."""
        judging.refuse_choices()
        model, metadata = load_detector(weights)
        source = _open(config)
        known: Any = model.config
        ids = ids_of_labels(category_names(metadata), source, labels=known.num_classes - 1, weights=weights)
        return _assemble(model, source, config, [], category_ids=ids)

    def figures(self, parts: DetectionParts) -> dict[str, Any]:
        """See `TaskKind`."""
        evaluation = parts.task.evaluation
        return {} if evaluation is None else {"per_category": per_category(evaluation)}

    def judgement(self, parts: DetectionParts, about: dict[str, Any], logged: dict[str, float]) -> Judgement:
        """See `TaskKind`."""
        left_out = parts.counts[about["split"]] - len(parts.task.seen)
        about = {**about, "images": len(parts.task.seen), **({"left_out": left_out} if left_out else {})}
        return DetectionJudgement(about, logged, parts.task.evaluation, parts.task.results)

    def callbacks(self, parts: DetectionParts, config: RunConfig) -> list[lightning.Callback]:
        """A word on images that were skipped."""
        assert isinstance(parts.data, DetectionDataModule)
        return [ReportUnreadable(parts.data.unreadable)]

    def introduction(self, parts: DetectionParts) -> str:
        """See `TaskKind`."""
        return f"{parts.data_name}: {parts.counted} images with objects of {len(parts.source.categories)} categories"

    def leave(
        self,
        parts: DetectionParts,
        config: RunConfig,
        folder: Path,
        *,
        history: Sequence[dict[str, float]],
        extra: dict[str, str],
    ) -> dict[str, Any]:
        """Weights; the test's detections in COCO's form; curves, precision and detections as pictures."""
        assert isinstance(parts.data, DetectionDataModule)
        assert parts.task.evaluation is not None
        write_weights(parts.model, folder, categories=parts.source.categories, extra=extra)
        write_detections(parts.task.results, parts.task.evaluation, folder)
        draw_pictures(parts.task, parts.data, history, folder, score=self.score)
        return {}


def _open(config: RunConfig) -> DetectionSource:
    data = config.data
    source = open_detection_source(
        config.detection, root=data.root, val_fraction=data.val_fraction, split_seed=data.split_seed
    )
    if source.warning and first_process():
        print(source.warning, file=sys.stderr, flush=True)
    return source


def _check_masks(model: Any, source: DetectionSource) -> None:
    if model.config.kind == "maskrcnn" and not source.has_masks:
        raise ValueError(
            f"model.name: {model.model_name} is a Mask R-CNN, but {source.name} has a part without segmentations; "
            "expected a detector of boxes alone: fasterrcnn_*, retinanet_* or fasterrcnn/BACKBONE"
        )


def _begin(model: nn.Module, weights: str, source: DetectionSource) -> str:
    """Loads the weights that a run starts from; returns a word on it."""
    known = category_names(read_weights(weights)[1])
    others = known is not None and known != [category.name for category in source.categories]
    report = load_detector_weights(model, weights, other_classes=others)
    anew = f"; other categories: {len(report.replaced)} tensors start anew" if report.replaced else ""
    return f"started from {weights}{anew}"


def _options(config: RunConfig) -> dict[str, Any]:
    """Of `create_detector`: the overrides, with the stochastic depth among the backbone's options."""
    options = dict(config.model.overrides)
    if config.model.drop_path_rate is not None:
        given = options.get("backbone_options", {})
        options["backbone_options"] = {**given, "drop_path_rate": config.model.drop_path_rate}
    return options


def _check_settings(config: RunConfig) -> None:
    """Refuse what would be passed over in silence."""
    if "num_classes" in config.model.overrides:
        raise ValueError("model.overrides: num_classes follows from the data")
    if config.model.weights is not None and config.detection.backbone_weights is not None:
        raise ValueError("model.weights, detection.backbone_weights: expected one of them, got both")
    refuse_settings(config, task="detection", data=DATA_SETTINGS, model=MODEL_SETTINGS)


def _assemble(
    model: nn.Module,
    source: DetectionSource,
    config: RunConfig,
    notes: Sequence[str],
    *,
    category_ids: Sequence[int] | None = None,
) -> DetectionParts:
    known: Any = model.config
    ids = [category.id for category in source.categories] if category_ids is None else category_ids
    return DetectionParts(
        task=DetectionTask(model, optim=config.optim, category_ids=ids, masks=source.has_masks),
        data=DetectionDataModule(
            source, config=config.data, detection=config.detection, largest=known.max_size, seed=config.seed
        ),
        data_name=source.name,
        counts={name: len(part) for name, part in source.splits.items()},
        what="images",
        test_is_val=source.test_is_val,
        notes=tuple(notes),
        source=source,
    )
