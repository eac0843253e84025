"""Factorized and non-local layers: the forms of Table 8, their equivalence, maps, volumes and tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from halonet.layers import FactorizedAttention, NonLocal, WholeMapAttention
from halonet.layers.whole_map_attention import FORMS
from halonet.ops.factorized_attention import KINDS

SHAPES = {"map": (2, 12, 5, 7), "volume": (2, 12, 3, 4, 5), "tokens": (2, 11, 12)}
LAYERS: list[type[WholeMapAttention]] = [FactorizedAttention, NonLocal]


def options_of(form: str) -> dict[str, Any]:
    return {"form": form, "channels": 8, "num_heads": 2 if FORMS[form].multi_head else 1}


def random_layer(kind_of_layer: type[WholeMapAttention], form: str, **options: Any) -> WholeMapAttention:
    torch.manual_seed(0)
    layer = kind_of_layer(12, **options_of(form), **options).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_dot_layers_of_both_kinds_are_one(form: str, shape: tuple[int, ...]) -> None:
    """Section 3.3: with the same weights, outputs and gradients agree to rounding in float64."""
    factorized = random_layer(FactorizedAttention, form, kind="dot")
    conventional = random_layer(NonLocal, form, kind="dot")
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    outputs = factorized(x), conventional(x)
    assert outputs[0].shape == x.shape
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(x)
    one, other = (
        torch.autograd.grad((output * weights).sum(), [x, *layer.parameters()])
        for output, layer in zip(outputs, (factorized, conventional), strict=True)
    )
    for got, expected in zip(one, other, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layer_class", LAYERS)
@pytest.mark.parametrize("form", FORMS)
def test_volumes_and_maps_are_tokens_in_another_order(layer_class: type[WholeMapAttention], form: str) -> None:
    layer = random_layer(layer_class, form)
    volume = torch.randn(SHAPES["volume"], dtype=torch.float64)
    tokens = layer(volume.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(volume.shape)
    torch.testing.assert_close(layer(volume), tokens)
    torch.testing.assert_close(layer(volume.flatten(3)), tokens.flatten(3))


def test_equation_of_the_dot_form() -> None:
    """x + (X C (X B)^T X V) / b, with the products in the conventional order."""
    layer = random_layer(FactorizedAttention, "dot", kind="dot")
    x = torch.randn(SHAPES["tokens"], dtype=torch.float64)
    matrix_c, matrix_b, matrix_v = (projection.weight.T for projection in layer.projections.values())  # type: ignore[union-attr]
    expected = x + ((x @ matrix_c) @ (x @ matrix_b).transpose(1, 2) / 8) @ (x @ matrix_v)  # type: ignore[operator]
    torch.testing.assert_close(layer(x), expected)


def test_heads_are_layers_side_by_side() -> None:
    """Equation 5: two heads are two single-headed modules on the same input, their outputs concatenated."""
    layer = random_layer(FactorizedAttention, "multi")
    x = torch.randn(SHAPES["tokens"], dtype=torch.float64)
    parts = []
    for head in range(2):
        single = FactorizedAttention(12, form="bot", channels=4, value_channels=3).double()
        for mine, theirs in zip(single.projections.values(), layer.projections.values(), strict=True):
            for name, parameter in mine.named_parameters():
                parameter.data.copy_(theirs.get_parameter(name).chunk(2)[head])
        single.output = nn.Linear(3, 12, bias=False, dtype=torch.float64)
        single.output.weight.data.copy_(layer.output.weight.chunk(2, dim=1)[head])  # type: ignore[union-attr, operator]
        parts.append(single(x) - x)
    expected = x + parts[0] + parts[1] + layer.output.bias  # type: ignore[operator]
    torch.testing.assert_close(layer(x), expected)


def test_transformer_form_is_a_transformer_layer_around_the_attention() -> None:
    layer = random_layer(NonLocal, "transformer", kind="gaussian", bias=True)
    x = torch.randn(SHAPES["tokens"], dtype=torch.float64)
    multi = NonLocal(12, form="multi", channels=8, num_heads=2).double()
    multi.load_state_dict({name: value for name, value in layer.state_dict().items() if name in multi.state_dict()})
    middle = layer.norms[0](multi(x))
    assert layer.feed_forward is not None
    torch.testing.assert_close(layer(x), layer.norms[1](middle + layer.feed_forward(middle)))
    assert [tuple(layer.feed_forward[index].weight.shape) for index in (0, 2)] == [(48, 12), (12, 48)]  # type: ignore[index, union-attr]


@pytest.mark.parametrize("layer_class", LAYERS)
@pytest.mark.parametrize("form", ["dot", "bot", "multi"])
def test_begins_as_the_identity_and_learns(layer_class: type[WholeMapAttention], form: str) -> None:
    layer = layer_class(12, **options_of(form))
    x = torch.randn(SHAPES["map"])
    torch.testing.assert_close(layer(x), x, rtol=0, atol=0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(2):  # the first step moves the last projection, the second all
        optimizer.zero_grad()
        layer(x).square().sum().backward()
        optimizer.step()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    moved = [name for name, parameter in layer.named_parameters() if parameter.grad.abs().max() > 0]  # type: ignore[union-attr]
    # A constant added to all of a mask's logits, or to all logits of a query, changes nothing.
    still = {"projections.basis.bias", "projections.key.bias"}
    assert {name for name, _ in layer.named_parameters()} - set(moved) <= still


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"form": "dot"}, 2 * 128 * 64 + 128 * 128),
        ({"form": "bot", "value_channels": 128}, 49_536),
        ({"form": "multi", "value_channels": 128, "num_heads": 8}, 49_536),
        ({"form": "bot", "bias": False}, 2 * 128 * 64 + 2 * 128 * 64),
    ],
)
def test_parameters_are_the_papers(options: dict[str, Any], expected: int) -> None:
    assert sum(parameter.numel() for parameter in FactorizedAttention(128, **options).parameters()) == expected


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_basis_masks_are_what_is_mixed(shape: tuple[int, ...]) -> None:
    layer = random_layer(FactorizedAttention, "multi")
    assert isinstance(layer, FactorizedAttention)
    x = torch.randn(shape, dtype=torch.float64)
    masks = layer.basis_masks(x)
    places = shape[1:2] if len(shape) == 3 else shape[2:]
    assert masks.shape == (2, 2, 4, *places)
    torch.testing.assert_close(masks.flatten(3).sum(3), torch.ones(2, 2, 4, dtype=torch.float64))
    tokens = layer.tokens_of(x)
    value = layer.projections["value"](tokens).unflatten(2, (2, -1))
    mixture = layer.projections["coefficients"](tokens).unflatten(2, (2, -1)).softmax(3)
    mixed = torch.einsum("bsnk,bnkt,btnd->bsnd", mixture, masks.flatten(3), value).flatten(2)
    torch.testing.assert_close(layer.tokens_of(layer(x)), tokens + layer.output(mixed))


@pytest.mark.parametrize("layer_class", LAYERS)
@pytest.mark.parametrize("kind", KINDS)
def test_channels_last_autocast_and_compile(layer_class: type[WholeMapAttention], kind: str) -> None:
    torch.manual_seed(0)
    layer = layer_class(12, channels=8, kind=kind, **({"backend": "materialized"} if layer_class is NonLocal else {}))
    nn.init.normal_(layer.output.weight)  # type: ignore[arg-type]
    x = torch.randn(SHAPES["map"])
    expected = layer(x)
    last = layer(x.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, expected)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(layer(x).float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("layer_class", LAYERS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_both_orders_in_memory_give_the_same(layer_class: type[WholeMapAttention], form: str, kind: str) -> None:
    """Channels first and channels last, outputs and gradients; the map comes back in the order it had."""
    layer = random_layer(layer_class, form, kind=kind)
    x = torch.randn(SHAPES["map"], dtype=torch.float64)
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        map_ = x.clone(memory_format=memory_format).requires_grad_()
        output = layer(map_)
        if form != "transformer":
            assert output.is_contiguous(memory_format=memory_format)
        results.append([output, *torch.autograd.grad(output.sin().sum(), [map_, *layer.parameters()])])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layer_class", LAYERS)
def test_exports_for_maps_of_any_size(layer_class: type[WholeMapAttention]) -> None:
    layer = layer_class(12, channels=8, **({"backend": "materialized"} if layer_class is NonLocal else {})).eval()
    nn.init.normal_(layer.output.weight)  # type: ignore[arg-type]
    size = {2: torch.export.Dim("height", min=2, max=64), 3: torch.export.Dim("width", min=2, max=64)}
    program = torch.export.export(layer, (torch.randn(SHAPES["map"]),), dynamic_shapes={"x": size})
    other = torch.randn(2, 12, 9, 4)
    torch.testing.assert_close(program.module()(other), layer(other))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "wide"}, "form must be one of dot, bot, multi, transformer, got 'wide'"),
        ({"kind": "cosine"}, "kind must be one of gaussian, dot, got 'cosine'"),
        ({"channels": 0}, "channels must be a positive int, got 0"),
        ({"form": "multi", "num_heads": 3}, "channels must be a multiple of num_heads=3, got 64"),
        ({"num_heads": 2}, "num_heads must be 1 in the form 'bot', got 2"),
        ({"form": "dot", "value_channels": 6}, "value_channels must be dim=12 in the form 'dot', got 6"),
    ],
)
def test_options_that_do_not_fit_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FactorizedAttention(12, **options)


def test_an_input_or_backend_that_does_not_fit_is_told() -> None:
    with pytest.raises(ValueError, match=r"x must be .*, got \(2, 7, 5, 5\)"):
        FactorizedAttention(12)(torch.zeros(2, 7, 5, 5))
    with pytest.raises(ValueError, match=r"x must be .*, got \(2, 12\)"):
        FactorizedAttention(12)(torch.zeros(2, 12))
    with pytest.raises(ValueError, match=r"backend must be one of auto, materialized, .*, got 'fast'"):
        NonLocal(12, backend="fast")
