"""COCO's files in every layout, as torchvision and pycocotools read them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch.utils.data import DataLoader
from torchvision.datasets import CocoDetection

from halonet.data.coco import (
    Category,
    DetectionConfig,
    DetectionDataset,
    DetectionSource,
    collate,
    eval_transform,
    open_detection_source,
)
from tests.data.making_coco import HEIGHT, WIDTH, annotation, content, square, write_images, write_json, write_set


def opened(root: Path, *, split_seed: int = 0, val_fraction: float = 0.4, **settings: object) -> DetectionSource:
    return open_detection_source(
        DetectionConfig(**settings),  # type: ignore[arg-type]
        root=root,
        split_seed=split_seed,
        val_fraction=val_fraction,
    )


def ids(source: DetectionSource, part: str) -> list[int]:
    return [item.image_id for item in source.splits[part]]  # type: ignore[index]


def coco_2017(root: Path) -> dict:
    write_set(root)
    write_json(root / "annotations" / "image_info_test2017.json", {"images": [], "categories": []})
    write_json(root / "annotations" / "captions_train2017.json", {"images": [], "annotations": []})
    return {}


def plain_years(root: Path) -> dict:
    """Of two years the newer, whole."""
    write_set(root, parts=("train2014", "val2014"), images=3)
    write_set(root)
    return {}


def three_parts(root: Path, *, folder: str = "{}") -> dict:
    for part in ("train", "val", "test"):
        told = content()
        write_images(root / folder.format(part), told)
        write_json(root / "annotations" / f"instances_{part}.json", told)
    return {}


def roboflow(root: Path) -> dict:
    for part in ("train", "valid", "test"):
        told = content()
        write_images(root / part, told)
        write_json(root / part / "_annotations.coco.json", told)
    return {}


def single(root: Path, *, images: str = "images", name: str = "labels.json") -> dict:
    told = content()
    write_images(root / images, told)
    write_json(root / name, told)
    return {}


def paths_in_names(root: Path) -> dict:
    told = content()
    write_images(root / "pictures" / "all", told)
    for entry in told["images"]:
        entry["file_name"] = f"pictures/all/{entry['file_name']}"
    write_json(root / "annotations" / "all.json", told)
    return {}


def by_name(root: Path) -> dict:
    told = content()
    write_images(root / "a" / "b", told)
    write_json(root / "one.json", told)
    write_json(root / "two.json", told)
    return {
        "annotations": {"train": "one.json", "val": str(root / "two.json")},
        "images": dict.fromkeys(("train", "val"), "a/b"),
    }


LAYOUTS: dict[str, tuple[Callable[[Path], dict], str]] = {
    "COCO 2017": (coco_2017, "val"),
    "two years": (plain_years, "val"),
    "a folder a part": (three_parts, "own"),
    "images/ and a folder a part": (lambda root: three_parts(root, folder="images/{}"), "own"),
    "images/ for all": (lambda root: three_parts(root, folder="images"), "own"),
    "Roboflow": (roboflow, "own"),
    "one file": (single, "cut"),
    "one file beside its images": (lambda root: single(root, images=".", name="_annotations.coco.json"), "cut"),
    "FiftyOne": (lambda root: single(root, images="data"), "cut"),
    "paths in the names": (paths_in_names, "cut"),
    "told by name": (by_name, "val"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_are_told_by_what_lies_there(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, tested_on = LAYOUTS[name]
    source = opened(tmp_path, **make(tmp_path))
    assert capsys.readouterr().out == ""  # pycocotools would tell what it does
    assert source.problems == []
    assert source.name == tmp_path.name
    assert source.test_is_val == (tested_on != "own")
    whole = [10, 20, 30, 40, 50, 60]
    if tested_on == "cut":
        assert sorted([*ids(source, "train"), *ids(source, "val"), 60]) in (whole, [*whole, 60])
    else:
        assert ids(source, "train") == whole[:-1]  # the last has no object
        assert ids(source, "val") == whole
    for part in source.splits.values():
        for item in part:
            assert item.load().image.tolist() == np.full((HEIGHT, WIDTH, 3), item.image_id).tolist()


def test_one_file_is_cut_by_its_seed(tmp_path: Path) -> None:
    single(tmp_path)
    parts = {seed: ids(opened(tmp_path, split_seed=seed), "val") for seed in range(6)}
    assert all(len(part) == 2 for part in parts.values())  # 0.4 of 6
    assert len({tuple(part) for part in parts.values()}) > 1
    assert ids(opened(tmp_path, split_seed=3), "val") == parts[3]
    source = opened(tmp_path)
    assert source.splits["test"] is source.splits["val"] or ids(source, "test") == ids(source, "val")
    with pytest.raises(ValueError, match=r"data.val_fraction: 0 of 6 images leaves 6 to train on and 0 to validate"):
        opened(tmp_path, val_fraction=0.0)


def test_a_set_may_have_nothing_to_train_on(tmp_path: Path) -> None:
    write_set(tmp_path, parts=("test2017",))
    source = opened(tmp_path)
    assert "train" not in source.splits
    assert ids(source, "val") == ids(source, "test") == [10, 20, 30, 40, 50, 60]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: (root / "none.txt").write_text(""), r"data.root: no annotations of COCO's form in .*expected"),
        (by_name, r"2 JSON files in .* \(one.json, two.json\), none named after a part: .*detection.annotations"),
        (
            lambda root: write_json(root / "a.json", {"images": [], "annotations": [], "categories": []}),
            r"data.val_fraction: 0.4 of 0 images leaves 0 to train on",
        ),
    ],
)
def test_other_folders_are_told(make: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(ValueError, match=message):
        opened(tmp_path)
    with pytest.raises(ValueError, match=r"data.root: expected a folder .*, found none at"):
        opened(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"detection.annotations: expected a file for val, found none at"):
        opened(tmp_path, annotations={"val": "nothing.json"})
    with pytest.raises(ValueError, match=r"detection.images: expected a folder for val, found none at"):
        opened(tmp_path, annotations={"val": str(write_json(tmp_path / "b.json", content()))}, images={"val": "none"})
    with pytest.raises(ValueError, match=r"detection.images: there are no annotations of part test, found val"):
        opened(tmp_path, annotations={"val": "b.json"}, images={"test": "."})


def test_categories_are_numbered_by_their_ids(tmp_path: Path) -> None:
    source = opened(write_set(tmp_path))
    assert source.categories == (Category(1, "dog"), Category(3, "cat"), Category(90, "brush"))
    assert source.num_classes == 4
    assert source.splits["val"][0].load().labels.tolist() == [2, 1, 3, 2]


def test_images_are_in_the_order_of_their_ids(tmp_path: Path) -> None:
    told = content()
    write_images(tmp_path, told)
    for entries in told.values():
        entries.reverse()
    write_json(tmp_path / "a.json", told)
    part = opened(tmp_path, annotations={"val": "a.json"}).splits["val"]
    assert [item.image_id for item in part] == [10, 20, 30, 40, 50, 60]
    assert [len(item.load().labels) for item in part] == [4, 1, 1, 1, 1, 0]
    assert {int(item.load().image[0, 0, 0]) for item in part[1:3]} == {20, 30}


def test_parts_must_have_the_same_categories(tmp_path: Path) -> None:
    write_set(tmp_path)
    told = content()
    told["categories"].append({"id": 91, "name": "new"})
    write_json(tmp_path / "annotations" / "instances_val2017.json", told)
    with pytest.raises(ValueError, match=r"category_differs: category 91 is 'new', in .*train2017.json not listed"):
        opened(tmp_path)


def test_all_forms_of_a_segmentation_give_one_mask(tmp_path: Path) -> None:
    loaded = opened(write_set(tmp_path)).splits["val"][0].load()
    for mask in loaded.masks:
        np.testing.assert_array_equal(mask, square())
    assert loaded.boxes.tolist() == [[4, 2, 8, 6]] * 4
    assert loaded.iscrowd.tolist() == [0, 0, 0, 1]
    assert loaded.area.tolist() == [16] * 4
    assert loaded.annotation_ids.tolist() == [101, 102, 103, 104]


def test_torchvision_and_pycocotools_read_the_same(tmp_path: Path) -> None:
    """On polygons off the grid, in several parts, and partly outside."""
    told = content()
    rng = np.random.default_rng(0)
    for number in range(200, 212):
        polygons = rng.uniform(-3, 19, (int(rng.integers(1, 4)), 2 * int(rng.integers(3, 9)))).round(2).tolist()
        told["annotations"].append(annotation(number, 30, segmentation=polygons, bbox=[0.25, 1.5, 9.1, 8.3]))
    write_images(tmp_path, told)
    path = write_json(tmp_path / "a.json", told)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = CocoDetection(str(tmp_path), str(path))
    part = opened(tmp_path, annotations={"val": "a.json"}).splits["val"]
    for item, key, (picture, entries) in zip(part, theirs.ids, theirs, strict=True):
        loaded = item.load()
        assert item.image_id == key
        np.testing.assert_array_equal(loaded.image, np.asarray(picture))
        assert loaded.annotation_ids.tolist() == [entry["id"] for entry in entries]
        for mask, box, entry in zip(loaded.masks, loaded.boxes, entries, strict=True):
            np.testing.assert_array_equal(mask, theirs.coco.annToMask(entry))
            left, top, width, height = entry["bbox"]
            np.testing.assert_allclose(box, [left, top, left + width, top + height], rtol=1e-6)


def test_training_has_images_with_objects_alone(tmp_path: Path) -> None:
    told = content(3)
    told["annotations"][4]["iscrowd"] = 1  # the one of image 20; image 30 has none
    write_images(tmp_path / "train", told)
    write_images(tmp_path / "val", told)
    for part in ("train", "val"):
        write_json(tmp_path / "annotations" / f"instances_{part}.json", told)
    source = opened(tmp_path)
    assert ids(source, "train") == [10]
    assert ids(source, "val") == [10, 20, 30]
    _, target = DetectionDataset(source.splits["val"], transform=eval_transform(), seed=0)[2]
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].shape == (0, HEIGHT, WIDTH)


def oriented(image: Image.Image, path: Path) -> None:
    """Turned by 90 degrees, with the note that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "CMYK", "P", "I;16"])
