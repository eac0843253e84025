"""Which parameters are decayed, and which learn at what rate."""

from collections.abc import Mapping
from typing import Any

from timm.models import group_parameters
from torch import nn


def parameter_groups(
    model: nn.Module, *, weight_decay: float, shares: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Groups for an optimizer: decayed and not, of each share of the learning rate, the largest share first.

    Not decayed: everything with fewer than two dimensions (the scales and shifts of norms, biases) and the
    names that `no_weight_decay()` of the model, or of a network within it, returns (position tables). Parameters that
    need no gradient are left out.

    shares: of the learning rate, by name, see `layer_shares`; "share" of a group is 1 without.
    """
    exceptions = _exceptions(model)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decayed = not (parameter.ndim < 2 or name in exceptions)
            groups.setdefault((1.0 if shares is None else shares[name], decayed), []).append(parameter)
    return [
        {"params": groups[share, decayed], "weight_decay": weight_decay if decayed else 0.0, "share": share}
        for share, decayed in sorted(groups, reverse=True)
    ]


def layer_shares(model: nn.Module, layer_decay: float) -> dict[str, float]:
    """Share of the learning rate of each parameter, by name: 1 in the classifier, `layer_decay` times the next layer's
    in every other, as `group_matcher()` of the model tells layers (timm's interface): stem and blocks.

    Raises:
        ValueError: a model that does not tell.
    """
    matcher: Any = getattr(model, "group_matcher", None)
    if not callable(matcher):
        raise ValueError(f"optim.layer_decay: {type(model).__name__} does not tell its layers; leave it at 1")
    layers: dict[str, int] = group_parameters(model, matcher(), reverse=True)
    last = max(layers.values())
    return {name: float(layer_decay) ** (last - layer) for name, layer in layers.items()}


def freeze(model: nn.Module) -> None:
    """What `layer_decay` 0 means: parameters outside the classifier need no gradient."""
    shares = layer_shares(model, 0.0)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(shares[name] > 0)


def _exceptions(model: nn.Module) -> set[str]:
    """Names of position tables and the like."""
    names: set[str] = set()
    for prefix, module in model.named_modules():
        listed: Any = getattr(module, "no_weight_decay", None)
        if callable(listed):
            names |= {f"{prefix}.{name}" if prefix else name for name in listed()}
    # A backbone of a detector may be a network taken apart, which no longer tells.
    return names | {name for name, _ in model.named_parameters() if name.endswith("_table")}
