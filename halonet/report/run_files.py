"""What a run's folder says, whether the run is finished, stopped or under way."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import UnionType
from typing import Any

import yaml

from halonet.analysis.score import Score
from halonet.training.callbacks import History
from halonet.training.checkpointing import read_checkpoint
from halonet.training.config import RunConfig
from halonet.training.effective import in_words
from halonet.training.files import CHECKPOINTS, CONFIG, EFFECTIVE, METRICS, STEPS, WEIGHTS, kept_checkpoints
from halonet.training.judgement import JUDGED
from halonet.training.run import TASKS
from halonet.training.steps import read_steps
from halonet.training.task import TaskKind

# What a page needs of metrics.json, and of each row of its history.
_METRICS: Mapping[str, type | UnionType] = {
    "data": str,
    "test": dict,
    "history": list,
    "test_is_val": bool,
    "epoch": int,
    "epochs": int,
    "parameters": int,
    "training_seconds": int | float,
}
_OF_EPOCHS = ("epoch", "lr", "seconds")
# What a classification's page needs of judged.json.
_OF_JUDGED = (
    "data",
    "part",
    "images",
    "accuracy",
    "accuracy_interval",
    "calibration_error",
    "per_class",
    "confused",
)


@dataclass(frozen=True)
class Judged:
    """What `halonet validate` or `test` left in `folder`."""

    folder: Path
    values: dict[str, Any]


@dataclass(frozen=True)
class RunFiles:
    """A run as its folder tells it.

    config: the settings. metrics: of metrics.json, None where the run has not come to its end. effective: what the
        settings came to, None before training began. history: a row an epoch, of metrics.json or else of the newest
        checkpoint that is whole. steps: of steps.csv. judged: in the order of their names. damaged: files that cannot
        be read, in words.
    """

    folder: Path
    config: RunConfig
    metrics: dict[str, Any] | None
    effective: dict[str, Any] | None
    history: Sequence[dict[str, float]]
    steps: Sequence[dict[str, float]]
    judged: Sequence[Judged]
    damaged: Sequence[str]

    @property
    def kind(self) -> TaskKind:
        return TASKS[self.config.task]

    @property
    def score(self) -> Score:
        return self.kind.score

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    @property
    def data(self) -> str:
        """The data's name, as far as the folder tells it."""
        if self.metrics is not None:
            return str(self.metrics["data"])
        root = self.config.data.root
        embedded = "digits" if self.config.task == "classification" else "drawn"
        return embedded if root is None else Path(root).name

    @property
    def title(self) -> str:
        return f"{self.config.model.name} on {self.data}"

    @cached_property
    def quiet_for(self) -> float:
        """Seconds since the last file of the run was written."""
        files = [self.folder / name for name in (CONFIG, EFFECTIVE, STEPS, METRICS, WEIGHTS)]
        files += kept_checkpoints(self.folder / CHECKPOINTS)
        return max(0.0, time.time() - max(path.stat().st_mtime for path in files if path.is_file()))


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's, known by its config.yaml."""
    return (folder / CONFIG).is_file()


def read_run(folder: Path) -> RunFiles:
    """Raises ValueError if the folder is no run's, or its settings or metrics cannot be read."""
    if not is_run(folder):
        raise ValueError(f"{folder}: no run's folder, which has a {CONFIG}")
    damaged: list[str] = []
    config = _config(folder / CONFIG)
    metrics = _metrics(folder / METRICS, config) if (folder / METRICS).is_file() else None
    history = _kept_history(folder, damaged) if metrics is None else [_numbers(row) for row in metrics["history"]]
    return RunFiles(
        folder=folder,
        config=config,
        metrics=metrics,
        effective=_effective(folder / EFFECTIVE, damaged),
        history=history,
        steps=_steps(folder / STEPS, damaged),
        judged=_judged(folder, damaged, needed=_OF_JUDGED if config.task == "classification" else ()),
        damaged=damaged,
    )


def _metrics(path: Path, config: RunConfig) -> dict[str, Any]:
    """Of a finished run, with all that a page takes for granted."""
    metrics = read_json(path)
    missing = [name for name in _METRICS if name not in metrics]
    if missing:
        raise ValueError(f"{path}: no metrics of a run, without {', '.join(missing)}")
    wrong = [name for name, kind in _METRICS.items() if not isinstance(metrics[name], kind)]
    counted = "pairs" if config.task == "stereo" else "images"
    if not isinstance(metrics.get(counted, {}), dict):
        wrong.append(counted)
    if not wrong:
        score, test = TASKS[config.task].score.name, metrics["test"]
        untold = config.task == "classification"  # others may have found nothing to tell it of
        if not isinstance(test.get(score), int | float if untold else int | float | None):
            wrong.append(f"test.{score}")
        if not all(isinstance(row, dict) and set(_OF_EPOCHS) <= set(row) for row in metrics["history"]):
            wrong.append("history")
    if wrong:
        raise ValueError(f"{path}: no metrics of a run, it does not have {', '.join(wrong)} as a run writes it")
    return metrics


def _config(path: Path) -> RunConfig:
    try:
        config = RunConfig.from_dict(_yaml(path))
    except TypeError as error:  # a setting that this version does not have
        raise ValueError(f"{path}: no settings of a run that this version reads: {error}") from error
    if config.task not in TASKS:
        raise ValueError(f"{path}: task: expected one of {', '.join(TASKS)}, got {config.task!r}")
    return config


def _yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no settings")
    return values


def read_json(path: Path) -> dict[str, Any]:
    """Raises ValueError for a file that holds no named values."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected named values, got {type(values).__name__}")
    return values


def _numbers(row: dict[str, float | None]) -> dict[str, float]:
    """JSON has null for what is no number."""
    return {name: math.nan if value is None else float(value) for name, value in row.items()}


def _kept_history(folder: Path, damaged: list[str]) -> list[dict[str, float]]:
    for path in kept_checkpoints(folder / CHECKPOINTS):
        try:
            return list(read_checkpoint(path)["callbacks"][History.__qualname__]["rows"])
        except (ValueError, KeyError):
            damaged.append(f"{path.name} cannot be read as a whole checkpoint")
    return []


def _effective(path: Path, damaged: list[str]) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        facts = _yaml(path)
        in_words(facts)  # as the page will tell them
    except (ValueError, KeyError, TypeError):
        damaged.append(f"{path.name} cannot be read as what settings came to")
        return None
    return facts


def _steps(path: Path, damaged: list[str]) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    try:
        return read_steps(path)
    except ValueError as error:
        damaged.append(f"{path.name} cannot be read: {error}")
        return []


def _judged(folder: Path, damaged: list[str], *, needed: Sequence[str]) -> list[Judged]:
    found = []
    for path in sorted(folder.glob(f"*/{JUDGED}")):
        try:
            values = read_json(path)
        except ValueError as error:
            damaged.append(str(error))
            continue
        missing = [name for name in needed if values.get(name) is None]
        if missing:
            damaged.append(f"{path}: no judgement of a classifier, without {', '.join(missing)}")
        else:
            found.append(Judged(path.parent, values))
    return found
