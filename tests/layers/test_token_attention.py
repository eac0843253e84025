"""Attention on tokens against full attention with a mask, token by token, in float64, gradients included."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from halonet.layers import (
    FullAttention,
    GlobalAttention,
    LinformerAttention,
    LongformerAttention,
    PerformerAttention,
    SpatialReductionAttention,
)
from halonet.ops import orthogonal_features, performer_attention
from halonet.ops.local_attention.geometry import NEIGHBOR_DIRECTIONS

SIZE = (7, 8)  # 4 x 4 chunks of 2, the last row of them cut
WINDOW, CHUNK = 5, 2
MODES = [*((masking, mode) for masking in ("chunk", "cyclic") for mode in range(-1, 9)), ("window", 0), ("window", -1)]


def double(layer):
    """The layer in float64, its biases large enough to be seen."""
    for name, parameter in layer.named_parameters():
        if "bias" in name:
            nn.init.normal_(parameter)
    return layer.double()


def results(function, tokens, layer):
    """Output, and gradients of a fixed weighted sum of it, of the tokens and every parameter."""
    tokens = tokens.clone().requires_grad_()
    output = function(tokens)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(3), dtype=output.dtype)
    leaves = {"tokens": tokens, **dict(layer.named_parameters())}
    gradients = torch.autograd.grad((output * weights).sum(), list(leaves.values()))
    return {"output": output.detach(), **dict(zip(leaves, gradients, strict=True))}


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.allclose(got[name], tensor, rtol=1e-9, atol=1e-9), (name, (got[name] - tensor).abs().max())


def with_logits(layer, tokens, bias):
    """Plain attention of all tokens, `bias` (N, T, T) added to their logits; -inf hides."""
    heads, dim = layer.num_heads, layer.dim // layer.num_heads
    query = layer.query(tokens).unflatten(2, (heads, dim)).transpose(1, 2)
    key, value = (part.unflatten(2, (heads, dim)).transpose(1, 2) for part in layer.key_value(tokens).chunk(2, dim=2))
    weights = (query @ key.transpose(2, 3) * dim**-0.5 + bias).softmax(dim=3)
    return layer.proj((weights @ value).transpose(1, 2).flatten(2))


def chunks_seen(mode):
    """Steps from the own chunk to those that are seen."""
    around = list(itertools.product((-1, 0, 1), repeat=2))
    return {-1: [(0, 0)], 0: around}.get(mode) or [(0, 0), NEIGHBOR_DIRECTIONS[mode - 1]]


def local_offsets(query, key, masking, mode):
    """Offset (down, across) of a key that a query of the map sees, or None; by the definition of chunks."""
    grid = [-(-side // CHUNK) for side in SIZE]
    for step in chunks_seen(mode):
        beyond = [q // CHUNK + s for q, s in zip(query, step, strict=True)]
        if masking == "cyclic":
            beyond = [b % g for b, g in zip(beyond, grid, strict=True)]
        if tuple(beyond) == tuple(k // CHUNK for k in key):
            offset = [s * CHUNK + k % CHUNK - q % CHUNK for q, k, s in zip(query, key, step, strict=True)]
            return None if masking == "window" and max(map(abs, offset)) > WINDOW // 2 else offset
    return None


def longformer_logits(layer, masking, mode):
    """The bias of every pair of tokens, (N, T, T), and -inf where they do not meet."""
    pixels, count = list(itertools.product(*map(range, SIZE))), layer.num_global
    rows = []
    for i in range(count + len(pixels)):
        row = []
        for j in range(count + len(pixels)):
            if i < count:
                row.append(layer.global_bias[:, i, j] if j < count else layer.global_local_bias[0, :, i])
            elif j < count:
                row.append(layer.global_local_bias[1, :, j])
            else:
                offset = local_offsets(pixels[i - count], pixels[j - count], masking, mode)
                reach = 2 * CHUNK - 1
                hidden = torch.full((layer.num_heads,), -torch.inf, dtype=torch.float64)
                row.append(hidden if offset is None else layer.bias_table[:, reach + offset[0], reach + offset[1]])
        rows.append(torch.stack(row, dim=1))
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("count", [0, 1, 8])
@pytest.mark.parametrize(("masking", "mode"), MODES)
def test_longformer_is_full_attention_with_a_mask(masking, mode, count):
    layer = double(LongformerAttention(6, num_heads=2, num_global=count, window=WINDOW, masking=masking))
    layer.mode = mode
    tokens = torch.randn(2, count + SIZE[0] * SIZE[1], 6, dtype=torch.float64)
    expected = results(lambda x: with_logits(layer, x, longformer_logits(layer, masking, mode)), tokens, layer)
    for backend in ("auto", "reference"):
        layer.backend = backend
        assert_same(results(lambda x: layer(x, SIZE), tokens, layer), expected)


def test_modes_of_training_are_not_those_of_evaluation():
    """1 to 8 are all nine chunks in evaluation; -1, a model of its own, stays."""
    layer = LongformerAttention(6, num_heads=2, window=WINDOW)
    tokens = torch.randn(1, 1 + SIZE[0] * SIZE[1], 6)
    whole = layer(tokens, SIZE)
    for mode in range(1, 9):
        layer.mode = mode
        assert not torch.allclose(layer.train()(tokens, SIZE), whole)
        torch.testing.assert_close(layer.eval()(tokens, SIZE), whole)
    layer.mode = -1
    assert not torch.allclose(layer.eval()(tokens, SIZE), whole)


@pytest.mark.parametrize("mode", range(1, 9))
def test_order_of_the_neighbours(mode):
    """3 x 3 chunks of one pixel, worked by hand: numbered row by row without the middle, which sees itself and one."""
    layer = LongformerAttention(9, num_heads=1, num_global=0, window=3, bias=False)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.key_value.weight[9:].copy_(torch.eye(9))  # values are the tokens, one-hot by their place
        layer.proj.weight.copy_(torch.eye(9))
    layer.mode = mode
    seen = layer(torch.eye(9)[None], (3, 3))[0, 4]
    place = {1: 0, 2: 1, 3: 2, 4: 3, 5: 5, 6: 6, 7: 7, 8: 8}[mode]
    assert torch.equal(seen.nonzero().flatten(), torch.tensor(sorted((4, place))))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_full_attention_with_bias(count):
    size = (3, 4)
    layer = double(FullAttention(6, num_heads=2, feat_size=size, num_global=count))
    pixels = list(itertools.product(*map(range, size)))

    def logits(layer):
        offsets = [[(k[0] - q[0] + 2, k[1] - q[1] + 3) for k in pixels] for q in pixels]
        local = torch.stack([torch.stack([layer.bias_table[:, y, x] for y, x in row], 1) for row in offsets], 1)
        if not count:
            return local
        first = torch.cat([layer.global_bias, layer.global_local_bias[0, :, :, None].expand(-1, -1, len(pixels))], 2)
        rest = torch.cat([layer.global_local_bias[1, :, None].expand(-1, len(pixels), -1), local], 2)
        return torch.cat([first, rest], 1)

    tokens = torch.randn(2, count + 12, 6, dtype=torch.float64)
    expected = results(lambda x: with_logits(layer, x, logits(layer)), tokens, layer)
    assert_same(results(lambda x: layer(x, size), tokens, layer), expected)


def test_a_window_that_reaches_everything_is_full_attention():
    """As at 224 in the paper's last stages: 14 x 14 tokens, window 15; the bias tables have one size."""
    local = LongformerAttention(6, num_heads=2, window=15)
    full = FullAttention(6, num_heads=2, feat_size=(14, 14))
    full.load_state_dict(local.state_dict())
    tokens = torch.randn(2, 197, 6)
    torch.testing.assert_close(local(tokens, (14, 14)), full(tokens, (14, 14)), rtol=1e-4, atol=1e-6)


