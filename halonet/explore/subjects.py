"""A model that was opened, with what it makes of a picture before it reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from halonet.analysis.subjects import preprocessing_of_row
from halonet.data import Preprocessing, eval_transform
from halonet.data.images import to_mode
from halonet.data.pixels import Normalized
from halonet.data.stereo import MEAN, STD
from halonet.detection import create_detector, load_detector
from halonet.detection.checkpoints import category_names
from halonet.explore.choices import CLASSIFICATION, STEREO, Choice, with_changes
from halonet.explore.pictures import MOST_SIDE, Picture
from halonet.models import create_model
from halonet.models.checkpoints import DETECTION, load_model, resized

MOST_RESIZED = 16 * MOST_SIDE**2  # pixels of a picture before its middle is cut out


@dataclass(frozen=True)
class Subject:
    """model: in evaluation mode, on the CPU. changes: dials that were turned. names: of classes or categories in the
    order of the model's answers; None where nothing tells them."""

    choice: Choice
    model: nn.Module
    changes: dict[str, int]
    names: tuple[str, ...] | None


@dataclass(frozen=True)
class Reading:
    """A picture as a model reads it.

    image: (1, C, H, W), prepared. right: the same of a pair's right picture. view: what the page shows: of a classifier
    the part that is read, else the whole picture. scale: pixels of `image` to one of `view`, down and across.
    run: called with `image` instead of the model, where its own forward wants more.
    """

    image: Tensor
    right: Tensor | None
    view: Image.Image
    scale: tuple[float, float]
    run: Callable[[Tensor], object] | None


def open_subject(choice: Choice) -> Subject:
    """The model with its weights; those of a name are drawn from seed 0. Raises ValueError where they do not fit."""
    if choice.weights is None:
        model = _built(choice, {})
    elif choice.task == DETECTION:
        model, _ = load_detector(choice.weights)
    else:
        model, _ = load_model(choice.weights)
    names = choice.metadata.get("class_names")
    told = category_names(choice.metadata) if choice.task == DETECTION else names and json.loads(names)
    return Subject(choice, model.eval(), {}, None if told is None else tuple(told))


def changed(subject: Subject, changes: dict[str, int]) -> Subject:
    """The same model with dials turned: all weights as they are, position tables interpolated to their new length.

    Raises ValueError for what cannot be changed so.
    """
    own = _built(subject.choice, changes)
    shapes = {name: tensor.shape for name, tensor in own.state_dict().items()}
    state = {name: resized(name, tensor, shapes[name]) for name, tensor in subject.model.state_dict().items()}
    own.load_state_dict(state)
    return replace(subject, model=own.eval(), changes=dict(changes))


def _built(choice: Choice, changes: dict[str, int]) -> nn.Module:
    arguments = with_changes(choice, changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if choice.task == DETECTION:
            return create_detector(choice.name, **arguments)
        return create_model(choice.name, **arguments)


def read(subject: Subject, picture: Picture, right: Picture | None, *, side: int | None, whole: bool) -> Reading:
    """The picture as the model reads it.

    Args:
        subject: the model.
        picture: what is looked at.
        right: the right one of a pair; None: the left one once more.
        side: of a classifier the side of what it reads, or with `whole` the shorter one; of the others what the shorter
            side of the picture is resized to; None: as the weights were trained, or the picture's own.
        whole: a classifier reads the whole picture, not the square in the middle.

    Raises:
        ValueError: a side out of range, or the two of a pair of different sizes.
    """
    if side is not None and not 1 <= side <= MOST_SIDE:
        raise ValueError(f"img_size: expected 1 to {MOST_SIDE} pixels, got {side}")
    if subject.choice.task == CLASSIFICATION:
        return _for_classifier(subject, picture.image, side=side, whole=whole)
    image = picture.image if side is None else _of_shorter_side(picture.image, side)
    if subject.choice.task == DETECTION:
        return _for_detector(subject.model, image)
    other = image
    if right is not None:
        if right.image.size != picture.image.size:
            sizes = (f"{one.image.width} x {one.image.height}" for one in (picture, right))
            raise ValueError(f"a pair must have one size, got {' and '.join(sizes)}")
        other = right.image.resize(image.size)
    normalize = Normalized(mean=MEAN, std=STD)
    any_model: Any = subject.model
    return Reading(normalize(image)[None], normalize(other)[None], image, (1.0, 1.0), any_model.features)


def preprocessing_of(subject: Subject) -> Preprocessing:
    """How a classifier wants its pictures: as its weights tell, else as its row."""
    if "img_size" in subject.choice.metadata:
        return Preprocessing.from_metadata(subject.choice.metadata)
    return preprocessing_of_row(subject.model)


def _for_classifier(subject: Subject, image: Image.Image, *, side: int | None, whole: bool) -> Reading:
    wanted = preprocessing_of(subject)
    if side is not None:
        wanted = replace(wanted, img_size=side)
    image = to_mode(image, in_chans=wanted.in_chans)
    # A narrow strip is resized as a whole before its middle is cut out.
    if not whole and wanted.short_side**2 * max(image.size) > MOST_RESIZED * min(image.size):
        width, height = image.size
        told = f"picture: {width} x {height} pixels are too narrow for a square of {wanted.img_size} pixels"
        raise ValueError(f"{told}: let the model read the whole picture, or a smaller one")
    if whole:
        view = _of_shorter_side(image, wanted.img_size)
        tensor = Normalized(mean=wanted.mean, std=wanted.std)(view)
    else:
        cut = [v2.Resize(wanted.short_side, interpolation=wanted.filter), v2.CenterCrop(wanted.img_size)]
        view = v2.Compose(cut)(image)
        tensor = eval_transform(wanted)(image)
    return Reading(tensor[None], None, view.convert("RGB"), (1.0, 1.0), None)


def _for_detector(model: nn.Module, image: Image.Image) -> Reading:
    any_model: Any = model
    plain = Normalized(mean=(0.0,) * 3, std=(1.0,) * 3)(image)
    images, _ = any_model.transform([plain])
    (height, width), (given_height, given_width) = images.image_sizes[0], plain.shape[-2:]
    scale = (height / given_height, width / given_width)
    return Reading(images.tensors, None, image, scale, any_model.backbone)


def _of_shorter_side(image: Image.Image, side: int) -> Image.Image:
    """Resized; no side becomes longer than `MOST_SIDE`."""
    share = min(side / min(image.size), MOST_SIDE / max(image.size))
    size = (max(1, round(share * image.width)), max(1, round(share * image.height)))
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


@torch.inference_mode()
def disparity_of(subject: Subject, reading: Reading) -> Tensor:
    """(H, W) pixels of the left picture."""
    assert subject.choice.task == STEREO
    pixels: Tensor = subject.model(reading.image, reading.right)[0].float()
    return pixels


@torch.inference_mode()
def objects_of(subject: Subject, reading: Reading) -> dict[str, Any]:
    """A detector's answer in pixels of the view, as arrays: boxes, labels, scores and, where it tells them, masks."""
    image = Normalized(mean=(0.0,) * 3, std=(1.0,) * 3)(reading.view)
    (answer,) = subject.model([image])
    return {name: values.numpy() for name, values in answer.items()}


@torch.inference_mode()
def probabilities_of(subject: Subject, reading: Reading) -> Tensor:
    """(classes,) of a classifier."""
    logits: Tensor = subject.model(reading.image)
    return F.softmax(logits[0].float(), dim=0)
