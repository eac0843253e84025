"""Weights of every mechanism are those of the layer itself: the gradient of what it computes by its values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from halonet.analysis.attention.mechanisms import MECHANISMS, mechanism_of
from halonet.analysis.attention.record import LayerRecord, record_attention
from halonet.layers import NonLocal2d
from tests.analysis.attention.making import MAKERS, Reading, make

IMAGE = torch.zeros(1, 3, 28, 36)


def recorded(name: str) -> tuple[nn.Module, tuple[Any, ...], LayerRecord]:
    layer, inputs = make(name)
    (record,) = record_attention(Reading(layer, inputs), IMAGE).layers.values()
    return layer, inputs, record


def values_and_output(layer: Any, inputs: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """Of the layer's own forward the values, a leaf, and what its attention makes of them: (S, N, D) and (T, N, D)."""
    project, attend, kept = layer.project, layer.attend, {}

    def projected(*arguments: Any) -> Any:
        query, key, value = project(*arguments)
        if isinstance(layer, NonLocal2d):  # (1, H, W, C), without heads
            kept["value"] = value.detach().unsqueeze(3).requires_grad_()
            return query, key, kept["value"].squeeze(3)
        kept["value"] = value.detach().requires_grad_()
        return query, key, kept["value"]

    def attended(*arguments: Any) -> Any:
        kept["output"] = attend(*arguments)
        return kept["output"]

    layer.project, layer.attend = projected, attended
    try:
        layer(*inputs)
    finally:
        del layer.project, layer.attend
    if isinstance(layer, NonLocal2d):  # (1, H, W, C), without heads
        return kept["value"], kept["output"].unsqueeze(3)
    return kept["value"], kept["output"]


def gradient_of(value: Tensor, output: Tensor, index: int) -> Tensor:
    """(N, S): of every head of the query, by the first channel of its values."""
    found = []
    for head in range(positions(output).shape[1]):
        (gradient,) = torch.autograd.grad(positions(output)[index, head, 0], value, retain_graph=True)
        found.append(positions(gradient)[:, head, 0])
    return torch.stack(found)


def positions(tensor: Tensor) -> Tensor:
    """(1, H, W, N, D) or (1, S, N, D) -> (S, N, D)."""
    return tensor[0].flatten(0, 1) if tensor.ndim == 5 else tensor[0]


@pytest.mark.parametrize("name", MAKERS)
def test_weights_are_the_gradient_of_the_layer(name: str) -> None:
    layer, inputs, record = recorded(name)
    value, output = values_and_output(layer, inputs)
    (height, width), count = record.query_size, record.num_global
    places = sorted({(0, 0), (height - 1, width - 1), (height // 2, 0), (1, width // 2)})
    rows = record.at_queries(places)
    for number, (row, column) in enumerate(places):
        expected = gradient_of(value, output, count + row * width + column)
        told = torch.cat([rows.tokens[number], rows.weights[number].flatten(1)], dim=1)
        torch.testing.assert_close(told, expected.float(), rtol=2e-5, atol=1e-7)
        if not record.signed:
            total = told.sum(1) + rows.outside[number]
            torch.testing.assert_close(total, torch.ones_like(total))
    if count:
        rows = record.at_tokens()
        for index in range(count):
            told = torch.cat([rows.tokens[index], rows.weights[index].flatten(1)], dim=1)
            torch.testing.assert_close(told, gradient_of(value, output, index).float(), rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize(
    "name", ["halo-full-stride", "halo-window-pool", *(name for name in MAKERS if "-" not in name), "timm-halo-stride"]
)
def test_pulling_is_the_product_with_all_rows(name: str) -> None:
    """A vector times the whole map, its rows asked one by one, heads averaged; exact to the rows' float32."""
    _, _, record = recorded(name)
    (height, width), count = record.query_size, record.num_global
    rows = [record.at_tokens()] if count else []
    rows.append(record.at_queries([divmod(index, width) for index in range(height * width)]))
    whole = torch.cat([torch.cat([part.tokens, part.weights.flatten(2)], dim=2).mean(1) for part in rows]).double()
    vectors = torch.rand(3, len(whole), dtype=torch.float64)
    torch.testing.assert_close(record.pull(vectors), vectors @ whole, rtol=1e-5, atol=1e-6)


def test_every_mechanism_is_tested() -> None:
    assert {mechanism_of(make(name)[0]) for name in MAKERS} == set(MECHANISMS)


def test_volumes_and_tokens_without_a_map_are_left_out() -> None:
    layer, _ = make("factorized")
    for shape in ((1, 8, 3, 4, 2), (1, 12, 8)):
        reading = Reading(layer, (torch.zeros(*shape, dtype=torch.float64),))
        with pytest.raises(ValueError, match="model must have attention layers, got a Reading without any"):
            record_attention(reading, IMAGE)
