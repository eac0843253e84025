"""What the benchmarks measure with: interleaved rounds, ratios within a round, and what the figures depend on."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from halonet.files import replacing

SHORTEST = 0.02  # seconds a measurement takes at least: the clock and the scheduler


def interleaved_times(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device | str = "cpu",
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Milliseconds of each call in each round; the first one changes from round to round. All are warmed up before.

    On a GPU a measurement ends when the device has done all of its calls. clock: seconds; `time.process_time` leaves
    out what other processes take of a CPU, and adds up what threads do at once.
    """

    def seconds(call: Callable[[], object], repeats: int) -> float:
        start = clock()
        for _ in range(repeats):
            call()
        wait_for(device)
        return (clock() - start) / repeats

    names = list(calls)
    for call in calls.values():
        seconds(call, 1)
    repeats = max(1, round(SHORTEST / seconds(calls[names[0]], 1)))
    times: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds):
        first = index % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(seconds(calls[name], repeats) * 1e3)
    return times


def device_of(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: it is not there.
    """
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device must be there, got {name!r}, and torch finds no GPU")
    return device


def wait_for(device: torch.device | str) -> None:
    """Until a GPU has done what it was given; a CPU has, always."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def compare(times: Mapping[str, list[float]], with_: str) -> dict[str, dict[str, Any]]:
    """Median and spread of each, and the median of its ratios to `with_` within a round (above 1: faster)."""
    return {
        name: {
            "median_ms": statistics.median(values),
            "fastest_ms": min(values),
            "slowest_ms": max(values),
            "times_as_fast": statistics.median(a / b for a, b in zip(times[with_], values, strict=True)),
        }
        for name, values in times.items()
    }


def tell_networks(
    kind: str, times: Mapping[str, list[float]], beside: str, *, batch: int, peaks: Mapping[str, float | None]
) -> dict[str, dict[str, Any]]:
    """`compare` of passes of whole networks on `batch` images, with images a second and the peak memory; prints a line
    each."""
    rows = compare(times, beside)
    for name, row in rows.items():
        row |= {"images_per_second": batch / row["median_ms"] * 1e3, "peak_mib": peaks[name]}
        spread = f"({row['fastest_ms']:.1f} to {row['slowest_ms']:.1f})"
        memory = "" if peaks[name] is None else f", {peaks[name]:.0f} MiB"
        print(
            f"{kind:14} {name:38} {row['median_ms']:9.1f} ms {spread:20} {row['images_per_second']:8.2f} images/s, "
            f"{row['times_as_fast']:.2f} times as fast{memory}",
            flush=True,
        )
    return rows


def describe(*, device: torch.device | str = "cpu", **setting: str | int) -> dict[str, str | int]:
    """Everything the figures depend on."""
    packages = [f"{name} {_version(name)}" for name in ("halonet", "torch", "timm", "numba", "triton")]
    on_gpu = torch.device(device).type == "cuda"
    return {
        "date": datetime.date.today().isoformat(),
        "versions": ", ".join([*packages, f"Python {platform.python_version()}"]),
        "device": torch.cuda.get_device_name(device) if on_gpu else f"CPU, {_processor()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        **setting,
        "load": f"{os.getloadavg()[0]:.2f} over the last minute" if hasattr(os, "getloadavg") else "unknown",
    }


def print_setting(setting: Mapping[str, str | int]) -> None:
    """One line each, and a warning on a busy machine."""
    print(*(f"{name}: {value}" for name, value in setting.items()), sep="\n")
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > 1:
        print("note: the machine is busy with something else; threads then wait for each other, and times mislead")


def write_report(report: Mapping[str, Any], path: Path | None) -> None:
    """Writes the figures as JSON, if a file is asked for."""
    if path:
        with replacing(path) as beside:
            beside.write_text(json.dumps(report, indent=2) + "\n")


def _version(name: str) -> str:
    try:
        return torch.__version__ if name == "torch" else version(name)
    except PackageNotFoundError:
        return "absent"


def _processor() -> str:
    """The processor's name where the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())
