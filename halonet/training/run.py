"""The verbs of the command line that need a trainer: fit, validate, test."""

import shlex
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from halonet.training.callbacks import History, NoteInterruption, ReseedEveryEpoch, voices
from halonet.training.checkpointing import (
    AtomicCheckpointIO,
    KeepLastAndBest,
    check_fits,
    read_checkpoint,
)
from halonet.training.classification.kind import Classification
from halonet.training.config import RunConfig
from halonet.training.files import BEST, CONFIG, run_folder_of
from halonet.training.results import environment, first_process, new_run_folder, write_config, write_metrics
from halonet.training.sharding import whole
from halonet.training.stereo.kind import Stereo
from halonet.training.task import Parts, TaskKind
from halonet.training.trainer import keep_steps_whole, limit_threads, make_trainer, prepare, scale_parts, settle

TASKS: dict[str, TaskKind] = {"classification": Classification(), "stereo": Stereo()}


class Interrupted(Exception):
    """Ctrl-C ended a training; the text says where, and the command that goes on."""


def fit(config: RunConfig, *, checkpoint: Path | None = None) -> Path | None:
    """Train, test with the best weights, leave a results folder, and return it (None in processes that only
    compute).

    checkpoint: a last.ckpt or best.ckpt to go on from, in the same folder if it lies in a run's. Raises
    ValueError for settings, data or checkpoints that do not fit, Interrupted on Ctrl-C.
    """
    started = time.monotonic()
    kind = TASKS[config.task]
    limit_threads(kind.threads(config))
    asked, config = config, settle(config)
    # A checkpoint has all weights; the file the run once started from may be gone.
    parts: Parts = kind.build(
        config if checkpoint is None else replace(config, model=replace(config.model, weights=None))
    )
    if checkpoint is not None:
        check_fits(checkpoint, parts.task, model_name=config.model.name)
    prepare(parts.model, config)
    folder = (checkpoint and run_folder_of(checkpoint)) or new_run_folder(config, data_name=parts.data_name)
    if first_process():
        write_config(asked, folder)
        if config.trainer.progress != "none":
            _introduce(kind, parts, config, folder)

    history, interruption = History(kind.score), NoteInterruption()
    keeper = KeepLastAndBest(folder / "checkpoints", kind.score)
    effective, at_scale, clock = scale_parts(config, folder)
    callbacks = [*at_scale, history, *voices(history, progress=config.trainer.progress), interruption, keeper]
    try:
        callbacks += kind.callbacks(parts, config)
        trainer = _trainer_for(config, folder, callbacks, profiler=clock)
    except ValueError:
        if checkpoint is None:
            shutil.rmtree(folder, ignore_errors=True)  # made above, and nothing but the refused settings in it
        raise
    judged = whole(parts.task, strategy=config.trainer.strategy)
    try:
        with _ctrl_c_as_usual():
            keep_steps_whole(trainer, parts.data)
            trainer.fit(parts.task, datamodule=parts.data, ckpt_path=checkpoint, weights_only=True)
    except KeyboardInterrupt:
        if interruption.at is None:
            raise
        raise Interrupted(_where(interruption.at, keeper, folder)) from None

    # The other processes of a run on several devices do not know the folder of the first.
    folder = Path(trainer.strategy.broadcast(str(folder)))
    best = folder / "checkpoints" / BEST
    if checkpoint is not None and not best.is_file():
        best = checkpoint  # taken out of its run's folder, and no epoch was left to train
    judged.load_state_dict(read_checkpoint(best)["state_dict"])
    parts = replace(parts, task=judged)
    with _ctrl_c_as_usual():
        to_test = whole(parts.task, strategy=config.trainer.strategy)
        tested = trainer.test(to_test, datamodule=parts.data, verbose=False)[0]
    if trainer.is_global_zero:
        seconds = time.monotonic() - started
        measured: dict[str, Any] = {"tested": dict(tested), "seconds": seconds, "effective": effective.facts}
        _leave_results(kind, parts, config, folder, history, keeper, **measured)
        return folder
    return None


