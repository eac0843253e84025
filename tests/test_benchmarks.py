"""The benchmarks: their gates, one tiny round, their tables and files. No speed is asserted."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import accelerate as accelerate_benchmark
from benchmarks import floor
from benchmarks import local_attention as benchmark
from halonet.analysis.speed.floor import Rates

TINY = benchmark.Stage(size=8, dim=16, num_heads=2, block_size=4, halo_size=1)


@pytest.fixture(autouse=True)
def _threads():
    """The benchmark sets the number of threads of its process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_gate_passes_and_tells_the_differences():
    differences = benchmark.check_agreement(TINY, batch=2)
    assert differences.keys() == {"reference", "sdpa", "numba"}
    assert all(0 <= difference < 1e-5 for difference in differences.values())


@pytest.mark.parametrize("parameter", ["query.weight", "key_value.weight", "height_table", "width_table"])
@pytest.mark.parametrize("wrong", [1e-2, float("nan")])
def test_gate_stops_a_layer_that_computes_something_else(monkeypatch, parameter, wrong):
    def build(stage):
        layer = benchmark.halo_attention_like(benchmark.timm_layer(stage))
        layer.get_parameter(parameter).data[-1] += wrong
        return layer

    monkeypatch.setitem(benchmark.IMPLEMENTATIONS, "sdpa", build)
    with pytest.raises(SystemExit, match=r"sdpa differs from timm in .*; nothing is timed"):
        benchmark.check_agreement(TINY, batch=2)


def test_gate_stops_a_wrong_gradient(monkeypatch):
    """The output is right; one gradient is doubled."""

    def build(stage):
        layer = benchmark.halo_attention_like(benchmark.timm_layer(stage))
        layer.height_table.register_hook(lambda gradient: 2 * gradient)
        return layer

    monkeypatch.setitem(benchmark.IMPLEMENTATIONS, "sdpa", build)
    with pytest.raises(SystemExit, match="sdpa differs from timm in height_table by 1"):
        benchmark.check_agreement(TINY, batch=2)


def test_one_tiny_round(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(benchmark.STAGES, 1, TINY)
    out = tmp_path / "figures.json"
    benchmark.main(f"--stages 1 --batch 2 --threads 1 --rounds 2 --no-memory --json {out}".split())
    report = json.loads(out.read_text())
    assert report["setting"]["threads"] == 1
    assert report["stages"][0]["stage"]["num_heads"] == 2
    printed = capsys.readouterr().out
    for mode in benchmark.MODES:
        rows = report["stages"][0][mode]
        assert rows.keys() == {"timm", "reference", "sdpa", "numba"}
        assert rows["timm"]["times_as_fast"] == report["geometric_mean"][mode]["timm"]["times_as_fast"] == 1
        for name, row in rows.items():
            assert 0 < row["fastest_ms"] <= row["median_ms"] <= row["slowest_ms"]
            assert f"{row['median_ms']:.2f} ms" in printed
            assert name in printed


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process its peak memory")
def test_peak_memory_is_that_of_the_call():
    """In a fresh process: the output alone of this stage is 8 MiB, and nothing of the imports' hundreds is counted."""
    stage = benchmark.Stage(size=64, dim=128, num_heads=2, halo_size=0)
    peak = benchmark.measure_memory(stage, batch=4, threads=1, mode="forward", name="sdpa")
    assert 8 <= peak <= 160


def test_summary():
    """Ratios are medians of the ratios within a round; above 1 is faster than timm."""
    times = {"timm": [2.0, 4.0, 60.0], "sdpa": [1.0, 1.0, 30.0]}
    summary = benchmark.summarize(times, {"timm": 10.0, "sdpa": 5.0})
    assert summary["sdpa"] == {
        "median_ms": 1.0,
        "fastest_ms": 1.0,
        "slowest_ms": 30.0,
        "times_as_fast": 2.0,
        "peak_mib": 5.0,
        "memory_of_timm": 0.5,
    }
    assert benchmark.summarize(times, dict.fromkeys(times))["sdpa"]["memory_of_timm"] is None


@pytest.mark.parametrize("option", ["batch", "threads", "rounds"])
def test_refuses_numbers_that_are_not_positive(option, capsys):
    with pytest.raises(SystemExit) as error:
        benchmark.main([f"--{option}", "0"])
    assert error.value.code == 2
    assert f"--{option} must be positive, got 0" in capsys.readouterr().err


def test_accelerated_models_in_one_round(tmp_path, capsys):
    out = tmp_path / "figures.json"
    accelerate_benchmark.main(f"--models botnet26t_256 --batch 1 --threads 1 --rounds 1 --json {out}".split())
    entry = json.loads(out.read_text())["models"]["botnet26t_256"]
    assert entry["replaced"] == 3
    assert 0 < entry["errors"]["halonet"] <= 2 * entry["errors"]["timm"] + accelerate_benchmark.BAND
    printed = capsys.readouterr().out
    for mode in accelerate_benchmark.MODES:
        assert entry[mode].keys() == {"timm", "halonet"}
        assert all(f"{row['median_ms']:.1f} ms" in printed for row in entry[mode].values())


@pytest.mark.parametrize("wrong", [1e-3, float("nan")])
def test_a_model_that_computes_something_else_is_not_timed(wrong):
    models, _ = accelerate_benchmark.models_of("botnet26t_256")
    models["halonet"].head.fc.bias.data[0] += wrong
    with pytest.raises(SystemExit, match="nothing is timed"):
        accelerate_benchmark.errors(models, torch.randn(1, 3, 256, 256))


def test_the_floor_counts_by_hand():
    """A map of 2 x 2 blocks of 4 pixels and a halo of 1: every query meets 5 x 5 keys."""
    work = floor.layer_work(TINY, batch=2, mode="forward")
    queries, channels = 2 * 8 * 8, 16
    assert work.projection_flops == 2 * queries * channels * 3 * channels
    assert work.op.exponentials == queries * 2 * 25
    assert work.op.flops == 2 * queries * channels * 2 * 25 + 2 * queries * channels * 2 * 6
    assert work.op.bytes == 4 * queries * channels * 4
    rates = Rates(flops=work.op.flops, exponentials=work.op.exponentials / 3, bytes=work.op.bytes)
    assert work.seconds(rates) == pytest.approx(3 + work.projection_flops / work.op.flops)
