"""The weights of PSMNet's authors, by the names that their networks have here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from halonet.models.checkpoints import counts_batches, key_faults
from halonet.models.psmnet import PSMNet
from halonet.models.psmnet_config import PsmnetConfig

_Name = Callable[[re.Match[str]], str]


def _numbered(template: str, *, first: int = 0, every: int = 1) -> _Name:
    """Our name of a part that the authors count from `first`, in steps of `every`; other groups follow as they are."""

    def name(match: re.Match[str]) -> str:
        return template.format((int(match[1]) - first) // every, *match.groups()[1:])

    return name


_HOURGLASS = {
    "conv1.0": "down1",
    "conv2": "mix1",
    "conv3.0": "down2",
    "conv4.0": "mix2",
    "conv5": "up1",
    "conv6": "up2",
}

# Modules of a convolution, which is their "0", and its norm, their "1".
_PAIRS: list[tuple[str, _Name]] = [
    (r"feature_extraction\.firstconv\.([024])", _numbered("feature_network.stem.{}", every=2)),
    (r"feature_extraction\.layer([1-4])\.(\d+)\.conv1\.0", _numbered("feature_network.clusters.{}.{}.conv1", first=1)),
    (r"feature_extraction\.layer([1-4])\.(\d+)\.conv2", _numbered("feature_network.clusters.{}.{}.conv2", first=1)),
    (
        r"feature_extraction\.layer([1-4])\.(\d+)\.downsample",
        _numbered("feature_network.clusters.{}.{}.shortcut", first=1),
    ),
    (r"feature_extraction\.branch(\d+)\.1", _numbered("feature_network.pyramid.branches.{}", first=1)),
    (r"feature_extraction\.lastconv\.0", lambda _: "feature_network.fuse.0"),
    (r"dres0\.([02])", _numbered("entry.{}", every=2)),
    (r"dres([1-4])\.0", _numbered("residuals.{}.0", first=1)),
    (r"dres([1-4])\.2", _numbered("residuals.{}.1", first=1)),
    (
        rf"dres([2-4])\.({'|'.join(map(re.escape, _HOURGLASS))})",
        lambda match: f"hourglasses.{int(match[1]) - 2}.{_HOURGLASS[match[2]]}",
    ),
    (r"classif([1-3])\.0", _numbered("heads.{}.0", first=1)),
    (r"classify\.0", lambda _: "heads.0.0"),
]
# Convolutions without a norm.
_ALONE: list[tuple[str, _Name]] = [
    (r"feature_extraction\.lastconv\.2", lambda _: "feature_network.fuse.1"),
    (r"classif([1-3])\.2", _numbered("heads.{}.1", first=1)),
    (r"classify\.2", lambda _: "heads.0.1"),
]


def convert_psmnet(state: Mapping[str, Tensor], *, config: PsmnetConfig | None = None) -> dict[str, Tensor]:
    """A state dict of the authors' public code (JiaRenChang/PSMNet) as one of ours.

    Weights trained in 2018 are meant for align_corners=True, those of 2021 for False, as their authors say.

    Args:
        state: of their "stackhourglass" or "basic", as `checkpoints.read_state_dict` gives it, of a .tar too, which is
            no archive; with or without "module." before the names. Counts of a norm's batches, which files of old
            torch have not, become 0.
        config: the network it is for, whose attention, if any, is left out; the published one with the head that the
            names tell if None.

    Returns:
        What `load_state_dict` of the same `PSMNet` takes; with strict=False one with attention takes it too.

    Raises:
        ValueError: names that are none of theirs, or tensors that are missing or of another shape; the message lists
            them.
    """
    given = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if config is None:
        config = PsmnetConfig(head="basic" if any(name.startswith("classify.") for name in given) else "hourglass")
    with torch.device("meta"):
        expected = PSMNet(replace(config, attention="none")).state_dict()
    converted: dict[str, Tensor] = {}
    for name, tensor in given.items():
        ours = our_psmnet_name(name)
        # What is not expected is told by the authors' own name.
        converted[ours if ours is not None and ours in expected else name] = tensor
    counts = {name: torch.zeros((), dtype=torch.long) for name in expected if counts_batches(name)}
    told = key_faults(converted, expected, optional=counts)
    if told:
        raise ValueError(f"weights must be of the authors' PSMNet ({config.head}); {told}")
    return {**counts, **converted}


def our_psmnet_name(name: str) -> str | None:
    """The name here of a tensor of the authors' networks; None of a name that is none of theirs."""
    module, _, leaf = name.rpartition(".")
    for pattern, ours in _ALONE:
        if leaf == "weight" and (match := re.fullmatch(pattern, module)):
            return f"{ours(match)}.{leaf}"
    module, _, part = module.rpartition(".")
    for pattern, ours in _PAIRS:
        if part in ("0", "1") and (match := re.fullmatch(pattern, module)):
            return f"{ours(match)}.{('conv', 'norm')[int(part)]}.{leaf}"
    return None
