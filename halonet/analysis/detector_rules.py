"""The ways of counting behind the published sizes of detectors, found by calculation; none counts all that runs.

What papers print of detectors comes from tools that count a part of the network on an image of their own, and each
counts something else. A rule here is what reproduces the printed digits, not what a paper says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d

from halonet.analysis.cost import Count, count_costs
from halonet.analysis.detector_cost import DetectorPass, part_of
from halonet.detection import create_detector, detector_config
from halonet.detection.config import DetectorConfig
from halonet.layers import (
    FullAttention,
    GlobalAttention,
    LongformerAttention,
    PerformerAttention,
    SpatialReductionAttention,
    TokenAttention,
)
from halonet.models import create_model, list_models, model_config

CATEGORIES = 80  # of COCO
CLASSIFIER = 1000  # classes of the one that the backbone brings from ImageNet
PROPOSALS = 1000
VIL_TABLES = 1333  # side of the image that absolute positions are for


@dataclass(frozen=True)
class Rule:
    """A way of counting.

    what: in words.
    count: parameters and "multiply-adds" of a row by it.
    cuts: whether multiply-adds are printed cut off after their last digit, not rounded.
    """

    what: str
    count: Callable[[str], Count]
    cuts: bool = False


def ruled_cost(row: str, rule: str) -> Count:
    """What a rule counts of a row.

    Args:
        row: of DETECTORS.
        rule: of RULES.

    Raises:
        ValueError: an unknown row or rule.
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    return RULES[rule].count(row)


def printed(value: float, like: float, *, cuts: bool = False) -> float:
    """A value with as many decimals as a printed figure has.

    cuts: whether the rest is cut off, not rounded.
    """
    decimals = len(repr(like).partition(".")[2]) if isinstance(like, float) else 0
    return math.floor(value * 10**decimals) / 10**decimals if cuts else round(value, decimals)


def _by_botnet(row: str) -> Count:
    """The backbone by BoTNet's convention, with the classifier's parameters."""
    config = detector_config(row)
    with torch.device("meta"):
        model = create_model(config.backbone, **config.backbone_options)
    size = config.min_size[-1]
    cost = count_costs(model, input_size=(3, size, size))
    whole, head = (cost.total(convention="botnet", under=under) for under in ("", "head"))
    return Count(whole.parameters, whole.multiply_adds - head.multiply_adds)


def _by_mmdetection(row: str) -> Count:
    # With the backbone's own norms, whose gains learn, outside the parts that do not.
    detector = _detector(detector_config(row, norm="none"))
    parameters = sum(parameter.numel() for parameter in detector.parameters() if parameter.requires_grad)
    return Count(parameters, _counted(detector, (800, 1280), _every_operation))


def _by_vil(row: str) -> Count:
    config = detector_config(row, norm="none", frozen_stages=0)
    # The tables of relative positions are not in the printed parameters, but those of absolute ones, of a larger image.
    options = {**config.backbone_options, "position": "absolute", "img_size": VIL_TABLES}
    detector = _detector(replace(config, backbone_options=options))
    parameters = sum(parameter.numel() for parameter in detector.parameters())
    for layer in detector.modules():
        if isinstance(layer, SpatialReductionAttention) and layer.reduction == 1:
            parameters -= layer.dim**2  # full attention there, without a convolution
    return Count(parameters + _classifier(config), _counted(detector, (800, 1344), _vil_operation))


def _detector(config: DetectorConfig) -> nn.Module:
    """The detector with the heads that tools count: of 80 classes, where ours judge the background as well."""
    outputs = CATEGORIES + (config.kind != "retinanet")
    name = f"{config.kind}/{config.backbone}"
    given = {key: value for key, value in vars(config).items() if key not in ("kind", "backbone", "source")}
    with torch.device("meta"):
        detector = create_detector(name, **{**given, "num_classes": outputs})
        if config.kind != "retinanet":
            heads: Any = detector.roi_heads
            heads.box_predictor = _Predictor(config.fc_dim)
            if config.kind == "maskrcnn":
                heads.mask_predictor.mask_fcn_logits = nn.Conv2d(config.mask_channels, CATEGORIES, 1)
    return detector


