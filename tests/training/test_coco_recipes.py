"""Recipes of detectors on COCO are what their papers say, and every published detector has one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from halonet.cli import recipe_names
from halonet.detection import create_detector, detector_config, list_detectors
from halonet.training.optimizer import schedule_of
from tests.training.test_recipes import checked_header, config_of, models_of

IMAGES = 118_287  # of train2017
NAMES = [name for name in recipe_names() if name.endswith("_coco")]
# recipe: (rates of the first step, the peak and the end; steps; where the rate falls; images of a step; decay)
PUBLISHED = {
    "halonet_coco": (2 / 300, 0.1, 0.001, 67_500, [60_000, 65_000], 64, 4e-5),
    "botnet_1x_coco": (0.0067, 0.1, 0.001, 22_500, [15_000, 17_500], 64, 4e-5),
    "botnet_2x_coco": (0.0067, 0.1, 0.001, 45_000, [37_500, 40_000], 64, 4e-5),
    "botnet_3x_coco": (0.0067, 0.1, 0.001, 67_500, [60_000, 65_000], 64, 4e-5),
    "botnet_6x_coco": (0.0067, 0.1, 0.001, 135_000, [120_000, 130_000], 64, 4e-5),
    "botnet_6x_1280_coco": (0.0067, 0.15, 0.0015, 67_500, [60_000, 65_000], 128, 4e-5),
    "botnet_faster_rcnn_coco": (0.0067, 0.1, 0.001, 67_500, [60_000, 65_000], 64, 4e-5),
    "botnet_faster_rcnn_1280_coco": (0.0067, 0.15, 0.0015, 67_500, [60_000, 65_000], 128, 4e-5),
    "vil_1x_coco": (1e-7, 1e-4, 1e-6, 90_000, [60_000, 80_000], 16, 0.05),
    "vil_3x_ms_coco": (1e-7, 1e-4, 1e-6, 270_000, [180_000, 240_000], 16, 0.05),
    "resnet_1x_coco": (2e-5, 0.02, 2e-4, 90_000, [60_000, 80_000], 16, 1e-4),
    "resnet_3x_ms_coco": (2e-5, 0.02, 2e-4, 270_000, [180_000, 240_000], 16, 1e-4),
    # 24 epochs, falls at the start of the 18th and the 21st, each of 1848 steps.
    "fa_maskrcnn_coco": (1.25e-7, 1.25e-4, 1.25e-6, 24 * 1848, [17 * 1848, 20 * 1848], 64, 1e-4),
}


def test_every_recipe_of_coco_is_judged_here() -> None:
    assert set(PUBLISHED) == set(NAMES)


def test_the_page_has_every_recipe() -> None:
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `(\w*_coco)` \|", page, re.MULTILINE)) == sorted(NAMES)


def test_published_detectors_have_a_recipe() -> None:
    """Torchvision's own and ours are of no paper."""
    named = {model for name in NAMES for model in models_of(name, list_detectors)}
    papers = {name for name in list_detectors() if re.search(r"Tables? \d", detector_config(name).source)}
    assert len(papers) > 60
    assert papers - named == set()


@pytest.mark.parametrize("name", NAMES)
def test_header(name: str) -> None:
    header = checked_header(name, root="COCO")
    assert re.search(r"Tables? \d", header["Published"])
    assert config_of(name).model.name in models_of(name, list_detectors)


@pytest.mark.parametrize("name", NAMES)
def test_schedule(name: str) -> None:
    first, peak, last, steps, falls, batch, decay = PUBLISHED[name]
    config = config_of(name)
    optim = config.optim
    assert (optim.global_batch, optim.weight_decay, optim.lr) == (batch, decay, peak)
    assert batch % config.data.batch_size == 0
    epochs: float = config.trainer.max_epochs
    if config.trainer.max_steps is not None:
        assert config.trainer.max_steps == steps
        epochs = steps * batch / IMAGES
    else:
        assert IMAGES // batch * epochs == steps
    schedule = schedule_of(optim, total_steps=steps, epochs=epochs)
    warm = optim.warmup_steps or 0
    assert warm == (1000 if batch == 16 or name.startswith("fa_") else 500)
    asked = [0, warm, falls[0] - 1, falls[0], falls[1] - 1, falls[1], steps - 1]
    told = [first, peak, peak, peak / 10, peak / 10, peak / 100, last]
    assert [peak * schedule(step) for step in asked] == pytest.approx(told, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "epochs"),
    [("botnet_1x_coco", 12), ("botnet_2x_coco", 24), ("botnet_3x_coco", 36), ("botnet_6x_coco", 72)],
)
def test_steps_are_the_epochs_that_the_paper_names(name: str, epochs: int) -> None:
    config = config_of(name)
    assert (config.trainer.max_steps or 0) * 64 / IMAGES == pytest.approx(epochs, rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_its_models_take_its_options(name: str) -> None:
    """Every model's configuration is one, and the recipe's own is built."""
    config = config_of(name)
    for model in models_of(name, list_detectors):
        found = detector_config(model, **config.model.overrides)
        assert found.max_size in (1024, 1280, 1333)
        assert (found.norm == "batch") == config.trainer.sync_batchnorm
        if name.endswith("_1280_coco"):
            assert found.max_size == 1280
        assert (config.detection.scale_jitter is not None) == (found.norm == "batch")
    with torch.device("meta"):
        create_detector(config.model.name, num_classes=91, **config.model.overrides)


def test_scales_of_vil() -> None:
    """Section A.2: (800, 1333); with several scales 640 to 800 in steps of 32."""
    for name, sizes in (("vil_1x_coco", (800,)), ("vil_3x_ms_coco", tuple(range(640, 801, 32)))):
        config = config_of(name)
        found = detector_config(config.model.name, **config.model.overrides)
        assert (found.min_size, found.max_size) == (sizes, 1333)
        assert config.trainer.gradient_clip_val == 1.0
