"""Finding objects in pictures from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from halonet.analysis.detection_pictures import class_colour
from halonet.data.coco import draw_scene
from halonet.detection import coco_results, create_detector, judge_results, load_detector, save_detector
from halonet.training.detection import predict as predicting
from tests.training.conftest import error_line, run

Capture = pytest.CaptureFixture[str]
CATEGORIES = [{"id": 3, "name": "circle"}, {"id": 8, "name": "star"}]


class BrightDetector(nn.Module):
    """Answers as torchvision's detectors do. Each image has two objects, as large as it is bright: a circle (0.9)
    at the left, a star (0.3) at the right; a black image has none."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.batches.append(len(images))
        return [self.answer(image) for image in images]

    def answer(self, image: Tensor) -> dict[str, Tensor]:
        assert image.dtype == torch.float32
        _, height, width = image.shape
        side = round(float(image.max()) * 100)
        boxes = torch.tensor([[0, 0, side, side], [width - side, 0, width, side]], dtype=torch.float32)
        masks = torch.zeros(2, 1, height, width)
        masks[0, :, :side, :side] = masks[1, :, :side, width - side :] = 1
        count = 2 if side else 0
        return {
            "boxes": boxes[:count],
            "labels": torch.tensor([1, 2])[:count],
            "scores": torch.tensor([0.9, 0.3])[:count],
            "masks": masks[:count],
        }


@pytest.fixture
def detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BrightDetector:
    """What weights.safetensors holds."""
    model = BrightDetector()
    metadata = {"task": "detection", "model": "bright", "categories": json.dumps(CATEGORIES)}
    save_file({"x": torch.zeros(1)}, "weights.safetensors", metadata=metadata)
    monkeypatch.setattr(predicting, "load_detector", lambda path: (model, metadata))
    return model


def picture(path: str, *, side: int, height: int = 60, width: int = 80) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), round(2.55 * side), dtype=np.uint8)).save(path)
    return Path(path)


@pytest.mark.usefixtures("detector")
def test_a_line_a_picture_and_files(capsys: Capture) -> None:
    picture("street.png", side=20)
    picture("night/black.png", side=0)
    assert run("predict", "street.png", "night", "--weights", "weights.safetensors", "--out", "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "street.png: 1 circle; out/street_detections.png",
        "night/black.png: nothing; out/black_detections.png",
    ]
    names = {"street_detections.png", "black_detections.png", "detections.json", "images.json"}
    assert {path.name for path in Path("out").iterdir()} == names
    results = json.loads(Path("out/detections.json").read_text())
    assert [(one["image_id"], one["category_id"], one["bbox"]) for one in results] == [
        (1, 3, [0.0, 0.0, 20.0, 20.0]),
        (1, 8, [60.0, 0.0, 20.0, 20.0]),
    ]
    assert json.loads(Path("out/images.json").read_text()) == {
        "images": [
            {"id": 1, "file_name": "street.png", "width": 80, "height": 60},
            {"id": 2, "file_name": "night/black.png", "width": 80, "height": 60},
        ],
        "categories": CATEGORIES,
    }


@pytest.mark.usefixtures("detector")
@pytest.mark.parametrize(("threshold", "stars"), [("0.5", False), ("0.2", True)])
def test_what_is_sure_enough_is_drawn_and_counted(threshold: str, stars: bool, capsys: Capture) -> None:
    """The results hold the star either way. A picture of 60x80 is drawn six times as large."""
    picture("a.png", side=20)
    assert run("predict", "a.png", "--weights", "weights.safetensors", "--score-threshold", threshold) == 0
    assert capsys.readouterr().out == f"a.png: 1 circle{', 1 star' if stars else ''}; a_detections.png\n"
    drawn = np.asarray(Image.open("a_detections.png"))
    assert drawn.shape == (360, 480, 3)
    circle, star = ((drawn == class_colour(label)).all(-1) for label in (1, 2))
    assert circle.any()
    assert star.any() == stars
    assert len(json.loads(Path("detections.json").read_text())) == 2


@pytest.mark.usefixtures("detector")
def test_pycocotools_reads_both_files() -> None:
    """images.json is the set that detections.json answers for; with the told objects as truth they are perfect."""
    from pycocotools.coco import COCO

    for number, side in ((17, 20), (4, 30)):
        picture(f"images/{number:012d}.png", side=side)
    assert run("predict", "images", "--weights", "weights.safetensors") == 0
    images = COCO("images.json")
    read = images.loadRes("detections.json")
    assert sorted(read.getImgIds()) == [4, 17]  # the numbers that the files are named by
    truth = json.loads(Path("images.json").read_text())
    annotations = [
        {"id": number, "image_id": image_id, "category_id": 3, "bbox": [0, 0, side, side], "area": side * side}
        for number, (image_id, side) in enumerate(((17, 20), (4, 30)), 1)
    ]
    results = json.loads(Path("detections.json").read_text())
    judged = judge_results({**truth, "annotations": annotations}, results, kinds=("bbox",))
    assert judged.per_category["circle"]["box_ap"] == pytest.approx(1.0)


