"""The stereo task through the command line: what a run leaves, that it goes on, predictions, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open

from halonet.data.stereo import DrawnScenes, read_disparity, write_disparity
from halonet.training.stereo.module import constant_error
from tests.training.conftest import error_line, only_run, run

Capture = pytest.CaptureFixture[str]
FIGURES = ("epe", "bad1", "bad3", "d1", "loss")
QUICK = (
    *("--task", "stereo", "--trainer.accelerator=cpu", "--trainer.progress=lines", "--trainer.threads=1"),
    *("--stereo.drawn_pairs=4", "--stereo.drawn_size=[32,64]", "--stereo.drawn_disparity=12", "--data.batch_size=2"),
    *("--model.overrides.width=8", "--model.overrides.max_disparity=16", "--model.overrides.depths=[1,1,1,1]"),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a two-epoch run on four drawn pairs."""
    out = tmp_path_factory.mktemp("stereo")
    assert run("fit", *QUICK, "--out", out, "--trainer.max_epochs=2") == 0
    return only_run(out)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A drawn pair of 40 x 70 pixels as files."""
    scene = DrawnScenes(1, 5, size=(40, 70), max_disparity=12.0)[0].load()
    paths = tmp_path / "left.png", tmp_path / "right.png"
    for path, view in zip(paths, (scene.left, scene.right), strict=True):
        Image.fromarray(view).save(path)
    return paths


def test_a_run_leaves_its_results(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert names == {
        *("weights.safetensors", "config.yaml", "effective.yaml", "metrics.json", "steps.csv", "checkpoints", "logs"),
        *("curves.png", "disparities.png"),
    }
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["pairs"] == {"train": 4, "val": 16, "test": 16}
    assert set(metrics["test"]) == set(FIGURES)
    assert metrics["val_epe"] == min(row["val/epe"] for row in metrics["history"])
    assert 0 < metrics["constant"]["disparity"] < 12
    assert 0 < metrics["constant"]["own_epe"] < metrics["constant"]["epe"] < 12
    with safe_open(trained / "weights.safetensors", "pt") as file:
        assert file.metadata()["task"] == "stereo"
    assert yaml.safe_load((trained / "config.yaml").read_text())["task"] == "stereo"


def test_the_same_figures_from_the_weights(trained: Path, capsys: Capture) -> None:
    assert run("test", "--json", "--weights", trained / "weights.safetensors") == 0
    figures = json.loads(capsys.readouterr().out)
    told = json.loads((trained / "metrics.json").read_text())["test"]
    assert figures["pairs"] == 16
    assert json.loads((trained / "judged-drawn-test" / "judged.json").read_text()) == figures
    for name in FIGURES:
        assert figures[name] == pytest.approx(told[name], rel=1e-4), name


def test_a_run_goes_on(trained: Path, tmp_path: Path) -> None:
    arguments = ("fit", *QUICK, "--out", tmp_path / "other")
    assert run(*arguments, "--trainer.max_epochs=2", "--trainer.limit_train_batches=1") == 0
    folder = only_run(tmp_path / "other")
    checkpoint = folder / "checkpoints" / "last.ckpt"
    assert run(*arguments, "--trainer.max_epochs=3", "--trainer.limit_train_batches=1", "--ckpt_path", checkpoint) == 0
    history = json.loads((folder / "metrics.json").read_text())["history"]
    assert [row["epoch"] for row in history] == [1, 2, 3]


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_predict_writes_the_disparity(trained: Path, pair: tuple[Path, Path], options: tuple, capsys: Capture) -> None:
    out = Path("answers")
    assert run("predict", *pair, "--weights", trained / "weights.safetensors", "--out", out, *options) == 0
    files = [out / f"left_disparity{end}" for end in (".pfm", ".png", "_colour.png")]
    printed = capsys.readouterr().out
    assert all(str(file) in printed for file in files)
    exact, _ = read_disparity(files[0])
    rounded, _ = read_disparity(files[1])
    assert exact.shape == (40, 70)
    assert 0 <= exact.min() <= exact.max() <= 15
    assert np.abs(exact - rounded).max() <= 0.5 / 256
    with Image.open(files[2]) as picture:
        assert (picture.mode, picture.size) == ("RGB", (70, 40))
    if options:
        (answer,) = json.loads(printed)
        assert answer["most"] == pytest.approx(float(exact.max()))


def test_factorized_attention_leaves_its_masks(tmp_path: Path) -> None:
    one_step = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=1")
    assert run("fit", *QUICK, *one_step, "--model.name=fa_psmnet_nano", "--out", tmp_path / "fa") == 0
    with Image.open(only_run(tmp_path / "fa") / "basis.png") as picture:
        assert min(picture.size) > 200


def test_training_reads_kitti(tmp_path: Path, capsys: Capture) -> None:
    """Pairs of unequal sizes, sparse truth, crops."""
    folder = tmp_path / "kitti" / "training"
    for number in range(4):
        size = (40 + 4 * number, 80)
        scene = DrawnScenes(1, number, size=size, max_disparity=12.0)[0].load()
        known = np.random.default_rng(0).random(size) < 0.3
        for name, view in (("image_2", scene.left), ("image_3", scene.right)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(view).save(folder / name / f"{number:06d}_10.png")
        write_disparity(folder / "disp_occ_0" / f"{number:06d}_10.png", scene.disparity, known)
    options = ("--data.root", tmp_path / "kitti", "--stereo.crop_size=[32,64]", "--data.val_fraction=0.5")
    assert run("fit", *QUICK, *options, "--trainer.max_epochs=1", "--data.num_workers=0", "--out", tmp_path / "o") == 0
    metrics = json.loads((only_run(tmp_path / "o") / "metrics.json").read_text())
    assert metrics["pairs"] == {"train": 2, "val": 2, "test": 2}
    assert metrics["test_is_val"]
    assert np.isfinite(metrics["test"]["epe"])


def test_bad_pairs_are_told(trained: Path, pair: tuple[Path, Path], tmp_path: Path, capsys: Capture) -> None:
    weights = ("--weights", trained / "weights.safetensors")
    left, right = pair
    narrow = tmp_path / "narrow.png"
    with Image.open(right) as picture:
        picture.crop((0, 0, 60, 40)).save(narrow)
    message = error_line(capsys, "predict", left, narrow, *weights)
    assert f"left image {left} is 70 x 40, right image {narrow} is 60 x 40" in message
    assert "missing.png: no such file" in error_line(capsys, "predict", left, tmp_path / "missing.png", *weights)
    assert "expected LEFT RIGHT" in error_line(capsys, "predict", left, *weights)
    assert "which are no table" in error_line(capsys, "predict", left, right, *weights, "--csv", tmp_path / "t.csv")
    assert "--part: has no meaning for this task" in error_line(capsys, "test", *weights, "--part", "all")


def test_settings_without_meaning_are_refused(capsys: Capture, finished: Path) -> None:
    assert "data.mixup: has no meaning for the task stereo" in error_line(capsys, "fit", *QUICK, "--data.mixup=0.2")
    assert "data.in_chans: has no meaning" in error_line(capsys, "fit", *QUICK, "--data.in_chans=1")
    message = error_line(capsys, "fit", *QUICK, "--model.name=halonet_nano_32")
    assert "model.name: expected a stereo model" in message
    message = error_line(capsys, "fit", "--model.name=psmnet_nano")
    assert "psmnet_nano is a stereo network" in message
    message = error_line(
        capsys, "test", "--task=stereo", "--config=stereo_drawn", "--weights", finished / "weights.safetensors"
    )
    assert "holds halonet_nano_32, which tells no disparities" in message


def test_a_truncated_disparity_is_told_by_its_path(tmp_path: Path, capsys: Capture) -> None:
    root = tmp_path / "flow"
    for part, count in (("TRAIN", 3), ("TEST", 1)):
        for number in range(count):
            scene = DrawnScenes(1, number, size=(32, 64), max_disparity=12.0)[0].load()
            for view, picture in (("left", scene.left), ("right", scene.right)):
                place = root / "frames_finalpass" / part / "A" / f"{number:04d}" / view
                place.mkdir(parents=True)
                Image.fromarray(picture).save(place / "0006.png")
            truth = root / "disparity" / part / "A" / f"{number:04d}" / "left" / "0006.pfm"
            truth.parent.mkdir(parents=True)
            write_disparity(truth, scene.disparity)
    arguments = ("fit", *QUICK, "--data.root", root, "--data.num_workers=0", "--stereo.crop_size=[32,64]")
    assert run(*arguments, "--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--out", tmp_path / "o") == 0
    truth = root / "disparity" / "TEST" / "A" / "0000" / "left" / "0006.pfm"
    truth.write_bytes(truth.read_bytes()[:-100])
    assert str(truth) in error_line(capsys, *arguments, "--trainer.max_epochs=1", "--trainer.limit_train_batches=1")
    right = root / "frames_finalpass" / "TRAIN" / "A" / "0001" / "right" / "0006.png"
    right.unlink()
    assert str(right) in error_line(capsys, *arguments)


def test_the_error_of_a_constant_by_hand() -> None:
    """Two pairs: errors 1 and 3 of the known pixels, then 2; a pair without any known pixel is left out."""
    known = torch.tensor([[True, True, False]])
    first = (torch.tensor([[4.0, 8.0, 99.0]]), known)
    second = (torch.tensor([[7.0, 0.0, 0.0]]), torch.tensor([[True, False, False]]))
    nothing = (torch.ones(1, 3), torch.zeros(1, 3, dtype=torch.bool))
    assert constant_error([first, second, nothing], 5.0) == 2.0
