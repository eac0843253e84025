"""Recipes are what their papers say: schedules, models, crops, and weights that go on to another size."""

import fnmatch
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from timm.data.auto_augment import AugmentOp, RandAugment

import halonet
from halonet.cli import recipe_names
from halonet.cli.settings import RECIPES
from halonet.data.config import DataConfig
from halonet.data.source import ImageSource
from halonet.models import model_config
from halonet.models.cards import card_of
from halonet.models.checkpoints import read_weights
from halonet.models.config import ResidualConfig
from halonet.models.token_config import TokenConfig
from halonet.training.classification.datamodule import ImageDataModule
from halonet.training.classification.kind import ClassificationParts, build, preprocessing_for
from halonet.training.config import ModelConfig, RunConfig
from halonet.training.optimizer import schedule_of
from tests.training.conftest import SMALL, only_run, run

IMAGENET, IMAGENET21K = 1_281_167, 14_197_122
NAMES = [name for name in recipe_names() if "imagenet" in name]
# recipe: (rate of the first step, of the peak, of the last; epochs; global batch; warm-up in epochs; weight decay)
PUBLISHED = {
    "halonet_imagenet": (1.6 / 3120, 1.6, 1.6 / 128, 350, 4096, 10, 2e-5),
    "halonet_hybrids_imagenet": (1.6 / 3120, 1.6, 1.6 / 128, 350, 4096, 10, 2e-5),
    "halonet_detection_backbones_imagenet": (1.6 / 3120, 1.6, 1.6 / 128, 350, 4096, 10, 2e-5),
    "halonet50_imagenet": (1.6 / 3120, 1.6, 1.6 / 128, 150, 4096, 10, 8e-5),
    "halonet50_regularized_imagenet": (1.6 / 3120, 1.6, 1.6 / 128, 150, 4096, 10, 4e-5),
    "halonet50_image_sizes_imagenet": (1.6 / 3120, 1.6, 1.6 / 128, 150, 4096, 10, 4e-5),
    "halonet50_scaled_imagenet": (1.6 / 3120, 1.6, 1.6 / 128, 150, 4096, 10, 4e-5),
    "halonet_h4_pretrain_imagenet21k": (0.16 / 6932, 0.16, 0.16 / 128, 90, 4096, 2, 8e-5),
    "halonet_h4_finetune_imagenet": (0.016 / 1251, 0.016, 0.016 / 128, 8, 512, 0.5, 0.0),
    "botnet50_imagenet": (0.4 / 6255, 0.4, 0.0, 100, 1024, 5, 1e-4),
    "botnet50_improved_imagenet": (1.6 / 1560, 1.6, 0.0, 200, 4096, 5, 8e-5),
    "botnet_s1_50_se_imagenet": (1.6 / 1560, 1.6, 0.0, 200, 4096, 5, 4e-5),
    "botnet_s1_imagenet": (1.6 / 1560, 1.6, 0.0, 350, 4096, 5, 4e-5),
    "resnet_senet_imagenet": (1.6 / 1560, 1.6, 0.0, 350, 4096, 5, 4e-5),
    "vil_imagenet": (1e-3 / 6255, 1e-3, 1e-6, 300, 1024, 5, 0.1),
    "msvit_imagenet": (1e-3 / 6255, 1e-3, 1e-6, 300, 1024, 5, 0.1),
    "vil_large_imagenet": (8e-4 / 6255, 8e-4, 1e-6, 300, 1024, 5, 0.1),
    "vil_pretrain_imagenet21k": (5e-4 / 69320, 5e-4, 1e-6, 90, 1024, 5, 0.1),
    "vil_finetune_imagenet": (0.03 / 626, 0.03, 9.9e-7, 10, 512, 0.25, 0.0),
}
# Rows that no paper here trains on ImageNet: detectors at 1024 start from the row at 224; ours; torchvision's.
NOT_TRAINED = ("*_1024", "*_nano_32", "resnext*")


