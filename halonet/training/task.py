"""What a run is told of its task: how to build its parts, which figure judges it, and what it leaves behind."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as lightning
from torch import nn

from halonet.analysis.score import Score
from halonet.training.config import DataConfig, ModelConfig, RunConfig
from halonet.training.judgement import Judgement


@dataclass(frozen=True)
class Parts:
    """What a trainer needs.

    task: with the network as its `model`. data: the loaders. data_name: short, for the run's name. counts: examples in
    each part. what: the word for an example in metrics, "images" or "pairs". test_is_val: there was no test part.
    notes: lines worth telling the user.
    """

    task: Any
    data: lightning.LightningDataModule
    data_name: str
    counts: dict[str, int]
    what: str
    test_is_val: bool
    notes: tuple[str, ...]

    @property
    def counted(self) -> str:
        """The counts in words: "4000 train, 400 val, 400 test"."""
        return ", ".join(f"{count} {name}" for name, count in self.counts.items())

    @property
    def model(self) -> nn.Module:
        """The network."""
        model: nn.Module = self.task.model
        return model


@dataclass(frozen=True)
class Judging:
    """What `halonet validate` and `test` ask for: the part of the data by the command, another one or "all" images by
    `part`, and the backend of attention; None: as the data have it, as the weights were saved."""

    split: Literal["val", "test"]
    part: str | None = None
    backend: str | None = None

    def refuse_choices(self) -> None:
        """Raise ValueError for what a task without such choices would pass over."""
        for name in ("part", "backend"):
            if getattr(self, name) is not None:
                raise ValueError(f"--{name}: has no meaning for this task; leave it out")


def refuse_settings(config: RunConfig, *, task: str, data: Collection[str], model: Collection[str]) -> None:
    """Raise ValueError for a setting of the sections `data` or `model` that is changed and not among those named, which
    alone mean something to `task`."""
    for section, given, plain, known in (
        ("data", config.data, DataConfig(), data),
        ("model", config.model, ModelConfig(), model),
    ):
        for field in fields(given):
            if field.name not in known and getattr(given, field.name) != getattr(plain, field.name):
                raise ValueError(f"{section}.{field.name}: has no meaning for the task {task}; leave it out")


class TaskKind(ABC):
    """One task of `halonet fit`. A new one is a subclass and a line in `run.TASKS`."""

    score: Score
    # Whether the network for what needs no files is so small that a second CPU thread mostly waits.
    small_without_files = False
    # What `plot_curves` is to call the loss and the training part, where that is not its default.
    curve_labels: Mapping[str, str] = {}

    @abstractmethod
    def build(self, config: RunConfig) -> Any:
        """Open the data, make the model for it, seeded by `config.seed`: `Parts`. Raises ValueError for whatever does
        not fit."""

    @abstractmethod
    def from_weights(self, config: RunConfig, weights: Path, *, judging: Judging) -> Any:
        """`Parts` around the model of a file that a run wrote. Raises ValueError if it is not for the data."""

    def from_checkpoint(self, config: RunConfig, checkpoint: Path, *, judging: Judging) -> Any:
        """`Parts` for a checkpoint, whose state is yet to be loaded. Raises ValueError if it is not for the data."""
        judging.refuse_choices()
        return self.build(config.from_nothing())

    def figures(self, parts: Any) -> dict[str, Any]:
        """Of the test that has just run, what is not logged."""
        return {}

    def judgement(self, parts: Any, about: dict[str, Any], logged: dict[str, float]) -> Judgement:
        """What a validation or test of `parts` says. logged: the trainer's figures, by their last name."""
        return Judgement({**about, parts.what: parts.counts[about["split"]]}, logged)

    def threads(self, config: RunConfig) -> int | None:
        """CPU threads of an operation; None for torch's own number."""
        alone = self.small_without_files and config.data.root is None
        return config.trainer.threads or (1 if alone else None)

    def callbacks(self, parts: Any, config: RunConfig) -> list[lightning.Callback]:
        """What the task wants done while it trains."""
        return []

    @abstractmethod
    def introduction(self, parts: Any) -> str:
        """A line about the data."""

    @abstractmethod
    def leave(
        self, parts: Any, config: RunConfig, folder: Path, *, history: Sequence[dict[str, float]], extra: dict[str, str]
    ) -> dict[str, Any]:
        """Write weights, with `extra` in their metadata, and pictures; returns further metrics."""
