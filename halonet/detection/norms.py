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
        names = list(children)
        last = [name.replace(".", "_") for name in body.feature_info.module_name()]
        if last[0].startswith(("stage", "layers")):  # what stands before the first stage is no map of its own
            last.insert(0, names[names.index(last[0]) - 1])
        stops = [0, *(names.index(name) + 1 if name in names else 0 for name in last)]
        ends = [[children[name] for name in names[a:b]] for a, b in pairwise(stops)]
    if count > len(ends):
        raise ValueError(f"frozen_stages must be from 0 to {len(ends)} for this backbone, got {count}")
    return [part for parts in ends[:count] for part in parts]
