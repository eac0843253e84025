"""Batches shared out, how a run was launched, what it cannot be, and how fast it was."""

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

import halonet
from halonet.data import EpochSampler
from halonet.training import throughput
from halonet.training.batches import plan_batches, settled, whole_steps
from halonet.training.config import DataConfig, ModelConfig, OptimConfig, RunConfig, TrainerConfig
from halonet.training.optimizer import EpochSteps
from halonet.training.run import TASKS
from halonet.training.schedule import WarmupCosine
from halonet.training.sharding import units
from halonet.training.throughput import DataClock, Throughput
from halonet.training.trainer import make_trainer, prepare, scale_parts, settle
from tests.training.conftest import SMALL, error_line, only_run, run

FEW = ("--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1")
Capture = pytest.CaptureFixture[str]


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


@given(st.integers(1, 5000), st.integers(1, 300), st.integers(1, 600), st.integers(1, 4))
def test_a_plan(global_batch: int, devices: int, largest: int, least_passes: int) -> None:
    plan = plan_batches(global_batch=global_batch, devices=devices, largest=largest, least_passes=least_passes)
    assert 1 <= plan.device_batch <= largest
    assert plan.lr_scale == pytest.approx(plan.global_batch / global_batch)
    share = max(1, math.ceil(global_batch / devices - 0.5))
    assert abs(devices * share - global_batch) <= max(devices / 2, devices - global_batch)
    fewest = min(share, max(least_passes, math.ceil(share / largest)))
    exact = [passes for passes in range(fewest, 2 * fewest + 1) if share % passes == 0]
    assert plan.accumulation == (exact[0] if exact else fewest)
    if exact:
        assert plan.device_batch * plan.accumulation == share
        assert plan.lr_scale == 1.0 or global_batch % devices
    assert abs(plan.device_batch * plan.accumulation - share) <= plan.accumulation / 2


@pytest.mark.parametrize(
    ("global_batch", "devices", "largest", "device_batch", "accumulation"),
    [
        (4096, 8, 512, 512, 1),
        (4096, 8, 128, 128, 4),
        (4096, 3, 512, 455, 3),  # 1365 each: 4095 in all
        (4096, 1, 100, 64, 64),
        (2, 8, 32, 1, 1),
        (508, 4, 64, 63, 2),  # 127 each, a prime: 126 in two passes
        (4096, 8, 1000, 512, 1),
    ],
)
def test_plans_by_hand(global_batch: int, devices: int, largest: int, device_batch: int, accumulation: int) -> None:
    plan = plan_batches(global_batch=global_batch, devices=devices, largest=largest)
    assert (plan.device_batch, plan.accumulation) == (device_batch, accumulation)


def test_what_settles_and_what_stays() -> None:
    config = RunConfig(data=DataConfig(batch_size=100), optim=OptimConfig(lr=0.4, global_batch=512, warmup_epochs=3))
    for devices in (1, 4, 8):
        same = settled(config, devices=devices)
        assert devices * same.data.batch_size * same.trainer.accumulate_grad_batches == 512
        assert same.optim == config.optim
    scaled = settled(config, devices=3)
    assert (scaled.data.batch_size, scaled.trainer.accumulate_grad_batches) == (57, 3)
    assert scaled.optim == replace(config.optim, lr=0.4 * (513 / 512))
    plain = replace(config, optim=OptimConfig())
    assert settled(plain, devices=3) == plain


@pytest.mark.parametrize(
    ("batches", "accumulation", "limit", "used"),
    [(10, 4, 1.0, 8), (10, 1, 1.0, 10), (10, 4, 6, 4), (10, 4, 0.5, 4), (3, 4, 1.0, 3), (8, 4, 100, 8)],
)
def test_steps_are_whole(batches: int, accumulation: int, limit: int | float, used: int) -> None:
    assert whole_steps(batches, accumulation=accumulation, limit=limit) == used


@pytest.mark.parametrize("repeats", [1, 3])
def test_devices_are_dealt_what_one_device_sees(repeats: int) -> None:
    """Any number of devices, global batch by global batch."""
    images: Any = range(50)

    def indices(devices: int) -> list[list[int]]:
        samplers = [
            EpochSampler(images, seed=4, num_replicas=devices, rank=rank, repeats=repeats) for rank in range(devices)
        ]
        for sampler in samplers:
            sampler.set_epoch(2)
        return [list(sampler) for sampler in samplers]

    (one,) = indices(1)
    for devices in (2, 3):
        each = 12 // devices
        dealt = indices(devices)
        for step in range(4):
            together = {index for rank in dealt for index in rank[step * each : (step + 1) * each]}
            assert together == set(one[step * 12 : (step + 1) * 12])


