"""Every setting of a run and its default, once. A recipe (YAML) and the command line hold differences
only."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise
from typing import Any, Literal

from halonet.data.coco.config import DetectionConfig
from halonet.data.config import DataConfig
from halonet.data.stereo.config import StereoConfig


@dataclass
class ModelConfig:
    """The network.

    Args:
        name: a name that `halonet models` lists
        weights: safetensors file to start from; a head for another number of classes is replaced
        zero_head: start the classifier from zeros, as HaloNet's section 4.5 fine-tunes
        grad_checkpointing: keep only the maps between blocks and compute the rest again in the backward pass
        drop_rate: dropout before the classifier; null: the model's own
        drop_path_rate: stochastic depth: share of residual branches dropped in the last block, linear from 0
            in the first; null: the model's own
        random_shift: share of the steps in which layers of Vision Longformer see one random neighbour chunk
            instead of eight; the paper's is 0.75
        redraw_features: steps between new random features of a Performer; null: 1 + 5 * epoch, as the paper;
            0: never
        overrides: settings of the model row to change, as in --model.overrides.block_size 12
    """

    name: str = "halonet_nano_32"
    weights: str | None = None
    zero_head: bool = False
    grad_checkpointing: bool = False
    drop_rate: float | None = None
    drop_path_rate: float | None = None
    random_shift: float = 0.0
    redraw_features: int | None = None
    overrides: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("drop_rate", "drop_path_rate"):
            rate = getattr(self, name)
            if rate is not None and not 0 <= rate < 1:
                raise ValueError(f"model.{name}: expected at least 0 and less than 1 or null, got {rate}")
        if not 0 <= self.random_shift <= 1:
            raise ValueError(f"model.random_shift: expected 0 to 1, got {self.random_shift}")
        if self.redraw_features is not None and self.redraw_features < 0:
            raise ValueError(f"model.redraw_features: expected at least 0 or null, got {self.redraw_features}")


@dataclass
class OptimConfig:
    """Optimizer, schedule and loss.

    Args:
        name: sgd; adamw
        lr: peak learning rate
        momentum: of sgd; the first beta of adamw
        nesterov: sgd's momentum is Nesterov's, as HaloNet's section 4.5 names it; false: plain
        weight_decay: on weights of convolutions and linear layers; not on norms, biases and position tables
        warmup_epochs: linear warm-up, counted in epochs; may be a fraction
        warmup_steps: the same in optimizer steps, in place of warmup_epochs
        warmup_start: share of the peak that the warm-up begins at
        final_lr_ratio: learning rate of the last step as a share of the peak (HaloNet, appendix C.3: 1/128)
        drop_epochs: epochs, fractions too, at which the rate falls to drop_ratio of what it was, in place of the
            cosine; an empty list keeps it at its peak; null: the cosine
        drop_steps: the same in optimizer steps, in place of drop_epochs
        drop_ratio: see drop_epochs
        layer_decay: share of the next layer's learning rate that a layer has, from the classifier (lr) down to the
            stem; 0: the classifier alone learns, while batch norms still take the statistics of what they see
        label_smoothing: probability mass spread evenly over all classes
        global_batch: images of one optimizer step on all devices together, which lr is meant for; accumulation and
            the batch a device takes follow from it, lr where it cannot be met exactly; null: whatever the devices,
            data.batch_size and trainer.accumulate_grad_batches give
        ema_decay: share of the old that a moving average of the weights keeps each step; the average is what is
            validated, tested and written; 0: none
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.2
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 2e-5
    warmup_epochs: float = 1.0
    warmup_steps: int | None = None
    warmup_start: float = 0.0
    final_lr_ratio: float = 1 / 128
    drop_epochs: list[float] | None = None
    drop_steps: list[int] | None = None
    drop_ratio: float = 0.1
    layer_decay: float = 1.0
    label_smoothing: float = 0.1
    global_batch: int | None = None
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"optim.lr: expected more than 0, got {self.lr}")
        for name in ("weight_decay", "warmup_epochs"):
            if getattr(self, name) < 0:
                raise ValueError(f"optim.{name}: expected at least 0, got {getattr(self, name)}")
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise ValueError(f"optim.warmup_steps: expected at least 0 or null, got {self.warmup_steps}")
        if self.global_batch is not None and self.global_batch < 1:
            raise ValueError(f"optim.global_batch: expected at least 1 or null, got {self.global_batch}")
        for name in ("momentum", "label_smoothing", "ema_decay", "warmup_start"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optim.{name}: expected at least 0 and less than 1, got {getattr(self, name)}")
        if self.name == "sgd" and self.nesterov and self.momentum == 0:
            raise ValueError("optim.momentum: Nesterov momentum expects more than 0, got 0")
        for name in ("final_lr_ratio", "drop_ratio", "layer_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"optim.{name}: expected 0 to 1, got {getattr(self, name)}")
        for name, drops in (("epochs", self.drop_epochs), ("steps", self.drop_steps)):
            if drops is not None and (min(drops, default=0) < 0 or _falls(drops)):
                raise ValueError(f"optim.drop_{name}: expected rising {name} of at least 0, got {drops}")
        if self.drop_epochs is not None and self.drop_steps is not None:
            raise ValueError("optim.drop_epochs, optim.drop_steps: expected one of them, got both")


def _falls(values: Sequence[float]) -> bool:
    return any(later <= earlier for earlier, later in pairwise(values))


@dataclass
class TrainerConfig:
    """The machine and the length of the run (Lightning's names).

    Args:
        max_epochs: passes over the training data
        max_steps: optimizer steps after which the run ends, within an epoch too, in place of max_epochs
        accelerator: auto, cpu, gpu, mps
        devices: how many, a list as in "0,1", or auto: all
        num_nodes: how many machines
        strategy: auto; ddp: every device holds the network; fsdp: they share it out
        sync_batchnorm: take the statistics of batch norms over all devices
        compile: run the network under torch.compile
        threads: CPU threads of an operation; null: 1 for the digits and a detector's drawn scenes, whose networks are
            so small that a second one mostly waits (and stalls both when the machine has other work), else all cores
        precision: 32-true, bf16-mixed, 16-mixed
        accumulate_grad_batches: batches summed into one step
        gradient_clip_val: largest norm of all gradients; null: not clipped
        limit_train_batches: batches of an epoch that are used, or with a point, as 0.5, their share
        limit_val_batches: the same for validation
        limit_test_batches: the same for the test
        save_every_steps: optimizer steps between checkpoints within an epoch; null: by time alone
        save_every_minutes: minutes between checkpoints within an epoch; 0: by steps alone
        keep_last: how many of the newest checkpoints are kept beside the best
        progress: auto: a bar in a terminal, else one line an epoch; bar; lines; none
    """

    max_epochs: int = 16
    max_steps: int | None = None
    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    sync_batchnorm: bool = False
    compile: bool = False
    threads: int | None = None
    precision: str = "32-true"
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    limit_train_batches: int | float = 1.0
    limit_val_batches: int | float = 1.0
    limit_test_batches: int | float = 1.0
    save_every_steps: int | None = None
    save_every_minutes: float = 10.0
    keep_last: int = 2
    progress: Literal["auto", "bar", "lines", "none"] = "auto"

    def __post_init__(self) -> None:
        for name in ("max_epochs", "accumulate_grad_batches", "num_nodes", "keep_last"):
            if getattr(self, name) < 1:
                raise ValueError(f"trainer.{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("max_steps", "threads", "save_every_steps"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"trainer.{name}: expected at least 1 or null, got {getattr(self, name)}")
        if self.save_every_minutes < 0:
            raise ValueError(f"trainer.save_every_minutes: expected at least 0, got {self.save_every_minutes}")
        for name in ("limit_train_batches", "limit_val_batches", "limit_test_batches"):
            limit = getattr(self, name)
            if limit <= 0 or (isinstance(limit, float) and limit > 1):
                raise ValueError(f"trainer.{name}: expected a whole number or a share up to 1.0, got {limit}")


@dataclass
class RunConfig:
    """One run.

    Args:
        task: classification; stereo: disparity of a pair of pictures; detection: boxes, classes and masks of objects
        model: the network
        data: the images
        stereo: the pairs of pictures, for the task stereo
        detection: the annotated images, for the task detection
        optim: optimizer, schedule, loss
        trainer: machine and length
        seed: of weights, order, augmentation and dropout
        out: results go to OUT/NAME/DATE_TIME
        name: of the run; null: MODEL-DATA
    """

    task: Literal["classification", "stereo", "detection"] = "classification"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    stereo: StereoConfig = field(default_factory=StereoConfig)
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    seed: int = 0
    out: str = "runs"
    name: str | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunConfig":
        """Build from nested plain values; sections and settings left out keep their defaults."""
        sections: dict[str, Any] = {
            "model": ModelConfig,
            "data": DataConfig,
            "stereo": StereoConfig,
            "detection": DetectionConfig,
            "optim": OptimConfig,
            "trainer": TrainerConfig,
        }
        known = {item.name for item in fields(cls)}
        return cls(
            **{
                name: sections[name](**value) if name in sections else value
                for name, value in values.items()
                if name in known
            }
        )

    def from_nothing(self) -> "RunConfig":
        """The same without the files that weights start from: a checkpoint has all weights, and they may be gone."""
        return replace(
            self,
            model=replace(self.model, weights=None),
            detection=replace(self.detection, backbone_weights=None),
        )

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, as YAML and checkpoints store them."""
        return asdict(self)
