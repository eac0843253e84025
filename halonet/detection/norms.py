"""Batch norms of a detector: their momentum and epsilon, frozen ones, and parts of a backbone that do not learn."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from typing import Any

from timm.layers import freeze_batch_norm_2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from halonet.detection.config import DetectorConfig

# Norms of layers that are put between a backbone's blocks: new beside trained ones, and of gain 0 at first.
_INSERTED = "_after_"


def prepare_norms(model: nn.Module, config: DetectorConfig) -> None:
    """Makes a detector's norms, and the parts of its backbone that do not learn, what the configuration says.

    Args:
        model: of torchvision's kinds, with a `FeaturePyramid` as its `backbone`.
        config: its configuration.

    Raises:
        ValueError: frozen_stages of a backbone whose parts are not known, or more than it has.
    """
    body: Any = model.backbone.backbone  # type: ignore[union-attr]
    if config.norm == "batch":
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eps, module.momentum = config.norm_eps, 1 - config.norm_momentum
    if config.norm == "frozen":
        freeze_norms(body, eps=config.norm_eps)
    parts = first_parts(body, config.frozen_stages)
    for part in parts:
        part.requires_grad_(False)
    inside = {module for part in parts for module in part.modules()}
    freeze_norms(body, eps=None if config.norm == "none" else config.norm_eps, only=inside)


def freeze_norms(module: nn.Module, *, eps: float | None = None, only: Collection[nn.Module] | None = None) -> None:
    """Replaces the batch norms below a module by constants, statistics and gain and shift alike.

    As torchvision's FrozenBatchNorm2d they have buffers of the same names, so that weights load as before, and neither
    `train` nor an optimizer changes them. A gain that begins at zero becomes one: it would never leave zero. Layers
    inserted between a backbone's blocks keep their norms.

    Args:
        module: the module; itself no norm.
        eps: of the constant norms; what each had if None.
        only: the norms that may be replaced; all if None.
    """
    for name, child in module.named_children():
        if _INSERTED in name:
            continue
        if not isinstance(child, _BatchNorm) or (only is not None and child not in only):
            freeze_norms(child, eps=eps, only=only)
            continue
        frozen: Any = freeze_batch_norm_2d(child)
        frozen.eps = frozen.eps if eps is None else eps
        if not frozen.weight.is_meta and not frozen.weight.any():
            frozen.weight.fill_(1.0)
        setattr(module, name, frozen)


def first_parts(body: Any, count: int) -> list[nn.Module]:
    """The parts of a `features_only` backbone up to the one that `frozen_stages` = `count` names."""
    if not count:
        return []
    children = dict(body.named_children())
    if "model" in children:  # a network as it is, whose maps are collected inside: ours are the transformers
        stages = [stage for stage in getattr(body.model, "stages", ()) if hasattr(stage, "embedding")]
        ends = [[stages[0].embedding], *([stage] for stage in stages)] if stages else []
    else:
        ends = _stages_in_turn(body)
    if count > len(ends):
        raise ValueError(f"frozen_stages must be from 0 to {len(ends)} for this backbone, got {count}")
    return [part for parts in ends[:count] for part in parts]


def _stages_in_turn(body: Any) -> list[list[nn.Module]]:
    """The parts of a network of timm's from one map to the next, as its modules follow each other; none where what
    makes a map is no module of its own."""
    told = list(body.feature_info.module_name())
    modules: dict[str, nn.Module] = {}
    for name, child in body.named_children():
        if any(one.startswith(f"{name}.") for one in told):  # EfficientNet's kin: stages within one module
            modules |= {f"{name}.{place}": part for place, part in child.named_children()}
        else:
            modules[name] = child
    order, last = list(modules), [name if name in modules else name.replace(".", "_") for name in told]
    if not set(last) <= set(order):
        return []
    if last[0].startswith(("stage", "layers")):  # what stands before the first stage is no map of its own
        last.insert(0, order[order.index(last[0]) - 1])
    stops = [0, *(order.index(name) + 1 for name in last)]
    return [[modules[name] for name in order[a:b]] for a, b in pairwise(stops)]
