"""`halonet explain`: where the pixels of a picture attend, or basis masks."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from halonet.cli.commands import picture_file, positive
from halonet.cli.words import Parser


def explain(arguments: Sequence[str]) -> int:
    """Draw what attention does with pictures."""
    values = vars(_parser().parse_args(arguments))
    images, out, queries = (values.pop(name) for name in ("images", "out", "query"))
    from halonet.analysis.explain import explain

    for file in explain(images, out, queries=queries, **values):
        print(file)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="halonet explain",
        description="Draw where pixels of a picture attend, with statistics of the layers and all numbers as NPZ, "
        "or the basis masks of factorized attention.",
        allow_abbrev=False,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", type=Path)
    parser.add_argument("--weights", metavar="FILE", type=Path, help="that `halonet fit` wrote")
    parser.add_argument("--model", metavar="NAME", help="or a model, pyramid or detector by name, with random weights")
    size = "side of the picture; shorter side for detectors, pyramids and stereo (default: of the model)"
    parser.add_argument("--img-size", type=positive, metavar="PIXELS", help=size)
    parser.add_argument("--layer", nargs="+", metavar="NAME", help="of layers to show (default: six evenly chosen)")
    query = "pixels that attend, in the picture as the model reads it (default: three with contrast)"
    parser.add_argument("--query", nargs="+", default=[], type=pixel, metavar="X,Y", help=query)
    parser.add_argument("--head", type=number, metavar="N", help="the one to show, from 0 (default: their mean)")
    parser.add_argument("--backend", metavar="NAME", help="of the attention layers (default: the model's own)")
    rollout = "draw what the queries of the last, or the one chosen, layer have taken in of the picture, too"
    parser.add_argument("--rollout", action="store_true", help=rollout)
    parser.add_argument("--basis", action="store_true", help="draw basis masks instead, a row a picture")
    parser.add_argument("--masks", type=positive, default=3, metavar="K", help="how many of them (default 3)")
    files = "default explain.png; statistics, rollout and NPZ are named after it"
    parser.add_argument("--out", type=picture_file, default="explain.png", metavar="FILE", help=files)
    return parser


def pixel(text: str) -> tuple[int, int]:
    """An argument such as "12,40": x and y."""
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"expected X,Y in pixels, got {text!r}")
    return int(parts[0]), int(parts[1])


def number(text: str) -> int:
    """An argument such as "0"."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected an int of at least 0, got {text!r}")
    return int(text)
