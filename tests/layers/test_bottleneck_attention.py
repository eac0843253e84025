"""BoTNet's layer: the paper's equation over the whole map, timm's layer, its switches, and maps of other sizes."""

import math

import pytest
import torch
from timm.layers.bottleneck_attn import BottleneckAttn
from torch.nn import functional as F

from halonet.layers import BottleneckAttention

BACKENDS = ["reference", "sdpa", "numba"]


def images(*shape, **options):
    return torch.randn(shape, dtype=torch.float64, **options)


def layer_with(feat_size=(5, 6), dim=8, **options):
    """A layer in float64 whose tables matter as much as its keys."""
    layer = BottleneckAttention(dim, feat_size=feat_size, dtype=torch.float64, **{"num_heads": 2, **options})
    for table in (layer.height_table, layer.width_table):
        if table is not None:
            torch.nn.init.normal_(table)
    return layer


def by_the_equation(layer, x, stride=1):
    """softmax(scale * (q.k + q.r)) v with every logit written out: (B, C, H, W) -> (B, C', H / stride, W / stride)."""
    height, width = x.shape[-2:]
    heads, channels = layer.num_heads, layer.dim_qk // layer.num_heads
    query = F.conv2d(x[..., ::stride, ::stride], layer.query.weight)
    key_value = F.conv2d(x, layer.key_value.weight)
    q = query.unflatten(1, (heads, channels)).permute(0, 1, 3, 4, 2)  # (B, N, i, j, D)
    v = key_value[:, -layer.dim_out :].unflatten(1, (heads, -1)).permute(0, 1, 3, 4, 2)
    logits = q.new_zeros(*q.shape[:4], height, width)
    if layer.content:
        k = key_value[:, : layer.dim_qk].unflatten(1, (heads, channels)).permute(0, 1, 3, 4, 2)
        logits = logits + torch.einsum("bnijd,bnyxd->bnijyx", q, k)
    rows, columns = layer.height_table, layer.width_table
    if layer.relative == "full":
        for i in range(q.shape[2]):
            for y in range(height):
                logits[:, :, i, :, y] += (q[:, :, i] @ rows[y - stride * i + height - 1])[..., None]
        for j in range(q.shape[3]):
            for column in range(width):
                added = (q[:, :, :, j] @ columns[column - stride * j + width - 1])[..., None]
                logits[:, :, :, j, :, column] += added
    if layer.relative == "absolute":
        logits = logits + torch.einsum("bnijd,yxd->bnijyx", q, rows[:, None] + columns[None])
    weights = (logits * channels**-0.5).flatten(4).softmax(-1)
    output = weights.unflatten(4, (height, width))
    output = torch.einsum("bnijyx,bnyxd->bnijd", output, v)
    return output.permute(0, 1, 4, 2, 3).flatten(1, 2)


def assert_same(layer, x, expected_of, *, rtol=1e-10):
    """Output, and gradients of the input and every parameter."""
    parameters = dict(layer.named_parameters())
    results = []
    for function in (layer, expected_of):
        image = x.clone().requires_grad_()
        output = function(image)
        weights = torch.randn(output.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(3))
        results.append([output, *torch.autograd.grad((output * weights).sum(), [image, *parameters.values()])])
    for name, actual, expected in zip(["output", "image", *parameters], *results, strict=True):
        torch.testing.assert_close(
            actual, expected, rtol=rtol, atol=rtol, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("content", [True, False], ids=["qk", ""])
@pytest.mark.parametrize("relative", ["full", "absolute", "none"])
def test_the_equation(relative, content, backend):
    if not content and relative == "none":
        with pytest.raises(ValueError, match='relative must tell a position where content=False, got "none"'):
            layer_with(relative=relative, content=content)
        return
    layer = layer_with(relative=relative, content=content, value_multiplier=1.5, num_heads=4, backend=backend)
    assert_same(layer, images(2, 8, 5, 6), lambda x: by_the_equation(layer, x))


def test_half_the_channels_an_axis():
    """A split table is a full one whose other half is zero."""
    split, full = layer_with(relative="split"), layer_with()
    full.load_state_dict(split.state_dict() | {
        "height_table": F.pad(split.height_table.detach(), (0, 2)),
        "width_table": F.pad(split.width_table.detach(), (2, 0)),
    })  # fmt: skip
    x = images(1, 8, 5, 6)
    torch.testing.assert_close(split(x), full(x))


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 2)])
@pytest.mark.parametrize("relative", ["full", "absolute"])
def test_strided_queries_are_every_second_of_all(size, relative):
    layer = layer_with(size, stride=2, downsample="query", relative=relative)
    x = images(2, 8, *size)
    assert_same(layer, x, lambda x: by_the_equation(layer, x, stride=2))
    whole = layer_with(size, relative=relative)
    whole.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), whole(x)[..., ::2, ::2])