def test_passes_that_are_added_up_equal_one_large_pass() -> None:
    """Through the command line, without batch norm; the epoch's last images, too few for a step, are left out."""
    options = (*SMALL, *FEW, "--model.name=vil_nano_32", "--trainer.max_epochs=1", "--optim.global_batch=16")
    for largest, limit in ((16, 2), (4, 9)):
        batches = (f"--data.batch_size={largest}", f"--trainer.limit_train_batches={limit}")
        assert run("fit", "--out", largest, *options, *batches) == 0
    folders = [only_run(Path(str(largest))) for largest in (16, 4)]
    states = [load(folder / "checkpoints" / "last.ckpt") for folder in folders]
    assert [state["global_step"] for state in states] == [2, 2]
    for name, value in states[0]["state_dict"].items():
        torch.testing.assert_close(value, states[1]["state_dict"][name], rtol=1e-4, atol=1e-6, msg=name)
    effective = json.loads((folders[1] / "metrics.json").read_text())["effective"]
    assert effective == yaml.safe_load((folders[1] / "effective.yaml").read_text())
    facts = {"device_batch": 4, "accumulate_grad_batches": 4, "global_batch": 16, "steps_per_epoch": 2}
    assert effective.items() >= {**facts, "total_steps": 2, "warmup_steps": 2, "devices": 1}.items()
    asked = yaml.safe_load((folders[1] / "config.yaml").read_text())
    assert (asked["data"]["batch_size"], asked["trainer"]["accumulate_grad_batches"]) == (4, 1)


def test_a_schedule_goes_on_where_it_was_with_other_steps_an_epoch() -> None:
    def schedule(steps: int, lr: float) -> tuple[torch.optim.Optimizer, EpochSteps]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
        shape = WarmupCosine(warmup_steps=steps, total_steps=4 * steps)
        return optimizer, EpochSteps(optimizer, shape, steps_per_epoch=steps)

    optimizer, before = schedule(10, 0.3)
    for _ in range(25):
        optimizer.step()
        before.step()
    again, after = schedule(20, 0.6)
    after.load_state_dict(before.state_dict())
    assert after.last_epoch == 50
    assert again.param_groups[0]["lr"] == after.get_last_lr()[0] == 0.6 * WarmupCosine(20, 80)(50)
    same, after = schedule(10, 0.3)
    after.load_state_dict(before.state_dict())
    assert same.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Sets environment variables as a launcher does."""
    rank = rank_zero_only.rank
    for name in [name for name in os.environ if name.startswith(("SLURM_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)

    def launch(**variables: object) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    yield launch
    rank_zero_only.rank = rank


SLURM = {"SLURM_NTASKS": 16, "SLURM_NTASKS_PER_NODE": 8, "SLURM_NNODES": 2, "SLURM_JOB_ID": 123456, "SLURM_PROCID": 0}
SLURM |= {"SLURM_LOCALID": 0, "SLURM_NODEID": 0, "SLURM_NODELIST": "gpu[07-08]", "SLURM_JOB_NAME": "halonet"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": 16, "LOCAL_WORLD_SIZE": 8, "RANK": 0, "LOCAL_RANK": 0}


@pytest.mark.parametrize("variables", [SLURM, TORCHRUN], ids=["slurm", "torchrun"])
def test_devices_are_those_that_were_launched(cluster: Callable[..., None], variables: dict[str, object]) -> None:
    config = RunConfig(
        trainer=TrainerConfig(accelerator="cpu"), data=DataConfig(batch_size=128), optim=OptimConfig(global_batch=4096)
    )
    alone = settle(replace(config, trainer=replace(config.trainer, devices=1)))
    assert (alone.data.batch_size, alone.trainer.accumulate_grad_batches) == (128, 32)
    cluster(**variables)
    of_16 = settle(config)
    assert (of_16.data.batch_size, of_16.trainer.accumulate_grad_batches) == (128, 2)
    with pytest.raises(ValueError, match="8 processes on each of 2 nodes were launched, the settings want 4"):
        settle(replace(config, trainer=replace(config.trainer, devices=4)))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--trainer.precision=16-mixed",), "trainer.precision: expected 32-true or bf16-mixed on a CPU"),
        (("--trainer.strategy=fsdp", "--trainer.precision=16-mixed"), "trainer.precision: expected 32-true or bf16"),
        (
            ("--trainer.strategy=fsdp", "--optim.ema_decay=0.5"),
            "optim.ema_decay: expected 0 with",
        ),
        (("--trainer.accelerator=nonsense",), "trainer: "),
        (("--trainer.devices=0",), "trainer: "),
    ],
)
def test_what_cannot_be_is_told_before_data_are_read(capsys: Capture, options: tuple[str, ...], expected: str) -> None:
    assert expected in error_line(capsys, "fit", *SMALL, "--data.root=nowhere", *options)
    assert not Path("runs").exists()


def test_blocks_are_computed_again_where_the_network_can() -> None:
    config = RunConfig(model=ModelConfig(grad_checkpointing=True))
    model = halonet.create_model("halonet_nano_32")
    prepare(model, config)
    assert model.grad_checkpointing
    with pytest.raises(ValueError, match=r"model\.grad_checkpointing: halonet_nano_32 cannot"):
        prepare(nn.Linear(1, 1), config)


def test_compiled_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network runs compiled while it trains, not afterwards, and its weights keep their names."""
    calls: list[str] = []

    def compiled(self: Any) -> None:
        def call(*arguments: Any) -> Any:
            calls.append(type(self).__name__)
            return self._call_impl(*arguments)

        self._compiled_call_impl = call

    monkeypatch.setattr(nn.Module, "compile", compiled)
    config = RunConfig(trainer=TrainerConfig(max_epochs=1, accelerator="cpu", limit_train_batches=2, compile=True))
    parts = TASKS["classification"].build(config)
    names = list(parts.task.state_dict())
    _, callbacks, clock = scale_parts(config, Path())
    trainer = make_trainer(config.trainer, callbacks=callbacks, profiler=clock, logger=False)
    trainer.fit(parts.task, parts.data.train_dataloader())
    assert calls == ["ResidualNet"] * 2
    parts.model.eval()(torch.zeros(1, 1, 16, 16))
    assert len(calls) == 2
    assert list(load(Path(trainer.checkpoint_callback.best_model_path))["state_dict"]) == names  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("halonet_nano_32", {"Bottleneck"}),
        ("vil_nano_32", {"Block"}),
        ("psmnet_nano", {"ResidualBlock", "Hourglass"}),
    ],
)
def test_blocks_are_shared_out_one_by_one(name: str, kinds: set[str]) -> None:
    model = halonet.create_model(name, **({} if name.startswith("psmnet") else {"num_classes": 10}))
    found = units(model)
    assert {type(unit).__name__ for unit in found} == kinds
    inside = [module for unit in found for module in unit.modules()]
    assert len(inside) == len(set(inside))
    of_units = sum(parameter.numel() for unit in found for parameter in unit.parameters())
    assert of_units > 0.5 * sum(parameter.numel() for parameter in model.parameters())


