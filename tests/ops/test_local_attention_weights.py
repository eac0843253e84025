"""Weights of chosen queries are the op's own: its gradient with respect to the values, of every backend."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from halonet.ops import explain_backend, local_attention, local_attention_weights
from halonet.ops.local_attention.weights import LocalWeights
from tests.ops.cases import BACKENDS, CASES, Case
from tests.ops.test_local_attention_definition import any_case


def arguments(case: Case):
    tensors = case.tensors(requires_grad=False)
    if case.relative:
        tensors["relative"] = (tensors.pop("height_table"), tensors.pop("width_table"))
    return {**tensors, **case.arguments}


def every_query(query):
    return [(row, column) for row in range(query.shape[1]) for column in range(query.shape[2])]


def told(case: Case) -> LocalWeights:
    given = arguments(case)
    del given["value"]
    given.pop("extra_value", None)
    query, key = given.pop("query"), given.pop("key")
    return local_attention_weights(query, key, queries=every_query(query), **given)


def by_gradient(case: Case, backend: str):
    """(B, Q, N, H, W) and (B, Q, N, G): a channel of values a query, whose gradient comes from that query alone."""
    given = arguments(case)
    queries = every_query(given["query"])
    value = given["value"].new_zeros(*given["value"].shape[:-1], len(queries)).requires_grad_()
    leaves = [value]
    if case.extra:
        extra = given["extra_value"].new_zeros(*given["extra_value"].shape[:-1], len(queries)).requires_grad_()
        given["extra_value"] = extra
        leaves.append(extra)
    output = local_attention(**{**given, "value": value}, backend=backend)
    of_query = torch.zeros_like(output)
    for channel, (row, column) in enumerate(queries):
        of_query[:, row, column, :, channel] = 1
    of_map, *of_extra = torch.autograd.grad(output, leaves, of_query)
    weights = of_map.permute(0, 4, 3, 1, 2)
    return weights, of_extra[0].permute(0, 3, 2, 1) if of_extra else weights.new_zeros(*weights.shape[:3], 0)


def assert_told(case: Case, backend: str) -> None:
    weights = told(case)
    of_map, of_extra = by_gradient(case, backend)
    torch.testing.assert_close(weights.map, of_map, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(weights.extra, of_extra, rtol=1e-9, atol=1e-10)
    total = weights.map.sum((-2, -1)) + weights.extra.sum(-1) + weights.outside
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_weights_are_the_gradient(name: str, backend: str) -> None:
    assert_told(CASES[name], backend)


@pytest.mark.parametrize("border", ["zeros", "mask", "circular"])
def test_dilated_windows(border: str) -> None:
    options = {"dilation": 2, "window": 3, "border": border}
    case = Case(map_size=(5, 7), block_size=2, halo_size=2, options=options, bias=True, extra=1)
    assert "numba: refused, it has no dilation" in explain_backend(**arguments(case))
    assert_told(case, "reference")


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=any_case())
def test_weights_of_any_call(case: Case) -> None:
    assert_told(case, "reference")


def test_by_hand() -> None:
    """Keys that say nothing: 8 x 8 pixels of a block of 4 and a halo of 2 weigh 1 / 64 each, in the map or outside."""
    query, key = torch.randn(1, 12, 12, 1, 3), torch.zeros(1, 12, 12, 1, 3)
    weights = local_attention_weights(query, key, queries=[(0, 0), (5, 6), (11, 5)], block_size=4, halo_size=2)
    torch.testing.assert_close(weights.outside[0, :, 0], torch.tensor([28.0, 0.0, 16.0]) / 64)
    assert weights.seen.tolist() == [36, 64, 48]
    assert (weights.map[0, 2, 0] > 0).nonzero().tolist() == [[row, col] for row in range(6, 12) for col in range(2, 10)]


def test_pixels_seen_twice_count_once() -> None:
    """A circular map of 2 x 1 in one block with a halo of 2 is met three times around: 2 pixels."""
    query = torch.randn(1, 2, 1, 1, 3)
    weights = local_attention_weights(query, query, queries=[(1, 0)], block_size=(2, 1), halo_size=2, border="circular")
    assert weights.seen.tolist() == [2]
    assert weights.map.sum().item() == pytest.approx(1)


def test_no_other_query_is_computed() -> None:
    """NaN anywhere else, in queries or in keys out of reach, changes nothing."""
    query, key = torch.randn(2, 9, 9, 2, 4), torch.randn(2, 9, 9, 2, 4)
    asked = {"queries": [(4, 4)], "block_size": 3, "halo_size": 1}
    expected = local_attention_weights(query, key, **asked)
    other_queries, far_keys = torch.full_like(query, torch.nan), torch.full_like(key, torch.nan)
    other_queries[:, 4, 4] = query[:, 4, 4]
    far_keys[:, 2:7, 2:7] = key[:, 2:7, 2:7]
    assert torch.equal(local_attention_weights(other_queries, far_keys, **asked).map, expected.map)


def test_bad_queries_and_options() -> None:
    x = torch.randn(1, 4, 5, 1, 2)
    with pytest.raises(ValueError, match="queries must hold at least one"):
        local_attention_weights(x, x, queries=[], block_size=2, halo_size=1)
    with pytest.raises(ValueError, match=r"inside the map of 2x3 queries, got \(2, 0\)"):
        local_attention_weights(x[:, ::2, ::2], x, queries=[(0, 0), (2, 0)], block_size=2, halo_size=1, stride=2)
    with pytest.raises(ValueError, match="halo_size must be"):
        local_attention_weights(x, x, queries=[(0, 0)], block_size=2, halo_size=-1)
    with pytest.raises(TypeError, match="blocks"):
        local_attention_weights(x, x, queries=[(0, 0)], block_size=2, halo_size=1, blocks=3)
