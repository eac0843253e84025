"""Annotated images: COCO's files, folders of that form, and drawn scenes. Nothing here knows of a trainer."""

from halonet.data.coco.check import check_folder
from halonet.data.coco.config import DetectionConfig
from halonet.data.coco.dataset import DetectionDataset, collate
from halonet.data.coco.drawn import DrawnScenes, draw_scene
from halonet.data.coco.open import open_detection_source
from halonet.data.coco.problems import PROBLEMS, Problem
from halonet.data.coco.source import Annotated, AnnotatedImages, AnnotatedItem, Category, DetectionSource
from halonet.data.coco.transforms import eval_transform, train_transform

__all__ = [
    "PROBLEMS",
    "Annotated",
    "AnnotatedImages",
    "AnnotatedItem",
    "Category",
    "DetectionConfig",
    "DetectionDataset",
    "DetectionSource",
    "DrawnScenes",
    "Problem",
    "check_folder",
    "collate",
    "draw_scene",
    "eval_transform",
    "open_detection_source",
    "train_transform",
]
