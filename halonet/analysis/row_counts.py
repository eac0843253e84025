"""Parameters and multiply-adds of every row, from the committed table `row_counts.json`.

Counting all of them takes minutes. `python -m benchmarks.count_rows` makes the table; a row that is not in it is
counted when it is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources

import torch

from halonet.analysis.cost import Count, count_costs
from halonet.models import create_model
from halonet.models.psmnet_rows import PSMNETS
from halonet.models.zoo import ROWS


def row_count(name: str, *, task: str = "classification") -> Count:
    """What runs at the row's own image size, as `halonet.analysis.cost` counts it; of a detector on 1000 boxes.

    name: a row of `task`: "classification", "stereo" or "detection".
    """
    known = committed_counts().get(task, {}).get(name)
    return count_row(name, task=task) if known is None else Count(*known)


def count_row(name: str, *, task: str = "classification") -> Count:
    """The same, counted now."""
    if task == "detection":
        from halonet.analysis.detector_cost import detector_cost, own_size  # torchvision: not for every command

        return detector_cost(name, image_size=own_size(name)).total
    with torch.device("meta"):
        model = create_model(name)
    return count_costs(model).total()


def row_size(name: str, *, task: str = "classification") -> tuple[int, int]:
    """(height, width) in pixels of the image that a row is meant for, at which it is counted."""
    if task == "detection":
        from halonet.analysis.detector_cost import own_size

        return own_size(name)
    height, width = (PSMNETS if task == "stereo" else ROWS)[name].image_shape
    return height, width


@cache
def committed_counts() -> Mapping[str, Mapping[str, tuple[int, int]]]:
    """By task and name (parameters, multiply-adds)."""
    text = resources.files("halonet.analysis").joinpath("row_counts.json").read_text(encoding="utf-8")
    tasks: dict[str, dict[str, list[int]]] = json.loads(text)
    return {task: {name: (counts[0], counts[1]) for name, counts in rows.items()} for task, rows in tasks.items()}
