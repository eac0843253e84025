"""The task of telling disparities: its parts, its score, what it leaves behind."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
from torch import nn

import halonet
from halonet.analysis.score import Score
from halonet.data.stereo import StereoSource, open_stereo_source
from halonet.models import list_models
from halonet.models.checkpoints import load_model, load_weights
from halonet.training.config import RunConfig
from halonet.training.stereo.datamodule import StereoDataModule
from halonet.training.stereo.module import StereoTask
from halonet.training.stereo.results import CURVE_LABELS, draw_pictures, judge_constant, write_weights
from halonet.training.task import Judging, Parts, TaskKind, refuse_settings

# Settings of the sections `data` and `model` that mean something here; others must be left as they are.
DATA_SETTINGS = {"root", "batch_size", "num_workers", "val_fraction", "split_seed"}
MODEL_SETTINGS = {"name", "weights", "grad_checkpointing", "overrides"}


@dataclass(frozen=True)
class StereoParts(Parts):
    """`Parts` with the pairs' source."""

    source: StereoSource


class Stereo(TaskKind):
    """The disparity of every pixel of the left picture of a pair."""

    curve_labels = CURVE_LABELS
    score = Score(
        "epe",
        higher_is_better=False,
        factor=1.0,
        unit="px",
        digits=2,
        title="End-point error",
        label="mean error of disparity (pixels)",
    )

    def build(self, config: RunConfig) -> StereoParts:
        """See `TaskKind`."""
        _check_settings(config)
        source = _open(config)
        lightning.seed_everything(config.seed, workers=False, verbose=False)
        model = halonet.create_model(config.model.name, **config.model.overrides)
        notes: list[str] = []
        if config.model.weights is not None:
            load_weights(model, config.model.weights)
            notes.append(f"started from {config.model.weights}")
        return _assemble(model, source, config, notes)

    def from_weights(self, config: RunConfig, weights: Path, *, judging: Judging) -> StereoParts:
        """See `TaskKind`."""
        judging.refuse_choices()
        model, metadata = load_model(weights)
        if metadata["model"] not in list_models(task="stereo"):
            raise ValueError(f"{weights} holds {metadata['model']}, which tells no disparities")
        return _assemble(model, _open(config), config, [])

    def introduction(self, parts: StereoParts) -> str:
        """See `TaskKind`."""
        crop = parts.source.crop_size
        cut = "" if crop is None else f", trained on crops of {crop[0]}x{crop[1]} (height x width)"
        return f"{parts.data_name}: {parts.counted} pairs{cut}"

    def leave(
        self,
        parts: StereoParts,
        config: RunConfig,
        folder: Path,
        *,
        history: Sequence[dict[str, float]],
        extra: dict[str, str],
    ) -> dict[str, Any]:
        """Weights; curves and disparities as pictures; the error of a constant answer to compare with."""
        assert isinstance(parts.data, StereoDataModule)
        write_weights(parts.model, folder, extra=extra)
        draw_pictures(parts.task, parts.data, history, folder, score=self.score)
        return {"constant": judge_constant(parts.task, parts.data)}


def _open(config: RunConfig) -> StereoSource:
    data = config.data
    return open_stereo_source(config.stereo, root=data.root, val_fraction=data.val_fraction, split_seed=data.split_seed)


def _check_settings(config: RunConfig) -> None:
    """Refuse what would be passed over in silence."""
    if config.model.name not in list_models(task="stereo"):
        names = ", ".join(list_models(task="stereo"))
        raise ValueError(f"model.name: expected a stereo model ({names}), got {config.model.name!r}")
    refuse_settings(config, task="stereo", data=DATA_SETTINGS, model=MODEL_SETTINGS)


def _assemble(model: nn.Module, source: StereoSource, config: RunConfig, notes: Sequence[str]) -> StereoParts:
    return StereoParts(
        task=StereoTask(model, optim=config.optim, loss_weights=config.stereo.loss_weights),
        data=StereoDataModule(source, config=config.data, seed=config.seed),
        data_name=source.name,
        counts={name: len(part) for name, part in source.splits.items()},
        what="pairs",
        test_is_val=source.test_is_val,
        notes=tuple(notes),
        source=source,
    )
