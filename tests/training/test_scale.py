"""Batches shared out, averaged weights, batch norm over devices, how a run was launched, and how fast it was."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as lightning
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.utilities import rank_zero_only
from safetensors.torch import load_file
from torch import nn

import halonet
from halonet.data import EpochSampler
from halonet.training import sync_batchnorm, throughput
from halonet.training.averaging import MovingAverage
from halonet.training.batches import plan_batches, settled, whole_steps
from halonet.training.classification.module import ClassificationTask
from halonet.training.config import DataConfig, ModelConfig, OptimConfig, RunConfig, TrainerConfig
from halonet.training.optimizer import EpochSteps
from halonet.training.schedule import WarmupCosine
from halonet.training.sharding import units
from halonet.training.sync_batchnorm import synchronize
from halonet.training.throughput import DataClock, Throughput
from halonet.training.trainer import make_trainer, prepare, settle
from tests.training.conftest import SMALL, error_line, only_run, run

ROOT = Path(halonet.__file__).parents[1]
FEW = ("--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1")
Capture = pytest.CaptureFixture[str]


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0, msg=name)


# --- the batch of a step, shared out


@given(st.integers(1, 5000), st.integers(1, 300), st.integers(1, 600), st.integers(1, 4))
def test_a_plan(global_batch: int, devices: int, largest: int, least_passes: int) -> None:
    plan = plan_batches(global_batch=global_batch, devices=devices, largest=largest, least_passes=least_passes)
    assert 1 <= plan.device_batch <= largest
    if global_batch % devices == 0:
        assert (plan.global_batch, plan.lr_scale) == (global_batch, 1.0)
    assert abs(plan.global_batch - global_batch) <= max(devices / 2, devices - global_batch)
    assert plan.lr_scale == pytest.approx(plan.global_batch / global_batch)
    share = plan.device_batch * plan.accumulation
    fewer = range(min(least_passes, share), plan.accumulation)
    assert not [passes for passes in fewer if share % passes == 0 and share // passes <= largest]


@pytest.mark.parametrize(
    ("global_batch", "devices", "largest", "device_batch", "accumulation"),
    [
        (4096, 8, 512, 512, 1),
        (4096, 8, 128, 128, 4),
        (4096, 3, 512, 455, 3),  # 1365 each: 4095 in all
        (4096, 1, 100, 64, 64),
        (2, 8, 32, 1, 1),
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
    assert scaled.optim == replace(config.optim, lr=pytest.approx(0.4 * 513 / 512))
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
    options = (*SMALL, *FEW, "--model.name=vil_nano_32", "--trainer.max_epochs=1", "--optim.global_batch=400")
    for largest in (400, 100):
        assert run("fit", "--out", largest, *options, "--data.batch_size", largest) == 0
    folders = [only_run(Path(str(largest))) for largest in (400, 100)]
    states = [load(folder / "checkpoints" / "last.ckpt") for folder in folders]
    assert [state["global_step"] for state in states] == [3, 3]
    for name, value in states[0]["state_dict"].items():
        torch.testing.assert_close(value, states[1]["state_dict"][name], rtol=1e-4, atol=1e-6, msg=name)
    effective = json.loads((folders[1] / "metrics.json").read_text())["effective"]
    assert effective == yaml.safe_load((folders[1] / "effective.yaml").read_text())
    facts = {"device_batch": 100, "accumulate_grad_batches": 4, "global_batch": 400, "steps_per_epoch": 3}
    assert effective.items() >= {**facts, "total_steps": 3, "warmup_steps": 3, "devices": 1}.items()
    asked = yaml.safe_load((folders[1] / "config.yaml").read_text())
    assert (asked["data"]["batch_size"], asked["trainer"]["accumulate_grad_batches"]) == (100, 1)


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


# --- averaged weights


class Counting(lightning.LightningModule):
    """A batch norm, with a buffer that is drawn anew and one of whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.register_buffer("drawn", torch.zeros(2))
        self.register_buffer("numbers", torch.tensor([7, -3]))
        self.seen: list[dict[str, torch.Tensor]] = []
        self.judged: list[dict[str, torch.Tensor]] = []

    def _copy(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.state_dict().items()}

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.drawn: torch.Tensor = torch.rand(2)
        return self.model(batch[0]).sub(1).square().mean()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seen.append(self._copy())

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.judged.append(self._copy())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.5)


