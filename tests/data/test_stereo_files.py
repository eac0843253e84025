"""Disparity files and pairs of pictures: what is written comes back, and what is damaged is told by its path."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from halonet.data.stereo import ScenePaths, read_disparity, read_pair, read_pfm, write_disparity, write_pfm

SHAPES = st.one_of(
    st.tuples(st.integers(1, 9), st.integers(1, 9)), st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(3))
)
FLOATS = st.floats(width=32, allow_nan=False)
ONE_FOLDER = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def pfm(values: list[float], *, width: int, height: int, little: bool, channels: int = 1) -> bytes:
    header = f"{'Pf' if channels == 1 else 'PF'}\n{width} {height}\n{'-1.0' if little else '1.0'}\n"
    return header.encode() + struct.pack(f"{'<' if little else '>'}{len(values)}f", *values)


@ONE_FOLDER
@given(values=SHAPES.flatmap(lambda shape: arrays.arrays(np.float32, shape, elements=FLOATS)))
def test_a_pfm_comes_back(values: np.ndarray, tmp_path: Path) -> None:
    write_pfm(tmp_path / "x.pfm", values)
    again = read_pfm(tmp_path / "x.pfm")
    assert again.dtype == np.float32
    np.testing.assert_array_equal(again, values)


@pytest.mark.parametrize("little", [True, False])
def test_a_pfm_by_hand(little: bool, tmp_path: Path) -> None:
    """The file has the bottom row first; the scale's sign tells the order of bytes."""
    path = tmp_path / "x.pfm"
    path.write_bytes(pfm([4.0, 5.0, 6.0, 1.0, 2.0, 3.0], width=3, height=2, little=little))
    assert read_pfm(path).tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    path.write_bytes(pfm([1.0, 2.0, 3.0], width=1, height=1, little=little, channels=3))
    assert read_pfm(path).tolist() == [[[1.0, 2.0, 3.0]]]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (pfm([1.0] * 6, width=3, height=2, little=True)[:-5], "24 bytes .* 19|19 .* 24"),
        (pfm([1.0] * 6, width=3, height=2, little=True) + b"more", "24 bytes .* 28|28 .* 24"),
        (b"P5\n3 2\n255\n" + bytes(6), "PFM"),
        (b"Pf\nthree 2\n-1.0\n" + bytes(24), "header|size"),
        (b"Pf\n3 2\n0\n" + bytes(24), "scale|header"),
        (b"Pf\n3 2\nnan\n" + bytes(24), "scale|header"),
        (b"Pf\n0 2\n-1.0\n", "header|size"),
        (b"", "PFM"),
    ],
)
def test_a_damaged_pfm_is_told_by_its_path(contents: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged.pfm"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=message) as caught:
        read_pfm(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    for name in ("none.pfm", "none.png"):
        with pytest.raises(ValueError, match=f"{name}: no such file"):
            read_disparity(tmp_path / name)


@ONE_FOLDER
@given(steps=arrays.arrays(np.uint16, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_kittis_png_comes_back(steps: np.ndarray, tmp_path: Path) -> None:
    """256 steps a pixel, 0 where nothing was measured."""
    path = tmp_path / "x.png"
    Image.fromarray(steps).save(path)
    disparity, valid = read_disparity(path)
    np.testing.assert_array_equal(disparity * 256, steps)
    np.testing.assert_array_equal(valid, steps > 0)
    write_disparity(path, disparity, valid)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), steps)


def test_a_png_rounds_and_keeps_what_is_known_from_being_0(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    write_disparity(path, np.array([[0.001, 1.25, 1.2519, 7.0]]), np.array([[True, True, True, False]]))
    assert np.asarray(Image.open(path)).tolist() == [[1, 320, 320, 0]]


@pytest.mark.parametrize("value", [-0.1, 256.0, np.inf, np.nan])
def test_a_png_cannot_hold_everything(value: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"disparity must lie within 0 to 255.996 pixels for PNG .*x\.png, got"):
        write_disparity(tmp_path / "x.png", np.array([[1.0, value]]), np.ones((1, 2), bool))
    assert not list(tmp_path.iterdir())
    write_disparity(tmp_path / "x.png", np.array([[1.0, value]]), np.array([[True, False]]))  # where it is not known


def test_what_is_unknown_in_a_pfm(tmp_path: Path) -> None:
    write_pfm(tmp_path / "x.pfm", np.array([[1.5, 0.0, -2.0, np.inf, np.nan]], dtype=np.float32))
    assert read_disparity(tmp_path / "x.pfm")[1].tolist() == [[True, False, False, False, False]]


@pytest.mark.parametrize(
    ("name", "picture", "message"),
    [
        ("a.jpg", None, "expected .pfm or .png, got .jpg"),
        ("a.png", Image.new("RGB", (3, 2)), "expected 16 bit grey, got mode RGB"),
        ("a.png", Image.new("L", (3, 2)), "expected 16 bit grey, got mode L"),
    ],
)
def test_other_files_are_refused(name: str, picture: Image.Image | None, message: str, tmp_path: Path) -> None:
    if picture is not None:
        picture.save(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        read_disparity(tmp_path / name)


def test_a_truncated_png_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    write_disparity(path, np.random.default_rng(0).uniform(1, 99, (40, 40)))
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(ValueError, match=r"cannot read disparity .*x\.png: not a whole PNG"):
        read_disparity(path)


def save_scene(folder: Path, *, left: tuple[int, int], right: tuple[int, int], truth: tuple[int, int]) -> ScenePaths:
    """Files of (width, height) each."""
    paths = ScenePaths(folder / "left.png", folder / "right.png", folder / "truth.pfm")
    Image.new("RGB", left, "red").save(paths.left)
    Image.new("L", right, 7).save(paths.right)
    write_pfm(paths.disparity, np.ones(truth[::-1], dtype=np.float32))
    return paths


def test_a_scene_of_three_files(tmp_path: Path) -> None:
    scene = save_scene(tmp_path, left=(5, 4), right=(5, 4), truth=(5, 4)).load()
    assert scene.name == "left"
    assert scene.left.shape == scene.right.shape == (4, 5, 3)
    assert scene.left[0, 0].tolist() == [255, 0, 0]
    assert scene.right[0, 0].tolist() == [7, 7, 7]
    assert scene.disparity.shape == scene.valid.shape == (4, 5)


def test_unequal_sizes_are_told_with_both_paths(tmp_path: Path) -> None:
    paths = save_scene(tmp_path, left=(5, 4), right=(6, 4), truth=(5, 4))
    for load in (paths.load, lambda: read_pair(paths.left, paths.right)):
        with pytest.raises(ValueError, match="a pair must have one size") as caught:
            load()
        assert f"left image {paths.left} is 5 x 4, right image {paths.right} is 6 x 4" in str(caught.value)
    paths = save_scene(tmp_path, left=(5, 4), right=(5, 4), truth=(5, 3))
    with pytest.raises(ValueError, match=r"is 5 x 4, disparity .*truth\.pfm is 5 x 3"):
        paths.load()


def test_a_picture_that_is_none_is_told(tmp_path: Path) -> None:
    paths = save_scene(tmp_path, left=(5, 4), right=(5, 4), truth=(5, 4))
    paths.right.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"cannot read image .*right\.png"):
        paths.load()
