"""A model's attention on one image: one forward pass, then the weights of whichever queries are asked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from halonet.analysis.attention.mechanisms import KINDS, Mechanism, mechanism_of
from halonet.analysis.attention.watching import at_layers
from halonet.analysis.attention.weights import Layout, Size, Weights
from halonet.ops.precision import without_autocast

Corner = tuple[float, float]
Pixel = tuple[int, int]
_PLACE = re.compile(r"stages[._](\d+)\.(?:blocks\.)?(\w+?_after_)?(\d+)(?:\.|$)")


@dataclass(frozen=True)
class Rows:
    """The attention of Q queries in one layer, float32 on the CPU.

    Of each query and head `weights`, `tokens` and `outside` sum to 1 together, where weights are shares; those of
    signed layers need not.

    weights: (Q, N, h, w), on the map of the keys.
    tokens: (Q, N, G), on the global tokens.
    outside: (Q, N), on the zeros outside the map, which take part in HaloNet's attention.
    in_block: (Q, N), the part of `weights` inside the query's own block; None where a layer has no blocks, and of
        global tokens, which stand in none.
    seen: (Q,) int64, how many pixels of the map and tokens a query sees.
    places: (Q, 2), where on the keys' map each query stands, (row, column) in its pixels; None for global tokens.
    """

    weights: Tensor
    tokens: Tensor
    outside: Tensor
    in_block: Tensor | None
    seen: Tensor
    places: Tensor | None


@dataclass(frozen=True)
class Frames:
    """Two rectangles, ((top, left), (bottom, right)) in pixels of the image: the query's block, and all it can see."""

    block: tuple[Corner, Corner]
    seen: tuple[Corner, Corner]


@dataclass(eq=False)
class _Latest:
    """Projections of the layer that was asked last, shared by the layers of a record: one at a time is kept.

    of: the layer's name and its parameters as they were then.
    """

    of: tuple[Any, ...] | None = None
    parts: tuple[Tensor, Tensor, Tensor] | None = None


