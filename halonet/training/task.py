"""What a run is told of its task: how to build its parts, which figure judges it, and what it leaves behind."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
from torch import nn

from halonet.analysis.score import Score
from halonet.training.config import RunConfig


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
    def model(self) -> nn.Module:
        """The network."""
        model: nn.Module = self.task.model
        return model


class TaskKind(ABC):
    """One task of `halonet fit`. A new one is a subclass and a line in `run.TASKS`."""

    score: Score

    @abstractmethod
    def build(self, config: RunConfig) -> Any:
        """Open the data, make the model for it, seeded by `config.seed`: `Parts`. Raises ValueError for whatever does
        not fit."""

    @abstractmethod
    def from_weights(self, config: RunConfig, weights: Path) -> Any:
        """`Parts` around the model of a file that a run wrote. Raises ValueError if it is not for the data."""

    def threads(self, config: RunConfig) -> int | None:
        """CPU threads of an operation; None for torch's own number."""
        return config.trainer.threads

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
