"""Drawn scenes: shapes by hand, exact masks, nothing seen that is not told, and the same again from files."""

from __future__ import annotations

import runpy
from dataclasses import fields
from math import pi
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from halonet.cli import main
from halonet.data.coco import (
    Annotated,
    DetectionConfig,
    DetectionSource,
    DrawnScenes,
    draw_scene,
    open_detection_source,
)
from halonet.data.coco.drawn import CATEGORIES
from halonet.data.coco.open import drawn_source
from halonet.data.coco.shapes import SHAPES, Shape
from halonet.data.coco.source import tight_boxes
from halonet.data.coco.write import write_coco


def same(one: Annotated, other: Annotated) -> None:
    for item in fields(Annotated):
        left, right = getattr(one, item.name), getattr(other, item.name)
        assert left.dtype == right.dtype, item.name
        np.testing.assert_array_equal(left, right, err_msg=item.name)


def star_area(inner: float) -> float:
    """Ten triangles of the centre, an outer and an inner corner."""
    return 10 * 0.5 * 1.0 * inner * np.sin(pi / 5)


@pytest.mark.parametrize(
    ("kind", "area"),
    [
        ("ellipse", pi),
        ("rectangle", 1.6**2),
        ("triangle", 3 * np.sqrt(3) / 4),
        ("star", star_area(0.45)),
        ("ring", pi * (1 - 0.55**2)),
        ("cross", 2 * 2 * 0.6 - 0.6**2),
    ],
)
def test_shapes_have_their_areas(kind: str, area: float) -> None:
    """In units of the product of both radii; turned, and off the grid."""
    shape = Shape(kind, (100.3, 99.8), (80.0, 60.0), 0.7)
    covered = shape.covers((200, 200))
    assert abs(covered.sum() / (80 * 60) - area) < 0.01
    assert not covered[[0, -1]].any()  # the window did not cut it
    assert not covered[:, [0, -1]].any()
    assert set(SHAPES) == {category.name for category in CATEGORIES}


def test_a_shape_by_hand() -> None:
    """Arms of 0.3 * 5 to both sides of the centre (6, 6): pixel centres 4.5 to 7.5, out of 1.5 to 10.5 of the whole."""
    covered = Shape("cross", (6.0, 6.0), (5.0, 5.0), 0.0).covers((12, 14))
    expected = np.zeros((12, 14), dtype=bool)
    expected[4:8, 1:11] = expected[1:11, 4:8] = True
    np.testing.assert_array_equal(covered, expected)
    np.testing.assert_array_equal(Shape("cross", (6.0, 6.0), (5.0, 5.0), pi / 2).covers((12, 14)), expected)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(32, 100), width=st.integers(32, 100))
def test_a_scene_is_what_it_tells(seed: int, height: int, width: int) -> None:
    """Masks do not overlap, boxes are tight, and enough of every object is seen."""
    scene = DrawnScenes(1, seed, size=(height, width))[0].load()
    assert scene.image.shape == (height, width, 3)
    assert 1 <= len(scene.labels) <= 6
    assert scene.masks.sum(axis=0).max() == 1
    assert (scene.area >= 30).all()
    np.testing.assert_array_equal(scene.area, scene.masks.sum(axis=(1, 2)))
    for mask, (left, top, right, bottom) in zip(scene.masks, scene.boxes.astype(int), strict=True):
        outside = mask.copy()
        outside[top:bottom, left:right] = 0
        assert not outside.any()
        inside = mask[top:bottom, left:right]
        assert inside[[0, -1]].any(axis=1).all()
        assert inside[:, [0, -1]].any(axis=0).all()
    assert set(scene.labels) <= set(range(1, len(CATEGORIES) + 1))


def test_objects_stand_out_and_texture_does_not_tell_the_category() -> None:
    """Against what lies around them, by their mean colour, in nearly every case; while mean colours of categories,
    over many scenes, are alike."""
    contrasts, colours = [], {category.id: [] for category in CATEGORIES}
    for item in DrawnScenes(150, 5):
        scene = item.load()
        for mask, label in zip(scene.masks.astype(bool), scene.labels, strict=True):
            around = ndimage.binary_dilation(mask, iterations=3) & ~mask
            mean = scene.image[mask].mean(axis=0)
            colours[int(label)].append(mean)
            contrasts.append(np.abs(mean - scene.image[around].mean(axis=0)).max())
    assert np.quantile(contrasts, 0.05) > 40
    means = np.stack([np.mean(group, axis=0) for group in colours.values()])
    assert np.ptp(means, axis=0).max() < 40
    counts = [len(group) for group in colours.values()]
    assert min(counts) > 0.5 * np.mean(counts)


