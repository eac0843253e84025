"""`halonet analyse detectors` and `halonet bench detection`: tables, files, gates and refusals; never a speed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from halonet.analysis.detector_cost import detector_cost
from halonet.analysis.detector_table import figures_of
from halonet.analysis.speed import detector_table as table
from halonet.cli import main
from halonet.detection import create_detector
from halonet.detection.facts import detector_facts

NANO = "maskrcnn_halo_nano_128"
CPU = torch.device("cpu")


def test_costs_of_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "costs.json"
    assert main(["analyse", "detectors", NANO, "--size", "64", "90", "--json", str(out)]) == 0
    (row,) = json.loads(out.read_text())["rows"]
    cost = detector_cost(NANO, image_size=(64, 90))
    assert (row["name"], row["padded_size"]) == (NANO, [64, 96])
    assert row["total"] == vars(cost.total)
    assert row["parts"]["box head"]["multiply_adds"] == cost.parts["box head"].multiply_adds
    printed = capsys.readouterr().out
    assert f"{cost.total.parameters / 1e6:.3f}" in printed
    assert f"{cost.total.multiply_adds / 1e9:.2f}" in printed
    assert "published sizes: none of these rows" in printed


def test_published_sizes_stand_beside_what_gives_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "costs.json"
    assert main(["analyse", "detectors", "retinanet_resnet18_800", "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    figures = {figure["quantity"]: figure for figure in report["published"]}
    assert figures["parameters"]["reproduced"] is True
    assert figures["multiply_adds"]["reproduced"] is False
    assert figures["multiply_adds"]["by_rule"] == pytest.approx(188.743, abs=1e-3)
    assert figures["multiply_adds"]["executed"] == pytest.approx(report["rows"][0]["total"]["multiply_adds"] / 1e9)
    printed = capsys.readouterr().out
    assert printed.count("NOT MET") == 1
    assert "boxes 35.4" in printed
    assert "none of them measured by us" in printed


def test_a_backbone_alone_is_counted_alone() -> None:
    (_, figure) = figures_of(next(fact for fact in detector_facts("maskrcnn_resnet50_1024") if fact.rule))
    assert figure["executed"] == pytest.approx(85.413, abs=1e-3)


def test_no_row_matches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyse", "detectors", "maskrcnn_nothing"]) == 2
    assert "no detector matches 'maskrcnn_nothing'; did you mean" in capsys.readouterr().err


@contextmanager
def _no_meter(device: torch.device) -> Iterator[table.Meter]:
    """Calls once, in this process."""
    yield lambda make: float(bool(make()() is None)) + 1


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of seconds in place of every ResNet-50, and one small map in place of large ones."""

    def nano(name: str, side: int) -> torch.nn.Module:
        torch.manual_seed(0)
        few = {"rpn_post_nms_top_n_test": 10, "detections_per_img": 5, "box_batch_size_per_image": 8}
        return create_detector(NANO, min_size=side, max_size=side, box_score_thresh=0.0, **few)

    monkeypatch.setattr(table, "detector_of", nano)
    monkeypatch.setattr(table, "memory_meter", _no_meter)
    monkeypatch.setattr(table, "MEMORY_SIDES", (128,))
    backbone = table._MAKERS["backbone"]
    monkeypatch.setitem(table._MAKERS, "backbone", lambda name, *rest: backbone(NANO, *rest))


@pytest.mark.usefixtures("small")
def test_the_bench_measures_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "detection.json"
    assert main(f"bench detection --sides 128 --rounds 1 --threads 1 --models {NANO} --json {out}".split()) == 0
    report = json.loads(out.read_text())
    (entry,) = report["entries"]
    assert entry["side"] == 128
    for kind in ("backbone", "inference", "training"):
        assert set(entry[kind]) == {"torchvision", NANO}
        for row in entry[kind].values():
            assert row["images_per_second"] == pytest.approx(1e3 / row["median_ms"])
    assert report["setting"]["batch"] == 1
    assert report["setting"]["torchvision"].startswith("0.")
    assert {call["side"] for call in report["memory"]} == {128}
    assert {call["shape"]["height"] for call in report["memory"]} == {16, 8}, "of the third and fourth stage"
    printed = capsys.readouterr().out
    assert "finds what torchvision's model finds" in printed
    assert "attention computes what the reference does, in" in printed


@pytest.mark.usefixtures("small")
def test_nothing_is_timed_where_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert table.check_parity(64, CPU) == 0
    nano = table.detector_of

    def other(name: str, side: int) -> torch.nn.Module:
        detector = nano(name, side)
        if name == table.SAME:
            torch.nn.init.normal_(detector.roi_heads.box_predictor.cls_score.bias)
        return detector

    monkeypatch.setattr(table, "detector_of", other)
    with pytest.raises(SystemExit, match="nothing is timed"):
        table.check_parity(64, CPU)


def test_calls_of_a_row_at_a_size() -> None:
    """BoT50 at 1024: one map of 64 x 64 pixels and then 32 x 32, seen whole; with blocks of 8 strided first."""
    whole = table.attention_of("maskrcnn_botnet50_1024", 1024)
    assert [(shape.height, shape.is_global, shape.stride) for shape in whole] == [(64, True, 1), (32, True, 1)]
    local = table.attention_of("maskrcnn_resnet50_se8_halo_b32_1024", 1280)
    assert {(shape.height, shape.block_size, shape.halo_size) for shape in local} == {
        (80, (32, 32), (3, 3)),
        (40, (32, 32), (3, 3)),
    }
    assert table.attention_of("maskrcnn_resnet50_1024", 512) == []
    # 4096 queries of as many keys in four heads.
    assert table.estimate(whole[0]) == 16 * 4096**2 * 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--models nothing", "models must be Mask R-CNNs of list_detectors(), got 'nothing'"),
        (
            "--models retinanet_resnet50_800",
            "models must be Mask R-CNNs of list_detectors(), got 'retinanet_resnet50_800'",
        ),
        ("--peers nobody", "peers must be among backbone, inference, training, memory, got 'nobody'"),
        ("--png x.png", "png must be left out for detection, which has no picture"),
    ],
)
def test_what_a_user_got_wrong_is_one_line(arguments: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "detection", *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_torchvisions_own_model_finds_the_same() -> None:
    assert table.check_parity(128, CPU) < 1e-6
