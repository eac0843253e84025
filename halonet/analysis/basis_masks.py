"""The basis masks that factorized attention makes of images, and a picture of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from halonet.analysis.attention.watching import at_layers
from halonet.analysis.overlay import draw_heat, for_the_eye
from halonet.analysis.plots import save_figure, start_figure
from halonet.layers import FactorizedAttention
from halonet.ops.checks import check_choice, check_positive

CELL, LOWEST_CELL, HIGHEST_CELL = 2.2, 0.6, 4.5  # inches


def basis_masks(
    model: nn.Module, images: Tensor, *, run: Callable[[Tensor], object] | None = None
) -> dict[str, Tensor]:
    """The masks of every factorized attention that reads a map (Shen et al., section 4.1.7).

    Args:
        model: any model with `FactorizedAttention`s; run in evaluation mode, without gradients, and left as it was.
        images: (B, C, H, W), prepared as the model expects.
        run: called with the images instead of the model, for one whose own forward wants more: the method of a stereo
            network that makes features of one image.

    Returns:
        By name of the layer, in the order of running: (B, N * D, h, w) float32 masks over the layer's map, head after
        head, on the images' device. Of the kind "gaussian" each sums to 1; of the kind "dot" they have signs. Of a
        layer that runs more than once it is the first time; layers that read volumes or tokens are left out.

    Raises:
        ValueError: images of another rank or none, or no such layer that ran.
    """
    if images.ndim != 4 or not images.shape[0]:
        raise ValueError(f"images must be (B, C, H, W), B at least 1, got {tuple(images.shape)}")
    masks: dict[str, Tensor] = {}
    for name, seen in at_layers(model, images, FactorizedAttention, _masks_of_map, run=run):
        if seen is not None:
            masks.setdefault(name, seen)
    if not masks:
        raise ValueError(f"model must run FactorizedAttention on maps, got a {type(model).__name__} that does not")
    return masks


def plot_basis(
    model: nn.Module,
    images: Tensor | Sequence[Tensor],
    path: str | Path,
    *,
    layer: str | None = None,
    masks: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    run: Callable[[Tensor], object] | None = None,
) -> None:
    """Draws basis masks over the images as a PNG, as figure 7 of Shen et al.: a row an image, a column a mask.

    A column is the same mask of the basis in every row. Shown are those that `most_different` names, each scaled to
    its own largest value. Titles count heads and masks from 0: head 1, mask 17 is `layer.basis_masks(x)[:, 1, 17]`.

    Args:
        model: as in `basis_masks`.
        images: (B, C, H, W), or (C, H, W) each of its own size; 1 or 3 channels. Each is run by itself.
        path: file to write; written beside and renamed.
        layer: name of the layer; by default the one with the largest map, the first among equals.
        masks: how many to show; all where there are fewer.
        mean: with `std`, what was subtracted from each channel when the images were prepared; without them each is
            stretched from its smallest to its largest value.
        std: what they were divided by.
        run: as in `basis_masks`.

    Raises:
        ValueError: as `basis_masks`, images that are not grey or RGB, an unknown layer, `masks` below 1, or `mean` and
            `std` that do not fit.
    """
    check_positive("masks", masks)
    _check_images(images)
    pictures = [for_the_eye(image, mean, std) for image in images]
    found = [basis_masks(model, image.unsqueeze(0), run=run) for image in images]
    if layer is None:
        sizes = {name: sum(of_image[name][0, 0].numel() for of_image in found) for name in found[0]}
        layer = max(sizes, key=sizes.__getitem__)
    check_choice("layer", layer, list(found[0]))
    rows = [of_image[layer][0].cpu() for of_image in found]
    attention = model.get_submodule(layer)
    assert isinstance(attention, FactorizedAttention)
    figure = _draw(pictures, rows, most_different(rows, masks), layer, attention)
    save_figure(figure, path)


def most_different(masks: Sequence[Tensor], count: int) -> list[int]:
    """The masks that differ most from each other and from an even one.

    The first is the least even one, by its Kullback-Leibler divergence from even weights. Each further one is as far
    as can be from the nearest of those taken before and of the even mask. Far means the share of the weight that lies
    elsewhere, and m and -m are one mask, since coefficients have signs too. Both measures are means over the images.

    Args:
        masks: of each image (M, h, w), one M, any sizes.
        count: how many to take.

    Returns:
        Indices in the order taken, `count` or M of them; the lower one among equals.
    """
    shares = [_shares(of_image) for of_image in masks]
    uneven = torch.stack([torch.special.xlogy(p.abs(), p.abs() * p.shape[1]).sum(1) for p in shares]).mean(0)
    nearest = _distances(shares, [p.new_full(p.shape[1:], 1 / p.shape[1]) for p in shares])
    taken = [int(uneven.argmax())]
    while len(taken) < min(count, len(uneven)):
        nearest = torch.minimum(nearest, _distances(shares, [p[taken[-1]] for p in shares]))
        nearest[taken] = -1
        taken.append(int(nearest.argmax()))
    return taken


def _masks_of_map(layer: FactorizedAttention, x: Tensor) -> Tensor | None:
    return layer.basis_masks(x).flatten(1, 2).float() if x.ndim == 4 else None


def _check_images(images: Tensor | Sequence[Tensor]) -> None:
    if isinstance(images, Tensor):
        if images.ndim != 4 or not images.shape[0]:
            raise ValueError(f"images must be (B, C, H, W), B at least 1, got {tuple(images.shape)}")
        return
    if not images:
        raise ValueError("images must hold at least one (C, H, W), got none")
    for index, image in enumerate(images):
        if image.ndim != 3:
            raise ValueError(f"images[{index}] must be (C, H, W), got {tuple(image.shape)}")


def _shares(masks: Tensor) -> Tensor:
    """(M, h, w) -> (M, h * w), magnitudes summing to 1; a mask of zeros counts as even."""
    flat = masks.flatten(1).double()
    total = flat.abs().sum(1, keepdim=True)
    return torch.where(total > 0, flat / total, 1 / flat.shape[1])


def _distances(shares: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """(M,): of each mask to another, which has (S,) shares in each image."""
    same, opposite = (
        torch.stack([(p - sign * q).abs().sum(1) for p, q in zip(shares, other, strict=True)]).mean(0)
        for sign in (1, -1)
    )
    return torch.minimum(same, opposite) / 2


def _draw(pictures: list[Any], rows: list[Tensor], shown: list[int], name: str, layer: FactorizedAttention) -> Any:
    columns, signed = 1 + len(shown), layer.kind == "dot"
    heights = [min(max(CELL * picture.shape[0] / picture.shape[1], LOWEST_CELL), HIGHEST_CELL) for picture in pictures]
    size = (CELL * columns + 0.9, sum(heights) + 0.3 * len(heights) + 0.9)
    figure, axes = start_figure(len(rows), columns, size=size, least_width=6.0)
    axes[0, 0].get_gridspec().set_height_ratios(heights)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    heat: Any = None
    for cells, picture, masks in zip(axes, pictures, rows, strict=True):
        cells[0].imshow(picture, interpolation="nearest")
        cells[0].set_xlabel(f"{masks.shape[1]}x{masks.shape[2]} map", fontsize=8)
        for axis, index in zip(cells[1:], shown, strict=True):
            heat = _draw_mask(axis, picture, masks[index].numpy(), signed=signed)
    axes[0, 0].set_title("image", fontsize=9)
    for axis, index in zip(axes[0, 1:], shown, strict=True):
        axis.set_title(_title(index, len(rows[0]), layer.num_heads), fontsize=9)
    bar = figure.colorbar(heat, ax=axes, shrink=0.6, aspect=30, pad=0.01)
    bar.set_ticks([-1, 0, 1] if signed else [0, 1], labels=["-max", "0", "max"] if signed else ["0", "max"])
    bar.ax.set_facecolor("0.2")
    bar.set_label("weight in the mask", fontsize=8)
    figure.suptitle(
        f"Basis masks of {name or 'the layer'}: {len(shown)} of {len(rows[0])}\n"
        + ("(max: largest magnitude)" if signed else "(max: largest weight, as a multiple of an even mask's)"),
        fontsize=10,
    )
    return figure


def _draw_mask(axis: Any, picture: Any, mask: Any, *, signed: bool) -> Any:
    """One mask over the darkened grey image; returns what a colour bar describes."""
    largest = float(abs(mask).max())
    axis.set_xlabel(f"max {largest:.2g}" if signed else f"max {largest * mask.size:.3g}x", fontsize=8)
    return draw_heat(axis, picture, mask, signed=signed)


def _title(index: int, count: int, heads: int) -> str:
    head, mask = divmod(index, count // heads)
    return f"mask {mask}" if heads == 1 else f"head {head}, mask {mask}"
