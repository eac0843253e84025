"""COCO's figures against the definition, written down once more without pycocotools."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halonet.detection import evaluate_results

SIZES = {"": (0, 1e10), "_small": (0, 32**2), "_medium": (32**2, 96**2), "_large": (96**2, 1e10)}


def overlap(found: list[float], box: list[float], crowd: bool) -> float:
    """Intersection over union; in a crowd region over the detection alone."""
    sides = (max(0.0, min(found[i] + found[i + 2], box[i] + box[i + 2]) - max(found[i], box[i])) for i in (0, 1))
    both, area = math.prod(sides), found[2] * found[3]
    return both / (area if crowd else area + box[2] * box[3] - both)


def judged(objects: list[Any], ignored: list[bool], found: list[Any], least: float, size: Any) -> list[Any]:
    """(score, right) of each detection of an image and category that counts: the surest picks first, the best first."""
    free, rows = [True] * len(objects), []
    for one in found:
        shares = [overlap(one["bbox"], box["bbox"], box["iscrowd"]) for box in objects]
        open_ = [i for i in range(len(objects)) if (free[i] or objects[i]["iscrowd"]) and shares[i] >= least]
        real = [i for i in open_ if not ignored[i]]
        if open_:
            # Of equal ones the last, as COCO's code has it.
            best = max(real or open_, key=lambda i: (shares[i], i))
            free[best] = False
            if not ignored[best]:
                rows.append((one["score"], True))
        elif size[0] <= one["bbox"][2] * one["bbox"][3] <= size[1]:
            rows.append((one["score"], False))
    return rows


def defined(truth: dict[str, Any], results: list[Any], size: Any, most: int) -> tuple[np.ndarray, float]:
    """Average precision at each of the ten thresholds, and average recall."""
    precisions, recalls = [], []
    for category in truth["categories"]:
        rows: list[list[Any]] = [[] for _ in range(10)]
        count = 0
        for image in truth["images"]:
            own = [
                [one for one in part if (one["image_id"], one["category_id"]) == (image["id"], category["id"])]
                for part in (truth["annotations"], results)
            ]
            objects, found = own[0], sorted(own[1], key=lambda one: -one["score"])[:most]
            ignored = [bool(one["iscrowd"]) or not size[0] <= one["area"] <= size[1] for one in objects]
            count += ignored.count(False)
            for step in range(10):
                rows[step] += judged(objects, ignored, found, 0.5 + 0.05 * step, size)
        if not count:
            continue
        for one in rows:
            right = np.cumsum([hit for _, hit in sorted(one, key=lambda row: -row[0])])
            precision, recall = right / np.arange(1, len(right) + 1), right / count
            recalls.append(recall[-1] if len(recall) else 0.0)
            levels = np.linspace(0, 1, 101)
            precisions.append(np.mean([precision[recall >= level].max(initial=0.0) for level in levels]))
    if not precisions:
        return np.full(10, math.nan), math.nan
    return np.reshape(precisions, (-1, 10)).mean(axis=0), float(np.mean(recalls))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), ties=st.booleans())
def test_the_figures_are_the_definitions(seed: int, ties: bool) -> None:
    """Several images and categories, crowd regions, areas apart from their boxes', ties, and more than 100 found."""
    rng = np.random.default_rng(seed)

    def entry(box: list[int]) -> dict[str, Any]:
        where = {"image_id": int(rng.integers(1, 4)), "category_id": int(rng.choice([3, 90]))}
        return {**where, "bbox": [float(value) for value in box]}

    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number in range(int(rng.integers(0, 12))):
        side = int(rng.choice([20, 40, 90, 120]))
        one = entry([*rng.integers(0, 150, 2), side + rng.integers(-8, 9), side])
        area = one["bbox"][2] * one["bbox"][3] * rng.choice([0.6, 1.0])
        annotations.append({**one, "id": number, "area": area, "iscrowd": int(rng.random() < 0.2)})
        for _ in range(rng.integers(0, 4)):
            moved = (np.array(one["bbox"]) + rng.integers(-6, 7, 4)).tolist()
            results.append({**one, "bbox": moved})
    results += [entry([*rng.integers(0, 150, 2), *rng.integers(5, 100, 2)]) for _ in range(rng.choice([3, 300]))]
    for one in results:
        one["score"] = float(rng.choice([0.2, 0.5, 0.9]) if ties else rng.random())
    truth = {
        "images": [{"id": number, "height": 300, "width": 300} for number in (1, 2, 3)],
        "categories": [{"id": 3, "name": "a"}, {"id": 90, "name": "b"}],
        "annotations": annotations,
    }
    expected: dict[str, float] = {}
    for name, size in SIZES.items():
        precision, recall = defined(truth, results, size, 100)
        expected |= {f"box_ap{name}": precision.mean(), f"box_ar{name or '100'}": recall}
        expected |= {} if name else {"box_ap50": precision[0], "box_ap75": precision[5]}
    expected |= {f"box_ar{most}": defined(truth, results, SIZES[""], most)[1] for most in (1, 10)}
    assert evaluate_results(truth, results, kinds=("bbox",)) == pytest.approx(expected, abs=1e-9, nan_ok=True)
