"""What layers of a model read, seen while it runs once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from halonet.ops.precision import without_autocast

Seen = TypeVar("Seen")


def at_layers(
    model: nn.Module,
    images: Tensor,
    kinds: type[nn.Module] | tuple[type[nn.Module], ...],
    look: Callable[..., Seen],
    *,
    run: Callable[[Tensor], object] | None = None,
) -> list[tuple[str, Seen]]:
    """What `look` makes of every layer of some kinds and of what that layer reads.

    Args:
        model: run in evaluation mode, without gradients and autocast, and left as it was.
        images: what it is run on.
        kinds: classes of the layers.
        look: called with the layer and the arguments of its forward, just before it runs.
        run: called with the images instead of the model, for a model whose own forward wants more.

    Returns:
        (name of the layer, what `look` returned), in the order of running, once a call of the layer.
    """
    found: list[tuple[str, Seen]] = []

    def keep(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            found.append((name, look(layer, *inputs, *named.values())))

        return hook

    training = {module: module.training for module in model.modules()}
    with ExitStack() as stack, torch.inference_mode(False), torch.no_grad():
        stack.enter_context(without_autocast(images.device.type))  # else a layer might read another dtype than it has
        if "torch._dynamo" in sys.modules:  # else nothing is compiled; a compiled model would run without the hooks
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for name, layer in model.named_modules():
            if isinstance(layer, kinds):
                stack.callback(layer.register_forward_pre_hook(keep(name), with_kwargs=True).remove)
        try:
            model.eval()
            (run or model)(images.clone())  # a clone is a normal tensor even where they were made in inference mode
        finally:
            for module, mode in training.items():
                module.training = mode
    return found
