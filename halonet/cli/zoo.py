"""`halonet models`: the zoo as a table, as names or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

import halonet
from halonet.cli.words import Parser, UsageError, nearest
from halonet.models.zoo import is_detector

TASKS = ("classification", "stereo", "detection")


def models(arguments: Sequence[str]) -> int:
    """Print the zoo."""
    parser = Parser(
        prog="halonet models",
        description="The models: parameters, multiply-adds, image size and published accuracy.",
        allow_abbrev=False,
    )
    parser.add_argument("pattern", nargs="?", default="*", help="such as 'halonet_h*' (default: all)")
    parser.add_argument("--task", choices=TASKS, default=TASKS[0], help="what they do (default: classification)")
    what = (
        "sort by name (the default), parameters, multiply_adds, image_size, source, or what is published: top1; "
        "stereo: epe; detection: box_ap, mask_ap"
    )
    parser.add_argument("--sort", metavar="KEY", default="name", help=what)
    parser.add_argument("--reverse", action="store_true", help="largest first; rows without a value stay last")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON, with every published line and its source")
    form.add_argument("--names", action="store_true", help="print names alone, a line each")
    values = parser.parse_args(arguments)
    names = _names_of(values.task, values.pattern)
    if not names:
        known = _names_of(values.task, "*")
        hint = nearest(values.pattern, known)
        if values.task != "detection" and is_detector(values.pattern):
            hint = ", detectors are listed by --task detection"
        raise UsageError(f"no {values.task} model matches {values.pattern!r}{hint}")
    from halonet.analysis.zoo_table import render, sort_keys, sort_rows, zoo_rows

    keys = sort_keys(values.task)
    if values.sort not in keys:
        hint = nearest(values.sort, keys)
        raise UsageError(f"sort: expected one of {', '.join(keys)}, got {values.sort!r}{hint}")
    if values.names and values.sort == "name":  # nothing of the rows is needed
        print("\n".join(reversed(names) if values.reverse else names))
        return 0
    rows = sort_rows(zoo_rows(names, task=values.task), values.sort, reverse=values.reverse)
    if values.names:
        print("\n".join(row["name"] for row in rows))
    elif values.json:
        print(json.dumps(rows, indent=2))
    else:
        print(render(rows, task=values.task))
    return 0


def _names_of(task: str, pattern: str) -> Sequence[str]:
    if task != "detection":
        return halonet.list_models(pattern, task=task)
    from halonet.detection import list_detectors  # torchvision: not for every command

    return list_detectors(pattern)
