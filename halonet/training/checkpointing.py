"""Checkpoints of a run: written whole or not at all, one for the last epoch and one for the best."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from halonet.analysis.score import Score
from halonet.files import replacing
from halonet.training.files import BEST, LAST


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's files written beside and renamed, and read as plain data only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        # A Python file reports a full disk as OSError; torch's own writer would as RuntimeError.
        with replacing(path) as beside, open(beside, "wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        return read_checkpoint(Path(path))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The contents of a .ckpt file on the CPU; nothing in it is executed. Raises ValueError if it is not
    one."""
    if not path.is_file():
        raise ValueError(f"ckpt_path: no checkpoint at {path}")
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    # torch.load reports a damaged or foreign file as one of several unrelated types.
    except Exception as error:
        raise ValueError(f"ckpt_path: cannot read {path} as a checkpoint ({type(error).__name__})") from error
    if not isinstance(contents, dict) or "state_dict" not in contents:
        raise ValueError(f"ckpt_path: {path} is no training checkpoint")
    return contents


def check_fits(path: Path, task: lightning.LightningModule, *, model_name: str) -> None:
    """Raise ValueError unless the checkpoint at `path` holds exactly the parameters of `task`."""
    found = {name: tuple(value.shape) for name, value in read_checkpoint(path)["state_dict"].items()}
    wanted = {name: tuple(value.shape) for name, value in task.state_dict().items()}
    wrong = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if wrong:
        listed = ", ".join(
            f"{name} {_shape(found.get(name))} instead of {_shape(wanted.get(name))}" for name in wrong[:3]
        )
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"ckpt_path: {path} is of another model than {model_name}: {listed}{more}")


def _shape(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else str(list(shape))


class KeepLastAndBest(Checkpoint):
    """After every epoch writes last.ckpt, and best.ckpt if no epoch before had a better score on the validation part
    (or if it is not there: a run may go on from a checkpoint that was taken out of its folder)."""

    def __init__(self, folder: Path, score: Score) -> None:
        super().__init__()
        self.folder = folder
        self.score = score
        self.best_score: float | None = None
        self.best_epoch = 0  # counted from 1

    @property
    def last(self) -> Path:
        return self.folder / LAST

    @property
    def best(self) -> Path:
        return self.folder / BEST

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        value = float(trainer.callback_metrics[f"val/{self.score.name}"])
        is_best = self.score.better(value, self.best_score)
        if is_best:
            self.best_score, self.best_epoch = value, trainer.current_epoch + 1
        trainer.save_checkpoint(self.last)
        if is_best and trainer.is_global_zero:
            with replacing(self.best) as beside:
                shutil.copyfile(self.last, beside)

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.best_score = state_dict["best_score"]
        self.best_epoch = int(state_dict["best_epoch"])
