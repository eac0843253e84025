"""The moving average of the weights."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as lightning
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from halonet.training.averaging import MovingAverage
from halonet.training.classification.module import ClassificationTask
from halonet.training.config import TrainerConfig
from halonet.training.trainer import make_trainer
from tests.training.conftest import SMALL, only_run, run

FEW = ("--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1")


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0, msg=name)


class Counting(lightning.LightningModule):
    """A batch norm, with a buffer that is drawn anew and one of whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.register_buffer("drawn", torch.zeros(2))
        self.register_buffer("numbers", torch.tensor([7, -3]))
        self.seen: list[dict[str, torch.Tensor]] = []
        self.judged: list[dict[str, torch.Tensor]] = []

    def _copy(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.state_dict().items()}

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.drawn: torch.Tensor = torch.rand(2)
        return self.model(batch[0]).sub(1).square().mean()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seen.append(self._copy())

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.judged.append(self._copy())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.5)


def test_the_average_is_judged_and_kept(tmp_path: Path) -> None:
    task = Counting()
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(24, 3)), batch_size=4)
    trainer = make_trainer(
        TrainerConfig(max_epochs=1, accelerator="cpu"), callbacks=[MovingAverage(0.75)], logger=False
    )
    trainer.fit(task, data, data)
    expected = {name: value.clone() for name, value in task.seen[0].items()}
    for state in task.seen[1:]:
        for name, value in state.items():
            mean = 0.75 * expected[name] + 0.25 * value
            expected[name] = mean if name.startswith("model.") and value.is_floating_point() else value
    for found in (task.judged[0], task.state_dict()):
        assert found["numbers"].tolist() == [7, -3]
        torch.testing.assert_close(found, expected)
    assert not torch.equal(task.seen[-1]["model.0.weight"], expected["model.0.weight"])


def test_going_on_with_an_average_equals_never_stopping() -> None:
    options = (*SMALL, *FEW, "--trainer.max_epochs=3", "--trainer.limit_train_batches=2", "--optim.ema_decay=0.5")
    assert run("fit", "--out", "whole", *options) == 0
    original = ClassificationTask.training_step

    def interrupted(self: ClassificationTask, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.current_epoch == 2:
            raise KeyboardInterrupt
        return original(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClassificationTask, "training_step", interrupted)
        assert run("fit", "--out", "cut", *options) == 130
    assert run("fit", "--out", "cut", "--ckpt_path", "last") == 0
    whole, cut = (load(only_run(Path(out)) / "checkpoints" / "last.ckpt") for out in ("whole", "cut"))
    for part in ("state_dict", "current_model_state", "averaging_state"):
        assert_same(whole[part], cut[part])
    averaged, current = (whole[part]["model.head.fc.weight"] for part in ("state_dict", "current_model_state"))
    assert not torch.equal(averaged, current)
    best = load(only_run(Path("whole")) / "checkpoints" / "best.ckpt")["state_dict"]
    written = load_file(only_run(Path("whole")) / "weights.safetensors")
    assert_same(written, {name[6:]: value for name, value in best.items() if name.startswith("model.")})


def test_an_interrupted_validation_gives_the_weights_back() -> None:
    task, callback = Counting(), MovingAverage(0.5)
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")))
    callback.setup(trainer, task, "fit")
    before = copy.deepcopy(task.state_dict())
    with torch.no_grad():
        task.model[0].weight += 1
    callback.on_validation_epoch_start(trainer, task)
    assert_same(dict(task.state_dict()), before)
    callback.on_exception(trainer, task, KeyboardInterrupt())
    callback.on_exception(trainer, task, KeyboardInterrupt())
    torch.testing.assert_close(task.model[0].weight, before["model.0.weight"] + 1)
