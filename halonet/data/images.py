"""Opening a picture of any kind as plain grey or colour."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from halonet.data.source import Item

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


class UnreadableImageError(ValueError):
    """A file that is missing or is no image; its text is one line that names the path, or archive and member."""


def load_item(item: Item, *, in_chans: int) -> Image.Image:
    """The picture of any kind of item; see `read_image`."""
    if isinstance(item, Image.Image):
        return to_mode(item, in_chans=in_chans)
    if isinstance(item, Path):
        return read_image(item, in_chans=in_chans)
    try:
        data = item.read()
    except OSError as error:
        raise UnreadableImageError(f"cannot read image {item}: {error.strerror or error}") from error
    return decode_image(data, name=item, in_chans=in_chans)


def read_image(path: str | Path, *, in_chans: int) -> Image.Image:
    """Open the picture at `path` in mode "L" (in_chans 1) or "RGB" (in_chans 3).

    Palettes are resolved, transparency is laid on white, 16-bit and float greys are scaled to 8 bits, the
    camera's orientation is applied, and of an animation the first frame is taken. Raises
    UnreadableImageError.
    """
    try:
        data = Path(path).read_bytes()  # at once: Pillow would ask for a file in many small pieces
    except FileNotFoundError:
        raise UnreadableImageError(f"cannot read image {path}: no such file") from None
    except OSError as error:
        raise UnreadableImageError(f"cannot read image {path}: {error.strerror}") from error
    return decode_image(data, name=path, in_chans=in_chans)


def decode_image(data: bytes, *, name: object, in_chans: int) -> Image.Image:
    """The same from the bytes of an image file; `name`: what errors call it."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)  # it would copy every picture otherwise
    # Pillow's decoders raise far more than OSError on a damaged file: struct.error, SyntaxError, ValueError,
    # ...
    except Exception as error:
        reason = "not an image Pillow knows" if isinstance(error, OSError) else type(error).__name__
        if isinstance(error, OSError) and "truncated" in str(error):
            reason = "the file is truncated"
        if isinstance(error, Image.DecompressionBombError):
            reason = f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels"
        if not data:
            reason = "the file is empty"
        raise UnreadableImageError(f"cannot read image {name}: {reason}") from error
    return to_mode(image, in_chans=in_chans)


def to_mode(image: Image.Image, *, in_chans: int) -> Image.Image:
    """The same picture in mode "L" or "RGB"."""
    mode = "L" if in_chans == 1 else "RGB"
    if image.mode.startswith(("I", "F")):
        image = _deep_grey_to_8_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == mode else image.convert("RGB").convert(mode)


def _deep_grey_to_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image, dtype=np.float64)
    if image.mode == "F" and values.size and values.max() <= 1.0:
        values = values * 255.0
    elif image.mode.startswith("I;16") or (values.size and values.max() > 255):
        values = values / 257.0
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8), mode="L")
