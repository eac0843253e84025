"""The whole way round: annotations, what a detector is trained on, its answers, COCO's results, average precision."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from halonet.data.coco import (
    Category,
    DetectionConfig,
    DetectionDataset,
    DetectionSource,
    eval_transform,
    open_detection_source,
)
from halonet.data.coco.write import write_coco
from halonet.detection import coco_results, create_detector, judge_results

SCENES = DetectionConfig(drawn_images=1, drawn_size=[96, 128])
# As COCO's: with gaps, and not in order.
IDS = (90, 4, 13, 2, 77, 31)


def drawn() -> DetectionSource:
    return open_detection_source(SCENES, root=None, split_seed=0, val_fraction=0.1)


def in_files(folder: Path) -> DetectionSource:
    """The same scenes as COCO's files, with other category ids, and a crowd in a corner of each image."""
    source = drawn()
    categories = tuple(Category(new, old.name) for new, old in zip(IDS, source.categories, strict=True))
    write_coco(replace(source, categories=categories), folder)
    for path in (folder / "annotations").glob("*.json"):
        told = json.loads(path.read_text())
        for image in told["images"]:
            height, width = image["height"], image["width"]
            told["annotations"].append(
                {
                    "id": 100000 + image["id"],
                    "image_id": image["id"],
                    "category_id": IDS[0],
                    "bbox": [0, 0, 4, 3],
                    "area": 12,
                    "iscrowd": 1,
                    "segmentation": {
                        "size": [height, width],
                        "counts": [0, *[3, height - 3] * 3, 3, height - 3 + (width - 4) * height],
                    },
                }
            )
        path.write_text(json.dumps(told))
    return open_detection_source(DetectionConfig(), root=str(folder), split_seed=0, val_fraction=0.1)


@pytest.mark.parametrize("form", ["drawn", "files"])
def test_the_targets_told_are_perfect(form: str, tmp_path: Path) -> None:
    """All figures are 1 (nan for sizes that no object has), for boxes, masks and each category; with the categories in
    another order they are not."""
    source = drawn() if form == "drawn" else in_files(tmp_path / "scenes")
    part = source.splits["val"]
    dataset = DetectionDataset(part, transform=eval_transform(), seed=0)
    outputs: list[dict[str, Any]] = []
    image_ids: list[int] = []
    for number in range(len(dataset)):
        _, target = dataset[number]
        outputs.append({**target, "scores": torch.ones(len(target["labels"]))})
        image_ids.append(int(target["image_id"]))
    truth = part.ground_truth()
    assert sum(annotation["iscrowd"] for annotation in truth["annotations"]) == (0 if form == "drawn" else len(part))
    category_ids = [category.id for category in source.categories]
    judged = judge_results(truth, coco_results(outputs, image_ids, category_ids=category_ids))
    for name, value in judged.figures.items():
        if not name.endswith(("ar1", "large")):  # an image may have two of a category; scenes are small
            assert value == pytest.approx(1.0), name
    assert all(math.isnan(judged.figures[f"{word}_ap_large"]) for word in ("box", "mask"))
    assert set(judged.per_category) == {"ellipse", "rectangle", "triangle", "star", "ring", "cross"}
    for name, values in judged.per_category.items():
        assert values == {"box_ap": pytest.approx(1.0), "mask_ap": pytest.approx(1.0)}, name
    wrong = [*category_ids[1:], category_ids[0]]
    assert judge_results(truth, coco_results(outputs, image_ids, category_ids=wrong)).figures["box_ap"] < 0.1


def test_an_untrained_detector_is_judged() -> None:
    """Every answer is plain JSON and counts; what it finds by chance is next to nothing."""
    torch.manual_seed(0)
    source = drawn()
    part = source.splits["val"]
    options: dict[str, Any] = {"detections_per_img": 10, "rpn_pre_nms_top_n_test": 50, "rpn_post_nms_top_n_test": 20}
    model = create_detector("maskrcnn_halo_nano_128", num_classes=source.num_classes, **options).eval()
    dataset = DetectionDataset(part, transform=eval_transform(), seed=0)
    with torch.inference_mode():
        outputs = model([dataset[number][0] for number in range(2)])
    category_ids = [category.id for category in source.categories]
    results = coco_results(outputs, [item.image_id for item in part[:2]], category_ids=category_ids)
    assert len(results) == sum(len(output["labels"]) for output in outputs) > 0
    assert json.loads(json.dumps(results)) == results
    assert all(result["segmentation"]["size"] == [96, 128] for result in results)
    figures = judge_results(part.ground_truth(), results).figures
    assert 0 <= figures["box_ap"] < 0.05
    assert 0 <= figures["mask_ap"] < 0.05
