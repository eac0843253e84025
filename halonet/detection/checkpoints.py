"""Weights of detectors: their files, backbones begun from trained classifiers, and torchvision's by our names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

from torch import Tensor, nn

from halonet.detection.build import create_detector
from halonet.models.checkpoints import (
    DETECTION,
    LoadReport,
    counts_batches,
    key_faults,
    read_metadata,
    read_state_dict,
    read_weights,
    resized,
    save_weights,
    some_of,
)
from halonet.models.resnet_weights import FRESH, our_name

# Layers whose size is the number of classes.
_OF_CLASSES = re.compile(r"\.(cls_score|box_predictor\.bbox_pred|mask_fcn_logits|classification_head\.cls_logits)\.")
# Of a classifier, what no detector has a place for: its head, and convolutions that attention has replaced.
_UNUSED = re.compile(r"^(head|fc|final_conv|norm|classifier|conv_head|bn2)\b|\.slot\.|\.squeeze_excite\.")
_BACKBONE = "backbone.backbone."


@dataclass
class BackboneReport:
    """What a detector's backbone began from, by the names of the classifier's parameters.

    loaded: as they are in the file.
    resized: position tables, interpolated to the detector's.
    fresh: of the backbone, as initialized: replaced and inserted layers.
    unused: of the file, without a place in the backbone: its classifier, and what was replaced.
    """

    loaded: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = {name: len(getattr(self, name)) for name in ("loaded", "resized", "fresh", "unused")}
        return ", ".join(f"{count} {name}" for name, count in counts.items())


def save_detector(model: nn.Module, path: str | PathLike[str], *, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a detector's weights as safetensors, with its name and options, so that `load_detector` can rebuild it.

    Args:
        model: of `create_detector`.
        path: file to write; written beside and renamed.
        metadata: further text to keep with the weights.

    Raises:
        OSError: the file cannot be written; an older one is as it was.
    """
    save_weights(model, path, metadata={"task": DETECTION, **(metadata or {})})


def load_detector(path: str | PathLike[str], **overrides: Any) -> tuple[nn.Module, dict[str, str]]:
    """Rebuilds the detector a file of `save_detector` was written from, with its weights.

    Args:
        path: the file.
        overrides: options of `create_detector` that are to differ. With other `num_classes` the layers of that size are
            as initialized.

    Returns:
        The detector, and the file's metadata.

    Raises:
        ValueError: the file is none of a detector, or does not fit.
    """
    metadata = read_metadata(path)
    if metadata.get("task") != DETECTION or "model" not in metadata or "arguments" not in metadata:
        raise ValueError(f"{path} does not hold a detector; was it written by save_detector?")
    arguments = json.loads(metadata["arguments"])
    options = {"backbone_options": {}, **arguments}["backbone_options"] | dict(overrides.pop("backbone_options", {}))
    model = create_detector(metadata["model"], **{**arguments, **overrides, "backbone_options": options})
    load_detector_weights(model, path)
    return model, metadata


def category_names(metadata: Mapping[str, str]) -> list[str] | None:
    """Names of the categories that weights of `halonet fit` were trained on, in the order of their labels; None for
    weights that tell none."""
    told = metadata.get("categories")
    return None if told is None else [category["name"] for category in json.loads(told)]


def load_detector_weights(model: nn.Module, path: str | PathLike[str], *, other_classes: bool = False) -> LoadReport:
    """Loads a file of `save_detector` into a detector that may differ in image size or number of classes.

    Position tables of another length are interpolated; layers of another number of classes are left as the model has
    them, and told as `replaced`.

    other_classes: those layers are left so though they are as many: the file's classes are not the model's.

    Raises:
        ValueError: the file is missing or damaged, or anything else does not fit; the message lists the keys.
    """
    state, metadata = read_weights(path)
    own, report, fitted = model.state_dict(), LoadReport(), {}
    for name, tensor in state.items():
        differs = name in own and (other_classes or own[name].shape != tensor.shape)
        if differs and _OF_CLASSES.search(name):
            report.replaced.append(name)
            continue
        fitted[name] = resized(name, tensor, own[name].shape) if name in own else tensor
        (report.loaded if fitted[name] is tensor else report.resized).append(name)
    told = key_faults(fitted, own, optional=report.replaced)
    if told:
        saved = metadata.get("model", "another model")
        raise ValueError(f"weights in {path} (of {saved}) are not of {getattr(model, 'model_name', 'this')}; {told}")
    model.load_state_dict(fitted, strict=False)
    return report