def evaluate(
    config: RunConfig, *, split: Literal["val", "test"], weights: Path | None = None, checkpoint: Path | None = None
) -> dict[str, Any]:
    """Loss and the task's figures of a safetensors file or a checkpoint (exactly one) on one part of the data.

    Runs on one device. Raises ValueError if the weights are not for the data.
    """
    if (weights is None) == (checkpoint is None):
        raise ValueError(f"expected --weights or --ckpt_path, got {'neither' if weights is None else 'both'}")
    kind = TASKS[config.task]
    limit_threads(kind.threads(config))
    parts: Parts
    if checkpoint is not None:
        parts = kind.build(replace(config, model=replace(config.model, weights=None)))
        check_fits(checkpoint, parts.task, model_name=config.model.name)
        parts.task.load_state_dict(read_checkpoint(checkpoint)["state_dict"])
    else:
        assert weights is not None
        parts = kind.from_weights(config, weights)
    # On several devices the last images would be counted twice, and a run's own settings may be of a larger machine.
    one_device = replace(config.trainer, devices=1, num_nodes=1, strategy="auto")
    trainer = make_trainer(one_device, logger=False, enable_checkpointing=False)
    run = trainer.validate if split == "val" else trainer.test
    with _ctrl_c_as_usual():
        figures = run(parts.task, datamodule=parts.data, verbose=False)[0]
    return {
        "weights": str(weights or checkpoint),
        "data": parts.data_name,
        "split": split,
        parts.what: parts.counts[split],
        **{name.split("/")[1]: value for name, value in figures.items()},
    }


@contextmanager
def _ctrl_c_as_usual() -> Iterator[None]:
    """Undo what Lightning makes of Ctrl-C: it exits the process with status 1 and leaves the signal ignored."""
    heed = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        raise KeyboardInterrupt from stop
    finally:
        if signal.getsignal(signal.SIGINT) is not heed:
            signal.signal(signal.SIGINT, heed)


def _trainer_for(config: RunConfig, folder: Path, callbacks: list[Callback], **rest: Any) -> Trainer:
    # Going on adds a version; Lightning would empty one that exists.
    version = f"version_{len(list((folder / 'logs').glob('version_*')))}"
    return make_trainer(
        config.trainer,
        callbacks=[ReseedEveryEpoch(config.seed), *callbacks],
        logger=[logger(folder, name="logs", version=version) for logger in (CSVLogger, TensorBoardLogger)],
        plugins=[AtomicCheckpointIO()],
        **rest,
    )


def _introduce(kind: TaskKind, parts: Parts, config: RunConfig, folder: Path) -> None:
    parameters = sum(parameter.numel() for parameter in parts.model.parameters())
    print(f"{config.model.name}: {parameters:,} parameters")
    print(kind.introduction(parts))
    if parts.test_is_val:
        print(f"there is no test part: the test uses the validation {parts.what}")
    for note in parts.notes:
        print(note)
    print(f"writing to {folder}", flush=True)


def _where(at: tuple[int, int, int, int], keeper: KeepLastAndBest, folder: Path) -> str:
    epoch, epochs, step, steps = at
    stopped = f"stopped in epoch {epoch} of {epochs}, after step {step} of {steps}"
    if keeper.last.is_file():
        command = shlex.join(["halonet", "fit", "--ckpt_path", str(keeper.last)])
        return f"{stopped}; go on after the last whole epoch with:\n{command}"
    command = shlex.join(["halonet", "fit", "--config", str(folder / CONFIG)])
    return f"{stopped}; no epoch is finished yet, start again with:\n{command}"


def _leave_results(
    kind: TaskKind,
    parts: Parts,
    config: RunConfig,
    folder: Path,
    history: History,
    keeper: KeepLastAndBest,
    *,
    tested: dict[str, Any],
    seconds: float,
    effective: dict[str, Any],
) -> None:
    score, device = kind.score, torch.device(parts.task.device)
    extra = {"epoch": str(keeper.best_epoch), f"test_{score.name}": f"{tested[f'test/{score.name}']:.6f}"}
    metrics = {
        "model": config.model.name,
        "data": parts.data_name,
        "parameters": sum(parameter.numel() for parameter in parts.model.parameters()),
        parts.what: parts.counts,
        "test": {name.split("/")[1]: value for name, value in tested.items()},
        "test_is_val": parts.test_is_val,
        f"val_{score.name}": keeper.best_score,
        "epoch": keeper.best_epoch,
        "epochs": len(history.rows),
        "training_seconds": round(sum(row["seconds"] for row in history.rows), 1),
        **environment(device),
        "effective": effective,
        "history": history.rows,
    }
    write_metrics(metrics, folder)
    further = kind.leave(parts, config, folder, history=history.rows, extra=extra)
    if further:
        write_metrics({**metrics, **further}, folder)
    if config.trainer.progress != "none":
        which = f"epoch {keeper.best_epoch}, the best of {len(history.rows)} on the validation {parts.what}"
        print(f"test {score.name} {score.show_long(tested[f'test/{score.name}'])} ({which}) after {seconds:.0f} s")
