"""`halonet data`: what a data set holds, and the same as shards."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args, get_type_hints

from halonet.cli.commands import positive
from halonet.cli.words import Parser

if TYPE_CHECKING:
    from halonet.data import ImageSource


def data(arguments: Sequence[str]) -> int:
    """Look at data, or write them anew."""
    values = _parser().parse_args(arguments)
    from halonet.data import DataConfig, open_source

    source = open_source(DataConfig(root=values.root, dataset=values.dataset, class_map=values.class_map))
    if values.what == "list":
        print(json.dumps(_facts(source), indent=2, ensure_ascii=False) if values.json else _told(source))
        return 0
    from halonet.data.shard_writer import write_shards

    write_shards(
        source,
        values.out,
        images_per_shard=values.images_per_shard,
        seed=values.seed,
        jobs=values.jobs,
        say=lambda line: print(line, flush=True),
    )
    print(values.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    from halonet.data.config import DataConfig

    parser = Parser(prog="halonet data", description="Data sets for classification.", allow_abbrev=False)
    whats = parser.add_subparsers(dest="what", required=True, metavar="WHAT", parser_class=Parser)
    common = Parser(add_help=False, allow_abbrev=False)
    forms = get_args(get_type_hints(DataConfig)["dataset"])
    common.add_argument("--dataset", choices=forms, default="auto", help="its form (default: told by what lies there)")
    common.add_argument("--class-map", metavar="FILE", help="JSON or text file with names of classes")
    text = "form, parts, counts and classes of a data set"
    listing = whats.add_parser("list", parents=[common], help=text, description=text.capitalize(), allow_abbrev=False)
    listing.add_argument("root", metavar="FOLDER", help="or a pattern of shards")
    listing.add_argument("--json", action="store_true", help="print JSON, with every class")
    text = "write a data set as WebDataset shards, its image files byte for byte; goes on where it was stopped"
    shard = whats.add_parser("shard", parents=[common], help=text, description=text.capitalize(), allow_abbrev=False)
    shard.add_argument("root", metavar="FOLDER")
    shard.add_argument("out", metavar="OUT", type=Path, help="folder for the shards")
    shard.add_argument("--images-per-shard", type=positive, default=1000, metavar="N", help="at most (default 1000)")
    shard.add_argument("--jobs", type=positive, default=1, metavar="N", help="processes that write (default 1)")
    shard.add_argument("--seed", type=int, default=0, help="of the order of the images (default 0)")
    return parser


def _facts(source: "ImageSource") -> dict[str, object]:
    return {
        "name": source.name,
        "form": source.form,
        "images": {name: source.counts.get(name) for name in source.splits},
        "test_is_val": source.test_is_val,
        "classes": [
            {"number": number, "id": key, "name": name}
            for number, (key, name) in enumerate(
                zip(source.class_ids or source.class_names, source.class_names, strict=True)
            )
        ],
    }


def _told(source: "ImageSource") -> str:
    counts = source.counts
    parts = [f"{counts.get(name, 'an unknown number of')} {name}" for name in source.splits]
    lines = [f"{source.name}: {source.form}", f"images: {', '.join(parts)}"]
    if source.test_is_val:
        lines.append("there is no test part of its own: the validation images serve twice")
    names = [
        name if key == name else f"{key} {name}"
        for key, name in zip(source.class_ids or source.class_names, source.class_names, strict=True)
    ]
    lines.append(f"classes: {source.num_classes}")
    shown = range(len(names)) if len(names) <= 10 else (0, 1, 2, len(names) - 1)
    lines += [f"{number:6d}  {names[number]}" for number in shown]
    return "\n".join(lines)
