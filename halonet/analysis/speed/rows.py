"""Rows of tables: what they print, and their geometric means."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

MODES = ("forward", "forward+backward")
Means = dict[str, dict[str, dict[str, float]]]


def geometric_means(entries: Sequence[dict[str, Any]], peers: Sequence[str]) -> dict[str, Means]:
    """By group, mode and peer: how many times as fast as the first, and how much of its memory.

    Groups are "all shapes", and "stride 1" where some stride and some do not. A peer that did not take part at every
    shape of a group has no mean there.
    """
    groups = {"all shapes": entries}
    unstrided = [entry for entry in entries if entry["shape"]["stride"] == 1]
    if 0 < len(unstrided) < len(entries):
        groups["stride 1"] = unstrided
    return {group: _means(chosen, peers) for group, chosen in groups.items()}


def _means(entries: Sequence[dict[str, Any]], peers: Sequence[str]) -> Means:
    means: Means = {mode: {} for mode in MODES}
    for mode in MODES:
        for name in peers:
            rows = [entry[mode][name] for entry in entries]
            if not all("times_as_fast" in row for row in rows):
                continue
            means[mode][name] = {"times_as_fast": statistics.geometric_mean(row["times_as_fast"] for row in rows)}
            firsts = [entry[mode][peers[0]].get("peak_mib") for entry in entries]
            if all(firsts) and all(row["peak_mib"] for row in rows):
                shares = (row["peak_mib"] / first for row, first in zip(rows, firsts, strict=True))
                means[mode][name]["of_memory"] = statistics.geometric_mean(shares)
    return means


def print_means(means: dict[str, Means], first: str) -> None:
    """A line for each peer."""
    for group, modes in means.items():
        print(f"\ngeometric means over {group}, {first} = 1")
        for mode, names in modes.items():
            for name, row in names.items():
                print(f"  {mode:17} {name:18} {row['times_as_fast']:5.2f} times as fast{_memory(row)}")


def _memory(row: dict[str, float]) -> str:
    return f", {row['of_memory']:.2f} of its memory" if "of_memory" in row else ""


def print_rows(mode: str, rows: dict[str, dict[str, Any]]) -> None:
    """A line for each peer of one shape."""
    for name, row in rows.items():
        if "refused" in row:
            print(f"  {mode:17} {name:18} not timed: {row['refused']}")
            continue
        spread = f"{row['fastest_ms']:.3f} to {row['slowest_ms']:.3f}"
        memory = "" if row["peak_mib"] is None else f"{row['peak_mib']:8.1f} MiB"
        print(
            f"  {mode:17} {name:18} {row['median_ms']:9.3f} ms {spread:>22} {row['times_as_fast']:7.2f} times as fast, "
            f"{row['of_floor']:6.1f} x floor {memory}",
            flush=True,
        )
