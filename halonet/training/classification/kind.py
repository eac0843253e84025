"""The task of naming images: its parts, its score, what it leaves behind."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from torch import nn

import halonet
from halonet.analysis.classification import figures
from halonet.analysis.score import Score
from halonet.data import ImageDataset, ImageSource, Preprocessing, open_source
from halonet.models.checkpoints import load_weights
from halonet.models.zoo import is_detector
from halonet.training.attention_callbacks import attention_callbacks
from halonet.training.classification.datamodule import ImageDataModule
from halonet.training.classification.judge import ClassificationJudgement, summary_figures
from halonet.training.classification.module import ClassificationTask, mixing
from halonet.training.classification.opening import Opened, open_checkpoint, open_weights
from halonet.training.classification.results import draw_pictures, joined, predict_test, weights_metadata, write_weights
from halonet.training.config import DataConfig, RunConfig
from halonet.training.judgement import Judgement
from halonet.training.task import Judging, Parts, TaskKind
from halonet.training.unreadable import ReportUnreadable


@dataclass(frozen=True)
class ClassificationParts(Parts):
    """`Parts` with the images' source and how they are prepared."""

    source: ImageSource
    preprocessing: Preprocessing


class Classification(TaskKind):
    """Naming the class of an image."""

    small_without_files = True
    score = Score(
        "accuracy",
        higher_is_better=True,
        factor=100.0,
        unit="%",
        digits=1,
        title="Accuracy",
        label="images right (%)",
        most=101,
    )

    def build(self, config: RunConfig) -> ClassificationParts:
        """See `TaskKind`."""
        return build(config)

    def from_weights(self, config: RunConfig, weights: Path, *, judging: Judging) -> ClassificationParts:
        """See `TaskKind`; the classes of the data must be among those of the weights."""
        return _assemble_opened(open_weights(config, weights, judging=judging), config)

    def from_checkpoint(self, config: RunConfig, checkpoint: Path, *, judging: Judging) -> ClassificationParts:
        """See `from_weights`."""
        return _assemble_opened(open_checkpoint(config, checkpoint, judging=judging), config)

    def figures(self, parts: ClassificationParts) -> dict[str, Any]:
        """See `TaskKind`."""
        tally = parts.task.tally
        return {} if tally is None else summary_figures(figures(tally))

    def judgement(self, parts: ClassificationParts, about: dict[str, Any], logged: dict[str, float]) -> Judgement:
        """See `TaskKind`; nothing of what is logged that the tally would not tell."""
        told = figures(parts.task.tally)
        counts = {"images": told.images, "of_images": parts.counts.get("test", told.images), "classes": told.classes}
        about = {**about, "part": parts.notes[0], **counts, "without_answer": told.without_answer}
        return ClassificationJudgement(about, summary_figures(told), told, parts.source.class_names)

    def callbacks(self, parts: ClassificationParts, config: RunConfig) -> list[lightning.Callback]:
        """What some attention layers want done while they train, and a word on images that were skipped."""
        assert isinstance(parts.data, ImageDataModule)
        return [
            ReportUnreadable(parts.data.unreadable),
            *attention_callbacks(
                parts.task,
                random_shift=config.model.random_shift,
                redraw_features=config.model.redraw_features,
                seed=config.seed,
            ),
        ]

    def introduction(self, parts: ClassificationParts) -> str:
        """See `TaskKind`."""
        side, in_chans = parts.preprocessing.img_size, parts.preprocessing.in_chans
        classes = f"{parts.source.num_classes} classes"
        return f"{parts.data_name}: {parts.counted} images of {classes}, as {side}x{side}x{in_chans}"

    def leave(
        self,
        parts: ClassificationParts,
        config: RunConfig,
        folder: Path,
        *,
        history: Sequence[dict[str, float]],
        extra: dict[str, str],
    ) -> dict[str, Any]:
        """Weights with class names and preprocessing; curves, answers and attention as pictures."""
        assert isinstance(parts.data, ImageDataModule)
        write_weights(parts.model, parts.data, folder, extra=extra)
        # The test has answered already, in the part's order unless it is a stream or shared out between processes.
        ordered = isinstance(parts.data.dataset("test"), ImageDataset) and parts.data.world_size == 1
        if parts.task.answered and ordered:
            predictions = joined(parts.task.answered)
        else:
            predictions = predict_test(parts.model, parts.data, limit=config.trainer.limit_test_batches)
        draw_pictures(parts.model, parts.data, predictions, history, folder, score=self.score)
        return {}


