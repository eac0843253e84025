"""From settings to the parts of a run."""

import logging
import os
import warnings
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as lightning
import torch
from torch import nn

import halonet
from halonet.data import ImageSource, Preprocessing, open_source
from halonet.models.checkpoints import load_weights
from halonet.training.classification import ClassificationTask, mixing
from halonet.training.config import DataConfig, RunConfig, TrainerConfig
from halonet.training.datamodule import ImageDataModule

# Appendix C.3: grown from H0 to H7, on TensorFlow's scale.
PAPER_RANDAUGMENT = {f"h{i}": magnitude for i, magnitude in enumerate((6, 8, 10, 14, 17, 19, 24, 31))}


@dataclass(frozen=True)
class Parts:
    """What a trainer needs. notes: lines worth telling the user."""

    source: ImageSource
    preprocessing: Preprocessing
    data: ImageDataModule
    task: ClassificationTask
    notes: tuple[str, ...]


def build(config: RunConfig) -> Parts:
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
    card: Any = model.default_cfg
    preprocessing = preprocessing_for(source, config=config.data, card=dict(card))
    return assemble(model, source=source, preprocessing=preprocessing, config=config, notes=notes)


def paper_randaugment(name: str) -> float:
    """RandAugment magnitude of the paper for a model by name, 0 for those it gives none for."""
    return float(next((PAPER_RANDAUGMENT[part] for part in name.split("_") if part in PAPER_RANDAUGMENT), 0))


def assemble(
    model: nn.Module,
    *,
    source: ImageSource,
    preprocessing: Preprocessing,
    config: RunConfig,
    notes: list[str],
) -> Parts:
    """Loaders and task around a model that exists."""
    data = ImageDataModule(
        source,
        config=config.data,
        preprocessing=preprocessing,
        randaugment=paper_randaugment(config.model.name),
        seed=config.seed,
    )
    mix = mixing(mixup=config.data.mixup, cutmix=config.data.cutmix, num_classes=source.num_classes)
    task = ClassificationTask(model, optim=config.optim, num_classes=source.num_classes, mix=mix)
    return Parts(source, preprocessing, data, task, tuple(notes))


def limit_threads(config: RunConfig) -> None:
    """Apply TrainerConfig.threads to this process."""
    threads = config.trainer.threads or (1 if config.data.root is None else None)
    if threads is not None:
        torch.set_num_threads(threads)


def preprocessing_for(source: ImageSource, *, config: DataConfig, card: dict[str, Any]) -> Preprocessing:
    """The data's own statistics where it has them, the model card's otherwise."""
    mean, std = source.mean or tuple(card["mean"]), source.std or tuple(card["std"])
    if len(mean) != source.in_chans:
        # A colour card on grey pictures: the mean over its channels.
        mean, std = (sum(mean) / len(mean),) * source.in_chans, (sum(std) / len(std),) * source.in_chans
    return Preprocessing(
        img_size=config.img_size or source.img_size or int(card["input_size"][-1]),
        in_chans=source.in_chans,
        mean=mean,
        std=std,
        crop_pct=source.crop_pct or float(card.get("crop_pct") or 0.875),
    )


def make_trainer(config: TrainerConfig, **rest: Any) -> lightning.Trainer:
    """A Lightning trainer with `config` and `rest`, without Lightning's own chatter. Raises ValueError in one
    line."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    # Advice about workers and logging intervals that the small default cannot follow; torch 2.15's own
    # deprecations.
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        return lightning.Trainer(
            max_epochs=config.max_epochs,
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.num_nodes,
            strategy=config.strategy,
            precision=config.precision,  # type: ignore[arg-type]
            accumulate_grad_batches=config.accumulate_grad_batches,
            gradient_clip_val=config.gradient_clip_val,
            limit_train_batches=config.limit_train_batches,
            limit_val_batches=config.limit_val_batches,
            limit_test_batches=config.limit_test_batches,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=10,
            **rest,
        )
    except (lightning.utilities.exceptions.MisconfigurationException, RuntimeError) as error:
        raise ValueError(f"trainer: {' '.join(str(error).split())}") from error
