"""Time and peak memory of HaloAttention beside timm's HaloAttn, at the four stages of HaloNet-H0, on this CPU.

    python -m benchmarks.local_attention [--json OUT] [--batch 4] [--threads 2] [--rounds 15] [--stages 1 2 3 4]

Whole layers, projections included, with the same weights, float32. First a gate: outputs and every gradient agree with
timm's, or no speed is printed. Then interleaved rounds, each implementation once in each, the first one changing
from round to round; times are medians, ratios are medians of the ratios within a round, so that a slow moment of the
machine meets all. Memory is what a fresh process a case grows by at most during one call (the kernel's high-water
mark of resident memory less what was resident before it), after one call of the same layer on a map of one block.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.layers.halo_attn import HaloAttn
from torch import Tensor, nn

from benchmarks.timm_halo import halo_attention_like, in_our_layout
from halonet.analysis.speed.measuring import compare, describe, interleaved_times, print_setting, write_report

TOLERANCE = 1e-4  # of the largest value; float32 sums over 196 keys and up to 4096 pixels
MODES = ("forward", "forward+backward")
MIB = 2**20


@dataclass(frozen=True)
class Stage:
    """An attention layer and the square map it is given."""

    size: int
    dim: int
    num_heads: int
    block_size: int = 8
    halo_size: int = 3

    def __str__(self) -> str:
        return f"{self.size} x {self.size} x {self.dim}, {self.num_heads} heads"


# HaloNet-H0 at 256 (Table A2): b = 8, h = 3, heads 4-8-8-8.
STAGES = {1: Stage(64, 64, 4), 2: Stage(32, 128, 8), 3: Stage(16, 256, 8), 4: Stage(8, 512, 8)}


def timm_layer(stage: Stage) -> HaloAttn:
    """The layer to compare with; the same weights every time."""
    torch.manual_seed(0)
    options = {"num_heads": stage.num_heads, "block_size": stage.block_size, "halo_size": stage.halo_size}
    return HaloAttn(stage.dim, scale_pos_embed=True, **options)


# Name -> layer of a stage. All hold the weights of `timm_layer`. The first is what the others are compared with.
IMPLEMENTATIONS: dict[str, Callable[[Stage], nn.Module]] = {
    "timm": timm_layer,
    "reference": lambda stage: halo_attention_like(timm_layer(stage), backend="reference"),
    "sdpa": lambda stage: halo_attention_like(timm_layer(stage), backend="sdpa"),
    "numba": lambda stage: halo_attention_like(timm_layer(stage), backend="numba"),
}


def image_of(stage: Stage, batch: int, size: int | None = None) -> Tensor:
    """(batch, dim, size, size), the map of the stage by default."""
    side = size or stage.size
    return torch.randn(batch, stage.dim, side, side, generator=torch.Generator().manual_seed(1))


def run_once(layer: nn.Module, image: Tensor, mode: str) -> None:
    """One call, as in evaluation or as in training: gradients of the image and of every parameter."""
    if mode == "forward":
        with torch.no_grad():
            layer(image)
        return
    image.grad = None
    layer.zero_grad(set_to_none=True)
    output = layer(image.requires_grad_())
    output.backward(torch.ones_like(output))


def check_agreement(stage: Stage, batch: int) -> dict[str, float]:
    """Largest difference of each implementation from timm, in output or a gradient, as a share of the largest value.

    Raises:
        SystemExit: a difference is larger than TOLERANCE, or not a number.
    """
    theirs = timm_layer(stage)
    expected = _results(theirs, stage, batch, lambda tensors: in_our_layout(theirs, tensors))
    differences = {}
    for name, build in IMPLEMENTATIONS.items():
        if name == "timm":
            continue
        actual = _results(build(stage), stage, batch, lambda tensors: tensors)
        shares = {what: _share(actual[what], expected[what]) for what in expected}
        worst = max(shares, key=lambda what: math.inf if math.isnan(shares[what]) else shares[what])
        if not shares[worst] <= TOLERANCE:
            raise SystemExit(f"{stage}: {name} differs from timm in {worst} by {shares[worst]:.1e}; nothing is timed")
        differences[name] = shares[worst]
    return differences


def _results(
    layer: nn.Module, stage: Stage, batch: int, layout: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Output, gradient of the image and gradients of the parameters in our layout, of a fixed weighted sum."""
    image = image_of(stage, batch).requires_grad_()
    output = layer(image)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))
    (output * weights).sum().backward()
    gradients = {name: parameter.grad for name, parameter in layer.named_parameters() if parameter.grad is not None}
    assert image.grad is not None
    return {"output": output.detach(), "gradient of the image": image.grad, **layout(gradients)}


