"""Factorized attention against its equations, the conventional counterpart, and the paper's section 3.3."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from halonet.ops import (
    factorized_attention,
    factorized_attention_weights,
    nonlocal_attention,
    nonlocal_attention_weights,
)
from halonet.ops.factorized_attention import KINDS

Inputs = tuple[Tensor, Tensor, Tensor]


class Watch(TorchDispatchMode):
    """Keeps the size of the largest tensor that operations make."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.untyped_storage().nbytes() // tensor.itemsize)
        return result


def inputs(
    *, batch: int = 2, positions: int = 13, heads: int = 3, channels: int = 5, values: int = 4, seed: int = 0
) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    widths = (channels, channels, values)
    one, two, three = (
        torch.randn(batch, positions, heads, width, generator=generator, dtype=torch.float64, requires_grad=True)
        for width in widths
    )
    return one, two, three


def gradients(output: Tensor, tensors: Inputs) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
    return torch.autograd.grad((output * weights).sum(), tensors)


def test_dot_by_hand() -> None:
    """Two positions, two channels, one value: C (B^T V) / 2."""
    coefficients = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    basis = torch.tensor([[[[5.0, 6.0]], [[7.0, 8.0]]]])
    value = torch.tensor([[[[1.0]], [[10.0]]]])
    # B^T V = (5 + 70, 6 + 80) = (75, 86); rows of C give 75 + 172 = 247 and 225 + 344 = 569.
    output = factorized_attention(coefficients, basis, value, kind="dot")
    assert output.flatten().tolist() == [123.5, 284.5]


def test_gaussian_position_by_position() -> None:
    coefficients, basis, value = inputs()
    expected = torch.zeros_like(factorized_attention(coefficients, basis, value))
    for image in range(2):
        for head in range(3):
            masks = [torch.exp(basis[image, :, head, d]) / torch.exp(basis[image, :, head, d]).sum() for d in range(5)]
            for place in range(13):
                mixture = torch.exp(coefficients[image, place, head])
                mask = sum(share * each for share, each in zip(mixture / mixture.sum(), masks, strict=True))
                expected[image, place, head] = torch.as_tensor(mask) @ value[image, :, head]
    torch.testing.assert_close(factorized_attention(coefficients, basis, value), expected, rtol=0, atol=1e-14)


