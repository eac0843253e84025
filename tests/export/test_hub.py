"""Folders of the Hugging Face Hub: what is written is what comes back, here and in timm; the card tells what is so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from huggingface_hub import ModelCard
from torch import nn

import halonet
from benchmarks.export_parity import wake
from halonet.cli import main
from halonet.models import hub
from halonet.models.checkpoints import read_weights, save_weights
from halonet.models.model_card import published_scores
from halonet.models.psmnet import PSMNet
from halonet.models.residual import ResidualNet
from halonet.models.vit import MultiScaleVit
from tests.training.conftest import error_line

Capture = pytest.CaptureFixture[str]
METADATA = {
    "class_names": json.dumps(["cup", "cat"]),
    "mean": "[0.3]",
    "std": "[0.2]",
    "img_size": "16",
    "in_chans": "1",
    "crop_pct": "0.9",
}
METRICS = {
    "model": "halonet_nano_32",
    "data": "two things",
    "images": {"train": 70, "val": 10, "test": 20},
    "test": {"loss": 0.5, "accuracy": 0.875},
    "test_is_val": False,
    "epoch": 3,
    "epochs": 4,
    "training_seconds": 12.5,
    "device": "cpu (x86_64)",
    "threads": 1,
    "python": "3.11.7",
    "torch": "2.15.0",
    "halonet": "0.1.0",
}


def model() -> nn.Module:
    torch.manual_seed(0)
    return wake(halonet.create_model("halonet_nano_32", num_classes=2, in_chans=1, img_size=16, depth=1))


def contents(folder: Path) -> dict[str, object]:
    """Of each file what it says; a safetensors file has its metadata in no fixed order."""
    return {
        file.name: (
            (read_weights(file)[1], {name: tensor.tolist() for name, tensor in read_weights(file)[0].items()})
            if file.suffix == ".safetensors"
            else file.read_text()
        )
        for file in folder.iterdir()
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a run leaves it, as far as an export reads it."""
    folder = tmp_path_factory.mktemp("run")
    save_weights(model(), folder / "weights.safetensors", metadata=METADATA)
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    settings = {
        "model": {"name": "halonet_nano_32"},
        "data": {"root": "/mnt/somewhere/pictures"},
        "out": "/mnt/somewhere/runs",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump({**settings, "trainer": {"limit_test_batches": 2}}))
    return folder


@pytest.fixture(scope="module")
def folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `halonet export --format hub` made of it."""
    out = tmp_path_factory.mktemp("hub") / "mine"
    assert main(["export", str(run), "--format", "hub", "--out", str(out), "--license", "mit"]) == 0
    return out


def test_comes_back_the_same(folder: Path) -> None:
    images = torch.randn(3, 1, 16, 16)
    expected = model()(images)
    loaded = (
        halonet.from_pretrained(folder),
        ResidualNet.from_pretrained(folder),
        timm.create_model(f"local-dir:{folder}", pretrained=True).eval(),
    )
    for again in loaded:
        assert isinstance(again, ResidualNet)
        assert not again.training
        assert torch.equal(again(images), expected)
    assert loaded[0].weights_metadata == METADATA
    assert loaded[2].pretrained_cfg["label_names"] == ["cup", "cat"]
    assert (loaded[2].pretrained_cfg["mean"], loaded[2].pretrained_cfg["crop_pct"]) == ([0.3], 0.9)


def test_saved_again_nothing_is_lost(folder: Path, tmp_path: Path) -> None:
    halonet.from_pretrained(folder).save_pretrained(tmp_path)
    assert contents(tmp_path) == {**contents(folder), "README.md": contents(tmp_path)["README.md"]}


def test_other_classes_and_another_class(folder: Path) -> None:
    assert halonet.from_pretrained(folder, num_classes=5)(torch.randn(2, 1, 16, 16)).shape == (2, 5)
    with pytest.raises(ValueError, match="holds a ResidualNet, not a MultiScaleVit"):
        MultiScaleVit.from_pretrained(folder)


def test_stereo_networks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    saved = halonet.create_model("fa_psmnet_nano", max_disparity=16).eval()
    saved.save_pretrained(tmp_path)
    again = PSMNet.from_pretrained(tmp_path)
    for one, other in zip(saved.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert again.config == saved.config
    assert "stereo-matching" in ModelCard.load(tmp_path / "README.md").data.tags


def test_the_card(folder: Path) -> None:
    card = ModelCard.load(folder / "README.md")
    assert (card.data.library_name, card.data.license, card.data.datasets) == ("halonet", "mit", ["two-things"])
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == (
        "accuracy",
        0.875,
        "two things, test part",
    )
    for told in (
        "tells 2 classes apart: cup, cat",
        "| accuracy | 0.875 |",
        "device cpu (x86_64), threads 1, python 3.11.7, torch 2.15.0",
        "70 train, 10 val, 20 test",
        "Of that part 2 batches alone was used",
        '"root": "pictures"',
    ):
        assert told in card.text
    assert "somewhere" not in card.text


def test_published_figures_are_told_as_not_reproduced(tmp_path: Path) -> None:
    with torch.device("meta"):
        text = halonet.create_model("halonet_h0_256").generate_model_card().text
    section = text.split("## Published, not reproduced")[1].split("##")[0]
    assert "5.5 million parameters (HaloNet, Table A2)" in section
    assert "Reproduced by us: no" in section
    assert "Nothing is known of a training" in text
    assert published_scores("halonet_nano_32") == []


def test_pushed_by_the_hubs_own_means(run: Path, tmp_path: Path, capsys: Capture, monkeypatch: Any) -> None:
    sent: dict[str, Any] = {}

    class Api:
        def __init__(self, token: str | None = None) -> None:
            pass

        def create_repo(self, *, repo_id: str, **options: Any) -> Any:
            return type("Repo", (), {"repo_id": repo_id})

        def upload_folder(self, *, repo_id: str, folder_path: Path, **options: Any) -> str:
            sent["files"] = contents(folder_path)
            return f"sent to {repo_id}"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    out = tmp_path / "mine"
    assert main(["export", str(run), "--format", "hub", "--out", str(out), "--push", "me/mine"]) == 0
    assert capsys.readouterr().out.splitlines() == [str(out), "sent to me/mine"]
    assert sent["files"] == contents(out)
    assert 'halonet.from_pretrained("me/mine")' in sent["files"]["README.md"]


def test_fetched_by_name(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def fetch(name: str, file: str, **options: Any) -> str:
        asked.update(options, name=name, file=file)
        return str(shutil.copy(folder / file, tmp_path))

    monkeypatch.setattr(hub, "hf_hub_download", fetch)
    again = halonet.from_pretrained("me/mine", revision="v1", local_files_only=True)
    assert isinstance(again, ResidualNet)
    assert (asked["name"], asked["file"], asked["revision"]) == ("me/mine", "model.safetensors", "v1")
    assert asked["local_files_only"] is True


def test_mistakes(run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> str:
        raise OSError("no connection\nand more lines")

    monkeypatch.setattr(hub, "hf_hub_download", unreachable)
    with pytest.raises(ValueError, match=r"me/mine is no folder, and the Hub does not give it: no connection$"):
        halonet.from_pretrained("me/mine")
    with pytest.raises(ValueError, match="no weights file at"):
        halonet.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="knows what built it"):
        ResidualNet(model().config).save_pretrained(tmp_path / "x")
    file = tmp_path / "file"
    file.touch()
    assert "expected a folder to write" in error_line(capsys, "export", run, "--format", "hub", "--out", file)
