"""Name -> detector: torchvision's Mask R-CNN, Faster R-CNN and RetinaNet on any backbone."""

from __future__ import annotations

from typing import Any

from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor

from halonet.detection.backbone import make_backbone
from halonet.detection.config import DetectorConfig
from halonet.detection.heads import (
    answer_in_float32,
    make_anchors,
    make_box_head,
    make_mask_parts,
    make_pool,
    make_retina_head,
    make_rpn_head,
    never_the_background,
)
from halonet.detection.norms import prepare_norms
from halonet.detection.resizing import Resizing
from halonet.detection.rows import detector_config
from halonet.models.pyramid import FeaturePyramid

_RPN = (
    *("rpn_pre_nms_top_n_train", "rpn_pre_nms_top_n_test", "rpn_post_nms_top_n_train", "rpn_post_nms_top_n_test"),
    *("rpn_nms_thresh", "rpn_fg_iou_thresh", "rpn_bg_iou_thresh", "rpn_batch_size_per_image", "rpn_positive_fraction"),
    "rpn_score_thresh",
)
_BOX = (
    *("box_score_thresh", "box_nms_thresh", "box_fg_iou_thresh", "box_bg_iou_thresh"),
    *("box_batch_size_per_image", "box_positive_fraction"),
)


def create_detector(
    kind: str, backbone: str | None = None, num_classes: int | None = None, **options: Any
) -> FasterRCNN | RetinaNet:
    """A detector by name: one of torchvision's own, on a backbone of ours or of timm.

    It takes a list of float images (3, H, W) in 0..1, of any sizes. In training it takes targets too, one a picture,
    with "boxes" (N, 4) float32, x1, y1, x2, y2 in pixels, "labels" (N,) int64 from 1 and, of a Mask R-CNN, "masks"
    (N, H, W) uint8, and returns its losses by name. Otherwise it returns for each image "boxes", "labels", "scores" and
    "masks" (N, 1, H, W), probabilities.

    Args:
        kind: "maskrcnn", "fasterrcnn" or "retinanet"; or, without a backbone, a row of `list_detectors()`, or
            "KIND/BACKBONE".
        backbone: a model of `halonet.list_models()` or `halonet.models.list_pyramids()`, or of timm ("timm/NAME").
        num_classes: with the background, which is label 0, for all three kinds; the row's, 91, if None.
        options: fields of `DetectorConfig`; `backbone_options` adds to the row's.

    Returns:
        A torchvision MaskRCNN, FasterRCNN or RetinaNet. Its attribute `config` is the whole configuration, `model_name`
        and `model_arguments` what builds it again.

    Raises:
        ValueError: an unknown kind, row, backbone or option, with the nearest right names; fewer than 2 classes; a
            value out of its range; or a backbone without a map of stride 4, 8, 16 or 32.
    """
    name = kind if backbone is None else f"{kind}/{backbone}"
    if num_classes is not None:
        options["num_classes"] = num_classes
    config = detector_config(name, **options)
    pyramid = make_backbone(config)
    model = _retina_net(config, pyramid) if config.kind == "retinanet" else _r_cnn(config, pyramid)
    model.transform = Resizing.like(model.transform)
    prepare_norms(model, config)
    arguments = {**options, "num_classes": config.num_classes}
    model.model_name, model.config, model.model_arguments = name, config, arguments
    return model


def _r_cnn(config: DetectorConfig, pyramid: FeaturePyramid) -> FasterRCNN:
    """A Faster R-CNN, or a Mask R-CNN."""
    strides = pyramid.strides
    carrying = dict(list(strides.items())[: len(pyramid.indices)])  # the levels on top propose regions only
    options: dict[str, Any] = {name: getattr(config, name) for name in (*_RPN, *_BOX)}
    model, masks = FasterRCNN, {}
    if config.kind == "maskrcnn":
        model, masks = MaskRCNN, {"mask_roi_pool": make_pool(carrying, 14), **make_mask_parts(config)}
    detector = model(
        pyramid,
        box_predictor=FastRCNNPredictor(config.fc_dim, config.num_classes),
        rpn_anchor_generator=make_anchors(config, list(strides.values())),
        rpn_head=make_rpn_head(config, levels=len(strides)),
        box_roi_pool=make_pool(carrying, 7),
        box_head=make_box_head(config),
        box_detections_per_img=config.detections_per_img,
        **masks,
        **_resizing(config, pyramid),
        **options,
    )
    answer_in_float32(detector.rpn.head, detector.roi_heads.box_predictor)
    if masks:
        answer_in_float32(detector.roi_heads.mask_predictor)
    return detector


def _retina_net(config: DetectorConfig, pyramid: FeaturePyramid) -> RetinaNet:
    strides = list(pyramid.strides.values())
    detector = RetinaNet(
        pyramid,
        config.num_classes,
        anchor_generator=make_anchors(config, strides),
        head=make_retina_head(config, levels=len(strides)),
        score_thresh=config.box_score_thresh,
        nms_thresh=config.box_nms_thresh,
        detections_per_img=config.detections_per_img,
        fg_iou_thresh=config.box_fg_iou_thresh,
        bg_iou_thresh=config.box_bg_iou_thresh,
        topk_candidates=config.topk_candidates,
        **_resizing(config, pyramid),
    )
    answer_in_float32(detector.head)
    never_the_background(detector.head)
    return detector


def _resizing(config: DetectorConfig, pyramid: FeaturePyramid) -> dict[str, Any]:
    """How torchvision's transform brings images to size and scale."""
    body: Any = pyramid.backbone
    described = getattr(body, "default_cfg", None) or getattr(body, "pretrained_cfg", None) or {}
    return {
        "min_size": config.min_size,
        "max_size": config.max_size,
        "image_mean": list(config.image_mean or described.get("mean") or ()) or None,
        "image_std": list(config.image_std or described.get("std") or ()) or None,
        "size_divisible": config.size_divisible,
    }
