"""What the papers say our rows reach: the committed table `published.json`, as printed, none of it measured by us.

Sizes that the papers print stand in `halonet.models.facts`, precisions of detectors in `halonet.detection.facts`.
HaloNet is arXiv 2103.12731, BoTNet arXiv 2101.11605, Vision Longformer arXiv 2103.15358, Shen et al. ("FA") arXiv
1812.01243.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

# Quantities by name. Of `peers` the sizes too, in millions and billions.
QUANTITIES: Mapping[str, str] = {
    "top1": "accuracy on ImageNet's validation images, %",
    "top5": "the same of the first five answers, %",
    "top1_v2": "accuracy on ImageNet V2, %",
    "top1_test": "accuracy on ImageNet's test images, %",
    "epe": "end-point error on Scene Flow's test pairs, pixels",
    "step_ms": "of a training step, forward and backward, on 32 images on a core of a TPU v3",
    "train_time": "of a training step, EfficientNet-B7's = 1",
    "images_per_second": "inference on a core of a TPU v3",
    "parameters": "millions",
    "multiply_adds": "billions, of one image",
}
# What a row is judged by, and whether more of it is better.
METRICS: Mapping[str, bool] = {"top1": True, "epe": False}


@dataclass(frozen=True)
class Published:
    """A line of a paper's table about a row of ours, or about a peer that the paper compares with.

    row: of the zoo; of a peer its name as `halonet bench model` takes it, "" if timm has it not.
    source: paper and table.
    label: what the line is called there.
    data: what it was trained on.
    image_size: side of the square image in pixels that it was judged at; None of stereo, which has whole pictures.
    figures: by QUANTITIES, as printed.
    setting: how it was trained, as far as it sets lines of the same row apart.
    options: what `create_model` is to be given beside the row's name.
    family: of a peer.
    unmet: quantities that the paper contradicts itself in, as the note says.
    note: where the paper leaves something open or contradicts itself.
    """

    row: str
    source: str
    label: str
    data: str
    image_size: int | None
    figures: Mapping[str, float]
    setting: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    family: str = ""
    unmet: tuple[str, ...] = ()
    note: str = ""


def published(name: str) -> tuple[Published, ...]:
    """The lines about a row, in the order of papers and tables; empty for a row that no paper gives a figure of."""
    return tuple(line for line in lines() if line.row == name)


def printed(name: str, source: str, *quantities: str) -> tuple[float, ...]:
    """What one table prints of a row by its name alone, in the order of `quantities` (top1 if none is given).

    Raises:
        ValueError: the table has no line, or several, with them of the row.
    """
    wanted = quantities or ("top1",)
    told = [line for line in published(name) if line.source == source and not line.options]
    found = [line.figures for line in told if all(quantity in line.figures for quantity in wanted)]
    if len(found) != 1:
        raise ValueError(f"source: expected one line of {source} with {', '.join(wanted)} of {name}, got {len(found)}")
    return tuple(found[0][quantity] for quantity in wanted)


def best_published(name: str) -> Published | None:
    """The line with a row's best accuracy or error, by its name alone, without options; None where there is none.

    Of several that are equal it is the first.
    """
    for metric, more_is_better in METRICS.items():
        told = [line for line in published(name) if metric in line.figures and not line.options]
        if told:
            return (max if more_is_better else min)(told, key=lambda line: line.figures[metric])
    return None


def lines() -> tuple[Published, ...]:
    """All lines about our rows."""
    return _table()["rows"]


def peers() -> tuple[Published, ...]:
    """Lines of models that are not ours, as the papers quote them."""
    return _table()["peers"]


@cache
def _table() -> dict[str, tuple[Published, ...]]:
    text = resources.files("halonet.models").joinpath("published.json").read_text(encoding="utf-8")
    return {
        part: tuple(Published(**{**line, "unmet": tuple(line.get("unmet", ()))}) for line in items)
        for part, items in json.loads(text).items()
    }
