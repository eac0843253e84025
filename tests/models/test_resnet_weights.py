"""Networks begun from a ResNet of torchvision or timm: the same numbers, and a report of what loaded."""

import pytest
import timm
import torch
import torchvision
from torch import nn

import halonet
from halonet.models import init_from_resnet
from halonet.models.resnet_weights import our_name


def randomized(model):
    """In float64, with norms that differ from block to block, as trained ones do."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.double().eval()


@pytest.fixture(scope="module")
def resnet50():
    return randomized(torchvision.models.resnet50())


@torch.no_grad()
def test_a_resnet_of_torchvision(resnet50):
    ours = halonet.create_model("resnet50_224").double().eval()
    report = init_from_resnet(ours, resnet50.state_dict())
    assert not report.fresh
    assert not report.unused
    x = torch.randn(2, 3, 70, 50, dtype=torch.float64)
    torch.testing.assert_close(ours(x), resnet50(x))


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "ours", "options"),
    [("resnet50", "resnet50_224", {}), ("seresnet50", "senet50_224", {"activation": "relu"})],
)
def test_resnets_of_timm(name, ours, options):
    theirs = randomized(timm.create_model(name))
    ours = halonet.create_model(ours, **options).double().eval()
    assert not init_from_resnet(ours, theirs.state_dict()).fresh
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (96, 70)])
def test_botnet_is_a_resnet_with_its_last_three_convolutions_swapped(resnet50, size):
    ours = halonet.create_model("botnet50_224").double().eval()
    report = init_from_resnet(ours, resnet50.state_dict())
    layers = [f"stages.3.{block}.slot." for block in range(3)]
    tables = ["height_table", "width_table"]
    assert sorted(report.fresh) == sorted(
        f"{layer}{name}" for layer in layers for name in ["query.weight", "key_value.weight", *tables]
    )
    assert report.unused == [f"layer4.{block}.conv2.weight" for block in range(3)]
    assert str(report) == "317 loaded, 12 fresh, 3 of the ResNet unused"
    theirs = torchvision.models.resnet50().double().eval()
    theirs.load_state_dict(resnet50.state_dict())
    for number, block in enumerate(theirs.layer4):
        block.conv2 = ours.stages[3][number].slot
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))


def test_inserted_blocks_stay_fresh(resnet50):
    model = halonet.create_model("resnet50_nonlocal_c4_1024").double().eval()
    report = init_from_resnet(model, resnet50.state_dict())
    assert report.fresh
    assert all(name.startswith("stages.2.nonlocal_after_5.") for name in report.fresh)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():  # a non-local block begins as the identity
        torch.testing.assert_close(model(x), resnet50(x))


def test_another_classifier_stays_fresh(resnet50):
    report = init_from_resnet(halonet.create_model("resnet50_224", num_classes=5), resnet50.state_dict())
    assert report.fresh == ["head.fc.weight", "head.fc.bias"]


@pytest.mark.parametrize("form", ["safetensors", "pth", "wrapped.pth"])
def test_files(form, tmp_path):
    from safetensors.torch import save_file

    state = torchvision.models.resnet50().state_dict()
    path = tmp_path / f"resnet.{form}"
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state} if form.startswith("wrapped") else state, path)
    model = halonet.create_model("resnet50_224")
    assert not init_from_resnet(model, path).fresh
    assert torch.equal(model.stem.conv.conv.weight, state["conv1.weight"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no weights file at"),
        (b"PK nonsense", "is not a readable file of weights"),
        ([1, 2], "must hold a state dict of tensors, got list"),
    ],
)
def test_files_that_are_none(content, said, tmp_path):
    path = tmp_path / "resnet.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=said):
        init_from_resnet(halonet.create_model("halonet_nano_32"), path)


def test_a_resnet_of_other_depths():
    model = halonet.create_model("resnet50_224")
    with pytest.raises(ValueError, match=r"got none for .*stages\.0\.0\.reduce\.conv\.weight.*, and \d+ more"):
        init_from_resnet(model, torchvision.models.resnet18().state_dict())


def test_names():
    assert our_name("layer3.5.bn2.running_var") == "stages.2.5.slot_norm.norm.running_var"
    assert our_name("fc.bias") == "head.fc.bias"
    assert our_name("layer1.0.downsample.1.weight") == "stages.0.0.shortcut.norm.weight"
    assert our_name("something.else") == "something.else"
