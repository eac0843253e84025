"""The loop over pixels itself: small answers worked out by hand, so that the yardstick is not taken on trust."""

import pytest
import torch

from tests.ops.pixel_loop import pixel_loop, what_a_query_sees

SIGHT = {
    "map_size": (3, 4),
    "block_size": (2, 2),
    "halo_size": (1, 1),
    "stride": 1,
    "border": "zeros",
    "window": None,
    "neighbors": None,
    "relative_stride": 1,
}


def seen_by(i, j, **changes):
    return what_a_query_sees(i, j, **{**SIGHT, **changes})


def test_upper_left_query_sees_its_block_and_halo_and_a_border_of_zeros():
    seen = seen_by(0, 0)
    assert len(seen) == 16
    assert {s.pixel for s in seen if s.pixel} == {(y, x) for y in range(3) for x in range(3)}
    assert sum(s.pixel is None for s in seen) == 7  # a row of four and three more of a column
    assert all(s.offset == s.pixel for s in seen if s.pixel)  # the query stands at the origin
    assert min(s.offset for s in seen) == (-1, -1)


def test_masked_border_and_masked_extension_are_not_seen():
    assert {s.pixel for s in seen_by(2, 3, border="mask")} == {(y, x) for y in (1, 2) for x in (1, 2, 3)}


def test_circular_border_wraps_the_whole_blocks_and_skips_the_extension():
    seen = seen_by(0, 0, border="circular")  # rows -1, 0, 1, 2 of 4 whole rows: -1 is the extension
    assert {s.pixel for s in seen} == {(y, x) for y in (0, 1, 2) for x in (3, 0, 1, 2)}
    assert [s.offset for s in seen if s.pixel == (0, 3)] == [(0, -1)]


def test_window_is_centred_on_the_key_pixel_of_the_query():
    seen = seen_by(0, 1, stride=2, window=3, relative_stride=2, border="mask")
    assert {s.pixel for s in seen} == {(y, x) for y in (0, 1) for x in (1, 2, 3)}


@pytest.mark.parametrize(("neighbor", "block"), [(1, (0, 0)), (2, (0, 2)), (5, (2, 4)), (8, (4, 4))])
def test_neighbors_are_counted_row_by_row(neighbor, block):
    seen = seen_by(2, 2, map_size=(6, 6), halo_size=(2, 2), neighbors=neighbor)
    expected = {(block[0] + y, block[1] + x) for y in (0, 1) for x in (0, 1)} | {(2, 2), (2, 3), (3, 2), (3, 3)}
    assert {s.pixel for s in seen} == expected


def test_offsets_of_a_strided_query_in_pixels_and_in_query_steps():
    query = {"map_size": (4, 4), "block_size": (4, 4), "halo_size": (0, 0), "stride": 2}
    in_pixels = {s.pixel: s.offset for s in seen_by(1, 1, **query, relative_stride=2)}
    in_steps = {s.pixel: s.offset for s in seen_by(1, 1, **query, relative_stride=1)}
    assert in_pixels[(2, 2)] == (0, 0)
    assert in_pixels[(0, 3)] == (-2, 1)
    assert in_steps[(2, 2)] == (1, 1)
    assert in_steps[(0, 3)] == (-1, 2)


def test_zero_border_takes_its_share_of_the_softmax():
    """With equal logits a corner query sees 9 real pixels among 16: a map of ones comes back as 9/16."""
    zeros, ones = torch.zeros(1, 4, 4, 1, 1, dtype=torch.float64), torch.ones(1, 4, 4, 1, 1, dtype=torch.float64)
    out = pixel_loop(zeros, zeros, ones, block_size=2, halo_size=1)
    assert out[0, 0, 0].item() == pytest.approx(9 / 16)
    inside = pixel_loop(zeros, zeros, ones, block_size=2, halo_size=1, border="mask")
    assert inside[0, 0, 0].item() == pytest.approx(1)


def test_terms_are_added_and_scaled_as_written():
    """Two keys in one block of a row. Each logit is worked out by hand from one-channel numbers."""
    query = torch.tensor([2.0, 5.0], dtype=torch.float64).reshape(1, 1, 2, 1, 1)
    key = torch.tensor([3.0, 7.0], dtype=torch.float64).reshape(1, 1, 2, 1, 1)
    value = torch.tensor([1.0, 0.0], dtype=torch.float64).reshape(1, 1, 2, 1, 1)
    rows = torch.tensor([[10.0]], dtype=torch.float64)
    columns = torch.tensor([[-1.0], [0.5], [4.0]], dtype=torch.float64)
    bias = torch.tensor([[[0.25, 0.5, 0.75]]], dtype=torch.float64)
    options = {"block_size": (1, 2), "halo_size": 0, "relative": (rows, columns), "bias": bias, "scale": 0.1}
    # Query 0: keys at offsets 0 and 1. The row table adds the same to both.
    first = 0.1 * 6 + 2 * 10.5 + 0.5, 0.1 * 14 + 2 * 14 + 0.75
    out = pixel_loop(query, key, value, **options)
    assert out[0, 0, 0, 0, 0].item() == pytest.approx(1 / (1 + torch.tensor(first[1] - first[0]).exp().item()))
    # Query 1: keys at offsets -1 and 0, with the position term scaled as well.
    second = 0.1 * (15 + 5 * 9) + 0.25, 0.1 * (35 + 5 * 10.5) + 0.5
    out = pixel_loop(query, key, value, **options, scale_relative=True)
    assert out[0, 0, 1, 0, 0].item() == pytest.approx(1 / (1 + torch.tensor(second[1] - second[0]).exp().item()))


def test_block_size_must_hold_whole_strides():
    map_ = torch.zeros(1, 3, 3, 1, 1)
    with pytest.raises(ValueError, match="multiple of stride"):
        pixel_loop(map_[:, :2, :2], map_, map_, block_size=3, halo_size=0, stride=2)
