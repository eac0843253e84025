"""Basis masks of models, which of them are shown, and the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import halonet
from halonet.analysis.basis_masks import basis_masks, most_different, plot_basis
from halonet.layers import FactorizedAttention


def model_with(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return halonet.create_model("halonet_nano_32", num_classes=4, attention_at="res1,res2", basis=6, **options)


def test_masks_are_the_layers_own() -> None:
    """In evaluation mode, of what each layer reads."""
    model = model_with()
    images = torch.randn(2, 3, 32, 48)
    read: dict[str, Tensor] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, FactorizedAttention):
            layer.register_forward_pre_hook(lambda _, inputs, name=name: read.update({name: inputs[0]}))
    masks = basis_masks(model.train(), images)
    assert list(masks) == ["stages.0.attention_after_2", "stages.1.attention_after_2"]
    for name, seen in masks.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, FactorizedAttention)
        torch.testing.assert_close(seen, layer.basis_masks(read[name]).flatten(1, 2))
        assert seen.shape == (2, 6, *read[name].shape[2:])
        torch.testing.assert_close(seen.sum((2, 3)), torch.ones(2, 6))
    assert model.training
    assert not any(seen.requires_grad for seen in masks.values())


def test_a_stereo_networks_features_are_run() -> None:
    model = halonet.create_model("fa_psmnet_nano")
    masks = basis_masks(model, torch.randn(1, 3, 32, 64), run=model.features)  # type: ignore[arg-type]
    assert {name: tuple(seen.shape) for name, seen in masks.items()} == {"feature_network.attention": (1, 32, 8, 16)}


def test_heads_come_one_after_the_other() -> None:
    layer = FactorizedAttention(8, form="multi", channels=6, num_heads=2)
    x = torch.randn(1, 8, 4, 5)
    masks = basis_masks(nn.Sequential(layer), x)["0"]
    torch.testing.assert_close(masks[:, 3:], layer.basis_masks(x)[:, 1])


def test_the_most_different_by_hand() -> None:
    """Of four masks over four pixels: a point is least even; the point farthest from it and from even is next."""
    even = [0.25, 0.25, 0.25, 0.25]
    masks = torch.tensor([even, [1.0, 0, 0, 0], [0.9, 0.1, 0, 0], [0, 0, 0.2, 0.8]]).view(4, 2, 2)
    assert most_different([masks], 2) == [1, 3]
    assert most_different([masks], 3) == [1, 3, 2]
    assert sorted(most_different([masks], 9)) == [0, 1, 2, 3]
    assert most_different([masks, masks.flip(2)], 2) == [1, 3]
    negative = torch.cat([masks, -masks[1:2]])
    assert most_different([negative], 2) == [1, 3]  # -m is m with the sign in the coefficients


@pytest.mark.parametrize("options", [{}, {"attention_kind": "dot"}, {"attention_form": "multi", "attention_heads": 2}])
def test_the_picture_is_drawn(options: dict[str, Any], tmp_path: Path) -> None:
    model, path = model_with(**options), tmp_path / "basis.png"
    images = [torch.rand(3, 32, 32), torch.rand(3, 40, 60)]
    plot_basis(model, images, path, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    with Image.open(path) as picture:
        assert min(picture.size) > 300
    assert [file.name for file in tmp_path.iterdir()] == ["basis.png"]


def test_a_row_an_image_and_a_column_a_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("halonet.analysis.basis_masks.save_figure", lambda figure, path: drawn.append(figure))
    model = model_with(attention_form="multi", attention_heads=2)
    plot_basis(model, torch.rand(2, 3, 32, 32), tmp_path / "x.png", masks=4)
    titles = [axis.get_title() for axis in drawn[0].axes if axis.get_title()]
    assert titles[0] == "image"
    assert len(titles) == 5
    assert all(title.startswith("head ") for title in titles[1:])
    assert "stages.0.attention_after_2" in drawn[0].get_suptitle()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: basis_masks(m, torch.zeros(3, 8, 8)), r"images must be \(B, C, H, W\)"),
        (lambda m: basis_masks(nn.Conv2d(3, 3, 1), torch.zeros(1, 3, 8, 8)), "model must run FactorizedAttention"),
        (lambda m: plot_basis(m, torch.rand(1, 3, 32, 32), "x.png", layer="res1"), "layer must be one of stages.0"),
        (lambda m: plot_basis(m, torch.rand(1, 3, 32, 32), "x.png", masks=0), "masks must be a positive int, got 0"),
        (lambda m: plot_basis(m, [], "x.png"), "images must hold at least one"),
        (lambda m: plot_basis(m, [torch.rand(2, 3, 3, 3)], "x.png"), r"images\[0\] must be \(C, H, W\)"),
        (
            lambda m: plot_basis(m, torch.rand(1, 3, 32, 32), "x.png", mean=(0.5,)),
            "mean and std must be given together",
        ),
    ],
)
def test_what_does_not_fit_is_told(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(model_with())