def test_pictures_of_all_modes_are_read(mode: str, tmp_path: Path) -> None:
    told = content(2)
    write_images(tmp_path, told)
    suffix = "tif" if mode == "CMYK" else "png"
    Image.new(mode, (WIDTH, HEIGHT)).save(tmp_path / f"x.{suffix}")
    told["images"][0]["file_name"] = f"x.{suffix}"
    write_json(tmp_path / "a.json", told)
    image = opened(tmp_path, annotations={"val": "a.json"}).splits["val"][0].load().image
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert image.dtype == np.uint8


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("told_as", ["seen", "stored"])
def test_turned_pictures_follow_their_annotations(told_as: str, mode: str, tmp_path: Path) -> None:
    """Turned as seen where the annotations tell that size, left alone where they tell the size of the file."""
    told = content(2)
    write_images(tmp_path, told)
    pixels = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH)
    oriented(Image.fromarray(pixels).convert(mode), tmp_path / "10.png")
    if told_as == "stored":
        told["images"][0] |= {"height": WIDTH, "width": HEIGHT}
        told["annotations"] = []
    write_json(tmp_path / "a.json", told)
    image = opened(tmp_path, annotations={"val": "a.json"}).splits["val"][0].load().image
    np.testing.assert_array_equal(image[..., 0], pixels if told_as == "seen" else np.rot90(pixels))


