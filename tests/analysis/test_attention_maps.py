"""The maps are the weights of the layers' own attention, and the picture of them is a whole file."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import halonet
from halonet.analysis.attention_maps import attention_maps, plot_attention
from halonet.layers import HaloAttention

CORNERS_AND_MIDDLE = [(0, 0), (5, 9), (11, 4), (9, 10)]


def layer_of(**options) -> HaloAttention:
    given = {"num_heads": 2, "block_size": 4, "halo_size": 2, **options}
    return HaloAttention(8, **given).eval()


def map_of(layer: nn.Module, image: Tensor, queries: list[tuple[int, int]], **options) -> Tensor:
    (weights,) = attention_maps(layer, image, queries, **options).values()
    return weights


def by_one_hot_values(layer: HaloAttention, x: Tensor, query_index: tuple[int, int]) -> Tensor:
    """(N, h, w): what comes out of one query when each pixel's value is its own unit vector."""
    height, width = x.shape[-2:]
    pixels = height * width
    with torch.no_grad():
        query, key, _ = layer.project(x)
        value = torch.eye(pixels).view(1, height, width, 1, pixels).expand(-1, -1, -1, layer.num_heads, -1)
        output = layer.attend(query, key, value)
    row, column = query_index
    return output[0, row, column].view(layer.num_heads, height, width)


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"relative": "full", "stride": 2},
        {"relative": "absolute", "feat_size": (6, 6)},
        {"relative": "none", "border": "mask"},
        {"window": 3, "halo_size": 1, "stride": 2, "downsample": "pool"},
        {"border": "circular"},
    ],
)
def test_maps_are_what_one_hot_values_give(options, backend):
    layer = layer_of(**options, backend=backend)
    x = torch.randn(1, 8, 11, 13)
    maps = map_of(layer, x, [(0, 0), (10, 12), (7, 3)], per_head=True)
    assert maps.shape == (3, 2, 11, 13)
    for told, (row, column) in zip(maps, [(0, 0), (10, 12), (7, 3)], strict=True):
        index = (row // layer.query_stride, column // layer.query_stride)
        torch.testing.assert_close(told, by_one_hot_values(layer, x, index), atol=1e-6, rtol=1e-5)


def test_softmax_by_hand_where_one_block_is_the_map():
    layer = layer_of(block_size=(3, 5), halo_size=0, relative="none", num_heads=1)
    x = torch.randn(1, 8, 3, 5)
    pixels = x[0].flatten(1).t()
    with torch.no_grad():
        query = layer.query.weight.flatten(1) @ pixels[1 * 5 + 2]
        keys = pixels @ layer.key_value.weight[:8].flatten(1).t()
    weights = torch.softmax(keys @ query * 8**-0.5, dim=0).view(3, 5)
    torch.testing.assert_close(map_of(layer, x, [(1, 2)])[0], weights)


def test_sums_are_one_where_the_border_does_not_take_part():
    maps = map_of(layer_of(border="mask"), torch.randn(1, 8, 10, 11), CORNERS_AND_MIDDLE[:2])
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(2))


def test_what_is_missing_from_one_lies_on_the_border():
    layer = layer_of()
    nn.init.zeros_(layer.query.weight)  # every pixel of the 8 x 8 neighbourhood then weighs 1 / 64
    maps = map_of(layer, torch.randn(1, 8, 12, 12), [(0, 0), (5, 6), (11, 5)])
    torch.testing.assert_close(maps.sum((1, 2)), torch.tensor([36.0, 64.0, 48.0]) / 64)
    assert set(maps.unique().tolist()) == {0.0, 1 / 64}


@pytest.mark.parametrize(
    ("query", "rows", "columns"),
    [((0, 0), (0, 6), (0, 6)), ((5, 9), (2, 10), (6, 12)), ((11, 4), (6, 12), (2, 10))],
)
def test_nothing_outside_block_and_halo(query, rows, columns):
    weights = map_of(layer_of(), torch.randn(1, 8, 12, 12), [query])[0]
    inside = torch.zeros(12, 12, dtype=torch.bool)
    inside[slice(*rows), slice(*columns)] = True
    assert (weights[inside] > 0).all()
    assert (weights[~inside] == 0).all()


def test_nothing_outside_the_window():
    weights = map_of(layer_of(window=3, halo_size=1, border="mask"), torch.randn(1, 8, 12, 12), [(5, 0)])[0]
    assert weights.nonzero().tolist() == [[row, column] for row in (4, 5, 6) for column in (0, 1)]


