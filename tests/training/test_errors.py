"""What a user gets wrong ends in one line that names it, exit status 2, and no half-written file."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import halonet.models.checkpoints
from tests.training.conftest import SMALL, error_line, only_run, run

Capture = pytest.CaptureFixture[str]
ONE_STEP = ("--trainer.max_epochs=1", *(f"--trainer.limit_{split}_batches=1" for split in ("train", "val", "test")))


def no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_missing_folder(capsys: Capture) -> None:
    assert "found nothing at gone" in error_line(capsys, "fit", "--data.root", "gone")


def test_folder_without_classes(capsys: Capture, tmp_path: Path) -> None:
    assert "no classes in" in error_line(capsys, "fit", "--data.root", tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image_in_training(capsys: Capture, photos: Path, workers: int) -> None:
    for path in (photos / "red").iterdir():
        path.write_text("no picture")
    options = (*SMALL, "--data.num_workers", workers)
    message = error_line(capsys, "fit", "--data.root", photos, *options)
    assert message.startswith(f"halonet: error: cannot read image {photos / 'red'}")


def test_unreadable_image_in_prediction(capsys: Capture, finished: Path) -> None:
    weights = finished / "weights.safetensors"
    message = error_line(capsys, "predict", "--weights", weights, "--json", finished / "curves.png", "gone.png")
    assert message.endswith("cannot read image gone.png: no such file")
    assert capsys.readouterr().out == ""


def test_unknown_model(capsys: Capture) -> None:
    message = error_line(capsys, "fit", "--model.name", "halonet_h0_265")
    assert "halonet_h0_265" in message
    assert "halonet_h0_256" in message


def test_unknown_model_option(capsys: Capture) -> None:
    assert "block_size" in error_line(capsys, "fit", "--model.overrides.blocksize", 4)


def test_an_override_that_the_data_decide(capsys: Capture) -> None:
    assert "num_classes" in error_line(capsys, "fit", "--model.overrides.num_classes", 4)


def test_classes_of_other_data_are_unknown(capsys: Capture, finished: Path, photos: Path) -> None:
    message = error_line(capsys, "test", "--weights", finished / "weights.safetensors", "--data.root", photos)
    assert "3 of 3 classes of photos are unknown to weights.safetensors: blue cup, green, red; it knows 0, 1" in message


def test_a_class_that_was_renamed(capsys: Capture, photos: Path) -> None:
    assert run("fit", "--data.root", photos, "--data.num_workers=0", *SMALL, *ONE_STEP) == 0
    (photos / "red").rename(photos / "purple")
    weights = only_run(Path("runs")) / "weights.safetensors"
    message = error_line(capsys, "test", "--weights", weights, "--data.root", photos)
    assert (
        "1 of 3 classes of photos are unknown to weights.safetensors: purple; it knows blue cup, green, red" in message
    )


def test_weights_of_another_model(capsys: Capture, finished: Path) -> None:
    weights = finished / "weights.safetensors"
    message = error_line(capsys, "fit", "--model.name", "halonet50_256", "--model.weights", weights)
    assert str(weights) in message
    assert "head.fc.weight" in message


def test_checkpoint_of_another_model(capsys: Capture, finished: Path) -> None:
    checkpoint = finished / "checkpoints" / "last.ckpt"
    message = error_line(capsys, "fit", "--ckpt_path", checkpoint, "--model.overrides.head_width", 24)
    assert "is of another model than halonet_nano_32: model." in message
    assert "instead of" in message


def test_checkpoint_that_is_none(capsys: Capture, finished: Path) -> None:
    message = error_line(capsys, "fit", "--ckpt_path", finished / "weights.safetensors", *SMALL)
    assert "no training checkpoint" in message or "cannot read" in message


def test_nothing_to_go_on_from(capsys: Capture) -> None:
    assert "no run below runs" in error_line(capsys, "fit", "--ckpt_path", "last")


def test_damaged_checkpoint(capsys: Capture, finished: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes((finished / "checkpoints" / "last.ckpt").read_bytes()[:5000])
    assert f"cannot read {damaged} as a checkpoint" in error_line(capsys, "fit", "--ckpt_path", damaged, *SMALL)


def test_a_checkpoint_that_would_run_code_is_refused(capsys: Capture, tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (tmp_path / "harmed",)  # type: ignore[return-value]

    torch.save({"state_dict": Harm()}, tmp_path / "harm.ckpt")
    assert "cannot read" in error_line(capsys, "fit", "--ckpt_path", tmp_path / "harm.ckpt", *SMALL)
    assert not (tmp_path / "harmed").exists()


def test_weights_that_fit_did_not_write(capsys: Capture, tmp_path: Path) -> None:
    model = halonet.create_model("halonet_nano_32", num_classes=3)
    halonet.models.checkpoints.save_weights(model, tmp_path / "bare.safetensors")
    message = error_line(capsys, "predict", "--weights", tmp_path / "bare.safetensors", "picture.png")
    assert "no class_names in its metadata" in message


def test_bad_trainer_settings_leave_nothing_behind(capsys: Capture) -> None:
    assert "quantum" in error_line(capsys, "fit", "--trainer.accelerator", "quantum")
    assert not list(Path("runs").glob("*/*"))


def test_full_disk_while_a_checkpoint_is_written(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second epoch's checkpoint fails halfway: the first one's is still whole, and nothing else lies beside it."""
    save, calls = torch.save, []

    def save_once(contents: Any, file: Any) -> None:
        calls.append(file)
        if len(calls) > 1:
            file.write(b"half")
            no_space()
        save(contents, file)

    monkeypatch.setattr(torch, "save", save_once)
    message = error_line(capsys, "fit", *SMALL, *ONE_STEP, "--trainer.max_epochs=2")
    assert "no space left on the disk" in message
    folder = only_run(Path("runs"))
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 0


@pytest.mark.parametrize(
    "writer",
    [
        "halonet.training.run.write_metrics",
        "halonet.training.classification.results.save_weights",
        "halonet.training.classification.kind.draw_pictures",
    ],
)
def test_full_disk_while_results_are_written(capsys: Capture, monkeypatch: pytest.MonkeyPatch, writer: str) -> None:
    monkeypatch.setattr(writer, no_space)
    assert "no space left on the disk" in error_line(capsys, "fit", *SMALL, *ONE_STEP)
    assert not list(only_run(Path("runs")).glob(".*"))


def test_full_disk_while_a_picture_is_drawn(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(figure: Any, path: Path, **options: Any) -> None:
        path.write_bytes(b"half")
        no_space()

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", half)
    assert "no space left on the disk" in error_line(capsys, "fit", *SMALL, *ONE_STEP)
    folder = only_run(Path("runs"))
    assert not [path for path in folder.iterdir() if path.suffix == ".png"]
    assert json.loads((folder / "metrics.json").read_text())["epochs"] == 1
