"""The detection task as it is used on folders in COCO's form: published recipes, weights to begin from, odd data."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models import resnet50

from halonet.cli.settings import parse_settings
from halonet.data.coco import DetectionConfig, open_detection_source
from halonet.data.coco.write import write_coco
from halonet.detection import create_detector, list_detectors
from halonet.models import create_model
from halonet.models.checkpoints import save_weights
from halonet.training.detection.categories import ELSEWHERE
from halonet.training.detection.kind import Detection, DetectionParts
from halonet.training.detection.results import write_weights
from halonet.training.task import Judging
from tests.training.conftest import error_line, only_run, run
from tests.training.test_coco_recipes import NAMES, models_of
from tests.training.test_nothing_lost import assert_same_run, history, losses

ROOT = Path(__file__).parents[2]
Capture = pytest.CaptureFixture[str]
# Sizes that a CPU can take, for every kind.
SMALL = (
    *("min_size=96", "max_size=96", "rpn_pre_nms_top_n_train=60", "rpn_post_nms_top_n_train=30"),
    *("rpn_pre_nms_top_n_test=60", "rpn_post_nms_top_n_test=20", "box_batch_size_per_image=16", "topk_candidates=50"),
)
NANO = (
    *("--task", "detection", "--trainer.accelerator=cpu", "--trainer.progress=none", "--trainer.threads=1"),
    *("--data.batch_size=2", "--model.overrides.min_size=64", "--model.overrides.max_size=96", "--optim.lr=0.002"),
    *("--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1"),
)
# Beside each recipe's own model.
FURTHER = {
    "halonet_coco": ("maskrcnn_resnet50_se8_1024", "maskrcnn_resnet50_se8_halo_b32_1024"),
    "vil_1x_coco": ("maskrcnn_vil_tiny_800", "retinanet_vil_tiny_800", "maskrcnn_vil_small_ape_performer_800"),
    "resnet_1x_coco": ("maskrcnn_resnet18_800", "retinanet_resnet18_800"),
    "fa_maskrcnn_coco": ("maskrcnn_resnet50_fpn",),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve training images in COCO's form, with eight to validate and to test."""
    path = tmp_path_factory.mktemp("annotated") / "scenes"
    source = open_detection_source(
        DetectionConfig(drawn_images=12, drawn_size=[64, 96]), root=None, split_seed=0, val_fraction=0.1
    )
    write_coco(source, path)
    return path


def changed(folder: Path, to: Path, change: Callable[[dict[str, Any]], None], *, parts: tuple[str, ...] = ()) -> Path:
    """A copy with `change` done to the annotations of all parts, or of those named."""
    shutil.copytree(folder, to)
    for file in (to / "annotations").iterdir():
        if not parts or file.stem.removeprefix("instances_") in parts:
            told = json.loads(file.read_text())
            change(told)
            file.write_text(json.dumps(told))
    return to


def built(*arguments: object) -> DetectionParts:
    settings, _ = parse_settings("fit", [str(word) for word in arguments], description="", options={})
    return Detection().build(settings)


def judged(weights: Path, *arguments: object) -> DetectionParts:
    settings, _ = parse_settings("test", [str(word) for word in (*NANO, *arguments)], description="", options={})
    return Detection().from_weights(settings, weights, judging=Judging("test"))


def without_segmentations(told: dict[str, Any]) -> None:
    for annotation in told["annotations"]:
        del annotation["segmentation"]


def in_another_order(told: dict[str, Any]) -> None:
    """The same objects; the ids of the categories, and so their labels, reversed."""
    ids = [category["id"] for category in told["categories"]]
    other = dict(zip(ids, reversed(ids), strict=True))
    told["categories"] = [{**category, "id": other[category["id"]]} for category in told["categories"]]
    told["annotations"] = [{**one, "category_id": other[one["category_id"]]} for one in told["annotations"]]


