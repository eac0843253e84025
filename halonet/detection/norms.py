"""Batch norms of a detector: their momentum and epsilon, frozen ones, and parts of a backbone that do not learn."""

from __future__ import annotations

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
    body = model.backbone.backbone  # type: ignore[union-attr]
    if config.norm == "batch":
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eps, module.momentum = config.norm_eps, 1 - config.norm_momentum
    if config.norm == "frozen":
        freeze_norms(body, eps=config.norm_eps)
    for part in first_parts(body, config.frozen_stages):  # type: ignore[arg-type]
        part.requires_grad_(False)
        freeze_norms(part, eps=None if config.norm == "none" else config.norm_eps)


def freeze_norms(module: nn.Module, *, eps: float | None = None) -> None:
    """Replaces the batch norms below a module by constants, statistics and gain and shift alike.

    As torchvision's FrozenBatchNorm2d they have buffers of the same names, so that weights load as before, and neither
    `train` nor an optimizer changes them. A gain that begins at zero becomes one: it would never leave zero. Layers
    inserted between a backbone's blocks keep their norms.

    Args:
        module: the module; itself no norm.
        eps: of the constant norms; what each had if None.
    """
    for name, child in module.named_children():
        if _INSERTED in name:
            continue
        frozen = freeze_batch_norm_2d(child) if isinstance(child, _BatchNorm) else child
        if frozen is child:
            freeze_norms(child, eps=eps)
            continue
        frozen.eps = frozen.eps if eps is None else eps
        if not frozen.weight.is_meta and not frozen.weight.any():
            frozen.weight.fill_(1.0)
        setattr(module, name, frozen)


def first_parts(body: nn.Module, count: int) -> list[nn.Module]:
    """The parts of a `features_only` backbone up to the one that `frozen_stages` = `count` names."""
    if not count:
        return []
    info = body.feature_info
    if hasattr(body, "model"):  # all of a network, whose maps are collected inside: ours are the transformers
        stages = list(getattr(body.model, "stages", ()))
        if not stages or not hasattr(stages[0], "embedding"):
            raise ValueError("frozen_stages must be 0 for a backbone whose parts are not in a row")
        parts, limit = [stages[0].embedding, *stages[: count - 1]], len(stages) + 1
    else:
        children = list(body.named_children())
        ends = [name.replace(".", "_") for name in info.module_name()]  # type: ignore[operator, union-attr]
        if info.reduction()[0] < 4:  # type: ignore[operator, union-attr]
            limit = len(ends)
        else:  # what stands before the first stage is no map of its own
            ends, limit = ["", *ends], len(ends) + 1
        names = [name for name, _ in children]
        stop = 0 if not ends[min(count, limit) - 1] else names.index(ends[min(count, limit) - 1]) + 1
        if count == 1 and not stop:
            stop = names.index(ends[1])
        parts = [child for _, child in children[:stop]]
    if count > limit:
        raise ValueError(f"frozen_stages must be from 0 to {limit} for this backbone, got {count}")
    return parts
