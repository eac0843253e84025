"""A record is one forward pass that leaves the model as it was, and tells queries by pixels of the image."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import halonet
from halonet.analysis.attention import record_attention
from halonet.analysis.attention.record import LayerRecord
from halonet.layers import FactorizedAttention, HaloAttention, LongformerAttention
from tests.analysis.attention.making import Reading, make


def layer_of(**options: object) -> HaloAttention:
    given = {"num_heads": 2, "block_size": 4, "halo_size": 2, **options}
    return HaloAttention(8, **given).eval()


def record_of(layer: nn.Module, image: torch.Tensor) -> LayerRecord:
    (record,) = record_attention(layer, image).layers.values()
    return record


def test_softmax_by_hand_where_one_block_is_the_map() -> None:
    layer = layer_of(block_size=(3, 5), halo_size=0, relative="none", num_heads=1)
    x = torch.randn(1, 8, 3, 5)
    pixels = x[0].flatten(1).t()
    with torch.no_grad():
        query = layer.query.weight.flatten(1) @ pixels[1 * 5 + 2]
        keys = pixels @ layer.key_value.weight[:8].flatten(1).t()
    weights = torch.softmax(keys @ query * 8**-0.5, dim=0).view(3, 5)
    torch.testing.assert_close(record_of(layer, x).at([(1, 2)]).weights[0, 0], weights)


def test_shares_by_hand() -> None:
    """Queries of 0: each pixel of the 8 x 8 neighbourhood weighs 1 / 64, of which the block is 16."""
    layer = layer_of()
    nn.init.zeros_(layer.query.weight)
    rows = record_of(layer, torch.randn(1, 8, 12, 12)).at([(0, 0), (5, 6), (11, 5)])
    torch.testing.assert_close(rows.outside, torch.tensor([28.0, 0.0, 16.0])[:, None].expand(3, 2) / 64)
    assert rows.in_block is not None
    torch.testing.assert_close(rows.in_block, torch.full((3, 2), 16 / 64))
    assert rows.seen.tolist() == [36, 64, 48]


def test_a_block_weighs_no_more_than_the_map_in_half_precision() -> None:
    """Without a halo the block is all that is seen; a sum that is rounded to bfloat16 can be more."""
    layer = layer_of(halo_size=0, relative="none").bfloat16()
    rows = record_of(layer, torch.randn(1, 8, 8, 8).bfloat16()).at([(0, 0), (3, 5), (7, 7)])
    assert rows.in_block is not None
    torch.testing.assert_close(rows.in_block, rows.weights.sum((-2, -1)), rtol=1e-6, atol=0)


def test_a_query_outside_the_map_is_refused() -> None:
    """Its number would be that of another row's."""
    record = record_of(layer_of(stride=2), torch.randn(1, 8, 11, 13))
    for query in ((0, 7), (6, 0), (0, -1)):
        with pytest.raises(ValueError, match=r"queries must lie inside the map of 6x7 queries, got"):
            record.at_queries([query])
    with pytest.raises(ValueError, match="queries must hold at least one"):
        record.at_queries([])


def test_the_own_block_is_cut_by_the_map() -> None:
    """A map of 6 x 5 in blocks of 4: the last has 2 x 1 pixels."""
    layer = layer_of(border="mask")
    nn.init.zeros_(layer.query.weight)
    rows = record_of(layer, torch.randn(1, 8, 6, 5)).at([(5, 4)])
    assert rows.in_block is not None
    torch.testing.assert_close(rows.in_block[0], torch.full((2,), 2 / 12))  # of 4 x 3 pixels seen


@pytest.mark.parametrize(
    ("query", "rows", "columns"),
    [((0, 0), (0, 6), (0, 6)), ((5, 9), (2, 10), (6, 12)), ((11, 4), (6, 12), (2, 10))],
)
def test_nothing_outside_what_the_frame_says(query, rows, columns) -> None:
    record = record_of(layer_of(), torch.randn(1, 8, 12, 12))
    weights, frames = record.at([query]).weights[0, 0], record.frames(query)
    inside = torch.zeros(12, 12, dtype=torch.bool)
    inside[slice(*rows), slice(*columns)] = True
    assert (weights[inside] > 0).all()
    assert (weights[~inside] == 0).all()
    assert frames is not None
    assert frames.seen == ((rows[0], columns[0]), (rows[1], columns[1]))


@pytest.mark.parametrize("name", ["vil-window", "vil-chunk", "vil-own-chunk", "halo-window-pool"])
def test_frames_hold_what_is_seen_and_no_more(name: str) -> None:
    """Their corners are pixels that are seen, in the middle of the map."""
    layer, inputs = make(name)
    (record,) = record_attention(Reading(layer, inputs), torch.zeros(1, 3, 7, 9)).layers.values()
    seen, frames = record.at([(3, 4)]).weights[0, 0] > 0, record.frames((3, 4))
    assert frames is not None
    (top, left), (bottom, right) = (tuple(round(at) for at in corner) for corner in frames.seen)
    places = seen.nonzero()
    assert (places.amin(0).tolist(), places.amax(0).tolist()) == ([top, left], [bottom - 1, right - 1])


