"""The pictures a page was given, or that come with the library, kept in memory alone."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

from PIL import Image

from halonet.data.images import decode_image
from halonet.data.source import SplitItems

MOST_BYTES = 64 * 2**20  # of a file that is sent
MOST_SIDE = 2048  # pixels; a larger picture is made smaller
MOST_KEPT = 16  # pictures; the one not used for longest goes first


class NoLongerKept(LookupError):
    """A picture, or what was made of it, made room for others, or is of a server that has ended. Its text is for
    users."""


def numbers() -> Iterator[int]:
    """Numbers to call things by. Those of an earlier server at the same port mean nothing: a page that was left open
    would be shown somebody else's picture as its own."""
    return count(1 + secrets.randbelow(1 << 40))  # a browser's numbers are exact below 2 ** 53


@dataclass(frozen=True)
class Picture:
    """image: colour, at most `MOST_SIDE` a side. given_size: (width, height) before that. right: id of the right
    picture of a pair that this is the left one of."""

    id: int
    name: str
    image: Image.Image
    given_size: tuple[int, int]
    right: int | None = None

    def to_dict(self) -> dict[str, object]:
        """What the page is told."""
        width, height = self.image.size
        sizes = {"width": width, "height": height, "given": list(self.given_size)}
        return {"id": self.id, "name": self.name, "right": self.right, **sizes}


class Pictures:
    """Pictures by number, the newest `MOST_KEPT`; safe to use from several threads.

    lasting: number of the one that is kept besides, whatever comes.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[int, Picture] = OrderedDict()
        self._numbers = numbers()
        self._lock = threading.Lock()
        self.lasting: int | None = None

    def add(self, image: Image.Image, name: str, *, right: int | None = None) -> Picture:
        """Keep a picture, made smaller where it is larger than `MOST_SIDE`. Raises ValueError for one without
        pixels."""
        given, image = image.size, image.convert("RGB")
        if not min(given):
            raise ValueError(f"image {name}: expected pixels, got {given[0]} x {given[1]}")
        if max(given) > MOST_SIDE:
            share = MOST_SIDE / max(given)
            image = image.resize((max(1, round(share * given[0])), max(1, round(share * given[1]))))
        with self._lock:
            picture = Picture(next(self._numbers), name, image, given, right)
            self._kept[picture.id] = picture
            others = [number for number in self._kept if number != self.lasting]
            for number in others[:-MOST_KEPT]:
                del self._kept[number]
        return picture

    def read(self, data: bytes, name: str) -> Picture:
        """Keep the picture of a file. Raises ValueError where it is too large or none."""
        if len(data) > MOST_BYTES:
            raise ValueError(f"image {name}: expected at most {MOST_BYTES >> 20} MiB, got {len(data) / 2**20:.0f} MiB")
        return self.add(decode_image(data, name=name, in_chans=3), name)

    def get(self, number: int) -> Picture:
        """Raises NoLongerKept."""
        with self._lock:
            if number not in self._kept:
                raise NoLongerKept("the picture is no longer kept here: give it once more")
            self._kept.move_to_end(number)
            return self._kept[number]


def _digit(pictures: Pictures, index: int) -> Picture:
    from halonet.data.digits import load_digits_source

    source = load_digits_source(val_fraction=0.1, test_fraction=0.2, split_seed=2021)
    scans = source.splits["test"]
    assert isinstance(scans, SplitItems)
    number = index % len(scans)
    scan = scans.items[number]
    assert isinstance(scan, Image.Image)
    return pictures.add(scan, f"digit: {source.class_names[scans.labels[number]]}, test scan {number}")


def _scene(pictures: Pictures, index: int) -> Picture:
    from halonet.data.coco import draw_scene

    scene = draw_scene(11, index, size=(256, 256))
    return pictures.add(Image.fromarray(scene.image), f"drawn scene {index}")


def _pair(pictures: Pictures, index: int) -> Picture:
    from halonet.data.stereo import draw_scene

    scene = draw_scene(11, index, size=(128, 256))
    right = pictures.add(Image.fromarray(scene.right), f"drawn pair {index}, right")
    return pictures.add(Image.fromarray(scene.left), f"drawn pair {index}, left", right=right.id)


# Name on the page -> what makes picture `index` of it.
SAMPLES: dict[str, Callable[[Pictures, int], Picture]] = {
    "digit": _digit,
    "drawn scene": _scene,
    "stereo pair": _pair,
}


def add_sample(pictures: Pictures, name: str, index: int = 0) -> Picture:
    """Keep a picture that comes with the library.

    name: of `SAMPLES`. index: which of them, not negative. Raises ValueError for another name or a negative index.
    """
    if name not in SAMPLES:
        raise ValueError(f"sample: expected one of {', '.join(SAMPLES)}, got {name!r}")
    if index < 0:
        raise ValueError(f"index: expected at least 0, got {index}")
    return SAMPLES[name](pictures, index)
