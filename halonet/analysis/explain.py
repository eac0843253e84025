"""Pictures into a model and what its attention does with them out: what `halonet explain` draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import halonet
from halonet.analysis.attention_maps import contrasting_pixels, plot_attention
from halonet.analysis.basis_masks import plot_basis
from halonet.data import Preprocessing, eval_transform, read_image
from halonet.data.stereo import MEAN, STD, normalize
from halonet.models import create_pyramid, list_models, list_pyramids
from halonet.models.checkpoints import load_model


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


def explain(
    images: Sequence[Path],
    out: Path,
    *,
    weights: Path | None = None,
    model: str | None = None,
    img_size: int | None = None,
    basis: bool = False,
    masks: int = 3,
    layer: str | None = None,
    queries: Sequence[tuple[int, int]] = (),
) -> None:
    """Draws the basis masks of pictures, or where pixels of one picture attend, as a PNG.

    Args:
        images: pictures.
        out: the PNG.
        weights: a safetensors file that `halonet fit` wrote.
        model: or a name of `list_models` or `list_pyramids`, with random weights.
        img_size: side that pictures are cut to, of a pyramid or stereo network the shorter side; by default the model's
            own, and pictures as they are.
        basis: masks of factorized attention (Shen et al., figure 7); else attention of queries.
        masks: how many.
        layer: the one to show; by default the one with the largest map, or with queries all or six of them.
        queries: (x, y) pixels of the picture as the model reads it; by default three with contrast.

    Raises:
        ValueError: neither or both of weights and model, more than one picture for queries, an unknown name, or a
            model that does not attend so.
    """
    if (weights is None) == (model is None):
        raise ValueError(f"expected weights or a model, got {'neither' if weights is None else 'both'}")
    if not basis and len(images) != 1:
        raise ValueError(f"expected one image where queries attend, got {len(images)}; several are for basis masks")
    subject = _from_weights(weights, img_size) if weights is not None else _from_name(str(model), img_size)
    tensors = [subject.prepare(path) for path in images]
    colours: dict[str, Any] = {"mean": subject.mean, "std": subject.std}
    if basis:
        plot_basis(subject.model, tensors, out, layer=layer, masks=masks, run=subject.run, **colours)
        return
    if subject.run is not None:
        raise ValueError("attention of queries is drawn of models that classify; this one has basis masks alone")
    pixels = [(row, column) for column, row in queries] or contrasting_pixels(tensors[0])
    layers = None if layer is None else [layer]
    plot_attention(subject.model, tensors[0][None], pixels, out, layers=layers, **colours)


def _from_weights(path: Path, img_size: int | None) -> Subject:
    model, metadata = load_model(path)
    if metadata.get("task") == "stereo":
        return _whole_pictures(model, img_size, run=model.features)  # type: ignore[arg-type]
    preprocessing = Preprocessing.from_metadata(metadata)
    return _cut_pictures(model, preprocessing if img_size is None else _of_side(preprocessing, img_size))


def _from_name(name: str, img_size: int | None) -> Subject:
    torch.manual_seed(0)
    if name in list_pyramids():
        return _whole_pictures(create_pyramid(name), img_size)
    model = halonet.create_model(name)
    if name in list_models(task="stereo"):
        return _whole_pictures(model, img_size, run=model.features)  # type: ignore[arg-type]
    card: Any = model.default_cfg
    side = img_size or int(card["input_size"][-1])
    return _cut_pictures(model, Preprocessing(side, card["input_size"][0], card["mean"], card["std"], 1.0))


def _of_side(preprocessing: Preprocessing, side: int) -> Preprocessing:
    return Preprocessing(side, preprocessing.in_chans, preprocessing.mean, preprocessing.std, preprocessing.crop_pct)


def _cut_pictures(model: nn.Module, preprocessing: Preprocessing) -> Subject:
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
