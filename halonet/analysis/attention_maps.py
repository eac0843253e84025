"""Where chosen pixels of an image attend, layer by layer, and a picture of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from halonet.analysis.cost import attention_axes
from halonet.files import replacing
from halonet.layers import AttentionLayer

# More columns than this would be too small to read; deep models show an even choice of their layers.
MOST_COLUMNS = 6
QUERY, FRAME = "#00c2b2", "#3d9bff"
# Weight as colour: nothing is clear glass over the darkened image, the largest is opaque.
GLOW = ((0.85, 0.3, 0.0, 0.0), (1.0, 0.5, 0.05, 0.7), (1.0, 0.93, 0.5, 1.0))
BRIGHTNESS = 0.55

LayerKind = TypeVar("LayerKind", bound=nn.Module)
Seen = TypeVar("Seen")


def attention_maps(
    model: nn.Module, image: Tensor, queries: Sequence[tuple[int, int]], *, per_head: bool = False
) -> dict[str, Tensor]:
    """The attention of chosen pixels in every attention layer.

    A layer's output is linear in its values, so its gradient with respect to them is the weights: the op itself tells
    them, whichever backend runs, with nothing assumed about blocks or halos.

    Args:
        model: any model with `AttentionLayer`s; run in evaluation mode and left as it was.
        image: (1, C, H, W), prepared as the model expects.
        queries: (row, column) pixels of the image. In each layer the query that stands at, or strides over, that
            place asks.
        per_head: keep the heads apart instead of averaging them.

    Returns:
        By name of the layer, in the order of running: (queries, h, w), or (queries, N, h, w) with `per_head`, float32
        weights over the layer's input map, on the image's device. A map sums to 1 minus what falls on the zeros
        outside the image, which take part in HaloNet's attention.

    Raises:
        ValueError: an image of another shape, a query outside it, or a model without such layers.
    """
    _check(image, queries)
    size = (image.shape[-2], image.shape[-1])
    maps = {}
    with torch.inference_mode(False):
        for name, (layer, x) in _layer_inputs(model, image):
            weights = torch.stack([_weights(layer, x, _query_index(layer, x, pixel, size)) for pixel in queries])
            maps[name] = weights if per_head else weights.mean(1)
    return maps


def plot_attention(
    model: nn.Module,
    image: Tensor,
    queries: Sequence[tuple[int, int]],
    path: str | PathLike[str],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    layers: Sequence[str] | None = None,
) -> None:
    """Draws `attention_maps` over the image as a PNG: a row a query pixel, a column a layer.

    Args:
        model: as in `attention_maps`.
        image: (1, C, H, W) with 1 or 3 channels.
        queries: (row, column) pixels of the image.
        path: file to write; written beside and renamed.
        mean: with `std`, what was subtracted from each channel when the image was prepared; without them the image is
            stretched from its smallest to its largest value.
        std: what it was divided by.
        layers: names of the layers to show; by default all, or six of them evenly chosen.

    Raises:
        ValueError: as `attention_maps`, an image that is not grey or RGB, an unknown layer, or only one of `mean` and
            `std`.
    """
    _check(image, queries)
    picture = for_the_eye(image[0], mean, std)
    maps = attention_maps(model, image, queries)
    shown = _chosen(maps, layers)
    views = [_view(name, model.get_submodule(name), maps[name]) for name in shown]
    figure = _draw(picture, list(queries), views)
    with replacing(path) as beside:
        figure.savefig(beside, format="png")


def contrasting_pixels(image: Tensor) -> list[tuple[int, int]]:
    """Three pixels (row, column) of an image (C, S, S) where something is to be seen: the most contrasting
    ones that lie a quarter of the side apart."""
    grey = image.mean(0).cpu()
    contrast = (grey - grey.median()).abs()
    side = grey.shape[-1]
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in grey.shape), indexing="ij")
    queries: list[tuple[int, int]] = []
    for _ in range(3):
        row, column = divmod(int(contrast.argmax()), grey.shape[1])
        queries.append((row, column))
        contrast[((rows - row) ** 2 + (columns - column) ** 2) < (side / 4) ** 2] = -1
    return queries


def _check(image: Tensor, queries: Sequence[tuple[int, int]]) -> None:
    if image.ndim != 4 or image.shape[0] != 1:
        raise ValueError(f"image must be (1, C, H, W), got {tuple(image.shape)}")
    if not queries:
        raise ValueError("queries must hold at least one (row, column), got none")
    height, width = image.shape[-2:]
    for row, column in queries:
        if not (0 <= row < height and 0 <= column < width):
            raise ValueError(f"queries must lie inside the image of {height}x{width} pixels, got {(row, column)}")


def _layer_inputs(model: nn.Module, image: Tensor) -> list[tuple[str, tuple[AttentionLayer, Tensor]]]:
    """Every attention layer with its name and the map it reads, in the order of running."""
    # mypy would have a class without abstract methods.
    found = at_layers(model, image, AttentionLayer, lambda layer, x: (layer, x))  # type: ignore[type-abstract]
    if not found:
        raise ValueError(f"model must have attention layers, got a {type(model).__name__} without any")
    return found


def at_layers(
    model: nn.Module,
    images: Tensor,
    kind: type[LayerKind],
    look: Callable[[LayerKind, Tensor], Seen],
    *,
    run: Callable[[Tensor], object] | None = None,
) -> list[tuple[str, Seen]]:
    """What `look` makes of every layer of a kind and of what that layer reads.

    Args:
        model: run in evaluation mode, without gradients, and left as it was.
        images: what it is run on.
        kind: class of the layers.
        look: called with the layer and its input just before the layer runs.
        run: called with the images instead of the model, for a model whose own forward wants more.

    Returns:
        (name of the layer, what `look` returned), in the order of running, once a call of the layer.
    """
    found: list[tuple[str, Seen]] = []

    def keep(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(layer, kind)
            found.append((name, look(layer, inputs[0])))

        return hook

    training = {module: module.training for module in model.modules()}
    with ExitStack() as stack, torch.no_grad():
        for name, layer in model.named_modules():
            if isinstance(layer, kind):
                stack.callback(layer.register_forward_pre_hook(keep(name)).remove)
        try:
            model.eval()
            (run or model)(images.clone())  # a clone is a normal tensor even where they were made in inference mode
        finally:
            for module, mode in training.items():
                module.training = mode
    return found


def _query_index(layer: AttentionLayer, x: Tensor, pixel: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """(row, column), in the layer's queries, of the one that answers for a pixel of the image."""
    row, column = (at * side // full for at, side, full in zip(pixel, x.shape[-2:], size, strict=True))
    return row // layer.query_stride, column // layer.query_stride


def _weights(layer: AttentionLayer, x: Tensor, query_index: tuple[int, int]) -> Tensor:
    """(N, h, w): the weight that each head of one query gives every pixel of the map."""
    with torch.no_grad():
        query, key, value = layer.project(x)
    probe = value.new_zeros(*value.shape[:-1], 1).requires_grad_()
    with torch.enable_grad():
        output = layer.attend(query, key, probe)
        row, column = query_index
        (weights,) = torch.autograd.grad(output[0, row, column].sum(), probe)
    return weights[0, ..., 0].permute(2, 0, 1).float()


def _chosen(maps: dict[str, Tensor], layers: Sequence[str] | None) -> list[str]:
    names = list(maps)
    if layers is None:
        count = min(len(names), MOST_COLUMNS)
        return [names[round(i * (len(names) - 1) / max(1, count - 1))] for i in range(count)]
    unknown = [name for name in layers if name not in maps]
    if unknown or not layers:
        raise ValueError(f"layers must be among {', '.join(names)}, got {', '.join(unknown) or 'none'}")
    return list(layers)


@dataclass(frozen=True)
class _LayerView:
    """One column of the picture."""

    name: str
    layer: AttentionLayer
    maps: Any  # (queries, h, w) array


def _view(name: str, layer: nn.Module, maps: Tensor) -> _LayerView:
    assert isinstance(layer, AttentionLayer)
    return _LayerView(name, layer, maps.cpu().numpy())


def for_the_eye(image: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> Any:
    """(C, H, W) -> (H, W, 3) array of values 0 to 1; `mean` and `std` as in `plot_attention`.

    Raises:
        ValueError: an image that is not grey or RGB, only one of `mean` and `std`, or not one number a channel.
    """
    channels = image.shape[0]
    if channels not in (1, 3):
        raise ValueError(f"image must have 1 or 3 channels to be drawn, got {channels}")
    if (mean is None) != (std is None):
        raise ValueError(f"mean and std must be given together, got mean={mean!r}, std={std!r}")
    image = image.detach().float().cpu()
    if mean is not None and std is not None:
        if not {len(mean), len(std)} <= {1, channels}:
            raise ValueError(f"mean and std must have 1 or {channels} numbers, got mean={mean!r}, std={std!r}")
        image = image * torch.tensor(std).view(-1, 1, 1) + torch.tensor(mean).view(-1, 1, 1)
    else:
        low, high = image.min(), image.max()
        image = (image - low) / (high - low).clamp(min=1e-12)
    return image.clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).numpy()


def _draw(image: Any, queries: list[tuple[int, int]], views: list[_LayerView]) -> Any:
    """The figure: first column the image with the query pixels, then a column a layer."""
    # The object interface: pyplot would keep state and look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = len(queries), 1 + len(views)
    cell_height = min(max(1.85 * image.shape[0] / image.shape[1], 0.6), 4.0)
    figure = Figure(
        figsize=(max(1.9 * columns + 0.7, 6.5), (cell_height + 0.25) * rows + 1.1), layout="constrained", dpi=150
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    heat: Any = None
    for index, query in enumerate(queries):
        _draw_query(axes[index, 0], image, query)
        for axis, view in zip(axes[index, 1:], views, strict=True):
            heat = _draw_attention(axis, image, query, view, view.maps[index])
    axes[0, 0].set_title("asking pixel", fontsize=9)
    for axis, view in zip(axes[0, 1:], views, strict=True):
        axis.set_title(_title(view), fontsize=9)
    bar = figure.colorbar(heat, ax=axes, shrink=0.6, aspect=30, pad=0.01)
    bar.set_ticks([0, 1], labels=["0", "max"])
    bar.ax.set_facecolor("0.2")
    bar.set_label("attention weight, mean of the heads", fontsize=8)
    figure.suptitle(
        "Where a pixel attends: the solid frame is its block, the dashed one all it can see\n"
        "(max: largest weight; outside: weight that falls on the zeros around the map)",
        fontsize=10,
    )
    return figure


def _draw_query(axis: Any, image: Any, query: tuple[int, int]) -> None:
    axis.imshow(image, interpolation="nearest")
    _mark(axis, query)
    axis.set_ylabel(f"row {query[0]}, column {query[1]}", fontsize=8)


def _draw_attention(axis: Any, image: Any, query: tuple[int, int], view: _LayerView, weights: Any) -> Any:
    """Weights over the darkened grey image, brightest at their own maximum; returns what a colour bar describes."""
    from matplotlib.patches import Rectangle

    height, width = image.shape[:2]
    largest = float(weights.max())
    heat = draw_heat(axis, image, weights / largest if largest > 0 else weights)
    block, seen = _outlines(view.layer, query, (height, width), weights.shape)
    for ((top, left), (bottom, right)), style in ((block, "-"), (seen, (0, (4, 3)))):
        corner = (left - 0.5, top - 0.5)
        frame = Rectangle(corner, right - left, bottom - top, fill=False, edgecolor=FRAME, lw=1.8, ls=style)
        frame.set_clip_on(False)
        frame.set_zorder(3)  # over the picture's own border
        axis.add_patch(frame)
    _mark(axis, query)
    axis.set_xlim(-0.5, width - 0.5)
    axis.set_ylim(height - 0.5, -0.5)
    outside = max(0.0, 1 - float(weights.sum()))
    axis.set_xlabel(f"max {largest:.2g}" + (f", {outside:.0%} outside" if outside > 0.005 else ""), fontsize=8)
    return heat


def draw_heat(axis: Any, image: Any, heat: Any, *, colours: Sequence[Any] = GLOW, least: float = 0.0) -> Any:
    """Values `least` to 1, (h, w), over the darkened grey (H, W, 3) image; returns what a colour bar describes."""
    from matplotlib.colors import LinearSegmentedColormap

    height, width = image.shape[:2]
    axis.imshow(BRIGHTNESS * image.mean(-1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    return axis.imshow(
        heat,
        cmap=LinearSegmentedColormap.from_list("glow", colours),
        vmin=least,
        vmax=1,
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        interpolation="nearest",
    )


def _outlines(
    layer: AttentionLayer, query: tuple[int, int], image_size: tuple[int, int], map_size: tuple[int, int]
) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """The query's block, and all it can see (the neighbourhood or its window), as two corners in image pixels."""
    block, seen = [], []
    for axis, at, full in zip(attention_axes(layer, map_size), query, image_size, strict=True):
        pixel = at * axis.size // full
        standing = pixel // axis.stride * axis.stride
        start = standing // axis.block * axis.block
        near, far = start - axis.halo, start + axis.block + axis.halo
        if axis.window is not None:
            near, far = standing - axis.window // 2, standing + axis.window // 2 + 1
        scale = full / axis.size
        block.append((start * scale, min(start + axis.block, axis.size) * scale))
        seen.append((max(near, 0) * scale, min(far, axis.size) * scale))
    return [
        ((rows[0], columns[0]), (rows[1], columns[1])) for rows, columns in ((block[0], block[1]), (seen[0], seen[1]))
    ]


def _mark(axis: Any, query: tuple[int, int]) -> None:
    axis.plot(query[1], query[0], "o", color=QUERY, markersize=6, markeredgecolor="white", zorder=4)


def _title(view: _LayerView) -> str:
    height, width = view.maps.shape[-2:]
    parts = view.name.split(".")
    if len(parts) == 4 and parts[0] == "stages":
        name = f"stage {int(parts[1]) + 1}, block {int(parts[2]) + 1}"
    else:
        name = view.name
    return f"{name}\n{height}x{width} map"
