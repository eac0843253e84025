"""Figure 8 of the HaloNet paper from measured tables: training steps of HaloNets and hybrids beside EfficientNets.

    python -m benchmarks.figure8 benchmarks/results/models_h?_gpu.json --png figure8.png

Each file is one of `halonet bench model --json`, whose first model is the EfficientNet of the same accuracy. Prints and
draws how long a training step takes, EfficientNet = 1; the paper has up to 1.9 for the pure models on TPUv3, and for
H7's hybrids 1.4, 1.0 and 0.5 with convolutions in stage 1, 1 and 2, and 1 to 3 (Table 4).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from halonet.analysis.plots import save_figure, start_figure
from halonet.analysis.speed.plot import plot_bars

MODE = "training step"


def groups_of(reports: Sequence[dict[str, Any]]) -> list[tuple[str, dict[str, dict[str, float]]]]:
    """For each table its first model, and by kind of the others how long their step takes, the first model's = 1.

    Raises:
        ValueError: a table with two models of a kind.
    """
    groups = []
    for report in reports:
        rows = report[MODE]
        first = next(iter(rows))
        steps = {_kind(name): {"steps": 1 / row["times_as_fast"]} for name, row in rows.items() if name != first}
        if len(steps) != len(rows) - 1:
            raise ValueError(f"a table must have one model a kind, got {', '.join(rows)}")
        groups.append((first, steps))
    return groups


def _kind(name: str) -> str:
    """halonet_h7_c12_600 -> convolutions in stages 1 and 2."""
    stages = next((part[1:] for part in name.split("_") if part[0] == "c" and part[1:].isdigit()), "")
    return f"convolutions in {stages}" if stages else "attention in all stages"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--png", type=Path, metavar="OUT", help="also draw them")
    options = parser.parse_args(arguments)
    reports = [json.loads(path.read_text()) for path in sorted(options.files)]
    groups = groups_of(reports)
    for first, steps in groups:
        told = ", ".join(f"{kind} {row['steps']:.2f}" for kind, row in steps.items())
        print(f"a training step, {first} = 1: {told}")
    if options.png:
        figure, axes = start_figure(1, 1, size=(9.0, 4.6))
        plot_bars(axes[0][0], groups, "steps")
        axes[0][0].axhline(1, color="black", linewidth=0.8)
        axes[0][0].set_ylabel("time of a training step, EfficientNet = 1")
        setting = reports[0]["setting"]
        figure.suptitle(f"{setting['device']}, {setting['dtype']}", fontsize=9)
        save_figure(figure, options.png)
    return 0


if __name__ == "__main__":
    sys.exit(main())
