"""What the predictions of every task begin with: the pictures asked about, and a model on its device."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from halonet.data.images import IMAGE_SUFFIXES


def pictures_of(paths: Iterable[Path]) -> list[Path]:
    """The paths, each folder replaced by the pictures in it and below it, sorted. Raises ValueError for a folder
    without."""
    pictures: list[Path] = []
    for path in paths:
        if not path.is_dir():
            pictures.append(path)
            continue
        inside = sorted(
            file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
        )
        if not inside:
            raise ValueError(f"no pictures in the folder {path}: expected files such as .png or .jpg")
        pictures += inside
    return pictures


def place_model(model: nn.Module, device: str | None) -> str:
    """Put a model where it answers, in eval mode; returns the device's name. null: cuda where there is one, else the
    CPU. Raises ValueError for a device that is not there."""
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model.eval().to(place)
    except (RuntimeError, AssertionError) as error:  # torch raises either for a device that is not there
        raise ValueError(f"device: {place}: {(str(error).splitlines() or [''])[0]}") from error
    return place
