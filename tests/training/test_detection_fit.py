"""The detection task through the command line: what a run leaves, that it goes on, and what is refused."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from torch import nn

import halonet
from halonet.cli.settings import parse_settings
from halonet.data.coco import DetectionConfig, open_detection_source
from halonet.detection import create_detector, load_detector, save_detector
from halonet.models.checkpoints import load_model, save_weights
from halonet.training.config import ModelConfig, RunConfig
from halonet.training.detection.kind import Detection
from halonet.training.detection.module import LOSSES, DetectionTask, truth_of
from halonet.training.throughput import batch_size_of
from halonet.training.trainer import prepare
from tests.training.conftest import error_line, only_run, run
from tests.training.test_nothing_lost import Killed, assert_same_run, at_batch, history, kill, losses

ROOT = Path(__file__).parents[2]
Capture = pytest.CaptureFixture[str]
NANO = (
    *("--task", "detection", "--trainer.accelerator=cpu", "--trainer.progress=lines", "--trainer.threads=1"),
    *("--detection.drawn_size=[64,64]", "--detection.drawn_images=6", "--data.batch_size=2"),
    *("--model.overrides.min_size=64", "--model.overrides.max_size=64", "--optim.lr=0.003"),
)
FEW = ("--trainer.max_epochs=2", "--trainer.limit_val_batches=2", "--trainer.limit_test_batches=3")
SOURCE: dict[str, Any] = {"root": None, "split_seed": 0, "val_fraction": 0.1}
BOXES = ("box_ap", "box_ap50", "box_ap75", "box_ar100")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a two-epoch run on six drawn scenes."""
    out = tmp_path_factory.mktemp("detection")
    assert run("fit", *NANO, *FEW, "--out", out) == 0
    return only_run(out)


@pytest.fixture
def _without_pictures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_pictures", "write_detections"):
            patch.setattr(f"halonet.training.detection.kind.{name}", lambda *_, **__: [])
        yield