def _share(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def measure_times(stage: Stage, *, batch: int, rounds: int, mode: str) -> dict[str, list[float]]:
    """Milliseconds of each implementation in each round."""
    image = image_of(stage, batch)
    calls = {name: partial(run_once, build(stage), image, mode) for name, build in IMPLEMENTATIONS.items()}
    return interleaved_times(calls, rounds)


def measure_memory(stage: Stage, *, batch: int, threads: int, mode: str, name: str) -> float | None:
    """MiB by which a fresh process grows at most during one call; None where the system does not tell (not Linux)."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_growth, (stage, batch, threads, mode, name))


def _peak_growth(stage: Stage, batch: int, threads: int, mode: str, name: str) -> float:
    torch.set_num_threads(threads)
    layer = IMPLEMENTATIONS[name](stage)
    run_once(layer, image_of(stage, 1, stage.block_size), mode)  # loads what the first call loads
    layer.zero_grad(set_to_none=True)
    image = image_of(stage, batch)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = _resident("VmRSS")
    run_once(layer, image, mode)
    return (_resident("VmHWM") - before) / MIB


def _resident(field: str) -> int:
    """Bytes of a memory field of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def summarize(times: dict[str, list[float]], memory: dict[str, float | None]) -> dict[str, dict[str, Any]]:
    """Median, spread, memory and ratios to timm (above 1: better than timm) of every implementation."""
    summary = compare(times, "timm")
    for name, row in summary.items():
        peak, timms = memory[name], memory["timm"]
        row |= {"peak_mib": peak, "memory_of_timm": None if peak is None or not timms else peak / timms}
    return summary


def run(*, stages: Sequence[Stage], batch: int, threads: int, rounds: int, memory: bool) -> dict[str, Any]:
    """Gate, times and memory of the stages; prints a line for each as it comes."""
    torch.set_num_threads(threads)
    setting = describe(dtype="float32", batch=batch, rounds=rounds)
    report: dict[str, Any] = {"setting": setting, "stages": []}
    print_setting(setting)
    for stage in stages:
        differences = check_agreement(stage, batch)
        told = ", ".join(f"{name} {difference:.1e}" for name, difference in differences.items())
        print(f"\n{stage}, block {stage.block_size}, halo {stage.halo_size}: agree with timm to {told}")
        print(f"  {'':17} {'':10} {'median':>9} {'fastest to slowest':>20} {'times as fast':>14} {'peak':>11}")
        entry: dict[str, Any] = {"stage": asdict(stage), "difference": differences}
        for mode in MODES:
            times = measure_times(stage, batch=batch, rounds=rounds, mode=mode)
            options = {"batch": batch, "threads": threads, "mode": mode}
            peaks = {name: measure_memory(stage, name=name, **options) if memory else None for name in times}
            entry[mode] = summarize(times, peaks)
            for name, row in entry[mode].items():
                print(_line(mode, name, row))
        report["stages"].append(entry)
    report["geometric_mean"] = _geometric_means(report["stages"])
    print("\ngeometric means over the stages, timm = 1")
    for mode, rows in report["geometric_mean"].items():
        for name, row in rows.items():
            memory_text = "" if row["memory_of_timm"] is None else f", {row['memory_of_timm']:.2f} of its memory"
            print(f"  {mode:17} {name:10} {row['times_as_fast']:.2f} times as fast{memory_text}")
    return report


def _line(mode: str, name: str, row: dict[str, Any]) -> str:
    spread = f"{row['fastest_ms']:.2f} to {row['slowest_ms']:.2f}"
    peak = "" if row["peak_mib"] is None else f"{row['peak_mib']:7.1f} MiB"
    return f"  {mode:17} {name:10} {row['median_ms']:6.2f} ms {spread:>20} {row['times_as_fast']:>14.2f} {peak:>11}"


def _geometric_means(entries: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Of the ratios to timm, by mode and implementation."""

    def mean(mode: str, name: str, key: str) -> float | None:
        values = [entry[mode][name][key] for entry in entries]
        return None if any(value is None for value in values) else statistics.geometric_mean(values)

    keys = ("times_as_fast", "memory_of_timm")
    return {mode: {name: {k: mean(mode, name, k) for k in keys} for name in IMPLEMENTATIONS} for mode in MODES}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the figures to this file")
    parser.add_argument("--batch", type=int, default=4, help="images (default 4)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default 2)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of timing (default 15)")
    parser.add_argument("--stages", type=int, nargs="+", choices=STAGES, default=list(STAGES), help="default: all four")
    parser.add_argument("--no-memory", action="store_true", help="leave out memory, which takes a process a case")
    options = parser.parse_args(arguments)
    for name in ("batch", "threads", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be positive, got {getattr(options, name)}")
    report = run(
        stages=[STAGES[number] for number in options.stages],
        batch=options.batch,
        threads=options.threads,
        rounds=options.rounds,
        memory=not options.no_memory,
    )
    write_report(report, options.json)


if __name__ == "__main__":
    main()