def test_a_cyclic_border_goes_on_at_the_other_side() -> None:
    """Blocks of 4 with a halo of 2: the first sees rows 10 and 11, the middle one stays inside."""
    record = record_of(layer_of(border="circular"), torch.randn(1, 8, 12, 12))
    assert (record.at([(0, 5)]).weights[0, 0] > 0).any(1).nonzero().flatten().tolist() == [*range(6), 10, 11]
    frames = record.frames((0, 5))
    assert frames is not None
    assert frames.seen == ((0.0, 2.0), (12.0, 10.0))


def test_a_window_on_a_large_image() -> None:
    """Image pixels are laid over the map: a map at half the size, a window of 3 around pixel 2, block 2 to 3."""
    model = nn.Sequential(nn.AvgPool2d(2), layer_of(window=3, block_size=2, halo_size=1))
    frames = record_of(model, torch.randn(1, 8, 12, 12)).frames((5, 4))
    assert frames is not None
    assert frames.block == ((4.0, 4.0), (8.0, 8.0))
    assert frames.seen == ((2.0, 2.0), (8.0, 8.0))  # pixel (2, 2): 1 to 4


def test_the_query_that_strides_over_a_pixel_answers() -> None:
    record = record_of(layer_of(stride=2), torch.randn(1, 8, 11, 13))
    assert record.query_size == (6, 7)
    rows, expected = record.at([(10, 12), (3, 4)]), record.at_queries([(5, 6), (1, 2)])
    assert torch.equal(rows.weights, expected.weights)
    assert rows.places is not None
    assert rows.places.tolist() == [[10, 12], [2, 4]]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(1)
    return halonet.create_model("halonet_nano_32", num_classes=10, in_chans=1)


def test_every_layer_of_a_model_in_the_order_of_running(model: nn.Module) -> None:
    record = record_attention(model, torch.randn(1, 1, 30, 40))
    assert record.image_size == (30, 40)
    told = {name: (layer.label, layer.map_size, layer.query_size) for name, layer in record.layers.items()}
    assert told == {
        "stages.0.0.slot": ("stage 1, block 1", (15, 20), (15, 20)),
        "stages.0.1.slot": ("stage 1, block 2", (15, 20), (15, 20)),
        "stages.1.0.slot": ("stage 2, block 1", (15, 20), (8, 10)),
        "stages.1.1.slot": ("stage 2, block 2", (8, 10), (8, 10)),
    }
    # the last pixel of the image asks in the last block of every map
    for layer in record.layers.values():
        weights = layer.at([(29, 39)]).weights[0].mean(0)
        assert weights[-1, -1] > 0
        assert weights.shape == (8, 10) or weights[0, 0] == 0


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("stages.0.blocks.1.attn", "stage 1, block 2"),
        ("backbone.body.stages.3.0.slot", "stage 4, block 1"),
        ("stages.2.attention_after_6", "stage 3, after block 6"),
        ("stages.2.1.self_attn", "stage 3, block 2"),
        ("attention.fpn1", "attention.fpn1"),
        ("", "the layer"),
    ],
)
def test_labels(name: str, label: str) -> None:
    layer = record_of(layer_of(), torch.randn(1, 8, 4, 4))
    named = LayerRecord(name, layer.mechanism, layer.image_size, layer.layout, layer._layer, (), layer._latest)
    assert named.label == label


def test_model_is_left_as_it_was(model: nn.Module) -> None:
    model.train()
    model.stages[0].eval()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    record = record_attention(model, torch.randn(1, 1, 32, 32))
    for layer in record.layers.values():
        layer.at([(0, 0)])
        layer.pull(torch.ones(1, layer.query_size[0] * layer.query_size[1]))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_layer_in_training_tells_its_evaluation() -> None:
    """Random shifts are of training alone, also where the model trains on after it was recorded."""
    layer = LongformerAttention(8, num_heads=2, window=5).eval()
    tokens = torch.randn(1, 1 + 81, 8)
    (record,) = record_attention(Reading(layer, (tokens, (9, 9))), torch.zeros(1, 3, 9, 9)).layers.values()
    expected = record.at([(4, 4)])
    layer.train()
    layer.mode = 2
    assert torch.equal(record.at([(4, 4)]).weights, expected.weights)
    assert layer.training


def test_parameters_count_as_they_are_when_asked() -> None:
    """Not as they were when the same layer was asked before."""
    layer = layer_of()
    record = record_of(layer, torch.randn(1, 8, 8, 8))
    before = record.at([(3, 3)]).weights
    with torch.no_grad():
        layer.query.weight.zero_()
    told = record.at([(3, 3)]).weights
    assert not torch.equal(told, before)
    assert (told[told > 0] == told.max()).all()  # a query of 0 looks at all alike


