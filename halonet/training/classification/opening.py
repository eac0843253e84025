"""A model that is judged, with its images labelled by its own classes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from halonet.data import ImageSource, Preprocessing, open_source
from halonet.models.checkpoints import load_model
from halonet.models.zoo import create_model
from halonet.ops.local_attention.backends import BACKENDS
from halonet.training.checkpointing import read_checkpoint
from halonet.training.classification.judged_data import judged_data, with_classes_of
from halonet.training.config import DataConfig, RunConfig
from halonet.training.task import Judging


@dataclass(frozen=True)
class Opened:
    """model; source: its three parts are all the images to judge, its classes the model's; preprocessing: None where
    the file says none; part: says in words which images these are."""

    model: nn.Module
    source: ImageSource
    preprocessing: Preprocessing | None
    part: str


def open_weights(config: RunConfig, weights: Path, *, judging: Judging) -> Opened:
    """Of a safetensors file. Raises ValueError where it, the data or the backend do not fit."""
    model, metadata = load_model(weights, **_backend(judging))
    return _with_data(model, metadata, config.data, weights, judging=judging)


def open_checkpoint(config: RunConfig, checkpoint: Path, *, judging: Judging) -> Opened:
    """The same for a checkpoint, whose state is not loaded yet; `config` says which model it is of."""
    metadata = read_checkpoint(checkpoint).get("metadata") or {}
    sizes: dict[str, Any]
    if metadata:
        trained = Preprocessing.from_metadata(metadata)
        sizes = {"in_chans": trained.in_chans, "img_size": trained.img_size}
    else:  # written before checkpoints told their classes: they are those of the data
        source = open_source(config.data)
        sizes = {"in_chans": source.in_chans, "img_size": config.data.img_size or source.img_size}
        metadata = {"class_names": json.dumps(source.class_names)}
    arguments = {**config.model.overrides, **_backend(judging)}
    model = create_model(config.model.name, num_classes=len(_class_names(metadata) or ()), **sizes, **arguments)
    return _with_data(model, metadata, config.data, checkpoint, judging=judging)


def _with_data(
    model: nn.Module, metadata: Mapping[str, str], config: DataConfig, file: Path, *, judging: Judging
) -> Opened:
    any_model: Any = model
    class_names = _class_names(metadata)
    preprocessing = _preprocessing(metadata, config)
    in_chans = preprocessing.in_chans if preprocessing else int(any_model.default_cfg["input_size"][0])
    if config.in_chans not in (None, in_chans):
        raise ValueError(f"data.in_chans: {file} reads {in_chans} channels, got {config.in_chans}")
    data = judged_data(config, weights=file, split=judging.split, part=judging.part)
    source = with_classes_of(
        data,
        class_names,
        class_ids=json.loads(metadata.get("class_ids", "null")),
        num_classes=any_model.num_classes,
        class_map=config.class_map,
        weights=file.name,
    )
    return Opened(model, replace(source, in_chans=in_chans), preprocessing, data.part)


def _class_names(metadata: Mapping[str, str]) -> Sequence[str] | None:
    names: Sequence[str] | None = json.loads(metadata.get("class_names", "null"))
    return names


def _preprocessing(metadata: Mapping[str, str], config: DataConfig) -> Preprocessing | None:
    """What the file says, but for what is asked for."""
    if "img_size" not in metadata:
        return None
    told = Preprocessing.from_metadata(metadata)
    return replace(told, img_size=config.img_size or told.img_size, crop_pct=config.crop_pct or told.crop_pct)


def _backend(judging: Judging) -> dict[str, str]:
    if judging.backend is None:
        return {}
    if judging.backend not in ("auto", *BACKENDS):
        raise ValueError(f"--backend: expected one of auto, {', '.join(BACKENDS)}, got {judging.backend!r}")
    return {"backend": judging.backend}
