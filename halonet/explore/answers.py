"""What a model answers about a picture: classes, objects, or a disparity."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from halonet.analysis.detection_pictures import class_colour, draw_detections, enlargement
from halonet.analysis.disparity_pictures import colour_disparity
from halonet.explore.choices import CLASSIFICATION, STEREO
from halonet.explore.subjects import Reading, Subject, disparity_of, objects_of, probabilities_of

TOP = 5


def png(image: Image.Image | np.ndarray) -> bytes:
    """A picture as a file."""
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    picture.save(buffer, format="png", compress_level=1)
    return buffer.getvalue()


def ask(subject: Subject, reading: Reading) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the page is told, and the arrays that pictures of it are drawn from."""
    if subject.choice.task == CLASSIFICATION:
        return {"classes": _classes(subject, reading)}, {}
    if subject.choice.task == STEREO:
        pixels = _finite(disparity_of(subject, reading)).numpy()
        span = {"least": float(pixels.min()), "most": float(pixels.max()), "mean": float(pixels.mean())}
        return {"disparity": span}, {"disparity": pixels}
    found = objects_of(subject, reading)
    names = names_of_labels(subject)
    objects = [
        {
            "name": names[int(label) - 1],
            "score": float(score),
            "box": [float(side) for side in box],
            "colour": "#{:02x}{:02x}{:02x}".format(*class_colour(int(label))),
        }
        for box, label, score in zip(found["boxes"], found["labels"], found["scores"], strict=True)
    ]
    return {"objects": sorted(objects, key=lambda one: -one["score"])}, found


def draw_objects(subject: Subject, reading: Reading, found: dict[str, Any], *, threshold: float) -> bytes:
    """A PNG of the picture with what is at least as sure as `threshold`, enlarged where it is small."""
    shown = found["scores"] >= threshold
    boxes, labels, scores = (found[name][shown] for name in ("boxes", "labels", "scores"))
    masks = found["masks"][shown] if "masks" in found else None
    image, names = np.array(reading.view), names_of_labels(subject)
    return png(draw_detections(image, boxes, labels, scores, masks, names, enlarge=enlargement(*image.shape[:2])))


def draw_disparity(found: dict[str, Any]) -> bytes:
    """A PNG: blue is far, red is near."""
    return png(colour_disparity(found["disparity"]))


def names_of_labels(subject: Subject) -> tuple[str, ...]:
    """Of a detector's labels from 1 on; their numbers where nothing tells names."""
    model: Any = subject.model
    return subject.names or tuple(f"class {label}" for label in range(1, model.config.num_classes))


def _finite(answer: Tensor) -> Tensor:
    """The same. Raises ValueError for an answer of which nothing can be told."""
    if not bool(answer.isfinite().all()):
        raise ValueError("the model does not answer in finite numbers: did its training diverge?")
    return answer


def _classes(subject: Subject, reading: Reading) -> list[dict[str, Any]]:
    probabilities = _finite(probabilities_of(subject, reading))
    best = probabilities.topk(min(TOP, len(probabilities)))
    names = subject.names or tuple(f"class {number}" for number in range(len(probabilities)))
    return [
        {"name": names[index], "probability": value}
        for index, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