@dataclass(frozen=True, eq=False)
class LayerRecord:
    """One attending layer of a model, with what it read.

    name: as in `named_modules`.
    mechanism: how it attends, in a word: "halo", "global", "vil", "full", "global memory", "linformer", "sra",
        "performer", "factorized" or "nonlocal".
    image_size: (H, W) of the image, or of what `run` was given.
    layout: the positions it reads.
    """

    name: str
    mechanism: str
    image_size: Size
    layout: Layout
    _layer: nn.Module = field(repr=False)
    _inputs: tuple[Any, ...] = field(repr=False)
    _latest: _Latest = field(repr=False)

    @property
    def label(self) -> str:
        """ "stage 4, block 1" where the name tells, counted from 1; else the name."""
        place = _PLACE.search(self.name)
        if place is None:
            return self.name or "the layer"
        stage, after, number = place.groups()
        return f"stage {int(stage) + 1}, " + (f"after block {number}" if after else f"block {int(number) + 1}")

    @property
    def map_size(self) -> Size:
        """(h, w) of the map of the keys."""
        return self.layout.map_size

    @property
    def query_size(self) -> Size:
        """(hq, wq) of the map of the queries. Layers that pool do so after attention: these are the queries before."""
        return self.layout.query_size

    @property
    def num_heads(self) -> int:
        """N."""
        return self.layout.num_heads

    @property
    def num_global(self) -> int:
        """Global tokens G."""
        return self.layout.num_global

    @property
    def signed(self) -> bool:
        """Whether weights may be negative."""
        return self.layout.signed

    def at(self, pixels: Sequence[Pixel]) -> Rows:
        """The attention of the queries that answer for pixels of the image.

        Only these queries are computed. A pixel's query is the one that stands at, or strides over, its place. A layer
        that pools its output averages several; asked is the one at the pixel itself.

        Args:
            pixels: (row, column) each, inside the image.

        Raises:
            ValueError: no pixel, or one outside the image.
        """
        check_pixels(pixels, self.image_size)
        return self.at_queries([self.layout.query_of(pixel, self.image_size) for pixel in pixels])

    def at_queries(self, queries: Sequence[tuple[int, int]]) -> Rows:
        """The attention of queries by their place in the map of queries, (row, column) each.

        Raises:
            ValueError: no query, or one outside the map.
        """
        check_pixels(queries, self.query_size, what="queries", of="map")
        weights = self._weights([self.layout.index_of(query) for query in queries])
        step, reduction = self.layout.stride, self.layout.reduction
        places = (torch.tensor(queries, dtype=torch.float32) * step + 0.5) / reduction - 0.5
        in_block = None
        if self.layout.axes is not None:
            inside = torch.stack([self._own_block(query) for query in queries])
            wide = torch.promote_types(weights.map.dtype, torch.float32)  # a sum in half precision may exceed the whole
            in_block = (weights.map.to(wide) * inside[:, None].to(weights.map.device)).sum((-2, -1))
        return _rows(weights, in_block, places)

    def at_tokens(self) -> Rows:
        """What each global token attends to: Q is G.

        Raises:
            ValueError: a layer without global tokens.
        """
        if not self.num_global:
            raise ValueError(f"layer {self.name or '(the model)'} has no global tokens")
        return _rows(self._weights(range(self.num_global)), None, None)

    def pull(self, relevance: Tensor) -> Tensor:
        """Vectors times the layer's whole attention map, the mean of its heads, by the layer's own attention.

        The product is the gradient of the attention with respect to values of one channel a vector: one pass forward
        and back with the layer's backend; the map itself is not made.

        Args:
            relevance: (Q, G + hq * wq), on the queries: global tokens, then the map row by row.

        Returns:
            (Q, G + h * w), on the keys, on the CPU; float32, of a model in float64 float64.
        """
        count = self.num_global + self.map_size[0] * self.map_size[1]
        with torch.inference_mode(False), _evaluating(self._layer, self._inputs[0].device.type):
            query, key, _ = self._projected()
            probe = key.new_zeros(1, count, self.num_heads, len(relevance)).requires_grad_()
            with torch.enable_grad():
                output = self._entry.mix(self._layer, query, key, probe, self.layout)
            share = (relevance.t() / self.num_heads).to(output)[None, :, None].expand_as(output)
            (pulled,) = torch.autograd.grad(output, probe, share)
        wide = torch.promote_types(pulled.dtype, torch.float32)
        return pulled[0].to(wide).sum(1).t().cpu()

    def frames(self, pixel: Pixel) -> Frames | None:
        """The query's block and all it can see (its neighbourhood, or its window); None where that is everything.

        Raises:
            ValueError: a pixel outside the image.
        """
        check_pixels([pixel], self.image_size)
        if self.layout.axes is None:
            return None
        block, seen = [], []
        query = self.layout.query_of(pixel, self.image_size)
        for axis, at, full in zip(self.layout.axes, query, self.image_size, strict=True):
            standing = at * axis.stride
            start = standing // axis.block * axis.block
            near, far = start - axis.halo, start + axis.block + axis.halo
            if axis.window is not None:
                reach = axis.window // 2 * axis.dilation
                near, far = max(near, standing - reach), min(far, standing + reach + 1)
            if axis.border == "circular" and (near < 0 or far > axis.extended):
                near, far = 0, axis.size  # it goes on at the other side of the map
            scale = full / axis.size
            block.append((start * scale, min(start + axis.block, axis.size) * scale))
            seen.append((max(near, 0) * scale, min(far, axis.size) * scale))
        return Frames(*(((rows[0], columns[0]), (rows[1], columns[1])) for rows, columns in (block, seen)))

    @property
    def _entry(self) -> Mechanism:
        return mechanism_of(self._layer)

    def _weights(self, indices: Sequence[int]) -> Weights:
        with torch.inference_mode(False), torch.no_grad(), _evaluating(self._layer, self._inputs[0].device.type):
            query, key, _ = self._projected()
            return self._entry.rows(self._layer, query, key, indices, self.layout)

    def _projected(self) -> tuple[Tensor, Tensor, Tensor]:
        now = (self.name, *_versions(self._layer))
        if self._latest.of != now or self._latest.parts is None:
            with torch.inference_mode(False), torch.no_grad():
                self._latest.parts = self._entry.project(self._layer, self._inputs)
            self._latest.of = now
        return self._latest.parts

    def _own_block(self, query: tuple[int, int]) -> Tensor:
        """(h, w) bool: the pixels of the query's own block."""
        assert self.layout.axes is not None
        inside = [
            torch.arange(axis.size) // axis.block == at * axis.stride // axis.block
            for axis, at in zip(self.layout.axes, query, strict=True)
        ]
        return inside[0][:, None] & inside[1]


