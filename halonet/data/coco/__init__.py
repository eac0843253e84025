"""Annotated images: COCO's files, folders of that form, and drawn scenes. Nothing here knows of a trainer."""

from halonet.data.coco.config import DetectionConfig

__all__ = ["DetectionConfig"]
