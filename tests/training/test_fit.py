"""Whole runs through the command line: what they leave, that they go on, and what they say when interrupted."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import halonet
from halonet.training.classification.module import ClassificationTask
from halonet.training.config import RunConfig
from halonet.training.run import evaluate
from tests.training.conftest import SMALL, only_run, run

SETTLED = {"config.yaml", "effective.yaml"}  # what was asked for, and what it came to


def state(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0, msg=name)


def test_a_run_leaves_its_results(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    pictures = {"curves.png", "predictions.png", "attention.png"}
    files = {"weights.safetensors", "metrics.json", "steps.csv", "checkpoints", "logs"}
    assert names == {*SETTLED, *files, *pictures}
    for name in pictures:
        with Image.open(finished / name) as image:
            assert min(image.size) > 200
    kept = {path.name for path in (finished / "checkpoints").iterdir()}
    assert kept == {"last.ckpt", "last-1.ckpt", "best.ckpt"}
    logs = {path.name.split(".")[0] for path in (finished / "logs" / "version_0").iterdir()}
    assert {"metrics", "events"} <= logs


def test_metrics(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["images"] == {"train": 1259, "val": 179, "test": 359}
    assert [row["epoch"] for row in metrics["history"]] == [1, 2]
    assert 0 <= metrics["test"]["accuracy"] <= metrics["test"]["top5"] <= 1
    low, high = metrics["test"]["accuracy_interval"]
    assert low <= metrics["test"]["accuracy"] <= high
    assert 0 <= metrics["test"]["calibration_error"] <= metrics["test"]["max_calibration_error"] <= 1
    assert metrics["val_accuracy"] == max(row["val/accuracy"] for row in metrics["history"])
    assert metrics["history"][-1]["lr"] == pytest.approx(RunConfig().optim.lr / 128)


def test_the_digits_keep_to_one_thread_unless_told(finished: Path) -> None:
    assert json.loads((finished / "metrics.json").read_text())["threads"] == 1


def test_logs_tell_the_metrics(finished: Path) -> None:
    header = (finished / "logs" / "version_0" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"epoch", "step", "train/loss", "val/accuracy", "test/accuracy"} <= set(header)


def test_the_merged_config_is_whole_and_runs_again(finished: Path) -> None:
    written = yaml.safe_load((finished / "config.yaml").read_text())
    assert written == RunConfig.from_dict(written).to_dict()
    assert written["trainer"]["max_epochs"] == 2


def test_weights_carry_what_prediction_needs(finished: Path) -> None:
    with safe_open(finished / "weights.safetensors", "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["class_names"]) == [str(digit) for digit in range(10)]
    assert json.loads(metadata["img_size"]) == 16
    assert json.loads(metadata["in_chans"]) == len(json.loads(metadata["mean"])) == 1


def test_checkpoints_are_plain_data(finished: Path) -> None:
    contents = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
    assert contents["epoch"] == 1
    assert contents["global_step"] == 6


def test_the_test_is_of_the_best_weights(finished: Path) -> None:
    """metrics.json, the weights file and best.ckpt tell the same accuracy."""
    metrics = json.loads((finished / "metrics.json").read_text())
    config = RunConfig.from_dict(yaml.safe_load((finished / "config.yaml").read_text()))
    of_weights = evaluate(config, split="test", weights=finished / "weights.safetensors")
    of_checkpoint = evaluate(config, split="test", checkpoint=finished / "checkpoints" / "best.ckpt")
    for figures in (of_weights, of_checkpoint):
        assert figures["accuracy"] == pytest.approx(metrics["test"]["accuracy"])
        assert figures["loss"] == pytest.approx(metrics["test"]["loss"], rel=1e-5)


def test_going_on_equals_never_stopping(tmp_path: Path) -> None:
    """Two epochs, then two more, against four: equal weights and history, with dropout, stochastic depth and random
    augmentation on."""
    options = (
        *(
            *SMALL,
            "--trainer.max_epochs",
            "4",
            "--trainer.limit_train_batches",
            "2",
            "--trainer.limit_val_batches",
            "1",
        ),
        *("--trainer.limit_test_batches", "1", "--model.drop_rate", "0.2", "--model.drop_path_rate", "0.2"),
    )
    assert run("fit", "--out", "whole", *options) == 0

    stop_after = 2
    original = ClassificationTask.training_step

    def interrupted_step(self: ClassificationTask, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.current_epoch == stop_after and batch_idx == 1:
            raise KeyboardInterrupt
        return original(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClassificationTask, "training_step", interrupted_step)
        assert run("fit", "--out", "cut", *options) == 130
    assert run("fit", "--out", "cut", "--ckpt_path", "last") == 0

    whole, cut = only_run(Path("whole")), only_run(Path("cut"))
    assert_same(state(whole / "checkpoints" / "last.ckpt"), state(cut / "checkpoints" / "last.ckpt"))
    rows = [json.loads((folder / "metrics.json").read_text())["history"] for folder in (whole, cut)]
    assert [row["train/loss"] for row in rows[0]] == [row["train/loss"] for row in rows[1]]
    assert [row["lr"] for row in rows[0]] == [row["lr"] for row in rows[1]]


def test_ctrl_c_says_where_and_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ClassificationTask.training_step
    stop_at = {"epoch": 1, "batch": 1}

    def step(self: ClassificationTask, batch: Any, batch_idx: int) -> torch.Tensor:
        if (self.current_epoch, batch_idx) == (stop_at["epoch"], stop_at["batch"]):
            raise KeyboardInterrupt
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ClassificationTask, "training_step", step)
    limits = [f"--trainer.limit_{split}_batches=2" for split in ("train", "val", "test")]
    assert run("fit", "--out", "my runs", *SMALL, "--trainer.max_epochs=3", *limits) == 130
    said = capsys.readouterr().err.strip().splitlines()
    assert "stopped in epoch 2 of 3, after step 1 of 2" in said[-2]
    command = shlex.split(said[-1])
    assert command[:2] == ["halonet", "fit"]
    stop_at["epoch"] = -1
    assert run(*command[1:]) == 0
    folder = only_run(Path("my runs"))
    assert [row["epoch"] for row in json.loads((folder / "metrics.json").read_text())["history"]] == [1, 2, 3]
    assert {path.name for path in (folder / "logs").iterdir()} == {"version_0", "version_1"}


def test_a_checkpoint_taken_out_of_its_folder(finished: Path, tmp_path: Path) -> None:
    """It has no config.yaml beside it, so the settings are given again; finished or not, it ends with results."""
    alone = tmp_path / "alone.ckpt"
    alone.write_bytes((finished / "checkpoints" / "last.ckpt").read_bytes())
    options = (*SMALL, "--ckpt_path", alone, "--trainer.limit_train_batches=3", "--trainer.limit_test_batches=2")
    for epochs in (2, 3):
        assert run("fit", *options, "--out", f"{epochs}", "--trainer.max_epochs", epochs) == 0
        history = json.loads((only_run(Path(f"{epochs}")) / "metrics.json").read_text())["history"]
        assert [row["epoch"] for row in history] == [1, 2, 3][:epochs]


def test_going_on_does_not_need_the_weights_it_began_with(finished: Path, tmp_path: Path) -> None:
    begun = tmp_path / "begun.safetensors"
    begun.write_bytes((finished / "weights.safetensors").read_bytes())
    limits = [f"--trainer.limit_{split}_batches=1" for split in ("train", "val", "test")]
    assert run("fit", "--model.weights", begun, *SMALL, *limits, "--trainer.max_epochs=1", "--trainer.threads=2") == 0
    begun.unlink()
    assert run("fit", "--ckpt_path=last", "--trainer.max_epochs=2") == 0
    metrics = json.loads((only_run(Path("runs")) / "metrics.json").read_text())
    assert (metrics["epochs"], metrics["threads"]) == (2, 2)


def test_ctrl_c_before_the_first_epoch_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(self: ClassificationTask, batch: Any, batch_idx: int) -> torch.Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(ClassificationTask, "training_step", step)
    assert run("fit", *SMALL) == 130
    said = capsys.readouterr().err.strip().splitlines()
    assert "no checkpoint was written yet, start again" in said[-2]
    checkpoint = shlex.split(said[-1])[-1]
    assert said[-1] == f"halonet fit --ckpt_path {checkpoint}"
    config = Path(checkpoint).parents[1] / "config.yaml"
    assert yaml.safe_load(config.read_text())["data"]["batch_size"] == 16


def test_any_folder_of_pictures_and_then_its_classes_only(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fit on a folder, fine-tune the result on another number of classes, judge it."""
    options = (*SMALL, "--trainer.max_epochs=1", "--data.num_workers=0", "--data.batch_size=4", "--data.randaugment=5")
    assert run("fit", "--data.root", photos, "--out", "first", *options) == 0
    weights = only_run(Path("first")) / "weights.safetensors"
    model, metadata = halonet.models.checkpoints.load_model(weights)
    assert json.loads(metadata["class_names"]) == ["blue cup", "green", "red"]
    assert model.num_classes == 3
    (photos / "red").rename(photos.parent / "elsewhere")
    assert run("fit", "--data.root", photos, "--model.weights", weights, "--out", "second", *options) == 0
    said = capsys.readouterr().out
    assert "new classifier for 2 classes" in said
    assert str(only_run(Path("second"))) == said.strip().splitlines()[-1]
    assert run("validate", "--json", "--weights", only_run(Path("second")) / "weights.safetensors") == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["data"], figures["split"], figures["images"]) == ("photos", "val", 2)