@pytest.mark.parametrize("name", ["halonet_nano_32", "vil_nano_32"])
def test_autocast_changes_nothing(name: str) -> None:
    """Neither around the record, whose layers would read bfloat16, nor around what is asked of it."""
    model, image = halonet.create_model(name, num_classes=2), torch.randn(1, 3, 32, 32)
    usual = list(record_attention(model, image).layers.values())[-1]
    vector = torch.ones(1, usual.num_global + usual.query_size[0] * usual.query_size[1])
    with torch.autocast("cpu", torch.bfloat16):
        told = list(record_attention(model, image).layers.values())[-1]
        inside = told.at([(3, 3)]).weights
        assert torch.equal(told.pull(vector), usual.pull(vector))
    assert torch.equal(inside, usual.at([(3, 3)]).weights)
    assert torch.equal(told.at([(3, 3)]).weights, inside)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_off(model: nn.Module, mode: type) -> None:
    image = torch.randn(1, 1, 32, 32)
    name = "stages.1.0.slot"
    usual = record_attention(model, image).layers[name]
    vector = torch.ones(1, usual.query_size[0] * usual.query_size[1])
    with mode():
        told = record_attention(model, image + 0).layers[name]
        assert torch.equal(told.at([(8, 8)]).weights, usual.at([(8, 8)]).weights)
        assert torch.equal(told.pull(vector), usual.pull(vector))


def test_the_first_of_two_runs_counts() -> None:
    layer, x = layer_of(), torch.randn(1, 8, 8, 8)
    twice = nn.Sequential(layer, nn.Conv2d(8, 8, 1), layer)
    (record,) = record_attention(twice, x).layers.values()
    assert torch.equal(record.at([(3, 3)]).weights, record_of(layer, x).at([(3, 3)]).weights)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_compiled_model_that_ran_before(in_place: bool) -> None:
    layer, x = layer_of().eval(), torch.randn(1, 8, 8, 8)
    plain = nn.Sequential(layer)
    if in_place:
        plain.compile(backend="eager")
        compiled: nn.Module = plain
    else:
        compiled = torch.compile(plain, backend="eager")  # type: ignore[assignment]
    with torch.no_grad():
        compiled(x)
    (record,) = record_attention(compiled, x).layers.values()
    assert torch.equal(record.at([(3, 3)]).weights, record_of(layer, x).at([(3, 3)]).weights)


def test_models_of_timm_after_accelerate() -> None:
    network, count = halonet.accelerate(timm.create_model("halonet26t", num_classes=2))
    record = record_attention(network, torch.randn(1, 3, 64, 64))
    assert len(record.layers) == count
    assert {layer.mechanism for layer in record.layers.values()} == {"halo"}
    sums = [layer.at([(9, 60)]) for layer in record.layers.values()]
    assert all(torch.allclose(rows.weights.sum((-2, -1)) + rows.outside, torch.ones(1)) for rows in sums)


def test_another_run_than_the_model_s_own() -> None:
    pair = halonet.create_model("fa_psmnet_nano")
    record = record_attention(pair, torch.randn(1, 3, 32, 64), run=pair.features)
    assert {layer.mechanism for layer in record.layers.values()} == {"factorized"}


def test_bad_input(model: nn.Module) -> None:
    image = torch.randn(1, 1, 32, 24)
    for wrong in (image[0], image.expand(2, -1, -1, -1)):
        with pytest.raises(ValueError, match=r"image must be \(1, C, H, W\), got"):
            record_attention(model, wrong)
    with pytest.raises(ValueError, match="model must have attention layers, got a Conv2d"):
        record_attention(nn.Conv2d(1, 1, 1), image)
    record = record_attention(model, image)
    layer = record.layers["stages.0.0.slot"]
    for pixels, message in [
        ([], "pixels must hold at least one"),
        ([(0, 0), (31, 24)], r"inside the image of 32x24 pixels, got \(31, 24\)"),
        ([(-1, 0)], "inside the image"),
    ]:
        with pytest.raises(ValueError, match=message):
            layer.at(pixels)
    with pytest.raises(ValueError, match="pixels must lie inside"):
        layer.frames((32, 0))
    with pytest.raises(ValueError, match=r"stages\.0\.0\.slot has no global tokens"):
        layer.at_tokens()
    with pytest.raises(ValueError, match=r"layer must be among stages\.0\.0\.slot, .* got nothing"):
        record.chosen(["nothing"], 6)


def test_an_even_choice_of_layers() -> None:
    model = nn.Sequential(*(FactorizedAttention(8, channels=4) for _ in range(9)))
    record = record_attention(model, torch.randn(1, 8, 4, 4))
    assert [layer.name for layer in record.chosen(None, 3)] == ["0", "4", "8"]
    assert [layer.name for layer in record.chosen(["5", "2"], 3)] == ["5", "2"]