@dataclass(frozen=True, eq=False)
class AttentionRecord:
    """What `record_attention` kept: layers by name, in the order of running. image_size: (H, W)."""

    image_size: Size
    layers: dict[str, LayerRecord]

    def chosen(self, names: Sequence[str] | None, most: int) -> list[LayerRecord]:
        """Layers by name; for None all of them, or `most` evenly chosen.

        Raises:
            ValueError: no name, or one that is not a layer's; the message lists them.
        """
        every = list(self.layers.values())
        if names is None:
            count = min(len(every), most)
            return [every[round(i * (len(every) - 1) / max(1, count - 1))] for i in range(count)]
        unknown = [name for name in names if name not in self.layers]
        if unknown or not names:
            raise ValueError(f"layer must be among {', '.join(self.layers)}, got {', '.join(unknown) or 'none'}")
        return [self.layers[name] for name in names]


def record_attention(
    model: nn.Module, image: Tensor, *, run: Callable[[Tensor], object] | None = None
) -> AttentionRecord:
    """Runs a model once on an image and keeps what each of its attending layers reads.

    The weights of chosen queries are computed when they are asked for, from what the layer read and from its parameters
    as they are then: nothing of size queries x keys is ever made, and every backend will do.

    Args:
        model: any model with layers of `halonet.layers`, or timm's after `accelerate`; run in evaluation mode, without
            gradients and autocast, and left as it was.
        image: (1, C, H, W), prepared as the model expects.
        run: called with the image instead of the model, for one whose own forward wants more than an image: the
            backbone of a detector, the features of a stereo network.

    Returns:
        The layers that ran on maps. Of a layer that ran more than once it is the first time; layers that read volumes,
        or tokens without a map, are left out.

    Raises:
        ValueError: an image of another shape, or a model without such layers.
    """
    if image.ndim != 4 or image.shape[0] != 1:
        raise ValueError(f"image must be (1, C, H, W), got {tuple(image.shape)}")
    size, latest = (image.shape[-2], image.shape[-1]), _Latest()

    def look(layer: nn.Module, *inputs: Any) -> tuple[nn.Module, Layout, tuple[Any, ...]] | None:
        layout = mechanism_of(layer).layout(layer, inputs)
        # Copies: a model may go on in place, and would otherwise keep larger tensors alive.
        kept = tuple(part.clone() if isinstance(part, Tensor) else part for part in inputs)
        return None if layout is None else (layer, layout, kept)

    layers: dict[str, LayerRecord] = {}
    for name, seen in at_layers(model, image, KINDS, look, run=run):
        if seen is not None and name not in layers:
            layer, layout, inputs = seen
            layers[name] = LayerRecord(name, mechanism_of(layer).name, size, layout, layer, inputs, latest)
    if not layers:
        raise ValueError(f"model must have attention layers, got a {type(model).__name__} without any")
    return AttentionRecord(size, layers)


def check_pixels(pixels: Sequence[Pixel], size: Size, *, what: str = "pixels", of: str = "image") -> None:
    """Raises ValueError unless there are pixels, all inside an image of `size`. what, of: how they are called."""
    if not len(pixels):
        raise ValueError(f"{what} must hold at least one (row, column), got none")
    for row, column in pixels:
        if not (0 <= row < size[0] and 0 <= column < size[1]):
            raise ValueError(
                f"{what} must lie inside the {of} of {size[0]}x{size[1]} {what}, got {(row, column)} (row, column)"
            )


@contextmanager
def _evaluating(layer: nn.Module, device: str) -> Iterator[None]:
    """The layer itself in evaluation mode, for some attend otherwise while they train, and without autocast."""
    mode, layer.training = layer.training, False
    try:
        with without_autocast(device):
            yield
    finally:
        layer.training = mode


def _versions(layer: nn.Module) -> list[tuple[int, int]]:
    """What changes with a layer's parameters; those made in inference mode, which cannot train, do not tell."""
    return [(id(one), 0 if one.is_inference() else one._version) for one in layer.state_dict(keep_vars=True).values()]


def _rows(weights: Weights, in_block: Tensor | None, places: Tensor | None) -> Rows:
    def told(tensor: Tensor) -> Tensor:
        return tensor.detach().float().cpu()

    inside = None if in_block is None else told(in_block)
    return Rows(told(weights.map), told(weights.tokens), told(weights.outside), inside, weights.seen.cpu(), places)
