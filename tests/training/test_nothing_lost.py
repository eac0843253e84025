"""A run that is stopped, at whatever moment and however, and goes on, equals one that was never stopped."""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytest
import torch

from halonet.data import EpochSampler
from halonet.training.classification.module import ClassificationTask
from halonet.training.files import is_whole, resolve_checkpoint
from halonet.training.steps import cut_back, read_steps
from halonet.training.stereo.module import StereoTask
from tests.training.conftest import SMALL, error_line, only_run, run

Capture = pytest.CaptureFixture[str]
LIMITS = tuple(f"--trainer.limit_{split}_batches={count}" for split, count in (("train", 5), ("val", 1), ("test", 1)))
DRAWS = ("--model.drop_rate=0.2", "--model.drop_path_rate=0.2", "--data.mixup=0.2", "--data.cutmix=1.0")
RUN = ("fit", *SMALL, *LIMITS, *DRAWS, "--trainer.max_epochs=2")
STEREO = (
    *("fit", "--task=stereo", "--trainer.accelerator=cpu", "--trainer.progress=none", "--trainer.threads=1"),
    *("--stereo.drawn_pairs=6", "--stereo.drawn_size=[32,64]", "--stereo.drawn_disparity=12", "--data.batch_size=2"),
    *("--model.overrides.width=8", "--model.overrides.max_disparity=16", "--model.overrides.depths=[1,1,1,1]"),
    *("--trainer.max_epochs=2", "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1"),
)


class Killed(BaseException):
    """As near as a process that goes on testing comes to a SIGKILL: nothing is saved, nothing is said."""


@contextmanager
def at_batch(
    epoch: int, batch: int, act: Callable[[], Any], *, task: type[lightning.LightningModule] = ClassificationTask
) -> Iterator[None]:
    """`act` is called in the middle of that step (epochs and batches from 0)."""
    original: Any = task.training_step

    def step(self: Any, data: Any, batch_idx: int) -> torch.Tensor:
        loss = original(self, data, batch_idx)
        if (self.current_epoch, batch_idx) == (epoch, batch):
            loss = act() or loss
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "training_step", step)
        yield


def kill() -> None:
    raise Killed


def losses(folder: Path) -> list[tuple[float, ...]]:
    """Step, epoch, loss and rate of every step of a run."""
    return [(row["step"], row["epoch"], row["loss"], row["lr"]) for row in read_steps(folder / "steps.csv")]


def history(folder: Path) -> list[dict[str, float]]:
    rows = json.loads((folder / "metrics.json").read_text())["history"]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def contents(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def assert_same_run(whole: Path, cut: Path) -> None:
    """Every loss, the history, weights and optimizer: bit for bit."""
    assert losses(whole) == losses(cut)
    assert history(whole) == history(cut)
    assert (whole / "weights.safetensors").is_file()
    for name in ("last.ckpt", "best.ckpt"):
        first, second = (contents(folder / "checkpoints" / name) for folder in (whole, cut))
        for key in ("state_dict", "optimizer_states", "lr_schedulers"):
            assert_equal(first[key], second[key], key)
        assert first["callbacks"]["KeepLastAndBest"] == second["callbacks"]["KeepLastAndBest"]


def assert_equal(first: Any, second: Any, where: str) -> None:
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_equal(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list):
        assert len(first) == len(second), where
        for number, pair in enumerate(zip(first, second, strict=True)):
            assert_equal(*pair, f"{where}.{number}")
    else:
        assert first == second, where


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of five steps with every kind of random draw, never stopped."""
    out = tmp_path_factory.mktemp("whole")
    assert run(*RUN, "--out", out) == 0
    return only_run(out)


def test_the_record_of_steps(whole: Path) -> None:
    rows = losses(whole)
    assert [row[:2] for row in rows] == [(float(step), 1.0 + (step > 5)) for step in range(1, 11)]
    mean = sum(row[2] for row in rows[5:]) / 5
    assert history(whole)[1]["train/loss"] == pytest.approx(mean, rel=1e-6)
    assert rows[-1][3] == history(whole)[1]["lr"]


def test_killed_before_the_first_checkpoint_and_within_an_epoch(whole: Path) -> None:
    """The first kill leaves no checkpoint, the second one of the epoch's third step, two steps before; the third,
    in the step before the validation, one of the step before."""
    saving = ("--trainer.save_every_steps=3",)
    for number, (epoch, batch) in enumerate(((0, 1), (0, 4), (1, 3))):
        arguments = ("--ckpt_path=last", "--out=cut") if number else (*RUN, *saving, "--out=cut")
        with at_batch(epoch, batch, kill), pytest.raises(Killed):
            run(*arguments) if not number else run("fit", *arguments)
        kept = sorted(path.name for path in only_run(Path("cut")).glob("checkpoints/*"))
        assert kept == [[], ["last.ckpt"], ["best.ckpt", "last-1.ckpt", "last.ckpt"]][number]
    assert contents(only_run(Path("cut")) / "checkpoints" / "last.ckpt")["global_step"] == 6
    assert run("fit", "--ckpt_path=last", "--out=cut") == 0
    assert_same_run(whole, only_run(Path("cut")))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_it_falls_in(whole: Path, capsys: Capture, how: signal.Signals) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with at_batch(1, 2, lambda: os.kill(os.getpid(), how)):
        assert run(*RUN, "--out=cut runs") == 128 + how
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-2] == "stopped in epoch 2 of 2, after step 3 of 5; nothing is lost, go on with:"
    assert len(losses(only_run(Path("cut runs")))) == 8
    assert run(*shlex.split(said[-1])[1:]) == 0
    assert "going on after step 8" in capsys.readouterr().out
    assert_same_run(whole, only_run(Path("cut runs")))
