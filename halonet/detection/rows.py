"""Every published detector by name, as data. A new detector is a row here."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from halonet.detection.config import DetectorConfig
from halonet.models.config import nearest
from halonet.models.pyramid import PYRAMIDS

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


# Frozen norms, one convolution before the proposals, two fully connected layers for the boxes, at 800 x 1333.
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


def _torchvision_rows() -> dict[str, DetectorConfig]:
    """The settings of torchvision's three models on a ResNet-50, those without a 2 in their names."""
    return {
        f"{kind}_resnet50_torchvision": _row(
            kind,
            "resnet50_224",
            f"torchvision's {kind}_resnet50_fpn",
            **{**_DETECTRON, "exact_strides": False, "top_levels": "p5"},
        )
        for kind in KINDS
    }


def _halonet_rows() -> dict[str, DetectorConfig]:
    """HaloNet, Table 5. Its first row, "of the literature", is BoTNet's ResNet-50."""
    rows = {}
    for layers in (50, 101):
        for halo, name in (("", "se8"), ("_halo", "se8_halo_b8")):
            backbone = f"resnet{layers}_se8{halo}_512"
            rows[f"maskrcnn_resnet{layers}_{name}_1024"] = _row("maskrcnn", backbone, "HaloNet, Table 5")
    larger = replace(rows["maskrcnn_resnet50_se8_halo_b8_1024"], backbone_options={"block_size": 32})
    return {**rows, "maskrcnn_resnet50_se8_halo_b32_1024": larger}


# Backbone, sizes and table of each Mask R-CNN of BoTNet.
_BOTNET = (
    ("resnet50", (1024, 1280), "BoTNet, Tables 2 to 8 and 17; HaloNet, Table 5, row 1"),
    ("botnet50", (1024, 1280), "BoTNet, Tables 2 to 8 and 17"),
    ("resnet101", (1024, 1280), "BoTNet, Tables 5 to 7"),
    ("botnet101", (1024, 1280), "BoTNet, Tables 5 to 7"),
    ("resnet152", (1024, 1280), "BoTNet, Table 6"),
    ("botnet152", (1024, 1280), "BoTNet, Tables 6 and 9"),
    ("botnet200", (1280,), "BoTNet, Table 9"),
    *((f"botnet50_{variant}", (1024,), "BoTNet, Table 4") for variant in ("qk", "qr", "abs")),
    *((f"botnet50_c5_{pattern}", (1024,), "BoTNet, Table 5") for pattern in ("001", "011", "100")),
    *((f"resnet50_{added}", (1024,), "BoTNet, Table 8") for added in ("nonlocal_c4", "bot_c4", "bot_c4_c5")),
    ("resnet50_se_c5", (1024,), "BoTNet, Table 17"),
)
# Table 16: boxes alone.
_BOTNET_BOXES = ((50, 1024), (101, 1024), (152, 1280))


def _botnet_rows() -> dict[str, DetectorConfig]:
    """BoTNet, Tables 2 to 9, 16 and 17. Schedules and scale jitter, which the tables vary too, are the training's."""

    def row(kind: str, name: str, size: int, source: str) -> DetectorConfig:
        options: dict[str, Any] = {"mask_convs": 8} if name == "botnet200" else {}  # A.2
        if size != 1024:
            options["backbone_options"] = {"img_size": size}  # the length of the position tables
        return _row(kind, f"{name}_1024", source, min_size=(size,), max_size=size, **options)

    rows = {
        f"maskrcnn_{name}_{size}": row("maskrcnn", name, size, source)
        for name, sizes, source in _BOTNET
        for size in sizes
    }
    for layers, size in _BOTNET_BOXES:
        for name in (f"resnet{layers}", f"botnet{layers}"):
            rows[f"fasterrcnn_{name}_{size}"] = row("fasterrcnn", name, size, "BoTNet, Table 16")
    return rows


