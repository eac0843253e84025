"""Lightning's trainer, made of the settings."""

import logging
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import Strategy
from torch import nn

from halonet.training.averaging import MovingAverage
from halonet.training.batches import settled, whole_steps
from halonet.training.config import RunConfig, TrainerConfig
from halonet.training.effective import Effective
from halonet.training.length import EndAtStep
from halonet.training.parameter_groups import freeze, layer_shares
from halonet.training.sharding import ShardedStrategy
from halonet.training.sync_batchnorm import SyncEveryBatchNorm
from halonet.training.throughput import DataClock, Throughput


def limit_threads(threads: int | None) -> None:
    """Give this process so many threads an operation; None leaves torch's own number."""
    if threads is not None:
        torch.set_num_threads(threads)


def make_trainer(
    config: TrainerConfig,
    *,
    plugins: list[Any] | None = None,
    callbacks: list[lightning.Callback] | None = None,
    **rest: Any,
) -> lightning.Trainer:
    """A Lightning trainer with `config` and `rest`, without Lightning's own chatter. Raises ValueError in one
    line."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Advice about workers and logging intervals that the small default cannot follow; torch 2.15's own
    # deprecations.
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # DDP's advice about 1x1 convolutions, whose gradients lie in memory as well one way as the other.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    # FSDP's, of PSMNet's outputs, which nothing changes in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    config = _as_launched(config)
    batch_norm = [SyncEveryBatchNorm()] if config.sync_batchnorm else []
    # First: the others ask how long the run is.
    end: list[lightning.Callback] = [] if config.max_steps is None else [EndAtStep(config.max_steps)]
    strategy: str | Strategy = ShardedStrategy() if config.strategy == "fsdp" else config.strategy
    try:
        trainer = lightning.Trainer(
            max_epochs=config.max_epochs if config.max_steps is None else -1,
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.num_nodes,
            strategy=strategy,
            precision=config.precision,  # type: ignore[arg-type]
            accumulate_grad_batches=config.accumulate_grad_batches,
            gradient_clip_val=config.gradient_clip_val,
            limit_train_batches=config.limit_train_batches,
            limit_val_batches=config.limit_val_batches,
            limit_test_batches=config.limit_test_batches,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=10,
            plugins=[*batch_norm, *(plugins or [])],
            callbacks=[*end, *(callbacks or [])],
            **rest,
        )
        _check_launched(trainer)
    except (lightning.utilities.exceptions.MisconfigurationException, RuntimeError, ValueError) as error:
        raise ValueError(f"trainer: {' '.join(str(error).split())}") from error
    for plugin in batch_norm:
        plugin.on_cpu = trainer.strategy.root_device.type == "cpu"
    return trainer


def launched() -> tuple[int, int] | None:
    """Processes on each node and nodes that torchrun, or SLURM's srun, started; None for a process started alone."""
    if TorchElasticEnvironment.detect():
        each = int(os.environ["LOCAL_WORLD_SIZE"])
        return each, int(os.environ["WORLD_SIZE"]) // each
    if SLURMEnvironment.detect() and "SLURM_NTASKS_PER_NODE" in os.environ:
        return int(os.environ["SLURM_NTASKS_PER_NODE"]), int(os.environ.get("SLURM_NNODES", "1"))
    return None


def _as_launched(config: TrainerConfig) -> TrainerConfig:
    """`config` with what was launched where it leaves that open (devices "auto", num_nodes 1)."""
    found = launched()
    if found is None:
        return config
    return replace(
        config,
        devices=found[0] if config.devices == "auto" else config.devices,
        num_nodes=found[1] if config.num_nodes == 1 else config.num_nodes,
    )


def _check_launched(trainer: lightning.Trainer) -> None:
    found = launched()
    # Lightning would train in each process by itself, all of them into one folder.
    if found not in (None, (trainer.num_devices, trainer.num_nodes)):
        raise ValueError(
            f"devices and num_nodes: {found[0]} processes on each of {found[1]} nodes were launched, the settings want "
            f"{trainer.num_devices} on each of {trainer.num_nodes}; leave trainer.devices auto and trainer.num_nodes 1"
        )


def settle(config: RunConfig) -> RunConfig:
    """`config` as it is meant on the devices there are: batches and learning rate by `optim.global_batch`. Raises
    ValueError for a trainer that cannot be, before any data are read."""
    if config.trainer.strategy == "fsdp":
        if config.optim.ema_decay:
            raise ValueError("optim.ema_decay: expected 0 with trainer.strategy fsdp: no device has all weights")
        if config.trainer.precision == "16-mixed":
            raise ValueError("trainer.precision: expected 32-true or bf16-mixed with fsdp, got 16-mixed")
    trainer = make_trainer(config.trainer, logger=False, enable_checkpointing=False)
    if config.trainer.precision == "16-mixed" and trainer.strategy.root_device.type == "cpu":
        raise ValueError("trainer.precision: expected 32-true or bf16-mixed on a CPU, got 16-mixed")
    return settled(config, devices=trainer.world_size)


def prepare(model: nn.Module, config: RunConfig) -> None:
    """What is set on a network before it trains. Raises ValueError where the network cannot."""
    if config.model.grad_checkpointing:
        # Of a detector it is the backbone that can.
        able = (part for part in model.modules() if hasattr(part, "set_grad_checkpointing"))
        enable: Any = getattr(next(able, None), "set_grad_checkpointing", None)
        if enable is None:
            raise ValueError(f"model.grad_checkpointing: {config.model.name} cannot compute its blocks again")
        enable()
    if config.optim.layer_decay == 0:
        freeze(model)
    elif config.optim.layer_decay != 1:
        layer_shares(model, config.optim.layer_decay)  # refused here, before anything is written


def scale_parts(config: RunConfig, folder: Path) -> tuple[Effective, list[lightning.Callback], DataClock]:
    """What the trainer of a settled `config` gets for running at scale: the callback that knows the effective settings,
    all callbacks with it, and the profiler they read."""
    clock = DataClock()
    speaks = config.trainer.progress != "none"
    effective = Effective(config, folder)
    # Digits lie in memory: no process would bring them sooner.
    warns = speaks and config.data.root is not None
    callbacks: list[lightning.Callback] = [
        effective,
        Throughput(clock, num_workers=config.data.num_workers, warn=warns),
    ]
    if config.trainer.compile:
        callbacks.append(Compiled())
    if config.optim.ema_decay:
        callbacks.append(MovingAverage(config.optim.ema_decay))
    return effective, callbacks, clock


class Compiled(lightning.Callback):
    """The network under torch.compile while it trains. It is compiled in place, so that names stay what they are, and
    before DDP wraps it: torch splits the graph where DDP's buckets end when the network runs inside DDP's forward."""

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage == "fit":
            part: Any = _compiled_part(pl_module)
            part.compile()

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        part: Any = _compiled_part(pl_module)
        part._compiled_call_impl = None


def _compiled_part(task: Any) -> nn.Module:
    part: nn.Module = getattr(task, "compiled_part", task.model)
    return part


def keep_steps_whole(trainer: lightning.Trainer, data: lightning.LightningDataModule) -> None:
    """Leave out an epoch's last batches where they would not fill an optimizer step (`batches.whole_steps`)."""
    passes = trainer.accumulate_grad_batches
    if passes == 1:
        return
    data.trainer = trainer  # as Lightning will; loaders ask it for the number of devices
    try:
        batches = len(data.train_dataloader())
    except TypeError:  # a stream without a length
        return
    limit = trainer.limit_train_batches or 1.0
    trainer.limit_train_batches = whole_steps(batches, accumulation=passes, limit=limit)
