"""A run that is stopped, at whatever moment and however, and goes on, equals one that was never stopped."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch.utils.data import DataLoader, IterableDataset

from halonet.data import EpochSampler
from halonet.training.classification.datamodule import ImageDataModule
from halonet.training.classification.module import ClassificationTask
from halonet.training.files import is_whole, resolve_checkpoint
from halonet.training.steps import cut_back, read_steps
from halonet.training.stereo.module import StereoTask
from halonet.training.throughput import FIGURES
from tests.training.conftest import SMALL, error_line, only_run, run

Capture = pytest.CaptureFixture[str]
LIMITS = tuple(f"--trainer.limit_{split}_batches={count}" for split, count in (("train", 5), ("val", 1), ("test", 1)))
DRAWS = ("--model.drop_rate=0.2", "--model.drop_path_rate=0.2", "--data.mixup=0.2", "--data.cutmix=1.0")
RUN = ("fit", *SMALL, *LIMITS, *DRAWS, "--trainer.max_epochs=2")
STEREO = (
    *("fit", "--task=stereo", "--trainer.accelerator=cpu", "--trainer.progress=none", "--trainer.threads=1"),
    *("--stereo.drawn_pairs=12", "--stereo.drawn_size=[32,64]", "--stereo.drawn_disparity=12", "--data.batch_size=2"),
    *("--model.overrides.width=8", "--model.overrides.max_disparity=16", "--model.overrides.depths=[1,1,1,1]"),
    *("--trainer.max_epochs=1", "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1"),
)


class Killed(BaseException):
    """As near as a process that goes on testing comes to a SIGKILL: nothing is saved, nothing is said."""


@contextmanager
def at_batch(
    epoch: int, batch: int, act: Callable[[Any], Any], *, task: type[lightning.LightningModule] = ClassificationTask
) -> Iterator[None]:
    """`act` is called, with the task, in the middle of that step (epochs and batches from 0)."""
    original: Any = task.training_step

    def step(self: Any, data: Any, batch_idx: int) -> torch.Tensor:
        loss = original(self, data, batch_idx)
        if (self.current_epoch, batch_idx) == (epoch, batch):
            loss = act(self) or loss
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "training_step", step)
        yield


def kill(task: Any) -> None:
    raise Killed


def losses(folder: Path) -> list[tuple[float, ...]]:
    """Step, epoch, loss and rate of every step of a run."""
    return [(row["step"], row["epoch"], row["loss"], row["lr"]) for row in read_steps(folder / "steps.csv")]


def history(folder: Path) -> list[dict[str, float]]:
    rows = json.loads((folder / "metrics.json").read_text())["history"]
    return [{name: value for name, value in row.items() if name not in {"seconds", *FIGURES}} for row in rows]


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


@pytest.fixture(scope="module", autouse=True)
def _without_pictures() -> Iterator[None]:
    """They take longer than the training, and other tests look at them."""
    with pytest.MonkeyPatch.context() as patch:
        for task in ("classification", "stereo"):
            patch.setattr(f"halonet.training.{task}.kind.draw_pictures", lambda *_, **__: [])
        yield


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


def test_killed_twice_and_terminated_once(whole: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first checkpoint; within an epoch, a step after a checkpoint; in a validation; by SIGTERM."""
    with at_batch(0, 1, kill), pytest.raises(Killed):
        run(*RUN, "--trainer.save_every_steps=3", "--out=cut runs")
    folder = only_run(Path("cut runs"))
    assert not list(folder.glob("checkpoints/*"))
    leftover = folder / "checkpoints" / ".last.999999999.ckpt"
    leftover.parent.mkdir()
    leftover.touch()
    with at_batch(0, 4, kill), pytest.raises(Killed):
        run("fit", "--ckpt_path=last", "--out=cut runs")
    assert [path.name for path in folder.glob("checkpoints/*")] == ["last.ckpt"]
    assert not leftover.exists()
    assert len(losses(folder)) == 4

    monkeypatch.setattr("halonet.training.checkpointing.BEFORE_VALIDATION", 0.0)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with monkeypatch.context() as patch:
        patch.setattr(ClassificationTask, "validation_step", lambda *_: kill(None))
        with pytest.raises(Killed):
            run("fit", "--ckpt_path=last", "--out=cut runs")
    assert contents(folder / "checkpoints" / "last.ckpt")["global_step"] == 4
    capsys.readouterr()
    with at_batch(1, 1, lambda _: os.kill(os.getpid(), signal.SIGTERM)):
        assert run("fit", "--ckpt_path=last", "--out=cut runs") == 143
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-2] == "stopped in epoch 2 of 2, after step 2 of 5; nothing is lost, go on with:"
    assert run(*shlex.split(said[-1])[1:]) == 0
    assert "going on after step 7, from last.ckpt" in capsys.readouterr().out
    assert_same_run(whole, folder)


