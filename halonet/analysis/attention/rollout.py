"""Attention rollout: how much of each pixel of the image a query of a late layer has taken in through all layers.

The rule (Abnar & Zuidema 2020, arXiv 2005.00928, section 3, for maps). Of a layer with weights A, the mean of its
heads, the relevance r of what it gives goes to what it reads as

    r  ->  0.5 * r (at the place where the query itself stands, the shortcut)  +  0.5 * r A

from the asked layer down to the first that attends. Everything between two attention layers but changes of size counts
as acting on each pixel by itself: strides, patch embeddings and poolings give the relevance of a pixel evenly to what
it covers of the larger map (by area, maps laid over each other and over the image); what the kernels of convolutions
see beyond that is left out. A layer that pools its output gives a pixel's relevance evenly to the queries it averages.
Global tokens hold relevance, too, and take it from layer to layer as long as the layers are of one stage; at the first
layer of a stage they come from nowhere. What reaches them there, and what falls on the zeros outside a map, is lost:
the relevance of the image sums to 1 minus that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from halonet.analysis.attention.record import AttentionRecord, LayerRecord, check_pixels
from halonet.analysis.attention.weights import Size

SHORTCUT = 0.5
_BESIDE = re.compile(r"(^|\.)attention\.fpn\d+$")  # levels of a feature pyramid


def attention_rollout(
    record: AttentionRecord, pixels: Sequence[tuple[int, int]], *, layer: str | None = None
) -> Tensor:
    """Relevance of every pixel of the image for queries of a layer, by the rule of this module.

    A vector times a layer's A is the gradient of the layer's own attention with respect to values of one channel, so
    that each layer costs one pass forward and back with its own backend, and no map of queries x keys is made.

    Args:
        record: of `record_attention`; the layers follow each other in its order.
        pixels: (row, column) of the image: in the asked layer the queries that answer for them.
        layer: name of the asked layer; the last if None.

    Returns:
        (Q, H, W) float32 on the CPU, not negative.

    Raises:
        ValueError: an unknown layer; weights with signs on the way, of which no shares can be told without whole maps;
            or layers that do not follow each other, as the levels of a feature pyramid.
    """
    check_pixels(pixels, record.image_size)
    chain = _chain(record, layer)
    last = chain[-1]
    vector = _first_step(last, pixels)
    for here, before in zip(reversed(chain[1:]), reversed(chain[:-1]), strict=True):
        vector = _step(before, _hand_over(vector, here, before))
    _, of_map = _parts(vector, chain[0])
    return _spread(of_map, record.image_size).float().cpu()


def _chain(record: AttentionRecord, name: str | None) -> list[LayerRecord]:
    """The layers from the first to the asked one."""
    every = list(record.layers.values())
    asked = every[-1] if name is None else record.chosen([name], 1)[0]
    chain = every[: every.index(asked) + 1]
    for layer in chain:
        if layer.signed:
            raise ValueError(f"rollout needs weights that are shares; those of {layer.name} have signs")
        if _BESIDE.search(layer.name):
            raise ValueError(f"rollout needs layers that follow each other; {layer.name} is a level of a pyramid")
    for before, after in pairwise(chain):
        if any(a > b for a, b in zip(after.layout.input_size, before.layout.output_size, strict=True)):
            raise ValueError(
                f"rollout needs layers that follow each other; {after.name} reads a larger map than {before.name} makes"
            )
    return chain


def _first_step(layer: LayerRecord, pixels: Sequence[tuple[int, int]]) -> Tensor:
    """(Q, G + h * w): what single queries of the asked layer read, from their own weights."""
    rows = layer.at(pixels)
    attended = torch.cat([rows.tokens.mean(1), rows.weights.mean(1).flatten(1)], dim=1)
    one_hot = torch.zeros(len(pixels), layer.num_global + layer.query_size[0] * layer.query_size[1])
    for query, pixel in zip(one_hot, pixels, strict=True):
        query[layer.layout.index_of(layer.layout.query_of(pixel, layer.image_size))] = 1
    return _read(layer, one_hot, attended)


def _step(layer: LayerRecord, vector: Tensor) -> Tensor:
    """Relevance of a layer's queries (Q, G + hq * wq) -> of what it reads (Q, G + h * w)."""
    return _read(layer, vector, layer.pull(vector))


def _read(layer: LayerRecord, vector: Tensor, attended: Tensor) -> Tensor:
    """The shortcut's and the attention's shares together, on the positions of the layer's input."""
    tokens, queries = vector[:, : layer.num_global], vector[:, layer.num_global :].unflatten(1, layer.query_size)
    stride, size = layer.layout.stride, layer.layout.input_size
    standing = queries.new_zeros(len(queries), *size)
    standing[:, ::stride, ::stride] = queries
    to_tokens, keys = attended[:, : layer.num_global], attended[:, layer.num_global :].unflatten(1, layer.map_size)
    read = _spread(keys, size, cell=layer.layout.reduction) if layer.layout.reduction > 1 else keys
    both = [SHORTCUT * own + (1 - SHORTCUT) * far for own, far in ((tokens, to_tokens), (standing, read))]
    return torch.cat([both[0], both[1].flatten(1)], dim=1)


def _hand_over(vector: Tensor, here: LayerRecord, before: LayerRecord) -> Tensor:
    """Relevance of what a layer reads -> of the queries of the layer before it."""
    tokens, of_map = _parts(vector, here)
    of_map = _spread(of_map, before.layout.output_size)
    of_map = _spread(of_map, before.query_size, cell=before.layout.pool)
    if not _one_stage(here, before):
        tokens = vector.new_zeros(len(vector), before.num_global)
    return torch.cat([tokens, of_map.flatten(1)], dim=1)


def _parts(vector: Tensor, layer: LayerRecord) -> tuple[Tensor, Tensor]:
    """Of the positions a layer reads, the tokens (Q, G) and the map (Q, h, w)."""
    return vector[:, : layer.num_global], vector[:, layer.num_global :].unflatten(1, layer.layout.input_size)


def _one_stage(here: LayerRecord, before: LayerRecord) -> bool:
    """Whether global tokens go from one layer to the other: blocks of one list, of equal maps and tokens."""
    lists = [layer.name.rpartition(".")[0].rpartition(".")[0] for layer in (here, before)]
    same = here.layout.input_size == before.layout.input_size and here.num_global == before.num_global
    return same and lists[0] == lists[1]


def _spread(maps: Tensor, size: Size, *, cell: int | None = None) -> Tensor:
    """Each pixel's number evenly over what it covers of a map of another size: (Q, h, w) -> (Q, *size).

    cell: side of a pixel in pixels of the other map; both maps are of one extent if None.
    """
    if maps.shape[1:] == size:
        return maps
    rows, columns = (
        _shares(have, want, want / have if cell is None else cell).to(maps)
        for have, want in zip(maps.shape[1:], size, strict=True)
    )
    return rows.t() @ maps @ columns


def _shares(have: int, want: int, cell: float) -> Tensor:
    """(have, want): the share of pixel i, `cell` long, that lies on pixel j of the other map; rows sum to 1."""
    start, other = torch.arange(have, dtype=torch.float64)[:, None] * cell, torch.arange(want, dtype=torch.float64)
    common = (torch.minimum(start + cell, other + 1) - torch.maximum(start, other)).clamp(min=0)
    return common / common.sum(1, keepdim=True)
