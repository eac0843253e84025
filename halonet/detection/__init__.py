"""Object detection and instance segmentation: torchvision's detectors on any backbone.

What a detector is, is data (`config`), its rows are `rows`; `build` puts backbone and pyramid (`backbone`), norms
(`norms`) and heads (`heads`) together; `checkpoints` saves, loads and converts weights. Answers as COCO's results are
`results`, their average precision `evaluation`.
"""

from halonet.detection.build import create_detector
from halonet.detection.checkpoints import (
    convert_torchvision,
    init_backbone,
    load_detector,
    load_detector_weights,
    save_detector,
)
from halonet.detection.config import DetectorConfig
from halonet.detection.evaluation import Evaluation, evaluate_results, judge_results
from halonet.detection.results import coco_results, gather_results
from halonet.detection.rows import DETECTORS, detector_config, list_detectors

__all__ = [
    "DETECTORS",
    "DetectorConfig",
    "Evaluation",
    "coco_results",
    "convert_torchvision",
    "create_detector",
    "detector_config",
    "evaluate_results",
    "gather_results",
    "init_backbone",
    "judge_results",
    "list_detectors",
    "load_detector",
    "load_detector_weights",
    "save_detector",
]
