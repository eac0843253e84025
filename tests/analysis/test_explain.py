"""`halonet explain`: pictures and a model in, a PNG out, or one line that says why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import halonet
from halonet.analysis import explain as explaining
from halonet.cli import main
from halonet.models.checkpoints import save_weights

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_basis_masks_of_trained_weights(photo: Path, tmp_path: Path, capsys: Capture) -> None:
    model = halonet.create_model("halonet_nano_32", num_classes=3, attention_at="res1", basis=4)
    prepared = {
        "img_size": "32",
        "in_chans": "3",
        "mean": "[0.5, 0.5, 0.5]",
        "std": "[0.2, 0.2, 0.2]",
        "crop_pct": "1.0",
    }
    save_weights(model, tmp_path / "w.safetensors", metadata=prepared)
    out = tmp_path / "basis.png"
    arguments = [
        "explain",
        photo,
        photo,
        "--basis",
        "--masks",
        2,
        "--weights",
        tmp_path / "w.safetensors",
        "--out",
        out,
    ]
    assert main([str(argument) for argument in arguments]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    with Image.open(out) as picture:
        assert min(picture.size) > 200


@pytest.mark.parametrize("name", ["resnet50_fpn_fa_res3", "fa_psmnet_nano"])
def test_whole_pictures_of_pyramids_and_stereo_networks(
    name: str, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not cut to a square: the shorter side as asked."""
    seen: list[torch.Size] = []

    def note(model: object, images: list[torch.Tensor], *arguments: object, **options: object) -> None:
        seen.extend(image.shape for image in images)

    monkeypatch.setattr(explaining, "plot_basis", note)
    explaining.explain([photo], tmp_path / "x.png", model=name, basis=True)
    explaining.explain([photo], tmp_path / "x.png", model=name, basis=True, img_size=80)
    assert seen == [(3, 40, 60), (3, 80, 120)]


def test_queries_are_x_and_y(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(explaining, "plot_attention", lambda model, image, queries, *_, **__: asked.append(queries))
    arguments = ["explain", photo, "--model", "halonet_nano_32", "--query", "3,20", "8,1", "--out", tmp_path / "x.png"]
    assert main([str(argument) for argument in arguments]) == 0
    assert asked == [[(20, 3), (1, 8)]]


def test_attention_of_chosen_pixels_is_drawn(photo: Path, tmp_path: Path) -> None:
    assert main(["explain", str(photo), "--model", "halonet_nano_32", "--out", str(tmp_path / "a.png")]) == 0
    with Image.open(tmp_path / "a.png") as picture:
        assert min(picture.size) > 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "expected weights or a model, got neither"),
        (("--model", "halonet_nano_32", "--weights", "w"), "expected weights or a model, got both"),
        (("--model", "halonet_nano_32", "--basis"), "model must run FactorizedAttention"),
        (("--model", "halonet_nan", "--basis"), "unknown model 'halonet_nan'; did you mean"),
        (("--model", "fa_psmnet_nano"), "attention of queries is drawn of models that classify"),
        (("--model", "halonet_nano_32", "--query", "3"), "expected X,Y in pixels, got '3'"),
        (("--model", "halonet_nano_32", "--query", "3,99"), "queries must lie inside the image"),
        (("--model", "fa_psmnet_nano", "--basis", "--layer", "res3"), "layer must be one of feature_network.attention"),
    ],
)
def test_what_cannot_be_drawn_is_told(options: tuple[str, ...], message: str, photo: Path, capsys: Capture) -> None:
    assert main(["explain", str(photo), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_queries_want_one_picture(photo: Path, capsys: Capture) -> None:
    assert main(["explain", str(photo), str(photo), "--model", "halonet_nano_32"]) == 2
    assert "expected one image where queries attend, got 2" in capsys.readouterr().err
