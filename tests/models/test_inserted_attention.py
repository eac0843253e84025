"""Attention between the blocks of any residual network and after the levels of a pyramid, by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import halonet
from halonet.analysis import count_costs
from halonet.layers import FactorizedAttention, NonLocal, WholeMapAttention
from halonet.models import create_pyramid, init_from_resnet, list_pyramids
from halonet.models.checkpoints import load_model, save_weights
from halonet.models.inserted_attention import place_names, residual_places
from halonet.models.pyramid import PYRAMIDS

DEPTHS = (3, 4, 6, 3)


def attention_of(model: nn.Module) -> dict[str, WholeMapAttention]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, WholeMapAttention)}


@pytest.mark.parametrize(
    ("names", "places"),
    [
        ("res3", [(2, 6)]),
        ("res3,res4", [(2, 6), (3, 3)]),
        (["res1.2", " res2.4"], [(0, 2), (1, 4)]),
        ("res_all", [(0, 3), (1, 4), (2, 6), (3, 3)]),
        ("", []),
    ],
)
def test_places_by_name(names: Any, places: list[tuple[int, int]]) -> None:
    assert residual_places(place_names(names), DEPTHS) == places


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("res5", "attention_at must name res1 to res4, res1.1 to res4.3 or res_all, got 'res5'"),
        ("layer3", "attention_at must name .*, got 'layer3'"),
        ("res2.5", "attention_at: res2 has 4 blocks, got 'res2.5'"),
        ("res2,res2.4", "attention_at names a place twice: res2, res2.4"),
    ],
)
def test_places_that_there_are_not_are_told(names: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        halonet.create_model("resnet50_224", attention_at=names)


@pytest.mark.parametrize(("attention", "layer_class"), [("factorized", FactorizedAttention), ("nonlocal", NonLocal)])
def test_inserted_after_the_named_blocks(attention: str, layer_class: type) -> None:
    with torch.device("meta"):
        model = halonet.create_model("resnet50_224", attention_at="res3,res1.2", attention=attention, basis=32)
    found = attention_of(model)
    assert list(found) == ["stages.0.attention_after_2", "stages.2.attention_after_6"]
    assert all(type(layer) is layer_class and layer.channels == 32 for layer in found.values())
    assert [name for name, _ in model.stages[0].named_children()] == ["0", "1", "attention_after_2", "2"]  # type: ignore[index, union-attr]
    assert [layer.dim for layer in found.values()] == [256, 1024]


@pytest.mark.parametrize(
    "name", ["halonet_nano_32", "botnet_s1_nano_32", "halonet_h0_256", "resnext50_32x4d_224", "senet50_160"]
)
@torch.no_grad()
def test_any_residual_network_begins_as_it_was(name: str) -> None:
    torch.manual_seed(0)
    plain = halonet.create_model(name, num_classes=5).eval()
    inserted = halonet.create_model(name, num_classes=5, attention_at="res_all", basis=8).eval()
    report = inserted.load_state_dict(plain.state_dict(), strict=False)
    assert report.missing_keys
    assert all("attention_after_" in key for key in report.missing_keys)
    image = torch.randn(1, 3, 40, 33)
    expected = plain.forward_features(image)
    torch.testing.assert_close(inserted.forward_features(image), expected)
    for layer in attention_of(inserted).values():
        nn.init.normal_(layer.output.weight)  # type: ignore[arg-type]
    assert (inserted.forward_features(image) - expected).abs().max() > 1e-3


def test_a_trained_resnet_takes_it_in() -> None:
    resnet = torchvision.models.resnext50_32x4d()
    model = halonet.create_model("resnext50_32x4d_224", attention_at="res3", drop_path_rate=0.1)
    report = init_from_resnet(model, resnet.state_dict())
    assert report.fresh
    assert all(name.startswith("stages.2.attention_after_6.") for name in report.fresh)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(image), resnet.eval()(image), rtol=1e-4, atol=1e-4)


def test_weights_come_back(tmp_path: Any) -> None:
    model = halonet.create_model("halonet_nano_32", attention_at=["res2"], basis=8, attention_form="dot")
    path = tmp_path / "weights.safetensors"
    save_weights(model, path)
    again, _ = load_model(path)
    assert list(attention_of(again)) == ["stages.1.attention_after_2"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


@pytest.mark.parametrize("attention", ["factorized", "nonlocal"])
@pytest.mark.parametrize("heads", [1, 4])
def test_multiply_adds_are_what_torch_counts(attention: str, heads: int) -> None:
    options = {"attention": attention, "attention_form": "multi", "attention_heads": heads, "basis": 16}
    model = halonet.create_model("resnet50_224", attention_at="res4", **options).eval()
    for layer in attention_of(model).values():
        if isinstance(layer, NonLocal):
            layer.backend = "materialized"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, 96, 64))
    assert 2 * count_costs(model, input_size=(3, 96, 64)).total().multiply_adds == counter.get_total_flops()


@pytest.mark.parametrize("name", list_pyramids())
def test_every_pyramid_has_the_sizes_of_table_1(name: str) -> None:
    """On images of 896 x 1280; attention where the name says."""
    with torch.device("meta"):
        model, image = create_pyramid(name).eval(), torch.empty(1, 3, 896, 1280)
    levels = model(image)
    sizes = [(224, 320), (112, 160), (56, 80), (28, 40), (14, 20)]
    assert {level: tuple(map_.shape) for level, map_ in levels.items()} == {
        f"fpn{number}": (1, 256, *size) for number, size in enumerate(sizes, start=1)
    }
    places = {place for place in model.config.attention_at if not place.startswith("fpn")}
    assert len(attention_of(model)) == len(model.config.levels) + len(places)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet50_fpn", {}),
        ("resnet50_fpn_fa_res3", {"backbone.stages_2.attention_after_6": 1024}),
        ("resnet50_fpn_fa_fpn1", {"attention.fpn1": 256}),
        ("resnet50_fpn_nl_res3", {"backbone.stages_2.attention_after_6": 1024}),
        (
            "resnet101_fpn_fa_fpn_all_res34",
            {
                "backbone.stages_2.attention_after_23": 1024,
                "backbone.stages_3.attention_after_3": 2048,
                **{f"attention.fpn{level}": 256 for level in range(1, 6)},
            },
        ),
    ],
)
def test_where_a_pyramid_attends(name: str, expected: dict[str, int]) -> None:
    with torch.device("meta"):
        model = create_pyramid(name)
    assert {place: layer.dim for place, layer in attention_of(model).items()} == expected
    assert all(isinstance(layer, NonLocal) is ("_nl_" in name) for layer in attention_of(model).values())


def test_table_2_and_3_vary_basis_and_heads() -> None:
    best = "resnet50_fpn_fa_fpn_all_res34"
    assert {PYRAMIDS[f"{best}{suffix}"].basis for suffix in ("_b32", "", "_b128")} == {32, 64, 128}
    assert {PYRAMIDS[f"{best}_h{heads}"].attention_heads for heads in (2, 4, 8)} == {2, 4, 8}
    with torch.device("meta"):
        layers = attention_of(create_pyramid(f"{best}_h8")).values()
    assert all(layer.num_heads == 8 and layer.form == "multi" for layer in layers)


@torch.no_grad()
def test_a_pyramid_begins_as_the_one_without_attention_and_takes_any_size() -> None:
    torch.manual_seed(0)
    plain = create_pyramid("resnet50_fpn").eval()
    inserted = create_pyramid("resnet50_224", attention_at="fpn_all,res3,res4", attention="nonlocal", basis=16).eval()
    assert all(isinstance(layer, NonLocal) for layer in attention_of(inserted).values())
    inserted.load_state_dict(plain.state_dict(), strict=False)
    image = torch.randn(1, 3, 70, 91)
    for one, other in zip(inserted(image).values(), plain(image).values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention_at": "fpn6"}, "attention_at must name fpn1 to fpn5, fpn_all or res..., got 'fpn6'"),
        ({"attention_at": "fpn1,fpn_all"}, "attention_at names a level twice: fpn1, fpn_all"),
        ({"attention_at": "p3"}, "attention_at must name res1 to res4, .*, got 'p3'"),
        ({"chanels": 3}, "unknown pyramid option 'chanels'; did you mean channels"),
        ({"attention": "global"}, "attention must be one of factorized, nonlocal, got 'global'"),
        ({"basis": 0}, "basis must be a positive int, got 0"),
        ({"attention_form": "multi", "attention_heads": 3, "attention_at": "fpn1"}, "channels must be a multiple"),
    ],
)
def test_pyramid_options_that_do_not_fit_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_pyramid("resnet50_fpn", **options)


def test_a_backbone_that_is_none_is_told() -> None:
    with pytest.raises(ValueError, match="unknown model 'resnet5'"):
        create_pyramid("resnet5")
    with pytest.raises(ValueError, match="backbone must be a residual model of four stages, got 'vil_small_224'"):
        create_pyramid("vil_small_224")
