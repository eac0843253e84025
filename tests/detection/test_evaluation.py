"""Average precision against cases worked by hand.

COCO's rule: detections of a category over all images in falling score; each is right if it lies on an object that none
before it took with an IoU of at least the threshold. Precision at each of the 101 recalls 0, 0.01, ... 1 is the best at
that recall or above, 0 where it is never reached; their mean is the average precision at a threshold, and `ap` the mean
over the thresholds 0.50, 0.55, ... 0.95 and the categories.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from halonet.detection import evaluate_results, judge_results
from halonet.detection.evaluation import FIGURES, THRESHOLDS

Box = tuple[float, float, float, float]
SIZE = (300, 400)  # height and width of every image here
WORDS = ("box", "mask")


def polygon(box: Box) -> list[list[float]]:
    x, y, width, height = box
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def truth_of(*objects: tuple[int, Box], categories: Sequence[str] = ("thing",), images: int = 2) -> dict[str, Any]:
    """Ground truth of rectangles (image id, xywh), all of the first category, whose id is 5."""
    return {
        "images": [{"id": number, "height": SIZE[0], "width": SIZE[1]} for number in range(1, images + 1)],
        "categories": [{"id": 5 + number, "name": name} for number, name in enumerate(categories)],
        "annotations": [
            {
                "id": number,
                "image_id": image_id,
                "category_id": 5,
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": 0,
                "segmentation": polygon(box),
            }
            for number, (image_id, box) in enumerate(objects, 1)
        ],
    }


def told(*detections: tuple[int, Box, float]) -> list[dict[str, Any]]:
    """Results that are rectangles: (image id, xywh, score)."""
    return [
        {"image_id": image_id, "category_id": 5, "bbox": list(box), "score": score, "segmentation": run_lengths(box)}
        for image_id, box, score in detections
    ]


def run_lengths(box: Box) -> dict[str, Any]:
    from pycocotools import mask as coco_mask

    (encoded,) = coco_mask.frPyObjects(polygon(box), *SIZE)
    return {"size": list(SIZE), "counts": encoded["counts"].decode()}


def is_close(value: float) -> Any:
    return pytest.approx(value, abs=1e-12, nan_ok=True)


def as_results(ground_truth: Mapping[str, Any]) -> list[dict[str, Any]]:
    return told(*((entry["image_id"], tuple(entry["bbox"]), 0.9) for entry in ground_truth["annotations"]))


def test_the_truth_told_is_perfect() -> None:
    """Objects of every size in two images: 20x20 is small, 60x60 medium, 150x150 large. All twelve figures are 1, but
    for the recall with the one surest detection of each image: image 1 has two objects, image 2 one: 2 of 3."""
    truth = truth_of((1, (10, 10, 20, 20)), (1, (50, 50, 60, 60)), (2, (30, 40, 150, 150)))
    figures = evaluate_results(truth, as_results(truth))
    assert list(figures) == [f"{word}_{name}" for word in WORDS for name in FIGURES]
    for name, value in figures.items():
        assert value == is_close(2 / 3 if name.endswith("ar1") else 1.0), name


def test_a_shift_is_right_up_to_its_iou() -> None:
    """100x100 shifted by 20: the IoU is 80 * 100 / (2 * 100^2 - 80 * 100) = 2/3, which is right at 0.50, 0.55, 0.60 and
    0.65: 4 of 10 thresholds."""
    truth = truth_of((1, (50, 60, 100, 100)), (2, (30, 40, 100, 100)))
    judged = judge_results(truth, told((1, (70, 60, 100, 100), 0.9), (2, (30, 60, 100, 100), 0.8)))
    for word in WORDS:
        given = {name: judged.figures[f"{word}_{name}"] for name in ("ap", "ap50", "ap75", "ap_large", "ar100")}
        assert given == is_close_each({"ap": 0.4, "ap50": 1.0, "ap75": 0.0, "ap_large": 0.4, "ar100": 0.4})
        assert math.isnan(judged.figures[f"{word}_ap_small"])
        assert [float(judged.curves[word][threshold].mean()) for threshold in THRESHOLDS] == [
            is_close(1.0 if threshold < 2 / 3 else 0.0) for threshold in THRESHOLDS
        ]


def is_close_each(values: Mapping[str, float]) -> dict[str, Any]:
    return {name: is_close(value) for name, value in values.items()}


def test_a_miss_and_a_false_alarm_between() -> None:
    """Three objects; found, a false alarm, found, in falling score; the third is missed.

        recall     1/3  1/3  2/3
        precision   1   1/2  2/3

    At recalls 0 to 0.33 (34 of them) the best precision is 1, at 0.34 to 0.66 (33) it is 2/3, at 0.67 to 1 (34) 0:
    (34 + 33 * 2/3) / 101 = 56/101, the same at all thresholds. The one surest detection of image 2 is the false alarm,
    so one detection an image finds 1 of 3.
    """
    truth = truth_of((1, (10, 10, 100, 100)), (1, (150, 10, 100, 100)), (2, (10, 10, 100, 100)))
    results = told((1, (10, 10, 100, 100), 0.9), (2, (200, 150, 100, 100), 0.8), (2, (10, 10, 100, 100), 0.7))
    judged = judge_results(truth, results)
    for word in WORDS:
        given = {name: judged.figures[f"{word}_{name}"] for name in ("ap", "ap50", "ap75", "ar1", "ar10", "ar100")}
        ap = 56 / 101
        expected = {"ap": ap, "ap50": ap, "ap75": ap, "ar1": 1 / 3, "ar10": 2 / 3, "ar100": 2 / 3}
        assert given == is_close_each(expected)
        curve = judged.curves[word][0.5].tolist()
        assert curve == [is_close(value) for value in [1.0] * 34 + [2 / 3] * 33 + [0.0] * 34]
    assert judged.per_category == {"thing": is_close_each({"box_ap": 56 / 101, "mask_ap": 56 / 101})}


def test_each_size_has_its_own() -> None:
    """Small found exactly (0.9), medium missed, large found with an IoU of 160 * 200 / (2 * 200^2 - 160 * 200) = 2/3.

    By size: 1, 0, and 4 of 10 thresholds. Together three objects: at the four low thresholds two are found, so that
    precision is 1 at 67 of 101 recalls; at the six high ones one is, then comes a false alarm: 34 of 101.
    """
    truth = truth_of((1, (10, 10, 20, 20)), (1, (10, 60, 64, 64)), (2, (20, 20, 200, 200)))
    results = told((1, (10, 10, 20, 20), 0.9), (2, (60, 20, 200, 200), 0.8))
    figures = evaluate_results(truth, results)
    for word in WORDS:
        given = {name: figures[f"{word}_{name}"] for name in ("ap", "ap_small", "ap_medium", "ap_large", "ar_medium")}
        ap = (4 * 67 / 101 + 6 * 34 / 101) / 10
        expected = {"ap": ap, "ap_small": 1.0, "ap_medium": 0.0, "ap_large": 0.4, "ar_medium": 0.0}
        assert given == is_close_each(expected)


def test_a_masks_size_is_its_own_not_its_boxs() -> None:
    """A small object found with 0.5, and a false alarm with 0.9 whose box is large (100x100) and whose mask is small
    (10x10). Among small masks the false alarm comes first: precision 0, then 1/2, at every recall. Among small boxes it
    does not count."""
    truth = truth_of((1, (10, 10, 20, 20)))
    results = told((1, (10, 10, 20, 20), 0.5), (1, (200, 100, 100, 100), 0.9))
    results[1]["segmentation"] = run_lengths((200, 100, 10, 10))
    figures = evaluate_results(truth, results)
    assert figures["mask_ap_small"] == is_close(0.5)
    assert figures["box_ap_small"] == is_close(1.0)
    assert figures["box_ap"] == is_close(0.5)


@pytest.mark.parametrize(("iscrowd", "ap"), [(1, 1.0), (0, 51 / 101 / 3)])
def test_what_lies_in_a_crowd_is_no_false_alarm(iscrowd: int, ap: float) -> None:
    """Two detections (0.9, 0.8) inside a 200x100 region and one on the object (0.7).

    A crowd's overlap is the share of the detection inside it: 1 here, so both are passed over and the object is all
    that counts: 1. Were the region an object, their IoU with it (30^2 of 200 * 100) would make them false alarms: one
    of two objects is found, after two false alarms: precision 1/3 at recalls 0 to 0.5, which are 51 of 101.
    """
    truth = truth_of((1, (10, 10, 200, 100)), (1, (20, 180, 100, 100)))
    before, inside = 10 * SIZE[0] + 10, 200
    column = [100, SIZE[0] - 100]
    counts = [before, *(column * inside)[:-1], SIZE[0] - 110 + (SIZE[1] - 210) * SIZE[0]]
    region = {"iscrowd": iscrowd, "segmentation": {"size": list(SIZE), "counts": counts}}  # as COCO has crowds
    truth["annotations"][0] |= region
    results = told((1, (20, 20, 30, 30), 0.9), (1, (100, 50, 30, 30), 0.8), (1, (20, 180, 100, 100), 0.7))
    figures = evaluate_results(truth, results)
    assert (figures["box_ap"], figures["mask_ap"]) == (is_close(ap), is_close(ap))


def test_an_object_is_found_once() -> None:
    """Two objects; of three detections the second lies on the first's object: found, false, found. Precision is 1 up to
    recall 0.5 (51 recalls), then 2/3 (50)."""
    truth = truth_of((1, (10, 10, 100, 100)), (2, (10, 10, 100, 100)))
    results = told((1, (10, 10, 100, 100), 0.9), (1, (10, 10, 100, 100), 0.8), (2, (10, 10, 100, 100), 0.7))
    assert evaluate_results(truth, results)["box_ap"] == is_close((51 + 50 * 2 / 3) / 101)


def test_categories_are_averaged_and_told_apart() -> None:
    """One category is found, one is told as the other, the third has no object and does not count: (1/2 + 0) / 2.

    The first category's own detection comes second (0.8) after the one on the other's object (0.9): precision 1/2.
    """
    truth = truth_of((1, (10, 10, 100, 100)), (2, (10, 10, 100, 100)), categories=("cat", "dog", "cow"))
    truth["annotations"][1]["category_id"] = 6
    results = told((1, (10, 10, 100, 100), 0.8), (2, (10, 10, 100, 100), 0.9))
    judged = judge_results(truth, results, kinds=("bbox",))
    assert list(judged.figures) == [f"box_{name}" for name in FIGURES]
    assert judged.figures["box_ap"] == is_close(0.25)
    expected = {"cat": {"box_ap": 0.5}, "dog": {"box_ap": 0.0}, "cow": {"box_ap": math.nan}}
    assert judged.per_category == {name: is_close_each(values) for name, values in expected.items()}
    assert set(judged.curves) == {"box"}


def test_an_id_of_0_is_an_id() -> None:
    """pycocotools takes 0 for no object: unnumbered, this would be a miss."""
    truth = truth_of((1, (10, 10, 100, 100)))
    results = as_results(truth)
    truth["annotations"][0]["id"] = 0
    assert evaluate_results(truth, results)["box_ap"] == is_close(1.0)


def test_nothing_told_and_nothing_there() -> None:
    """Nothing told about objects of one size is 0 for all that counts; without objects every figure is nan."""
    truth = truth_of((1, (10, 10, 100, 100)))
    figures = evaluate_results(truth, [])
    for name, value in figures.items():
        assert value == is_close(math.nan if name.endswith(("small", "medium")) else 0.0), name
    empty = truth_of()
    for results in ([], as_results(truth)):
        judged = judge_results(empty, results)
        assert len(judged.figures) == 24
        assert all(math.isnan(value) for value in judged.figures.values())
        assert all(math.isnan(value) for value in judged.per_category["thing"].values())
    nowhere: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    assert all(math.isnan(value) for value in evaluate_results(nowhere, []).values())


def test_without_a_word_and_without_a_trace(capfd: pytest.CaptureFixture[str]) -> None:
    truth = truth_of((1, (10, 10, 100, 100)))
    del truth["annotations"][0]["iscrowd"]  # own files may lack it
    results = as_results(truth)
    before = copy.deepcopy((truth, results))
    evaluate_results(truth, results)
    assert capfd.readouterr() == ("", "")
    assert (truth, results) == before


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"image_id": 99}, "results: image_id 99 is not among the 2 images of ground_truth"),
        ({"category_id": 0}, "results: category_id 0 is not among the 1 categories of ground_truth"),
        ({"segmentation": None}, "results: the entry of image_id 1 has no segmentation, which kind 'segm' needs"),
        ({"bbox": []}, "results: the entry of image_id 1 has no bbox, which kind 'bbox' needs"),
    ],
)
def test_wrong_results(wrong: dict[str, Any], said: str) -> None:
    truth = truth_of((1, (10, 10, 100, 100)))
    with pytest.raises(ValueError, match=said):
        evaluate_results(truth, [{**as_results(truth)[0], **wrong}])


def test_wrong_truth_and_kinds() -> None:
    truth = truth_of((1, (10, 10, 100, 100)))
    results = as_results(truth)
    with pytest.raises(ValueError, match="kinds: expected some of bbox, segm, got keypoints"):
        evaluate_results(truth, results, kinds=("bbox", "keypoints"))
    with pytest.raises(ValueError, match="kinds: expected some of bbox, segm, got none"):
        evaluate_results(truth, results, kinds=())
    for key in ("area", "segmentation"):
        lacking = copy.deepcopy(truth)
        del lacking["annotations"][0][key]
        with pytest.raises(ValueError, match=f"ground_truth: the entry of id 1 has no {key}"):
            evaluate_results(lacking, results)
    assert evaluate_results(lacking, results, kinds=("bbox",))["box_ap"] == is_close(1.0)
