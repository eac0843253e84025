"""The verbs of the command line that need a trainer: fit, validate, test."""

import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from halonet.training.callbacks import History, ReseedEveryBatch, voices
from halonet.training.checkpointing import AtomicCheckpointIO, KeepLastAndBest, check_fits, load_task
from halonet.training.classification.kind import Classification
from halonet.training.config import RunConfig
from halonet.training.detection.kind import Detection
from halonet.training.files import (
    BEST,
    CHECKPOINTS,
    STEPS,
    passed_over,
    remove_leftovers,
    run_folder_of,
    starts_over,
)
from halonet.training.interruption import StopSignals
from halonet.training.judgement import Judgement, Progress
from halonet.training.position import Position
from halonet.training.results import environment, first_process, new_run_folder, write_config, write_metrics
from halonet.training.sharding import whole
from halonet.training.steps import StepLog
from halonet.training.stereo.kind import Stereo
from halonet.training.task import Judging, Parts, TaskKind
from halonet.training.trainer import keep_steps_whole, limit_threads, make_trainer, prepare, scale_parts, settle

TASKS: dict[str, TaskKind] = {"classification": Classification(), "stereo": Stereo(), "detection": Detection()}


def fit(config: RunConfig, *, checkpoint: Path | None = None) -> Path | None:
    """Train, test with the best weights, leave a results folder, and return it (None in processes that only
    compute).

    checkpoint: a last.ckpt or best.ckpt to go on from, in the same folder if it lies in a run's; the last.ckpt that a
    run never came to write begins that run again. Raises ValueError for settings, data or checkpoints that do not fit
    and for a loss or weights that are not finite, Interrupted on SIGTERM and Ctrl-C.
    """
    signals = StopSignals()
    with signals.heeded():
        return _fit(config, checkpoint, signals)


def _fit(config: RunConfig, checkpoint: Path | None, signals: StopSignals) -> Path | None:
    started = time.monotonic()
    kind = TASKS[config.task]
    limit_threads(kind.threads(config))
    folder = checkpoint and run_folder_of(checkpoint)
    if checkpoint is not None and starts_over(checkpoint):
        checkpoint = None
    asked, config = config, settle(config)
    parts = _build(kind, config, checkpoint)
    position = Position()
    if checkpoint is not None:
        position = Position(check_fits(checkpoint, parts.task, model_name=config.model.name))
        signals.saved = (position.epoch + 1, position.batch)
    prepare(parts.model, config)
    made = folder is None
    folder = signals.folder = folder or new_run_folder(config, data_name=parts.data_name)
    if first_process():
        remove_leftovers(folder)
        write_config(asked, folder)
        if config.trainer.progress != "none":
            _introduce(kind, parts, config, folder)
        if checkpoint is not None:
            _say_where(checkpoint, position, quiet=config.trainer.progress == "none")

    history = History(kind.score)
    effective, at_scale, clock = scale_parts(config, folder)
    watchers, keeper = _watchers(config, folder, kind, signals, position)
    callbacks = [*at_scale, history, *voices(history, progress=config.trainer.progress), *watchers]
    try:
        callbacks += kind.callbacks(parts, config)
        trainer = _trainer_for(config, folder, callbacks, profiler=clock)
    except ValueError:
        if made:
            shutil.rmtree(folder, ignore_errors=True)  # and nothing but the refused settings in it
        raise
    judged = whole(parts.task, strategy=config.trainer.strategy)
    with _ctrl_c_as_usual():
        keep_steps_whole(trainer, parts.data)
        trainer.fit(parts.task, datamodule=parts.data, ckpt_path=checkpoint, weights_only=True)

    # The other processes of a run on several devices do not know the folder of the first.
    folder = Path(trainer.strategy.broadcast(str(folder)))
    best = folder / CHECKPOINTS / BEST
    if checkpoint is not None and not best.is_file():
        best = checkpoint  # taken out of its run's folder, and no epoch was left to train
    load_task(best, judged, model_name=config.model.name)
    parts = replace(parts, task=judged)
    with _ctrl_c_as_usual():
        to_test = whole(judged, strategy=config.trainer.strategy)
        tested = trainer.test(to_test, datamodule=parts.data, verbose=False)[0]
    judged.take_over(to_test)
    if trainer.is_global_zero:
        seconds = time.monotonic() - started
        measured: dict[str, Any] = {"tested": dict(tested), "seconds": seconds, "effective": effective.facts}
        _leave_results(kind, parts, config, folder, history, keeper, **measured)
        return folder
    return None