def test_full_attention_at_another_size_takes_the_bias_between():
    """A bias that is linear in the offset is as linear at twice the size, in half the steps."""
    layer = FullAttention(4, num_heads=1, feat_size=(3, 3), num_global=0)
    offsets = torch.arange(-2.0, 3)
    with torch.no_grad():
        layer.bias_table.copy_(offsets[:, None] + 10 * offsets)
    wide = torch.linspace(-2, 2, 9)
    torch.testing.assert_close(layer.bias_of((5, 5))[0], wide[:, None] + 10 * wide)
    assert layer.bias_of((3, 3)) is layer.bias_table
    layer(torch.randn(1, 10, 4), (2, 5)).sum().backward()
    assert layer.bias_table.grad.any()


def test_global_attention():
    layer = double(GlobalAttention(6, num_heads=2, num_global=3))
    hidden = torch.zeros(15, 15, dtype=torch.float64)
    hidden[3:, 3:] = -torch.inf
    tokens = torch.randn(2, 15, 6, dtype=torch.float64)
    expected = results(lambda x: with_logits(layer, x, hidden), tokens, layer)
    assert_same(results(lambda x: layer(x, (3, 4)), tokens, layer), expected)


@pytest.mark.parametrize("share", [True, False])
def test_linformer(share):
    layer = double(LinformerAttention(6, num_heads=2, feat_size=(3, 4), num_features=5, share_key_value=share))

    def by_definition(tokens):
        key, value = layer.key_value(tokens).chunk(2, dim=2)
        mixes = layer.mix_key, layer.mix_key if share else layer.mix_value
        key, value = (mix.t() @ part for mix, part in zip(mixes, (key, value), strict=True))
        query, key, value = (part.unflatten(2, (2, 3)).transpose(1, 2) for part in (layer.query(tokens), key, value))
        weights = (query @ key.transpose(2, 3) * 3**-0.5).softmax(dim=3)
        return layer.proj((weights @ value).transpose(1, 2).flatten(2))

    tokens = torch.randn(2, 13, 6, dtype=torch.float64)
    assert_same(results(lambda x: layer(x, (3, 4)), tokens, layer), results(by_definition, tokens, layer))
    with pytest.raises(ValueError, match=r"size must be \(3, 4\)"):
        layer(tokens, (4, 3))


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 6)])
def test_spatial_reduction(size):
    layer = double(SpatialReductionAttention(6, num_heads=2, num_global=1, reduction=2))

    def by_definition(tokens):
        map_ = tokens[:, 1:].transpose(1, 2).unflatten(2, size)
        map_ = F.pad(map_, (0, 0, 0, max(0, 2 - size[0])))
        reduced = F.instance_norm(F.conv2d(map_, layer.reduce.weight, stride=2)).flatten(2).transpose(1, 2)
        key, value = layer.key_value(torch.cat([tokens[:, :1], reduced], dim=1)).chunk(2, dim=2)
        query, key, value = (part.unflatten(2, (2, 3)).transpose(1, 2) for part in (layer.query(tokens), key, value))
        weights = (query @ key.transpose(2, 3) * 3**-0.5).softmax(dim=3)
        return layer.proj((weights @ value).transpose(1, 2).flatten(2))

    tokens = torch.randn(2, 1 + size[0] * size[1], 6, dtype=torch.float64)
    assert_same(results(lambda x: layer(x, size), tokens, layer), results(by_definition, tokens, layer))


