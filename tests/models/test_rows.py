"""What every model promises. Parametrised over `list_models()`, so that a new row is tested by existing."""

import subprocess
import sys

import pytest
import timm
import torch
from torch import nn

import halonet
from halonet.layers import AttentionLayer, NonLocal2d
from halonet.models.residual import Bottleneck, ResidualNet
from halonet.models.vit import MultiScaleVit

IMAGE = (2, 3, 35, 50)  # no block divides its maps
# 40 to 152 M parameters, seconds each on one core. Every day one of each kind is tested, and all are run at their own
# image size on the meta device.
KINDS = ("halonet_h4_base128_*", "senet[13]5*", "resnet[12]*_1024", "botnet[12]*_1024", "botnet_s1_1*", "botnet_s1_77*")
KINDS += ("vil_base_*", "vil_medium_384", "msvit_small_?_?_2_*", "msvit_tiny_?_?_2_*")
TOO_LARGE = {name for kind in KINDS for name in halonet.list_models(kind)}
TOO_LARGE -= {"halonet_h4_base128_patch4_256", "botnet101_1024"}
ROWS = [pytest.param(name, marks=pytest.mark.slow if name in TOO_LARGE else ()) for name in halonet.list_models()]


@pytest.fixture(scope="module", params=ROWS)
def model(request):
    """The row as built, except that no branch starts at zero, so that gradients reach what lies in it."""
    torch.manual_seed(0)
    model = halonet.create_model(request.param)
    for block in model.modules():
        if isinstance(block, Bottleneck):
            nn.init.ones_(block.expand.norm.weight)
        if isinstance(block, NonLocal2d):
            nn.init.ones_(block.norm.weight)
    return model


def test_forward_and_backward(model):
    """In training: logits, and a finite gradient for every parameter (so none is unused, as DDP wants)."""
    model.train().zero_grad(set_to_none=True)
    logits = model(torch.randn(IMAGE))
    assert logits.shape == (2, 1000)
    (logits * torch.randn_like(logits)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any() or dropped(model, name), name
    model.zero_grad(set_to_none=True)


def dropped(model, name):
    """What only the global tokens of a stage's last block take, which the next stage does not get to see."""
    if not isinstance(model, MultiScaleVit) or not name.endswith("attn.global_bias"):
        return False
    _, stage, _, block, *_ = name.split(".")
    return int(stage) < len(model.stages) - 1 and int(block) == len(model.stages[int(stage)].blocks) - 1


@torch.no_grad()
def test_evaluation(model):
    """Deterministic, and the same through its parts; the maps are those of `feature_info`."""
    model.eval()
    image = torch.randn(IMAGE)
    logits = model(image)
    last, maps = model.forward_intermediates(image)
    assert last.shape[channels_at(model)] == model.num_features
    torch.testing.assert_close(model.forward_head(last), logits, rtol=0, atol=0)
    features = model.forward_head(last, pre_logits=True)
    assert features.shape == (2, model.head_hidden_size)
    torch.testing.assert_close(model.get_classifier()(features), logits)
    check_maps(model, maps, IMAGE)


def test_classifier_can_be_replaced(model):
    head = model.head
    try:
        for classes in (7, 0, 1000):
            model.reset_classifier(classes)
            assert model.num_classes == classes
            assert isinstance(model.get_classifier(), nn.Linear if classes else nn.Identity)
            features = torch.randn(2, model.num_features, 2, 3)
            logits = model.forward_head(features if channels_at(model) == 1 else features.flatten(2).mT)
            assert logits.shape == (2, classes or model.num_features)
    finally:
        model.head = head


def test_no_weight_decay_names_the_tables(model):
    told = ("table", "_bias", "global_tokens")
    tables = {name for name, _ in model.named_parameters() if any(word in name for word in told)}
    assert model.no_weight_decay() == tables
    by_position = isinstance(model, MultiScaleVit) or any(
        isinstance(layer, AttentionLayer) and layer.relative != "none" for layer in model.modules()
    )
    assert bool(tables) is by_position


def channels_at(model):
    """The dimension of channels in what `forward_features` gives: a map, or tokens."""
    return 2 if isinstance(model, MultiScaleVit) else 1


def check_maps(model, maps, shape):
    """Channels and reduction of each map as `feature_info` says, rounded up where they do not divide the image."""
    assert len(maps) == len(model.feature_info)
    height, width = shape[2:]
    for map_, info in zip(maps, model.feature_info, strict=True):
        reduction = info["reduction"]
        rounded = [(-(-height // reduction), -(-width // reduction))]
        if (
            getattr(model.config, "stem", "") == "patch4"
        ):  # whole patches only: what is left over at the border is not seen
            rounded = [(-(-(height // 4) // (reduction // 4)), -(-(width // 4) // (reduction // 4)))]
        assert map_.shape[:2] == (shape[0], info["num_chs"]), info
        assert tuple(map_.shape[2:]) in rounded, info


@pytest.mark.parametrize("name", halonet.list_models())
def test_at_its_own_image_size(name):
    """Through timm, without numbers: same class, logits, maps and default configuration."""
    with torch.device("meta"):
        model = timm.create_model(name).eval()
        image = torch.empty(1, *model.default_cfg["input_size"])
    assert isinstance(model, ResidualNet | MultiScaleVit)
    assert model.default_cfg["architecture"] == name
    assert model.default_cfg["num_classes"] == model.num_classes == 1000
    assert len(model.default_cfg["mean"]) == len(model.default_cfg["std"]) == 3
    assert name.endswith(f"_{image.shape[-1]}")
    last, maps = model.forward_intermediates(image)
    check_maps(model, maps, image.shape)
    assert model.forward_head(last).shape == (1, 1000)
    for key in ("first_conv", "classifier"):
        assert isinstance(model.get_submodule(model.default_cfg[key]), nn.Conv2d | nn.Linear), key


def test_no_name_shadows_one_of_timm():
    """Asked of a process in which only timm is imported."""
    code = "import sys, timm; print([name for name in sys.argv[1:] if timm.is_model(name)])"
    run = subprocess.run(
        [sys.executable, "-c", code, "resnet50", *halonet.list_models()], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "['resnet50']"


def test_all_are_registered_in_timm():
    assert set(halonet.list_models()) <= set(timm.list_models())
