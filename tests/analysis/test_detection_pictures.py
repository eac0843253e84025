"""Detections as pictures."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from halonet.analysis.detection_pictures import (
    JudgedPicture,
    class_colour,
    draw_detections,
    enlargement,
    label_place,
    plot_ap_curve,
    plot_detections,
)

GREY = np.full((120, 160, 3), 100, dtype=np.uint8)
RED = class_colour(1)


def found(*boxes: tuple[float, ...], label: int = 1, height: int = 120, width: int = 160) -> dict[str, Any]:
    """Boxes with masks that fill their left halves, in falling score."""
    masks = np.zeros((len(boxes), height, width), dtype=np.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[int(y0) : int(y1), int(x0) : int((x0 + x1) / 2)] = 1
    return {
        "boxes": np.array(boxes, dtype=np.float32).reshape(-1, 4),
        "labels": np.full(len(boxes), label),
        "scores": np.linspace(0.9, 0.6, len(boxes)),
        "masks": masks,
    }


def is_colour(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (pixels == np.array(colour)).all(-1)


def test_colours_of_classes_can_be_told_apart() -> None:
    """The ninety of COCO all differ; the first twenty by more than 50 of 255 levels in some channel together."""
    colours = [class_colour(label) for label in range(1, 92)]
    assert len(set(colours)) == 91
    nearest = min(np.linalg.norm(np.subtract(one, other)) for one, other in combinations(colours[:20], 2))
    assert nearest > 50


def test_box_mask_and_label_are_where_they_should_be() -> None:
    image = GREY.copy()
    drawn = draw_detections(image, **found((40, 50, 120, 110)), names=["circle"])
    assert (image == GREY).all()
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    red = is_colour(drawn, RED)
    for row, column in ((50, 80), (109, 80), (80, 40), (80, 119)):  # the sides of the box
        assert red[row, column]
    assert not red[:, 121:].any()
    assert not red[110:].any()
    inside = drawn[75:85, 50:70]  # in the mask
    expected = [round(100 + 0.45 * (level - 100)) for level in RED]
    assert np.abs(inside.astype(int) - expected).max() <= 1
    assert (drawn[75:85, 90:110] == 100).all()  # in the box, outside the mask
    assert red[80, 79]  # the mask's outline
    assert red[35:50, 40:70].any()  # the label, above the box
    assert (drawn[:34] == 100).all()


def test_probabilities_and_tensors_are_taken_too() -> None:
    """What torchvision's detectors give: masks (N, 1, H, W) of probabilities, cut at 0.5."""
    plain = found((40, 50, 120, 110), (10, 60, 30, 100))
    given = {name: torch.as_tensor(values) for name, values in plain.items()}
    given["masks"] = torch.where(given["masks"][:, None] > 0, 0.51, 0.49)
    assert (draw_detections(GREY, **given) == draw_detections(GREY, **plain)).all()


def test_the_unsure_are_left_out() -> None:
    objects = found((40, 50, 120, 110), (10, 60, 30, 100))  # 0.9 and 0.6
    one = {name: values[:1] for name, values in objects.items()}
    assert (draw_detections(GREY, **objects, score_threshold=0.7) == draw_detections(GREY, **one)).all()
    assert (draw_detections(GREY, **objects, score_threshold=0.95) == GREY).all()
    assert (draw_detections(GREY, **objects) != draw_detections(GREY, **one)).any()


def test_the_surest_lies_on_top() -> None:
    """Two classes in one place, in either order: the colour of the surer one is seen."""
    for scores, colour in (((0.9, 0.8), class_colour(1)), ((0.8, 0.9), class_colour(2))):
        boxes = [[40, 50, 120, 110]] * 2
        drawn = draw_detections(GREY, boxes, [1, 2], scores)
        assert is_colour(drawn[80, 40], colour)


def test_nothing_is_the_picture() -> None:
    assert (draw_detections(GREY, **found()) == GREY).all()
    assert (draw_detections(GREY, np.zeros((0, 4)), [], enlarge=2) == GREY.repeat(2, 0).repeat(2, 1)).all()


def test_small_pictures_are_enlarged() -> None:
    assert [enlargement(*size) for size in ((128, 128), (64, 200), (500, 375), (800, 1333))] == [3, 6, 1, 1]
    objects = found((40, 50, 120, 110))
    drawn = draw_detections(GREY, **objects, enlarge=3)
    assert drawn.shape == (360, 480, 3)
    assert is_colour(drawn[150, 240], RED)
    assert (drawn[225:255, 270:330] == 100).all()


sides = st.integers(1, 200)


@settings(max_examples=15, deadline=None)
@given(sides, sides, st.lists(st.tuples(*[st.floats(-20, 220)] * 4), max_size=3), st.text(max_size=12), st.booleans())
def test_boxes_anywhere_in_pictures_of_any_size(
    height: int, width: int, corners: list[tuple[float, ...]], name: str, told: bool
) -> None:
    """Partly or wholly outside, thinner than a pixel, labels wider than the picture: drawn as far as it can be."""
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners]
    scores = np.linspace(1, 0, len(boxes)) if told else None
    image = np.zeros((height, width, 3), dtype=np.uint8)
    drawn = draw_detections(image, boxes, [1] * len(boxes), scores, names=[name])
    assert drawn.shape == image.shape