def test_figures_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps of 8 images on each of two devices: fetched in 1 s each, computed in 9 (with compiling), 2 and 2."""
    now = 0.0
    monkeypatch.setattr(throughput.time, "monotonic", lambda: now)
    clock = DataClock()
    callback = Throughput(clock, num_workers=0, warn=True)
    trainer: Any = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device("cpu"), reduce=lambda x, reduce_op: x),
        world_size=2,
        train_dataloader=SimpleNamespace(num_workers=0),
        is_global_zero=True,
    )
    logged: dict[str, float] = {}
    module: Any = SimpleNamespace(log_dict=lambda row, **_: logged.update(row))
    batch = {"left": torch.zeros(8, 1), "right": torch.zeros(8, 1)}
    for seconds in (9, 2, 2):
        clock.start("[_TrainingEpochLoop].train_dataloader_next")
        now += 1
        clock.stop("[_TrainingEpochLoop].train_dataloader_next")
        callback.on_train_batch_start(trainer, module, batch, 0)
        now += seconds
        callback.on_train_batch_end(trainer, module, None, batch, 0)
    now += 100  # validation
    callback.on_train_epoch_end(trainer, module)
    assert logged["images_per_second"] == pytest.approx(2 * 16 / 6)
    assert logged["waiting"] == pytest.approx(2 / 6)
    assert logged["utilization"] == pytest.approx(4 / 6)
    assert logged["loader_images_per_second"] == pytest.approx(2 * 16 / 2)
    assert logged["peak_memory_mib"] > 10


def test_a_starved_device_is_told(photos: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    from halonet.data import images

    read = images.read_image

    def slow_read(*arguments: Any, **options: Any) -> Any:
        throughput.time.sleep(0.05)
        return read(*arguments, **options)

    monkeypatch.setattr(images, "read_image", slow_read)
    options = (*SMALL, *FEW, "--data.root", photos, "--trainer.max_epochs=1", "--data.num_workers=0")
    assert run("fit", *options, "--data.batch_size=4", "--data.img_size=32") == 0
    said = capsys.readouterr().out
    assert said.count("more loading processes may help (data.num_workers, now 0)") == 1
    history = json.loads((only_run(Path("runs")) / "metrics.json").read_text())["history"]
    for row in history:
        assert 0.2 < row["waiting"] <= 1
        assert 0 < row["images_per_second"] <= row["loader_images_per_second"] <= 20
    assert f"{history[-1]['waiting']:.0%} waiting" in said
