"""`halonet plot pareto`: fronts by hand, points as the papers print them, measured times from files, labels apart."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest

from halonet.analysis.pareto import AXES, MEASURED, front, pareto
from halonet.analysis.pareto_figures import FIGURES
from halonet.analysis.pareto_plot import draw, look_of
from halonet.cli import main

SETTING = {"device": "CPU", "threads": 1, "dtype": "float32", "batch": 2, "compiled": "False", "versions": "torch 2"}


def test_a_front_by_hand() -> None:
    #         0        1        2        3        4        5
    points = [(3, 80), (1, 70), (2, 69), (4, 80), (3, 80), (0.5, 60)]
    assert front(points) == [5, 1, 0, 4]  # 2 and 3 are beaten by 1 and 0; 0 and 4 are equal
    assert front([]) == []
    assert front([(1, 5), (1, 6)]) == [1]


def points_of(figure: str, **options) -> dict[str, tuple[float, float]]:
    return {point.label: (point.x, point.y) for point in pareto(figure, **options).points}


def test_botnets_figures_are_table_14() -> None:
    whole = pareto("botnet_figure9")
    points = points_of("botnet_figure9")
    assert len(whole.points) == 25
    assert points["T7"] == (804.5, 84.7)
    assert points["S0"] == (32.3, 77.0)
    assert "S5" not in points
    assert any(left.startswith("S5: ") for left in whole.left_out)
    assert points_of("botnet_figure9", axis="multiply_adds")["S5"][0] == pytest.approx(76.202, abs=0.001)
    assert set(points_of("botnet_figure8")) == {
        *("B4", "B5", "B6", "B7", "B7-RA"),
        *("S1", "S2", "S3", "S4"),
        *("T4", "T5", "T6", "T7", "T7-320"),
    }
    assert max(y for _, y in points_of("botnet_figure7").values()) == 83.6
    # "BoTNets T3 and T4 do not outperform SENets, while T5 does perform better than S4" (section 4.8.6): T5 is quicker
    best = {point.label for point in whole.points if point.on_overall_front}
    assert {"S3", "S4", "T5", "T6", "T7"} <= best
    assert not {"T3", "T4", "B4", "B5", "B6", "B7", "B7-RA"} & best


def test_halonets_figures() -> None:
    result = pareto("halonet_figure4")
    assert [(mark.label, mark.y) for mark in result.marks] == [(f"H{index}", None) for index in range(7)]
    assert result.marks[0].x == pytest.approx(5.48, abs=0.01)
    points = points_of("halonet_figure4")
    assert points["H7"][0] == pytest.approx(67.39, abs=0.01)
    assert points["H7"][1] == 84.9
    assert points["B0"] == (5.3, 77.1)
    times = points_of("halonet_figure8")
    assert times["B0"] == (pytest.approx(35.6 / 1478.4), 77.1)
    assert times["H7 C12"] == (1.0, 84.7)
    assert times["B7-RA"] == (1.0, 84.7)
    on_front = {point.label for point in pareto("halonet_figure8").points if point.on_overall_front}
    assert {"H7", "H7 C12", "B7-RA"} <= on_front  # equal ones both


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_has_points_of_every_family(figure: str) -> None:
    result = pareto(figure)
    assert {point.family for point in result.points} == {group.family for group in FIGURES[figure].groups}
    assert all(point.x is not None and point.y is not None and point.source for point in result.points)
    assert all(look_of(point.family)[0] != "#000000" for point in result.points)


def report(folder: Path, name: str, rows: dict[str, float], **setting) -> Path:
    path = folder / f"{name}.json"
    told = {model: {"median_ms": median} for model, median in rows.items()}
    path.write_text(json.dumps({"setting": {**SETTING, **setting}, "inference": told}))
    return path


def test_measured_times_of_files(tmp_path: Path) -> None:
    first = report(tmp_path, "first", {"halonet_h7_600": 3000.0, "efficientnet_b7@600": 1000.0})
    second = report(tmp_path, "second", {"halonet_h0_256@256": 100.0})
    result = pareto("halonet_figure8", axis="speed", speed=[first, second])
    assert {point.label: point.x for point in result.points} == {"H7": 1500.0, "B7": 500.0, "B7-RA": 500.0}
    assert [(mark.label, mark.x) for mark in result.marks] == [("H0", 50.0)]
    assert "H7 C12: not measured" in result.left_out
    beside = pareto("vil_table4", axis="speed", speed=[first]).left_out
    assert "PVT-Tiny: not measured, timm has it not" in beside
    assert "X101-64x4d: not measured" in beside
    assert result.setting is not None
    assert result.setting["threads"] == 1


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"figure: expected one of zoo, .*, got 'halonet_figur4'; did you mean hal"):
        pareto("halonet_figur4")
    with pytest.raises(ValueError, match=r"x: expected one of parameters, .*, got 'params'"):
        pareto(axis="params")
    with pytest.raises(ValueError, match="expected a file of `halonet bench model --json` for x speed, got none"):
        pareto(axis="speed")
    one, two = report(tmp_path, "one", {"vil_tiny_224": 1.0}), report(tmp_path, "two", {}, threads=2)
    with pytest.raises(ValueError, match=r"measured alike, got .*two.json with another threads"):
        pareto(axis="speed", speed=[one, two])
    with pytest.raises(ValueError, match=r"times of a pass in mode 'training step', got .*one.json without"):
        pareto(axis="train_speed", speed=[one])
    with pytest.raises(ValueError, match=r"speed: expected a file of .*, nothing is at .*nowhere.json"):
        pareto(axis="speed", speed=[tmp_path / "nowhere.json"])
    with pytest.raises(ValueError, match="speed: files are drawn over x speed or train_speed, got x parameters"):
        pareto(speed=[one])
    rows = {"vil_tiny_224": {"median_ms": 1.0}}
    for told in (
        [],
        {"setting": {"batch": 4}, "inference": rows},
        {"setting": SETTING | {"batch": 0}, "inference": rows},
    ):
        (tmp_path / "none.json").write_text(json.dumps(told))
        with pytest.raises(ValueError, match=r"expected a file of `halonet bench model --json`, got .*none.json"):
            pareto(axis="speed", speed=[tmp_path / "none.json"])
    assert set(MEASURED) < set(AXES)
    with pytest.raises(ValueError, match="x: expected an axis that vil_table4 has figures of, got step_time"):
        draw(pareto("vil_table4", axis="step_time"), tmp_path / "none.png")


@pytest.mark.parametrize(("figure", "labels"), [("botnet_figure9", 25), ("zoo", 30)])
def test_labels_lie_apart(figure: str, labels: int, tmp_path: Path) -> None:
    drawn = draw(pareto(figure), tmp_path / "drawn.png")
    axis = drawn.axes[0]
    renderer = drawn.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in axis.texts]
    boxes.append(axis.get_legend().get_window_extent(renderer))
    assert len(boxes) > labels
    assert not [(a, b) for a, b in combinations(boxes, 2) if a.overlaps(b)]
    assert "published" in axis.get_ylabel()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = tmp_path / "p.png", tmp_path / "p.json"
    assert main(f"plot pareto --figure halonet_figure4 --out {files[0]} --json {files[1]}".split()) == 0
    out = capsys.readouterr().out
    assert out.startswith("13 points; on the front of all: B0")
    assert out.splitlines()[-1] == str(files[0])
    assert files[0].read_bytes().startswith(b"\x89PNG")
    told = json.loads(files[1].read_text())
    assert told["x"] == AXES["parameters"]
    assert len(told["points"]) == 13
    assert len(told["marks"]) == 7
    assert main(["plot", "pareto", "--x", "speed"]) == 2
    assert capsys.readouterr().err.startswith("halonet: error: speed: expected a file")