def build(config: RunConfig) -> ClassificationParts:
    """Open the data, make the model for its classes, seeded by `config.seed`. Raises ValueError for whatever
    does not fit."""
    if is_detector(config.model.name):
        raise ValueError(f"model.name: {config.model.name} is a detector, which --task detection trains")
    source = open_source(config.data)
    lightning.seed_everything(config.seed, workers=False, verbose=False)
    settled = {"num_classes", "in_chans", "img_size", "drop_rate", "drop_path_rate"} & set(config.model.overrides)
    if settled:
        raise ValueError(f"model.overrides: {', '.join(sorted(settled))} follows from the data and settings of its own")
    model = halonet.create_model(
        config.model.name,
        num_classes=source.num_classes,
        in_chans=source.in_chans,
        img_size=config.data.img_size or source.img_size,
        drop_rate=config.model.drop_rate,
        drop_path_rate=config.model.drop_path_rate,
        **config.model.overrides,
    )
    notes: list[str] = []
    if config.model.weights is not None:
        report = load_weights(model, config.model.weights)
        notes.append(f"started from {config.model.weights}")
        if report.replaced:
            notes.append(f"new classifier for {source.num_classes} classes")
        if report.resized:
            notes.append(f"{len(report.resized)} position tables resized")
    if config.model.zero_head:
        zero_head(model)
        notes.append("the classifier starts from zeros")
    card: Any = model.default_cfg
    preprocessing = preprocessing_for(source, config=config.data, card=dict(card))
    return assemble(model, source=source, preprocessing=preprocessing, config=config, notes=notes)


def zero_head(model: nn.Module) -> None:
    """Set weight and bias of the classifier to zero: every class is as likely as any other (HaloNet, section 4.5)."""
    classifier: Any = model.get_classifier()  # type: ignore[operator]
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.zero_()


def assemble(
    model: nn.Module,
    *,
    source: ImageSource,
    preprocessing: Preprocessing,
    config: RunConfig,
    notes: list[str],
) -> ClassificationParts:
    """Loaders and task around a model that exists."""
    card: Any = model.default_cfg
    data = ImageDataModule(
        source,
        config=config.data,
        preprocessing=preprocessing,
        randaugment=card["randaugment"],
        randaugment_form=card["randaugment_form"],
        seed=config.seed,
    )
    mix = mixing(mixup=config.data.mixup, cutmix=config.data.cutmix, num_classes=source.num_classes)
    metadata = weights_metadata(source, preprocessing)
    task = ClassificationTask(model, optim=config.optim, num_classes=source.num_classes, mix=mix, metadata=metadata)
    return ClassificationParts(
        task=task,
        data=data,
        data_name=source.name,
        counts=data.counts(limit=config.trainer.limit_train_batches),
        what="images",
        test_is_val=source.test_is_val,
        notes=tuple(notes),
        source=source,
        preprocessing=preprocessing,
    )


def _assemble_opened(opened: Opened, config: RunConfig) -> ClassificationParts:
    card: Any = opened.model.default_cfg
    preprocessing = opened.preprocessing or preprocessing_for(opened.source, config=config.data, card=dict(card))
    return assemble(opened.model, source=opened.source, preprocessing=preprocessing, config=config, notes=[opened.part])


def preprocessing_for(source: ImageSource, *, config: DataConfig, card: dict[str, Any]) -> Preprocessing:
    """The data's own statistics where it has them, the model card's otherwise; the settings before both."""
    mean, std = source.mean or tuple(card["mean"]), source.std or tuple(card["std"])
    if len(mean) != source.in_chans:
        # A colour card on grey pictures: the mean over its channels.
        mean, std = (sum(mean) / len(mean),) * source.in_chans, (sum(std) / len(std),) * source.in_chans
    return Preprocessing(
        img_size=config.img_size or source.img_size or int(card["input_size"][-1]),
        in_chans=source.in_chans,
        mean=mean,
        std=std,
        crop_pct=config.crop_pct or source.crop_pct or float(card["crop_pct"]),
        interpolation=str(card["interpolation"]),
    )
