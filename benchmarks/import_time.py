"""How long `import halonet` takes beside `import timm`: fresh processes, alternating, medians.

    python benchmarks/import_time.py [--rounds 9]

The interpreter's own start is measured too and subtracted. The house's bound for the ratio is 1.5.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
STATEMENTS = {"python": "pass", "torch": "import torch", "timm": "import timm", "halonet": "import halonet"}


def seconds(statement: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, cwd=ROOT)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="runs of each import (default 9)")
    rounds = parser.parse_args().rounds
    for statement in STATEMENTS.values():  # the first run of each reads the disk and writes byte code
        seconds(statement)
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(rounds):
        for name, statement in STATEMENTS.items():
            times[name].append(seconds(statement))
    median = {name: statistics.median(values) for name, values in times.items()}
    print(f"python {platform.python_version()}, {platform.machine()}, {rounds} rounds, medians")
    for name in ("torch", "timm", "halonet"):
        spread = f"{min(times[name]):.2f} to {max(times[name]):.2f}"
        print(f"import {name:8} {median[name] - median['python']:6.2f} s   (whole process {spread} s)")
    ratio = (median["halonet"] - median["python"]) / (median["timm"] - median["python"])
    print(f"halonet / timm   {ratio:6.2f}")


if __name__ == "__main__":
    main()
