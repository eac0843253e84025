"""timm's models with their halo and bottleneck attention computed by our op."""

from __future__ import annotations

import warnings
from typing import NamedTuple

from timm.layers.bottleneck_attn import BottleneckAttn
from timm.layers.halo_attn import HaloAttn
from torch import nn

from halonet.layers.timm_attention import TimmBottleneckAttention, TimmHaloAttention

REPLACEMENTS = {HaloAttn: TimmHaloAttention, BottleneckAttn: TimmBottleneckAttention}


class Accelerated(NamedTuple):
    """What `accelerate` gives back."""

    model: nn.Module
    num_replaced: int


def accelerate(model: nn.Module, *, backend: str = "auto") -> Accelerated:
    """Replaces every `HaloAttn` and `BottleneckAttn` of timm in a model, in place, by the same layer on our op.

        model, num_replaced = halonet.accelerate(timm.create_model("halonet50ts"))

    The parameters stay the ones they were, under the same names: optimizers made before keep working, and state dicts
    go back and forth. Outputs are equal to rounding, strided queries and unscaled position terms included.

    Args:
        model: any module; itself a layer of timm's, too. Subclasses of the two layers are left alone, as they may
            compute something else.
        backend: of the op; "auto" takes the fastest.

    Returns:
        The model (the same object, unless it was itself such a layer) and how many layers were replaced. Where there
        are none, a warning says so.

    Raises:
        ValueError: an unknown backend, or one that cannot take the calls, when the model runs.
    """
    if type(model) in REPLACEMENTS:
        return Accelerated(REPLACEMENTS[type(model)](model, backend=backend), 1)
    replaced: dict[nn.Module, nn.Module] = {}
    for path, child in list(model.named_modules(remove_duplicate=False)):
        if type(child) in REPLACEMENTS:
            if child not in replaced:  # a layer used in two places stays one layer
                replaced[child] = REPLACEMENTS[type(child)](child, backend=backend)
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, replaced[child])
    if not replaced:
        warnings.warn(f"{type(model).__name__} has no HaloAttn or BottleneckAttn of timm to replace", stacklevel=2)
    return Accelerated(model, len(replaced))
