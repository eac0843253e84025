"""Several devices: batch norm over all of them, and whole runs of two processes."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import halonet
from halonet.training import sync_batchnorm
from halonet.training.sync_batchnorm import synchronize
from tests.training.conftest import SMALL, only_run, run

ROOT = Path(halonet.__file__).parents[1]
FEW = ("--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1")


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


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


@pytest.mark.usefixtures("twins")
def test_nothing_on_any_device() -> None:
    """As where a detector found no region: nothing comes out, nothing is learnt, nothing is forgotten."""
    norm = nn.BatchNorm2d(3)
    network = nn.Sequential(norm)
    network(torch.randn(2, 3, 4, 4))
    synchronize(network)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    output = network(torch.zeros(0, 3, 4, 4))
    output.sum().backward()
    assert output.shape == (0, 3, 4, 4)
    assert not norm.weight.grad.any()  # type: ignore[union-attr]
    torch.testing.assert_close(dict(norm.state_dict()), before)


def in_processes(*command: object) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, *(str(word) for word in command)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=400, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("options", ["", "--strategy fsdp --clip 1.0 --optimizer adamw --lr 0.001"])
def test_processes_equal_one_process(options: str) -> None:
    """Within 1e-5 over 20 steps."""
    said = in_processes(ROOT / "benchmarks" / "ddp_equality.py", *options.split())
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
