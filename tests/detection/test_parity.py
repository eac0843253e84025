"""torchvision's own detectors, restated by ours: the same weights give the same answers and the same losses."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import (
    FasterRCNN,
    MaskRCNN,
    RetinaNet,
    fasterrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn,
    retinanet_resnet50_fpn,
)
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.ops.misc import FrozenBatchNorm2d

from halonet.detection import convert_torchvision, create_detector

BUILDERS = {
    "maskrcnn": maskrcnn_resnet50_fpn,
    "fasterrcnn": fasterrcnn_resnet50_fpn,
    "retinanet": retinanet_resnet50_fpn,
}
SIZE = {"min_size": 64, "max_size": 96}
FEW = {f"rpn_{when}_nms_top_n_{mode}": 100 for when in ("pre", "post") for mode in ("train", "test")}


def scenes(dtype: torch.dtype) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Two images of different sizes, the second with a thin object."""
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(3, *size, generator=generator).to(dtype) for size in ((96, 128), (128, 160))]
    boxes = [[[10.0, 12.0, 60.0, 80.0], [50.0, 5.0, 120.0, 70.0]], [[20.0, 30.0, 28.0, 110.0]]]
    targets = []
    for image, corners in zip(images, boxes, strict=True):
        masks = torch.zeros(len(corners), *image.shape[1:], dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, corners, strict=True):
            mask[int(top) : int(bottom), int(left) : int(right)] = 1
        labels = torch.arange(1, len(corners) + 1)
        targets.append({"boxes": torch.tensor(corners, dtype=dtype), "labels": labels, "masks": masks})
    return images, targets


def vary(model: nn.Module) -> None:
    """Weights under which answers differ: norms unlike each other, scores far from even, boxes that move."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            for name, low, high in (("weight", 0.3, 0.6), ("bias", -0.1, 0.1), ("running_mean", -0.1, 0.1)):
                getattr(module, name).data.uniform_(low, high)
            module.running_var.uniform_(0.5, 1.5)
    for name, parameter in model.named_parameters():
        if name.endswith(("cls_logits.weight", "bbox_pred.weight", "cls_score.weight", "bbox_reg.weight")):
            parameter.data.normal_(std=0.05)


def reference(kind: str, *, frozen: bool) -> nn.Module:
    """torchvision's model; frozen: as it is when it is built with published weights, its norms constants."""
    options = SIZE if kind == "retinanet" else {**SIZE, **FEW}
    if not frozen:
        return BUILDERS[kind](weights=None, weights_backbone=None, num_classes=5, **options)
    body: Any = partial(resnet_fpn_backbone, backbone_name="resnet50", weights=None, trainable_layers=3)
    if kind == "retinanet":
        return RetinaNet(body(returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256)), 5, **options)
    return (MaskRCNN if kind == "maskrcnn" else FasterRCNN)(body(), 5, **options)


def pair(kind: str, *, frozen: bool, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    theirs = reference(kind, frozen=frozen)
    vary(theirs)
    options = {"norm": "frozen"} if frozen else {"norm": "none", "frozen_stages": 0}
    answers = {"box_score_thresh": 0.01, "detections_per_img": 20}
    ours = create_detector(f"{kind}_resnet50_torchvision", num_classes=5, **SIZE, **FEW, **options, **answers)
    if kind == "retinanet":  # as in a trained one: background is no answer of torchvision's either
        theirs.head.classification_head.cls_logits.bias.data.unflatten(0, (-1, 5))[:, 0] = -100
    deciding = theirs if kind == "retinanet" else theirs.roi_heads
    deciding.score_thresh, deciding.detections_per_img = 0.01, 20
    ours.load_state_dict(convert_torchvision(theirs.state_dict()))
    return ours.to(dtype), theirs.to(dtype)


def check(kind: str, *, frozen: bool, dtype: torch.dtype) -> None:
    """Answers, losses and every gradient; tolerances: none, as the same operations run on the same numbers."""
    ours, theirs = pair(kind, frozen=frozen, dtype=dtype)
    images, targets = scenes(dtype)
    with torch.no_grad():
        for one, other in zip(ours.eval()(images), theirs.eval()(images), strict=True):
            assert len(other["boxes"]) > 10
            assert set(one) == set(other)
            for name in other:
                torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)
    losses = {}
    for name, model in (("ours", ours), ("theirs", theirs)):
        torch.manual_seed(3)  # of the samplers
        losses[name] = model.train()(images, targets)
        sum(losses[name].values()).backward()
    assert losses["ours"] == losses["theirs"]
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    expected = convert_torchvision({name: parameter.grad for name, parameter in theirs.named_parameters()})
    assert set(gradients) | {name for name in expected if "norm" in name} == set(expected)
    for name, gradient in gradients.items():
        assert (gradient is None) == (expected[name] is None)
        if gradient is not None:
            torch.testing.assert_close(gradient, expected[name], rtol=0, atol=0)


def test_torchvisions_mask_rcnn_with_frozen_norms() -> None:
    check("maskrcnn", frozen=True, dtype=torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
@pytest.mark.parametrize("kind", BUILDERS)
def test_torchvisions_detectors(kind: str, frozen: bool, dtype: torch.dtype) -> None:
    check(kind, frozen=frozen, dtype=dtype)


@pytest.mark.parametrize("kind", BUILDERS)
def test_the_layout_of_published_files(kind: str) -> None:
    """Before torchvision 0.13: convolutions without a number of their own, and no counts of batches."""
    with torch.device("meta"):
        state = BUILDERS[kind](weights=None, weights_backbone=None).state_dict()
        ours = create_detector(f"{kind}_resnet50_torchvision").state_dict()
    old = {}
    for name, tensor in state.items():
        name = re.sub(r"(fpn\.\w+_blocks\.\d|rpn\.head\.conv)(\.0)?\.0\.(weight|bias)", r"\1.\3", name)
        name = re.sub(r"mask_head\.(\d)\.0", lambda match: f"mask_head.mask_fcn{int(match[1]) + 1}", name)
        name = re.sub(r"_head\.conv\.(\d)\.0", lambda match: f"_head.conv.{2 * int(match[1])}", name)
        if not name.endswith("num_batches_tracked"):
            old[name] = tensor
    assert len(set(old) - set(state)) > 10
    converted = convert_torchvision(old)
    assert {name: tensor.shape for name, tensor in converted.items()} == {
        name: tensor.shape for name, tensor in ours.items()
    }


def test_names_that_are_not_torchvisions_are_told() -> None:
    with pytest.raises(ValueError, match="of torchvision on a ResNet with a pyramid, got"):
        convert_torchvision({"backbone.body.features.0.0.weight": torch.zeros(1)})
