"""Drawn pairs are exact: geometry, disparity and occlusion by hand, and pictures that agree with them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halonet.data.stereo import DrawnScenes, draw_scene
from halonet.data.stereo.drawn_layers import ConvexPolygon, Ellipse, Layer, Plane, render


def even(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.array([0.2, 0.4, 0.6]), (len(x), 3))


def ramp(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Colours that tell where they are: red by column, green by row."""
    return np.stack([x / 40, y / 40, np.zeros_like(x)], axis=1)


def rectangle(x0: float, y0: float, x1: float, y1: float) -> ConvexPolygon:
    return ConvexPolygon(((x0, y0), (x1, y0), (x1, y1), (x0, y1)))


def test_a_square_before_a_wall_by_hand() -> None:
    """Wall of disparity 2, square of disparity 6 over columns 10 to 13 and rows 2 to 4 of the left view."""
    wall, square = Layer(Plane(2.0), even), Layer(Plane(6.0), even, rectangle(9.5, 1.5, 13.5, 4.5))
    for layers in ([wall, square], [square, wall]):
        views = render(layers, size=(7, 20))
        expected = np.full((7, 20), 2.0)
        expected[2:5, 10:14] = 6.0
        np.testing.assert_array_equal(views.disparity, expected)
        # The wall at column x is seen at x - 2 of the right view: not for x < 2, and hidden where the square stands in
        # the right view, columns 4 to 7, that is for x from 6 to 9.
        occluded = np.zeros((7, 20), dtype=bool)
        occluded[:, :2] = True
        occluded[2:5, 6:10] = True
        np.testing.assert_array_equal(views.occluded, occluded)


def test_whole_disparities_shift_the_picture() -> None:
    views = render([Layer(Plane(3.0), ramp)], size=(9, 30))
    np.testing.assert_array_equal(views.right[:, :-3], views.left[:, 3:])


def test_a_slanted_plane_is_seen_where_its_points_are() -> None:
    """d = 1 + x / 5 + y / 10: the point at x stands at x - d = 0.8 x - 1 - y / 10 of the right view."""
    plane = Plane(1.0, 0.2, 0.1)
    views = render([Layer(plane, ramp)], size=(12, 30))
    rows, columns = np.mgrid[:12, :30].astype(float)
    np.testing.assert_allclose(views.disparity, 1 + columns / 5 + rows / 10, rtol=1e-6)
    seen = (columns + 1 + rows / 10) / 0.8  # the point whose colour a right pixel has
    inside = seen < 39
    np.testing.assert_allclose(views.right[..., 0][inside], 255 * (seen / 40)[inside], atol=0.51)
    np.testing.assert_allclose(plane.from_right(columns - plane.at(columns, rows), rows), columns, atol=1e-9)


@pytest.mark.parametrize("shape", [Ellipse((10.0, 8.0), (5.0, 3.0), 0.7), rectangle(4.0, 5.0, 9.0, 11.0)])
def test_bounds_hold_the_shape(shape: Ellipse | ConvexPolygon) -> None:
    y, x = np.mgrid[:20:0.25, :20:0.25]
    covered = shape.covers(x, y)
    x0, y0, x1, y1 = shape.bounds
    assert (x0, y0) <= (x[covered].min(), y[covered].min())
    assert x[covered].max() <= x1 < x[covered].max() + 0.5
    assert y[covered].max() <= y1 < y[covered].max() + 0.5


def sampled(picture: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) at columns (H, W) between its own, linearly."""
    columns = columns.clip(0, picture.shape[1] - 1.001)
    low = columns.astype(int)
    share = (columns - low)[..., None]
    rows = np.arange(len(picture))[:, None]
    return (1 - share) * picture[rows, low] + share * picture[rows, low + 1]


@pytest.mark.parametrize("index", range(4))
def test_both_views_agree_where_both_see(index: int) -> None:
    """The right view at x - d has the left one's colour, far more nearly than at a disparity that is off by 2."""
    scene = draw_scene(3, index)
    columns = np.arange(128.0)[None] - scene.disparity
    seen = ~scene.occluded

    def error(shift: float) -> float:
        difference = sampled(scene.right.astype(float), columns - shift) - scene.left
        return float(np.abs(difference).mean(axis=2)[seen].mean())

    assert error(0.0) < 0.35 * min(error(2.0), error(-2.0))
    assert error(0.0) < 12


@pytest.mark.parametrize("index", range(3))
def test_hidden_pixels_look_different_in_the_other_view(index: int) -> None:
    """Occlusion found from disparities alone: another left pixel, nearer, lands on the same right column."""
    scene = draw_scene(11, index)
    landed = np.arange(128.0)[None] - scene.disparity
    for row in range(0, 64, 7):
        for column in range(0, 128, 5):
            nearer = scene.disparity[row] > scene.disparity[row, column] + 1.5
            covers = nearer & (np.abs(landed[row] - landed[row, column]) < 0.3)
            if covers.any() or landed[row, column] < -0.5:
                assert scene.occluded[row, column], (row, column)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(8, 50),
    width=st.integers(16, 70),
    share=st.floats(0.2, 1.0),
)
def test_disparities_lie_in_range(seed: int, height: int, width: int, share: float) -> None:
    most = max(2.0, share * width)
    scene = draw_scene(seed, 0, size=(height, width), max_disparity=most)
    assert scene.left.shape == scene.right.shape == (height, width, 3)
    assert scene.left.dtype == np.uint8
    assert scene.disparity.min() >= 1 - 1e-5
    assert scene.disparity.max() < most
    assert scene.valid.all()


def test_scenes_are_worth_learning_from() -> None:
    """Sub-pixel disparities, several depths, hidden pixels, and a constant that is far off."""
    scenes = [item.load() for item in DrawnScenes(12, 0, max_disparity=24.0)]
    disparity = np.stack([scene.disparity for scene in scenes])
    assert (np.abs(disparity - disparity.round()) > 0.1).mean() > 0.5
    assert np.abs(disparity - disparity.mean()).mean() > 3
    assert all(np.ptp(scene.disparity) > 4 for scene in scenes)
    assert 0.05 < np.mean([scene.occluded.mean() for scene in scenes]) < 0.4
    assert all(scene.left.std() > 10 for scene in scenes)


def test_a_pair_depends_on_its_numbers_alone() -> None:
    scenes = DrawnScenes(5, 7, size=(20, 40), max_disparity=9.0)
    alone = draw_scene(7, 3, size=(20, 40), max_disparity=9.0)
    scenes[0].load()
    for name in ("left", "right", "disparity", "occluded"):
        np.testing.assert_array_equal(getattr(scenes[3].load(), name), getattr(alone, name))
    assert scenes[3].load() is scenes[3].load()
    assert scenes[3].name == alone.name == "drawn-7-3"
    assert [item.name for item in scenes[1:3]] == ["drawn-7-1", "drawn-7-2"]
    assert not np.array_equal(scenes[2].load().left, alone.left)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1, "index": 0}, "seed and index must not be negative, got -1 and 0"),
        ({"seed": 0, "index": 0, "size": (0, 5)}, "size must be two positive ints"),
        ({"seed": 0, "index": 0, "size": (5, 9), "max_disparity": 12.0}, "max_disparity must be 2 to the width 9"),
    ],
)
def test_numbers_out_of_range_are_told(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_scene(**arguments)
    with pytest.raises(ValueError, match="count must be at least 1"):
        DrawnScenes(0, 0)
    with pytest.raises(ValueError, match="layers must hold one without a shape"):
        render([Layer(Plane(1.0), even, rectangle(0, 0, 1, 1))], size=(2, 2))
