"""Weights of detectors: files that rebuild them, and backbones begun from trained classifiers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import halonet
from halonet.detection import create_detector, detector_config, init_backbone, load_detector, save_detector
from halonet.detection.checkpoints import load_detector_weights
from halonet.models.checkpoints import save_weights
from halonet.ops import resize_bias

NANO = "maskrcnn_halo_nano_128"
# Heads that take no time.
LIGHT = {"fpn_channels": 16, "fc_dim": 16, "box_convs": 0, "num_classes": 3}


def nano(**options: Any) -> Any:
    torch.manual_seed(0)
    return create_detector(NANO, **{"num_classes": 3, **options})


def varied(model: nn.Module) -> nn.Module:
    """Norms and tables unlike those of any other model."""
    torch.manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean)
    return model


def test_a_file_rebuilds_the_detector(tmp_path: Path) -> None:
    model, path = varied(nano(detections_per_img=7, min_size=(96,))), tmp_path / "detector.safetensors"
    save_detector(model, path, metadata={"score": "0.25"})
    loaded, metadata = load_detector(path)
    assert metadata["task"] == "detection"
    assert metadata["model"] == NANO
    assert metadata["score"] == "0.25"
    assert loaded.config == model.config
    expected = model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    image = torch.rand(3, 80, 100)
    with torch.no_grad():
        one, other = loaded.eval()([image])[0], model.eval()([image])[0]
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_a_detector_by_kind_and_backbone_comes_back_too(tmp_path: Path) -> None:
    options = {"backbone_options": {"drop_path_rate": 0.1, "window": 7}, "anchor_ratios": (1.0,), **LIGHT}
    model = create_detector("retinanet", "vil_nano_32", **options)
    save_detector(model, tmp_path / "w.safetensors")
    loaded, metadata = load_detector(tmp_path / "w.safetensors", backbone_options={"drop_path_rate": 0.2})
    assert metadata["model"] == "retinanet/vil_nano_32"
    assert loaded.config.anchor_ratios == (1.0,)
    assert loaded.config.backbone_options == {"drop_path_rate": 0.2, "window": 7}


def test_other_classes_and_another_block_size(tmp_path: Path) -> None:
    save_detector(varied(nano()), tmp_path / "w.safetensors")
    other = nano(num_classes=6, backbone_options={"block_size": 6})
    report = load_detector_weights(other, tmp_path / "w.safetensors")
    of_classes = ("cls_score", "box_predictor.bbox_pred", "mask_fcn_logits")
    assert sorted(report.replaced) == sorted(
        f"roi_heads.{part}.{leaf}"
        for part in ("box_predictor.cls_score", of_classes[1], "mask_predictor.mask_fcn_logits")
        for leaf in ("weight", "bias")
    )
    assert len(report.resized) == 6  # two tables in each of three halo layers
    assert load_detector(tmp_path / "w.safetensors", num_classes=6)[0].config.num_classes == 6


def test_files_that_are_of_something_else_are_told(tmp_path: Path) -> None:
    save_weights(halonet.create_model("halonet_nano_32"), tmp_path / "classifier.safetensors")
    with pytest.raises(ValueError, match="does not hold a detector; was it written by save_detector"):
        load_detector(tmp_path / "classifier.safetensors")
    save_detector(nano(), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=f"of {NANO}\\) are not of {NANO}; .* of another shape: backbone.pyramid"):
        load_detector_weights(nano(fpn_channels=32), tmp_path / "w.safetensors")


def test_botnet_begins_from_a_resnet() -> None:
    """All but the three convolutions that attention replaces, with norms of another momentum and epsilon."""
    resnet = varied(torchvision.models.resnet50())
    model = create_detector("fasterrcnn", "botnet50_224", **LIGHT)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items() if "_3" in name and ".slot." in name}
    report = init_backbone(model, resnet.state_dict())
    state, theirs = model.state_dict(), resnet.state_dict()
    assert set(report.fresh) == {name.replace("backbone.backbone.stages_", "stages.") for name in fresh}
    assert len(fresh) == 3 * 4  # two projections, two tables
    assert all(torch.equal(state[name], tensor) for name, tensor in fresh.items())
    assert report.unused == [*(f"stages.3.{block}.slot.weight" for block in range(3)), "head.fc.weight", "head.fc.bias"]
    stage = "backbone.backbone.stages_3.2"
    assert torch.equal(state[f"{stage}.slot_norm.norm.running_mean"], theirs["layer4.2.bn2.running_mean"])
    assert torch.equal(state[f"{stage}.expand.conv.weight"], theirs["layer4.2.conv3.weight"])
    norm = model.backbone.backbone.stages_3[2].slot_norm.norm  # type: ignore[union-attr]
    assert (norm.eps, round(norm.momentum, 9)) == (1e-4, 0.003)


def test_frozen_norms_take_a_classifiers_statistics(tmp_path: Path) -> None:
    """A HaloNet of ours, from a file, into one with larger blocks whose norms are constants."""
    row = detector_config(NANO)
    classifier = varied(halonet.create_model(row.backbone, num_classes=10, **row.backbone_options))
    save_weights(classifier, tmp_path / "w.safetensors")
    model = nano(norm="frozen", backbone_options={"block_size": 6})
    report = init_backbone(model, tmp_path / "w.safetensors")
    assert report.fresh == []
    assert len(report.resized) == 6
    assert set(report.unused) == {"head.fc.weight", "head.fc.bias"}
    body = model.backbone.backbone
    assert torch.equal(body.stem.conv.norm.running_mean, classifier.stem.conv.norm.running_mean)
    assert torch.equal(body.stages_3[0].expand.norm.weight, classifier.stages[3][0].expand.norm.weight)


def test_a_detectors_backbone_begins_another(tmp_path: Path) -> None:
    first = varied(nano())
    save_detector(first, tmp_path / "w.safetensors")
    row = detector_config(NANO)
    second = create_detector("retinanet", row.backbone, backbone_options=row.backbone_options, **LIGHT)
    report = init_backbone(second, tmp_path / "w.safetensors")
    assert (report.fresh, report.unused) == ([], [])
    for name, tensor in second.backbone.backbone.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(tensor, first.backbone.backbone.state_dict()[name])


def test_a_backbone_of_timm() -> None:
    resnet = varied(torchvision.models.resnet18())
    model = create_detector("fasterrcnn", "timm/resnet18", **LIGHT)
    report = init_backbone(model, resnet.state_dict())
    assert (report.fresh, report.unused) == ([], ["fc.weight", "fc.bias"])
    body: Any = model.backbone.backbone
    assert torch.equal(body.layer4[1].conv2.weight, resnet.layer4[1].conv2.weight)


@torch.no_grad()
def test_vil_for_detection_is_the_classifier_where_windows_cover_everything(tmp_path: Path) -> None:
    """At 224 chunks of 7 and their neighbours are the whole 14 x 14 map of stage 3, whose table of 27 x 27 offsets and
    biases of the global token serve full and local attention alike. Stage 4 has 13 x 13, interpolated: full and local
    agree where the bias is the same for all offsets."""
    torch.manual_seed(0)
    short = {"depth": [1, 1, 2, 1], "backend": "reference"}
    classifier = halonet.create_model("vil_tiny_224", **short).eval()
    for name, parameter in classifier.named_parameters():
        if name.endswith(("bias_table", "_bias", "global_tokens")):
            parameter.copy_(torch.randn(parameter.shape))
    save_weights(classifier, tmp_path / "w.safetensors")
    model = create_detector("maskrcnn_vil_tiny_800", backbone_options=short, **LIGHT)
    report = init_backbone(model, tmp_path / "w.safetensors")
    last = "stages.3.blocks.0.attn.bias_table"
    assert report.resized == [last]
    assert report.fresh == []
    assert set(report.unused) == {"norm.weight", "norm.bias", "head.fc.weight", "head.fc.bias"}
    body: Any = model.backbone.backbone.eval()  # type: ignore[union-attr]
    table = classifier.get_parameter(last)
    assert torch.equal(body.model.get_parameter(last), resize_bias(table, (27, 27)))

    table.copy_(table[:, 6:7, 6:7].expand_as(table).clone())
    image = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    init_backbone(model.double(), classifier.double().state_dict())
    expected = classifier.forward_intermediates(image, intermediates_only=True)
    for one, other in zip(body(image), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ("resnet34", "weights must be of the classifier of botnet50_224 or of a ResNet like it; .* missing: "),
        ("resnet101", "a ResNet like it; unexpected: stages.2.6.reduce.conv.weight"),
        ("mobilenet_v2", "a ResNet like it; .* missing: stem.conv.conv.weight"),
    ],
)
def test_another_network_is_told(theirs: str, message: str) -> None:
    with torch.device("meta"):
        state = torchvision.models.get_model(theirs).state_dict()
        model = create_detector("fasterrcnn", "botnet50_224")
    with pytest.raises(ValueError, match=message):
        init_backbone(model, state)


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no weights file at"):
        init_backbone(nano(), tmp_path / "none.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="weights must be of the classifier of halonet50_256"):
        init_backbone(nano(), tmp_path / "x.safetensors")
