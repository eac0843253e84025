"""A command line in this process, and one small finished run that several tests look at."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from halonet.cli import main

Fit = Callable[..., Path]
SMALL = ("--trainer.accelerator=cpu", "--trainer.progress=lines", "--data.batch_size=16")


def run(*arguments: object) -> int:
    """Exit status of `halonet ARGUMENTS`."""
    return main([str(argument) for argument in arguments])


def error_line(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command line that must fail says: one line, exit status 2."""
    capsys.readouterr()
    status = run(*arguments)
    error = capsys.readouterr().err.strip()
    assert status == 2, error
    assert len(error.splitlines()) == 1, error
    assert error.startswith("halonet: error: ")
    return error


def only_run(out: Path) -> Path:
    """The one run folder below `out`."""
    (folder,) = out.glob("*/*")
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a two-epoch run on a few digits."""
    out = tmp_path_factory.mktemp("finished")
    arguments = ["--trainer.max_epochs=2", "--trainer.limit_train_batches=3", "--trainer.limit_test_batches=2"]
    assert run("fit", "--out", out, *SMALL, *arguments) == 0
    return only_run(out)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes of eight colour pictures, 20x24 pixels, told apart by their hue."""
    root = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for channel, name in enumerate(("blue cup", "green", "red")):
        (root / name).mkdir(parents=True)
        for number in range(8):
            pixels = rng.integers(0, 80, (24, 20, 3), dtype=np.uint8)
            pixels[..., 2 - channel] += 150
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path) -> Iterator[None]:
    """Nothing is written into the working tree, even by a run without --out."""
    before = Path.cwd()
    os.chdir(tmp_path)
    yield
    os.chdir(before)