@pytest.mark.parametrize(("batch", "batches"), [((), [4, 1]), (("--batch", 2), [2, 2, 1])])
def test_batches(detector: BrightDetector, batch: tuple[Any, ...], batches: list[int], capsys: Capture) -> None:
    """Pictures of unequal size are one batch."""
    paths = [picture(f"{number}.png", side=10, width=60 + 10 * number) for number in range(5)]
    assert run("predict", *paths, "--weights", "weights.safetensors", "--device", "cpu", *batch, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert detector.batches == batches
    assert [entry["image_id"] for entry in told] == [0, 1, 2, 3, 4]
    assert [entry["objects"][1]["box"] for entry in told] == [[50.0 + 10 * n, 0.0, 10.0, 10.0] for n in range(5)]
    assert told[0]["objects"][0] == {
        "name": "circle",
        "category_id": 3,
        "score": pytest.approx(0.9),
        "box": [0.0, 0.0, 10.0, 10.0],
    }
    assert [entry["picture"] for entry in told] == [f"{n}_detections.png" for n in range(5)]


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["000000000139.jpg", "7.png"], [139, 7]),
        (["a/1.png", "b/1.png"], [1, 2]),
        (["12.png", "x.png"], [1, 2]),
        (["²5.png"], [1]),
    ],
)
def test_image_ids(names: list[str], ids: list[int]) -> None:
    assert predicting.number_pictures([Path(name) for name in names]) == ids


@pytest.mark.usefixtures("detector")
def test_pictures_of_one_name_do_not_replace_each_other(capsys: Capture) -> None:
    paths = [picture(name, side=20) for name in ("a/x.png", "b/x.png", "b/x_2.png")]
    assert run("predict", *paths, "--weights", "weights.safetensors", "--out", "out") == 0
    files = [line.split("; ")[1] for line in capsys.readouterr().out.splitlines()]
    assert files == ["out/x_detections.png", "out/x_2_detections.png", "out/x_2_2_detections.png"]
    assert all(Path(file).is_file() for file in files)


@pytest.mark.usefixtures("detector")
def test_a_bad_picture(capsys: Capture) -> None:
    """As with classes: one line that names it; what was told before stays, no results are written."""
    picture("a.png", side=20)
    Path("bad.png").write_bytes(b"no picture")
    words = ("predict", "a.png", "bad.png", "--weights", "weights.safetensors", "--out", "out", "--batch", 1)
    assert error_line(capsys, *words) == "halonet: error: cannot read image bad.png: not an image Pillow knows"
    assert [path.name for path in Path("out").iterdir()] == ["a_detections.png"]


@pytest.mark.usefixtures("detector")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--csv", "a.csv"), "--csv: weights.safetensors finds objects, which --out has as JSON"),
        (("--score-threshold", "2"), "score-threshold: expected 0 to 1, got 2.0"),
        (("--batch", "0"), "batch: expected at least 1, got 0"),
        (("--device", "mars"), "device: mars: "),
    ],
)
def test_wrong_words(words: tuple[str, ...], said: str, capsys: Capture) -> None:
    picture("a.png", side=20)
    assert said in error_line(capsys, "predict", "a.png", "--weights", "weights.safetensors", *words)


@pytest.mark.parametrize("categories", [None, CATEGORIES[:1]])
def test_weights_that_do_not_name_what_they_find(
    categories: Any, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    metadata = {"task": "detection", "model": "bright"}
    metadata |= {} if categories is None else {"categories": json.dumps(categories)}
    save_file({"x": torch.zeros(1)}, "weights.safetensors", metadata=metadata)
    monkeypatch.setattr(predicting, "load_detector", lambda path: (BrightDetector(), metadata))
    picture("a.png", side=20)
    said = error_line(capsys, "predict", "a.png", "--weights", "weights.safetensors")
    expected = (
        "weights.safetensors has no categories in its metadata: not written by halonet fit"
        if categories is None
        else "outputs: expected labels 1 to 1 in image 1, got 2"
    )
    assert expected in said


def test_a_detector_from_its_file(capsys: Capture) -> None:
    """An untrained one on a drawn scene: the results are those of its own answer to the picture."""
    torch.manual_seed(0)
    options = {"detections_per_img": 5, "rpn_pre_nms_top_n_test": 50, "rpn_post_nms_top_n_test": 20}
    model = create_detector("maskrcnn_halo_nano_128", num_classes=3, **options)
    save_detector(model, "weights.safetensors", metadata={"categories": json.dumps(CATEGORIES)})
    image = draw_scene(0, 0).image
    Image.fromarray(image).save("scene.png")
    assert run("predict", "scene.png", "--weights", "weights.safetensors", "--device", "cpu", "--json") == 0
    (told,) = json.loads(capsys.readouterr().out)
    loaded, _ = load_detector("weights.safetensors")
    with torch.inference_mode():
        outputs = loaded.eval()([torch.from_numpy(image).permute(2, 0, 1) / 255])
    expected = coco_results(outputs, [1], category_ids=[3, 8])
    assert json.loads(Path("detections.json").read_text()) == expected
    assert len(told["objects"]) == len(expected) > 0
    assert np.asarray(Image.open("scene_detections.png")).shape == (384, 384, 3)


@pytest.mark.usefixtures("detector")
@pytest.mark.parametrize("command", ["validate", "test"])
def test_judging_as_another_task(command: str, capsys: Capture) -> None:
    said = error_line(capsys, command, "--weights", "weights.safetensors")
    expected = "weights.safetensors is of the task detection, not classification: give --task detection"
    assert said == f"halonet: error: {expected}"