def test_later_shapes_hide_earlier_ones() -> None:
    scenes = [draw_scene(2, index) for index in range(40)]
    hidden = 0
    for scene in scenes:
        boxes = tight_boxes(scene.seen == np.arange(1, len(scene.labels) + 1)[:, None, None])
        for number, (left, top, right, bottom) in enumerate(boxes.astype(int), 1):
            hidden += bool((scene.seen[top:bottom, left:right] > number).any())
    assert hidden > 20


def test_a_scene_depends_on_its_numbers_alone() -> None:
    scenes = DrawnScenes(5, 7, size=(40, 50))
    scenes[0].load()
    same(scenes[3].load(), DrawnScenes(9, 7, size=(40, 50))[3].load())
    assert scenes[3].load().image is scenes[3].load().image  # drawn once
    assert [item.image_id for item in scenes] == [1, 2, 3, 4, 5]
    assert scenes[-1].image_id == scenes[1:][3].image_id == 5
    with pytest.raises(IndexError):
        scenes[5]
    assert not np.array_equal(scenes[2].load().image, scenes[3].load().image)


def test_parts_are_of_scenes_of_their_own() -> None:
    source = open_detection_source(DetectionConfig(drawn_images=300), root=None, split_seed=1, val_fraction=0.1)
    assert [len(source.splits[part]) for part in ("train", "val", "test")] == [300, 37, 37]
    pictures = [source.splits[part][0].load().image for part in ("train", "val", "test")]
    pictures.append(drawn_source(3, size=(128, 128), seed=2).splits["train"][0].load().image)
    assert len({picture.tobytes() for picture in pictures}) == 4
    assert not source.test_is_val
    assert source.num_classes == len(SHAPES) + 1
    assert source.warning == ""


def read(folder: Path) -> DetectionSource:
    return open_detection_source(DetectionConfig(), root=folder, split_seed=0, val_fraction=0.1)


def test_read_back_from_files_it_is_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "scenes"
    words = ["--images", "5", "--size", "40", "56", "--seed", "4"]
    assert main(["data", "draw", str(folder), *words]) == 0
    assert capsys.readouterr().out.splitlines() == ["train: 5 images", "val: 32 images", "test: 32 images", str(folder)]
    assert main(["data", "check", str(folder)]) == 0
    drawn, back = drawn_source(5, size=(40, 56), seed=4), read(folder)
    assert back.problems == []
    assert back.categories == drawn.categories
    assert not back.test_is_val
    for part, images in drawn.splits.items():
        assert [item.image_id for item in images] == [item.image_id for item in back.splits[part]]
        for one, other in zip(images, back.splits[part], strict=True):
            same(one.load(), other.load())
        assert images.ground_truth() == back.splits[part].ground_truth()


def test_nothing_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="folder: expected none or an empty one, found files in"):
        write_coco(drawn_source(1, size=(32, 32), seed=0), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert main(["data", "draw", str(tmp_path / "new"), "--size", "31", "64"]) == 2
    assert "size of drawn scenes must be at least 32 x 32 pixels, got (31, 64)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1, "index": 0}, "seed and index must not be negative, got -1 and 0"),
        ({"seed": 0, "index": 0, "size": (32, 31)}, r"at least 32 x 32 pixels, got \(32, 31\)"),
    ],
)
def test_numbers_out_of_range_are_told(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_scene(**arguments)
    with pytest.raises(ValueError, match="count must be at least 1"):
        DrawnScenes(0, 0)
    with pytest.raises(ValueError, match=r"data.root: expected null for drawn scenes, got here"):
        open_detection_source(DetectionConfig(dataset="drawn"), root="here", split_seed=0, val_fraction=0.1)
    with pytest.raises(ValueError, match=r"data.root: expected the folder of COCO's files, got null"):
        open_detection_source(DetectionConfig(dataset="coco"), root=None, split_seed=0, val_fraction=0.1)


def test_the_picture_of_the_docs_is_drawn_by_its_script(tmp_path: Path) -> None:
    docs = Path(__file__).parents[2] / "docs"
    runpy.run_path(str(docs / "draw_scenes.py"))["draw_scenes"]().save(tmp_path / "scenes.png")
    with Image.open(tmp_path / "scenes.png") as drawn, Image.open(docs / "images" / "drawn_scenes.png") as kept:
        assert drawn.size == kept.size
        # Only the font of the labels may differ between versions of Pillow.
        difference = np.abs(np.asarray(drawn, np.int16) - np.asarray(kept, np.int16))
    assert (difference.max(axis=2) > 8).mean() < 0.02
