"""A run whose length is told in optimizer steps, and schedules told in them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from halonet.training.config import OptimConfig, TrainerConfig
from halonet.training.optimizer import EpochSteps, schedule_of
from halonet.training.schedule import WarmupCosine, WarmupSteps
from tests.training.conftest import SMALL, error_line, only_run, run
from tests.training.test_nothing_lost import Killed, assert_same_run, at_batch, contents, history, kill, losses

Capture = pytest.CaptureFixture[str]
LIMITS = tuple(f"--trainer.limit_{split}_batches={count}" for split, count in (("train", 5), ("val", 1), ("test", 1)))
RUN = ("fit", *SMALL, *LIMITS, "--model.drop_rate=0.2", "--optim.warmup_steps=2", "--optim.drop_steps=[4,6]")


@pytest.fixture(scope="module", autouse=True)
def _without_pictures() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("halonet.training.classification.kind.draw_pictures", lambda *_, **__: [])
        yield


def test_the_last_epoch_ends_where_the_steps_do(capsys: Capture) -> None:
    """Seven steps of five an epoch: the second epoch has two, is validated, kept, and goes on from every step."""
    assert run(*RUN, "--trainer.max_steps=7", "--out=whole") == 0
    said = capsys.readouterr().out
    whole = only_run(Path("whole"))
    rows = losses(whole)
    assert [row[:2] for row in rows] == [(float(step), 1.0 + (step > 5)) for step in range(1, 8)]
    assert [row[3] / 0.2 for row in rows] == pytest.approx([0.5, 1, 1, 1, 0.1, 0.1, 0.01])
    assert [row["epoch"] for row in history(whole)] == [1, 2]
    assert history(whole)[1]["train/loss"] == pytest.approx((rows[5][2] + rows[6][2]) / 2)
    assert contents(whole / "checkpoints" / "last.ckpt")["global_step"] == 7
    facts = yaml.safe_load((whole / "effective.yaml").read_text())
    assert (facts["steps_per_epoch"], facts["total_steps"], facts["warmup_steps"]) == (5, 7, 2)
    assert "epoch 2/2" in said

    cut = ("--trainer.max_steps=7", "--trainer.save_every_steps=1", "--out=cut")
    with at_batch(1, 1, kill), pytest.raises(Killed):
        run(*RUN, *cut)
    assert run("fit", "--ckpt_path=last", "--out=cut") == 0
    assert_same_run(whole, only_run(Path("cut")))

    assert run("fit", "--ckpt_path=last", "--trainer.max_steps=16", "--out=cut") == 0
    longer = only_run(Path("cut"))
    assert [row[:2] for row in losses(longer)][7:] == [(float(step), 3.0 + (step > 12)) for step in range(8, 17)]
    assert [row["epoch"] for row in history(longer)] == [1, 2, 3, 4]
    assert run("fit", "--ckpt_path=last", "--trainer.max_steps=3", "--out=cut") == 0  # nothing is left to train
    assert len(losses(longer)) == 16


def test_whole_epochs_and_passes(capsys: Capture) -> None:
    """Steps of two passes: four batches an epoch are two steps; six steps are three whole epochs, under a bar."""
    passes = ("--trainer.accumulate_grad_batches=2", "--optim.drop_steps=null", "--trainer.progress=bar")
    assert run(*RUN, *passes, "--trainer.max_steps=5", "--out=runs") == 0
    folder = only_run(Path("runs"))
    assert [row[:2] for row in losses(folder)] == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)]
    assert len(json.loads((folder / "metrics.json").read_text())["history"]) == 3
    assert losses(folder)[-1][3] == pytest.approx(0.2 / 128)  # the cosine ends with the run
    assert run(*RUN, *passes, "--trainer.max_steps=4", "--out=even") == 0
    assert [row["epoch"] for row in history(only_run(Path("even")))] == [1, 2]


def test_an_end_that_is_past(capsys: Capture) -> None:
    with at_batch(1, 2, kill), pytest.raises(Killed):
        run(*RUN, "--trainer.max_steps=12", "--trainer.save_every_steps=1", "--out=runs")
    message = error_line(capsys, "fit", "--ckpt_path=last", "--trainer.max_steps=6", "--out=runs")
    assert "trainer.max_steps: expected more than the 7 steps" in message


@pytest.mark.parametrize("steps", [1, 7, 500])
@pytest.mark.parametrize("peak", [1, 3])
def test_a_warm_up_from_nothing_is_what_it_was(steps: int, peak: int) -> None:
    for schedule in (WarmupCosine(steps, 1000), WarmupSteps(steps, ())):
        assert [schedule(step) for step in range(steps)] == [(step + 1) / steps for step in range(steps)]


def test_a_warm_up_from_a_share() -> None:
    """BoTNet A.2: from 0.0067 to 0.1 in 500 steps, then 0.01 and 0.001."""
    optim = OptimConfig(lr=0.1, warmup_steps=500, warmup_start=0.067, drop_steps=[15000, 17500])
    schedule = schedule_of(optim, total_steps=22500, epochs=12.2)
    rates = [optim.lr * schedule(step) for step in (0, 250, 499, 500, 14999, 15000, 17500)]
    assert rates == pytest.approx([0.0067, 0.05335, 0.0998134, 0.1, 0.1, 0.01, 0.001])
    cosine = WarmupCosine(4, 9, start=0.5, final_ratio=0.0)
    assert [cosine(step) for step in (0, 2, 4, 6, 8)] == pytest.approx([0.5, 0.75, 1.0, 0.5, 0.0])


def test_the_place_of_steps_stays() -> None:
    """Another number of steps an epoch moves a schedule of epochs alone."""
    for counts_epochs, place in ((True, 12), (False, 6)):
        parameter = torch.nn.Parameter(torch.zeros(1))
        schedules = [
            EpochSteps(
                torch.optim.SGD([parameter], lr=1.0),
                WarmupSteps(0, (7,)),
                steps_per_epoch=per_epoch,
                counts_epochs=counts_epochs,
            )
            for per_epoch in (5, 10)
        ]
        for _ in range(6):
            schedules[0].optimizer.step()
            schedules[0].step()
        schedules[1].load_state_dict(schedules[0].state_dict())
        assert schedules[1].last_epoch == place
        assert schedules[1].get_last_lr() == [0.1 if counts_epochs else 1.0]


def test_plain_momentum_of_a_step_by_hand() -> None:
    """Gradients 1 and 1: plain 1 + (1 + 0.5); Nesterov's (1 + 0.5) + (1 + 0.5 * 1.5)."""
    from halonet.training.optimizer import configure

    trainer: Any = SimpleNamespace(callbacks=[], estimated_stepping_batches=10, max_epochs=1)
    for nesterov, moved in ((False, 2.5), (True, 3.25)):
        model = torch.nn.Linear(1, 1, bias=False)
        optim = OptimConfig(lr=1.0, momentum=0.5, weight_decay=0.0, nesterov=nesterov)
        made: Any = configure(model, optim, trainer)
        before = model.weight.item()
        for _ in range(2):
            made["optimizer"].param_groups[0]["lr"] = 1.0
            model.weight.grad = torch.ones(1, 1)
            made["optimizer"].step()
        assert before - model.weight.item() == pytest.approx(moved)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"warmup_steps": -1}, r"optim.warmup_steps: expected at least 0 or null, got -1"),
        ({"warmup_start": 1.0}, r"optim.warmup_start: expected at least 0 and less than 1, got 1.0"),
        ({"drop_steps": [3, 3]}, r"optim.drop_steps: expected rising steps"),
        ({"drop_steps": [3], "drop_epochs": [1.0]}, r"expected one of them, got both"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        OptimConfig(**settings)
    with pytest.raises(ValueError, match=r"trainer.max_steps: expected at least 1 or null, got 0"):
        TrainerConfig(max_steps=0)
    OptimConfig(momentum=0.0, nesterov=False)
