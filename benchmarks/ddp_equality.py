"""Do several processes train what one process trains?

Trains the same network twice on this machine's CPU, in one process and in several that DDP joins over gloo, with the
same images in every global batch, and prints by step how far apart losses, weights and running statistics are. The
exit status is 0 if losses and weights stay within --tolerance.

    OMP_NUM_THREADS=1 python benchmarks/ddp_equality.py --devices 2 --steps 20
    OMP_NUM_THREADS=1 python benchmarks/ddp_equality.py --strategy fsdp
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from torch.distributed.tensor import DTensor

from halonet.training.callbacks import ReseedEveryBatch
from halonet.training.config import DataConfig, ModelConfig, OptimConfig, RunConfig, TrainerConfig
from halonet.training.run import TASKS
from halonet.training.trainer import keep_steps_whole, limit_threads, make_trainer, settle

EPOCHS = 2


class Record(lightning.Callback):
    """Of every step its loss over all devices, and the network after it."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.states: list[dict[str, torch.Tensor]] = []
        self._passes: list[float] = []

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"].detach() * trainer.accumulate_grad_batches
        self._passes.append(float(trainer.strategy.reduce(loss, reduce_op="mean")))
        if len(self._passes) == trainer.accumulate_grad_batches:
            self.losses.append(sum(self._passes) / len(self._passes))
            self._passes = []
            self.states.append({name: _whole(value) for name, value in pl_module.model.state_dict().items()})


def _whole(value: torch.Tensor) -> torch.Tensor:
    return (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()


def train(arguments: argparse.Namespace, devices: int, file: Path) -> None:
    """Train and write what was recorded to `file`."""
    limit_threads(1)
    passes = arguments.accumulate if devices == 1 else 1
    config = settle(
        RunConfig(
            model=ModelConfig(name=arguments.model),
            data=DataConfig(batch_size=arguments.global_batch // max(devices, passes)),
            optim=OptimConfig(global_batch=arguments.global_batch, lr=arguments.lr, name=arguments.optimizer),
            trainer=TrainerConfig(
                max_epochs=EPOCHS,
                accelerator="cpu",
                devices=devices,
                strategy=arguments.strategy if devices > 1 else "auto",
                sync_batchnorm=devices > 1 and not arguments.local_batchnorm,
                gradient_clip_val=arguments.clip,
                limit_train_batches=arguments.steps // EPOCHS * passes,
                limit_val_batches=1,
            ),
        )
    )
    parts = TASKS["classification"].build(config)
    record = Record()
    trainer = make_trainer(
        config.trainer, callbacks=[ReseedEveryBatch(config.seed), record], logger=False, enable_checkpointing=False
    )
    keep_steps_whole(trainer, parts.data)
    trainer.fit(parts.task, datamodule=parts.data)
    if trainer.is_global_zero:
        torch.save({"losses": record.losses, "states": record.states}, file)


def farthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], *, running: bool) -> float:
    """Largest difference of running statistics, or of everything else."""
    names = [name for name in one if (".running_" in name) == running and one[name].is_floating_point()]
    return max((float((one[name] - other[name]).abs().max()) for name in names), default=0.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20, help=f"in {EPOCHS} epochs")
    parser.add_argument("--global_batch", type=int, default=64)
    parser.add_argument("--accumulate", type=int, default=1, help="passes of the one process")
    parser.add_argument("--model", default="halonet_nano_32")
    parser.add_argument("--optimizer", default="sgd", choices=("sgd", "adamw"))
    parser.add_argument("--lr", type=float, default=0.2)
    parser.add_argument("--clip", type=float, default=None)
    parser.add_argument("--strategy", default="ddp", choices=("ddp", "fsdp"))
    parser.add_argument("--local_batchnorm", action="store_true", help="statistics of each process: must differ")
    parser.add_argument("--tolerance", type=float, default=1e-5)
    parser.add_argument("--run", nargs=2, metavar=("DEVICES", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        train(arguments, int(arguments.run[0]), Path(arguments.run[1]))
        return 0

    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for devices in (1, arguments.devices):
            file = Path(folder) / f"{devices}.pt"
            command = [sys.executable, *sys.argv, "--run", str(devices), str(file)]
            subprocess.run(command, check=True, env={"OMP_NUM_THREADS": "1", **os.environ})
            runs.append(torch.load(file, weights_only=True))
    print(f"{arguments.model}, {arguments.global_batch} images a step, 1 and {arguments.devices} processes (gloo, CPU)")
    print(f"{arguments.strategy}, torch {torch.__version__}")
    print(f"{'step':>4} {'loss':>10} {'loss apart':>12} {'weights apart':>14} {'statistics apart':>17}")
    worst = 0.0
    for step in range(len(runs[0]["losses"])):
        one, many = (run["losses"][step] for run in runs)
        states = [run["states"][step] for run in runs]
        weights, running = (farthest(*states, running=running) for running in (False, True))
        worst = max(worst, abs(one - many), weights)
        print(f"{step + 1:4d} {one:10.6f} {abs(one - many):12.2e} {weights:14.2e} {running:17.2e}")
    print(f"largest difference of losses and weights {worst:.2e}, allowed {arguments.tolerance:.0e}")
    return 0 if worst <= arguments.tolerance else 1


if __name__ == "__main__":
    sys.exit(main())
