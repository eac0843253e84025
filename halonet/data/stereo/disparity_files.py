"""Disparity maps as files: PFM (Scene Flow) and 16 bit PNG (KITTI)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from halonet.data.stereo.pfm import read_pfm, write_pfm
from halonet.files import replacing

KITTI_SCALE = 256.0  # steps a pixel of disparity; 0 is kept for "not measured"
_LARGEST_STEP = 65535


def read_disparity(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the disparities of a left view, by the file's suffix.

    Args:
        path: NAME.pfm, where finite values above 0 are known, or NAME.png of 16 bits, which holds 256 steps a pixel
            and 0 where nothing was measured (readme of the KITTI stereo development kit).

    Returns:
        disparity: (H, W) float32, in pixels; of a PFM also its unknown values, as they lie there.
        valid: (H, W) bool, where it is known.

    Raises:
        ValueError: a file that is missing, damaged or of another kind.
    """
    suffix = _suffix(path)
    if suffix == ".pfm":
        disparity = read_pfm(path)
        if disparity.ndim != 2:
            raise ValueError(f"cannot read disparity {path}: expected a grey PFM (Pf), got a colour one (PF)")
        return disparity, np.isfinite(disparity) & (disparity > 0)
    steps = _read_png(path)
    return (steps / KITTI_SCALE).astype(np.float32), steps > 0


def write_disparity(path: str | Path, disparity: np.ndarray, valid: np.ndarray | None = None) -> None:
    """Write disparities so that `read_disparity` gives them back: exactly from .pfm, to 1/512 of a pixel from .png.

    A PNG keeps known disparities under 1/512 as 1/256, since its 0 means "not measured".

    Args:
        path: NAME.pfm or NAME.png; folders above it are made.
        disparity: (H, W), in pixels.
        valid: (H, W) bool, where it is known; elsewhere 0 is written. None: where it is not 0.

    Raises:
        ValueError: another suffix, shapes that differ, or known disparities that a PNG cannot hold: negative ones,
            such as are not finite, and those above 65535/256.
    """
    suffix = _suffix(path)
    if disparity.ndim != 2 or (valid is not None and valid.shape != disparity.shape):
        shapes = f"{disparity.shape}" if valid is None else f"{disparity.shape} and {valid.shape}"
        raise ValueError(f"disparity and valid must be of one shape (H, W) for {path}, got {shapes}")
    known = disparity != 0 if valid is None else valid.astype(bool)
    if suffix == ".pfm":
        write_pfm(path, np.where(known, disparity, 0.0))
        return
    steps = np.where(known, np.rint(disparity.astype(np.float64) * KITTI_SCALE), 0.0)
    # Written this way round, so that nan counts as unfit.
    unfit = known & ~((disparity >= 0) & (steps <= _LARGEST_STEP))
    if unfit.any():
        raise ValueError(
            f"disparity must lie within 0 to {_LARGEST_STEP / KITTI_SCALE:.3f} pixels for PNG {path}, "
            f"got {disparity[unfit][0]:g}"
        )
    with replacing(path) as beside:
        Image.fromarray(np.where(known, np.maximum(steps, 1), 0).astype(np.uint16)).save(beside)


def _suffix(path: str | Path) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in (".pfm", ".png"):
        raise ValueError(f"disparity file {path}: expected .pfm or .png, got {suffix or 'no suffix'}")
    return suffix


def _read_png(path: str | Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            image.load()
    except FileNotFoundError as error:
        raise ValueError(f"cannot read disparity {path}: no such file") from error
    # Pillow's decoders raise far more than OSError on a damaged file.
    except Exception as error:
        raise ValueError(f"cannot read disparity {path}: not a whole PNG") from error
    if not image.mode.startswith("I"):
        raise ValueError(f"cannot read disparity {path}: expected 16 bit grey, got mode {image.mode}")
    return np.asarray(image)
