"""PFM, the portable float map: a text header, then 32 bit floats, the lowest row first."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from halonet.files import replacing

# One white space ends the header, and whatever follows is a value: a second one must not be swallowed.
_HEADER = re.compile(rb"(PF|Pf)\s+(\d{1,9})\s+(\d{1,9})\s+([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?:\r\n|\s)")


def read_pfm(path: str | Path) -> np.ndarray:
    """The values of a PFM file, of either byte order.

    The sign of the header's scale tells the byte order; its magnitude, a unit that no data set agrees on, is ignored.

    Args:
        path: of the file.

    Returns:
        (H, W) of a grey file ("Pf") or (H, W, 3) of a colour file ("PF"), float32, the top row first.

    Raises:
        ValueError: a file that is missing, no PFM, or whose header or length is wrong.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise ValueError(f"cannot read PFM {path}: {reason}") from error
    if content[:2] not in (b"PF", b"Pf"):
        raise ValueError(f"cannot read PFM {path}: expected it to begin with PF or Pf, got {content[:2]!r}")
    header = _HEADER.match(content)
    if header is None or not int(header[2]) or not int(header[3]) or not 0 < abs(float(header[4])) < float("inf"):
        raise ValueError(
            f"cannot read PFM {path}: header damaged, expected width, height and a scale other than 0, "
            f"got {content[2:40]!r}"
        )
    width, height = int(header[2]), int(header[3])
    shape = (height, width, 3) if header[1] == b"PF" else (height, width)
    expected, found = 4 * height * width * (3 if header[1] == b"PF" else 1), len(content) - header.end()
    if found != expected:
        fault = "truncated" if found < expected else "too long"
        raise ValueError(f"cannot read PFM {path}: {fault}, expected {expected} bytes of values, found {found}")
    order = "<f4" if header[4].startswith(b"-") else ">f4"
    values = np.frombuffer(content, dtype=order, offset=header.end()).reshape(shape)
    return values[::-1].astype(np.float32)


def write_pfm(path: str | Path, values: np.ndarray) -> None:
    """Write a PFM file, little endian, with scale 1.

    Args:
        path: of the file; folders above it are made.
        values: (H, W) or (H, W, 3), cast to float32, the top row first.

    Raises:
        ValueError: values of another shape, or none.
    """
    if not values.size or values.ndim not in (2, 3) or values.shape[2:] not in ((), (3,)):
        raise ValueError(f"values must be of shape (H, W) or (H, W, 3) for PFM {path}, got {values.shape}")
    kind = "Pf" if values.ndim == 2 else "PF"
    header = f"{kind}\n{values.shape[1]} {values.shape[0]}\n-1.0\n"
    with replacing(path) as beside:
        beside.write_bytes(header.encode("ascii") + values[::-1].astype("<f4").tobytes())