@pytest.mark.parametrize(("size", "pooled"), [((4, 6), (2, 3)), ((5, 7), (3, 4))])
def test_pooling_comes_after_attention(size, pooled):
    """Appendix A.4. At an odd edge the mean is of the pixels there are."""
    layer, whole = layer_with(size, stride=2), layer_with(size)
    whole.load_state_dict(layer.state_dict())
    x = images(1, 8, *size)
    expected = F.avg_pool2d(whole(x), 2, ceil_mode=True, count_include_pad=False)
    assert layer(x).shape[-2:] == pooled
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_timms_layer(stride):
    """With timm's weights: output, and every gradient in our layout."""
    theirs = BottleneckAttn(16, feat_size=(4, 6), stride=stride, num_heads=4, scale_pos_embed=True).double()
    ours = layer_with((4, 6), 16, stride=stride, num_heads=4)

    def in_our_layout(tensors):
        query, key_value = tensors["qkv.weight"].split([16, 32])
        return {
            "query.weight": query,
            "key_value.weight": key_value,
            "height_table": tensors["pos_embed.height_rel"],
            "width_table": tensors["pos_embed.width_rel"],
        }

    ours.load_state_dict(in_our_layout({name: p.detach() for name, p in theirs.named_parameters()}))
    x = images(2, 16, 4, 6)
    torch.testing.assert_close(ours(x), theirs(x))
    weights = torch.randn_like(theirs(x))
    gradients = {}
    for layer in (ours, theirs):
        layer.zero_grad()
        (layer(x) * weights).sum().backward()
        gradients[layer] = {name: parameter.grad for name, parameter in layer.named_parameters()}
    for name, expected in in_our_layout(gradients[theirs]).items():
        torch.testing.assert_close(gradients[ours][name], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [(10, 12), (3, 9), (1, 1), (5, 11)])
@pytest.mark.parametrize("relative", ["full", "split", "absolute"])
def test_another_size_is_the_layer_of_that_size_with_resized_tables(size, relative):
    layer = layer_with(relative=relative)
    x = images(2, 8, *size, requires_grad=True)
    output = layer(x)
    assert output.shape == x.shape
    (output**2).sum().backward()
    assert layer.height_table.grad.any() or size == (1, 1)  # tables of one row are equal for all keys
    other = layer_with(size, relative=relative)
    resized = {
        name: F.interpolate(
            table.detach().t()[None], size=getattr(other, name).shape[0], mode="linear", align_corners=True
        )
        for name, table in (("height_table", layer.height_table), ("width_table", layer.width_table))
    }
    other.load_state_dict(layer.state_dict() | {name: table[0].t() for name, table in resized.items()})
    torch.testing.assert_close(other(x), output)


def test_a_table_that_is_linear_in_the_offset_stays_linear():
    """Offsets of a map twice as large are told as shares of it: its farthest is the farthest of the own map."""
    layer = layer_with((4, 4))
    offsets = torch.arange(-3.0, 4.0, dtype=torch.float64)[:, None].expand(-1, 4)
    with torch.no_grad():
        layer.height_table.copy_(offsets)
        height, width = layer.relative_tables((8, 4))
    torch.testing.assert_close(height[:, 0], torch.linspace(-3, 3, 15, dtype=torch.float64))
    assert height[7].abs().max() == 0
    assert torch.equal(width, layer.width_table)


def test_gradients_through_resized_tables():
    layer = layer_with((2, 3), 4, num_heads=1)
    x = images(1, 4, 3, 4, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, layer.height_table, layer.width_table))


@torch.no_grad()
def test_resized_tables_are_kept_until_they_change():
    layer = layer_with()
    kept = layer.relative_tables((7, 7))
    assert all(a is b for a, b in zip(layer.relative_tables((7, 7)), kept, strict=True))
    for change in (
        lambda: layer.height_table.add_(1),
        lambda: layer.float(),
        lambda: layer.load_state_dict(layer_with().state_dict()),
    ):
        change()
        fresh = layer.relative_tables((7, 7))
        expected = F.interpolate(layer.height_table.t()[None], size=13, mode="linear", align_corners=True)[0].t()
        torch.testing.assert_close(fresh[0], expected)
        assert fresh[0] is not kept[0]
        kept = fresh
    for side in range(30, 80):
        layer.relative_tables((side, side))
    assert len(layer._resized) <= 16
    assert layer.state_dict().keys() == {"query.weight", "key_value.weight", "height_table", "width_table"}


def test_compiles_as_one_graph_at_any_size():
    layer = layer_with(backend="sdpa").float()
    compiled = torch.compile(layer, fullgraph=True, dynamic=False)
    for size in ((5, 6), (4, 7)):
        x = torch.randn(1, 8, *size)
        torch.testing.assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"feat_size": 0}, "feat_size must be"),
        ({"num_heads": 3}, r"query_key_multiplier \* dim must be a multiple of num_heads=3"),
        ({"relative": "polar"}, "relative must be one of split, full, absolute, none, got 'polar'"),
        ({"downsample": "skip"}, "downsample must be one of query, pool, got 'skip'"),
        ({"stride": 0}, "stride must be a positive int, got 0"),
    ],
)
def test_what_does_not_fit_is_said(options, said):
    with pytest.raises(ValueError, match=said):
        BottleneckAttention(8, **{"feat_size": (4, 4), **options})


def test_tables_begin_as_large_as_keys():
    layer = BottleneckAttention(512, feat_size=(14, 14))
    assert layer.height_table.std().item() == pytest.approx(1 / math.sqrt(128), rel=0.1)
    assert "feat_size=(14, 14)" in repr(layer)