def test_ctrl_c_waits_for_its_step_and_then_a_damaged_checkpoint_is_passed_over(whole: Path, capsys: Capture) -> None:
    with at_batch(1, 2, lambda _: os.kill(os.getpid(), signal.SIGINT)):
        assert run(*RUN, "--out=cut", "--trainer.save_every_steps=2", "--trainer.keep_last=3") == 130
    assert "after step 3 of 5; nothing is lost" in capsys.readouterr().err
    folder = only_run(Path("cut")) / "checkpoints"
    kept = {path.name: contents(path)["global_step"] for path in folder.iterdir()}
    assert kept == {"last.ckpt": 8, "last-1.ckpt": 6, "last-2.ckpt": 5, "best.ckpt": 5}
    damage(folder / "last.ckpt")
    assert resolve_checkpoint("last", out="cut").name == "last-1.ckpt"
    assert "last-1.ckpt beside it is whole" in error_line(capsys, "fit", "--ckpt_path", folder / "last.ckpt")
    assert run("fit", "--ckpt_path=last", "--out=cut") == 0
    said = capsys.readouterr()
    assert said.err.strip() == f"{folder / 'last.ckpt'} is damaged: going on from {folder / 'last-1.ckpt'}"
    assert "going on after step 6" in said.out
    assert_same_run(whole, folder.parent)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-1000])
    assert "none is whole" in error_line(capsys, "fit", "--ckpt_path=last", "--out=cut")


def damage(path: Path) -> None:
    """Turn one bit in the middle of the file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert not is_whole(path)


def test_stereo_and_gradients_being_summed() -> None:
    """Three steps of two batches an epoch; the kill falls between the batches of a step."""
    saving = (*STEREO, "--trainer.accumulate_grad_batches=2", "--trainer.save_every_steps=1")
    assert run(*saving, "--out=whole") == 0
    with at_batch(0, 3, kill, task=StereoTask), pytest.raises(Killed):
        run(*saving, "--out=cut")
    folder = only_run(Path("cut"))
    assert contents(folder / "checkpoints" / "last.ckpt")["global_step"] == 1
    assert run("fit", "--ckpt_path=last", "--out=cut") == 0
    assert_same_run(only_run(Path("whole")), folder)


def test_a_job_of_slurm_by_time_and_sizes_that_do_not_fit_the_place(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    with at_batch(0, 1, lambda _: os.kill(os.getpid(), signal.SIGUSR1)):
        assert run(*RUN, "--out=cut", "--trainer.save_every_minutes=1e-9") == 143
    assert {path.name for path in only_run(Path("cut")).glob("checkpoints/*")} == {"last.ckpt", "last-1.ckpt"}
    message = error_line(capsys, "fit", "--ckpt_path=last", "--out=cut", "--data.batch_size=8")
    assert "taken within epoch 1" in message
    assert message.endswith("it had data.batch_size 16, now 8")


@pytest.mark.parametrize("spoil", ["loss", "weights"])
def test_a_loss_or_weights_that_are_not_finite(capsys: Capture, spoil: str) -> None:
    """One line, exit status 2, and the checkpoint of the step before stays the newest."""

    def act(task: Any) -> torch.Tensor | None:
        if spoil == "loss":
            return torch.tensor(float("nan"), requires_grad=True)
        next(task.model.parameters()).data[0] = float("inf")  # after the loss, as a step does it
        return None

    with at_batch(0, 2, act):
        message = error_line(capsys, *RUN, "--out=cut", "--trainer.save_every_steps=1")
    what = "the loss is nan" if spoil == "loss" else "the weights are no longer finite"
    last = only_run(Path("cut")) / "checkpoints" / "last.ckpt"
    assert f"step 3, epoch 1: {what}; stopped, the last good checkpoint is {last}" in message
    kept = contents(last)
    assert kept["global_step"] == 2
    assert all(value.isfinite().all() for value in kept["state_dict"].values())


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for two checkpoints and a half."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1900k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"a file system may not be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_full(tiny_disk: Path, whole: Path, capsys: Capture) -> None:
    """The third checkpoint does not fit. What was there is whole, and the run goes on from it once there is room."""
    message = error_line(capsys, *RUN, "--out", tiny_disk, "--trainer.keep_last=9", "--trainer.save_every_steps=1")
    folder = only_run(tiny_disk) / "checkpoints"
    assert message == f"halonet: error: no space left on the disk to write {folder / 'last.ckpt'}"
    assert {path.name: contents(path)["global_step"] for path in folder.iterdir()} == {"last.ckpt": 2, "last-1.ckpt": 1}
    shutil.copytree(folder.parent, Path("roomy") / "run" / "moved")
    assert run("fit", "--ckpt_path=last", "--out=roomy") == 0
    assert_same_run(whole, Path("roomy") / "run" / "moved")


def test_a_disk_that_fills_while_torch_writes(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's writer reports a failed write as an error of its own: the line is the same."""
    save, calls = torch.save, []

    def half(what: Any, file: Any) -> None:
        calls.append(file)
        if len(calls) < 2:
            return save(what, file)
        file.write(b"half")
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 64 vs 0") from None

    monkeypatch.setattr(torch, "save", half)
    message = error_line(capsys, *RUN, "--out=cut", "--trainer.save_every_steps=1")
    folder = only_run(Path("cut")) / "checkpoints"
    assert message == f"halonet: error: no space left on the disk to write {folder / 'last.ckpt'}"
    assert [path.name for path in folder.iterdir()] == ["last.ckpt"]
    assert contents(folder / "last.ckpt")["global_step"] == 1


