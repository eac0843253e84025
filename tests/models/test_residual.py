"""The skeleton: against torchvision's ResNet, its options, training tricks and compilers."""

import copy

import pytest
import torch
import torchvision
from timm.layers import DropPath
from timm.models import group_parameters
from torch import nn

import halonet
from halonet.layers import HaloAttention
from halonet.models.residual import Bottleneck

NANO = "halonet_nano_32"
OPTIONS = [{}, {"slot": "conv", "squeeze_excite": 0.25}, {"stem": "conv7"}, {"stem": "patch4", "head_width": 48}]


def nano(*, awake=True, **options):
    """The small model; `awake` starts no branch at zero."""
    model = halonet.create_model(NANO, **{"num_classes": 5, **options})
    for block in model.modules():
        if isinstance(block, Bottleneck) and awake:
            nn.init.ones_(block.expand.norm.weight)
    return model


def output_and_gradients(model, image):
    output = model(image)
    weights = torch.linspace(-1, 1, output.numel()).reshape(output.shape).cos()
    return [output, *torch.autograd.grad((output * weights).sum(), list(model.parameters()))]


@torch.no_grad()
def test_resnet50_is_torchvisions():
    theirs = torchvision.models.resnet50(weights=None).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(std=0.1)
    ours = halonet.create_model("resnet50_256").eval()
    tensors = theirs.state_dict().values()
    ours.load_state_dict(dict(zip(ours.state_dict(), tensors, strict=True)))
    image = torch.randn(2, 3, 96, 67)
    expected = theirs(image)
    torch.testing.assert_close(ours(image), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_starts_as_its_shortcuts(options):
    """The last norm of every branch starts at zero (Goyal et al.), so a fresh block is its shortcut and activation."""
    for block in nano(awake=False, **options).eval().modules():
        if isinstance(block, Bottleneck):
            image = torch.randn(1, block.reduce.conv.in_channels, 8, 8)
            torch.testing.assert_close(block(image), block.act(block.shortcut(image)))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradient_checkpointing_changes_nothing(options):
    model = nano(**options)
    checkpointed = copy.deepcopy(model)
    checkpointed.set_grad_checkpointing()
    image = torch.randn(4, 3, 33, 36)
    expected = output_and_gradients(model, image)
    torch.testing.assert_close(output_and_gradients(checkpointed, image), expected)
    checkpointed.set_grad_checkpointing(False)
    assert not checkpointed.grad_checkpointing


def test_gradient_checkpointing_recomputes():
    """A block runs once forward, and once more in the backward pass."""
    model, calls = nano(), []
    model.stages[0][0].reduce.register_forward_hook(lambda *_: calls.append(1))
    model.set_grad_checkpointing()
    output = model(torch.randn(2, 3, 32, 32))
    assert len(calls) == 1
    output.sum().backward()
    assert len(calls) == 2


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_channels_last(options):
    model = nano(**options).eval()
    image = torch.randn(2, 3, 35, 50)
    expected = model(image)
    model = model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(image.contiguous(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("options", [{}, {"relative": "absolute", "stem": "conv7"}], ids=str)
def test_compiles_to_one_graph(options):
    torch._dynamo.reset()
    model = nano(depth=1, **options)
    image = torch.randn(2, 3, 35, 50)
    expected = output_and_gradients(copy.deepcopy(model), image)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(output_and_gradients(compiled, image), expected)
    torch._dynamo.reset()


def test_exports():
    model = nano().eval()
    image = torch.randn(2, 3, 35, 50)
    torch.testing.assert_close(torch.export.export(model, (image,)).module()(image), model(image))


def test_autocast():
    model = nano().eval()
    image = torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(image)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), model(image), rtol=0.1, atol=0.05)


def test_drop_path_grows_linearly():
    model = nano(drop_path_rate=0.3, depth=[2, 3])
    rates = [
        block.drop_path.drop_prob if isinstance(block.drop_path, DropPath) else 0.0
        for block in model.modules()
        if isinstance(block, Bottleneck)
    ]
    assert rates == pytest.approx([0.0, 0.075, 0.15, 0.225, 0.3])


def test_drop_path_drops_whole_branches_and_leaves_no_parameter_unused():
    model = nano(drop_path_rate=0.9)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    block = model.stages[1][1].train()
    image = torch.randn(64, 128, 4, 4)
    kept = (block(image) - block.act(image)).flatten(1).abs().amax(1) > 0
    assert 0 < kept.float().mean() < 0.4
    model.eval()
    torch.testing.assert_close(model(image[:, :3]), model(image[:, :3]), rtol=0, atol=0)


def test_dropout_is_before_the_classifier():
    """Without a classifier the rate is seen on the pooled features: zero, or scaled by what is kept."""
    model = nano(drop_rate=0.5, num_classes=0)
    last = torch.ones(1, model.num_features, 2, 2)
    assert set(model.train().forward_head(last).unique().tolist()) == {0.0, 2.0}
    assert set(model.eval().forward_head(last).unique().tolist()) == {1.0}


@pytest.mark.parametrize("in_chans", [1, 4])
def test_other_image_channels(in_chans):
    model = nano(in_chans=in_chans)
    assert model.default_cfg["input_size"] == (in_chans, 32, 32)
    assert model(torch.randn(2, in_chans, 32, 32)).shape == (2, 5)


def test_without_classifier_it_returns_pooled_features():
    model = nano(num_classes=0).eval()
    image = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(image), model.forward_features(image).mean((2, 3)))
    maps = nano(num_classes=0, global_pool="").eval()(image)
    assert maps.shape == (2, 128, 8, 8)