def test_spatial_reduction_to_one_pixel():
    layer = SpatialReductionAttention(6, num_heads=2, reduction=4)
    assert layer(torch.randn(2, 17, 6), (4, 4)).isfinite().all()


def test_orthogonal_features():
    features = orthogonal_features(10, 4)
    assert features.shape == (10, 4)
    for run in features.split(4):
        products = run @ run.t()
        torch.testing.assert_close(products - products.diag().diag(), torch.zeros_like(products), rtol=0, atol=1e-5)
    many = orthogonal_features(40_000, 4)
    torch.testing.assert_close(many.square().sum(1).mean(), torch.tensor(4.0), rtol=0.05, atol=0)
    torch.testing.assert_close(many.mean(0), torch.zeros(4), rtol=0, atol=0.05)
    with pytest.raises(ValueError, match="count and channels must be positive, got 0 and 4"):
        orthogonal_features(0, 4)


def test_performer_comes_near_softmax_attention():
    """The more features the nearer, down to what the constant added to each feature leaves."""
    query, key, value = (torch.randn(1, 12, 2, 8, dtype=torch.float64) * 0.7 for _ in range(3))
    exact = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (query, key, value))).transpose(1, 2)

    def error(count):
        draws = [performer_attention(query, key, value, orthogonal_features(count, 8)) for _ in range(8)]
        return torch.stack([(draw - exact).square().mean() for draw in draws]).mean().sqrt()

    few, many = error(64), error(1024)
    assert many < 0.4 * few
    assert many < 0.04


def test_performer_does_not_overflow():
    """Exponents of large tokens, in half precision too."""
    features = orthogonal_features(32, 8)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        tokens = (30 * torch.randn(1, 20, 2, 8)).to(dtype).requires_grad_()
        output = performer_attention(tokens, tokens, tokens, features)
        assert output.dtype == dtype
        output.float().sum().backward()
        assert output.isfinite().all()
        assert tokens.grad.isfinite().all()


def test_performer_layer_redraws_its_features():
    layer = PerformerAttention(8, num_heads=2, num_features=16)
    tokens = torch.randn(1, 10, 8)
    before = layer(tokens, (3, 3))
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    layer.redraw()
    assert not torch.equal(layer(tokens, (3, 3)), before)
    layer.load_state_dict(state)
    assert torch.equal(layer(tokens, (3, 3)), before)
    layer.redraw(torch.Generator().manual_seed(1))
    drawn = layer.features.clone()
    layer.redraw(torch.Generator().manual_seed(1))
    assert torch.equal(layer.features, drawn)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LongformerAttention(6, num_heads=4), "dim must be a multiple of num_heads=4, got 6"),
        (lambda: LongformerAttention(6, num_heads=2, window=4), "window must be an odd int of at least 3, got 4"),
        (lambda: LongformerAttention(6, num_heads=2, masking="ring"), "masking must be one of chunk, window, cyclic"),
        (lambda: LongformerAttention(6, num_heads=2, backend="x"), "backend must be one of auto"),
        (lambda: LongformerAttention(6, num_heads=0), "num_heads must be an int of at least 1, got 0"),
        (lambda: LongformerAttention(6, num_heads=2, num_global=-1), "num_global must be an int of at least 0, got -1"),
        (lambda: GlobalAttention(6, num_heads=2, num_global=0), "num_global must be at least 1"),
        (lambda: LinformerAttention(6, num_heads=2, feat_size=(2, 2), num_features=0), "num_features must be"),
        (lambda: SpatialReductionAttention(6, num_heads=2, reduction=0), "reduction must be a positive int, got 0"),
        (lambda: PerformerAttention(6, num_heads=2, num_features=1.5), "num_features must be a positive int, got 1.5"),
        (
            lambda: LongformerAttention(6, num_heads=2)(torch.randn(1, 5, 6), (2, 3)),
            r"tokens must be 7, 1 global ones and a map of \(2, 3\), got 5",
        ),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()