def config_of(name: str) -> RunConfig:
    """The recipe alone; test_cli reads each as the command line does."""
    return RunConfig.from_dict(yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8")))


def header_of(name: str) -> dict[str, str]:
    """Entries of a recipe's head, each on one line."""
    entries: dict[str, str] = {}
    key = ""
    for line in (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        start = re.match(r"# ([A-Z][a-z ]+): +(.*)", line)
        if start is not None:
            key = start[1]
            entries[key] = start[2]
        elif line.startswith("#    ") and key:
            entries[key] += f" {line[1:].strip()}"
        else:
            key = ""
    return entries


def checked_header(name: str, *, root: str) -> dict[str, str]:
    """The head, with what every published set-up's says."""
    header = header_of(name)
    assert {"Source", "Models", "Command", "Hardware", "Hours", "Published", "Not published"} <= set(header)
    assert header["Published"].endswith("Not reproduced by us.")
    assert re.search(r"arXiv \d{4}\.\d{5}\)", header["Source"])
    assert header["Command"].startswith(f"halonet fit --config {name} --data.root {root}")
    return header


def models_of(name: str, listed: Callable[..., list[str]] = halonet.list_models) -> list[str]:
    """The models, of those `listed`, that a recipe says it is for."""
    patterns = header_of(name)["Models"].split()
    for pattern in patterns:
        assert listed(pattern), f"{name}: no model is named {pattern}"
    return [model for model in listed() if any(fnmatch.fnmatch(model, item) for item in patterns)]


def test_every_recipe_of_imagenet_is_judged_here() -> None:
    assert set(PUBLISHED) == set(NAMES)


def test_the_page_has_every_recipe() -> None:
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w*imagenet\w*)` \|", page, re.MULTILINE)
    assert sorted(rows) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_header(name: str) -> None:
    header = checked_header(name, root="IMAGENET")
    assert re.search(r"Tables? \w+|section \d|Figure \d", header["Published"] + header["Source"])
    assert config_of(name).model.name in models_of(name)


@pytest.mark.parametrize("name", NAMES)
def test_schedule(name: str) -> None:
    """Learning rates of the first step, at the end of the warm-up and of the last, in steps of the global batch."""
    first, peak, last, epochs, batch, warmup, decay = PUBLISHED[name]
    config = config_of(name)
    optim = config.optim
    found = (config.trainer.max_epochs, optim.global_batch, optim.warmup_epochs, optim.weight_decay)
    assert found == (epochs, batch, warmup, decay)
    assert optim.name == ("adamw" if decay == 0.1 else "sgd")
    images = IMAGENET21K if name.endswith("21k") else IMAGENET
    steps = images // batch * epochs
    schedule = schedule_of(optim, total_steps=steps, epochs=epochs)
    rates = [optim.lr * schedule(step) for step in range(steps)] if steps < 50_000 else []
    ends = [optim.lr * schedule(step) for step in (0, round(warmup * (images // batch)) - 1, steps - 1)]
    assert ends == pytest.approx([first, peak, last], rel=1e-3, abs=1e-12)
    if rates:
        assert max(rates) == pytest.approx(peak)
        assert np.argmax(rates) == round(warmup * (images // batch)) - 1


@pytest.mark.parametrize("name", NAMES)
def test_batch(name: str) -> None:
    """What one device takes divides the batch of a step, so that whole passes make it on 1, 2, 4 or 8 of them."""
    config = config_of(name)
    assert config.optim.global_batch is not None
    assert config.optim.global_batch % config.data.batch_size == 0
    assert config.trainer.devices == "auto"
    assert config.trainer.strategy == "auto"
    assert config.trainer.accumulate_grad_batches == 1


@pytest.mark.parametrize("name", NAMES)
def test_its_models_take_its_options(name: str) -> None:
    """Each by its own image size. (test_cli builds the recipe's own model, test_rows every row.)"""
    config = config_of(name)
    for model_name in models_of(name):
        found = model_config(model_name, **config.model.overrides)
        assert isinstance(found, ResidualConfig | TokenConfig)
        assert model_name.endswith(f"_{found.image_shape[-1]}")
        for option, value in config.model.overrides.items():
            parts = [found] if hasattr(found, option) else found.stages
            assert {getattr(part, option) for part in parts} == {value}


def test_models_of_papers_have_a_recipe() -> None:
    named = {model for name in NAMES for model in models_of(name)}
    left_out = {model for model in halonet.list_models() if any(fnmatch.fnmatch(model, item) for item in NOT_TRAINED)}
    assert set(halonet.list_models()) - named == left_out


@pytest.mark.parametrize(
    ("model", "magnitude", "dropout", "depth"),
    [
        ("h0", 6, 0.2, 0),
        ("h1", 8, 0.2, 0),
        ("h2", 10, 0.3, 0),
        ("h3", 14, 0.3, 0.2),
        ("h4", 17, 0.4, 0.2),
        ("h5", 19, 0.4, 0.2),
        ("h6", 24, 0.5, 0.2),
        ("h7", 31, 0.5, 0.2),
    ],
)
def test_cards_of_halonet(model: str, magnitude: float, dropout: float, depth: float) -> None:
    """Appendix C.3's magnitudes; of hybrids too."""
    names = [name for name in halonet.list_models(f"halonet_{model}_*") if "base128" not in name]
    assert len(names) == (5 if model == "h3" else 4)
    for name in names:
        card = card_of(name, (256, 256))
        assert [card[key] for key in ("randaugment", "randaugment_form")] == [magnitude, "tensorflow"]
        assert [card[key] for key in ("drop_rate", "drop_path_rate")] == [dropout, depth]


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("halonet_h0_256", 288),
        ("halonet_h3_320", 352),
        ("halonet_h4_384", 416),
        ("halonet_h5_448", 480),
        ("halonet_h6_512", 544),
        ("halonet_h7_600", 632),
        ("halonet_h4_base128_512", 544),
        ("botnet_s1_59_224", 256),
        ("senet50_160", 192),
        ("vil_tiny_224", 256),
        ("vil_base_384", 416),
        ("msvit_tiny_2_9_1_224", 256),
    ],
)
def test_crops_of_cards(name: str, short: int) -> None:
    """Pixels of the short side before the test's crop; the settings come before the card."""
    side = int(name.rsplit("_", 1)[-1])
    card = {**card_of(name, (side, side)), "input_size": (3, side, side)}
    source = ImageSource("drawn", ("a", "b"), 3, splits={}, augment="photo")
    assert preprocessing_for(source, config=DataConfig(), card=card).short_side == short
    assert preprocessing_for(source, config=DataConfig(crop_pct=1.0), card=card).short_side == side
    half = preprocessing_for(source, config=DataConfig(crop_pct=0.5, img_size=100), card=card)
    assert (half.img_size, half.short_side) == (100, 200)


def test_interpolation_of_cards() -> None:
    source = ImageSource("drawn", ("a", "b"), 3, splits={}, augment="photo")
    for name, expected in (("resnext50_32x4d_224", "bilinear"), ("resnet50_224", "bicubic")):
        with torch.device("meta"):
            card = halonet.create_model(name).default_cfg
        assert preprocessing_for(source, config=DataConfig(), card=card).interpolation == expected


@pytest.mark.parametrize("name", ["halonet_imagenet", "halonet_hybrids_imagenet"])
def test_recipes_of_halonet_leave_to_the_card(name: str) -> None:
    """What differs from H0 to H7."""
    config = config_of(name)
    assert (config.model.drop_rate, config.model.drop_path_rate, config.data.randaugment) == (None, None, None)
    assert (config.data.crop_pct, config.data.img_size) == (None, None)


def operations(parts: ClassificationParts) -> list[Any]:
    """What RandAugment draws from in a run."""
    assert isinstance(parts.data, ImageDataModule)
    transform: Any = parts.data.dataset("train").transform
    (change,) = [step for step in transform.transforms if isinstance(step, RandAugment)]
    return list(change.ops)


def test_a_run_takes_the_card() -> None:
    """RandAugment's magnitude and form, dropout and stochastic depth, where the settings leave them open."""
    data = DataConfig(augment="photo")
    parts = build(RunConfig(model=ModelConfig(name="halonet_h3_320"), data=data))
    model: Any = parts.model
    assert model.head.drop.p == 0.3
    assert max(getattr(part, "drop_prob", 0.0) or 0.0 for part in model.modules()) == pytest.approx(0.2)
    found = operations(parts)
    assert {op.magnitude for op in found if isinstance(op, AugmentOp)} == {14}
    assert {op.prob for op in found if isinstance(op, AugmentOp)} == {1.0}
    assert len(found) == 16
    settled = ModelConfig(name="vil_tiny_224", drop_rate=0.25, drop_path_rate=0.0)
    parts = build(RunConfig(model=settled, data=replace(data, randaugment=9)))
    model = parts.model
    assert model.head.drop.p == 0.25
    assert {(op.magnitude, op.magnitude_std, op.prob) for op in operations(parts)} == {(9, 0.5, 0.5)}
    assert len(operations(parts)) == 15


def linear(table: np.ndarray, length: int) -> np.ndarray:
    """A table's columns at other rows, ends kept, by numpy's own interpolation."""
    rows = np.linspace(0, len(table) - 1, length)
    return np.stack([np.interp(rows, np.arange(len(table)), column) for column in table.T], axis=1)


def test_transfer(finished: Path, tmp_path: Path) -> None:
    """Section 4.5 and appendix E in small: a run at b, h = 4, 2 and 16 pixels goes on at 6, 1 and 24, classifier from
    zeros."""
    weights = finished / "weights.safetensors"
    one = ("--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1")
    other = ("--model.overrides.block_size=6", "--model.overrides.halo_size=1", "--data.img_size=24")
    options = ("--model.zero_head=true", "--model.weights", weights, "--optim.label_smoothing=0")
    assert run("fit", *SMALL, *one, *other, *options, "--trainer.max_epochs=1", "--out", tmp_path / "second") == 0
    metrics = yaml.safe_load((only_run(tmp_path / "second") / "metrics.json").read_text())
    assert metrics["history"][0]["train/loss"] == pytest.approx(math.log(10), abs=1e-6)

    model = ModelConfig(weights=str(weights), zero_head=True, overrides={"block_size": 6, "halo_size": 1})
    parts = build(RunConfig(model=model, data=DataConfig(img_size=24)))
    assert {"8 position tables resized", "the classifier starts from zeros"} <= set(parts.notes)
    given = read_weights(weights)[0]
    assert given["head.fc.weight"].abs().sum() > 0
    for key, tensor in parts.model.state_dict().items():
        if key.startswith("head.fc"):
            assert not tensor.any()
        elif key.endswith(("height_table", "width_table")):
            assert (len(given[key]), len(tensor)) == (11, 13)  # 2 * (b + h - 1) + 1
            expected = torch.from_numpy(linear(given[key].double().numpy(), 13)).float()
            torch.testing.assert_close(tensor, expected, rtol=1e-6, atol=1e-6)
        else:
            torch.testing.assert_close(tensor, given[key], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["halonet_nano_32", "vil_nano_32"])
def test_a_new_classifier_from_zeros(name: str) -> None:
    """Every class is as likely as any other at first, whatever the image; without it, they are not."""
    images = torch.rand(3, 1, 16, 16)
    spread = {}
    for zero in (True, False):
        parts = build(RunConfig(model=ModelConfig(name=name, zero_head=zero)))
        parts.model.eval()
        with torch.no_grad():
            spread[zero] = float(parts.model(images).softmax(1).std())
    assert spread[True] < 1e-7
    assert spread[False] > 1e-6
