"""Every published detector by name, as data. A new detector is a row here."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from halonet.detection.config import DetectorConfig
from halonet.models.config import nearest

_RCNN = DetectorConfig(kind="fasterrcnn", backbone="")
# What a detector is without a row. A RetinaNet's anchors, three sizes a level from 4 strides on, are Lin et al.'s.
KINDS: Mapping[str, DetectorConfig] = {
    "maskrcnn": replace(_RCNN, kind="maskrcnn"),
    "fasterrcnn": _RCNN,
    "retinanet": replace(
        _RCNN,
        kind="retinanet",
        anchor_scale=4,
        anchor_octaves=3,
        box_fg_iou_thresh=0.5,
        box_bg_iou_thresh=0.4,
        detections_per_img=300,
    ),
}


def _row(kind: str, backbone: str, source: str, **options: Any) -> DetectorConfig:
    return replace(KINDS[kind], backbone=backbone, source=source, **options)


# One convolution before the proposals, two fully connected layers and frozen norms, at 800 x 1333.
_DETECTRON: dict[str, Any] = {
    "norm": "frozen",
    "norm_eps": 1e-5,
    "frozen_stages": 2,
    "rpn_convs": 1,
    "box_convs": 0,
    "box_fcs": 2,
    "min_size": (800,),
    "max_size": 1333,
}
# Of the HaloNet that learns drawn scenes: convolutions in two stages, local attention in two.
_NANO: dict[str, Any] = {
    "img_size": 128,
    "stem_width": 32,
    "depth": [1, 1, 2, 1],
    "width": [32, 32, 64, 64],
    "output_multiplier": [2.0, 2.0, 2.0, 4.0],
    "slot": ["conv", "conv", "halo", "halo"],
    "num_heads": 4,
    "block_size": 4,
    "halo_size": 2,
}
# Of torchvision's three models without a 2 in their names.
_TORCHVISION: dict[str, Any] = {**_DETECTRON, "exact_strides": False, "top_levels": "p5"}


def _halonet_rows() -> dict[str, DetectorConfig]:
    """HaloNet, Table 5. Row 1 is of the literature: its setting is torchvision's or Detectron's, see below."""
    rows = {}
    for layers in (50, 101):
        for halo, suffix in (("", ""), ("_halo", "_halo_b8")):
            backbone = f"resnet{layers}_se8{halo}_512"
            rows[f"maskrcnn_resnet{layers}_se8{suffix}_1024"] = _row("maskrcnn", backbone, "HaloNet, Table 5")
    rows["maskrcnn_resnet50_se8_halo_b32_1024"] = replace(
        rows["maskrcnn_resnet50_se8_halo_b8_1024"], backbone_options={"block_size": 32}
    )
    return rows


def _botnet_rows() -> dict[str, DetectorConfig]:
    """BoTNet, Tables 1 to 9, 16 and 17."""
    rows = {}
    tables = {50: "Tables 1 to 8", 101: "Tables 5 to 7", 152: "Table 6", 200: "Table 9"}
    for layers, table in tables.items():
        for name in ("resnet", "botnet"):
            if (name, layers) == ("resnet", 200):
                continue
            masks = {"mask_convs": 8} if layers == 200 else {}  # A.2
            for size in (1024, 1280):
                rows[f"maskrcnn_{name}{layers}_{size}"] = _row(
                    "maskrcnn",
                    f"{name}{layers}_1024",
                    f"BoTNet, {table}",
                    min_size=(size,),
                    max_size=size,
                    backbone_options={"img_size": size} if size != 1024 else {},
                    **masks,
                )
    return rows


def _small_rows() -> dict[str, DetectorConfig]:
    """A Mask R-CNN that learns drawn scenes on a CPU in minutes; of no paper."""
    return {
        "maskrcnn_halo_nano_128": _row(
            "maskrcnn",
            "halonet50_256",
            "",
            backbone_options=_NANO,
            norm_momentum=0.9,
            fpn_channels=64,
            rpn_convs=1,
            anchor_scale=4,
            box_convs=0,
            box_fcs=1,
            fc_dim=256,
            mask_convs=2,
            mask_channels=64,
            min_size=(128,),
            max_size=128,
            rpn_pre_nms_top_n_train=300,
            rpn_pre_nms_top_n_test=300,
            rpn_post_nms_top_n_train=100,
            rpn_post_nms_top_n_test=100,
            rpn_batch_size_per_image=64,
            box_batch_size_per_image=64,
        )
    }


DETECTORS: Mapping[str, DetectorConfig] = {
    **_halonet_rows(),
    **_botnet_rows(),
    **_small_rows(),
    "maskrcnn_resnet50_torchvision": _row(
        "maskrcnn", "resnet50_224", "torchvision's maskrcnn_resnet50_fpn", **_TORCHVISION
    ),
}


def list_detectors(pattern: str = "*") -> list[str]:
    """Names of the rows, sorted; `pattern` with shell wildcards."""
    return sorted(fnmatch.filter(DETECTORS, pattern))


def detector_config(name: str, **overrides: Any) -> DetectorConfig:
    """The configuration of a row, or of "KIND/BACKBONE", with fields changed by name.

    Args:
        name: of `list_detectors()`, or one of KINDS, a slash, and a backbone.
        overrides: fields of `DetectorConfig`. `backbone_options` adds to the row's, each option by its name.

    Raises:
        ValueError: an unknown name or field, with the nearest right ones, or a value out of its range.
    """
    kind, _, backbone = name.partition("/")
    if name in DETECTORS:
        row = DETECTORS[name]
    elif kind in KINDS and backbone:
        row = replace(KINDS[kind], backbone=backbone)
    elif kind in KINDS:
        raise ValueError(f"backbone must be named for {kind!r}: one of list_models() or list_pyramids(), or timm's")
    else:
        told = nearest(kind if backbone else name, [*KINDS, *DETECTORS])
        raise ValueError(f"kind must be {', '.join(KINDS)} or a row of list_detectors(), got {kind!r}{told}")
    known = {field.name for field in fields(DetectorConfig)} - {"kind"}
    for option in overrides:
        if option not in known:
            raise ValueError(f"unknown detector option {option!r}{nearest(option, known)}")
    if "backbone_options" in overrides and isinstance(overrides["backbone_options"], Mapping):
        overrides["backbone_options"] = {**row.backbone_options, **overrides["backbone_options"]}
    return replace(row, **overrides)