def test_a_run_leaves_its_results(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} == {
        *("weights.safetensors", "config.yaml", "effective.yaml", "metrics.json", "steps.csv", "checkpoints", "logs"),
        *("curves.png", "detections.png", "precision.png", "detections.json"),
    }
    text = (trained / "metrics.json").read_text()
    metrics = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert metrics["images"] == {"train": 6, "val": 32, "test": 32}
    assert {"mask_ap", "mask_ap50", *BOXES} <= set(metrics["test"])
    names = [category.name for category in open_detection_source(DetectionConfig(), **SOURCE).categories]
    assert list(metrics["test"]["per_category"]) == names
    assert metrics["val_box_ap"] == max(row["val/box_ap"] for row in metrics["history"])
    assert len(losses(trained)) == 6
    results = json.loads((trained / "detections.json").read_text())
    assert results
    assert {"image_id", "category_id", "bbox", "score", "segmentation"} == set(results[0])
    with safe_open(trained / "weights.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["task"] == "detection"
    categories = json.loads(metadata["categories"])
    assert [one["name"] for one in categories] == names
    assert yaml.safe_load((trained / "effective.yaml").read_text())["of"] == "images"
    for picture, least in (("curves.png", 400), ("detections.png", 700), ("precision.png", 400)):
        with Image.open(trained / picture) as image:
            assert image.width > least, picture


@pytest.mark.parametrize("by", ["weights", "ckpt_path"])
def test_the_same_figures_from_the_weights(trained: Path, by: str, capsys: Capture) -> None:
    """validate and test tell what the run told of its best epoch."""
    file = trained / ("weights.safetensors" if by == "weights" else "checkpoints/best.ckpt")
    metrics = json.loads((trained / "metrics.json").read_text())
    capsys.readouterr()
    assert run("test", "--json", f"--{by}", file, "--out", "judged") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["images"] == 6
    for name in (*BOXES, "mask_ap", "mask_ap50"):
        assert figures[name] == pytest.approx(metrics["test"][name], abs=1e-6), name
    assert figures["per_category"] == metrics["test"]["per_category"]
    detections = json.loads((Path("judged") / "detections.json").read_text())
    assert detections == json.loads((trained / "detections.json").read_text())
    if by == "weights":
        assert run("validate", "--json", "--weights", file, "--out", "judged") == 0
        assert json.loads(capsys.readouterr().out)["box_ap"] == pytest.approx(metrics["val_box_ap"], abs=1e-6)
    else:
        assert run("test", "--ckpt_path", file, "--out", "judged") == 0
        assert "box_ap50" in capsys.readouterr().out


@pytest.mark.usefixtures("_without_pictures")
def test_a_run_goes_on_bit_for_bit() -> None:
    """Killed within an epoch; told in steps, so that the last epoch is not whole."""
    arguments = (
        "fit",
        *NANO,
        "--trainer.max_steps=5",
        "--trainer.limit_val_batches=1",
        "--trainer.limit_test_batches=1",
    )
    draws = ("--model.drop_path_rate=0.2", "--detection.scale_jitter=[0.5,1.5]", "--trainer.save_every_steps=1")
    assert run(*arguments, *draws, "--out=whole") == 0
    with at_batch(1, 1, kill, task=DetectionTask), pytest.raises(Killed):
        run(*arguments, *draws, "--out=cut")
    assert run("fit", "--ckpt_path=last", "--out=cut") == 0
    assert_same_run(only_run(Path("whole")), only_run(Path("cut")))
    assert [row["epoch"] for row in history(only_run(Path("cut")))] == [1, 2]


@pytest.mark.usefixtures("_without_pictures")
@pytest.mark.parametrize(("kind", "backbone"), [("fasterrcnn", "halonet_nano_32"), ("retinanet", "resnet18")])
def test_other_kinds_and_backbones(kind: str, backbone: str) -> None:
    """By kind and backbone; the backbone of a classifier, blocks computed again, a moving average, bf16."""
    options = ("--model.name", f"{kind}/{backbone}", "--trainer.precision=bf16-mixed", "--optim.ema_decay=0.5")
    small = ("--model.overrides.fpn_channels=16", "--model.overrides.box_convs=0", "--model.overrides.fc_dim=16")
    again = () if kind == "retinanet" else ("--model.grad_checkpointing=true",)
    # At 64 pixels level 6 is one pixel, whose gradient torch gets wrong in bfloat16 on a CPU (docs/detection.md).
    small += ("--model.overrides.min_size=96", "--model.overrides.max_size=96")
    one = tuple(f"--trainer.limit_{part}_batches=1" for part in ("train", "val", "test"))
    assert run("fit", *NANO, *options, *small, *again, *one, "--trainer.max_epochs=1", "--out=runs") == 0
    metrics = json.loads((only_run(Path("runs")) / "metrics.json").read_text())
    assert "box_ap50" in metrics["test"]
    assert "mask_ap" not in metrics["test"]
    assert metrics["effective"]["grad_checkpointing"] == bool(again)


def test_losses_are_all_summed() -> None:
    """Every loss of torchvision's detectors by its name, none left out."""
    images = [torch.rand(3, 64, 64)]
    target = {
        "boxes": torch.tensor([[8.0, 8.0, 40.0, 40.0]]),
        "labels": torch.tensor([1]),
        "masks": torch.ones(1, 64, 64, dtype=torch.uint8),
    }
    small: dict[str, Any] = {"fpn_channels": 8, "fc_dim": 8, "mask_channels": 8, "norm": "none"}
    for kind, names in LOSSES.items():
        model = create_detector(kind, "resnet18", 3, min_size=64, max_size=64, **small)
        assert set(model(images, [target])) == set(names)


def test_weights_to_start_from(trained: Path, tmp_path: Path, capsys: Capture) -> None:
    weights = trained / "weights.safetensors"
    words = [str(word) for word in (*NANO, "--model.weights", weights)]
    settings, _ = parse_settings("fit", words, description="", options={})
    parts = Detection().build(settings)
    trained_model, _ = load_detector(weights)
    assert_same_state(parts.model, trained_model)
    backbone = tmp_path / "backbone.safetensors"
    save_detector(trained_model, backbone)
    both = ("--model.weights", weights, "--detection.backbone_weights", weights)
    assert "expected one of them, got both" in error_line(capsys, "fit", *NANO, *both)


def assert_same_state(first: nn.Module, second: nn.Module) -> None:
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)


def test_grad_checkpointing_is_the_backbones() -> None:
    model = create_detector("maskrcnn_halo_nano_128", num_classes=3)
    prepare(model, RunConfig(model=ModelConfig(grad_checkpointing=True)))
    able = [part for part in model.modules() if getattr(part, "grad_checkpointing", False)]
    assert able


def test_the_truth_of_what_was_seen() -> None:
    truth = {
        "images": [{"id": 3}, {"id": 5}],
        "annotations": [{"id": 1, "image_id": 3}, {"id": 2, "image_id": 5}],
        "categories": [{"id": 1, "name": "a"}],
    }
    assert truth_of(truth, [5, 3]) is truth
    assert truth_of(truth, [5]) == {**truth, "images": [{"id": 5}], "annotations": [{"id": 2, "image_id": 5}]}


