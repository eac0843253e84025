"""`halonet explain`: pictures and a model in, a PNG out, or one line that says why not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import halonet
from halonet.analysis.attention import record_attention
from halonet.analysis.attention.rollout import attention_rollout
from halonet.analysis.explain import explain
from halonet.analysis.subjects import subject_of
from halonet.cli import main
from halonet.detection import create_detector, save_detector
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
def test_whole_pictures_of_pyramids_and_stereo_networks(name: str, photo: Path) -> None:
    """Not cut to a square: the shorter side as asked."""
    shapes = [subject_of(model=name, img_size=side).prepare(photo).shape for side in (None, 80)]
    assert shapes == [(3, 40, 60), (3, 80, 120)]


def test_another_side_keeps_how_pictures_are_resized(tmp_path: Path) -> None:
    """Nearest neighbours of a picture in black and white leave no grey."""
    prepared = {"img_size": "32", "in_chans": "1", "mean": "[0]", "std": "[1]", "crop_pct": "1.0"}
    weights, picture = tmp_path / "w.safetensors", tmp_path / "picture.png"
    model = halonet.create_model("halonet_nano_32", num_classes=3, in_chans=1)
    save_weights(model, weights, metadata={**prepared, "interpolation": '"nearest"'})
    Image.fromarray(255 * np.random.default_rng(0).integers(0, 2, (40, 60), dtype=np.uint8)).save(picture)
    image = subject_of(weights=weights, img_size=20).prepare(picture)
    assert image.shape == (1, 20, 20)
    assert image.unique().tolist() == [0, 1]


def test_all_that_is_written(photo: Path, tmp_path: Path, capsys: Capture) -> None:
    """Files and what is in the NPZ, against the record of the same model and picture."""
    out = tmp_path / "new" / "a.png"
    layers = ["stages.1.1.slot", "stages.0.1.slot"]
    arguments = ["--model", "halonet_nano_32", "--layer", *layers, "--rollout", "--head", "1", "--backend", "sdpa"]
    assert main(["explain", str(photo), *arguments, "--query", "5,9", "8,1", "--out", str(out)]) == 0
    names = ["a.png", "a_statistics.png", "a_rollout.png", "a.npz"]
    assert capsys.readouterr().out.split() == [str(out.parent / name) for name in names]
    assert sorted(path.name for path in out.parent.iterdir()) == sorted(names)
    for name in names[:3]:
        with Image.open(out.parent / name) as picture:
            assert min(picture.size) > 200
    subject = subject_of(model="halonet_nano_32")
    record = record_attention(subject.model, subject.prepare(photo)[None])
    with np.load(out.with_suffix(".npz")) as told:
        assert told["image_size"].tolist() == [32, 32]
        assert told["pixels"].tolist() == [[9, 5], [1, 8]]  # asked as x, y
        assert told["layers"].tolist() == list(record.layers)
        assert told["shown"].tolist() == layers
        assert set(told["mechanisms"].tolist()) == {"halo"}
        for name in layers:
            rows = record.layers[name].at([(9, 5), (1, 8)])
            np.testing.assert_allclose(told[f"weights/{name}"], rows.weights.numpy(), rtol=1e-3, atol=1e-6)
            np.testing.assert_allclose(told[f"outside/{name}"], rows.outside.numpy(), rtol=1e-3, atol=1e-6)
            frames = record.layers[name].frames((9, 5))
            assert frames is not None
            assert told[f"frames/{name}"][0].tolist() == [list(map(list, box)) for box in (frames.block, frames.seen)]
        heads = [layer.num_heads for layer in record.layers.values()]
        assert told["statistics/distance"].shape == (4, max(heads))
        assert (~np.isnan(told["statistics/distance"])).sum(1).tolist() == heads
        assert told["statistics_pixels"].shape == (64, 2)
        assert str(told["rollout_layer"]) == layers[-1]
        expected = attention_rollout(record, [(9, 5), (1, 8)], layer=layers[-1])
        np.testing.assert_allclose(told["rollout"], expected.numpy(), rtol=1e-3, atol=1e-6)


def test_features_of_stereo_networks(photo: Path, tmp_path: Path) -> None:
    arguments = ["--model", "fa_psmnet_nano", "--img-size", "64", "--query", "1,1", "--out", str(tmp_path / "a.png")]
    assert main(["explain", str(photo), *arguments]) == 0
    with np.load(tmp_path / "a.npz") as told:
        assert told["image_size"].tolist() == [64, 96]
        assert set(told["mechanisms"].tolist()) == {"factorized"}


def test_trained_detectors(photo: Path, tmp_path: Path) -> None:
    detector = create_detector("maskrcnn_halo_nano_128", num_classes=3)
    save_detector(detector, tmp_path / "w.safetensors")
    subject = subject_of(weights=tmp_path / "w.safetensors", img_size=64)
    image = subject.prepare(photo)
    assert image.shape == (3, 64, 96)
    record = record_attention(subject.model, image[None], run=subject.run)
    assert all(layer.mechanism == "halo" for layer in record.layers.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["halonet_h0_256", "botnet50_224", "vil_tiny_224", "retinanet_vil_tiny_800"])
def test_a_large_picture(name: str, tmp_path: Path) -> None:
    """2048 x 2048: the attention of one query is as good as a small picture's, and fits a small machine."""
    pixels = np.random.default_rng(0).integers(0, 255, (2048, 2048, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    script = (
        "import resource, sys; from halonet.cli import main; status = main(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024); sys.exit(status)"
    )
    given = [str(tmp_path / "large.png"), "--model", name, "--img-size", "2048", "--query", "900,1200"]
    command = [sys.executable, "-c", script, "explain", *given, "--out", str(tmp_path / "a.png")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout.split()[-1]) < 8192  # MiB
    with np.load(tmp_path / "a.npz") as told:
        for layer in told["shown"].tolist():
            total = sum(told[f"{part}/{layer}"].reshape(1, -1).sum() for part in ("weights", "tokens", "outside"))
            assert total == pytest.approx(told[f"outside/{layer}"].size, rel=1e-3)  # 1 a head


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "expected weights or a model, got neither"),
        (("--model", "halonet_nano_32", "--weights", "w"), "expected weights or a model, got both"),
        (("--model", "halonet_nano_32", "--basis"), "model must run FactorizedAttention"),
        (("--model", "halonet_nan", "--basis"), "unknown model 'halonet_nan'; did you mean"),
        (("--model", "maskrcnn_halo_nan"), "maskrcnn_halo_nano"),
        (("--model", "resnet50_224"), "model must have attention layers"),
        (("--model", "halonet_nano_32", "--layer", "slot"), "layer must be among stages.0.0.slot, stages.0.1.slot"),
        (("--model", "halonet_nano_32", "--head", "9"), "head must be from 0 to"),
        (("--model", "halonet_nano_32", "--head", "-1"), "expected an int of at least 0, got '-1'"),
        (("--model", "halonet_nano_32", "--backend", "fast"), "backend must be one of auto"),
        (("--model", "halonet_nano_32", "--basis", "--query", "1,1"), "queries, rollout and head are of attention"),
        (("--model", "fa_psmnet_nano", "--basis", "--layer", "a", "b"), "expected one layer for basis masks, got 2"),
        (
            ("--model", "halonet_nano_32", "--out", "a.npz"),
            "--out: expected a file that ends in .png or .svg, got 'a.npz'",
        ),
        (("--model", "halonet_nano_32", "--query", "3"), "expected X,Y in pixels, got '3'"),
        (
            ("--model", "halonet_nano_32", "--query", "3,99"),
            "queries (x,y) must lie inside the picture as the model reads it, 32 wide and 32 high, got 3,99",
        ),
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


def test_the_image_is_not_written_over(photo: Path, capsys: Capture) -> None:
    before = photo.read_bytes()
    assert main(["explain", str(photo), "--model", "halonet_nano_32", "--out", str(photo)]) == 2
    assert "out must be another file than the image" in capsys.readouterr().err
    assert photo.read_bytes() == before


def test_random_weights_are_the_same_and_leave_torchs_numbers_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, second = (subject_of(model="halonet_nano_32").model.state_dict() for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[name], tensor) for name, tensor in second.items())


def test_numbers_do_not_take_the_name_of_the_picture(photo: Path) -> None:
    with pytest.raises(ValueError, match=r"out must be the name of the picture, got a\.npz"):
        explain([photo], Path("a.npz"), model="halonet_nano_32")
