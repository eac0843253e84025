"""A picture and a model in, what the model's attention does with it out: what `halonet explain` writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from halonet.analysis.attention.mechanisms import KINDS
from halonet.analysis.attention.pictures import MOST_COLUMNS, plot_attention, plot_rollout, plot_statistics
from halonet.analysis.attention.record import AttentionRecord, LayerRecord, record_attention
from halonet.analysis.attention.rollout import attention_rollout
from halonet.analysis.attention.statistics import NAMES, Statistics, even_grid, layer_statistics
from halonet.analysis.basis_masks import plot_basis
from halonet.analysis.overlay import contrasting_pixels, for_the_eye
from halonet.analysis.subjects import Subject, subject_of
from halonet.files import replacing
from halonet.ops.checks import check_choice
from halonet.ops.local_attention.backends import BACKENDS

Pixel = tuple[int, int]


def explain(
    images: Sequence[Path],
    out: Path,
    *,
    weights: Path | None = None,
    model: str | None = None,
    img_size: int | None = None,
    layer: Sequence[str] | None = None,
    queries: Sequence[Pixel] = (),
    head: int | None = None,
    backend: str | None = None,
    rollout: bool = False,
    basis: bool = False,
    masks: int = 3,
) -> list[Path]:
    """Draws where pixels of one picture attend, with statistics of the layers and the numbers beside it.

    Args:
        images: pictures; one, but for basis masks.
        out: the PNG. Beside it go NAME_statistics.png, NAME_rollout.png where asked for, and NAME.npz (see `numbers`).
        weights: a safetensors file that `halonet fit` wrote.
        model: or a name, with random weights; see `halonet.analysis.subjects.subject_of`.
        img_size: side of pictures, as there.
        layer: names of the layers to show; by default all, or six evenly chosen.
        queries: (x, y) pixels of the picture as the model reads it; by default three with contrast.
        head: the one to show, from 0; by default their mean.
        backend: of the attention layers, in the forward pass and the rollout; the model's own if None.
        rollout: whether to draw attention rollout of the queries, from the last layer shown.
        basis: draw masks of factorized attention (Shen et al., figure 7) instead, as the PNG alone.
        masks: how many.

    Returns:
        The files written.

    Raises:
        ValueError: what `subject_of` raises, out ending in .npz or the image itself, more than one picture for queries,
            an unknown layer, head or backend, a query outside the picture, a model that does not attend so, or a
            rollout that cannot be.
    """
    if out.suffix == ".npz":
        raise ValueError(f"out must be the name of the picture, got {out}; the numbers are named after it")
    if any(path.resolve() == out.resolve() for path in images):
        raise ValueError(f"out must be another file than the image, got {out} for both")
    if not basis and len(images) != 1:
        raise ValueError(f"expected one image where queries attend, got {len(images)}; several are for basis masks")
    if basis and layer is not None and len(layer) != 1:
        raise ValueError(f"expected one layer for basis masks, got {len(layer)}")
    if basis and (queries or rollout or head is not None):
        raise ValueError("queries, rollout and head are of attention, got them with basis")
    subject = subject_of(weights=weights, model=model, img_size=img_size)
    if backend is not None:
        _set_backend(subject.model, backend)
    tensors = [subject.prepare(path) for path in images]
    if basis:
        colours: dict[str, Any] = {"mean": subject.mean, "std": subject.std}
        name = None if layer is None else layer[0]
        plot_basis(subject.model, tensors, out, layer=name, masks=masks, run=subject.run, **colours)
        return [out]
    _check_queries(queries, tensors[0])
    pixels = [(row, column) for column, row in queries] or contrasting_pixels(tensors[0])
    return _explain(subject, tensors[0], pixels, out, layer, head, rollout)


def _explain(
    subject: Subject,
    image: Tensor,
    pixels: Sequence[Pixel],
    out: Path,
    layers: Sequence[str] | None,
    head: int | None,
    rolls: bool,
) -> list[Path]:
    record = record_attention(subject.model, image[None], run=subject.run)
    picture = for_the_eye(image, subject.mean, subject.std)
    shown = record.chosen(layers, MOST_COLUMNS)
    # First, for it may be refused.
    relevance = attention_rollout(record, pixels, layer=shown[-1].name) if rolls else None
    plot_attention(record, picture, pixels, out, layers=[layer.name for layer in shown], head=head)
    files = [out, _beside(out, "_statistics.png")]
    grid = even_grid(record.image_size)
    found = {name: layer_statistics(layer, grid) for name, layer in record.layers.items()}
    plot_statistics(found, record.layers, files[1], queries=len(grid))
    if relevance is not None:
        files.append(_beside(out, "_rollout.png"))
        plot_rollout(picture, pixels, relevance, files[-1], label=shown[-1].label)
    files.append(_beside(out, ".npz"))
    with replacing(files[-1]) as beside, beside.open("wb") as file:
        np.savez_compressed(file, **numbers(record, pixels, shown, found, grid, relevance))
    return files


def numbers(
    record: AttentionRecord,
    pixels: Sequence[Pixel],
    shown: Sequence[LayerRecord],
    found: dict[str, Statistics],
    grid: Sequence[Pixel],
    relevance: Tensor | None,
) -> dict[str, Any]:
    """What `halonet explain` writes as NPZ, by key; every head by itself.

    With L layers, Q queries, and per layer N heads, G global tokens and a map of h x w:

        image_size           (2,)           H and W of what the model read
        pixels               (Q, 2)         that asked, row and column
        layers, labels, mechanisms (L,)     names, in the order of running, and what they are, text
        shown                               names of those layers that follow
        weights/NAME         (Q, N, h, w)   on the map
        tokens/NAME          (Q, N, G)      on the global tokens
        outside/NAME         (Q, N)         on the zeros outside the map
        frames/NAME          (Q, 2, 2, 2)   block and all that is seen, top left and bottom right, row and column in
                                            pixels of the image; of layers with blocks
        statistics/FIELD     (L, most N)    each field of `Statistics`; NaN where there is no such head or number
        statistics_pixels    (P, 2)         whose means they are
        rollout              (Q, H, W)      where asked for, with rollout_layer, the name of the layer asked
    """
    names = list(record.layers)
    told: dict[str, Any] = {
        "image_size": np.array(record.image_size),
        "pixels": np.array(pixels),
        "layers": np.array(names),
        "labels": np.array([layer.label for layer in record.layers.values()]),
        "mechanisms": np.array([layer.mechanism for layer in record.layers.values()]),
        "shown": np.array([layer.name for layer in shown]),
        "statistics_pixels": np.array(grid),
    }
    for layer in shown:
        rows = layer.at(pixels)
        told |= {f"{key}/{layer.name}": getattr(rows, key).numpy() for key in ("weights", "tokens", "outside")}
        frames = [layer.frames(pixel) for pixel in pixels]
        if layer.layout.axes is not None:
            told[f"frames/{layer.name}"] = np.array([[frame.block, frame.seen] for frame in frames if frame])
    heads = max(layer.num_heads for layer in record.layers.values())
    for name in NAMES:
        table = np.full((len(names), heads), np.nan)
        for row, one in zip(table, found.values(), strict=True):
            values = getattr(one, name).numpy()
            row[: len(values)] = values
        told[f"statistics/{name}"] = table
    if relevance is not None:
        told |= {"rollout": relevance.numpy(), "rollout_layer": np.array(shown[-1].name)}
    return told


def _check_queries(queries: Sequence[Pixel], image: Tensor) -> None:
    """Raises ValueError for a query outside the picture, in its own terms and before the model runs."""
    height, width = image.shape[-2:]
    for x, y in queries:
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(
                f"queries (x,y) must lie inside the picture as the model reads it, {width} wide and {height} high, "
                f"got {x},{y}"
            )


def _beside(out: Path, ending: str) -> Path:
    return out.with_name(out.stem + ending)


def _set_backend(model: nn.Module, backend: str) -> None:
    """Raises ValueError for an unknown backend."""
    check_choice("backend", backend, ("auto", *BACKENDS))
    for module in model.modules():
        if isinstance(module, KINDS) and hasattr(module, "backend"):
            vars(module)["backend"] = backend