class _Predictor(FastRCNNPredictor):
    """Detectron's: boxes of the 80 classes alone."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, CATEGORIES + 1)
        self.bbox_pred = nn.Linear(channels, 4 * CATEGORIES)


def _classifier(config: DetectorConfig) -> int:
    """Parameters that a transformer has as a classifier and not as a backbone: the last norm and the head."""
    if config.backbone not in list_models():
        return 0
    width = model_config(config.backbone).stages[-1].width  # type: ignore[union-attr]
    return 2 * width + (width + 1) * CLASSIFIER


def _counted(detector: nn.Module, size: tuple[int, int], operation: Callable[..., int]) -> int:
    """What one pass over an image of `size` does, the heads of an R-CNN as far as the rule counts them.

    operation: takes a module, its part, its inputs and its output.
    """
    total = 0
    inside: set[str] = set()  # of attention layers that are counted as a whole
    handles = []

    def watch(module: nn.Module, part: str | None) -> None:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            nonlocal total
            total += operation(module, part, inputs, output)

        handles.append(module.register_forward_hook(hook))

    for name, module in detector.named_modules():
        if any(name.startswith(whole) for whole in inside):
            continue
        if isinstance(module, TokenAttention):
            inside.add(f"{name}.")
        if isinstance(module, TokenAttention) or not list(module.children()):
            watch(module, part_of(detector, name))
    detector.eval()
    try:
        with torch.no_grad():
            one_pass = DetectorPass(detector, proposals=PROPOSALS, detections=1)
            one_pass(torch.empty(1, 3, *size, device="meta"))
    finally:
        for handle in handles:
            handle.remove()
    return total


def _products(module: nn.Module, output: Tensor) -> int:
    if isinstance(module, nn.Conv2d):
        return output.numel() * math.prod(module.kernel_size) * module.in_channels // module.groups
    return output.numel() * module.in_features if isinstance(module, nn.Linear) else 0


def _every_operation(module: nn.Module, part: str | None, inputs: tuple[Any, ...], output: Any) -> int:
    """As mmcv's counter: products, biases, two a value of a norm, one of a ReLU's and of those that are pooled."""
    if part in ("box head", "mask head"):
        return 0
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        return _products(module, output) + (output.numel() if module.bias is not None else 0)
    if isinstance(module, (nn.BatchNorm2d, FrozenBatchNorm2d)):
        return 2 * output.numel()
    if isinstance(module, nn.ReLU):
        return output.numel()
    return inputs[0].numel() if isinstance(module, nn.MaxPool2d) else 0


def _vil_operation(module: nn.Module, part: str | None, inputs: tuple[Any, ...], output: Any) -> int:
    """As Vision Longformer's public counter: convolutions with biases, linear layers without, a RetinaNet's ReLUs."""
    if part == "mask head":
        return 0
    if isinstance(module, TokenAttention):
        return _vil_attention(module, inputs[0].shape, inputs[1])
    if isinstance(module, nn.Conv2d):
        return _products(module, output) + (output.numel() if module.bias is not None else 0)
    if isinstance(module, nn.ReLU):
        return output.numel() if part == "dense head" else 0
    return _products(module, output)


def _vil_attention(layer: TokenAttention, shape: torch.Size, size: tuple[int, int]) -> int:
    """A layer's own counter there, of shape (1, T, C). A local layer's has channels where tokens are meant."""
    tokens, channels, extra = shape[1], layer.dim, layer.num_global
    projections = 4 * (channels**2 + channels) * tokens
    if isinstance(layer, FullAttention):
        return 2 * tokens**2 * channels + projections
    if isinstance(layer, LongformerAttention):
        side = layer.window // 2
        queries = channels - extra
        return 2 * channels * (queries * (9 * side**2 + extra) + extra * tokens) + projections
    if isinstance(layer, GlobalAttention):
        return 2 * channels * ((channels - extra) * extra + extra * tokens) + projections
    if isinstance(layer, SpatialReductionAttention):
        reduced = size[0] // layer.reduction * size[1] // layer.reduction
        keys = tokens - math.prod(size) + reduced
        ends = 2 * (channels**2 + channels) * (tokens + keys)
        reduced = 0 if layer.reduction == 1 else reduced  # no convolution
        return ends + reduced * layer.reduction**2 * channels**2 + 2 * tokens * keys * channels
    assert isinstance(layer, PerformerAttention)
    heads, features = layer.num_heads, layer.num_features
    mapped = 2 * (features * channels + 2 * channels + 2 * heads * features)
    return tokens * (mapped + 2 * heads * features + 3 * features * channels + 4 * channels**2)


RULES: dict[str, Rule] = {
    "botnet": Rule(
        "the backbone alone, multiply-adds without its classifier and cut off after the last digit; weights of "
        "convolutions and linear layers, the classifier's too",
        _by_botnet,
        cuts=True,
    ),
    "mmdetection": Rule(
        "one image of 800x1280; multiply-adds, and beside them biases, two for each value of a norm, one for each of a "
        "ReLU and of a pooling; an R-CNN's box and mask heads are left out; parameters that learn, with stem and first "
        "stage frozen",
        _by_mmdetection,
    ),
    "vil": Rule(
        "one image of 800x1344; a window's products with channels counted where tokens are meant, as in the public "
        "code, with 441 keys; biases of convolutions and of attention; a RetinaNet's ReLUs; the box head on 1000 boxes "
        "and no mask head; parameters with the classifier of 1000 classes that is not used, and with the tables of "
        "absolute positions of an image of 1333x1333 in place of those of relative ones",
        _by_vil,
    ),
}
