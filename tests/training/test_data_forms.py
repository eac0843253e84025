"""Runs on shards and on sets that only judge, and runs that pass over unreadable images."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from halonet.data import DataConfig, Preprocessing, open_source
from halonet.training.classification.datamodule import ImageDataModule
from halonet.training.classification.module import ClassificationTask
from halonet.training.loading import StreamLoader, shared_batches
from tests.data.making import jpeg, write_folders, write_shards
from tests.training.conftest import SMALL, error_line, only_run, run

Capture = pytest.CaptureFixture[str]
NONE = ("--data.num_workers=0", "--data.augment=none", "--data.img_size=16", "--trainer.threads=1")
COLOUR = Preprocessing(img_size=8, in_chans=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2), crop_pct=0.875)


def module(root: Path, **settings: object) -> ImageDataModule:
    config = DataConfig(root=str(root), batch_size=4, **settings)  # type: ignore[arg-type]
    return ImageDataModule(open_source(config), config=config, preprocessing=COLOUR, randaugment=0, seed=0)


def test_a_run_on_shards_goes_on_as_if_never_stopped(tmp_path: Path, capsys: Capture) -> None:
    write_shards(tmp_path / "shards", {"train": [9, 7, 8], "val": [5]})
    arguments = ("--data.root", tmp_path / "shards", *SMALL, *NONE, "--data.batch_size=8", "--data.shuffle_buffer=4")
    assert run("fit", "--out", "whole", *arguments, "--trainer.max_epochs=2") == 0
    assert "shards: 24 train, 5 val, 5 test images of 3 classes" in capsys.readouterr().out

    original = ClassificationTask.training_step

    def interrupted(self: ClassificationTask, batch: object, batch_idx: int) -> torch.Tensor:
        if self.current_epoch == 1 and batch_idx == 1:
            raise KeyboardInterrupt
        return original(self, batch, batch_idx)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClassificationTask, "training_step", interrupted)
        assert run("fit", "--out", "cut", *arguments, "--trainer.max_epochs=2") == 130
    assert run("fit", "--out", "cut", "--ckpt_path=last") == 0
    weights = [
        torch.load(only_run(Path(out)) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for out in ("whole", "cut")
    ]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=0, atol=0, msg=name)


def test_the_loader_of_a_stream_can_be_entered_in_its_middle(tmp_path: Path) -> None:
    write_shards(tmp_path, {"train": [9, 7, 8], "val": [5]})
    loader = module(tmp_path, num_workers=2).train_dataloader()
    assert isinstance(loader, StreamLoader)
    assert len(loader) == 6
    whole = list(loader)
    loader.dataset.skip(3)
    rest = list(loader)
    for one, other in zip(rest, whole[3:], strict=True):
        assert torch.equal(one[0], other[0])
    assert len(list(loader)) == 6


def test_shards_of_unknown_number_need_a_length(tmp_path: Path, capsys: Capture) -> None:
    write_shards(tmp_path / "shards", {"train": [9, 7], "val": [5]})
    root = f"pipe:cat {tmp_path}/shards/{{train-00000{{0,1}},val-000000}}.tar"
    arguments = ("fit", "--data.root", root, *SMALL, *NONE, "--trainer.max_epochs=1")
    assert "give --trainer.limit_train_batches as a whole number" in error_line(capsys, *arguments)
    assert not Path("runs").exists()


@pytest.mark.slow
def test_shards_of_unknown_number_with_a_length(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", {"train": [9, 7], "val": [5]})
    root = f"pipe:cat {tmp_path}/shards/{{train-00000{{0,1}},val-000000}}.tar"
    arguments = ("fit", "--data.root", root, *SMALL, *NONE, "--trainer.max_epochs=1")
    assert run(*arguments, "--trainer.limit_train_batches=2") == 0
    assert json.loads((only_run(Path("runs")) / "metrics.json").read_text())["images"]["train"] == 32


def test_a_set_that_only_judges(tmp_path: Path, capsys: Capture) -> None:
    write_folders(tmp_path / "train set", {str(i): {f"{k}.jpg": jpeg(10 * i + k) for k in range(4)} for i in range(3)})
    write_folders(tmp_path / "v2", {str(i): {f"{k}.jpg": jpeg(10 * i + k) for k in range(2)} for i in range(3)})
    arguments = (*SMALL, *NONE, "--trainer.max_epochs=1")
    assert run("fit", "--data.root", tmp_path / "train set", *arguments) == 0
    weights = only_run(Path("runs")) / "weights.safetensors"
    judging = ("--data.root", tmp_path / "v2", "--data.dataset=imagenetv2", *arguments)
    assert "v2 has no images to train on" in error_line(capsys, "fit", *judging)
    for command in ("validate", "test"):
        assert run(command, "--weights", weights, "--json", *judging) == 0
        assert json.loads(capsys.readouterr().out)["images"] == 6


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_unreadable_images_are_passed_over_and_told(photos: Path, capsys: Capture, workers: int) -> None:
    for name in ("green/2.png", "red/5.png"):
        (photos / name).write_text("no picture")
    arguments = ("--data.root", photos, *SMALL, "--data.on_error=skip", f"--data.num_workers={workers}")
    few = ("--data.max_error_fraction=0.5", "--trainer.max_epochs=2", "--data.img_size=16", "--trainer.threads=1")
    assert run("fit", *arguments, *few) == 0
    said = capsys.readouterr().err
    told = re.findall(r"^(\d) unreadable (\w+) images skipped, first: cannot read image (\S+): not an", said, re.M)
    folder = only_run(Path("runs"))
    lines = (folder / "unreadable.txt").read_text().splitlines()
    assert len(told) == len({part for _, part, _ in told}), "told once, not every epoch"
    assert sum(int(count) for count, _, _ in told) == len(lines) == 2
    assert {line.split("cannot read image ")[1].split(":")[0] for line in lines} == {
        str(photos / name) for name in ("green/2.png", "red/5.png")
    }
    if not workers:
        (photos / "red/6.png").write_text("no picture")
        message = error_line(capsys, "fit", *arguments, "--data.max_error_fraction=0.01", "--out=other")
        assert re.search(r"1 of \d+ \w+ images cannot be read, more than the share of 0\.01 .* first: cannot", message)


@pytest.mark.slow
def test_judging_tells_what_it_passed_over(photos: Path, capsys: Capture) -> None:
    arguments = ("--data.root", photos, *SMALL, *NONE)
    assert run("fit", *arguments, "--trainer.max_epochs=1") == 0
    for path in photos.glob("*/*.png"):
        if path.name < "7":
            path.write_text("no picture")
    capsys.readouterr()
    weights = only_run(Path("runs")) / "weights.safetensors"
    skipping = ("--data.on_error=skip", "--data.max_error_fraction=1.0")
    assert run("validate", "--weights", weights, "--json", *arguments, *skipping) == 0
    said = capsys.readouterr()
    assert "unreadable val images skipped, first: cannot read image" in said.err
    assert json.loads(said.out)["images"] == 3


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_judging_is_shared_out(world: int) -> None:
    """Each image on one process, as many batches on each."""
    for total in range(1, 40):
        shares = [shared_batches(total, batch_size=4, rank=rank, world=world) for rank in range(world)]
        assert len({len(share) for share in shares}) == 1
        together = [index for share in shares for batch in share for index in batch]
        assert all(0 < len(batch) <= 4 for share in shares for batch in share)
        if total >= world:
            assert sorted(together) == list(range(total))
        else:
            assert set(together) == set(range(total))


def test_a_process_of_two_judges_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folders(tmp_path, {name: {f"{k}.jpg": jpeg(k) for k in range(20)} for name in "ab"})
    data = module(tmp_path, num_workers=0)
    whole = [tuple(image.flatten().tolist()) for images, _ in data.test_dataloader() for image in images]
    halves: list[tuple[float, ...]] = []
    for rank in range(2):
        monkeypatch.setattr(ImageDataModule, "place", lambda self, rank=rank: (rank, 2))
        half = [tuple(image.flatten().tolist()) for images, _ in data.test_dataloader() for image in images]
        assert len(half) == 4
        halves += half
    assert sorted(halves) == sorted(whole)
    alone = [tuple(image.flatten().tolist()) for images, _ in data.whole_loader("test") for image in images]
    assert alone == whole


def test_streams_are_not_repeated(tmp_path: Path) -> None:
    write_shards(tmp_path, {"train": [9, 7, 8], "val": [5]})
    with pytest.raises(ValueError, match=r"data\.repeats: a stream gives each image once, expected 1, got 3"):
        open_source(DataConfig(root=str(tmp_path), repeats=3))
