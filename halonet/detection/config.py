"""What a detector is, as data. A detector is a value of this type; see `rows`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from halonet.ops.checks import check_choice, check_positive

NORMS = ("batch", "frozen", "none")
TOP_LEVELS = ("c5", "p5")
_SHARES = (
    *("box_score_thresh", "box_nms_thresh", "rpn_nms_thresh", "rpn_score_thresh", "norm_momentum"),
    *("rpn_fg_iou_thresh", "rpn_bg_iou_thresh", "rpn_positive_fraction"),
    *("box_fg_iou_thresh", "box_bg_iou_thresh", "box_positive_fraction"),
)
_COUNTS = (
    *("fpn_channels", "rpn_convs", "box_fcs", "fc_dim", "mask_convs", "mask_channels", "max_size", "anchor_octaves"),
    *("rpn_pre_nms_top_n_train", "rpn_pre_nms_top_n_test", "rpn_post_nms_top_n_train", "rpn_post_nms_top_n_test"),
    *("rpn_batch_size_per_image", "box_batch_size_per_image", "detections_per_img", "topk_candidates"),
)


@dataclass(frozen=True)
class DetectorConfig:
    """A detector of torchvision on a backbone. Defaults are BoTNet's canonical setting (arXiv 2101.11605, A.2), and
    where it is silent torchvision's; those of a RetinaNet differ, see `rows.KINDS`.

    kind: "maskrcnn", "fasterrcnn" or "retinanet".
    backbone: a model of `list_models` or `list_pyramids`, or a model of timm ("timm/NAME", or its plain name).
    backbone_options: of `create_model` (or timm's) for the backbone, such as `block_size` or `drop_path_rate`.
    source: of a row: the paper's table that it is of.
    num_classes: with the background, which is label 0.
    fpn_channels: of every level of the pyramid.
    norm: "batch": batch norm in backbone, pyramid and heads, as BoTNet; "frozen": the backbone's norms are constants,
        pyramid and heads have none, as in torchvision and Detectron; "none": the same with the backbone's own norms.
    norm_momentum: share of the running statistics that a batch leaves, as TensorFlow counts: 1 minus torch's momentum.
        Of norm="batch".
    norm_eps: of "batch" and "frozen".
    frozen_stages: parts of the backbone from its beginning that do not learn: 1 the stem (of a transformer its first
        patch embedding), 2 the first stage too, and so on; torchvision's `trainable_backbone_layers` is 5 minus it.
    rpn_convs: convolutions of the head that proposes regions.
    anchor_scale: side of a level's anchors in strides of the level.
    anchor_octaves: anchor sizes a level, each 2 ** (1 / anchor_octaves) times the one before.
    anchor_ratios: height to width.
    exact_strides: anchors stand by the level's stride; False: by image size // map size, as torchvision's, which is off
        where a stride does not divide the image.
    top_levels: what a RetinaNet's levels 6 and 7 are made of: "c5", the backbone's last map (Lin et al., Detectron), or
        "p5", the pyramid's (torchvision).
    box_convs: 3x3 convolutions of the box head, of fpn_channels.
    box_fcs: fully connected layers after them, of fc_dim channels.
    mask_convs: convolutions of the mask head, of mask_channels.
    min_size: shorter side that an image is resized to, one of them by chance in training, the last otherwise.
    max_size: longer side that it may not exceed.
    size_divisible: images are filled up with zeros to a multiple of it, of 32 itself; more for a backbone of timm that
        takes some sizes alone.
    image_mean, image_std: of the images in 0..1; None: what the backbone's description says, ImageNet's otherwise.
    detections_per_img: boxes of an image at most.
    topk_candidates: of a RetinaNet, boxes of a level before the overlapping ones are left out.
    The rest is as in torchvision; box_* are a RetinaNet's of the same meaning too.
    """

    kind: str
    backbone: str
    backbone_options: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    num_classes: int = 91
    fpn_channels: int = 256
    norm: str = "batch"
    norm_momentum: float = 0.997
    norm_eps: float = 1e-4
    frozen_stages: int = 0
    rpn_convs: int = 2
    anchor_scale: float = 8
    anchor_octaves: int = 1
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    exact_strides: bool = True
    top_levels: str = "c5"
    box_convs: int = 4
    box_fcs: int = 1
    fc_dim: int = 1024
    mask_convs: int = 4
    mask_channels: int = 256
    min_size: tuple[int, ...] = (1024,)
    max_size: int = 1024
    size_divisible: int = 32
    image_mean: tuple[float, ...] | None = None
    image_std: tuple[float, ...] | None = None
    rpn_pre_nms_top_n_train: int = 2000
    rpn_pre_nms_top_n_test: int = 1000
    rpn_post_nms_top_n_train: int = 2000
    rpn_post_nms_top_n_test: int = 1000
    rpn_nms_thresh: float = 0.7
    rpn_fg_iou_thresh: float = 0.7
    rpn_bg_iou_thresh: float = 0.3
    rpn_batch_size_per_image: int = 256
    rpn_positive_fraction: float = 0.5
    rpn_score_thresh: float = 0.0
    box_score_thresh: float = 0.05
    box_nms_thresh: float = 0.5
    box_fg_iou_thresh: float = 0.5
    box_bg_iou_thresh: float = 0.5
    box_batch_size_per_image: int = 512
    box_positive_fraction: float = 0.25
    detections_per_img: int = 100
    topk_candidates: int = 1000

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ("maskrcnn", "fasterrcnn", "retinanet"))
        check_choice("norm", self.norm, NORMS)
        check_choice("top_levels", self.top_levels, TOP_LEVELS)
        for name in ("anchor_ratios", "min_size", "image_mean", "image_std"):
            value = getattr(self, name)
            if isinstance(value, (int, float)):
                value = (value,)
            object.__setattr__(self, name, None if value is None else tuple(value))
        self._check_numbers()
        if not isinstance(self.backbone_options, Mapping):
            raise ValueError(f"backbone_options must be options by name, got {self.backbone_options!r}")

    def _check_numbers(self) -> None:
        if not isinstance(self.num_classes, int) or self.num_classes < 2:
            raise ValueError(f"num_classes must be an int of at least 2, background included, got {self.num_classes!r}")
        for name in _COUNTS:
            check_positive(name, getattr(self, name))
        for name in _SHARES:
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise ValueError(f"{name} must be a number from 0 to 1, got {value!r}")
        if not isinstance(self.box_convs, int) or self.box_convs < 0:
            raise ValueError(f"box_convs must be an int of at least 0, got {self.box_convs!r}")
        if self.frozen_stages not in range(6):
            raise ValueError(f"frozen_stages must be from 0 to 5, got {self.frozen_stages!r}")
        if not isinstance(self.norm_eps, (int, float)) or self.norm_eps < 0:
            raise ValueError(f"norm_eps must be a number of at least 0, got {self.norm_eps!r}")
        for name, kinds in (("anchor_ratios", (int, float)), ("min_size", int)):
            values = getattr(self, name)
            if not values or not all(isinstance(value, kinds) and value > 0 for value in values):
                raise ValueError(f"{name} must be positive numbers, got {values!r}")
        for name in ("image_mean", "image_std"):
            values = getattr(self, name)
            if values is not None and not all(isinstance(value, (int, float)) for value in values):
                raise ValueError(f"{name} must be a number of each channel, got {values!r}")
        if not isinstance(self.exact_strides, bool):
            raise ValueError(f"exact_strides must be True or False, got {self.exact_strides!r}")
        if not isinstance(self.anchor_scale, (int, float)) or self.anchor_scale <= 0:
            raise ValueError(f"anchor_scale must be a positive number, got {self.anchor_scale!r}")
        if self.size_divisible < 1 or self.size_divisible % 32:
            raise ValueError(f"size_divisible must be a multiple of 32, got {self.size_divisible!r}")
