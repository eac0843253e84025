"""`halonet data`: what a data set holds, the same as shards, what is wrong with annotations, drawn scenes as files."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args, get_type_hints

from halonet.cli.commands import positive
from halonet.cli.words import Parser, UsageError

if TYPE_CHECKING:
    from halonet.data import ImageSource
    from halonet.data.coco.check import Check


def data(arguments: Sequence[str]) -> int:
    """Look at data, or write them anew."""
    values = _parser().parse_args(arguments)
    return {"list": _list, "shard": _shard, "check": _check, "draw": _draw}[values.what](values)


def _list(values: argparse.Namespace) -> int:
    source = _source(values)
    print(json.dumps(_facts(source), indent=2, ensure_ascii=False) if values.json else _told(source))
    return 0


def _shard(values: argparse.Namespace) -> int:
    from halonet.data.shard_writer import write_shards

    write_shards(
        _source(values),
        values.out,
        images_per_shard=values.images_per_shard,
        seed=values.seed,
        jobs=values.jobs,
        say=lambda line: print(line, flush=True),
    )
    print(values.out)
    return 0


def _check(values: argparse.Namespace) -> int:
    """1 where something is wrong."""
    from halonet.data.coco import DetectionConfig
    from halonet.data.coco.check import look_through

    detection = DetectionConfig(annotations=_by_part(values.annotations), images=_by_part(values.images))
    check = look_through(values.root, detection=detection, open_images=values.open_images, jobs=values.jobs)
    print(json.dumps(_check_facts(check), indent=2, ensure_ascii=False) if values.json else _check_told(check))
    return 1 if check.problems else 0


def _draw(values: argparse.Namespace) -> int:
    from halonet.data.coco.open import drawn_source
    from halonet.data.coco.write import write_coco

    source = drawn_source(values.images, size=values.size, seed=values.seed)
    write_coco(source, values.folder, say=lambda line: print(line, flush=True))
    print(values.folder)
    return 0


def _source(values: argparse.Namespace) -> "ImageSource":
    from halonet.data import DataConfig, open_source

    return open_source(DataConfig(root=values.root, dataset=values.dataset, class_map=values.class_map))


def _parser() -> argparse.ArgumentParser:
    from halonet.data.config import DataConfig

    parser = Parser(prog="halonet data", description="Data sets: what they hold, and their files.", allow_abbrev=False)
    whats = parser.add_subparsers(dest="what", required=True, metavar="WHAT", parser_class=Parser)
    common = Parser(add_help=False, allow_abbrev=False)
    forms = get_args(get_type_hints(DataConfig)["dataset"])
    common.add_argument("--dataset", choices=forms, default="auto", help="its form (default: told by what lies there)")
    common.add_argument("--class-map", metavar="FILE", help="JSON or text file with names of classes")
    text = "form, parts, counts and classes of a data set"
    listing = whats.add_parser(
        "list", parents=[common], help=text, description=f"{text[0].upper()}{text[1:]}", allow_abbrev=False
    )
    listing.add_argument("root", metavar="FOLDER", help="or a pattern of shards")
    listing.add_argument("--json", action="store_true", help="print JSON, with every class")
    text = "write a data set as WebDataset shards, its image files byte for byte; goes on where it was stopped"
    shard = whats.add_parser(
        "shard", parents=[common], help=text, description=f"{text[0].upper()}{text[1:]}", allow_abbrev=False
    )
    shard.add_argument("root", metavar="FOLDER")
    shard.add_argument("out", metavar="OUT", type=Path, help="folder for the shards")
    shard.add_argument("--images-per-shard", type=positive, default=1000, metavar="N", help="at most (default 1000)")
    shard.add_argument("--jobs", type=positive, default=1, metavar="N", help="processes that write (default 1)")
    shard.add_argument("--seed", type=int, default=0, help="of the order of the images (default 0)")
    _add_coco(whats)
    return parser


def _add_coco(whats: "argparse._SubParsersAction[Parser]") -> None:
    """The words for annotated images."""
    text = "everything that is wrong with a folder of annotated images in COCO's form, a line each, and what it holds"
    status = (
        "The exit status is 0 where nothing is wrong, 1 where something is, 2 where the folder is not of that form."
    )
    check = whats.add_parser(
        "check", help=text, description=f"{text[0].upper()}{text[1:]}. {status}", allow_abbrev=False
    )
    check.add_argument("root", metavar="FOLDER")
    check.add_argument("--json", action="store_true", help="print JSON")
    told = "PART is train, val or test; default: told by what lies there"
    check.add_argument("--annotations", nargs="+", default=[], metavar="PART=FILE", help=f"below FOLDER; {told}")
    check.add_argument("--images", nargs="+", default=[], metavar="PART=FOLDER", help="below FOLDER; as above")
    check.add_argument(
        "--no-open", dest="open_images", action="store_false", help="only look whether image files are there"
    )
    check.add_argument("--jobs", type=positive, default=1, metavar="N", help="threads that open images (default 1)")
    text = "scenes of textured shapes, drawn from a seed, as images and annotations in the layout of COCO 2017"
    draw = whats.add_parser("draw", help=text, description=f"{text[0].upper()}{text[1:]}", allow_abbrev=False)
    draw.add_argument("folder", metavar="FOLDER", type=Path, help="that is not there yet, or empty")
    held_out = "validation and test get an eighth of that each, at least 32"
    draw.add_argument(
        "--images", type=positive, default=512, metavar="N", help=f"for training; {held_out} (default 512)"
    )
    draw.add_argument(
        "--size", type=positive, nargs=2, default=[128, 128], metavar=("H", "W"), help="in pixels (default 128 128)"
    )
    draw.add_argument(
        "--seed", type=natural, default=0, metavar="S", help="that all depends on; as data.split_seed (default 0)"
    )


def natural(text: str) -> int:
    """An argument such as "0"."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


def _by_part(words: Sequence[str]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words]
    for word, (_, equals, value) in zip(words, pairs, strict=True):
        if not equals or not value:
            raise UsageError(f"expected PART=PATH, got {word!r}")
    return {part: value for part, _, value in pairs}


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


def _check_facts(check: "Check") -> dict[str, object]:
    from dataclasses import asdict

    from halonet.data.coco.problems import counted

    return {
        "form": check.form,
        "parts": {split: asdict(facts) for split, facts in check.parts.items()},
        "counts": counted(check.problems),
        "problems": [{**asdict(problem), "left_out": problem.left_out} for problem in check.problems],
    }


def _check_told(check: "Check") -> str:
    from halonet.data.coco.problems import PROBLEMS, counted

    lines = [str(problem) for problem in check.problems]
    lines.append(f"form: {check.form}")
    for split, facts in check.parts.items():
        boxes = ", boxes only" if facts.boxes_only else ""
        lines.append(
            f"{split}: {facts.images} images, {facts.annotations} annotations ({facts.crowds} crowd regions{boxes}), "
            f"{facts.categories} categories; {facts.file}"
        )
    counts = counted(check.problems)
    lines.append(f"problems: {sum(counts.values())}")
    lines += [f"{count:6d}  {kind}: {PROBLEMS[kind]}" for kind, count in counts.items()]
    return "\n".join(lines)
