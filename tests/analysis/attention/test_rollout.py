"""Rollout against the product of whole matrices, each written out entry by entry."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import halonet
from halonet.analysis.attention import LayerRecord, record_attention
from halonet.analysis.attention.rollout import attention_rollout
from halonet.layers import BottleneckAttention, FactorizedAttention, HaloAttention, SpatialReductionAttention

PIXELS = [(0, 0), (11, 15), (15, 5)]


def lively(model: nn.Module) -> nn.Module:
    """Attention with something to tell."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("query", "key_value", "table")):
            nn.init.normal_(parameter, std=0.5)
    return model.eval()


def attention_of(layer: LayerRecord) -> Tensor:
    """(G + hq * wq, G + h * w): the whole map, heads averaged."""
    height, width = layer.query_size
    rows = [layer.at_queries([(row, column) for row in range(height) for column in range(width)])]
    if layer.num_global:
        rows.insert(0, layer.at_tokens())
    return torch.cat([torch.cat([part.tokens, part.weights.flatten(2)], dim=2).mean(1) for part in rows]).double()


def covering(small: tuple[int, int], large: tuple[int, int], cell: float | None = None) -> Tensor:
    """(pixels of the one map, of the other): even shares of what a pixel covers, by area, entry by entry."""
    table = torch.zeros(*small, *large, dtype=torch.float64)
    sizes = [large[axis] / small[axis] if cell is None else cell for axis in range(2)]
    for row in range(small[0]):
        for column in range(small[1]):
            for y in range(large[0]):
                for x in range(large[1]):
                    down = min((row + 1) * sizes[0], y + 1) - max(row * sizes[0], y)
                    across = min((column + 1) * sizes[1], x + 1) - max(column * sizes[1], x)
                    table[row, column, y, x] = max(down, 0) * max(across, 0)
    table = table / table.sum((2, 3), keepdim=True)
    return table.flatten(2).flatten(0, 1)


def with_tokens(table: Tensor, before: int, after: int, *, carried: bool) -> Tensor:
    """The same of positions with global tokens first: (G + ., G' + .)."""
    whole = torch.zeros(before + table.shape[0], after + table.shape[1], dtype=table.dtype)
    whole[before:, after:] = table
    if carried:
        whole[:before, :after] = torch.eye(before, dtype=table.dtype)
    return whole


