"""The lessons of tutorials/: each is run as a newcomer runs it, in an empty folder, and what it tells is checked."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[1]
LESSONS = sorted((ROOT / "tutorials").glob("*.py"))


def ran(name: str, *words: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    """A lesson in this folder, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, ROOT / "tutorials" / name, *(str(word) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == status, done.stdout + done.stderr
    return done


def told(name: str, *words: object) -> str:
    """What it prints."""
    return ran(name, *words).stdout


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def number(pattern: str, text: str) -> float:
    """The number that a pattern finds."""
    found = re.search(pattern, text)
    assert found is not None, text
    return float(found[1].replace(",", ""))


def check_finetuning(said: str, *, test_images: int) -> dict[str, int]:
    """Right answers by way; the figures of the table are those of the runs."""
    rows = re.findall(
        r"^(from nothing|the classifier alone|all layers) +(\d+) \(([\d.]+)%\) +(\d+) ", said, re.MULTILINE
    )
    assert [row[0] for row in rows] == ["from nothing", "the classifier alone", "all layers"]
    for _, right, share, of in rows:
        assert int(of) == test_images
        assert abs(100 * int(right) / int(of) - float(share)) < 0.051
    accuracies = re.findall(r"test accuracy ([\d.]+) %", said)
    assert [round(float(one), 1) for one in accuracies[-3:]] == [float(row[2]) for row in rows]
    again = number(r"\naccuracy ([\d.]+), loss", said)
    assert again == pytest.approx(int(rows[2][1]) / test_images, abs=1e-4)
    return {row[0]: int(row[1]) for row in rows}


def test_finetuning_in_small() -> None:
    """Two classes of colour, told apart by eight pictures each: from weights of the digits."""
    for name, hue in (("blue", (0, 0, 200)), ("red", (200, 0, 0))):
        folder = Path("colours", "pictures", name)  # one folder more than a class needs
        for part, count in (("train", 8), ("val", 2), ("test", 3)):
            place = folder.parent.parent / part / name / "deeper"
            place.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (30, 20 + index), hue).save(place / f"{index}.png")
    small = ("--trainer.limit_train_batches", 2, "--trainer.accelerator", "cpu", "--data.num_workers", 0)
    said = told("finetune_folder.py", "--first-epochs", 1, "--epochs", 1, "--data", "colours", *small)
    assert "95 tensors" not in said
    assert "8 position tables resized" in said
    assert "new: head.fc.weight, head.fc.bias" in said
    check_finetuning(said, test_images=6)


def test_a_halo_layer_in_small() -> None:
    said = told("halo_layer_in_your_network.py", "--steps", 30)
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
    said = told("detect_your_coco_data.py", "--images", 16, "--steps", 2, "--batch", 2, "--score", 0)
    assert len(re.findall("box_empty", said)) == 1
    assert "\n1 problems\n" in said
    assert "\n0 problems\n" in said
    assert 0 <= number(r"box AP ([\d.]+) %", said) <= 100
    assert len(list(Path("detected").glob("*/*/found/*_detections.png"))) == 4
    assert number(r"(\d+) objects in", said) >= 0


def check_machines(said: str, *, steps: int) -> None:
    """Two processes took 32 images each, one took both parts of a step, and their weights agree."""
    assert f"many  a step 2 x 32 x 1 = 64 images, {steps} steps" in said
    assert f"one   a step 1 x 32 x 2 = 64 images, {steps} steps" in said
    accuracies = re.findall(r"test accuracy ([\d.]+) of 359 images", said)
    assert len(accuracies) == 2
    assert abs(float(accuracies[0]) - float(accuracies[1])) < 0.01
    assert number(r"largest difference of weights: ([\d.e-]+)", said) < 1e-3


def test_machines_in_small() -> None:
    said = told("many_machines.py", "--steps", 2, "--no-kill", "--", "--trainer.limit_val_batches", 1)
    assert "       3              21       1          63        0.09844" in said
    check_machines(said, steps=2)


def test_commands_for_many_machines() -> None:
    words = "--show slurm --nodes 4 --devices 8 -- --data.root A --optim.lr 1"
    said = told("many_machines.py", *words.split())
    assert "#SBATCH --nodes=4\n#SBATCH --ntasks-per-node=8\n" in said
    assert "options=(--data.root A --optim.lr 1)" in said
    assert subprocess.run(["bash", "-n"], input=said, text=True).returncode == 0


@pytest.mark.parametrize(
    ("name", "words", "line"),
    [
        ("finetune_folder.py", "--data nowhere", "data.root: expected a folder of images, found nothing at nowhere"),
        ("halo_layer_in_your_network.py", "--steps 0", "argument --steps: expected a positive int, got '0'"),
        ("speed_up_timm.py", "--models halonet26", "--models: timm has no model 'halonet26', did you mean halonet26t"),
        ("detect_your_coco_data.py", "--data nowhere", "data.root: expected a folder"),
        ("many_machines.py", "--show ssh", "argument --show: invalid choice: 'ssh'"),
    ],
    ids=lambda value: value if value.endswith(".py") else "",
)
def test_wrong_words_are_told_in_one_line(name: str, words: str, line: str) -> None:
    error = ran(name, *words.split(), status=2).stderr
    assert len(error.splitlines()) == 1
    assert error.startswith(f"{name}: error: {line}")


@pytest.mark.slow
def test_finetuning_as_it_stands() -> None:
    """Trained weights help where there are few images."""
    right = check_finetuning(told("finetune_folder.py"), test_images=143)
    assert right["all layers"] > right["from nothing"]


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
