"""The non-local block: its two equations written out, and that it begins as the identity."""

import pytest
import torch
from torch.nn import functional as F

from halonet.layers import NonLocal2d


def block(**options):
    """In float64, with a last norm that lets something through."""
    layer = NonLocal2d(6, **options).double().eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer


def by_the_equation(layer, x):
    theta, phi, g = (F.conv2d(x, conv.weight, conv.bias).flatten(2) for conv in (layer.theta, layer.phi, layer.g))
    weights = theta.transpose(1, 2) @ phi
    weights = weights.softmax(-1) if layer.kind == "gaussian" else weights / weights.shape[-1]
    y = (weights @ g.transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])
    return x + layer.norm(F.conv2d(y, layer.expand.weight))


@pytest.mark.parametrize("kind", ["gaussian", "dot"])
@pytest.mark.parametrize("size", [(1, 2), (4, 5)])  # fewer pixels than the 3 channels inside, and more
def test_the_equation(kind, size):
    layer = block(kind=kind)
    x = torch.randn(2, 6, *size, dtype=torch.float64, requires_grad=True)
    output, expected = layer(x), by_the_equation(layer, x)
    torch.testing.assert_close(output, expected)
    inputs = [x, *layer.parameters()]
    for got, want in zip(*(torch.autograd.grad((y**2).sum(), inputs) for y in (output, expected)), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["gaussian", "dot"])
def test_begins_as_the_identity_and_learns(kind):
    layer = NonLocal2d(8, kind=kind)
    x = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(layer(x), x)
    (layer(x) * torch.randn_like(x)).sum().backward()
    assert layer.norm.weight.grad.any()


def test_channels_are_halved():
    assert NonLocal2d(8).theta.out_channels == 4
    assert NonLocal2d(8, reduction=4).expand.in_channels == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "max"}, "kind must be one of gaussian, dot, got 'max'"),
        ({"reduction": 0}, "reduction must be a positive int, got 0"),
    ],
)
def test_what_does_not_fit_is_said(options, said):
    with pytest.raises(ValueError, match=said):
        NonLocal2d(8, **options)