corners = st.tuples(st.floats(-500, 500), st.floats(-500, 500))


@given(
    st.lists(corners, min_size=1, max_size=6),
    st.tuples(st.integers(1, 90), st.integers(1, 20)),
    st.tuples(st.integers(90, 300), st.integers(20, 300)),
)
def test_labels_stay_inside_and_make_room(
    corners: list[tuple[float, float]], size: tuple[int, int], picture: tuple[int, int]
) -> None:
    """None lies on another, unless it found no room as far as the lower border."""
    taken: list[tuple[int, int, int, int]] = []
    for corner in corners:
        left, top = label_place(corner, size, picture, taken)
        assert 0 <= left <= picture[0] - size[0]
        assert 0 <= top <= picture[1] - size[1]
        own = (left, top, left + size[0], top + size[1])
        over = [one for one in taken if own[0] < one[2] and one[0] < own[2]]
        if any(own[1] < one[3] and one[1] < own[3] for one in over):
            assert max(one[3] for one in over) + size[1] > picture[1]
        taken.append(own)


def test_one_label_below_the_other() -> None:
    """Two boxes with one corner: the second label is where the first ends; at another corner it needs not move."""
    first = label_place((40, 50), (60, 15), (160, 120))
    assert first == (40, 35)
    taken = [(40, 35, 100, 50)]
    assert label_place((45, 52), (60, 15), (160, 120), taken) == (45, 50)
    assert label_place((100, 52), (60, 15), (160, 120), taken) == (100, 37)


def test_a_label_has_all_its_ground_in_the_corner() -> None:
    """At the right border the label moves to the left: as many pixels of its ground are seen as in the middle."""
    grounds = []
    for box in ((60, 40, 80, 60), (150, 40, 160, 60)):
        drawn = draw_detections(GREY, [box], [1], [0.5], names=["triangle"])
        grounds.append(int(is_colour(drawn[:40], RED).sum()))
    assert grounds[0] == grounds[1] > 300


def test_a_label_wider_than_the_picture_is_cut() -> None:
    """After a whole letter: the picture is that of a shorter name."""
    narrow, name = GREY[:, :30], "triangle"
    full, *shorter = (draw_detections(narrow, [(2, 60, 28, 90)], [1], names=[name[:end]]) for end in (8, 5, 4, 3))
    assert any((full == drawn).all() for drawn in shorter)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": [1, 1]}, "labels: expected one for each of 1 boxes, got 2"),
        ({"scores": []}, "scores: expected one for each of 1 boxes, got 0"),
        ({"masks": np.zeros((2, 120, 160))}, "masks: expected one for each of 1 boxes, got 2"),
        ({"labels": [0]}, "labels: expected 1 to 2, got 0"),
        ({"labels": [3]}, "labels: expected 1 to 2, got 3"),
        ({"image": GREY.astype(np.float32)}, "image: expected .H, W, 3. of uint8, got .120, 160, 3. of float32"),
        ({"image": GREY[..., 0]}, "image: expected .H, W, 3. of uint8"),
    ],
)
def test_wrong_pictures(change: dict[str, Any], said: str) -> None:
    options = {"image": GREY, **found((40, 50, 120, 110)), "names": ["a", "b"], **change}
    with pytest.raises(ValueError, match=said):
        draw_detections(**options)


def colours_of(path: Path) -> list[np.ndarray]:
    """Where the colours of the classes 1 and 2 are: pixels of the left and the right half of a PNG."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    middle = pixels.shape[1] // 2
    return [
        np.array([is_colour(half, class_colour(label)).sum() for label in (1, 2)])
        for half in (pixels[:, :middle], pixels[:, middle:])
    ]


def test_truth_at_the_left_answers_at_the_right(tmp_path: Path) -> None:
    truth, told = found((40, 50, 120, 110), label=1), found((40, 50, 120, 110), label=2)
    del truth["scores"]
    path = tmp_path / "detections.png"
    nothing = JudgedPicture(GREY[:60], {"boxes": np.zeros((0, 4)), "labels": []}, found(height=60))
    plot_detections([JudgedPicture(GREY, truth, told, "scene 3"), nothing], path, names=["circle", "star"])
    left, right = colours_of(path)
    assert left[0] > 100 > left[1] == 0
    assert right[1] > 100 > right[0] == 0
    plot_detections([JudgedPicture(GREY, truth, told)], path, threshold=0.95)
    assert colours_of(path)[1].tolist() == [0, 0]
    with pytest.raises(ValueError, match="samples: expected at least one picture, got none"):
        plot_detections([], path)


def test_curves_of_precision(tmp_path: Path) -> None:
    """One field a kind; a curve that is nan (nothing to find) leaves its field empty."""
    falling, nothing = np.linspace(1, 0, 101), np.full(101, np.nan)
    widths = []
    for kinds in ({"box": falling}, {"box": falling, "mask": nothing}):
        curves = {kind: dict.fromkeys((0.5, 0.75, 0.9), curve) for kind, curve in kinds.items()}
        plot_ap_curve(curves, tmp_path / "curve.png")
        widths.append(Image.open(tmp_path / "curve.png").width)
    assert widths[1] > 1.5 * widths[0]
    with pytest.raises(ValueError, match="curves: expected those of at least one kind, got none"):
        plot_ap_curve({}, tmp_path / "curve.png")