def init_backbone(model: nn.Module, weights: Mapping[str, Tensor] | str | PathLike[str]) -> BackboneReport:
    """Begins a detector's backbone from a trained classifier.

    Takes the weights of a model of ours, also of one with other attention in some layers, and for residual backbones
    those of a ResNet of torchvision or timm: layers that replace a convolution, or are inserted, stay as initialized
    (BoTNet, footnote 6). Position tables of another length are interpolated: Vision Longformer's biases bilinearly,
    those of full attention in its last stages too (section 4.3), HaloNet's and BoTNet's tables linearly.

    Args:
        model: of `create_detector`.
        weights: the classifier's state dict, or a file of it: safetensors, or what torch.save wrote. A file of a
            detector gives its backbone.

    Raises:
        ValueError: the file cannot be read, or holds another network; the message lists what is missing or left over.
    """
    state = dict(weights) if isinstance(weights, Mapping) else read_state_dict(weights)
    if any(name.startswith(_BACKBONE) for name in state):
        inside = {name: tensor for name, tensor in state.items() if name.startswith(_BACKBONE)}
        state = {_classifier_name(name.removeprefix(_BACKBONE)): tensor for name, tensor in inside.items()}
    body: Any = model.backbone.backbone  # type: ignore[union-attr]
    own = {_classifier_name(name): name for name in body.state_dict()}
    if "stem.conv.conv.weight" in own:
        state = {our_name(name): tensor for name, tensor in state.items()}
    expected, report, fitted = body.state_dict(), BackboneReport(), {}
    for name, tensor in state.items():
        target = own.get(name)
        fit = tensor if target is None else resized(name, tensor, expected[target].shape)
        if target is None or fit.shape != expected[target].shape:
            report.unused.append(name)
            continue
        fitted[target] = fit
        (report.loaded if fit is tensor else report.resized).append(name)
    report.unused = [name for name in report.unused if not counts_batches(name)]
    report.fresh = [name for name, target in own.items() if target not in fitted and not counts_batches(name)]
    missing = [name for name in report.fresh if not FRESH.search(name)]
    beyond = [name for name in report.unused if not _UNUSED.search(name)]
    if missing or beyond or not fitted:
        told = f"{len(missing)} missing: {some_of(missing)}" if missing else f"unexpected: {some_of(beyond)}"
        raise ValueError(f"weights must be of the classifier of {_described(model)} or of a ResNet like it; {told}")
    body.load_state_dict(fitted, strict=False)
    return report


def _described(model: nn.Module) -> str:
    return str(getattr(getattr(model, "config", None), "backbone", "the backbone"))


def _classifier_name(name: str) -> str:
    """The name in a whole network of a parameter in its `features_only` form: stages_0.… of stages.0.…"""
    return re.sub(r"^([A-Za-z]+)_(\d+)\.", r"\1.\2.", name.removeprefix("model."))


# torchvision's names, those of its first files too, and ours.
_TORCHVISION = (
    (r"backbone\.fpn\.(inner|layer)_blocks\.(\d+)\.(weight|bias)", r"backbone.pyramid.\1_blocks.\2.0.\3"),
    (r"backbone\.fpn\.(.+)", r"backbone.pyramid.\1"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
)


def convert_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of torchvision's Faster R-CNN, Mask R-CNN or RetinaNet on a ResNet with a pyramid, as one of ours.

    Takes what its models of today write and the older layout of its published files. Those of fasterrcnn_, maskrcnn_
    and retinanet_resnet50_fpn are meant for an epsilon of 0 in the frozen norms, which torchvision sets when it loads
    them: load them into "maskrcnn_resnet50_torchvision" and its kin with `norm_eps=0.0`.

    Args:
        state: by torchvision's names.

    Returns:
        What `load_state_dict` of the row "KIND_resnet50_torchvision" takes.

    Raises:
        ValueError: a name that is none of theirs.
    """
    return {_our_detector_name(name): tensor for name, tensor in state.items()}


def _our_detector_name(name: str) -> str:
    """The name here of a tensor of torchvision's detectors."""
    if name.startswith("backbone.body."):
        theirs = name.removeprefix("backbone.body.")
        ours = our_name(theirs)
        if ours != theirs:
            return _BACKBONE + re.sub(r"^stages\.", "stages_", ours)
    for pattern, ours in _TORCHVISION:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, ours, name)
    if match := re.fullmatch(r"roi_heads\.mask_head\.mask_fcn(\d)\.(\w+)", name):
        return f"roi_heads.mask_head.{int(match[1]) - 1}.0.{match[2]}"
    if match := re.fullmatch(r"(head\.\w+_head\.conv)\.([0246])\.(weight|bias)", name):
        return f"{match[1]}.{int(match[2]) // 2}.0.{match[3]}"
    if name.startswith(("rpn.head.", "roi_heads.", "head.classification_head.", "head.regression_head.")):
        return name
    raise ValueError(f"state must be of a detector of torchvision on a ResNet with a pyramid, got {name!r}")