def first_three(told: dict[str, Any]) -> None:
    told["categories"] = told["categories"][:3]
    kept = {category["id"] for category in told["categories"]}
    told["annotations"] = [one for one in told["annotations"] if one["category_id"] in kept]


@pytest.fixture(scope="module")
def weights(folder: Path) -> Path:
    """A detector that knows the categories of `folder` by name, not trained."""
    path = folder.parent / "weights.safetensors"
    source = open_detection_source(DetectionConfig(), root=folder, split_seed=0, val_fraction=0.1)
    model = create_detector("maskrcnn_halo_nano_128", num_classes=source.num_classes)
    write_weights(model, path.parent, categories=source.categories, extra={})
    return path


@pytest.mark.parametrize("parts", [(), ("val",)])
def test_masks_cannot_be_learnt_from_boxes(
    folder: Path, tmp_path: Path, parts: tuple[str, ...], capsys: Capture
) -> None:
    boxes = changed(folder, tmp_path / "boxes", without_segmentations, parts=parts)
    told = error_line(capsys, "fit", *NANO, "--data.root", boxes)
    assert "model.name: maskrcnn_halo_nano_128 is a Mask R-CNN, but boxes has a part without segmentations" in told
    assert "fasterrcnn_*" in told
    small = ("--model.overrides.fpn_channels=8", "--model.overrides.fc_dim=8")
    assert built(*NANO, "--model.name=fasterrcnn/resnet18", *small, "--data.root", boxes).task.kinds == ("bbox",)


def test_masks_are_judged_where_there_are_any(folder: Path, weights: Path, tmp_path: Path) -> None:
    boxes = changed(folder, tmp_path / "boxes", without_segmentations)
    assert judged(weights, "--data.root", boxes).task.kinds == ("bbox",)
    assert judged(weights, "--data.root", folder).task.kinds == ("bbox", "segm")
    # A part with nothing on it has no masks either.
    empty = changed(folder, tmp_path / "empty", lambda told: told.update(annotations=[]), parts=("test",))
    assert judged(weights, "--data.root", empty).task.kinds == ("bbox", "segm")


def test_categories_are_matched_by_name(folder: Path, weights: Path, tmp_path: Path, capsys: Capture) -> None:
    """In another order, and fewer of them; one that the weights do not know is refused."""
    assert judged(weights, "--data.root", folder).task.category_ids == (1, 2, 3, 4, 5, 6)
    turned = changed(folder, tmp_path / "turned", in_another_order)
    assert judged(weights, "--data.root", turned).task.category_ids == (6, 5, 4, 3, 2, 1)
    fewer = changed(folder, tmp_path / "fewer", first_three)
    task = judged(weights, "--data.root", fewer).task
    assert task.category_ids == (1, 2, 3, ELSEWHERE, ELSEWHERE, ELSEWHERE)
    found = {"boxes": torch.ones(6, 4), "labels": torch.arange(1, 7), "scores": torch.ones(6)}
    task.model = AlwaysSays({**found, "masks": torch.ones(6, 1, 4, 4)})
    task.validation_step(([torch.zeros(3, 4, 4)], [{"image_id": torch.tensor(3)}]), 0)
    assert [result["category_id"] for result in task.results] == [1, 2, 3]

    def rename(told: dict[str, Any]) -> None:
        told["categories"][1]["name"] = "moose"

    other = changed(folder, tmp_path / "other", rename)
    told = error_line(capsys, "test", *NANO, "--weights", weights, "--data.root", other)
    assert "1 of 6 categories of other are unknown to" in told
    assert "moose; it knows ellipse" in told


class AlwaysSays(nn.Module):
    def __init__(self, answer: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: list[torch.Tensor], targets: object) -> list[dict[str, torch.Tensor]]:
        return [self.answer] * len(images)


