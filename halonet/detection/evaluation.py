"""Average precision of detections, by COCO's own code (pycocotools)."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

KINDS = {"bbox": "box", "segm": "mask"}  # COCO's word: the first word of our figures
# The twelve figures that COCO sums up, in its order.
FIGURES = (
    "ap",
    "ap50",
    "ap75",
    "ap_small",
    "ap_medium",
    "ap_large",
    "ar1",
    "ar10",
    "ar100",
    "ar_small",
    "ar_medium",
    "ar_large",
)
THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))


@dataclass(frozen=True)
class Evaluation:
    """How good detections are. All values are shares from 0 to 1, nan where there is nothing to find.

    figures: box_ap, box_ap50, box_ap75, box_ap_small, box_ap_medium, box_ap_large, box_ar1, box_ar10, box_ar100,
        box_ar_small, box_ar_medium, box_ar_large, and the same of masks as mask_...
    per_category: of each category, by name in the order of the ground truth, box_ap and mask_ap.
    curves: of each kind ("box", "mask") and each threshold of the IoU (0.5, 0.55, ... 0.95), the precision at recall 0,
        0.01, ... 1, (101,), averaged over categories and interpolated: at each recall the best precision at that
        recall or above.
    """

    figures: dict[str, float]
    per_category: dict[str, dict[str, float]]
    curves: dict[str, dict[float, np.ndarray]] = field(repr=False)


def evaluate_results(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], *, kinds: Sequence[str] = ("bbox", "segm")
) -> dict[str, float]:
    """`judge_results(...).figures`: COCO's twelve figures of boxes, and of masks."""
    return judge_results(ground_truth, results, kinds=kinds).figures


def judge_results(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], *, kinds: Sequence[str] = ("bbox", "segm")
) -> Evaluation:
    """Average precision and recall as COCO defines them, computed by pycocotools without files and without a word.

    Small is an area up to 32^2 pixels, medium from there to 96^2, large from there on: of an object the `area` of its
    annotation, of a detection that matches none the box's area for boxes and the mask's for masks. Neither argument is
    changed.

    Args:
        ground_truth: COCO's instances form: "images" (each with "id", and for masks "height" and "width"),
            "annotations" ("image_id", "category_id", "bbox" xywh, "area", "iscrowd" (0 where absent), and for masks
            "segmentation" as polygons or run lengths) and "categories" ("id", "name").
        results: COCO's results form, as `coco_results` gives; none is allowed.
        kinds: "bbox" for boxes, "segm" for masks.

    Raises:
        ValueError: results of images or categories that the ground truth does not have, an entry that lacks what its
            kind needs, or an unknown kind.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(f"kinds: expected some of {', '.join(KINDS)}, got {', '.join(unknown) or 'none'}")
    _check(ground_truth, results, kinds)
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    figures: dict[str, float] = {}
    per_category: dict[str, dict[str, float]] = {name: {} for name in names.values()}
    curves: dict[str, dict[float, np.ndarray]] = {}
    for kind in kinds:
        word = KINDS[kind]
        judged = _judge(ground_truth, results, kind)
        figures |= {f"{word}_{name}": _share(value) for name, value in zip(FIGURES, judged.stats, strict=True)}
        # (thresholds, recalls, categories): of all sizes, with the hundred surest of each image.
        precision = judged.eval["precision"][:, :, :, 0, -1]
        for number, category_id in enumerate(judged.params.catIds):
            per_category[names[category_id]][f"{word}_ap"] = _mean(precision[:, :, number])
        curves[word] = {
            threshold: np.array([_mean(at_recall) for at_recall in precision[number]])
            for number, threshold in enumerate(THRESHOLDS)
        }
    return Evaluation(figures, per_category, curves)


def _judge(ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: str) -> Any:
    """pycocotools' COCOeval, done. It talks on stdout, writes into what it is given, and takes an annotation whose id
    is 0 for none: hence copies, numbered anew from 1."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    # With a box an entry's size is the box's; without, the mask's (as the published evaluations of masks have it).
    left_out = "bbox" if kind == "segm" else "segmentation"
    annotations = [
        {"iscrowd": 0, **annotation, "id": number} for number, annotation in enumerate(ground_truth["annotations"], 1)
    ]
    told = [{name: value for name, value in result.items() if name != left_out} for result in results]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"info": {}, **ground_truth, "annotations": annotations}
        truth.createIndex()
        if told:
            answers = truth.loadRes(told)
        else:  # loadRes looks at the first entry
            answers = COCO()
            answers.dataset = {**truth.dataset, "annotations": []}
            answers.createIndex()
        judged = COCOeval(truth, answers, kind)
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return judged


def _check(ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> None:
    for what, entries, name in (
        ("ground_truth", ground_truth["annotations"], "id"),
        ("results", results, "image_id"),
    ):
        for word, part in (("image_id", "images"), ("category_id", "categories")):
            known = {entry["id"] for entry in ground_truth[part]}
            strange = next((entry[word] for entry in entries if entry[word] not in known), None)
            if strange is not None:
                raise ValueError(f"{what}: {word} {strange!r} is not among the {len(known)} {part} of ground_truth")
        for kind in kinds:
            needed = {"bbox" if kind == "bbox" else "segmentation"} | ({"area"} if what == "ground_truth" else set())
            for entry in entries:
                lacking = [key for key in sorted(needed) if entry.get(key) is None or _is_empty(entry[key])]
                if lacking:
                    where = f"the entry of {name} {entry.get(name)!r}"
                    raise ValueError(f"{what}: {where} has no {lacking[0]}, which kind {kind!r} needs")


def _is_empty(value: Any) -> bool:
    return isinstance(value, list) and not value


def _mean(precision: np.ndarray) -> float:
    """Of what COCO counts: -1 stands for a category without an object."""
    counted = precision[precision > -1]
    return float(counted.mean()) if counted.size else math.nan


def _share(value: float) -> float:
    return math.nan if value == -1 else float(value)