@settings(max_examples=25, deadline=None)
@given(
    positions=st.integers(1, 40),
    heads=st.integers(1, 4),
    channels=st.integers(1, 9),
    values=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_dot_equals_its_conventional_counterpart(
    positions: int, heads: int, channels: int, values: int, seed: int
) -> None:
    """Section 3.3.1: output and gradients agree to rounding."""
    tensors = inputs(positions=positions, heads=heads, channels=channels, values=values, seed=seed)
    factorized = factorized_attention(*tensors, kind="dot")
    conventional = nonlocal_attention(*tensors, kind="dot")
    torch.testing.assert_close(factorized, conventional, rtol=1e-12, atol=1e-12)
    for got, expected in zip(gradients(factorized, tensors), gradients(conventional, tensors), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


@settings(max_examples=25, deadline=None)
@given(positions=st.integers(1, 40), channels=st.integers(1, 9), scale=st.floats(0.01, 50), seed=st.integers(0, 99))
def test_rows_of_the_implied_map_sum_to_one(positions: int, channels: int, scale: float, seed: int) -> None:
    """Section 3.2.2: the map is what the op does to the unit vectors; none of its weights is negative."""
    coefficients, basis, _ = inputs(positions=positions, channels=channels, seed=seed)
    units = torch.eye(positions, dtype=torch.float64).view(1, positions, 1, positions).expand(2, -1, 3, -1)
    map_ = factorized_attention(scale * coefficients, scale * basis, units)
    torch.testing.assert_close(map_.sum(3), torch.ones_like(map_[..., 0]), rtol=0, atol=1e-12)
    assert map_.min() >= 0


def test_gaussian_factorized_and_conventional_differ() -> None:
    """Section 3.3.2: two softmaxes are not one."""
    tensors = inputs()
    assert (factorized_attention(*tensors) - nonlocal_attention(*tensors)).abs().max() > 0.01


@pytest.mark.parametrize("backend", ["auto", "reference", "sdpa"])
@pytest.mark.parametrize("positions", [21, 67, 134])
def test_conventional_gaussian_by_every_way_is_the_materialized_one(backend: str, positions: int) -> None:
    """Positions that make a map, 3 x 7, and such as make none, a prime number of them and twice one."""
    tensors = inputs(positions=positions)
    expected = nonlocal_attention(*tensors, backend="materialized")
    output = nonlocal_attention(*tensors, backend=backend)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-13)
    for got, wanted in zip(gradients(output, tensors), gradients(expected, tensors), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


def test_materialized_gaussian_is_softmax_attention() -> None:
    query, key, value = (tensor.transpose(1, 2) for tensor in inputs())
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=1.0).transpose(1, 2)
    torch.testing.assert_close(nonlocal_attention(*inputs(), backend="materialized"), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("positions", [4096, 4099])
def test_the_conventional_map_is_never_made_by_kernels(positions: int) -> None:
    """Of the tensors of either pass none is positions x positions; 4099 is a prime number."""
    tensors = inputs(batch=1, positions=positions, heads=1)
    with Watch() as watch:
        gradients(nonlocal_attention(*tensors, backend="sdpa"), tensors)
    assert watch.largest < positions**2 / 4


@pytest.mark.parametrize("op", [factorized_attention, nonlocal_attention])
@pytest.mark.parametrize("kind", KINDS)
def test_other_positions_to_mix_than_to_ask(op: type, kind: str) -> None:
    """Cross attention: S positions ask, T are asked."""
    first, second, value = inputs(positions=7)[0], *inputs(positions=11, seed=3)[1:]
    assert op(first, second, value, kind=kind).shape == (2, 7, 3, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_by_finite_differences(kind: str) -> None:
    tensors = inputs(positions=5, heads=2, channels=3, values=2)
    assert torch.autograd.gradcheck(lambda *each: factorized_attention(*each, kind=kind), tensors)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_errs_by_its_rounding(kind: str, dtype: torch.dtype) -> None:
    """Inputs and output are rounded, nothing between; sums over many positions do not overflow."""
    tensors = [tensor.detach() * 4 for tensor in inputs(positions=4000, heads=1)]
    half = [tensor.to(dtype) for tensor in tensors]
    got = factorized_attention(*half, kind=kind)  # type: ignore[arg-type]
    exact = factorized_attention(*[tensor.double() for tensor in half], kind=kind)  # type: ignore[arg-type]
    assert got.dtype == dtype
    assert (got.double() - exact).abs().max() <= exact.abs().max() * torch.finfo(dtype).eps


def test_autocast_keeps_what_was_widened() -> None:
    tensors = [tensor.detach().float() for tensor in inputs(positions=500)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = factorized_attention(*tensors)  # type: ignore[arg-type]
    torch.testing.assert_close(got, factorized_attention(*tensors), rtol=0, atol=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_memory_grows_with_positions_alone(kind: str) -> None:
    """No tensor of either pass has more numbers than positions x heads x channels: nothing is S x S."""
    tensors = inputs(positions=500, heads=2)
    with Watch() as watch:
        gradients(factorized_attention(*tensors, kind=kind), tensors)
    assert watch.largest == 2 * 500 * 2 * 5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels_first", [True, False])
def test_compiles_in_one_graph(kind: str, channels_first: bool) -> None:
    """Output and gradients, in both orders that numbers may have in memory."""
    tensors = inputs(positions=30)
    compiled = torch.compile(factorized_attention, fullgraph=True, backend="aot_eager")
    given = tensors
    if channels_first:
        one, two, three = (t.detach().permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) for t in tensors)
        given = one.requires_grad_(), two.requires_grad_(), three.requires_grad_()
    output, expected = compiled(*given, kind=kind), factorized_attention(*tensors, kind=kind)
    torch.testing.assert_close(output, expected)
    for got, wanted in zip(gradients(output, given), gradients(expected, tensors), strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "cosine"}, "kind must be one of gaussian, dot, got 'cosine'"),
        ({"coefficients": torch.zeros(2, 13, 5)}, "coefficients must be .batch, positions, heads, channels."),
        ({"value": torch.zeros(2, 0, 3, 4)}, "value must be .* none 0"),
        ({"value": torch.zeros(2, 12, 3, 4)}, "basis and value must agree but for channels"),
        ({"coefficients": torch.zeros(2, 13, 3, 6)}, "coefficients and basis must agree but for positions"),
    ],
)
def test_what_does_not_fit_is_told(change: dict[str, object], message: str) -> None:
    given = dict(zip(("coefficients", "basis", "value"), inputs(), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        factorized_attention(**given)  # type: ignore[arg-type]


def test_a_backend_that_cannot_is_told() -> None:
    with pytest.raises(ValueError, match="backend must be auto or materialized for the kind dot, got 'sdpa'"):
        nonlocal_attention(*inputs(), kind="dot", backend="sdpa")
    with pytest.raises(ValueError, match="query and key"):
        nonlocal_attention(inputs(channels=4)[0], *inputs()[1:])


@pytest.mark.parametrize("kind", ["gaussian", "dot"])
@pytest.mark.parametrize(
    ("attention", "weights"),
    [
        (factorized_attention, factorized_attention_weights),
        (nonlocal_attention, nonlocal_attention_weights),
    ],
)
def test_rows_of_the_map_are_the_gradient(attention, weights, kind):
    """By values of one channel a query; S and T differ, and of other positions nothing is used."""
    first, second = torch.randn(2, 5, 3, 4).double(), torch.randn(2, 7, 3, 4).double()
    queries = [4, 0, 4]
    told = weights(first, second, queries=queries, kind=kind)
    assert told.shape == (2, 3, 3, 7)
    value = torch.randn(2, 7, 3, 2).double()
    expected = attention(first, second, value, kind=kind)[:, queries]
    torch.testing.assert_close(torch.einsum("bqnt,btnd->bqnd", told, value), expected)
    probe = torch.eye(7).double().view(1, 7, 1, 7).expand(2, -1, 3, -1)
    torch.testing.assert_close(told, attention(first, second, probe, kind=kind)[:, queries])
    first[:, 1:4] = torch.nan
    assert torch.equal(weights(first, second, queries=queries, kind=kind), told)


@pytest.mark.parametrize("weights", [factorized_attention_weights, nonlocal_attention_weights])
def test_rows_that_there_are_not(weights):
    x = torch.randn(1, 5, 2, 4)
    for queries in ([], [5], [-1]):
        with pytest.raises(ValueError, match="queries must be positions from 0 to 4"):
            weights(x, x, queries=queries)
