"""The loss of PSMNet, worked by hand, and what is left out of it."""

from __future__ import annotations

import pytest
import torch

from halonet.stereo import disparity_loss, valid_mask

TRUTH = torch.tensor([[[10.0, 20.0, 30.0]]])
ALL = torch.ones(1, 1, 3, dtype=torch.bool)


def test_smooth_l1_worked_by_hand() -> None:
    output = TRUTH + torch.tensor([0.5, -3.0, 0.0])  # 0.125, 2.5 and 0
    torch.testing.assert_close(disparity_loss(output, TRUTH, ALL), torch.tensor(2.625 / 3))


def test_three_outputs_are_weighted() -> None:
    outputs = [TRUTH + 2, TRUTH + 3, TRUTH + 1]  # 1.5, 2.5 and 0.5 each
    torch.testing.assert_close(disparity_loss(outputs, TRUTH, ALL), torch.tensor(0.5 * 1.5 + 0.7 * 2.5 + 0.5))
    torch.testing.assert_close(disparity_loss(outputs, TRUTH, ALL, weights=(1, 0, 2)), torch.tensor(1.5 + 1.0))


def test_fewer_outputs_take_the_last_weights() -> None:
    torch.testing.assert_close(disparity_loss([TRUTH + 2], TRUTH, ALL), torch.tensor(1.5))
    torch.testing.assert_close(disparity_loss([TRUTH + 2, TRUTH], TRUTH, ALL), torch.tensor(0.7 * 1.5))


def test_invalid_pixels_reach_neither_loss_nor_gradients() -> None:
    truth = torch.tensor([[[torch.nan, torch.inf, 30.0, 5.0]]])
    output = torch.tensor([[[1.0, torch.nan, 32.0, torch.inf]]], requires_grad=True)
    loss = disparity_loss(output, truth, torch.tensor([[[False, False, True, False]]]))
    torch.testing.assert_close(loss.detach(), torch.tensor(1.5))
    loss.backward()
    assert output.grad is not None
    assert output.grad.tolist() == [[[0, 0, 1, 0]]]


def test_the_mean_is_over_the_pixels_of_all_images() -> None:
    truth = torch.zeros(2, 1, 2)
    output = torch.tensor([[[1.5, 1.5]], [[3.5, 9.0]]])
    valid = torch.tensor([[[True, True]], [[True, False]]])
    torch.testing.assert_close(disparity_loss(output, truth, valid), torch.tensor((1 + 1 + 3) / 3))


def test_no_valid_pixel_is_a_loss_of_0_that_can_be_propagated() -> None:
    output = torch.randn(2, 3, 4, requires_grad=True)
    loss = disparity_loss([output, output], torch.full((2, 3, 4), torch.nan), torch.zeros(2, 3, 4, dtype=torch.bool))
    assert loss.item() == 0
    loss.backward()
    assert output.grad is not None
    assert not output.grad.any()


def test_half_precision_is_widened() -> None:
    loss = disparity_loss((TRUTH + 2).bfloat16(), TRUTH, ALL)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.tensor(1.5))


def test_the_mask_wants_known_disparities_inside_the_range() -> None:
    disparity = torch.tensor([[[0.0, 0.1, 31.9, 32.0, torch.nan, torch.inf, -1.0, 5.0]]])
    valid = torch.tensor([[[True] * 7 + [False]]])
    assert valid_mask(disparity, valid, max_disparity=32).tolist() == [[[False, True, True] + [False] * 5]]


def test_outputs_that_do_not_fit_are_told() -> None:
    with pytest.raises(ValueError, match="outputs must be 1 to 3, one for each weight, got 0"):
        disparity_loss([], TRUTH, ALL)
    with pytest.raises(ValueError, match="outputs must be 1 to 3, one for each weight, got 4"):
        disparity_loss([TRUTH] * 4, TRUTH, ALL)
    with pytest.raises(ValueError, match=r"outputs must be \(1, 1, 3\) as disparity is, got \(1, 3\)"):
        disparity_loss(TRUTH[0], TRUTH, ALL)


def test_masks_that_do_not_fit_are_told() -> None:
    with pytest.raises(ValueError, match=r"valid must be of bools, got torch\.float32"):
        disparity_loss(TRUTH, TRUTH, ALL.float())
    with pytest.raises(ValueError, match=r"valid must be \(1, 1, 3\) as disparity is, got \(1, 1, 2\)"):
        valid_mask(TRUTH, ALL[..., :2], max_disparity=4)
    with pytest.raises(ValueError, match=r"disparity must be \(batch, height, width\), got \(1, 3\)"):
        valid_mask(TRUTH[0], ALL[0], max_disparity=4)
    with pytest.raises(ValueError, match="max_disparity must be a positive int, got 0"):
        valid_mask(TRUTH, ALL, max_disparity=0)
