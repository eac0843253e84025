"""Where in an epoch a run stands: the data that are not read again, the means that are not yet whole."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as lightning
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import Metric

from halonet.data import EpochSampler
from halonet.processes import gather

Means = dict[str, dict[str, Any]]


class Position(lightning.Callback):
    """Lets a run go on within an epoch: its data begin after what was trained on already, without reading that again,
    and the means of the epoch so far (of every process) are kept in the checkpoint.

    Data sets with samplers are told by `EpochSampler`; streams by their own `set_epoch(epoch)` and `skip(batches)`,
    after which the next iteration begins that many batches of this process later, once.

    checkpoint: contents of the file that the run goes on from.
    """

    def __init__(self, checkpoint: Mapping[str, Any] | None = None) -> None:
        self.epoch, self.batch = (0, 0) if checkpoint is None else place_of(checkpoint)
        self.step = 0 if checkpoint is None else int(checkpoint["global_step"])
        kept = {} if checkpoint is None else checkpoint["callbacks"].get(self.state_key, {})
        self._sizes: dict[str, int] = kept.get("sizes", {})
        self._means: list[Means] = kept.get("means", [])
        self._loader: DataLoader[Any] | None = None

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Lightning makes the loader and begins to read while it sets up the optimizer, before it knows where the run
        goes on and before any hook: so the loader is set on its way."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if stage != "fit" or data is None:
            return
        make = data.train_dataloader

        def placed() -> DataLoader[Any]:
            loader: DataLoader[Any] = make()
            self._place(loader, trainer)
            return loader

        data.train_dataloader = placed

    def _place(self, loader: DataLoader[Any], trainer: lightning.Trainer) -> None:
        self._loader = loader
        dataset: Any = loader.dataset  # a stream makes its batches itself
        sizes = {
            "devices": trainer.world_size,
            "data.batch_size": loader.batch_size or int(dataset.batch_size),
            "trainer.accumulate_grad_batches": trainer.accumulate_grad_batches,
        }
        self._set_epoch(self.epoch)
        if self.batch:
            changed = [f"{name} {old}, now {sizes[name]}" for name, old in self._sizes.items() if sizes[name] != old]
            if changed:
                raise ValueError(
                    f"ckpt_path: taken within epoch {self.epoch + 1}, where a run goes on with the same sizes only; "
                    f"it had {' and '.join(changed)}"
                )
            self._skip(self.batch)
        self._sizes = sizes

    def _set_epoch(self, epoch: int) -> None:
        assert self._loader is not None
        for holder in (getattr(self._loader, "sampler", None), getattr(self._loader, "dataset", None)):
            if callable(set_epoch := getattr(holder, "set_epoch", None)):
                set_epoch(epoch)

    def _skip(self, batches: int) -> None:
        assert self._loader is not None
        sampler = getattr(self._loader, "sampler", None)
        if isinstance(sampler, EpochSampler):
            sampler.skip(batches * int(self._loader.batch_size or 1))
        elif callable(skip := getattr(self._loader.dataset, "skip", None)):
            skip(batches)
        else:
            raise ValueError("ckpt_path: taken within an epoch, and this data set cannot begin there")

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Lightning tells samplers the epoch, but not data sets."""
        if self._loader is not None and callable(set_epoch := getattr(self._loader.dataset, "set_epoch", None)):
            set_epoch(trainer.current_epoch)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self.batch and trainer.global_rank < len(self._means):
            load_means(pl_module, self._means[trainer.global_rank])

    def note(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Before a checkpoint within an epoch: gather the means of all processes."""
        self._means = gather(means_of(pl_module))

    def forget(self) -> None:
        """Before a checkpoint after an epoch."""
        self._means = []

    def state_dict(self) -> dict[str, Any]:
        return {"sizes": self._sizes, "means": self._means}


def place_of(checkpoint: Mapping[str, Any]) -> tuple[int, int]:
    """(epoch from 0, batches of it that were trained on) where a run goes on from a checkpoint's contents."""
    loop = checkpoint["loops"]["fit_loop"]
    epochs = loop["epoch_progress"]["current"]
    within = epochs["ready"] != epochs["processed"]
    return epochs["processed"], loop["epoch_loop.batch_progress"]["current"]["processed"] if within else 0


def means_of(module: nn.Module) -> Means:
    """What the metrics within `module` have gathered so far: by their names, their tensors on the CPU and how often
    they were updated."""
    return {
        name: {
            "updates": metric._update_count,
            **{
                key: value.detach().cpu().clone()
                for key, value in metric.metric_state.items()
                if isinstance(value, Tensor)
            },
        }
        for name, metric in module.named_modules()
        if isinstance(metric, Metric) and metric._update_count
    }


def load_means(module: nn.Module, means: Means) -> None:
    """Give the metrics within `module` what `means_of` found."""
    for name, found in means.items():
        metric = module.get_submodule(name)
        assert isinstance(metric, Metric)
        for key, value in found.items():
            if key != "updates":
                setattr(metric, key, value.to(metric.device))
        metric._update_count, metric._computed = found["updates"], None
