"""The benchmark of factorized beside non-local attention: its gate, its refusals, and what it concludes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from halonet.analysis.complexity_plot import SMALL_GPU
from halonet.analysis.speed import factorized_table as table
from halonet.cli import main
from halonet.layers import FactorizedAttention

CPU = torch.device("cpu")


def test_the_command_measures_writes_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--json", str(tmp_path / "f.json"), "--png", str(tmp_path / "f.png")]
    peers = ["--peers", "factorized", "nonlocal"]
    assert main(["bench", "factorized", "--sides", "4", "8", "--rounds", "1", "--batch", "1", *peers, *files]) == 0
    printed = capsys.readouterr().out
    assert "the first map of which nonlocal needs more than 8 GB" in printed
    report = json.loads((tmp_path / "f.json").read_text())
    assert set(report["tables"]) == {"gaussian", "dot"}
    row = report["tables"]["dot"][1]["forward"]["nonlocal"]
    assert row["closed_form_bytes"] == 4 * ((2 * 32 + 3 * 64) * 64 + 64**2)
    assert row["median_ms"] > 0
    with Image.open(tmp_path / "f.png") as picture:
        assert min(picture.size) > 500


def test_what_is_too_large_is_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"batch": 1, "dtype": torch.float32, "device": "cpu", "rounds": 1}
    report = table.factorized_table([8, 64], peers=("factorized", "nonlocal"), limit_gib=0.05, **options)
    refused = report["tables"]["gaussian"][1]["forward"]["nonlocal"]
    assert refused["refused"] == "would need about 0.1 GB"
    assert "not run: would need about 0.1 GB" in capsys.readouterr().out
    assert "median_ms" in report["tables"]["gaussian"][1]["forward"]["factorized"]


def test_what_takes_too_long_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the side is 4 times the pixels and 16 times the pairs."""
    before = [entry(4, factorized={"median_ms": 9.0}), entry(8, factorized={"median_ms": 2e3}, nonlocal_={})]
    before[1]["forward"]["nonlocal"] = {"median_ms": 1e3, "peak_bytes": 1.0}
    before[0]["forward"]["nonlocal"] = {"refused": "too large"}
    assert table.expected_seconds(16, "forward", "factorized", before) == 8.0
    assert table.expected_seconds(16, "forward", "nonlocal", before) == 16.0
    assert table.expected_seconds(16, "forward+backward", "nonlocal", before) == 0.0
    monkeypatch.setattr(table, "MOST_SECONDS", 0.0)
    options: dict[str, Any] = {"batch": 1, "dtype": torch.float32, "device": "cpu", "rounds": 1}
    report = table.factorized_table([4, 8], peers=("factorized",), **options)
    assert "median_ms" in report["tables"]["dot"][0]["forward"]["factorized"]
    assert report["tables"]["dot"][1]["forward"]["factorized"]["refused"] == "would take about 0 s a pass"


@pytest.mark.parametrize("kind", ["gaussian", "dot"])
def test_the_gate_bites(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table.check_peers(table.PEERS, dtype=torch.float32, device=CPU)
    right = FactorizedAttention.attend

    def wrong(layer: FactorizedAttention, first: Tensor, second: Tensor, value: Tensor) -> Tensor:
        output = right(layer, first, second, value)
        return output * 1.001 if layer.kind == kind else output

    monkeypatch.setattr(FactorizedAttention, "attend", wrong)
    with pytest.raises(SystemExit, match=f"factorized of the kind {kind} in float64 differs .* nothing is timed"):
        table.check_peers(table.PEERS, dtype=torch.float32, device=CPU)


def entry(side: int, **rows: dict[str, Any]) -> dict[str, Any]:
    return {"side": side, "forward": dict(rows), "forward+backward": {}}


def test_growth_by_hand() -> None:
    """From 16 to 32 a side pixels grow fourfold: time 4 and memory 16 times as much are powers 1 and 2."""
    entries = [
        entry(8, a={"median_ms": 9.0, "peak_bytes": 9.0}),
        entry(16, a={"median_ms": 1.0, "peak_bytes": 10.0}, b={"median_ms": 1.0, "peak_bytes": None}),
        entry(32, a={"median_ms": 4.0, "peak_bytes": 160.0}, b={"refused": "no"}),
    ]
    entries[0]["forward"]["b"] = {"median_ms": 1.0, "peak_bytes": None}
    growth = table.growth_of(entries)["forward"]
    assert growth["a"] == {"sides": [16, 32], "time": 1.0, "memory": 2.0}
    assert growth["b"] == {"sides": [8, 16], "time": 0.0, "memory": None}


def test_the_first_side_over_the_threshold_by_hand() -> None:
    """8 bytes a pair: 8 * 10^4 are 80,000 at a side of 10, so that 100,000 are first exceeded at 11."""
    entries = [
        entry(5, nonlocal_={}) | {"forward": {"nonlocal": {"median_ms": 1.0, "peak_bytes": 5000.0}}},
        entry(10) | {"forward": {"nonlocal": {"median_ms": 1.0, "peak_bytes": 80_000.0}}},
        entry(12) | {"forward": {"nonlocal": {"median_ms": 1.0, "peak_bytes": 170_000.0}}},
    ]
    over = table.first_over(entries, batch=1, threshold=100_000)
    assert over["forward"] == {"side": 11, "bytes_per_pair": 8.0, "last_side": 10, "last_bytes": 80_000.0}
    assert over["forward+backward"] is None


def test_the_first_side_by_the_closed_form() -> None:
    """(2k + 3c) s + s^2 floats beyond 8 GB: s = 44594, a side of 212."""
    first = table.first_over([], batch=1)["closed_form"]
    needs = [table.closed_form("nonlocal", side, batch=1) or 0 for side in (first - 1, first)]
    assert needs[0] <= SMALL_GPU < needs[1]
    assert first == 212


def test_unknown_peers_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "factorized", "--peers", "flash"]) == 2
    assert "peers must be among factorized, nonlocal, nonlocal-fused, got 'flash'" in capsys.readouterr().err
