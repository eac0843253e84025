"""Pictures of every mode come out grey or coloured with the right values."""

from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from halonet.data import UnreadableImageError, read_image


def saved(image: Image.Image, path: Path) -> Path:
    image.save(path)
    return path


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "I", "F", "I;16"])
@pytest.mark.parametrize(("in_chans", "expected"), [(1, "L"), (3, "RGB")])
def test_every_mode_is_read(mode: str, in_chans: int, expected: str, tmp_path: Path) -> None:
    if mode == "YCbCr" and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("Pillow 12.3 cannot read back the YCbCr TIFF it writes")
    image = Image.new(mode, (5, 4)) if mode != "I;16" else Image.fromarray(np.zeros((4, 5), np.uint16))
    path = saved(image, tmp_path / "picture.tiff")
    read = read_image(path, in_chans=in_chans)
    assert (read.mode, read.size) == (expected, (5, 4))


def test_transparency_becomes_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    read = read_image(saved(image, tmp_path / "a.png"), in_chans=3)
    assert [read.getpixel((column, 0)) for column in (0, 1)] == [(255, 0, 0), (255, 255, 255)]


def test_a_palette_with_a_transparent_entry(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "p.png", transparency=0)
    read = read_image(tmp_path / "p.png", in_chans=3)
    assert [read.getpixel((column, 0)) for column in (0, 1)] == [(255, 255, 255), (200, 100, 50)]


def test_16_bits_keep_their_scale(tmp_path: Path) -> None:
    values = np.array([[0, 257 * 100, 65535]], np.uint16)
    read = read_image(saved(Image.fromarray(values), tmp_path / "deep.png"), in_chans=1)
    assert np.asarray(read).tolist() == [[0, 100, 255]]


def test_floats_from_0_to_1_are_scaled(tmp_path: Path) -> None:
    values = np.array([[0.0, 0.2, 1.0]], np.float32)
    read = read_image(saved(Image.fromarray(values), tmp_path / "f.tiff"), in_chans=1)
    assert np.asarray(read).tolist() == [[0, 51, 255]]


def test_the_cameras_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    Image.new("RGB", (6, 2)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg", in_chans=3).size == (2, 6)


def test_no_image(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UnreadableImageError, match=r"text\.png: not an image"):
        read_image(tmp_path / "text.png", in_chans=3)


def test_nothing_and_too_much(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(UnreadableImageError, match=r"empty\.png: the file is empty"):
        read_image(tmp_path / "empty.png", in_chans=3)
    saved(Image.new("1", (13500, 13500)), tmp_path / "large.png")  # 23 kB that would be half a gigabyte
    with pytest.raises(UnreadableImageError, match=r"large\.png: it has more than 178956970 pixels"):
        read_image(tmp_path / "large.png", in_chans=3)


def test_half_an_image(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    whole = saved(Image.fromarray(noise), tmp_path / "whole.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableImageError, match=r"half\.png: the file is truncated"):
        read_image(tmp_path / "half.png", in_chans=3)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match=r"gone\.png: no such file"):
        read_image(tmp_path / "gone.png", in_chans=3)
