"""The task of naming images: its parts, its score, what it leaves behind."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from torch import nn

import halonet
from halonet.analysis.score import Score
from halonet.data import ImageSource, Preprocessing, open_source
from halonet.models.checkpoints import load_model, load_weights
from halonet.training.attention_callbacks import attention_callbacks
from halonet.training.classification.datamodule import ImageDataModule
from halonet.training.classification.module import ClassificationTask, mixing
from halonet.training.classification.results import draw_pictures, predict_test, write_weights
from halonet.training.config import DataConfig, RunConfig
from halonet.training.task import Parts, TaskKind
from halonet.training.unreadable import ReportUnreadable


@dataclass(frozen=True)
class ClassificationParts(Parts):
    """`Parts` with the images' source and how they are prepared."""

    source: ImageSource
    preprocessing: Preprocessing


class Classification(TaskKind):
    """Naming the class of an image."""

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

    def from_weights(self, config: RunConfig, weights: Path) -> ClassificationParts:
        """See `TaskKind`; the classes of the weights must be those of the data."""
        model, metadata = load_model(weights)
        source = open_source(config.data)
        _check_classes(json.loads(metadata.get("class_names", "null")), source, weights)
        if "img_size" in metadata and config.data.img_size is None:
            preprocessing = Preprocessing.from_metadata(metadata)
            if config.data.crop_pct is not None:
                preprocessing = replace(preprocessing, crop_pct=config.data.crop_pct)
            if preprocessing.in_chans != source.in_chans:
                raise ValueError(
                    f"data.in_chans: {weights} reads {preprocessing.in_chans} channels, the data have {source.in_chans}"
                )
        else:
            card: Any = model.default_cfg
            preprocessing = preprocessing_for(source, config=config.data, card=dict(card))
        return assemble(model, source=source, preprocessing=preprocessing, config=config, notes=[])

    def threads(self, config: RunConfig) -> int | None:
        """One for the digits, whose network is so small, unless told."""
        return config.trainer.threads or (1 if config.data.root is None else None)

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
        counts = ", ".join(f"{count} {name}" for name, count in parts.counts.items())
        side, in_chans = parts.preprocessing.img_size, parts.preprocessing.in_chans
        return f"{parts.data_name}: {counts} images of {parts.source.num_classes} classes, as {side}x{side}x{in_chans}"

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
        predictions = predict_test(parts.model, parts.data, limit=config.trainer.limit_test_batches)
        draw_pictures(parts.model, parts.data, predictions, history, folder, score=self.score)
        return {}


def _check_classes(class_names: list[str] | None, source: ImageSource, weights: Path) -> None:
    if class_names is None or tuple(class_names) == source.class_names:
        return
    if len(class_names) != source.num_classes:
        raise ValueError(f"{weights} tells {len(class_names)} classes apart, the data have {source.num_classes}")
    raise ValueError(
        f"{weights} knows the classes {', '.join(class_names[:5])}, the data {', '.join(source.class_names[:5])}"
    )


def build(config: RunConfig) -> ClassificationParts:
    """Open the data, make the model for its classes, seeded by `config.seed`. Raises ValueError for whatever
    does not fit."""
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
    task = ClassificationTask(model, optim=config.optim, num_classes=source.num_classes, mix=mix)
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