def test_boxes_without_masks_are_a_set_of_their_own(tmp_path: Path) -> None:
    told = content(3)
    for entry in told["annotations"]:
        entry["segmentation"] = []
    told["annotations"][0] |= {"bbox": [1.5, 2.25, 3.0, 4.5]}
    del told["annotations"][1]["segmentation"], told["annotations"][1]["area"]
    write_images(tmp_path, told)
    write_json(tmp_path / "a.json", told)
    source = opened(tmp_path, annotations={"val": "a.json"})
    assert source.problems == []
    assert not source.has_masks
    loaded = source.splits["val"][0].load()
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[2:7, 1:4] = 1  # centres from 1.5 to below 4.5 and from 2.25 to below 6.75
    np.testing.assert_array_equal(loaded.masks[0], expected)
    assert loaded.area[1] == 16
    assert source.splits["val"].ground_truth()["annotations"][1]["area"] == 16


def test_boxes_are_clipped(tmp_path: Path) -> None:
    """By up to a pixel without a word, and the judge's box stays as it was; by more it is told, and clipped for all."""
    told = content(3)
    told["annotations"][0]["bbox"] = [-0.5, 2, 4, 10.75]
    told["annotations"][1]["bbox"] = [10, -3, 8, 5]
    write_images(tmp_path, told)
    write_json(tmp_path / "a.json", told)
    source = opened(tmp_path, annotations={"val": "a.json"})
    assert [(problem.kind, problem.annotation_id) for problem in source.problems] == [("box_beyond", 102)]
    assert source.warning == ""
    assert source.splits["val"][0].load().boxes[:2].tolist() == [[0, 2, 3.5, 12], [10, 0, 16, 2]]
    truth = source.splits["val"].ground_truth()["annotations"]
    assert [entry["bbox"] for entry in truth[:2]] == [[-0.5, 2, 4, 10.75], [10, 0, 6, 2]]


