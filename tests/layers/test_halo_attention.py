"""What the layer computes: shapes, the paper's equation pixel by pixel, timm's layer, the options."""

import numpy as np
import pytest
import torch
from timm.layers.halo_attn import HaloAttn
from torch.nn import functional as F

from halonet.layers import HaloAttention
from tests.layers.direct import direct_attention
from tests.layers.timm_halo import halo_attention_like, in_our_layout

BACKENDS = ["reference", "sdpa"]
POSITIONS = ["split", "full", "absolute", "none"]


def images(*shape, **options):
    return torch.randn(shape, dtype=torch.float64, **options)


def layer_with(dim=8, **options):
    """A layer in float64 whose tables matter as much as its keys."""
    options = {"num_heads": 2, "block_size": 4, "halo_size": 1, **options}
    layer = HaloAttention(dim, dtype=torch.float64, **options)
    for table in (layer.height_table, layer.width_table):
        if table is not None:
            torch.nn.init.normal_(table)
    return layer


def output_and_gradients(layer, image, function=None):
    """Output, gradient of the image, then of every parameter, of a fixed weighted sum of the output."""
    output = (function or layer)(image)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape).cos()
    return [output, *torch.autograd.grad((output * weights).sum(), [image, *layer.parameters()])]


@pytest.mark.parametrize("relative", POSITIONS)
@pytest.mark.parametrize("downsample", ["query", "pool"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 9), (13, 4)])
def test_shape(size, stride, downsample, relative):
    layer = HaloAttention(
        8,
        num_heads=2,
        block_size=4,
        halo_size=(2, 1),
        stride=stride,
        downsample=downsample,
        value_multiplier=1.5,
        relative=relative,
        feat_size=(8, 8),
    )
    output = layer(torch.randn(2, 8, *size))
    assert output.shape == (2, 12, -(-size[0] // stride), -(-size[1] // stride))
    assert layer.dim_out == 12


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "options",
    [
        {"relative": "split"},
        {"relative": "full", "stride": 2},
        {"relative": "none", "halo_size": 0},
        {"relative": "split", "stride": 2, "value_multiplier": 2.0, "query_key_multiplier": 0.5},
        {"relative": "full", "block_size": (2, 3), "halo_size": (2, 1)},
        {"relative": "split", "num_heads": 1, "query_key_multiplier": 0.375},  # heads of 3 channels
        {"relative": "split", "window": 3},
        {"relative": "full", "window": 5, "halo_size": 2, "stride": 2},
    ],
    ids=lambda options: "-".join(f"{key}={value}" for key, value in options.items()),
)
def test_equation_of_the_paper(options, backend):
    layer = layer_with(backend=backend, **options)
    image = images(2, 8, 5, 7, requires_grad=True)
    expected = output_and_gradients(layer, image, lambda image: direct_attention(layer, image))
    actual = output_and_gradients(layer, image)
    for name, mine, theirs in zip(["output", "image", *dict(layer.named_parameters())], actual, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_sasa_is_window_attention_then_average_pooling(size):
    """SASA: every pixel attends to the 3 x 3 around it; stride is pooling after it, over the pixels there are."""
    layer = layer_with(window=3, halo_size=1, stride=2, downsample="pool")
    image = images(2, 8, *size)
    full = direct_attention(layer, image)
    height, width = -(-size[0] // 2), -(-size[1] // 2)
    expected = torch.stack(
        [
            torch.stack([full[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((2, 3)) for j in range(width)], dim=-1)
            for i in range(height)
        ],
        dim=-2,
    )
    torch.testing.assert_close(layer(image), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("dim_out", "dim_head", "block", "halo", "size"),
    [(16, None, 4, 1, (8, 12)), (32, 8, 4, 3, (8, 8)), (16, 4, 2, 3, (6, 4)), (16, 12, 6, 0, (6, 12))],
)
def test_timm_layer(dim_out, dim_head, block, halo, size, backend):
    """timm's layer of stride 1 with copied weights: output and every gradient."""
    theirs = HaloAttn(
        16, dim_out, num_heads=2, dim_head=dim_head, block_size=block, halo_size=halo, scale_pos_embed=True
    ).double()
    ours = halo_attention_like(theirs, backend=backend)
    image = images(2, 16, *size, requires_grad=True)
    expected = output_and_gradients(theirs, image)
    actual = output_and_gradients(ours, image)
    torch.testing.assert_close(actual[:2], expected[:2], rtol=1e-10, atol=1e-12)
    names = [name for name, _ in theirs.named_parameters()]
    gradients = in_our_layout(theirs, dict(zip(names, expected[2:], strict=True)))
    for (name, _), gradient in zip(ours.named_parameters(), actual[2:], strict=True):
        torch.testing.assert_close(gradient, gradients.pop(name), rtol=1e-10, atol=1e-12)
    assert not gradients


@pytest.mark.parametrize("stride", [1, 2])
def test_split_tables_are_full_tables_with_zero_halves(stride):
    split = layer_with(relative="split", stride=stride)
    full = layer_with(relative="full", stride=stride)
    state = split.state_dict()
    zeros = torch.zeros_like(state["height_table"])
    state["height_table"] = torch.cat([state["height_table"], zeros], dim=1)
    state["width_table"] = torch.cat([zeros, state["width_table"]], dim=1)
    full.load_state_dict(state)
    image = images(2, 8, 9, 6)
    torch.testing.assert_close(split(image), full(image), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("size", [(4, 6), (7, 5), (1, 6)])
def test_absolute_position_is_a_map_added_to_the_input(size):
    """Factorized: half the channels from the row, half from the column; at another size by linear interpolation."""
    layer = layer_with(relative="absolute", feat_size=(4, 6))
    plain = layer_with(relative="none")
    plain.load_state_dict({name: tensor for name, tensor in layer.state_dict().items() if "table" not in name})
    image = images(1, 8, *size)
    embedding = np.zeros((8, *size))
    for channel in range(4):
        rows = layer.height_table[:, channel].detach().numpy()
        columns = layer.width_table[:, channel].detach().numpy()
        embedding[channel] = np.interp(np.linspace(0, 3, size[0]), np.arange(4), rows)[:, None]
        embedding[4 + channel] = np.interp(np.linspace(0, 5, size[1]), np.arange(6), columns)[None]
    torch.testing.assert_close(layer(image), plain(image + torch.from_numpy(embedding)), rtol=1e-9, atol=1e-11)


def test_without_position_the_keys_of_a_block_may_be_shuffled():
    """With one block as large as the map and no position, permuting the pixels permutes the output."""
    image = images(1, 8, 4, 4)
    order = torch.randperm(16)
    shuffled = image.flatten(2)[:, :, order].unflatten(2, (4, 4))
    for relative, equal in (("none", True), ("split", False), ("absolute", False)):
        layer = layer_with(relative=relative, halo_size=0, feat_size=(4, 4))
        difference = layer(image).flatten(2)[:, :, order] - layer(shuffled).flatten(2)
        assert (difference.abs().max() < 1e-12).item() is equal, relative


def test_multipliers_set_the_channels():
    layer = HaloAttention(16, num_heads=4, value_multiplier=2.5, query_key_multiplier=0.5)
    query, key, value = layer.project(torch.randn(1, 16, 9, 8))
    assert [tuple(t.shape) for t in (query, key, value)] == [(1, 9, 8, 4, 2), (1, 9, 8, 4, 2), (1, 9, 8, 4, 10)]
    assert layer(torch.randn(1, 16, 9, 8)).shape == (1, 40, 9, 8)
    assert [tuple(t.shape) for t in (layer.height_table, layer.width_table)] == [(21, 1), (21, 1)]


def test_parameter_count_of_the_paper():
    """W_Q, W_K: C x C, W_V: C x C r_v, no bias, no output projection; two tables of half the head's channels."""
    layer = HaloAttention(64, num_heads=4, block_size=8, halo_size=3, value_multiplier=3.0)
    assert sum(p.numel() for p in layer.parameters()) == 64 * 64 * (1 + 1 + 3) + 2 * (2 * (8 + 3) - 1) * 8


def test_attend_and_project_make_the_layer():
    """`attend` takes values of any width, such as one-hot pixels to read the attention weights."""
    layer = layer_with(stride=2)
    image = images(1, 8, 6, 4)
    query, key, value = layer.project(image)
    torch.testing.assert_close(layer.attend(query, key, value).flatten(3).permute(0, 3, 1, 2), layer(image))
    pixels = torch.eye(24, dtype=torch.float64).reshape(1, 6, 4, 1, 24).expand(-1, -1, -1, 2, -1)
    weights = layer.attend(query, key, pixels)
    assert weights.shape == (1, 3, 2, 2, 24)
    mixed = torch.einsum("bijnp,bpnd->bijnd", weights, value.flatten(1, 2))
    torch.testing.assert_close(mixed.flatten(3).permute(0, 3, 1, 2), layer(image))


@pytest.mark.parametrize("relative", POSITIONS)
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"window": 3}, {"stride": 2, "downsample": "pool"}])
def test_every_parameter_gets_a_gradient(options, relative):
    """On a map of several blocks; every row of a table too, where a query and a key exist at every offset."""
    layer = layer_with(relative=relative, feat_size=(12, 12), **options)
    layer(images(2, 8, 12, 12)).pow(2).sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        rows = parameter.grad.flatten(1).abs().amax(1)
        assert rows.max() > 0, name
        assert rows.min() > 0 or (name.endswith("table") and options), name


@pytest.mark.parametrize(
    ("window", "shift", "equal"), [(None, 4, True), (None, 1, False), (3, 1, True), (3, 4, True), (3, 3, True)]
)
def test_equivariance(window, shift, equal):
    """Section 2.2: blocks keep translations by whole blocks only; per-pixel windows keep all."""
    layer = layer_with(window=window)
    image = F.pad(images(1, 8, 10, 10), (8, 8, 8, 8))
    shifted = image.roll((shift, shift), (2, 3))
    difference = layer(image).roll((shift, shift), (2, 3)) - layer(shifted)
    assert (difference[..., 5:-5, 5:-5].abs().max() < 1e-12).item() is equal


@pytest.mark.parametrize("border", ["zeros", "mask", "circular"])
def test_border_is_passed_to_the_op(border):
    """Equal values everywhere come back unchanged unless zeros from beyond the border take part."""
    layer = layer_with(border=border)
    with torch.no_grad():
        layer.key_value.weight[layer.dim_qk :] = torch.eye(8, dtype=torch.float64)[..., None, None]
    output = layer(torch.ones(1, 8, 8, 8, dtype=torch.float64))
    assert ((output - 1).abs().max() < 1e-12).item() is (border != "zeros")


def test_initial_statistics():
    """Projections keep the variance of the input; tables have the standard deviation of Dk ** -0.5."""
    layer = HaloAttention(256, num_heads=4)
    for projected in layer.project(torch.randn(2, 256, 16, 16)):
        assert 0.7 < projected.std() < 1.1
    expected = 64**-0.5
    assert 0.7 * expected < layer.height_table.std() < 1.1 * expected
    before = layer.query.weight.clone()
    layer.reset_parameters()
    assert not torch.equal(before, layer.query.weight)
