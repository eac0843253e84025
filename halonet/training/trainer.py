"""Lightning's trainer, made of the settings."""

import logging
import os
import warnings
from typing import Any

import lightning.pytorch as lightning
import torch

from halonet.training.config import TrainerConfig


def limit_threads(threads: int | None) -> None:
    """Give this process so many threads an operation; None leaves torch's own number."""
    if threads is not None:
        torch.set_num_threads(threads)


def make_trainer(config: TrainerConfig, **rest: Any) -> lightning.Trainer:
    """A Lightning trainer with `config` and `rest`, without Lightning's own chatter. Raises ValueError in one
    line."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    # Advice about workers and logging intervals that the small default cannot follow; torch 2.15's own
    # deprecations.
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        return lightning.Trainer(
            max_epochs=config.max_epochs,
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.num_nodes,
            strategy=config.strategy,
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
            **rest,
        )
    except (lightning.utilities.exceptions.MisconfigurationException, RuntimeError) as error:
        raise ValueError(f"trainer: {' '.join(str(error).split())}") from error
