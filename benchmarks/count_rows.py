"""Counts every row of the zoo for `halonet models`, and writes halonet/analysis/row_counts.json.

python -m benchmarks.count_rows          # rows that the table has not yet
python -m benchmarks.count_rows --all    # every row, after a change of a skeleton: about four minutes
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from halonet.analysis.row_counts import count_row
from halonet.detection import list_detectors
from halonet.files import replacing
from halonet.models import list_models

TABLE = Path(__file__).parents[1] / "halonet" / "analysis" / "row_counts.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--all", action="store_true", help="also rows that were counted before")
    parser.add_argument("--out", type=Path, default=TABLE, metavar="FILE", help="another table than the package's")
    options = parser.parse_args(arguments)
    known = json.loads(options.out.read_text()) if options.out.exists() and not options.all else {}
    tasks = {"classification": list_models(), "stereo": list_models(task="stereo"), "detection": list_detectors()}
    table: dict[str, dict[str, list[int]]] = {}
    for task, names in tasks.items():
        table[task] = {}
        for name in names:
            counts = known.get(task, {}).get(name)
            if counts is None:
                count = count_row(name, task=task)
                counts = [count.parameters, count.multiply_adds]
                print(name, *counts, flush=True)
            table[task][name] = counts
    write(table, options.out)
    return 0


def write(table: dict[str, dict[str, list[int]]], path: Path) -> None:
    """A line a row, for a change of one row to be a change of one line."""
    tasks = []
    for task, rows in table.items():
        lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(counts)}" for name, counts in rows.items())
        tasks.append(f"  {json.dumps(task)}: {{\n{lines}\n  }}")
    with replacing(path) as beside:
        beside.write_text("{\n" + ",\n".join(tasks) + "\n}\n")


if __name__ == "__main__":
    sys.exit(main())