def test_parameter_groups_by_depth():
    """For layer-wise learning rates: every parameter in one group, from stem to head."""
    model = nano(head_width=32)
    groups = group_parameters(model, model.group_matcher())
    names = [name for group in groups.values() for name in group]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    depth_of = {name: depth for depth, group in groups.items() for name in group}
    in_order = ["stem.conv.conv.weight", "stages.0.0.slot.query.weight", "stages.0.1.slot.query.weight"]
    in_order += ["stages.1.0.slot.query.weight", "final_conv.conv.weight"]
    depths = [depth_of[name] for name in in_order]
    assert depths == sorted(depths)
    assert depth_of["head.fc.weight"] > depth_of["stages.1.1.slot.query.weight"]


def test_options_reach_the_layers():
    """One value for all stages, or a list with one a stage; a tuple is a (height, width)."""
    model = nano(
        block_size=(4, 8),
        halo_size=[1, 2],
        value_multiplier=2.0,
        relative="full",
        window=3,
        downsample="pool",
        border="mask",
        backend="reference",
        squeeze_excite=0.125,
        activation="relu",
        head_width=24,
    )
    layers = [module for module in model.modules() if isinstance(module, HaloAttention)]
    assert {layer.block_size for layer in layers} == {(4, 8)}
    assert [layer.halo_size for layer in layers] == [(1, 1), (1, 1), (2, 2), (2, 2)]
    assert [layer.dim_out for layer in layers] == [64, 64, 128, 128]
    kept = [(layer.relative, layer.window, layer.border, layer.backend) for layer in layers]
    assert set(kept) == {("full", 3, "mask", "reference")}
    assert model.stages[1][0].slot.pool.kernel_size == 2
    assert model.num_features == 24
    assert model.stages[0][0].squeeze_excite.fc1.out_channels == 8
    assert isinstance(model.stages[0][0].act, nn.ReLU)
    assert model(torch.randn(2, 3, 21, 30)).shape == (2, 5)


def test_image_size_sets_default_cfg_and_absolute_tables():
    model = nano(img_size=(48, 64), relative="absolute")
    assert model.default_cfg["input_size"] == (3, 48, 64)
    sizes = [(block.slot.height_table.shape[0], block.slot.width_table.shape[0]) for block in model.stages[1]]
    assert sizes == [(24, 32), (12, 16)]  # the map that each slot receives: the first block of a stage strides