def test_images_in_a_batch() -> None:
    targets = [{"boxes": torch.zeros(7, 4)}] * 2
    assert batch_size_of((list(torch.zeros(2, 3, 8, 9)), targets)) == 2
    assert batch_size_of([torch.zeros(5, 3, 8, 9), torch.zeros(5)]) == 5
    assert batch_size_of({"left": torch.zeros(4, 3, 8, 9)}) == 4


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--data.mixup=0.2",), "data.mixup: has no meaning for the task detection"),
        (("--data.img_size=64",), "data.img_size: has no meaning"),
        (("--model.drop_rate=0.2",), "model.drop_rate: has no meaning"),
        (("--model.random_shift=0.5",), "model.random_shift: has no meaning"),
        (("--model.overrides.num_classes=4",), "num_classes follows from the data"),
        (("--model.name=maskrcnn_halo_nano_12",), "maskrcnn_halo_nano_128"),
        (("--model.name=halonet_nano_32",), "row of list_detectors()"),
        (("--model.overrides.fpn_chanels=4",), "fpn_channels"),
        (("--detection.flip=2",), "detection.flip: expected 0 to 1, got 2"),
        (("--detection.dataset=coco",), "data.root: expected the folder"),
        (("--data.root=gone",), "gone"),
        (("--detection.annotations.valid=a.json",), "expected parts train, val or test, got 'valid'"),
        (("--detection.backbone_weights=gone.pth",), "gone.pth"),
    ],
)
def test_settings_that_do_not_fit(options: tuple[str, ...], told: str, capsys: Capture) -> None:
    assert told in error_line(capsys, "fit", *NANO, *options)


def test_weights_of_something_else(trained: Path, capsys: Capture, tmp_path: Path) -> None:
    save_weights(halonet.create_model("halonet_nano_32"), tmp_path / "classifier.safetensors")
    message = error_line(
        capsys, "test", "--task=detection", "--config=detection_drawn", "--weights", tmp_path / "classifier.safetensors"
    )
    assert "classifier.safetensors does not hold a detector" in message
    message = error_line(capsys, "test", "--weights", trained / "weights.safetensors", "--part", "all")
    assert "--part: has no meaning" in message
    few = create_detector("maskrcnn_halo_nano_128", num_classes=3)
    save_detector(few, Path("few.safetensors"))
    message = error_line(capsys, "test", "--task=detection", "--weights", "few.safetensors")
    assert "is of 2 categories, drawn has" in message


@pytest.mark.parametrize("command", ["summary", "study", "export"])
def test_commands_that_are_not_for_detectors(command: str, trained: Path, capsys: Capture) -> None:
    """They say so of a file and of a run's folder; test_cli has the names."""
    arguments = {
        "export": ("export", "--format=onnx", "--out=a.onnx"),
    }.get(command, (command,))
    for given in (trained, trained / "weights.safetensors"):
        told = error_line(capsys, *arguments, given)
        assert f"{given} holds the detector maskrcnn_halo_nano_128: " in told
    with pytest.raises(ValueError, match="holds the detector maskrcnn_halo_nano_128: "):
        load_model(trained / "weights.safetensors")


def in_processes(*arguments: object) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "halonet", "fit", *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_equal_one(strategy: str, tmp_path: Path) -> None:
    """Batch norm over both. Proposals are drawn at random to learn from, by each process for its own images; with all
    of them there is nothing to draw, and the first losses agree. Both judge by the same figures."""
    every = ("rpn_batch_size_per_image=100000", "box_batch_size_per_image=2000", "rpn_positive_fraction=1.0")
    options = (
        *NANO,
        *(f"--model.overrides.{one}" for one in every),
        *("--trainer.sync_batchnorm=true", "--trainer.max_epochs=1", "--optim.global_batch=4"),
        *("--detection.drawn_images=8", "--detection.flip=0", "--trainer.save_every_minutes=0"),
    )
    for devices, batch in ((1, 4), (2, 2)):
        many = (f"--trainer.strategy={strategy}",) if devices == 2 else ()
        in_processes(
            *options,
            *many,
            f"--trainer.devices={devices}",
            f"--data.batch_size={batch}",
            "--out",
            tmp_path / f"{devices}",
        )
    one, two = (only_run(tmp_path / name) for name in ("1", "2"))
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (one, two)]
    assert metrics[0]["images"] == metrics[1]["images"]
    assert math.isfinite(metrics[1]["test"]["box_ap"])
    assert metrics[1]["history"][0]["train/loss"] == pytest.approx(metrics[0]["history"][0]["train/loss"], rel=0.05)
    assert len(losses(two)) == len(losses(one)) == 2


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes(tmp_path: Path) -> None:
    """Both save, and what goes on equals what was never stopped."""
    options = (
        *NANO, *("--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.sync_batchnorm=true"),
        *("--detection.drawn_images=96", "--trainer.max_epochs=1", "--trainer.limit_val_batches=1"),
        "--trainer.limit_test_batches=1",
    )  # fmt: skip
    in_processes(*options, "--out", tmp_path / "whole")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    out = tmp_path / "cut"
    command = [sys.executable, "-m", "halonet", "fit", *options, "--out", str(out)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not [path for path in out.glob("*/*/steps.csv") if losses(path.parent)]:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=120)[1].strip().splitlines()
    assert process.returncode == 143, said
    assert 0 < len(losses(only_run(out))) < 24
    in_processes("--ckpt_path", "last", "--out", out)
    assert_same_run(only_run(tmp_path / "whole"), only_run(out))