# Attention of the four stages in Vision Longformer's Table 8, with the numbers of Table 15.
_EFFICIENT: dict[str, tuple[str, dict[str, Any]]] = {
    "sra64": ("sra", {"reduction": [16, 8, 4, 2]}),
    "sra32": ("sra", {"reduction": [8, 4, 2, 1]}),
    "global": ("global", {"num_global": [256, 256, 64, 16]}),
    "performer": ("performer", {}),
    "vil": ("vil", {}),
}
_PARTIAL = {"sra32": {}, "global": {"num_global": [256, 256, 1, 0]}, "performer": {}, "vil": {}}


def _vil_rows() -> dict[str, DetectorConfig]:
    """Vision Longformer, Tables 6, 7 and 8: local attention in all stages (section 3.4), windows of 15 (Table 15)."""
    rows = {}
    baselines: dict[str, tuple[str, dict[str, Any]]] = {
        "resnet18": ("timm/resnet18", {}),
        "resnet50": ("resnet50_224", {}),
        "resnet101": ("resnet101_224", {}),
        "resnext101_32x4d": ("resnext50_32x4d_224", {"depth": [3, 4, 23, 3]}),
        "resnext101_64x4d": ("resnext101_64x4d_224", {}),
    }
    whole = {**_DETECTRON, "frozen_stages": 0}
    for kind, source in (("retinanet", "Vision Longformer, Table 6"), ("maskrcnn", "Vision Longformer, Table 7")):
        for size in ("tiny", "small", "medium", "base"):
            options = {"attention": "vil", "window": 15}
            row = _row(kind, f"vil_{size}_224", source, backbone_options=options, **whole)
            rows[f"{kind}_vil_{size}_800"] = row
        for name, (backbone, options) in baselines.items():
            rows[f"{kind}_{name}_800"] = _row(kind, backbone, source, backbone_options=options, **_DETECTRON)

    def small(stages: list[str], options: dict[str, Any]) -> DetectorConfig:
        options = {"attention": stages, "position": "absolute", **options}
        source = "Vision Longformer, Table 8"
        return _row("maskrcnn", "vil_small_224", source, backbone_options=options, **whole)

    for name, (attention, options) in _EFFICIENT.items():
        rows[f"maskrcnn_vil_small_ape_{name}_800"] = small([attention] * 4, options)
    for name, own in _PARTIAL.items():
        attention, options = _EFFICIENT[name]
        rows[f"maskrcnn_vil_small_ape_par_{name}_800"] = small([attention] * 2 + ["full"] * 2, {**options, **own})
    return rows


def _factorized_rows() -> dict[str, DetectorConfig]:
    """Shen et al., Tables 1 to 4. The sizes of maps in Table 1 are those of images of 896 x 1280."""
    options = {**_DETECTRON, "min_size": (896,), "max_size": 1280}
    source = "Factorized Attention, Tables 1 to 4"
    return {f"maskrcnn_{name}": _row("maskrcnn", name, source, **options) for name in PYRAMIDS}


def _small_rows() -> dict[str, DetectorConfig]:
    """A Mask R-CNN that learns drawn scenes on a CPU in minutes; of no paper."""
    # Convolutions in two stages, local attention in two.
    halonet_nano: dict[str, Any] = {
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
    # Few regions and narrow maps: pooling regions takes most of a step on a CPU. A scene has six objects at most.
    few = {f"rpn_{when}_nms_top_n_{mode}": n for when, n in (("pre", 150), ("post", 50)) for mode in ("train", "test")}
    return {
        "maskrcnn_halo_nano_128": _row(
            "maskrcnn",
            "halonet50_256",
            "",
            backbone_options=halonet_nano,
            norm_momentum=0.9,
            fpn_channels=48,
            rpn_convs=1,
            anchor_scale=4,
            box_convs=1,
            fc_dim=256,
            mask_convs=2,
            mask_channels=32,
            min_size=(128,),
            max_size=128,
            rpn_batch_size_per_image=64,
            box_batch_size_per_image=32,
            detections_per_img=20,
            **few,
        )
    }


DETECTORS: Mapping[str, DetectorConfig] = {
    **_torchvision_rows(),
    **_halonet_rows(),
    **_botnet_rows(),
    **_vil_rows(),
    **_factorized_rows(),
    **_small_rows(),
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
    elif kind in DETECTORS:
        raise ValueError(f"backbone must not be given with the row {kind!r}, which has one, got {backbone!r}")
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