def matrix_of(layer: LayerRecord, stride: int) -> Tensor:
    """What the layer's queries read: half from where they stand, half by attention."""
    (height, width), (_, across), count = layer.query_size, layer.map_size, layer.num_global
    standing = torch.zeros(height * width, layer.map_size[0] * across, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            standing[row * width + column, stride * row * across + stride * column] = 1
    return 0.5 * with_tokens(standing, count, count, carried=True) + 0.5 * attention_of(layer)


def index_of(layer: LayerRecord, pixel: tuple[int, int], stride: int, image: tuple[int, int]) -> int:
    row, column = (at * side // full // stride for at, side, full in zip(pixel, layer.map_size, image, strict=True))
    return layer.num_global + row * layer.query_size[1] + column


@pytest.mark.parametrize(
    ("name", "strides", "stages"),
    [("halonet_nano_32", [1, 1, 2, 1], None), ("botnet_s1_nano_32", None, None), ("vil_nano_32", None, "by name")],
)
def test_equals_the_product_of_whole_matrices(name: str, strides: Any, stages: Any) -> None:
    size = (16, 20)
    model = lively(halonet.create_model(name, num_classes=3, in_chans=3))
    record = record_attention(model, torch.randn(1, 3, *size))
    layers = list(record.layers.values())
    strides = strides or [1] * len(layers)
    whole = torch.eye(layers[-1].num_global + layers[-1].query_size[0] * layers[-1].query_size[1]).double()
    for place in reversed(range(len(layers))):
        layer = layers[place]
        whole = whole @ matrix_of(layer, strides[place])
        if place:
            before = layers[place - 1]
            carried = bool(stages) and layer.name.split(".")[:2] == before.name.split(".")[:2]
            between = covering(layer.map_size, before.query_size)
            whole = whole @ with_tokens(between, layer.num_global, before.num_global, carried=carried)
    whole = whole[:, layers[0].num_global :] @ covering(layers[0].map_size, size)
    expected = torch.stack([whole[index_of(layers[-1], pixel, strides[-1], size)] for pixel in PIXELS])
    told = attention_rollout(record, PIXELS)
    assert told.shape == (3, *size)
    torch.testing.assert_close(told.flatten(1), expected.float(), rtol=1e-4, atol=1e-7)
    assert (told.sum((1, 2)) <= 1 + 1e-5).all()


def test_tokens_take_part_within_a_stage() -> None:
    """Two layers of one stage: what the second reads of its token, the first's token has read of the map."""
    model = lively(halonet.create_model("vil_nano_32", num_classes=3))
    record = record_attention(model, torch.randn(1, 3, 32, 32))
    first, second = (record.layers[f"stages.0.blocks.{number}.attn"] for number in range(2))
    assert first.num_global == second.num_global > 0
    relevance = attention_rollout(record, [(9, 9)], layer=second.name)
    through = second.at([(9, 9)]).tokens.mean(1)[0] * 0.5  # (G,), relevance of the second's tokens
    lost = float(through @ (0.5 + 0.5 * first.at_tokens().tokens.mean(1).sum(1)))
    on_map = float(relevance.sum())
    # what is not in the image: tokens reached in the first layer by way of the second's tokens, and of its map
    of_map = second.at([(9, 9)]).weights.mean(1)[0].flatten() * 0.5
    standing = tuple(9 * side // 32 for side in second.query_size)
    of_map[second.layout.index_of(standing) - second.num_global] += 0.5
    grid = [(row, column) for row in range(first.query_size[0]) for column in range(first.query_size[1])]
    lost += float(of_map @ first.at_queries(grid).tokens.mean(1).sum(1)) * 0.5
    assert on_map == pytest.approx(1 - lost, abs=1e-5)


def test_pooled_and_reduced_layers() -> None:
    """Pooling gives a pixel's relevance to the queries it averages: 4, and 2 and 1 of those at the cut end."""
    pooled = HaloAttention(4, num_heads=1, block_size=5, halo_size=0, relative="none", stride=2, downsample="pool")
    later = BottleneckAttention(4, feat_size=(3, 3), num_heads=1)
    for layer in (pooled, later):
        nn.init.zeros_(layer.query.weight)
        for parameter in layer.parameters():
            parameter.requires_grad_(False)
    nn.init.zeros_(later.height_table)
    nn.init.zeros_(later.width_table)
    record = record_attention(nn.Sequential(pooled, later), torch.randn(1, 4, 5, 5))
    told = attention_rollout(record, [(4, 4)])[0].double()
    relevance = torch.full((3, 3), 0.5 / 9, dtype=torch.float64)
    relevance[2, 2] += 0.5
    queries = torch.zeros(5, 5, dtype=torch.float64)
    for row in range(3):
        for column in range(3):
            part = queries[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            part += relevance[row, column] / part.numel()
    # every query looks evenly at the 5 x 5 block, which is the map
    torch.testing.assert_close(told, 0.5 * queries + 0.5 / 25, rtol=1e-5, atol=1e-7)


def test_a_reduced_map_is_its_pixels() -> None:
    layer = SpatialReductionAttention(4, num_heads=1, num_global=0, reduction=2)
    for parameter in layer.query.parameters():
        nn.init.zeros_(parameter)

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, image: Tensor) -> Tensor:
            return self.layer(image.flatten(2).transpose(1, 2), (5, 4))

    told = attention_rollout(record_attention(Tokens(), torch.randn(1, 4, 5, 4)), [(4, 0)])[0]
    expected = torch.zeros(5, 4)
    expected[:4] = 0.5 / 16  # the fifth row is in no pixel of the reduced map
    expected[4, 0] += 0.5
    torch.testing.assert_close(told, expected)


def test_what_falls_on_the_border_is_lost() -> None:
    layer = HaloAttention(8, num_heads=2, block_size=4, halo_size=2)
    nn.init.zeros_(layer.query.weight)
    told = attention_rollout(record_attention(layer.eval(), torch.randn(1, 8, 12, 12)), [(0, 0), (5, 6)])
    assert told.sum((1, 2)).tolist() == pytest.approx([0.5 + 0.5 * 36 / 64, 1.0])
    assert math.isclose(float(told[1, 5, 6]), 0.5 + 0.5 / 64, rel_tol=1e-5)


def test_what_cannot_be_rolled_out() -> None:
    halo = HaloAttention(8, num_heads=2, block_size=4, halo_size=1)
    image = torch.randn(1, 8, 8, 8)
    signed = record_attention(nn.Sequential(halo, FactorizedAttention(8, kind="dot", channels=4)), image)
    with pytest.raises(ValueError, match="rollout needs weights that are shares; those of 1 have signs"):
        attention_rollout(signed, [(0, 0)])
    assert attention_rollout(signed, [(0, 0)], layer="0").shape == (1, 8, 8)
    growing = record_attention(nn.Sequential(nn.AvgPool2d(2), halo, nn.Upsample(scale_factor=2), make_another()), image)
    with pytest.raises(ValueError, match="3 reads a larger map than 1 makes"):
        attention_rollout(growing, [(0, 0)])
    pyramid = halonet.models.create_pyramid("resnet50_fpn_fa_fpn1")
    with pytest.raises(ValueError, match=r"attention\.fpn1 is a level of a pyramid"):
        attention_rollout(record_attention(pyramid, torch.randn(1, 3, 32, 32)), [(0, 0)])
    with pytest.raises(ValueError, match="layer must be among 0, 1, got 7"):
        attention_rollout(signed, [(0, 0)], layer="7")
    with pytest.raises(ValueError, match="pixels must lie inside"):
        attention_rollout(signed, [(8, 0)], layer="0")


def make_another() -> nn.Module:
    return HaloAttention(8, num_heads=2, block_size=4, halo_size=1)
