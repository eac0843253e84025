"""Naming pictures from the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from halonet.data import DataConfig, Preprocessing, eval_transform, open_source
from halonet.models.checkpoints import load_model
from tests.training.conftest import run

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
