"""Pictures of attention are whole files in which something is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import halonet
from halonet.analysis.attention import record_attention
from halonet.analysis.attention.pictures import attention_of, plot_attention, plot_rollout, plot_statistics
from halonet.analysis.attention.statistics import layer_statistics
from halonet.analysis.overlay import for_the_eye
from halonet.layers import FactorizedAttention, HaloAttention

pytest.importorskip("matplotlib")


def test_attention(tmp_path: Path) -> None:
    from matplotlib.image import imread

    model = halonet.create_model("halonet_nano_32", num_classes=10, in_chans=1)
    image = torch.rand(1, 1, 24, 32)
    picture = for_the_eye(image[0], [0.5], [0.25])
    record, path = record_attention(model, image), tmp_path / "new" / "attention.png"
    plot_attention(record, picture, [(2, 3), (20, 30)], path)
    assert [entry.name for entry in path.parent.iterdir()] == ["attention.png"]
    both = imread(path)
    assert both[..., :3].std() > 0.1  # something is drawn
    plot_attention(record, picture, [(2, 3)], path, layers=["stages.1.1.slot"], head=0)
    one = imread(path)
    assert one.shape[0] < both.shape[0]  # a row a query
    assert one.shape[1] < both.shape[1]  # a column a layer


def test_one_head_or_their_mean() -> None:
    layer = HaloAttention(8, num_heads=2, block_size=4, halo_size=1).eval()
    (record,) = record_attention(layer, torch.randn(1, 8, 8, 8)).layers.values()
    rows = record.at([(3, 3), (0, 7)])
    for head, expected in ((None, rows.weights.mean(1)), (1, rows.weights[:, 1])):
        assert torch.equal(attention_of(record, [(3, 3), (0, 7)], head)[0], expected)
    with pytest.raises(ValueError, match="head must be from 0 to 1"):
        attention_of(record, [(3, 3)], 2)


def test_constants_signs_and_layers_of_all_kinds(tmp_path: Path) -> None:
    """An image of one value, a query all of whose weight lies outside the map, weights below 0."""
    halo = HaloAttention(8, num_heads=1, block_size=4, halo_size=2, relative="none")
    model = nn.Sequential(nn.Conv2d(1, 8, 1), halo, FactorizedAttention(8, kind="dot", channels=4))
    image = torch.zeros(1, 1, 1, 1)
    record, picture = record_attention(model, image), for_the_eye(image[0])
    plot_attention(record, picture, [(0, 0)], tmp_path / "a.png")
    found = {name: layer_statistics(layer) for name, layer in record.layers.items()}
    plot_statistics(found, record.layers, tmp_path / "s.png", queries=1)
    plot_rollout(picture, [(0, 0)], torch.zeros(1, 1, 1), tmp_path / "r.png", label="it")
    assert all((tmp_path / f"{name}.png").stat().st_size > 1000 for name in "asr")


def test_pictures_that_cannot_be_shown() -> None:
    with pytest.raises(ValueError, match="mean and std must be given together"):
        for_the_eye(torch.zeros(3, 4, 4), mean=[0.5])
    with pytest.raises(ValueError, match="image must have 1 or 3 channels to be drawn, got 8"):
        for_the_eye(torch.zeros(8, 4, 4))
    with pytest.raises(ValueError, match="must have 1 or 3 numbers"):
        for_the_eye(torch.zeros(3, 4, 4), mean=[0.5, 0.5], std=[1.0, 1.0])
