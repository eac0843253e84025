"""Errors of disparity maps, worked by hand, and that invalid pixels never matter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from halonet.stereo import disparity_errors


def errors_of(offsets: list[float], truth: list[float], valid: list[bool] | None = None) -> dict[str, float]:
    """Of one image of one row."""
    true = torch.tensor([[truth]])
    mask = torch.tensor([[valid if valid is not None else [True] * len(truth)]])
    found = disparity_errors(true + torch.tensor(offsets), true, mask)
    return {name: value.item() for name, value in found.items()}


def test_worked_by_hand() -> None:
    # Off by 3.5 of 10: bad by every measure. By 4 of 100: not of D1, as 4 % are allowed there. By 2: bad1 alone.
    found = errors_of([3.5, -4.0, 2.0, 0.5], [10.0, 100.0, 50.0, 7.0])
    assert found == {"epe": 2.5, "bad1": 0.75, "bad3": 0.5, "d1": 0.25, "pixels": 4}


def test_limits_themselves_are_not_bad() -> None:
    assert errors_of([1.0, 3.0], [8.0, 8.0]) == {"epe": 2.0, "bad1": 0.5, "bad3": 0.0, "d1": 0.0, "pixels": 2}
    assert errors_of([4.0, 4.0], [64.0, 128.0])["d1"] == 0.5  # 6.25 and 3.1 %


def test_images_are_told_apart() -> None:
    truth = torch.full((3, 1, 2), 20.0)
    predicted = truth + torch.tensor([[[0.0, 4.0]], [[2.0, 2.0]], [[9.0, 9.0]]])
    valid = torch.tensor([[[True, True]], [[True, False]], [[False, False]]])
    found = {name: value.tolist() for name, value in disparity_errors(predicted, truth, valid).items()}
    assert found == {
        "epe": [2, 2, 0],
        "bad1": [0.5, 1, 0],
        "bad3": [0.5, 0, 0],
        "d1": [0.5, 0, 0],
        "pixels": [2, 1, 0],
    }


def anything(shape: tuple[int, ...], seed: int) -> Tensor:
    """Numbers, infinities and NaN."""
    generator = torch.Generator().manual_seed(seed)
    numbers = 100 * torch.randn(shape, generator=generator)
    odd = torch.tensor([torch.nan, torch.inf, -torch.inf])[torch.randint(3, shape, generator=generator)]
    return torch.where(torch.rand(shape, generator=generator) < 0.5, numbers, odd)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), share=st.floats(0, 1))
def test_invalid_pixels_never_matter(seed: int, share: float) -> None:
    shape = (2, 3, 4)
    torch.manual_seed(seed)
    truth, valid = 40 * torch.rand(shape), torch.rand(shape) < share
    predicted = truth + 4 * torch.randn(shape)
    expected = disparity_errors(predicted, truth, valid)
    spoilt = [torch.where(valid, x, anything(shape, seed + i)) for i, x in enumerate((predicted, truth))]
    got = disparity_errors(*spoilt, valid)
    for name, value in expected.items():
        assert torch.equal(got[name], value), name


def test_a_prediction_that_is_no_number_is_bad() -> None:
    found = errors_of([torch.nan, 0.0], [10.0, 10.0])
    assert (found["bad1"], found["bad3"], found["d1"]) == (0.5, 0.5, 0.5)
    assert found["epe"] != found["epe"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_errors_are_in_float32_at_least(dtype: torch.dtype) -> None:
    valid = torch.ones(1, 2, 2, dtype=torch.bool)
    found = disparity_errors(torch.zeros(1, 2, 2, dtype=dtype), torch.ones(1, 2, 2), valid)
    assert found["epe"].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert not found["pixels"].is_floating_point()


def test_maps_that_do_not_fit_are_told() -> None:
    truth, valid = torch.zeros(1, 2, 3), torch.ones(1, 2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"predicted must be \(1, 2, 3\) as disparity is, got \(1, 2, 4\)"):
        disparity_errors(torch.zeros(1, 2, 4), truth, valid)
    with pytest.raises(ValueError, match=r"valid must be \(1, 2, 3\) as disparity is, got \(2, 3\)"):
        disparity_errors(truth, truth, valid[0])
    with pytest.raises(ValueError, match=r"valid must be of bools, got torch\.int64"):
        disparity_errors(truth, truth, valid.long())
