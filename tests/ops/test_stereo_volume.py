"""The matching volume by its definition, and the expected disparity."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from halonet.ops.stereo_volume import concat_volume, soft_argmin

FORMATS = [torch.contiguous_format, torch.channels_last]


def by_definition(left: Tensor, right: Tensor, num_disparities: int) -> Tensor:
    batch, channels, height, width = left.shape
    volume = left.new_zeros(batch, 2 * channels, num_disparities, height, width)
    for d in range(num_disparities):
        for x in range(d, width):
            volume[:, :channels, d, :, x] = left[..., x]
            volume[:, channels:, d, :, x] = right[..., x - d]
    return volume


@settings(deadline=None, max_examples=40)
@given(
    size=st.tuples(*[st.integers(1, 3)] * 3, st.integers(1, 6)),
    count=st.integers(1, 8),
    memory_format=st.sampled_from(FORMATS),
)
def test_the_definition(size: tuple[int, int, int, int], count: int, memory_format: torch.memory_format) -> None:
    left, right = (torch.randn(size).contiguous(memory_format=memory_format) for _ in range(2))
    assert torch.equal(concat_volume(left, right, num_disparities=count), by_definition(left, right, count))


def test_more_disparities_than_columns_are_zeros() -> None:
    map_ = torch.ones(1, 1, 1, 2)
    volume = concat_volume(map_, map_, num_disparities=4)
    assert volume[0, 0, :, 0].tolist() == [[1, 1], [0, 1], [0, 0], [0, 0]]
    assert torch.equal(volume[:, :1], volume[:, 1:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    left, right = torch.randn(2, 1, 2, 3, 5).to(dtype)
    volume = concat_volume(left, right, num_disparities=3)
    assert volume.dtype == dtype
    assert torch.equal(volume, by_definition(left, right, 3))


def test_what_has_no_partner_stays_out_even_if_infinite() -> None:
    left, right = torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 4)
    left[..., 0], right[..., 3] = torch.inf, torch.nan
    volume = concat_volume(left, right, num_disparities=4)
    assert volume[:, :, 1:].isfinite().all()


@pytest.mark.parametrize("memory_format", FORMATS)
def test_gradients(memory_format: torch.memory_format) -> None:
    maps = [
        torch.randn(2, 3, 2, 4, dtype=torch.float64).contiguous(memory_format=memory_format).requires_grad_()
        for _ in range(2)
    ]
    assert torch.autograd.gradcheck(lambda left, right: concat_volume(left, right, num_disparities=5), maps)


def test_channels_last_stay_last() -> None:
    maps = [torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last) for _ in range(2)]
    volume = concat_volume(maps[0], maps[1], num_disparities=2)
    assert volume.is_contiguous(memory_format=torch.channels_last_3d)
    assert concat_volume(maps[0].contiguous(), maps[1], num_disparities=2).is_contiguous()


@pytest.mark.parametrize("memory_format", FORMATS)
def test_both_compile_to_the_same_numbers(memory_format: torch.memory_format) -> None:
    def disparities(left: Tensor, right: Tensor) -> Tensor:
        return soft_argmin(concat_volume(left, right, num_disparities=3).sum(1), num_disparities=2)

    maps = [torch.randn(1, 2, 4, 5).contiguous(memory_format=memory_format) for _ in range(2)]
    torch._dynamo.reset()
    compiled = torch.compile(disparities, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*maps), disparities(*maps))


@pytest.mark.parametrize(
    ("left", "right", "count", "said"),
    [
        ((1, 2, 3), (1, 2, 3), 1, r"left must be \(batch, channels, height, width\), none 0, got \(1, 2, 3\)"),
        ((1, 2, 3, 4), (1, 2, 3, 0), 1, r"right must be .* got \(1, 2, 3, 0\)"),
        ((1, 2, 3, 4), (1, 2, 3, 5), 1, r"one shape, got \(1, 2, 3, 4\) and \(1, 2, 3, 5\)"),
        ((1, 2, 3, 4), (1, 2, 3, 4), 0, "num_disparities must be a positive int, got 0"),
    ],
)
def test_maps_that_do_not_fit_are_told(left: tuple[int, ...], right: tuple[int, ...], count: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        concat_volume(torch.zeros(left), torch.zeros(right), num_disparities=count)


def test_maps_of_two_dtypes_are_told() -> None:
    with pytest.raises(ValueError, match=r"one dtype, got torch\.float32 and torch\.float64"):
        concat_volume(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1).double(), num_disparities=1)


def test_a_large_score_is_a_likely_disparity() -> None:
    cost = torch.zeros(1, 6, 2, 3)
    cost[:, 4, 0], cost[:, 1, 1] = 100, 100
    assert soft_argmin(cost)[0].tolist() == [[4, 4, 4], [1, 1, 1]]


def test_equal_scores_give_the_mean_of_those_that_count() -> None:
    cost = torch.zeros(2, 8, 1, 1)
    torch.testing.assert_close(soft_argmin(cost), torch.full((2, 1, 1), 3.5))
    torch.testing.assert_close(soft_argmin(cost, num_disparities=5), torch.full((2, 1, 1), 2.0))


def test_a_worked_expectation() -> None:
    cost = torch.tensor([1.0, 2.0, 5.0]).log().view(1, 3, 1, 1)  # shares 1/8, 2/8, 5/8
    assert soft_argmin(cost).item() == pytest.approx(1.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_sum_is_in_float32_at_least(dtype: torch.dtype) -> None:
    cost = torch.randn(1, 192, 3, 4).to(dtype)
    expected = (cost.double().softmax(1) * torch.arange(192.0)[:, None, None]).sum(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = soft_argmin(cost)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "count", "said"),
    [
        ((2, 3, 4), None, r"cost must be \(batch, disparities, height, width\), got \(2, 3, 4\)"),
        ((2, 0, 4, 4), None, r"got \(2, 0, 4, 4\)"),
        ((1, 3, 1, 1), 4, "num_disparities must be at most 3, got 4"),
        ((1, 3, 1, 1), 0, "num_disparities must be a positive int, got 0"),
    ],
)
def test_scores_that_do_not_fit_are_told(shape: tuple[int, ...], count: int | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        soft_argmin(torch.zeros(shape), num_disparities=count)
