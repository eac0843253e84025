"""Answers of detectors as COCO's results, in one process and several."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, distributed

import halonet
from halonet.detection import coco_results, evaluate_results, gather_results
from halonet.detection.results import encode_mask, plain_figures
from tests.detection.test_evaluation import SIZE, truth_of

CATEGORY_IDS = (5, 17)


def output_of(*boxes: tuple[float, float, float, float], labels: list[int], dtype: torch.dtype = torch.float32) -> Any:
    """What a detector answers: boxes xyxy with masks that fill them, in falling score."""
    masks = torch.zeros(len(boxes), 1, *SIZE, dtype=dtype)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[0, int(y0) : int(y1), int(x0) : int(x1)] = 0.9
    scores = torch.linspace(0.9, 0.5, len(boxes), dtype=dtype)
    return {
        "boxes": torch.tensor(boxes, dtype=dtype).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "scores": scores,
        "masks": masks,
    }


def decode_mask(segmentation: dict[str, Any]) -> Tensor:
    from pycocotools import mask as coco_mask

    return torch.from_numpy(coco_mask.decode(segmentation))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_form_is_cocos(dtype: torch.dtype) -> None:
    """bfloat16 has 256 and 258 and nothing between: widths are not taken in it."""
    outputs = [output_of((1, 20, 258, 80), (0, 0, 8, 8), labels=[2, 1], dtype=dtype), output_of(labels=[])]
    results = coco_results(outputs, [42, 7], category_ids=CATEGORY_IDS)
    assert [result["image_id"] for result in results] == [42, 42]
    assert [result["category_id"] for result in results] == [17, 5]
    assert [result["bbox"] for result in results] == [[1.0, 20.0, 257.0, 60.0], [0.0, 0.0, 8.0, 8.0]]
    assert [result["score"] for result in results] == [float(score) for score in outputs[0]["scores"]]
    for result, mask in zip(results, outputs[0]["masks"], strict=True):
        assert set(result) == {"image_id", "category_id", "bbox", "score", "segmentation"}
        assert result["segmentation"]["size"] == list(SIZE)
        assert torch.equal(decode_mask(result["segmentation"]), (mask[0] > 0.5).byte())
    assert json.loads(json.dumps(results)) == results  # plain values only: no NaN, no tuple, no bytes
    without = coco_results(outputs, [42, 7], category_ids=CATEGORY_IDS, masks=False)
    assert without == [{name: value for name, value in one.items() if name != "segmentation"} for one in results]
    del outputs[0]["masks"], outputs[1]["masks"]  # a detector without masks
    assert coco_results(outputs, [42, 7], category_ids=CATEGORY_IDS) == without


def test_pycocotools_reads_the_file(tmp_path: Path) -> None:
    """Its own loadRes, from a file, and its own evaluation give what `evaluate_results` gives from memory."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = truth_of((1, (10, 20, 30, 60)), (1, (200, 100, 100, 100)), (2, (50, 60, 40, 40)))
    results = coco_results(
        [output_of((12, 20, 40, 80), (200, 110, 300, 200), labels=[1, 1]), output_of((0, 0, 9, 9), labels=[1])],
        [1, 2],
        category_ids=CATEGORY_IDS[:1],
    )
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(results))
    own = evaluate_results(truth, results)
    for kind, word in (("bbox", "box"), ("segm", "mask")):
        coco = COCO(str(tmp_path / "truth.json"))
        judged = COCOeval(coco, coco.loadRes(str(tmp_path / "results.json")), kind)
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
        names = ("ap", "ap50", "ap75")
        assert [own[f"{word}_{name}"] for name in names] == judged.stats[:3].tolist()
        assert 0 < own[f"{word}_ap"] < 1


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**31), st.sampled_from(["p", "u", "b"]))
def test_masks_come_back(height: int, width: int, share: float, seed: int, kind: str) -> None:
    probabilities = torch.from_numpy(np.random.default_rng(seed).random((height, width))).float()
    inside = probabilities < share
    mask: Tensor = {"p": 1 - 0.99 * torch.where(inside, 0.0, 1.0), "u": inside.byte(), "b": inside}[kind]
    encoded = encode_mask(mask[None] if seed % 2 else mask)
    assert type(encoded["counts"]) is str
    assert torch.equal(decode_mask(encoded), inside.byte())


@pytest.mark.parametrize("label", [0, 3])
def test_labels_without_a_category(label: int) -> None:
    with pytest.raises(ValueError, match=f"outputs: expected labels 1 to 2 in image 9, got {label}"):
        coco_results([output_of((0, 0, 9, 9), labels=[label])], [9], category_ids=CATEGORY_IDS)


def test_wrong_outputs() -> None:
    with pytest.raises(ValueError, match="image_ids: expected one for each of 1 outputs, got 2"):
        coco_results([output_of(labels=[])], [1, 2], category_ids=CATEGORY_IDS)
    output = output_of((0, 0, 9, 9), labels=[1])
    for name in ("boxes", "scores"):
        wrong = {**output, name: output[name] * float("nan")}
        with pytest.raises(ValueError, match="outputs: expected finite boxes and scores in image 3, got others"):
            coco_results([wrong], [3], category_ids=CATEGORY_IDS)


def test_figures_as_json_has_them() -> None:
    assert plain_figures({"a": 0.5, "b": float("nan")}) == {"a": 0.5, "b": None}


def one(image_id: int, score: float) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": 5, "bbox": [0.0, 0.0, 1.0, 1.0], "score": score}


def test_alone_results_are_sorted_by_image() -> None:
    results = [one(9, 0.1), one(2, 0.2), one(9, 0.3)]
    assert gather_results(results) == [one(2, 0.2), one(9, 0.1), one(9, 0.3)]
    assert gather_results([]) == []


def test_of_several_processes_each_image_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Image 1 was given to both processes, as samplers do to fill up; both of its detections come from the first."""
    parts = [[one(1, 0.9), one(4, 0.8), one(1, 0.7)], [one(3, 0.6), one(1, 0.91), one(1, 0.71)], []]

    def all_gather(into: list[Any], own: list[Any]) -> None:
        assert own == parts[0]
        into[:] = parts

    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(distributed, "all_gather_object", all_gather)
    assert gather_results(parts[0]) == [one(1, 0.9), one(1, 0.7), one(3, 0.6), one(4, 0.8)]


PROCESS = """
import json, sys
from torch import distributed
from halonet.detection import evaluate_results, gather_results
from tests.detection.test_evaluation import as_results, truth_of
rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
truth = truth_of((1, (10, 10, 90, 90)), (2, (10, 10, 90, 90)), (3, (10, 10, 90, 90)), images=3)
results = [result for result in as_results(truth) if result["image_id"] % 2 == rank or result["image_id"] == 1]
gathered = gather_results(results)
print(json.dumps([[result["image_id"] for result in gathered], evaluate_results(truth, gathered)["box_ap"]]))
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_judge_all_images(tmp_path: Path) -> None:
    """Each has its own images and both have image 1; each then has all three once, and all are found."""
    root = Path(halonet.__file__).parents[1]
    words = [sys.executable, "-c", PROCESS]
    processes = [
        subprocess.Popen([*words, str(rank), str(tmp_path / "meeting")], stdout=subprocess.PIPE, text=True, cwd=root)
        for rank in range(2)
    ]
    for process in processes:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        assert json.loads(said) == [[1, 2, 3], pytest.approx(1.0)]
