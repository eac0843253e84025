"""timm's models with our op in them: the same numbers, names, gradients."""

import copy

import pytest
import timm
import torch
from timm.layers.bottleneck_attn import BottleneckAttn
from timm.layers.halo_attn import HaloAttn
from torch import nn

import halonet
from halonet.layers.timm_attention import TimmBottleneckAttention, TimmHaloAttention

# Every model of timm with halo or bottleneck attention, and how many such layers it has.
MODELS = {
    "halonet26t": 3,
    "halonet50ts": 5,
    "sehalonet33ts": 4,
    "eca_halonext26ts": 3,
    "haloregnetz_b": 5,
    "lamhalobotnet50ts_256": 4,
    "halo2botnet50ts_256": 6,
    "botnet26t_256": 3,
    "sebotnet33ts_256": 4,
    "botnet50ts_256": 5,
    "halonet_h1": 19,
}
LAYERS = {
    "halo": lambda **options: HaloAttn(12, 24, num_heads=3, block_size=4, halo_size=2, **options),
    "halo-narrow": lambda **options: HaloAttn(12, num_heads=3, dim_head=5, block_size=4, halo_size=1, **options),
    "bottleneck": lambda **options: BottleneckAttn(12, 24, feat_size=(8, 4), num_heads=3, **options),
}
OPTIONS = ({}, {"stride": 2}, {"scale_pos_embed": True, "qkv_bias": True})


def lively(module: nn.Module) -> nn.Module:
    """Random numbers in the parameters that start at zero, behind which a difference would not show."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        if parameter.abs().max() == 0:
            nn.init.uniform_(parameter.data, 0.1, 0.5)
    return module


@pytest.mark.parametrize("name", MODELS)
def test_a_whole_model_computes_the_same(name):
    torch.manual_seed(0)
    theirs = lively(timm.create_model(name)).eval()
    state = theirs.state_dict()
    ours, count = halonet.accelerate(copy.deepcopy(theirs))
    assert count == MODELS[name]
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict(state)
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(1, *theirs.default_cfg["input_size"])
    with torch.no_grad():
        expected, actual = theirs(image), ours(image)
        exact, ours_exact = theirs.double()(image.double()), copy.deepcopy(ours).double()(image.double())
    torch.testing.assert_close(ours_exact, exact, rtol=1e-9, atol=1e-9 * exact.abs().max().item())
    # In float32 at most twice timm's own error, which in lambda layers is large, and what rounding may add.
    eager = (expected - exact).abs().max()
    assert (actual - exact).abs().max() <= 2 * eager + 1e-5 * exact.abs().max()
    assert not any(isinstance(module, (HaloAttn, BottleneckAttn)) for module in ours.modules())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_has_the_same_gradients(kind, options):
    torch.manual_seed(0)
    theirs = LAYERS[kind](**options).double()
    ours, count = halonet.accelerate(copy.deepcopy(theirs))
    assert count == 1
    image = torch.randn(2, 12, 8, 4, dtype=torch.float64, requires_grad=True)
    results = []
    for layer in (theirs, ours):
        output = layer(image)
        weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
        results.append([output, *torch.autograd.grad(output, [image, *layer.parameters()], weights)])
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-11)


def test_pooling_where_the_stride_does_not_divide_the_block():
    torch.manual_seed(0)
    theirs = HaloAttn(12, num_heads=3, block_size=3, halo_size=1, stride=2).double()
    ours, _ = halonet.accelerate(copy.deepcopy(theirs))
    image = torch.randn(1, 12, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(ours(image), theirs(image))


def test_parameters_stay_the_same_objects_and_training_goes_on():
    torch.manual_seed(0)
    model = nn.Sequential(LAYERS["halo"](), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    same, count = halonet.accelerate(model)
    assert same is model
    assert count == 1
    model(torch.randn(2, 12, 8, 8)).square().sum().backward()
    optimizer.step()
    changed = [not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
    # Tables of 2 * (block + 2 * halo) - 1 rows: all are used but the first 2 * halo.
    assert all(changed)


def test_mode_and_shared_layers_are_kept():
    layer = LAYERS["bottleneck"]().eval()
    model = nn.ModuleDict({"first": layer, "second": layer})
    halonet.accelerate(model)
    assert model["first"] is model["second"]
    assert isinstance(model["first"], TimmBottleneckAttention)
    assert not model["first"].training


def test_maps_that_blocks_do_not_divide():
    layer, _ = halonet.accelerate(LAYERS["halo"]())
    assert isinstance(layer, TimmHaloAttention)
    assert layer(torch.randn(1, 12, 5, 7)).shape == (1, 24, 5, 7)


def test_a_bottleneck_keeps_to_its_size():
    layer, _ = halonet.accelerate(LAYERS["bottleneck"]())
    with pytest.raises(ValueError, match=r"x must be a map of \(8, 4\), got \(4, 8\)"):
        layer(torch.randn(1, 12, 4, 8))


def test_nothing_to_replace_is_said():
    with pytest.warns(UserWarning, match="Linear has no HaloAttn or BottleneckAttn"):
        _, count = halonet.accelerate(nn.Linear(2, 2))
    assert count == 0


def test_a_subclass_is_left_alone():
    class Other(HaloAttn):
        def forward(self, x):
            return x

    model = nn.Sequential(Other(12, num_heads=3))
    with pytest.warns(UserWarning, match="Sequential has no"):
        halonet.accelerate(model)
    assert isinstance(model[0], Other)


def test_one_graph_when_compiled():
    torch.manual_seed(0)
    layer, _ = halonet.accelerate(LAYERS["halo"]())
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    image = torch.randn(1, 12, 8, 8)
    torch.testing.assert_close(compiled(image), layer(image))