@pytest.mark.parametrize(("change", "anew"), [(None, 0), (in_another_order, 6), (first_three, 6)])
def test_other_categories_start_anew(
    folder: Path, weights: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None] | None, anew: int
) -> None:
    data = folder if change is None else changed(folder, tmp_path / "data", change)
    parts = built(*NANO, "--model.weights", weights, "--data.root", data)
    word = f"; other categories: {anew} tensors start anew" if anew else ""
    assert parts.notes == (f"started from {weights}{word}",)
    state, began = parts.model.state_dict(), load_file(weights)
    differ = {name for name, tensor in began.items() if not torch.equal(state[name], tensor)}
    assert all(name.startswith("roi_heads.") for name in differ)
    # Weights and biases of classes, boxes of each class, and masks of each class; biases begin at zero.
    assert len(differ) >= anew // 2
    assert (differ == set()) == (anew == 0)


def test_what_a_limit_leaves_out_is_told(folder: Path, weights: Path) -> None:
    words = ("test", "--json", *NANO, "--weights", weights, "--data.root", folder, "--out=judged")
    assert run(*words) == 0
    told = json.loads((Path("judged") / "judged.json").read_text())
    assert (told["images"], told["left_out"]) == (2, 30)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "model"),
    [(name, model) for name in NAMES for model in (None, *FURTHER.get(name, ()))],
)
def test_every_recipe_runs(recipe: str, model: str | None, folder: Path) -> None:
    """Two steps as published but for the sizes, in bfloat16, laid under `smoke`."""
    options = ("--config", recipe, "--config=smoke", "--data.root", folder, "--trainer.accelerator=cpu")
    small = (*(f"--model.overrides.{option}" for option in SMALL), "--data.batch_size=2")
    short = ("--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1")
    named = () if model is None else ("--model.name", model)
    assert model is None or model in models_of(recipe, list_detectors)
    bf16 = ("--trainer.precision=bf16-mixed", "--trainer.progress=none", "--out=runs")
    assert run("fit", *options, *small, *short, *named, *bf16) == 0
    found = only_run(Path("runs"))
    assert len(losses(found)) == 2
    metrics = json.loads((found / "metrics.json").read_text())
    assert ("mask_ap" in metrics["test"]) == metrics["model"].startswith("maskrcnn")
    assert metrics["effective"]["precision"] == "bf16-mixed"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "detector", "backbone", "counts"),
    [
        ("vil_1x_coco", "retinanet_vil_tiny_800", "vil_tiny_224", "220 tensors taken, 1 resized, 0 start anew"),
        ("halonet_coco", None, "resnet50_se8_halo_512", "379 tensors taken, 0 resized, 0 start anew"),
        ("resnet_1x_coco", None, "torchvision", "265 tensors taken, 0 resized, 0 start anew"),
        ("botnet_1x_coco", None, "torchvision", "315 tensors taken, 0 resized, 12 start anew"),
    ],
)
def test_backbones_begin_from_classifiers(
    recipe: str, detector: str | None, backbone: str, counts: str, folder: Path, capsys: Capture
) -> None:
    """Every tensor of the backbone that is taken is the classifier's, and frozen norms are so after a step too."""
    torch.manual_seed(3)
    file = Path("classifier.pth" if backbone == "torchvision" else "classifier.safetensors")
    classifier = resnet50() if backbone == "torchvision" else create_model(backbone)
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            module.running_mean.normal_(std=0.1)
    if backbone == "torchvision":
        torch.save(classifier.state_dict(), file)
    else:
        save_weights(classifier, file)
    options = ("--config", recipe, "--config=smoke", "--data.root", folder, "--trainer.accelerator=cpu")
    small = tuple(f"--model.overrides.{option}" for option in SMALL)
    named = () if detector is None else ("--model.name", detector)
    words = (*options, *small, *named, "--detection.backbone_weights", file, "--data.batch_size=2")
    parts = built(*words)
    assert parts.notes == (f"backbone started from {file}: {counts}",)
    theirs = {(value.shape, value.double().sum().item()) for value in classifier.state_dict().values()}
    state = parts.model.backbone.backbone.state_dict()
    same = [name for name, value in state.items() if (value.shape, value.double().sum().item()) in theirs]
    assert len(same) >= int(counts.split()[0])

    short = ("--trainer.max_steps=1", "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1", "--out=runs")
    assert run("fit", *words, *short) == 0
    assert f"backbone started from {file}: {counts}" in capsys.readouterr().out
    trained = load_file(only_run(Path("runs")) / "weights.safetensors")
    norms = [name for name in trained if name.startswith("backbone.backbone") and name.endswith("running_mean")]
    kept = [name for name in norms if torch.equal(trained[name], state[name.removeprefix("backbone.backbone.")])]
    assert kept == (norms if recipe == "resnet_1x_coco" else [])


