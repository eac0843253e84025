"""Naming pictures from the command line."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from halonet.data import DataConfig, Preprocessing, eval_transform, open_source
from halonet.models.checkpoints import load_model
from tests.training.conftest import error_line, run

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def scans(tmp_path: Path) -> list[Path]:
    """Two digits as a user has them: one grey, one in colour, larger and with an alpha channel."""
    images = [Image.fromarray((scan * 255 / 16).astype(np.uint8)) for scan in load_digits().images[:2]]
    images[1] = images[1].convert("RGBA").resize((40, 40))
    paths = [tmp_path / "a scan.png", tmp_path / "b.png"]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    return paths


def test_a_line_an_image(finished: Path, scans: list[Path], capsys: Capture) -> None:
    assert run("predict", "--weights", finished / "weights.safetensors", *scans, "--top", 3) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for line, path in zip(lines, scans, strict=True):
        assert line.startswith(f"{path}: ")
        shares = [float(part.split()[1]) for part in line.removeprefix(f"{path}: ").split(", ")]
        assert shares == sorted(shares, reverse=True)
        assert len(shares) == 3


def test_json_has_the_models_own_probabilities(finished: Path, scans: list[Path], capsys: Capture) -> None:
    weights = finished / "weights.safetensors"
    assert run("predict", "--json", "--top", 99, "--weights", weights, *scans) == 0
    told = json.loads(capsys.readouterr().out)
    assert [entry["path"] for entry in told] == [str(path) for path in scans]
    model, metadata = load_model(weights)
    transform = eval_transform(Preprocessing.from_metadata(metadata))
    with torch.no_grad():
        expected = model.eval()(transform(Image.open(scans[0]))[None])[0].softmax(0)
    given = {entry["name"]: entry["probability"] for entry in told[0]["classes"]}
    assert sum(given.values()) == pytest.approx(1, abs=1e-5)
    for digit in range(10):
        assert given[str(digit)] == pytest.approx(float(expected[digit]), abs=1e-6)


def test_it_sees_what_the_test_saw(finished: Path, tmp_path: Path) -> None:
    """Weights carry the training's own preprocessing: a test scan saved as a file gives the tensor the test used."""
    scan = open_source(DataConfig()).splits["test"].items[0]
    assert isinstance(scan, Image.Image)
    _, metadata = load_model(finished / "weights.safetensors")
    preprocessing = Preprocessing.from_metadata(metadata)
    source = open_source(DataConfig())
    assert (preprocessing.mean, preprocessing.std, preprocessing.crop_pct) == (source.mean, source.std, 1.0)
    assert eval_transform(preprocessing)(scan).shape == (1, 16, 16)


def test_folders_in_batches(finished: Path, scans: list[Path], capsys: Capture) -> None:
    """Of a folder every picture, below it too, and nothing else; in batches as one by one."""
    folder = scans[0].parent / "folder"
    (folder / "below").mkdir(parents=True)
    for path, name in zip([*scans, scans[0]], ("a.png", "below/b.PNG", "c.png"), strict=True):
        (folder / name).write_bytes(path.read_bytes())
    (folder / "notes.txt").write_text("no picture")
    told = {}
    for batch in (1, 2, 32):
        arguments = ("--json", "--top=10", "--device=cpu", "--batch", batch)
        assert run("predict", "--weights", finished / "weights.safetensors", scans[1], folder, *arguments) == 0
        told[batch] = json.loads(capsys.readouterr().out)
    paths = [scans[1], folder / "a.png", folder / "below" / "b.PNG", folder / "c.png"]
    for answers in told.values():
        assert [answer["path"] for answer in answers] == [str(path) for path in paths]
        for answer, alone in zip(answers, told[1], strict=True):
            given, expected = (
                {entry["name"]: entry["probability"] for entry in one["classes"]} for one in (answer, alone)
            )
            assert given == pytest.approx(expected, abs=1e-5)


def test_a_table_of_answers(finished: Path, scans: list[Path], capsys: Capture) -> None:
    arguments = ("predict", "--weights", finished / "weights.safetensors", *scans, "--top=2", "--csv", "told.csv")
    assert run(*arguments) == 0
    assert capsys.readouterr().out.strip() == "told.csv"
    assert run(*arguments, "--json") == 0
    answers = json.loads(capsys.readouterr().out)
    with open("told.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [str(path) for path in scans]
    for row, answer in zip(rows, answers, strict=True):
        for rank, entry in enumerate(answer["classes"], start=1):
            assert row[f"class_{rank}"] == entry["name"]
            assert float(row[f"probability_{rank}"]) == pytest.approx(entry["probability"], abs=1e-6)


def test_what_predict_refuses(finished: Path, scans: list[Path], tmp_path: Path, capsys: Capture) -> None:
    arguments = ("predict", "--weights", finished / "weights.safetensors")
    (tmp_path / "empty").mkdir()
    assert "no pictures in the folder" in error_line(capsys, *arguments, tmp_path / "empty")
    assert "device: quantum: " in error_line(capsys, *arguments, scans[0], "--device", "quantum")
    assert "batch: expected at least 1, got 0" in error_line(capsys, *arguments, scans[0], "--batch", 0)
    scans[1].write_text("no picture")
    assert "cannot read image" in error_line(capsys, *arguments, *scans, "--csv", "told.csv")
    assert not Path("told.csv").exists()
