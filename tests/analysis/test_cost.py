"""Counts are what runs: held to torch's own counter, to closed forms and to the papers' formulas."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

import halonet
from halonet.analysis.cost import Count, count_costs
from halonet.layers import HaloAttention


def torch_multiply_adds(model: nn.Module, input_size: tuple[int, int, int]) -> int:
    """Half the operations that torch counts in a forward pass whose tensors have shapes but no memory."""
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()}
    with torch.no_grad(), FakeTensorMode(), FlopCounterMode(display=False) as counter:
        tensors = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in shapes.items()}
        functional_call(model.eval(), tensors, (torch.empty(1, *input_size),))
    total = counter.get_total_flops()
    assert total % 2 == 0
    return total // 2


def on_meta(name: str, **options) -> nn.Module:
    with torch.device("meta"):
        return halonet.create_model(name, backend="reference", **options)


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("halonet_h0_256", (256, 256), {}),
        ("halonet_h7_600", (600, 600), {}),  # 75, 38 and 19 pixels: no block divides them
        ("halonet_h0_256", (97, 130), {"relative": "full"}),
        ("halonet_nano_32", (33, 47), {"relative": "none"}),
        ("halonet_nano_32", (33, 47), {"relative": "absolute", "in_chans": 1}),
        ("halonet_nano_32", (7, 1), {"block_size": (4, 6), "halo_size": (1, 3), "value_multiplier": 2.0}),
        ("halonet_nano_32", (37, 30), {"window": 5, "downsample": "pool"}),
        ("resnet50_se8_halo_512", (65, 65), {}),
        ("halonet_nano_32", (50, 50), {"stem": "patch4", "query_key_multiplier": 2.0, "squeeze_excite": 0.25}),
        ("vil_small_224", (224, 224), {"num_global": [2, 2, 2, 0]}),  # with one, torch counts its values as no product
        ("vil_nano_32", (37, 50), {"attention": ["vil", "full"], "num_global": [3, 2], "window": [7, 15]}),
        ("vil_nano_32", (32, 32), {"attention": "linformer", "position": "absolute", "num_features": 7}),
        ("vil_nano_32", (37, 50), {"attention": "sra", "position": "absolute", "reduction": [3, 2]}),
        ("vil_nano_32", (37, 50), {"attention": "performer", "position": "none", "num_features": 20}),
        ("vil_nano_32", (37, 50), {"attention": "global", "position": "absolute", "num_global": [16, 4]}),
    ],
)
def test_executed_multiply_adds_are_those_torch_counts(name, size, options):
    model = on_meta(name, **options)
    input_size = (options.get("in_chans", 3), *size)
    total = count_costs(model, input_size=input_size).total()
    assert total.multiply_adds == torch_multiply_adds(model, input_size)
    assert total.parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["h0_256", "h1_256", "h2_256", "h3_320", "h4_384", "h5_448", "h6_512", "h7_600"])
def test_halonet_convention_adds_the_rows_no_query_reaches(name):
    model = on_meta(f"halonet_{name}")
    cost = count_costs(model, input_size=(3, 64, 64))
    dead = 0
    for layer in model.modules():
        if isinstance(layer, HaloAttention):
            halo = layer.halo_size[0]
            head_channels = layer.dim_qk // layer.num_heads
            dead += 2 * halo * head_channels  # 2 * halo rows an axis, half the head's channels each
            assert layer.height_table.shape[0] + 2 * halo == 2 * (layer.block_size[0] + 2 * halo) - 1
    assert cost.total(convention="halonet").parameters == cost.total().parameters + dead


def test_attention_by_hand():
    layer = HaloAttention(12, num_heads=3, block_size=4, halo_size=1, stride=2, value_multiplier=2.0)
    cost = count_costs(layer, input_size=(12, 9, 6))
    own = next(entry for entry in cost.modules if entry.name == "")
    # 3 x 2 blocks of 2 x 2 queries see 6 x 6 keys; 5 x 3 queries are real; 11 rows of the paper's tables.
    assert own.executed.multiply_adds == 24 * (36 * (12 + 24) + 2 * 6 * 12)
    assert own.by_convention["halonet"].multiply_adds == 15 * (36 * (12 + 24) + 11 * 12)
    assert own.executed.parameters == 9 * (2 + 2)
    assert own.by_convention["halonet"].parameters == 11 * (2 + 2)
    assert own.by_convention["botnet"].parameters == 0
    assert (own.input_size, own.output_size) == ((9, 6), (5, 3))
    assert cost.total(under="query") == Count(12 * 12, 15 * 12 * 12)
    assert cost.total(under="key_value") == Count(12 * 36, 54 * 12 * 36)


def test_botnet_convention_counts_weights_and_the_classifiers_bias():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=True), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 4, 5))
    cost = count_costs(model, input_size=(3, 4, 4))
    assert cost.total(convention="botnet") == Count(3 * 8 * 9 + 32 * 5 + 5, 4 * 8 * 27 + 32 * 5)
    assert cost.total(convention="halonet").parameters == cost.total().parameters == 3 * 8 * 9 + 8 + 16 + 32 * 5 + 5


def test_a_shared_module_has_its_parameters_once_and_its_work_twice():
    conv = nn.Conv2d(2, 2, 1, bias=False)
    assert count_costs(nn.Sequential(conv, conv), input_size=(2, 3, 3)).total() == Count(4, 2 * 9 * 4)


def test_grouped_convolution():
    conv = nn.Conv2d(4, 8, 3, padding=1, groups=2, bias=False)
    assert count_costs(conv, input_size=(4, 5, 5)).total().multiply_adds == 25 * 8 * 2 * 9


def test_parts_add_up_and_names_are_whole():
    cost = count_costs(on_meta("halonet_h0_256"))
    assert cost.input_size == (3, 256, 256)
    parts = [cost.total(under=name) for name in ("stem", "stages.0", "stages.1", "stages.2", "stages.3", "head")]
    assert sum(parts, Count()) == cost.total()
    assert cost.total(under="stages.1") == sum((cost.total(under=f"stages.1.{i}") for i in range(3)), Count())
    assert cost.total(under="stage") == Count()


def test_more_pixels_cost_more_and_weigh_the_same():
    model = on_meta("halonet_nano_32")
    small, large = (count_costs(model, input_size=(3, side, side)).total() for side in (32, 64))
    assert small.parameters == large.parameters
    assert large.multiply_adds > 3.9 * (small.multiply_adds - 128 * 1000)


def test_model_is_left_as_it_was():
    model = halonet.create_model("halonet_nano_32", num_classes=10).train()
    model.stages[0].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    image = torch.randn(2, 3, 32, 32)
    output = model.eval()(image)
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    count_costs(model)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(model.eval()(image), output)


def test_a_model_in_training_is_counted_on_one_pixel():
    model = halonet.create_model("halonet_nano_32").train()  # batch norm would refuse to train on a single value
    assert count_costs(model, input_size=(3, 1, 1)).total().multiply_adds > 0


def test_model_is_left_as_it_was_after_an_error():
    model = halonet.create_model("halonet_nano_32").train()
    with pytest.raises(RuntimeError):
        count_costs(model, input_size=(5, 32, 32))
    assert all(module.training and "attend" not in vars(module) for module in model.modules())


@pytest.mark.parametrize("input_size", [(3, 0, 8), (3, 8), (3, 8.0, 8)])
def test_bad_input_size(input_size):
    with pytest.raises(ValueError, match="input_size must be"):
        count_costs(nn.Conv2d(3, 3, 1), input_size=input_size)


def test_input_size_is_needed_without_default_cfg():
    with pytest.raises(ValueError, match="input_size must be given"):
        count_costs(nn.Conv2d(3, 3, 1))


def test_unknown_convention():
    with pytest.raises(ValueError, match="convention must be one of halonet, botnet, vil or None, got 'swin'"):
        count_costs(nn.Conv2d(3, 3, 1), input_size=(3, 2, 2)).total(convention="swin")