def test_the_sampler_begins_later_once() -> None:
    for repeats in (1, 3):
        sampler = EpochSampler(list(range(20)), seed=3, num_replicas=2, rank=1, repeats=repeats)  # type: ignore[arg-type]
        sampler.set_epoch(4)
        order = list(sampler)
        sampler.skip(7)
        assert len(sampler) == len(order)
        assert list(sampler) == order[7:]
        assert list(sampler) == order


def test_a_record_is_cut_back_to_a_step(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    cut_back(path, step=0)
    assert read_steps(path) == []
    with path.open("a") as file:
        file.write("1,1,0.1,0.5,0.01\n2,1,0.30000000000000004,0.5,0.01\n3,2,0.25,0.5,0.01\n4,2,0.2")  # torn
    assert [row["step"] for row in read_steps(path)] == [1, 2, 3]
    cut_back(path, step=2)
    assert [row["loss"] for row in read_steps(path)] == [0.1, 0.1 + 0.2]
    assert path.read_text().endswith("0.01\n")


class Stream(IterableDataset[Any]):
    """The images of a map-style set one after the other, without a length, by the contract of `Position`."""

    def __init__(self, images: Any) -> None:
        self.images, self.epoch, self.skipped = images, 0, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def skip(self, batches: int) -> None:
        self.skipped = batches

    def __iter__(self) -> Iterator[Any]:
        first, self.skipped = 16 * self.skipped, 0
        return (self.images[self.epoch * len(self.images) + number] for number in range(first, 80))


@pytest.mark.slow
def test_a_stream_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def train_dataloader(self: ImageDataModule) -> Any:
        return DataLoader(Stream(self.dataset("train")), batch_size=16)

    monkeypatch.setattr(ImageDataModule, "train_dataloader", train_dataloader)
    monkeypatch.setattr("halonet.training.optimizer.WarmupCosine.__call__", lambda *_: 0.1, raising=True)
    options = (*RUN, "--trainer.save_every_steps=1")
    assert run(*options, "--out=whole") == 0
    for number, (epoch, batch) in enumerate(((0, 3), (1, 2))):
        with at_batch(epoch, batch, kill), pytest.raises(Killed):
            run(*(("fit", "--ckpt_path=last") if number else options), "--out=cut")
    assert run("fit", "--ckpt_path=last", "--out=cut") == 0
    assert_same_run(only_run(Path("whole")), only_run(Path("cut")))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_an_average_of_the_weights_and_loading_processes(
    photos: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    def averaging(*_: Any) -> list[lightning.Callback]:
        return [EMAWeightAveraging(decay=0.8)]

    monkeypatch.setattr("halonet.training.classification.kind.Classification.callbacks", averaging)
    options = ("fit", *SMALL, *DRAWS, "--data.batch_size=4", "--trainer.max_epochs=2", "--trainer.save_every_steps=1")
    data = ("--data.root", photos, f"--data.num_workers={workers}", "--data.randaugment=5")
    assert run(*options, *data, "--out=whole") == 0
    for number, (epoch, batch) in enumerate(((0, 2), (1, 1))):
        with at_batch(epoch, batch, kill), pytest.raises(Killed):
            run(*(("fit", "--ckpt_path=last") if number else (*options, *data)), "--out=cut")
    assert run("fit", "--ckpt_path=last", "--out=cut") == 0
    folders = [only_run(Path(name)) for name in ("whole", "cut")]
    assert_same_run(*folders)
    first, second = (contents(folder / "checkpoints" / "last.ckpt") for folder in folders)
    for key in ("current_model_state", "averaging_state"):
        assert_equal(first[key], second[key], key)
    assert not torch.equal(*(first[key]["model.head.fc.weight"] for key in ("state_dict", "current_model_state")))
