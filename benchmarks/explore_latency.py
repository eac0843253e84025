"""How long `halonet explore` takes from a move of the mouse to the attention drawn, in a real browser.

    python benchmarks/explore_latency.py [--model halonet_h0_256] [--moves 20] [--out FILE.json]

Starts the command, opens its page in Chromium, and on every layer moves the mouse over the picture, each time until the
answer is drawn. Measured in the page: from the event of the mouse until the browser is done with the frame in which
canvas and figures show its answer; and in the server: from the request until the answer is ready to be sent. A last
round moves without waiting, 60 times a second: what the newest move waits then.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.browser import exploring  # noqa: E402 (a script finds the tests' browser only now)

LATEST = "() => performance.getEntriesByName('hover').map((one) => [one.duration, one.detail.server])"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="halonet_h0_256", metavar="NAME", help="default halonet_h0_256")
    parser.add_argument("--moves", type=int, default=20, metavar="N", help="of the mouse on each layer (default 20)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the figures as JSON")
    values = parser.parse_args()
    with exploring(["--model", values.model], viewport={"width": 1280, "height": 800}) as (page, address):
        result = measure(page, address, moves=values.moves)
        result["machine"]["chromium"] = page.context.browser.version
    told = {"command": f"python benchmarks/explore_latency.py --model {values.model} --moves {values.moves}", **result}
    print(json.dumps({name: told[name] for name in ("whole", "server", "sixty_a_second")}, indent=1))
    if values.out is not None:
        values.out.write_text(json.dumps(told, indent=1) + "\n")


def measure(page: Any, address: str, *, moves: int) -> dict[str, Any]:
    """All figures of one page, in milliseconds."""
    page.goto(address)
    page.wait_for_selector("body[data-ready=yes]")
    page.wait_for_selector("#answer .answer-row")
    box, rng = page.locator("#canvas").bounding_box(), random.Random(0)

    def move() -> None:
        places = (box["x"] + rng.random() * box["width"], box["y"] + rng.random() * box["height"])
        page.mouse.move(*places)

    layers, whole, server = {}, [], []
    for option in page.locator("#layer option").all():
        page.select_option("#layer", value=option.get_attribute("value"))
        page.wait_for_timeout(500)  # the first question of a layer projects its map: it is asked by the choice itself
        found = []
        for _ in range(moves):
            page.evaluate("() => performance.clearMeasures('hover')")
            move()
            while not (measured := page.evaluate(LATEST)):
                time.sleep(0.005)
            found += measured[:1]
        layers[option.text_content()] = {"whole": spread([one[0] for one in found])}
        whole += [one[0] for one in found]
        server += [one[1] for one in found]
    page.evaluate("() => performance.clearMeasures('hover')")
    for _ in range(180):
        move()
        time.sleep(1 / 60)
    page.wait_for_timeout(500)
    burst = [one[0] for one in page.evaluate(LATEST)]
    return {
        "whole": spread(whole),
        "server": spread(server),
        "sixty_a_second": {"moves": 180, **spread(burst)},
        "layers": layers,
        "machine": machine(),
    }


def spread(milliseconds: Sequence[float]) -> dict[str, float]:
    """Count, median, 95th percentile and most."""
    ordered = sorted(milliseconds)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    figures = {"p50": statistics.median(ordered), "p95": p95, "max": ordered[-1]}
    return {"drawn": len(ordered), **{name: round(value, 1) for name, value in figures.items()}}


def machine() -> dict[str, Any]:
    """What the figures are of; `load` is the number of processes that wanted to run in the last minute."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "cpu": platform.machine(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "load": round(os.getloadavg()[0], 1),
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    main()
