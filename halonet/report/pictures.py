"""Pictures inside a page: drawn by the house's plots, or files that a run left, made no larger than is seen."""

from __future__ import annotations

import base64
import io
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from halonet.report.markup import Markup, element

MOST_SIDE = 1600  # pixels of a picture's longer side; two for one of the page on a dense screen
MOST_PNG = 300_000  # bytes from which on a picture becomes a JPEG, if that is smaller
WIDE = 1.4  # widths in heights from which on a picture scrolls on a small screen, where it could not be read
TILE_SIDE = 160
TINY = 48  # pixels below which a tile shows its pixels as squares


def chart(draw: Callable[[Path], Any], *, caption: Any = "", alt: str) -> Markup:
    """What `draw` writes to the path of an .svg that it is given."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chart.svg"
        draw(path)
        contents = path.read_bytes()
    sides = re.search(rb'viewBox="0 0 ([\d.]+) ([\d.]+)"', contents)
    wide = sides is not None and float(sides[1]) > WIDE * float(sides[2])
    return _figure(_uri(contents, "svg+xml"), caption, alt=alt, class_="chart", wide=wide)


def drawn(draw: Callable[[Path], Any], *, caption: Any = "", alt: str) -> Markup:
    """What `draw` writes to the path of a .png that it is given: for pictures of pixels."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drawn.png"
        draw(path)
        return picture(path, caption=caption, alt=alt)


def picture(path: Path, *, caption: Any = "", alt: str, is_chart: bool = False) -> Markup:
    """A picture that lies in a folder; nothing if it is not there or is none. is_chart: lines on white, which a dark
    page turns dark."""
    try:
        with Image.open(path) as image:
            pixels = image.convert("RGB")
    except OSError:
        return Markup("")
    pixels.thumbnail((MOST_SIDE, 4 * MOST_SIDE))
    wide = pixels.width > WIDE * pixels.height
    return _figure(_encoded(pixels), caption, alt=alt, class_="chart" if is_chart else "picture", wide=wide)


def tile(pixels: np.ndarray, *, caption: Any, alt: str) -> Markup:
    """A small picture with words under it. pixels: (H, W, 3), 0 to 1."""
    image = Image.fromarray(np.rint(255 * pixels).astype(np.uint8))
    tiny = max(image.size) < TINY
    image.thumbnail((TILE_SIDE, TILE_SIDE))
    return _figure(_encoded(image, most_png=8_000), caption, alt=alt, class_="tiny" if tiny else None)


def tiles(items: list[Markup]) -> Markup:
    """Tiles side by side."""
    return element("div", *items, class_="tiles") if items else Markup("")


def _figure(uri: str, caption: Any, *, alt: str, class_: str | None, wide: bool = False) -> Markup:
    words = element("figcaption", caption) if caption else ""
    image = element("div", element("img", src=uri, alt=alt, class_=class_), class_="wide" if wide else None)
    return element("figure", image, words)


def _encoded(image: Image.Image, *, most_png: int = MOST_PNG) -> str:
    lossless = _bytes(image, "PNG", optimize=True)
    if len(lossless) <= most_png:
        return _uri(lossless, "png")
    small = _bytes(image, "JPEG", quality=85, optimize=True)
    return _uri(small, "jpeg") if len(small) < len(lossless) else _uri(lossless, "png")


def _bytes(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _uri(contents: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(contents).decode('ascii')}"
