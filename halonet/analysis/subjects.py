"""Models by name or file with what they read: pictures as each kind of network takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import halonet
from halonet.data import Preprocessing, eval_transform, read_image
from halonet.data.stereo import MEAN, STD, normalize
from halonet.models import create_pyramid, list_models, list_pyramids
from halonet.models.checkpoints import DETECTION, load_model, read_metadata
from halonet.models.zoo import is_detector


@dataclass(frozen=True)
class Subject:
    """A model with what it reads.

    prepare: path of a picture -> (C, H, W). mean, std: what that subtracted and divided by. run: called in place of the
    model, where its own forward wants more than a picture.
    """

    model: nn.Module
    prepare: Callable[[Path], Tensor]
    mean: Sequence[float]
    std: Sequence[float]
    run: Callable[[Tensor], object] | None = None


def subject_of(*, weights: Path | None = None, model: str | None = None, img_size: int | None = None) -> Subject:
    """A model, by one of two ways, with what it reads.

    Classifiers read a square cut from a picture, pyramids, detectors and stereo networks whole pictures. Of a detector
    the backbone runs, on the picture resized and filled up as the detector does it; of a stereo network the part that
    makes features of one picture.

    Args:
        weights: a safetensors file that `halonet fit` wrote.
        model: a name of `list_models`, `list_pyramids` or `list_detectors`, with random weights.
        img_size: side that pictures are cut to, or the shorter side of whole ones; the model's own, and of pyramids and
            stereo networks the picture's, if None.

    Raises:
        ValueError: neither or both of weights and model, an unknown name, or a file that is none of these.
    """
    if (weights is None) == (model is None):
        raise ValueError(f"expected weights or a model, got {'neither' if weights is None else 'both'}")
    return _from_weights(weights, img_size) if weights is not None else _from_name(str(model), img_size)


def _from_weights(path: Path, img_size: int | None) -> Subject:
    if read_metadata(path).get("task") == DETECTION:
        from halonet.detection import load_detector

        return _detector(load_detector(path)[0], img_size)
    model, metadata = load_model(path)
    if metadata.get("task") == "stereo":
        return _whole_pictures(model, img_size, run=model.features)  # type: ignore[arg-type]
    preprocessing = Preprocessing.from_metadata(metadata)
    return _cut_pictures(model, preprocessing, img_size)


def _from_name(name: str, img_size: int | None) -> Subject:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _with_random_weights(name, img_size)


def _with_random_weights(name: str, img_size: int | None) -> Subject:
    if is_detector(name):
        from halonet.detection import create_detector

        return _detector(create_detector(name), img_size)
    if name in list_pyramids():
        return _whole_pictures(create_pyramid(name), img_size)
    model = halonet.create_model(name)
    if name in list_models(task="stereo"):
        return _whole_pictures(model, img_size, run=model.features)  # type: ignore[arg-type]
    return _cut_pictures(model, preprocessing_of_row(model), img_size)


def preprocessing_of_row(model: nn.Module) -> Preprocessing:
    """How a classifier without weights of a training wants its pictures: as its row tells, and all of them, not the
    share that a trained one is tested on."""
    any_model: Any = model
    card = any_model.default_cfg
    channels, side = int(card["input_size"][0]), int(card["input_size"][-1])
    mean, std = (tuple(card[name])[:channels] for name in ("mean", "std"))
    return Preprocessing(side, channels, mean, std, 1.0, card.get("interpolation", "bicubic"))


def _cut_pictures(model: nn.Module, preprocessing: Preprocessing, img_size: int | None) -> Subject:
    preprocessing = replace(preprocessing, img_size=img_size or preprocessing.img_size)
    transform = eval_transform(preprocessing)

    def prepare(path: Path) -> Tensor:
        return transform(read_image(path, in_chans=preprocessing.in_chans))

    return Subject(model, prepare, preprocessing.mean, preprocessing.std)


def _whole_pictures(model: nn.Module, img_size: int | None, run: Callable[[Tensor], object] | None = None) -> Subject:
    def prepare(path: Path) -> Tensor:
        import numpy as np

        picture = read_image(path, in_chans=3)
        if img_size is not None:
            share = img_size / min(picture.size)
            picture = picture.resize((round(share * picture.width), round(share * picture.height)))
        return normalize(np.asarray(picture))

    return Subject(model, prepare, MEAN, STD, run)


def _detector(model: nn.Module, img_size: int | None) -> Subject:
    transform: Any = model.eval().transform
    if img_size is not None:
        transform.min_size, transform.fixed_size = (img_size,), None
        transform.max_size = max(transform.max_size, img_size)

    def prepare(path: Path) -> Tensor:
        import numpy as np

        pixels = torch.from_numpy(np.array(read_image(path, in_chans=3))).permute(2, 0, 1).float() / 255
        return transform([pixels])[0].tensors[0]

    return Subject(model, prepare, transform.image_mean, transform.image_std, model.backbone)  # type: ignore[arg-type]