def test_loading_processes_give_the_same_run(photos: Path) -> None:
    options = (*SMALL, "--data.root", photos, "--trainer.max_epochs=1", "--data.batch_size=4")
    for workers in (0, 2):
        assert run("fit", *options, "--out", f"with{workers}", "--data.num_workers", workers) == 0
    states = [state(only_run(Path(f"with{workers}")) / "checkpoints" / "last.ckpt") for workers in (0, 2)]
    assert_same(*states)


@pytest.mark.slow
def test_the_default_learns_the_digits(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit") == 0
    folder = Path(capsys.readouterr().out.strip().splitlines()[-1])
    assert json.loads((folder / "metrics.json").read_text())["test"]["accuracy"] >= 0.97


@pytest.mark.slow
def test_two_processes_share_one_folder() -> None:
    options = ("--config", "smoke", "--out", "both", "--trainer.accelerator", "cpu", "--trainer.strategy", "ddp")
    command = [sys.executable, "-m", "halonet", "fit", *options, "--trainer.devices", "2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(halonet.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=True)
    assert done.stdout.strip().splitlines()[-1] == str(only_run(Path("both")))
    assert (only_run(Path("both")) / "metrics.json").is_file()


def test_the_classifier_alone_learns_from_weights(finished: Path, tmp_path: Path) -> None:
    """Of layer_decay 0 the classifier and what batch norms have seen are new; of 0.5 the stem moves least."""
    weights = finished / "weights.safetensors"
    few = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_test_batches=1")
    begin = load_file(weights)
    moved = {}
    for decay in ("0", "0.5"):
        out = tmp_path / decay
        assert run("fit", *SMALL, *few, "--model.weights", weights, "--optim.layer_decay", decay, "--out", out) == 0
        end = load_file(only_run(out) / "weights.safetensors")
        moved[decay] = {name: float((end[name] - begin[name]).abs().max()) for name in begin if "running" not in name}
    learnt = {name for name, far in moved["0"].items() if far and not name.endswith("num_batches_tracked")}
    assert learnt == {"head.fc.weight", "head.fc.bias"}
    assert 0 < moved["0.5"]["stem.conv.conv.weight"] < moved["0.5"]["head.fc.weight"]