def process(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "halonet", "fit", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, text=True, stderr=subprocess.PIPE, **options)


def finish(*arguments: object) -> None:
    with process(*arguments) as started:
        said = started.communicate(timeout=400)[1]
    assert started.returncode == 0, said


@pytest.mark.slow
def test_a_signal_on_files_with_loading_processes(folder: Path, tmp_path: Path) -> None:
    """To the whole group, as a terminal sends it; what goes on equals what was never stopped."""
    options = (*NANO, "--data.root", folder, "--data.num_workers=2", "--trainer.max_epochs=3", "--trainer.devices=1")
    finish(*options, "--out", tmp_path / "whole")
    out = tmp_path / "cut"
    with process(*options, "--out", out, start_new_session=True) as started:
        while started.poll() is None and not [
            path for path in out.glob("*/*/steps.csv") if len(losses(path.parent)) > 1
        ]:
            time.sleep(0.02)
        os.killpg(started.pid, signal.SIGTERM)
        said = started.communicate(timeout=120)[1]
    assert started.returncode == 143, said
    assert 1 < len(losses(only_run(out))) < 18
    finish("--ckpt_path", "last", "--out", out)
    assert_same_run(only_run(tmp_path / "whole"), only_run(out))


@pytest.mark.slow
def test_a_step_of_two_processes_is_that_of_one(tmp_path: Path) -> None:
    """A RetinaNet draws nothing to learn from and takes the mean over images of what it is off: with constant norms the
    losses of every step, and the weights, are the same."""
    small = ("norm=frozen", "fpn_channels=16", "box_convs=1", "topk_candidates=50", "min_size=64", "max_size=64")
    options = (
        *("--task=detection", "--model.name=retinanet/resnet18", "--trainer.accelerator=cpu", "--trainer.threads=1"),
        *(f"--model.overrides.{one}" for one in small),
        *("--detection.drawn_size=[64,64]", "--detection.drawn_images=24", "--trainer.max_epochs=6"),
        *("--optim.name=sgd", "--optim.lr=0.01", "--optim.warmup_steps=2", "--optim.global_batch=4"),
        # One step an epoch, whose loss is then that of all processes.
        *("--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1"),
    )
    for devices in (1, 2):
        many = ("--trainer.strategy=ddp",) if devices == 2 else ()
        sizes = (f"--trainer.devices={devices}", f"--data.batch_size={4 // devices}")
        finish(*options, *many, *sizes, "--out", tmp_path / f"{devices}")
    one, two = (only_run(tmp_path / name) for name in ("1", "2"))
    first, second = (torch.tensor([row["train/loss"] for row in history(folder)]) for folder in (one, two))
    assert len(set(first.tolist())) == 6
    torch.testing.assert_close(second, first, rtol=1e-5, atol=1e-5)
    states: list[Mapping[str, torch.Tensor]] = [load_file(run / "weights.safetensors") for run in (one, two)]
    torch.testing.assert_close(states[1], states[0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compiled(folder: Path) -> None:
    """The backbone under torch.compile gives the losses that it gives without."""
    options = (*NANO, "--data.root", folder, "--trainer.max_steps=2")
    for compiled in ("true", "false"):
        assert run("fit", *options, "--trainer.compile", compiled, "--out", compiled) == 0
    first, second = (torch.tensor(losses(only_run(Path(out)))) for out in ("true", "false"))
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)
