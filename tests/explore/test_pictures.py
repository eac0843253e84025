"""Pictures of all kinds as a browser sends them, and how long they are kept."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from halonet.explore.pictures import MOST_KEPT, NoLongerKept, Pictures
from halonet.explore.server import first_view
from halonet.explore.workbench import Workbench
from tests.explore.serving import Serving, picture, png_of

IMAGE = Image.fromarray(picture(30, 40))
TURNED = Image.Exif()
TURNED[0x0112] = 6  # the camera stood on its side
FRAMES = {"save_all": True, "append_images": [IMAGE.rotate(180)], "duration": 100}


def file_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def clear(image: Image.Image) -> Image.Image:
    """The same, its left half transparent."""
    pixels = np.array(image.convert("RGBA"))
    pixels[:, :20, 3] = 0
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("data", "expected", "near"),
    [
        (file_of(IMAGE.convert("CMYK"), "jpeg", quality=95), IMAGE, 12),
        (file_of(IMAGE, "gif", **FRAMES), IMAGE, 12),  # of 256 colours; the first picture of the two
        (file_of(IMAGE, "webp", lossless=True, **FRAMES), IMAGE, 0),
        (file_of(IMAGE, "jpeg", quality=95, exif=TURNED), IMAGE.transpose(Image.Transpose.ROTATE_270), 12),
        (file_of(Image.new("RGB", (1, 1), "red"), "png"), Image.new("RGB", (1, 1), "red"), 0),
    ],
    ids=["cmyk", "gif", "webp", "turned", "one pixel"],
)
def test_kinds_of_files(served: Serving, data: bytes, expected: Image.Image, near: float) -> None:
    told = served.told("/api/pictures", data)
    found = served.workbench.pictures.get(told["id"]).image
    assert [told["width"], told["height"]] == told["given"] == list(expected.size)
    assert np.abs(np.asarray(found, float) - np.asarray(expected, float)).mean() <= near
    served.told("/api/look", {"key": "halonet_nano_32", "picture": told["id"]})


def test_deep_greys_and_transparency(served: Serving) -> None:
    deep = np.linspace(0, 65535, 30 * 40).reshape(30, 40).astype(np.uint16)
    told = served.told("/api/pictures", png_of(deep))
    found = np.asarray(served.workbench.pictures.get(told["id"]).image)
    assert np.abs(found - (deep / 257)[..., None]).max() <= 1
    told = served.told("/api/pictures", file_of(clear(IMAGE), "png"))
    found = np.asarray(served.workbench.pictures.get(told["id"]).image)
    assert (found[:, :20] == 255).all()
    np.testing.assert_array_equal(found[:, 20:], np.asarray(IMAGE)[:, 20:])


def test_the_first_picture_lasts() -> None:
    """A page that is loaded anew opens with it, however many came since."""
    workbench = Workbench()
    first = first_view(workbench, (), None)["picture"]["id"]
    others = [workbench.pictures.add(IMAGE, "one more").id for _ in range(MOST_KEPT + 1)]
    assert workbench.pictures.get(first).id == first
    assert [workbench.pictures.get(number).id for number in others[1:]] == others[1:]
    with pytest.raises(NoLongerKept):
        workbench.pictures.get(others[0])


def test_numbers_of_another_server_mean_nothing(served: Serving, tmp_path: Path) -> None:
    """A page that outlived its server would see another page's picture under the number of its own."""
    IMAGE.save(tmp_path / "secret.png")
    numbers = {Pictures().read((tmp_path / "secret.png").read_bytes(), "secret").id for _ in range(8)}
    assert len(numbers) == 8
    told = served.told("/api/pictures", png_of(picture()))
    wish = {"key": "halonet_nano_32", "picture": told["id"] + 1}
    assert "no longer kept" in served.refused("/api/look", wish, status=410)
