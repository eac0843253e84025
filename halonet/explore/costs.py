"""What a model costs before and after its block and halo are changed, counted from shapes alone."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import nn

from halonet.analysis.attention.mechanisms import KINDS
from halonet.analysis.cost import attention_axes, count_costs
from halonet.analysis.detector_cost import DETECTIONS, PROPOSALS, DetectorPass
from halonet.detection import create_detector
from halonet.explore.choices import Choice, with_changes
from halonet.layers import AttentionLayer, LongformerAttention
from halonet.models import create_model
from halonet.models.checkpoints import DETECTION


def cost_of(choice: Choice, changes: dict[str, int], input_size: tuple[int, int, int]) -> dict[str, Any]:
    """Parameters and multiply-adds of one image (of a stereo network, of a pair).

    Args:
        choice: the model.
        changes: dials that are turned.
        input_size: (channels, height, width) of what it reads.

    Returns:
        parameters; multiply_adds; attention: those of them that are products of attention layers, q.k, position and
        weights.v; keys: by layer how many a query sees, zeros around the map among them, of local attention alone.

    Raises:
        ValueError: a dial that the model has not, or a number out of its range.
    """
    arguments = with_changes(choice, changes)
    with torch.device("meta"):
        if choice.task == DETECTION:
            detector = create_detector(choice.name, **arguments)
            model: nn.Module = DetectorPass(detector, proposals=PROPOSALS, detections=DETECTIONS)
        else:
            model = create_model(choice.name, **arguments)
    counted = count_costs(model, input_size=input_size)
    total, attention, keys = counted.total(), 0, {}
    for entry in counted.modules:
        layer = model.get_submodule(entry.name)
        if not isinstance(layer, KINDS):
            continue
        attention += entry.executed.multiply_adds
        if isinstance(layer, AttentionLayer | LongformerAttention) and entry.input_size is not None:
            axes = attention_axes(layer, entry.input_size)
            seen = prod(axis.window or axis.neighborhood for axis in axes)
            keys[entry.name.removeprefix("detector.")] = seen
    return {
        "parameters": total.parameters,
        "multiply_adds": total.multiply_adds,
        "attention": attention,
        "keys": keys,
    }