def test_the_truth_judges_without_files(tmp_path: Path) -> None:
    """An annotation of id 0, which COCO's evaluation would take for none, counts as all others."""
    told = content()
    for number, entry in enumerate(told["annotations"]):
        entry["id"] = number
    del told["annotations"][1]["area"]
    told["annotations"].append(annotation(77, 20, bbox=[3, 3, 0, 3]))
    write_images(tmp_path, told)
    path = write_json(tmp_path / "a.json", told)
    truth = opened(tmp_path, annotations={"val": "a.json"}, max_bad=0.2).splits["val"].ground_truth()
    path.unlink()
    assert [entry["annotation_id"] for entry in truth["annotations"]] == list(range(8))
    assert [entry["area"] for entry in truth["annotations"]] == [16.0] * 8
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        results = [
            {"image_id": entry["image_id"], "category_id": entry["category_id"], "bbox": entry["bbox"], "score": 0.9}
            for entry in truth["annotations"]
            if not entry["iscrowd"]
        ]
        judge = COCOeval(coco, coco.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    assert judge.stats[0] == pytest.approx(1.0)


def test_loading_processes_read_the_same(tmp_path: Path) -> None:
    dataset = DetectionDataset(opened(write_set(tmp_path)).splits["val"], transform=eval_transform(), seed=0)
    alone = [dataset[index] for index in range(len(dataset))]
    loader = DataLoader(dataset, batch_size=2, num_workers=2, collate_fn=collate)
    both = [pair for images, targets in loader for pair in zip(images, targets, strict=True)]
    for (image, target), (other, its) in zip(alone, both, strict=True):
        assert torch.equal(image, other)
        assert all(torch.equal(value, its[name]) for name, value in target.items())


def test_training_says_what_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Once, with the first ids; nothing where nothing is wrong."""
    from halonet.training.config import RunConfig
    from halonet.training.detection.kind import _open

    write_set(tmp_path)
    config = RunConfig(task="detection")
    config.data.root = str(tmp_path)
    config.detection.max_bad = 0.3
    _open(config)
    assert capsys.readouterr().err == ""
    told = content()
    told["annotations"][4]["bbox"][2] = 0
    told["annotations"][5]["category_id"] = 7
    write_json(tmp_path / "annotations" / "instances_train2017.json", told)
    _open(config)
    assert capsys.readouterr().err.strip() == (
        f"{tmp_path.name}: 2 wrong entries are left out (1 unknown_category, 1 box_empty: annotation 20, annotation 30)"
    )
