"""What a judging of weights says and leaves, and the line it prints while it goes on."""

import json
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
from lightning.pytorch.utilities.types import STEP_OUTPUT

from halonet.files import replacing

JUDGED = "judged.json"
SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True)
class Judgement:
    """about: what was judged, on what and how. values: the task's figures by name."""

    about: Mapping[str, Any]
    values: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them: None for what is no number."""
        return {name: _plain(value) for name, value in {**self.about, **self.values}.items()}

    def to_json(self) -> str:
        """The same as text."""
        return json.dumps(self.to_dict(), indent=2)

    def render(self) -> str:
        """Lines to read in a terminal."""
        rows = {**self.about, **self.values}
        width = max(map(len, rows))
        return "\n".join(
            f"{name:{width}}  {f'{value:.4f}' if isinstance(value, float) else value}" for name, value in rows.items()
        )

    def write(self, folder: Path) -> list[str]:
        """Leave judged.json in `folder`, and whatever else the task has; returns the names of the files."""
        with replacing(folder / JUDGED) as beside:
            beside.write_text(self.to_json() + "\n", encoding="utf-8")
        return [JUDGED]


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def judged_folder(weights: Path, *, data: str, split: str) -> Path:
    """Where the files of a judging go unless told: beside the weights, in a folder by data and part."""
    folder = weights.parent
    if folder.name == "checkpoints":
        folder = folder.parent
    return folder / f"judged-{data}-{split}"


class Progress(lightning.Callback):
    """A line on stderr that tells how far a judging is: rewritten in a terminal, else a new one every ten seconds, so
    that a short one says nothing."""

    def __init__(self, *, progress: str) -> None:
        self.silent = progress == "none"
        self.rewrite = progress == "bar" or (progress == "auto" and sys.stderr.isatty())
        self._begun = self._told = 0.0
        self._written = False

    def _begin(self, *_: Any, **__: Any) -> None:
        self._begun = self._told = time.monotonic()

    def _batch_end(self, trainer: lightning.Trainer, batch_idx: int, batches: Any) -> None:
        now = time.monotonic()
        if self.silent or now - self._told < (0.3 if self.rewrite else SECONDS_BETWEEN_LINES):
            return
        self._told, done = now, batch_idx + 1
        total = batches if isinstance(batches, int) else None  # a stream does not know its length
        left = "" if total is None else f", {(now - self._begun) / done * (total - done):.0f} s left"
        line = f"batch {done}{'' if total is None else f' of {total}'} after {now - self._begun:.0f} s{left}"
        print(
            f"\r{line}\033[K" if self.rewrite else line, end="" if self.rewrite else "\n", file=sys.stderr, flush=True
        )
        self._written = self.rewrite

    def _end(self, *_: Any, **__: Any) -> None:
        if self._written:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
            self._written = False

    on_validation_start = on_test_start = _begin
    on_validation_end = on_test_end = on_exception = _end

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._batch_end(trainer, batch_idx, trainer.num_val_batches[dataloader_idx])

    def on_test_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._batch_end(trainer, batch_idx, trainer.num_test_batches[dataloader_idx])
