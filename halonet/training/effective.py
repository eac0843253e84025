"""What the settings came to on the devices there are: said once, and kept with the results."""

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import yaml

from halonet.files import replacing
from halonet.training.config import RunConfig
from halonet.training.files import EFFECTIVE
from halonet.training.length import length_of
from halonet.training.optimizer import schedule_of


class Effective(lightning.Callback):
    """Notes `facts` when training starts, prints two lines of them and writes them to effective.yaml in `folder`.

    config: settled (`batches.settled`).
    """

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self.config = config
        self.folder = folder
        self.facts: dict[str, Any] = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.facts = effective(self.config, trainer)
        if not trainer.is_global_zero:
            return
        with replacing(self.folder / EFFECTIVE) as beside:
            beside.write_text(yaml.safe_dump(self.facts, sort_keys=False), encoding="utf-8")
        if self.config.trainer.progress != "none":
            print("\n".join(in_words(self.facts)), flush=True)


def effective(config: RunConfig, trainer: lightning.Trainer) -> dict[str, Any]:
    """Settings of a trainer that is about to train, as plain values; batches in examples, lengths in steps."""
    length = length_of(trainer)
    schedule: Any = schedule_of(config.optim, total_steps=length.steps, epochs=length.epochs)
    devices, device_batch = trainer.world_size, config.data.batch_size
    return {
        "of": "pairs" if config.task == "stereo" else "images",
        "accelerator": trainer.strategy.root_device.type,
        "devices": devices,
        "num_nodes": trainer.num_nodes,
        "strategy": _strategy_name(trainer),
        "precision": str(trainer.precision),
        "device_batch": device_batch,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "global_batch": devices * device_batch * trainer.accumulate_grad_batches,
        "asked_global_batch": config.optim.global_batch,
        "lr": config.optim.lr,
        "steps_per_epoch": math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches),
        "total_steps": length.steps,
        "warmup_steps": schedule.warmup_steps,
        "ema_decay": config.optim.ema_decay,
        "sync_batchnorm": config.trainer.sync_batchnorm,
        "grad_checkpointing": config.model.grad_checkpointing,
        "compile": config.trainer.compile,
    }


def _strategy_name(trainer: lightning.Trainer) -> str:
    name = type(trainer.strategy).__name__.removesuffix("Strategy").lower()
    return {"singledevice": "one device", "sharded": "fsdp"}.get(name, name)


def in_words(facts: dict[str, Any]) -> tuple[str, str]:
    """Two lines: batches and steps; how they are computed."""
    devices = f"{facts['devices']} {facts['accelerator']}"
    if facts["num_nodes"] > 1:
        devices += f" on {facts['num_nodes']} nodes"
    passes = facts["accumulate_grad_batches"]
    asked = facts["asked_global_batch"]
    batch = (
        f"a step: {facts['global_batch']} {facts['of']} = {devices} x {facts['device_batch']} x {passes} "
        f"pass{'es' * (passes > 1)}{f' ({asked} asked for)' * (asked not in (None, facts['global_batch']))}, "
        f"lr {facts['lr']:.4g}; {facts['steps_per_epoch']} steps an epoch, {facts['total_steps']} in all, "
        f"{facts['warmup_steps']} of warm-up"
    )
    extras = [name for name in ("sync_batchnorm", "grad_checkpointing", "compile") if facts[name]]
    if facts["ema_decay"]:
        extras.insert(0, f"ema {facts['ema_decay']:g}")
    return batch, ", ".join([facts["precision"], facts["strategy"], *extras])
