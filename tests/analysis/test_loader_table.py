"""`halonet bench loader`: the same images in every form, files and figures; never a speed."""

import json
from pathlib import Path

import pytest

from halonet.analysis.speed import loader_table
from halonet.cli import main
from halonet.data.images import decode_image


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    original = loader_table.generated
    monkeypatch.setattr(loader_table, "generated", lambda: original(10, size=(40, 30)))
    monkeypatch.setattr(loader_table, "SHARD", 4)


def test_every_peer_loads_the_same_images(tmp_path: Path) -> None:
    images = loader_table.generated(6, size=(40, 30))
    loader_table.write_forms(images, tmp_path)
    for peer in loader_table.PEERS:
        batches = list(loader_table.make(peer, tmp_path, magnitude=0, workers=0, batch=2))
        assert sorted(int(label) for _, labels in batches for label in labels) == list(range(6)), peer
        assert {tuple(pixels.shape) for pixels, _ in batches} == {(2, 3, 224, 224)}
        assert all(abs(float(pixels.mean())) < 2 for pixels, _ in batches), "normalized"


@pytest.mark.usefixtures("few")
def test_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"bench loader --rounds 1 --workers 0 --batch 4 --json {tmp_path}/out.json".split()) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert "10 generated" in report["setting"]["images"]
    for name in ("plain", "randaugment"):
        assert set(report[name]) == set(loader_table.PEERS)
        for row in report[name].values():
            assert row["images_per_second"] == pytest.approx(8 / row["median_ms"] * 1e3)
    assert "times as fast as timm" in capsys.readouterr().out


def test_images_of_a_set(tmp_path: Path) -> None:
    """At most so many, evenly from all classes."""
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number, (_, file) in enumerate(loader_table.generated(5, size=(20, 10))):
            (tmp_path / "train" / name / f"{number}.jpg").write_bytes(file)
    images = loader_table.taken(tmp_path, 4)
    assert [name for name, _ in images] == ["n00000000"] * 2 + ["n00000001"] * 2
    assert decode_image(images[0][1], name="", in_chans=3).size == (20, 10)
