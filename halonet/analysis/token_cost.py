"""Multiply-adds of attention on tokens, beside those of its linear layers and convolutions; see `cost`."""

from __future__ import annotations

from math import prod

from torch import nn

from halonet.layers import (
    FullAttention,
    GlobalAttention,
    LinformerAttention,
    LongformerAttention,
    PerformerAttention,
    SpatialReductionAttention,
    TokenAttention,
)
from halonet.models.vit_stage import TokenStage

# What the paper counts of a Performer's layer beside its projections, a token, feature and channel.
_PERFORMER_PAPER = 6


def uncounted_tokens(model: nn.Module) -> dict[nn.Module, int]:
    """Tokens that the paper's convention leaves out of the layers they pass: a class token, one a stage.

    The many global tokens of pure global memory it counts.
    """
    left_out: dict[nn.Module, int] = {}
    for stage in model.modules():
        if isinstance(stage, TokenStage) and stage.num_global == 1:
            left_out |= dict.fromkeys((module for block in stage.blocks for module in block.modules()), 1)
    return left_out


def executed_products(layer: TokenAttention, batch: int, size: tuple[int, int]) -> int:
    """Products of one pass as they run, local ones as the reference backend does them, for a map of `size`."""
    tokens, count, dim = layer.num_global + prod(size), layer.num_global, layer.dim
    if isinstance(layer, LongformerAttention):
        options = layer.neighborhood(size)
        sides = [options[name] for name in ("block_size", "halo_size")]
        blocks, halos = ((side, side) if isinstance(side, int) else side for side in sides)
        queries = prod(-(-side // block) * block for side, block in zip(size, blocks, strict=True))
        keys = prod(block + 2 * halo for block, halo in zip(blocks, halos, strict=True))
        return 2 * batch * dim * (queries * (keys + count) + count * tokens)
    if isinstance(layer, PerformerAttention):  # both sides' features, their sum, and the products with values
        return batch * tokens * layer.num_features * (4 * dim + layer.num_heads)
    return _products(layer, batch, size, count)


def paper_products(layer: TokenAttention, batch: int, size: tuple[int, int]) -> int:
    """The same as the paper counts them: (2w + 1)^2 keys of a local query, and no class token."""
    count = 0 if layer.num_global == 1 else layer.num_global
    local, dim = prod(size), layer.dim
    if isinstance(layer, LongformerAttention):
        keys = local if isinstance(layer, FullAttention) else layer.window**2
        return 2 * batch * dim * (local * (keys + count) + count * (local + count))
    if isinstance(layer, PerformerAttention):
        return _PERFORMER_PAPER * batch * (local + count) * layer.num_features * dim
    return _products(layer, batch, size, count)


def _products(layer: TokenAttention, batch: int, size: tuple[int, int], count: int) -> int:
    """Of the layers that are neither local nor Performers, with `count` global tokens."""
    local, dim = prod(size), layer.dim
    tokens = local + count
    if isinstance(layer, LinformerAttention):  # both mixtures, and attention to them
        pairs = 2 * tokens * layer.num_features
    elif isinstance(layer, SpatialReductionAttention):
        pairs = tokens * (count + prod(max(1, side // layer.reduction) for side in size))
    elif isinstance(layer, GlobalAttention):
        pairs = count * tokens + local * count
    else:
        raise ValueError(f"layer must be one of halonet's, got {type(layer).__name__}")
    return 2 * batch * pairs * dim