def _build(kind: TaskKind, config: RunConfig, checkpoint: Path | None) -> Parts:
    """What is to be trained; a checkpoint has all weights: the file the run once started from may be gone."""
    if checkpoint is not None:
        config = config.from_nothing()
    parts: Parts = kind.build(config)
    if "train" not in parts.counts:
        raise ValueError(
            f"data.root: {parts.data_name} has no {parts.what} to train on, or a number of them that nothing tells: "
            "give --trainer.limit_train_batches as a whole number then"
        )
    return parts


def _watchers(
    config: RunConfig, folder: Path, kind: TaskKind, signals: StopSignals, position: Position
) -> tuple[list[Callback], KeepLastAndBest]:
    """What keeps a run from losing anything."""
    steps = StepLog(folder / STEPS)
    keeper = KeepLastAndBest(
        folder / CHECKPOINTS,
        kind.score,
        steps=steps,
        position=position,
        signals=signals,
        every_steps=config.trainer.save_every_steps,
        every_minutes=config.trainer.save_every_minutes,
    )
    return [ReseedEveryBatch(config.seed), steps, position, signals, keeper], keeper


def evaluate(
    config: RunConfig, *, split: Literal["val", "test"], weights: Path | None = None, checkpoint: Path | None = None
) -> dict[str, Any]:
    """Loss and the task's figures as plain values; see `judge`."""
    return judge(config, Judging(split), weights=weights, checkpoint=checkpoint).to_dict()


def judge(
    config: RunConfig, judging: Judging, *, weights: Path | None = None, checkpoint: Path | None = None
) -> Judgement:
    """Figures of a safetensors file or a checkpoint (exactly one) on one part of the data.

    Runs on one device. Raises ValueError if the weights are not for the data.
    """
    if (weights is None) == (checkpoint is None):
        raise ValueError(f"expected --weights or --ckpt_path, got {'neither' if weights is None else 'both'}")
    kind = TASKS[config.task]
    limit_threads(kind.threads(config))
    parts: Parts
    if checkpoint is not None:
        parts = kind.from_checkpoint(config, checkpoint, judging=judging)
        load_task(checkpoint, parts.task, model_name=config.model.name)
    else:
        assert weights is not None
        parts = kind.from_weights(config, weights, judging=judging)
    # On several devices the last images would be counted twice, and a run's own settings may be of a larger machine.
    one_device = replace(config.trainer, devices=1, num_nodes=1, strategy="auto")
    progress = Progress(progress=config.trainer.progress)
    trainer = make_trainer(one_device, logger=False, enable_checkpointing=False, callbacks=[progress])
    run = trainer.validate if judging.split == "val" else trainer.test
    with _ctrl_c_as_usual():
        logged = run(parts.task, datamodule=parts.data, verbose=False)[0]
    about = {"weights": str(weights or checkpoint), "data": parts.data_name, "split": judging.split}
    about |= {"backend": judging.backend} if judging.backend else {}
    return kind.judgement(
        parts,
        {**about, "precision": config.trainer.precision, **environment(trainer.strategy.root_device)},
        {name.split("/")[1]: value for name, value in logged.items()},
    )


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
        callbacks=callbacks,
        logger=[logger(folder, name="logs", version=version) for logger in (CSVLogger, TensorBoardLogger)],
        plugins=[AtomicCheckpointIO(keep_last=config.trainer.keep_last)],
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


def _say_where(checkpoint: Path, position: Position, *, quiet: bool) -> None:
    """Where a run goes on, and which newer checkpoints it passed over."""
    if not quiet:
        print(f"going on after step {position.step}, from {checkpoint.name}", flush=True)
    for damaged in passed_over(checkpoint):
        print(f"{damaged} is damaged: going on from {checkpoint}", file=sys.stderr, flush=True)


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
        "test": {**{name.split("/")[1]: value for name, value in tested.items()}, **kind.figures(parts)},
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
