"""Which parameters are decayed."""

from typing import Any

from torch import nn


def parameter_groups(model: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for an optimizer: decayed and not.

    Not decayed: everything with fewer than two dimensions (the scales and shifts of norms, biases) and the
    names that the model's own `no_weight_decay()` returns (position tables). Parameters that need no gradient
    are left out. An empty group is dropped.
    """
    list_exceptions = getattr(model, "no_weight_decay", None)
    exceptions: set[str] = set(list_exceptions()) if list_exceptions is not None else set()
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
