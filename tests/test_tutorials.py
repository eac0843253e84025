"""The lessons of tutorials/: each is run as a newcomer runs it, in an empty folder, and what it tells is checked."""

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

import halonet
from halonet.models.checkpoints import save_weights

ROOT = Path(__file__).parents[1]


def told(name: str, *words: object) -> str:
    """What a lesson prints in this folder, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, ROOT / "tutorials" / name, *(str(word) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def number(pattern: str, text: str) -> float:
    """The number that a pattern finds."""
    found = re.search(pattern, text)
    assert found is not None, text
    return float(found[1].replace(",", ""))


def check_finetuning(said: str, *, ways: Sequence[str], test_images: int) -> dict[str, int]:
    """Right answers by way; the figures of the table are those of the runs, and of judging the last one again."""
    rows = re.findall(r"^(from-nothing|classifier|all-layers) +(\d+) \(([\d.]+)%\) +(\d+) ", said, re.MULTILINE)
    assert [row[0] for row in rows] == list(ways)
    for _, right, share, of in rows:
        assert int(of) == test_images
        assert abs(100 * int(right) / int(of) - float(share)) < 0.051
    accuracies = re.findall(r"test accuracy ([\d.]+) %", said)[-len(rows) :]
    assert [float(one) for one in accuracies] == pytest.approx([float(row[2]) for row in rows], abs=0.051)
    assert number(r"\naccuracy ([\d.]+), loss", said) == pytest.approx(int(rows[-1][1]) / test_images, abs=1e-4)
    return {row[0]: int(row[1]) for row in rows}


def test_finetuning_in_small() -> None:
    """Two classes of colour, in parts that lie ready, from weights for six classes and blocks of four."""
    save_weights(halonet.create_model("halonet_nano_32", num_classes=6), "six.safetensors")
    for name, hue in (("blue", (0, 0, 200)), ("red", (200, 0, 0))):
        for part, count in (("train", 8), ("val", 2), ("test", 3)):
            place = Path("colours", part, name, "deeper")
            place.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (30, 20 + index), hue).save(place / f"{index}.png")
    small = ("--trainer.limit_train_batches", 2, "--trainer.accelerator", "cpu", "--data.num_workers", 0)
    way = ("--way", "all-layers", "--epochs", 1, "--img-size", 24, "--block-size", 6)
    said = told("finetune_folder.py", "--data", "colours", "--weights", "six.safetensors", *way, *small)
    # Two tables in each of the four blocks; a classifier of two classes in place of six.
    assert "8 position tables resized" in said
    assert "new: head.fc.bias, head.fc.weight" in said
    check_finetuning(said, ways=["all-layers"], test_images=6)


def test_a_halo_layer_in_small() -> None:
    said = told("halo_layer_in_your_network.py", "--steps", 40)
    rows = {row[0]: row[1:] for row in re.findall(r"^(convolution|halo) +([\d,]+) +([\d,]+) +(\d+) of 359", said, re.M)}
    # Three 3x3 convolutions of 32 channels, against three projections and two tables of 2 * 6 - 1 offsets x 4 channels.
    parameters = {name: int(row[0].replace(",", "")) for name, row in rows.items()}
    assert parameters["convolution"] - parameters["halo"] == 3 * (9 * 32 * 32 - (3 * 32 * 32 + 2 * 11 * 4))
    assert all(int(row[2]) > 3 * 36 for row in rows.values())  # a tenth would be chance
    assert len(re.findall(r"most at \(\d, \d\) of \(8, 8\), \d+% outside the map, \d+% in its own block", said)) == 3
    assert Path("attends.png").read_bytes().startswith(b"\x89PNG")


def test_timm_in_small() -> None:
    said = told("speed_up_timm.py", "--models", "halonet26t", "--batch", 1, "--rounds", 1)
    assert "halonet26t: 3 layers replaced" in said
    assert "tensors, the same names and values" in said
    assert 0 < number(r"at most [\d.e-]+, ([\d.e-]+) of the largest", said) < 1e-4
    times = re.findall(r"(forward|training step) +(timm|halonet) +([\d.]+) ms \((\d+) to (\d+)\), ([\d.]+) times", said)
    assert len(times) == 4
    for mode in ("forward", "training step"):
        theirs, ours = (row for row in times if row[0] == mode)
        assert float(ours[5]) == pytest.approx(float(theirs[2]) / float(ours[2]), abs=0.02)


def test_detection_in_small() -> None:
    small = ("--trainer.limit_val_batches", 2, "--trainer.limit_test_batches", 2)
    said = told("detect_your_coco_data.py", "--images", 16, "--steps", 2, "--batch", 2, "--score", 0, *small)
    assert len(re.findall("box_empty", said)) == 1
    assert "\nproblems: 1\n" in said
    assert "\nproblems: 0\n" in said
    assert 0 <= number(r"box AP ([\d.]+) %", said) <= 100
    assert len(list(Path("detected").glob("*/*/found/*_detections.png"))) == 4
    assert number(r"(\d+) objects in", said) >= 0


def check_machines(said: str, *, steps: int) -> None:
    """Two processes took 32 images each of a step, one took all 64, and their weights agree."""
    assert f"many  a step 2 x 32 x 1 = 64 images, {steps} steps" in said
    assert f"one   a step 1 x 64 x 1 = 64 images, {steps} steps" in said
    accuracies = re.findall(r"test accuracy ([\d.]+) of 359 images", said)
    assert len(accuracies) == 2
    assert abs(float(accuracies[0]) - float(accuracies[1])) < 0.01
    assert number(r"largest difference of weights: ([\d.e-]+)", said) < 1e-4


@pytest.mark.slow
def test_machines_in_small() -> None:
    said = told("many_machines.py", "--steps", 2, "--no-kill", "--", "--trainer.limit_val_batches", 1)
    assert "       3              21       1          63        0.09844" in said
    check_machines(said, steps=2)


def status_of(name: str, words: str, monkeypatch: pytest.MonkeyPatch) -> object:
    """Exit status of a lesson in this process, which has imported what it needs; for what ends before any work."""
    monkeypatch.setattr(sys, "argv", [name, *words.split()])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "tutorials" / name), run_name="__main__")
    return ended.value.code


def test_commands_for_many_machines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--show slurm --nodes 4 --devices 8 -- --data.root A --optim.lr 1"
    assert status_of("many_machines.py", words, monkeypatch) == 0
    said = capsys.readouterr().out
    assert "#SBATCH --nodes=4\n#SBATCH --ntasks-per-node=8\n" in said
    assert "options=(--data.root A --optim.lr 1)" in said
    assert subprocess.run(["bash", "-n"], input=said, text=True).returncode == 0


@pytest.mark.parametrize(
    ("name", "words", "line"),
    [
        (
            "finetune_folder.py",
            "--data nowhere --weights none",
            "data.root: expected a folder of images, found nothing at nowhere",
        ),
        ("halo_layer_in_your_network.py", "--steps 0", "argument --steps: expected a positive int, got '0'"),
        ("speed_up_timm.py", "--models halonet26", "--models: timm has no model 'halonet26', did you mean halonet26t"),
        ("detect_your_coco_data.py", "--data nowhere", "data.root: expected a folder"),
        ("many_machines.py", "--show ssh", "argument --show: invalid choice: 'ssh'"),
    ],
    ids=lambda value: value if value.endswith(".py") else "",
)
def test_wrong_words_are_told_in_one_line(
    name: str, words: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(name, words, monkeypatch) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert error.startswith(f"{name}: error: {line}")


@pytest.mark.slow
def test_finetuning_as_it_stands() -> None:
    """Trained weights help where there are few images."""
    ways = ("from-nothing", "classifier", "all-layers")
    right = check_finetuning(told("finetune_folder.py"), ways=ways, test_images=143)
    assert right["all-layers"] > right["from-nothing"]


@pytest.mark.slow
def test_a_halo_layer_as_it_stands() -> None:
    said = told("halo_layer_in_your_network.py", "--compile", "--export", "net.pt2")
    assert all(int(right) > 320 for right in re.findall(r" (\d+) of 359", said))
    assert all(float(off) < 1e-4 for off in re.findall(r"largest difference of outputs ([\d.e-]+)", said))
    assert torch.export.load("net.pt2")


@pytest.mark.slow
def test_timm_as_it_stands() -> None:
    said = told("speed_up_timm.py")
    assert len(re.findall("the same names and values", said)) == 2


@pytest.mark.slow
def test_detection_as_it_stands() -> None:
    """A minute's training finds something, if little."""
    assert number(r"box AP [\d.]+ %, AP50 ([\d.]+) %", told("detect_your_coco_data.py")) > 0


@pytest.mark.slow
def test_machines_as_it_stands() -> None:
    said = told("many_machines.py")
    assert "killed the process of rank 1" in said
    assert re.search(r"going on after step \d+, from last", said)
    check_machines(said, steps=20)
