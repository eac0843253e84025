"""Which parameters are decayed."""

from typing import Any

from torch import nn


def parameter_groups(model: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for an optimizer: decayed and not.

    Not decayed: everything with fewer than two dimensions (the scales and shifts of norms, biases) and the
    names that `no_weight_decay()` of the model, or of a network within it, returns (position tables). Parameters that
    need no gradient are left out. An empty group is dropped.
    """
    exceptions = _exceptions(model)
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (kept if parameter.ndim < 2 or name in exceptions else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _exceptions(model: nn.Module) -> set[str]:
    """Names of position tables and the like."""
    names: set[str] = set()
    for prefix, module in model.named_modules():
        listed: Any = getattr(module, "no_weight_decay", None)
        if callable(listed):
            names |= {f"{prefix}.{name}" if prefix else name for name in listed()}
    # A backbone of a detector may be a network taken apart, which no longer tells.
    return names | {name for name, _ in model.named_parameters() if name.endswith("_table")}