def test_heads_are_averaged_unless_asked_for():
    layer, x = layer_of(), torch.randn(1, 8, 12, 12)
    per_head = map_of(layer, x, CORNERS_AND_MIDDLE, per_head=True)
    assert not torch.allclose(per_head[:, 0], per_head[:, 1])
    torch.testing.assert_close(map_of(layer, x, CORNERS_AND_MIDDLE), per_head.mean(1))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(1)
    return halonet.create_model("halonet_nano_32", num_classes=10, in_chans=1)


def test_every_layer_of_a_model_in_the_order_of_running(model):
    maps = attention_maps(model, torch.randn(1, 1, 30, 40), [(29, 39), (3, 20)])
    assert {name: tuple(map_.shape) for name, map_ in maps.items()} == {
        "stages.0.0.slot": (2, 15, 20),
        "stages.0.1.slot": (2, 15, 20),
        "stages.1.0.slot": (2, 15, 20),
        "stages.1.1.slot": (2, 8, 10),
    }
    assert all((map_.sum((1, 2)) > 0).all() and (map_.sum((1, 2)) < 1).all() for map_ in maps.values())
    # the last pixel of the image asks in the last block of every map
    assert all(map_[0, -1, -1] > 0 and map_[0, 0, 0] == 0 for map_ in list(maps.values())[:3])


def test_model_is_left_as_it_was(model):
    model.train()
    model.stages[0].eval()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attention_maps(model, torch.randn(1, 1, 32, 32), [(0, 0)])
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_off(model, mode):
    image = torch.randn(1, 1, 32, 32)
    usual = attention_maps(model, image, [(8, 8)])
    with mode():
        told = attention_maps(model, image + 0, [(8, 8)])
        assert all(torch.equal(told[name], usual[name]) for name in usual)


def test_bad_input(model, tmp_path):
    image = torch.randn(1, 1, 32, 24)
    for wrong, message in [
        ((image[0], [(0, 0)]), r"image must be \(1, C, H, W\), got \(1, 32, 24\)"),
        ((image.expand(2, -1, -1, -1), [(0, 0)]), r"image must be \(1, C, H, W\)"),
        ((image, []), "queries must hold at least one"),
        ((image, [(0, 0), (31, 24)]), r"inside the image of 32x24 pixels, got \(31, 24\)"),
        ((image, [(-1, 0)]), "inside the image"),
    ]:
        with pytest.raises(ValueError, match=message):
            attention_maps(model, *wrong)
    with pytest.raises(ValueError, match="model must have attention layers, got a Conv2d"):
        attention_maps(nn.Conv2d(1, 1, 1), image, [(0, 0)])
    with pytest.raises(ValueError, match=r"layers must be among stages\.0\.0\.slot, .* got nothing"):
        plot_attention(model, image, [(0, 0)], tmp_path / "a.png", layers=["nothing"])
    with pytest.raises(ValueError, match="mean and std must be given together"):
        plot_attention(model, image, [(0, 0)], tmp_path / "a.png", mean=[0.5])
    with pytest.raises(ValueError, match="image must have 1 or 3 channels to be drawn, got 8"):
        plot_attention(layer_of(), torch.randn(1, 8, 8, 8), [(0, 0)], tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("channels", [1, 3])
def test_picture(channels, tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    model = halonet.create_model("halonet_nano_32", num_classes=10, in_chans=channels)
    image = torch.rand(1, channels, 24, 32)
    path = tmp_path / "new" / "attention.png"
    plot_attention(model, image, [(2, 3), (20, 30)], path, mean=[0.5] * channels, std=[0.25] * channels)
    assert [entry.name for entry in path.parent.iterdir()] == ["attention.png"]
    both = imread(path)
    assert both[..., :3].std() > 0.1  # something is drawn
    plot_attention(model, image, [(2, 3)], path, layers=["stages.1.1.slot"])
    one = imread(path)
    assert one.shape[0] < both.shape[0]  # a row a query
    assert one.shape[1] < both.shape[1]  # a column a layer


def test_picture_of_constants(tmp_path):
    """An image of one value, and a query all of whose weight lies on the border, are drawn too."""
    layer = layer_of(relative="none", num_heads=1)
    model = nn.Sequential(nn.Conv2d(1, 8, 1), layer)
    plot_attention(model, torch.zeros(1, 1, 1, 1), [(0, 0)], tmp_path / "attention.png")
    assert (tmp_path / "attention.png").stat().st_size > 1000
