"""A network of the skeleton begun from a trained ResNet: everything but what attention has replaced."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike

from torch import Tensor, nn

from halonet.models.checkpoints import HEAD, counts_batches, read_state_dict, some_of

# Names in torchvision's and timm's ResNets, and the same parts here. {s}: stage from 0, {b}: block.
_BLOCK = {
    "conv1": "reduce.conv",
    "bn1": "reduce.norm",
    "conv2": "slot",
    "bn2": "slot_norm.norm",
    "conv3": "expand.conv",
    "bn3": "expand.norm",
    "downsample.0": "shortcut.conv",
    "downsample.1": "shortcut.norm",
    "se.fc1": "squeeze_excite.fc1",
    "se.fc2": "squeeze_excite.fc2",
}
_TOP = {"conv1": "stem.conv.conv", "bn1": "stem.conv.norm", "fc": "head.fc"}
# Layers that a ResNet has not.
FRESH = re.compile(r"\.slot\.|_after_\d+\.|\.squeeze_excite\.")


@dataclass
class ResNetReport:
    """What began from the ResNet, by parameter name.

    loaded: here, from the ResNet.
    fresh: here, as initialized: replaced and inserted layers, and a classifier for other classes.
    unused: in the ResNet, without a place here.
    """

    loaded: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{len(self.loaded)} loaded, {len(self.fresh)} fresh, {len(self.unused)} of the ResNet unused"


def init_from_resnet(model: nn.Module, weights: Mapping[str, Tensor] | str | PathLike[str]) -> ResNetReport:
    """Loads a ResNet or SENet of torchvision or timm into a model of the same depths, as BoTNet's detectors began.

    Convolutions, norms and shortcuts take the ResNet's values, the norm behind a replaced convolution included; layers
    that replace a convolution, or are inserted, stay as they are (BoTNet, footnote 6), as does a classifier for another
    number of classes. ResNets v1.5, which stride in the 3x3, compute the same here.

    Args:
        model: of `halonet.create_model`, such as "botnet50_1024".
        weights: the ResNet's state dict, or a file of it: safetensors, or what torch.save wrote.

    Raises:
        ValueError: the file cannot be read, or the ResNet is of other depths or widths; the message lists what.
    """
    state = weights if isinstance(weights, Mapping) else read_state_dict(weights)
    own, report = model.state_dict(), ResNetReport()
    fitted: dict[str, Tensor] = {}
    for name, tensor in state.items():
        ours = our_name(name)
        if ours in own and own[ours].shape == tensor.shape:
            fitted[ours] = tensor
            report.loaded.append(ours)
        else:
            report.unused.append(name)
    report.fresh = [name for name in own if name not in fitted]
    faults = [name for name in report.fresh if not (name in HEAD or FRESH.search(name) or counts_batches(name))]
    if faults or not fitted:
        named = some_of(faults)
        raise ValueError(f"weights must be of a ResNet with the model's depths and widths, got none for {named}")
    model.load_state_dict(fitted, strict=False)
    return report


def our_name(name: str) -> str:
    """The name here of a parameter of a ResNet; names that are none of a ResNet's come back as they are."""
    module, _, leaf = name.rpartition(".")
    if module in _TOP:
        return f"{_TOP[module]}.{leaf}"
    match = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)", module)
    if match and match[3] in _BLOCK:
        return f"stages.{int(match[1]) - 1}.{match[2]}.{_BLOCK[match[3]]}.{leaf}"
    return name