def test_the_average_is_judged_and_kept(tmp_path: Path) -> None:
    task = Counting()
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(24, 3)), batch_size=4)
    trainer = make_trainer(
        TrainerConfig(max_epochs=1, accelerator="cpu"), callbacks=[MovingAverage(0.75)], logger=False
    )
    trainer.fit(task, data, data)
    expected = {name: value.clone() for name, value in task.seen[0].items()}
    for state in task.seen[1:]:
        for name, value in state.items():
            mean = 0.75 * expected[name] + 0.25 * value
            expected[name] = mean if name.startswith("model.") and value.is_floating_point() else value
    for found in (task.judged[0], task.state_dict()):
        assert found["numbers"].tolist() == [7, -3]
        torch.testing.assert_close(found, expected)
    assert not torch.equal(task.seen[-1]["model.0.weight"], expected["model.0.weight"])


def test_going_on_with_an_average_equals_never_stopping() -> None:
    options = (*SMALL, *FEW, "--trainer.max_epochs=3", "--trainer.limit_train_batches=2", "--optim.ema_decay=0.5")
    assert run("fit", "--out", "whole", *options) == 0
    original = ClassificationTask.training_step

    def interrupted(self: ClassificationTask, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.current_epoch == 2:
            raise KeyboardInterrupt
        return original(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClassificationTask, "training_step", interrupted)
        assert run("fit", "--out", "cut", *options) == 130
    assert run("fit", "--out", "cut", "--ckpt_path", "last") == 0
    whole, cut = (load(only_run(Path(out)) / "checkpoints" / "last.ckpt") for out in ("whole", "cut"))
    for part in ("state_dict", "current_model_state", "averaging_state"):
        assert_same(whole[part], cut[part])
    assert not torch.equal(
        whole["state_dict"]["model.head.fc.weight"], whole["current_model_state"]["model.head.fc.weight"]
    )
    best = load(only_run(Path("whole")) / "checkpoints" / "best.ckpt")["state_dict"]
    written = load_file(only_run(Path("whole")) / "weights.safetensors")
    assert_same(written, {name[6:]: value for name, value in best.items() if name.startswith("model.")})


def test_an_interrupted_validation_gives_the_weights_back() -> None:
    task, callback = Counting(), MovingAverage(0.5)
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")))
    callback.setup(trainer, task, "fit")
    before = copy.deepcopy(task.state_dict())
    with torch.no_grad():
        task.model[0].weight += 1
    callback.on_validation_epoch_start(trainer, task)
    assert_same(dict(task.state_dict()), before)
    callback.on_exception(trainer, task, KeyboardInterrupt())
    callback.on_exception(trainer, task, KeyboardInterrupt())
    torch.testing.assert_close(task.model[0].weight, before["model.0.weight"] + 1)


# --- batch norm over devices


@pytest.fixture
def twins(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a second process held the same tensors: every sum over devices is twice this one's."""
    monkeypatch.setattr(sync_batchnorm, "_devices", lambda: 2)
    monkeypatch.setattr(sync_batchnorm, "_summed", lambda x: 2 * x)


@pytest.mark.parametrize(
    ("norm", "shape"), [(nn.BatchNorm1d, (5, 3)), (nn.BatchNorm2d, (2, 3, 4, 5)), (nn.BatchNorm3d, (2, 3, 2, 1, 2))]
)
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.usefixtures("twins")
def test_two_devices_equal_the_batch_of_both(
    norm: Callable[..., nn.Module], shape: tuple[int, ...], momentum: float | None
) -> None:
    one = norm(3, momentum=momentum).double()
    nn.init.uniform_(one.weight, 1, 2)  # type: ignore[arg-type]
    both = copy.deepcopy(one)
    keys = list(one.state_dict())
    network = nn.Sequential(one)
    synchronize(network)
    assert list(one.state_dict()) == keys
    weights, x = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64, requires_grad=True)
    for _ in range(2):
        (network(x) * weights).sum().backward()
        y = x.detach().clone().requires_grad_()
        (both(torch.cat([y, x.detach()])) * torch.cat([weights, weights])).sum().backward()
        torch.testing.assert_close(x.grad, y.grad)
        x.grad = None
    for name, parameter in one.named_parameters():
        # DDP sums what each device's own images give; here both give the same.
        torch.testing.assert_close(2 * parameter.grad, both.get_parameter(name).grad, msg=name)  # type: ignore[operator]
    torch.testing.assert_close(one.state_dict(), both.state_dict())
    synchronize(network, enable=False)
    assert type(one) is type(both)


# --- how a run was launched, and what cannot be


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
    with pytest.raises(
        ValueError, match="8 processes on each of 2 nodes were launched, the settings want 4 on each of 2"
    ):
        settle(replace(config, trainer=replace(config.trainer, devices=4)))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--trainer.precision=16-mixed",), "trainer.precision: expected 32-true or bf16-mixed on a CPU"),
        (("--trainer.strategy=fsdp", "--trainer.precision=16-mixed"), "trainer.precision: expected 32-true or bf16"),
        (
            ("--trainer.strategy=fsdp", "--optim.ema_decay=0.5"),
            "optim.ema_decay: expected 0 with trainer.strategy fsdp",
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
    """The network is called compiled while it trains, not afterwards, and its weights keep their names."""
    calls: list[str] = []

    def compiled(self: Any) -> None:
        def call(*arguments: Any) -> Any:
            calls.append(type(self).__name__)
            return self._call_impl(*arguments)

        self._compiled_call_impl = call

    monkeypatch.setattr(nn.Module, "compile", compiled)
    options = (*SMALL, *FEW, "--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.compile=true")
    assert run("fit", *options, "--optim.ema_decay=0.5") == 0
    assert calls == ["ResidualNet"] * 3  # two steps and a validation
    names = load_file(only_run(Path("runs")) / "weights.safetensors").keys()
    assert set(names) == set(halonet.create_model("halonet_nano_32", num_classes=10, in_chans=1).state_dict())


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("halonet_nano_32", {"Bottleneck"}),
        ("vil_nano_32", {"Block"}),
        ("psmnet_nano", {"ResidualBlock", "Hourglass"}),
    ],
)
def test_blocks_are_shared_out_one_by_one(name: str, kinds: set[str]) -> None:
    model = halonet.create_model(name)
    found = units(model)
    assert {type(unit).__name__ for unit in found} == kinds
    inside = [module for unit in found for module in unit.modules()]
    assert len(inside) == len(set(inside))
    of_units = sum(parameter.numel() for unit in found for parameter in unit.parameters())
    assert of_units > 0.5 * sum(parameter.numel() for parameter in model.parameters())


