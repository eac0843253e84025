"""Run the ImageNet recipe of a HaloNet for a few optimizer steps on drawn pictures of 1000 classes: what a user with
ImageNet would start, in minutes on a CPU.

    python benchmarks/imagenet_recipe.py [--steps 20] [--global-batch 64] [--recipe NAME] [-- --SETTING VALUE ...]

It draws JPEG files into class folders as ImageNet's lie (train/n00000000 ... and val/), runs `halonet fit --config
NAME` on them in this process, and prints the loss and the learning rate of every step, and what was changed of the
recipe. An epoch is one step here, so that the schedule goes through its warm-up and its cosine.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
import yaml
from PIL import Image

from halonet.cli import main as halonet
from halonet.cli.settings import RECIPES
from halonet.training import run
from halonet.training.classification.kind import Classification, ClassificationParts
from halonet.training.config import RunConfig

CLASSES = 1000


def draw_image(label: int, number: int) -> Image.Image:
    """A picture as large as a web photo: a gradient between two colours of its class, and patches of its own."""
    of_class, of_image = np.random.default_rng(label), np.random.default_rng((label, number))
    width, height = (int(side) for side in of_image.integers(280, 500, 2))
    first, second = of_class.uniform(0, 255, (2, 3))
    slope = of_class.uniform(-1, 1, 2)
    columns, rows = np.meshgrid(np.linspace(-1, 1, width // 8), np.linspace(-1, 1, height // 8))
    share = (0.5 + 0.25 * (slope[0] * columns + slope[1] * rows))[..., None]
    picture = share * first + (1 - share) * second + of_image.normal(0, 25, (*share.shape[:2], 1))
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)


def draw_folder(root: Path, *, train: int, val: int) -> None:
    """ImageNet's layout: root/train/nXXXXXXXX/nXXXXXXXX_0.JPEG, and root/val with the same folders."""
    for part, first, count in (("train", 0, train), ("val", train, val)):
        for label in range(CLASSES):
            name = f"n{label * 7919 % 10**8:08d}"
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(first, first + count):
                draw_image(label, number).save(folder / f"{name}_{number}.JPEG", quality=90)


@dataclass
class Watch(lightning.Callback):
    """Loss, averaged over its passes, and learning rate of each optimizer step."""

    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    passes: list[float] = field(default_factory=list)
    images: int = 0

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.images += len(batch[0])
        self.passes.append(float(outputs["loss"]) * trainer.accumulate_grad_batches)

    def on_before_optimizer_step(self, trainer: lightning.Trainer, module: Any, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Any) -> None:
        self.losses.append(sum(self.passes) / len(self.passes))
        self.passes.clear()
        print(f"step {len(self.losses):2d}  loss {self.losses[-1]:.4f}  learning rate {self.rates[-1]:.6f}", flush=True)


class Watched(Classification):
    """The task, with the callback that looks on."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def callbacks(self, parts: ClassificationParts, config: RunConfig) -> list[lightning.Callback]:
        return [*super().callbacks(parts, config), self.watch]


def changes_for(recipe: dict[str, Any], arguments: argparse.Namespace, root: Path) -> dict[str, Any]:
    """The settings that differ from the recipe's, by name."""
    batch, micro = arguments.global_batch, arguments.batch_size
    return {
        "data.root": str(root),
        "data.batch_size": micro,
        "optim.global_batch": batch,
        # Per image the rate is the recipe's.
        "optim.lr": recipe["optim"]["lr"] * batch / recipe["optim"]["global_batch"],
        "trainer.max_epochs": arguments.steps,
        "trainer.limit_train_batches": batch // micro,
        "trainer.limit_val_batches": 1,
        "trainer.limit_test_batches": 1,
        "trainer.precision": "32-true",
        "trainer.accelerator": "cpu",
        "trainer.progress": "none",
    }


def setting_of(recipe: dict[str, Any], name: str) -> Any:
    """What a recipe says of a dotted setting; the default where it says nothing."""
    section, key = name.split(".")
    return recipe.get(section, {}).get(key, RunConfig().to_dict()[section][key])


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="halonet_imagenet")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps")
    parser.add_argument("--global-batch", type=int, default=64, help="images of a step")
    parser.add_argument("--batch-size", type=int, default=16, help="images of a pass; divides --global-batch")
    parser.add_argument("--images", type=int, default=2, help="training images a class")
    parser.add_argument("rest", nargs="*", help="further settings of halonet fit, after --")
    arguments = parser.parse_args(words)
    if arguments.global_batch % arguments.batch_size:
        parser.error(f"--batch-size must divide --global-batch, got {arguments.batch_size}, {arguments.global_batch}")
    return arguments


def main(words: Sequence[str] | None = None) -> int:
    arguments = parsed(words)
    recipe = yaml.safe_load((RECIPES / f"{arguments.recipe}.yaml").read_text(encoding="utf-8"))
    watch = Watch()
    with tempfile.TemporaryDirectory() as temporary:
        root, started = Path(temporary, "drawn"), time.monotonic()
        draw_folder(root, train=arguments.images, val=1)
        print(f"{CLASSES * (arguments.images + 1)} JPEGs of {CLASSES} classes in {time.monotonic() - started:.0f} s")
        changes = changes_for(recipe, arguments, root)
        options = [f"--{name}={value}" for name, value in changes.items()] + [f"--out={Path(temporary, 'runs')}"]
        plain, started = run.TASKS["classification"], time.monotonic()
        run.TASKS["classification"] = Watched(watch)
        try:
            status = halonet(["fit", "--config", arguments.recipe, *options, *arguments.rest])
        finally:
            run.TASKS["classification"] = plain
        seconds = time.monotonic() - started
    if status:
        return status
    report(recipe, changes, arguments.rest, watch, seconds)
    return 0


def report(recipe: dict[str, Any], changes: dict[str, Any], rest: list[str], watch: Watch, seconds: float) -> None:
    """What was changed, and how it went."""
    print("changed of the recipe:")
    for name, value in changes.items():
        shown = "a temporary folder" if name == "data.root" else value
        print(f"  {name}: {setting_of(recipe, name)} -> {shown}")
    print(f"  further: {' '.join(rest) or 'nothing'}")
    steps = len(watch.losses)
    print(
        f"{recipe['model']['name']}, {steps} steps of {watch.images / steps:.0f} images in {seconds:.0f} s:"
        f" loss {watch.losses[0]:.3f} to {watch.losses[-1]:.3f} (ln {CLASSES} is {np.log(CLASSES):.3f});"
        f" {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads,"
        f" Python {platform.python_version()}, torch {torch.__version__}"
    )


if __name__ == "__main__":
    sys.exit(main())
