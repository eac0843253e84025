"""Whatever is wrong with annotations is found, with its ids, and nothing else is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from halonet.cli import main
from halonet.data.coco import PROBLEMS, DetectionConfig, open_detection_source
from halonet.data.coco.check import check_folder, look_through
from halonet.data.coco.segmentation import decode, wrong_segmentation
from tests.data.making_coco import HEIGHT, WIDTH, annotation, compressed, content, square, write_images, write_json

Told = dict[str, list[Any]]
Found = list[tuple[str, object, object]]  # kind, annotation id, image id
PIXELS = HEIGHT * WIDTH


def with_annotation(*, kind: str, **values: Any) -> Callable[[Told, Path], Found]:
    """One more annotation, number 999 of image 20, that is wrong in `values`; ... takes a key out."""

    def spoil(told: Told, folder: Path) -> Found:
        entry = annotation(999, 20, **values)
        entry = {name: value for name, value in entry.items() if value is not ...}
        told["annotations"].append(entry)
        return [(kind, entry.get("id"), entry.get("image_id"))]

    return spoil


def with_image(*, kind: str, **values: Any) -> Callable[[Told, Path], Found]:
    """Image 30, which has an object, wrong in `values`."""

    def spoil(told: Told, folder: Path) -> Found:
        told["images"][2].update(values)
        told["images"][2] = {name: value for name, value in told["images"][2].items() if value is not ...}
        return [(kind, None, 30)]

    return spoil


def twice(name: str) -> Callable[[Told, Path], Found]:
    def spoil(told: Told, folder: Path) -> Found:
        told[name].append(dict(told[name][1]))
        key = told[name][1]["id"]
        found = {
            "annotations": ("annotation", key, 10),
            "images": ("image", None, key),
            "categories": (None, None, None),
        }
        _, annotation_id, image_id = found[name]
        return [(f"duplicate_{ {'categories': 'category'}.get(name, name[:-1]) }", annotation_id, image_id)]

    return spoil


def with_file(data: bytes | None, *, kind: str, number: int) -> Callable[[Told, Path], Found]:
    def spoil(told: Told, folder: Path) -> Found:
        path = folder / f"{number}.png"
        path.unlink()
        if data is not None:
            path.write_bytes(data)
        return [(kind, None, number)]

    return spoil


def shrunk(told: Told, folder: Path) -> Found:
    Image.new("L", (WIDTH, HEIGHT - 1)).save(folder / "60.png")
    return [("size_differs", None, 60)]


def category(value: Any, *, kind: str, more: Found) -> Callable[[Told, Path], Found]:
    """One that is used by annotation 102, in place of the second."""

    def spoil(told: Told, folder: Path) -> Found:
        told["categories"][1] = value
        return [(kind, None, None), *more]

    return spoil


def rle(counts: Any, *, size: Any = (HEIGHT, WIDTH)) -> dict[str, Any]:
    return {"size": list(size), "counts": counts}


CASES: dict[str, Callable[[Told, Path], Found]] = {
    "no id": with_annotation(kind="missing_key", id=...),
    "no image_id": with_annotation(kind="missing_key", image_id=...),
    "no category_id": with_annotation(kind="missing_key", category_id=...),
    "no bbox": with_annotation(kind="missing_key", bbox=...),
    "image without name": with_image(kind="missing_key", file_name=...),
    "image without height": with_image(kind="missing_key", height=...),
    "file_name": with_image(kind="missing_key", file_name=7),
    "category without name": category({"id": 1}, kind="missing_key", more=[]),
    # What is told of no id cannot be known to be told of 1.
    "category id": category(
        {"id": "1", "name": "dog"}, kind="not_a_number", more=[("unknown_category", 102, 10)]
    ),
    "id": with_annotation(kind="not_a_number", id="999"),
    "true id": with_annotation(kind="not_a_number", category_id=True),
    "long id": with_annotation(kind="not_a_number", id=2**63),
    "NaN box": with_annotation(kind="not_a_number", bbox=[0, float("nan"), 1, 1]),
    "text box": with_annotation(kind="not_a_number", bbox=["0", 0, 1, 1]),
    "short box": with_annotation(kind="not_a_number", bbox=[0, 0, 1]),
    "null box": with_annotation(kind="not_a_number", bbox=None),
    "area": with_annotation(kind="not_a_number", area=float("inf")),
    "iscrowd": with_annotation(kind="not_a_number", iscrowd=2),
    "height": with_image(kind="not_a_number", height=12.5),
    "width": with_image(kind="not_a_number", width=0),
    "two categories": twice("categories"),
    "two images": twice("images"),
    "two annotations": twice("annotations"),
    "unknown image": with_annotation(kind="unknown_image", image_id=21),
    "unknown category": with_annotation(kind="unknown_category", category_id=2),
    "flat box": with_annotation(kind="box_empty", bbox=[3, 3, 4, 0]),
    "turned box": with_annotation(kind="box_empty", bbox=[8, 8, -4, 2]),
    "box to the right": with_annotation(kind="box_outside", bbox=[WIDTH, 2, 4, 4]),
    "box above": with_annotation(kind="box_outside", bbox=[2, -5, 4, 5]),
    "box beyond the right": with_annotation(kind="box_beyond", bbox=[12, 2, 5.5, 4]),
    "box beyond the top": with_annotation(kind="box_beyond", bbox=[4, -1.5, 4, 4]),
    "no segmentation": with_annotation(kind="segmentation_empty", segmentation=...),
    "null segmentation": with_annotation(kind="segmentation_empty", segmentation=None),
    "empty segmentation": with_annotation(kind="segmentation_empty", segmentation=[]),
    "polygons outside": with_annotation(
        kind="segmentation_empty", segmentation=[[-9, 1, -1, 1, -1, 5], [1, HEIGHT, 5, HEIGHT, 5, HEIGHT + 4]]
    ),
    "no pixel": with_annotation(kind="segmentation_empty", segmentation=rle([PIXELS])),
    "no pixel as text": with_annotation(
        kind="segmentation_empty", segmentation=rle(compressed(0 * square())["counts"])
    ),
    "odd polygon": with_annotation(kind="segmentation_polygon", segmentation=[[1, 1, 5, 1, 5, 5, 1]]),
    "line": with_annotation(kind="segmentation_polygon", segmentation=[[1, 1, 5, 1]]),
    "second polygon": with_annotation(kind="segmentation_polygon", segmentation=[[1, 1, 5, 1, 5, 5], []]),
    "flat list": with_annotation(kind="segmentation_polygon", segmentation=[1, 1, 5, 1, 5, 5]),
    "text in polygon": with_annotation(kind="segmentation_polygon", segmentation=[[1, 1, 5, "1", 5, 5]]),
    "NaN in polygon": with_annotation(kind="segmentation_polygon", segmentation=[[1, 1, 5, float("nan"), 5, 5]]),
    "far polygon": with_annotation(kind="segmentation_polygon", segmentation=[[1, 1, 5, 1e30, 5, 5]]),
    "size of mask": with_annotation(kind="segmentation_rle", segmentation=rle([PIXELS], size=(WIDTH, HEIGHT))),
    "counts too few": with_annotation(kind="segmentation_rle", segmentation=rle([10, 4])),
    "counts too many": with_annotation(kind="segmentation_rle", segmentation=rle([10, PIXELS])),
    "negative count": with_annotation(kind="segmentation_rle", segmentation=rle([-10, PIXELS + 10])),
    "broken count": with_annotation(kind="segmentation_rle", segmentation=rle([0.5, PIXELS - 0.5])),
    "no counts": with_annotation(kind="segmentation_rle", segmentation={"size": [HEIGHT, WIDTH]}),
    "null counts": with_annotation(kind="segmentation_rle", segmentation=rle(None)),
    "text of a larger mask": with_annotation(
        kind="segmentation_rle", segmentation=rle(compressed(np.ones((99, 99)))["counts"])
    ),
    "text that stops": with_annotation(kind="segmentation_rle", segmentation=rle(compressed(square())["counts"][:-1])),
    "text of other letters": with_annotation(kind="segmentation_rle", segmentation=rle("!?")),
    "text without end": with_annotation(kind="segmentation_rle", segmentation=rle("o" * 30 + "0")),
    # 192 in two characters, twelve that add nothing, and an end: more bits than any number has.
    "text of endless zeros": with_annotation(kind="segmentation_rle", segmentation=rle("PV" + 12 * "P" + "0")),
    "no file": with_file(None, kind="file_missing", number=40),
    "empty file": with_file(b"", kind="file_unreadable", number=50),
    "no image": with_file(b"Not an image.", kind="file_unreadable", number=50),
    "another size": shrunk,
}  # fmt: skip


def spoiled(root: Path, *names: str) -> Found:
    """A single file of annotations with these cases; what must be found."""
    told = content()
    write_images(root / "images", told)
    found = [line for name in names for line in CASES[name](told, root / "images")]
    write_json(root / "labels.json", told)
    return found


def found_in(root: Path) -> Found:
    return [(problem.kind, problem.annotation_id, problem.image_id) for problem in check_folder(root)]


@pytest.mark.parametrize("name", CASES)
def test_one_wrong_entry_is_found_and_nothing_else(name: str, tmp_path: Path) -> None:
    expected = spoiled(tmp_path, name)
    assert found_in(tmp_path) == expected
    # Training goes on without it, and says so, unless it is only clipped.
    detection = DetectionConfig(max_bad=0.4)
    source = open_detection_source(detection, root=tmp_path, split_seed=0, val_fraction=0.3)
    on_opening = [line for line in expected if line[0] not in ("file_unreadable", "size_differs")]
    assert [(problem.kind, problem.annotation_id, problem.image_id) for problem in source.problems] == on_opening
    clipped = expected[0][0] == "box_beyond"
    assert bool(source.warning) == (bool(on_opening) and not clipped)
    truth = [item for split in ("train", "val") for item in source.splits[split].ground_truth()["annotations"]]
    assert (999 in [item["annotation_id"] for item in truth]) == clipped


def test_a_right_set_has_no_problem(tmp_path: Path) -> None:
    spoiled(tmp_path)
    check = look_through(tmp_path)
    assert check.problems == []
    facts = check.parts["train"]
    assert (facts.images, facts.annotations, facts.crowds, facts.categories) == (6, 8, 1, 3)


def test_a_polygon_around_the_image_is_in_it(tmp_path: Path) -> None:
    told = content()
    around = [[-1, -1, WIDTH + 1, -1, WIDTH + 1, HEIGHT + 1, -1, HEIGHT + 1]]
    told["annotations"][0]["segmentation"] = around
    write_images(tmp_path / "images", told)
    write_json(tmp_path / "labels.json", told)
    assert check_folder(tmp_path) == []


def test_a_file_without_images_is_told(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    write_json(tmp_path / "labels.json", {"images": [], "annotations": [], "categories": [{"id": 1, "name": "dog"}]})
    assert found_in(tmp_path) == [("json", None, None)]


def test_every_kind_is_found_at_once(tmp_path: Path) -> None:
    names = [
        "no bbox", "NaN box", "two categories", "two images", "two annotations", "unknown image", "unknown category",
        "flat box", "box above", "box beyond the top", "null segmentation", "odd polygon", "counts too few", "no file",
        "empty file", "another size",
    ]  # fmt: skip
    told = content(20)
    write_images(tmp_path / "train", told)
    write_images(tmp_path / "val", told)
    expected: Found = []
    for number, name in enumerate(names, 900):
        for kind, annotation_id, image_id in CASES[name](told, tmp_path / "train"):
            if annotation_id == 999:  # each of them under a number of its own
                told["annotations"][-1]["id"] = annotation_id = number
            expected.append((kind, annotation_id, image_id))
    write_json(tmp_path / "annotations" / "instances_train.json", told)
    other = content(20)
    other["categories"][0]["name"] = "tiger"
    write_json(tmp_path / "annotations" / "instances_val.json", other)
    (tmp_path / "annotations" / "instances_test.json").write_text("{")
    expected += [("category_differs", None, None), ("json", None, None)]
    found = found_in(tmp_path)
    assert set(found) == set(expected)
    assert len(found) == len(expected)
    assert {kind for kind, _, _ in expected} == set(PROBLEMS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [],\n  "annotations": [1, 2,,]}', "json: line 2, column 24"),
        ('{"images": []', "json: line 1, column 14"),
        ("", "json: line 1, column 1"),
        ("[]", "json: expected an object with images, annotations and categories, got list"),
        ('{"images": [], "annotations": []}', "missing_key: .* found no categories"),
        ('{"images": {}, "annotations": [], "categories": []}', "json: images: expected a list, got dict"),
        ("[" * 200_000, "json: lists within lists"),
    ],
)
def test_a_file_that_is_none_says_where(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        open_detection_source(DetectionConfig(), root=tmp_path, split_seed=0, val_fraction=0.3)
    (problem,) = check_folder(tmp_path)
    assert problem.kind in ("json", "missing_key")


def test_more_than_max_bad_refuses_the_data(tmp_path: Path) -> None:
    spoiled(tmp_path, "flat box", "no bbox")  # 2 of 10, though both have the id 999
    source = DetectionConfig(max_bad=0.2)
    assert open_detection_source(source, root=tmp_path, split_seed=0, val_fraction=0.3).warning
    with pytest.raises(
        ValueError, match=r"2 of 10 annotations of .* are wrong, .* 0.19 .*annotation 999, annotation 999"
    ):
        open_detection_source(DetectionConfig(max_bad=0.19), root=tmp_path, split_seed=0, val_fraction=0.3)


def test_missing_images_count_too(tmp_path: Path) -> None:
    told = content()
    write_images(tmp_path, told)
    (tmp_path / "60.png").unlink()  # which has no annotation
    write_json(tmp_path / "labels.json", told)
    with pytest.raises(ValueError, match=r"1 of 6 images of .* image 60"):
        open_detection_source(DetectionConfig(), root=tmp_path, split_seed=0, val_fraction=0.3)


@settings(max_examples=150, deadline=None)
@given(
    counts=st.text(alphabet=[chr(48 + value) for value in range(66)], max_size=8),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
)
def test_text_is_taken_exactly_if_it_fills_the_mask(counts: str, height: int, width: int) -> None:
    """What is let through decodes to as many pixels as it tells, which pycocotools encodes the same again."""
    told = {"size": [height, width], "counts": counts}
    if wrong_segmentation(told, height=height, width=width) is None:
        mask = decode(told, height=height, width=width)
        again = decode(compressed(mask), height=height, width=width)
        np.testing.assert_array_equal(mask, again)
        assert int(coco_mask.area({"size": [height, width], "counts": counts})) == mask.sum()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_mask_of_pycocotools_is_right(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    mask = (rng.random((height, width)) < data.draw(st.floats(0, 1))).astype(np.uint8)
    told = compressed(mask)
    assert (wrong_segmentation(told, height=height, width=width) is None) == mask.any()
    np.testing.assert_array_equal(decode(told, height=height, width=width), mask)
    longer = {**told, "size": [height, width + 1]}
    assert wrong_segmentation(longer, height=height, width=width + 1) is not None


def test_the_command_tells_all_and_its_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoiled(tmp_path / "right")
    spoiled(tmp_path / "wrong", "flat box", "no file")
    assert main(["data", "check", str(tmp_path / "right")]) == 0
    assert "problems: 0" in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path / "wrong"), "--jobs", "2"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(f"image 40: file_missing: no file {tmp_path}/wrong/images/40.png")
    assert "labels.json: annotation 999, image 20: box_empty: bbox: expected" in lines[1]
    assert "train: 6 images, 9 annotations (1 crowd regions), 3 categories" in lines[3]
    assert main(["data", "check", str(tmp_path / "wrong"), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["counts"] == {"box_empty": 1, "file_missing": 1}
    assert [problem["annotation_id"] for problem in told["problems"]] == [None, 999]
    words = ["--annotations", "val=labels.json", "--images", "val=images", "--no-open"]
    assert main(["data", "check", str(tmp_path / "right"), *words]) == 0
    assert "val: 6 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["FOLDER"], "no annotations of COCO's form in .*: expected annotations/instances_"),
        (["FOLDER/none"], "expected a folder of images and annotations, found none"),
        (["FOLDER", "--annotations", "train"], "expected PART=PATH, got 'train'"),
        (["FOLDER", "--annotations", "dev=a.json"], "expected parts train, val or test, got 'dev'"),
        (["FOLDER", "--annotations", "val=a.json"], "expected a file for val, found none at .*a.json"),
    ],
)
def test_usage_is_told_in_a_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.txt").write_text("nothing")
    assert main(["data", "check", *(word.replace("FOLDER", str(tmp_path)) for word in words)]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert re.search(message, error)