# --- how fast


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
    options = (*SMALL, *FEW, "--data.root", photos, "--trainer.max_epochs=2", "--data.num_workers=0")
    assert run("fit", *options, "--data.batch_size=4", "--data.img_size=32") == 0
    said = capsys.readouterr().out
    assert said.count("more loading processes may help (data.num_workers, now 0)") == 1
    history = json.loads((only_run(Path("runs")) / "metrics.json").read_text())["history"]
    for row in history:
        assert 0.2 < row["waiting"] <= 1
        assert 0 < row["images_per_second"] <= row["loader_images_per_second"] <= 20
    assert f"{history[-1]['waiting']:.0%} waiting" in said


# --- several processes


def in_processes(*command: object) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, *(str(word) for word in command)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=400, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [(), ("--strategy", "fsdp", "--clip", "1.0", "--optimizer", "adamw", "--lr", "0.001")]
)
def test_processes_equal_one_process(options: tuple[str, ...]) -> None:
    """Within 1e-5 over 20 steps."""
    said = in_processes(ROOT / "benchmarks" / "ddp_equality.py", *options)
    assert len(said.splitlines()) == 2 + 1 + 20 + 1


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_torchrun_makes_one_folder_and_one_process_goes_on(strategy: str) -> None:
    options = ("--trainer.accelerator", "cpu", "--trainer.limit_train_batches", 4, *FEW, "--out", "shared")
    steps = ("--optim.global_batch", 64, "--data.batch_size", 16, "--trainer.max_epochs", 1)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2, "-m", "halonet", "fit")
    in_processes(*torchrun, *options, *steps, "--trainer.strategy", strategy, "--trainer.gradient_clip_val", 1)
    folder = only_run(Path("shared"))
    effective = yaml.safe_load((folder / "effective.yaml").read_text())
    facts = {"devices": 2, "device_batch": 16, "accumulate_grad_batches": 2, "strategy": strategy, "total_steps": 2}
    assert effective.items() >= facts.items()
    alone = ("--trainer.strategy=auto", "--trainer.max_epochs=2", "--trainer.limit_train_batches=8")
    assert run("fit", "--ckpt_path=last", "--out=shared", *alone) == 0
    assert only_run(Path("shared")) == folder
    metrics = json.loads((folder / "metrics.json").read_text())
    assert [row["epoch"] for row in metrics["history"]] == [1, 2]
    effective = metrics["effective"]
    assert (effective["devices"], effective["accumulate_grad_batches"], effective["global_batch"]) == (1, 4, 64)
    assert load(folder / "checkpoints" / "last.ckpt")["global_step"] == 4


@pytest.mark.slow
def test_really_compiled() -> None:
    options = (*SMALL, *FEW, "--trainer.max_epochs=1", "--trainer.limit_train_batches=2")
    for compiled in ("true", "false"):
        assert run("fit", *options, "--trainer.compile", compiled, "--out", compiled) == 0
    states = [load(only_run(Path(out)) / "checkpoints" / "last.ckpt")["state_dict"] for out in ("true", "false")]
    torch.testing.assert_close(*states, rtol=1e-3, atol=1e-4)
