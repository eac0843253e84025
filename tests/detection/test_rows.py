"""Rows of detectors: every one builds, with the levels, anchors and heads that its configuration says."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from timm.models import is_model
from torch import nn

from halonet.detection import DETECTORS, create_detector, detector_config, list_detectors
from halonet.detection.config import DetectorConfig
from halonet.models import list_models, model_config
from halonet.models.pyramid import PYRAMIDS

FIRST_OF_EACH_TABLE = {(row.kind, row.source): name for name, row in sorted(DETECTORS.items(), reverse=True)}
SLOW = [name for name in DETECTORS if name not in FIRST_OF_EACH_TABLE.values()]


def on_meta(name: str, **options: Any) -> Any:
    with torch.device("meta"):
        return create_detector(name, **options)


def check_parts(model: Any, config: DetectorConfig) -> None:
    strides = list(model.backbone.strides.values())
    retina = config.kind == "retinanet"
    assert strides == ([8, 16, 32, 64, 128] if retina else [4, 8, 16, 32, 64])
    anchors = model.anchor_generator if retina else model.rpn.anchor_generator
    per_place = config.anchor_octaves * len(config.anchor_ratios)
    assert anchors.num_anchors_per_location() == [per_place] * 5
    assert [sizes[0] for sizes in anchors.sizes] == [config.anchor_scale * stride for stride in strides]
    if retina:
        assert model.head.classification_head.cls_logits.out_channels == per_place * config.num_classes
        return
    assert model.rpn.head.cls_logits.out_channels == per_place
    heads = model.roi_heads
    assert heads.box_predictor.cls_score.out_features == config.num_classes
    assert sum(isinstance(module, nn.Conv2d) for module in heads.box_head.modules()) == config.box_convs
    assert sum(isinstance(module, nn.Linear) for module in heads.box_head.modules()) == config.box_fcs
    assert heads.has_mask() == (config.kind == "maskrcnn")
    if config.kind == "maskrcnn":
        assert len(heads.mask_head) == config.mask_convs
        assert heads.mask_predictor.mask_fcn_logits.out_channels == config.num_classes


@pytest.mark.parametrize(
    "name", [*FIRST_OF_EACH_TABLE.values(), *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_a_row_builds(name: str) -> None:
    check_parts(on_meta(name, num_classes=4), detector_config(name, num_classes=4))


@pytest.mark.parametrize("name", DETECTORS)
def test_a_row_names_its_backbone_and_source(name: str) -> None:
    row = DETECTORS[name]
    assert name.startswith(row.kind)
    assert row.source or name == "maskrcnn_halo_nano_128"
    if row.backbone.startswith("timm/"):
        assert is_model(row.backbone.removeprefix("timm/"))
    elif row.backbone not in PYRAMIDS:
        model_config(
            row.backbone, **{key: row.backbone_options[key] for key in row.backbone_options if key != "img_size"}
        )


def test_every_pyramid_and_every_botnet_for_detection_is_a_row() -> None:
    backbones = {row.backbone for row in DETECTORS.values() if row.kind == "maskrcnn"}
    assert set(PYRAMIDS) <= backbones
    assert set(list_models("*net*_1024")) <= backbones | {"resnet200_1024"}


# Vision Longformer, Tables 6 and 7, in millions; they count the unused classifier of 1000 classes.
VIL = {"tiny": (16.64, 26.9), "small": (35.68, 45.0), "medium": (50.77, 60.1), "base": (66.74, 76.1)}


@pytest.mark.parametrize("size", VIL)
def test_vil_detectors_have_the_published_sizes(size: str) -> None:
    width = 384 if size == "tiny" else 768
    # A RetinaNet of 80 classes has no background; ours counts one that torchvision leaves unused.
    for kind, classes, published in zip(("retinanet", "maskrcnn"), (80, 81), VIL[size], strict=True):
        model = on_meta(f"{kind}_vil_{size}_800", num_classes=classes)
        count = sum(parameter.numel() for parameter in model.parameters()) + 1000 * (width + 1)
        assert count / 1e6 == pytest.approx(published, abs=0.1)


# The same tables; they leave out what is frozen, and count gains and shifts of the other norms.
RESNETS = {
    "resnet18": (21.3, 31.2),
    "resnet50": (37.7, 44.2),
    "resnet101": (56.7, 63.2),
    "resnext101_32x4d": (56.4, 62.8),
    "resnext101_64x4d": (95.5, 101.9),
}


@pytest.mark.parametrize("backbone", RESNETS)
def test_their_baselines_have_the_published_sizes(backbone: str) -> None:
    for kind, classes, published in zip(("retinanet", "maskrcnn"), (80, 81), RESNETS[backbone], strict=True):
        model = on_meta(f"{kind}_{backbone}_800", num_classes=classes)
        learning = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        frozen = ("stem", "stages_0", "conv1", "bn1", "layer1")
        constants = sum(
            buffer.numel()
            for name, buffer in model.backbone.backbone.named_buffers()
            if name.endswith(("weight", "bias")) and not name.startswith(frozen)
        )
        assert (learning + constants) / 1e6 == pytest.approx(published, abs=0.051)


@pytest.mark.parametrize(
    ("name", "attention"),
    [
        ("maskrcnn_vil_small_800", ["LongformerAttention"] * 4),
        ("maskrcnn_vil_small_ape_par_vil_800", ["LongformerAttention"] * 2 + ["FullAttention"] * 2),
        ("maskrcnn_vil_small_ape_par_global_800", ["GlobalAttention"] * 2 + ["FullAttention"] * 2),
        ("maskrcnn_vil_small_ape_sra64_800", ["SpatialReductionAttention"] * 4),
    ],
)
def test_attention_of_vil_by_stage(name: str, attention: list[str]) -> None:
    stages = on_meta(name).backbone.backbone.model.stages
    assert [type(stage.blocks[0].attn).__name__ for stage in stages] == attention
    assert {stage.blocks[0].attn.window for stage in stages if "Longformer" in type(stage.blocks[0].attn).__name__} <= {
        15
    }


def test_resnext_by_its_options() -> None:
    """32 groups of 4 channels in the first stage, and 101 layers."""
    stages = on_meta("retinanet_resnext101_32x4d_800").backbone.backbone
    slots = [block.slot for block in stages.stages_2]
    assert len(slots) == 23
    assert (slots[0].groups, slots[0].out_channels) == (32, 512)


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_every_model_is_a_backbone(name: str) -> None:
    if name == "botnet_s1_nano_32":
        with pytest.raises(ValueError, match="maps of stride 4, 8, 16 or 32, botnet_s1_nano_32 has 2, 2"):
            on_meta(f"fasterrcnn/{name}")
        return
    model = on_meta(f"fasterrcnn/{name}")
    strides = list(model.backbone.strides.values())
    assert strides[-1] == 64
    assert all(b == 2 * a for a, b in pairwise(strides))
    assert [sizes[0] for sizes in model.rpn.anchor_generator.sizes] == [8 * stride for stride in strides]


def test_names_by_pattern() -> None:
    assert list_detectors("retinanet_vil_*") == [f"retinanet_vil_{size}_800" for size in sorted(VIL)]
    assert len(list_detectors()) == len(DETECTORS)


def test_options_of_a_backbone_add_to_the_rows() -> None:
    row = detector_config("maskrcnn_vil_tiny_800", backbone_options={"drop_path_rate": 0.1}, min_size=[640, 672])
    assert row.backbone_options == {"attention": "vil", "window": 15, "drop_path_rate": 0.1}
    assert row.min_size == (640, 672)
