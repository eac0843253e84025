"""Statistics of attention against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from halonet.analysis.attention import record_attention
from halonet.analysis.attention.record import LayerRecord, Rows
from halonet.analysis.attention.statistics import even_grid, layer_statistics, per_query
from halonet.layers import BottleneckAttention, HaloAttention, LongformerAttention, SpatialReductionAttention
from tests.analysis.attention.making import Reading


def even(layer: nn.Module, inputs: tuple[object, ...], image_size: tuple[int, int]) -> LayerRecord:
    """A layer whose queries are 0, so that everything seen weighs the same."""
    for parameter in layer.query.parameters():
        nn.init.zeros_(parameter)
    for name, parameter in layer.named_parameters():
        if "bias_table" in name or "global_" in name:
            nn.init.zeros_(parameter)
    (record,) = record_attention(Reading(layer.eval(), inputs), torch.zeros(1, 3, *image_size)).layers.values()
    return record


def test_even_weights_of_one_block() -> None:
    """Query (0, 0) of a map of 1 x 3 in an image of 2 x 12: distances 0, 1, 2 of its pixels, 0, 4, 8 of the image's."""
    layer = even(BottleneckAttention(4, feat_size=(1, 3), num_heads=2), (torch.randn(1, 4, 1, 3),), (2, 12))
    found = layer_statistics(layer, [(0, 0)])
    torch.testing.assert_close(found.distance_map, torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(found.distance, torch.full((2,), 4.0, dtype=torch.float64))
    torch.testing.assert_close(found.entropy, torch.full((2,), math.log(3), dtype=torch.float64))
    torch.testing.assert_close(found.entropy_share, torch.ones(2, dtype=torch.float64))
    assert found.own_block.isnan().all()
    assert found.beside_block.isnan().all()
    assert found.padding.tolist() == found.tokens.tolist() == [0, 0]
    # and the mean with the query in the middle, whose distances are 1, 0, 1
    both = layer_statistics(layer, [(0, 0), (1, 6)])
    assert both.distance_map.tolist() == pytest.approx([(1 + 2 / 3) / 2] * 2)


def test_shares_of_a_halo_layer() -> None:
    """Query (0, 0) of blocks of 2 with a halo of 1: 16 pixels, 4 in its block, 5 on the map beside it, 7 outside."""
    layer = HaloAttention(4, num_heads=1, block_size=2, halo_size=1)
    found = layer_statistics(even(layer, (torch.randn(1, 4, 4, 4),), (4, 4)), [(0, 0)])
    assert [float(part) for part in (found.own_block, found.beside_block, found.padding, found.tokens)] == (
        pytest.approx([4 / 16, 5 / 16, 7 / 16, 0])
    )
    # of the weight on the map, 9 pixels at 0, 1, 2 down and across
    distances = [math.hypot(row, column) for row in range(3) for column in range(3)]
    assert float(found.distance) == pytest.approx(sum(distances) / 9)
    assert float(found.entropy) == pytest.approx(math.log(9))
    assert float(found.entropy_share) == pytest.approx(1)


def test_shares_on_tokens() -> None:
    """A window of 3 in the corner sees 4 pixels, one of them its own chunk's, and 3 global tokens."""
    layer = LongformerAttention(4, num_heads=2, num_global=3, window=3)
    found = layer_statistics(even(layer, (torch.randn(1, 3 + 16, 4), (4, 4)), (8, 8)), [(0, 0)])
    for part, expected in ((found.tokens, 3 / 7), (found.own_block, 1 / 7), (found.beside_block, 3 / 7)):
        assert part.tolist() == pytest.approx([expected] * 2)
    assert found.entropy.tolist() == pytest.approx([math.log(7)] * 2)
    assert found.distance.tolist() == pytest.approx([2 * (1 + 1 + math.sqrt(2)) / 4] * 2)  # 2 pixels of the image each


def test_distance_to_a_smaller_map() -> None:
    """4 x 4 tokens reduced by 2 in an image of 8 x 8: a pixel of the small map is 4 wide, its first centre at 2; the
    first token's is at 1, which is -0.25 of the small map's pixels."""
    layer = SpatialReductionAttention(4, num_heads=1, num_global=0, reduction=2)
    found = layer_statistics(even(layer, (torch.randn(1, 16, 4), (4, 4)), (8, 8)), [(0, 0)])
    expected = [math.hypot(row, column) for row in (1, 5) for column in (1, 5)]
    assert float(found.distance) == pytest.approx(sum(expected) / 4)
    assert float(found.distance_map) == pytest.approx(sum(expected) / 16)


def test_magnitudes_of_weights_with_signs_and_queries_without_any() -> None:
    """Shares 1/4 and 3/4 of weights 1 and -3; and a query that looks at nothing but the border."""
    layer = even(BottleneckAttention(4, feat_size=(1, 2), num_heads=1), (torch.randn(1, 4, 1, 2),), (1, 2))
    rows = Rows(
        weights=torch.tensor([[[[1.0, -3.0]]], [[[0.0, 0.0]]]]),
        tokens=torch.zeros(2, 1, 0),
        outside=torch.tensor([[0.0], [1.0]]),
        in_block=None,
        seen=torch.tensor([2, 1]),
        places=torch.zeros(2, 2),
    )
    found = per_query(rows, layer)
    assert found["distance"][0].item() == pytest.approx(3 / 4)
    assert found["entropy"][0].item() == pytest.approx(-(math.log(1 / 4) / 4 + 3 * math.log(3 / 4) / 4))
    assert found["padding"].tolist() == [[0], [1]]
    assert all(found[name][1].isnan() for name in ("distance", "distance_map", "entropy", "entropy_share"))


def test_parts_of_many_queries_are_their_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = HaloAttention(8, num_heads=2, block_size=4, halo_size=1).eval()
    (record,) = record_attention(layer, torch.randn(1, 8, 9, 9)).layers.values()
    whole = layer_statistics(record)
    monkeypatch.setattr("halonet.analysis.attention.statistics._NUMBERS", 5 * 2 * 81)
    torch.testing.assert_close(layer_statistics(record).entropy, whole.entropy)


def test_grids() -> None:
    assert even_grid((16, 16))[:3] == [(1, 1), (1, 3), (1, 5)]
    assert len(even_grid((2048, 1024))) == 64
    assert even_grid((2048, 1024))[-1] == (1920, 960)
    assert even_grid((2, 1)) == [(0, 0), (1, 0)]
