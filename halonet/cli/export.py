"""`halonet export`: a model as an ONNX file, a program of torch.export, or a folder of the Hugging Face Hub."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from halonet.cli.commands import positive
from halonet.cli.detectors import refuse_detector
from halonet.cli.words import Parser, UsageError


def export(arguments: Sequence[str]) -> int:
    """Write a model for others."""
    values = _parse(arguments)
    from halonet.export.programs import check_installed
    from halonet.export.source import open_source

    refuse_detector(values.source, instead="its weights stay safetensors, which halonet.detection.load_detector opens")
    check_installed(values.format)
    source = open_source(values.source, img_size=values.img_size and (values.img_size[0], values.img_size[-1]))
    (_write_hub if values.format == "hub" else _write_program)(source, values)
    if not source.trained:
        print(f"{values.source} is a model's name: its weights are random", file=sys.stderr)
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="halonet export",
        description="Write a model as an ONNX file or a program of torch.export, compared with the model before it is "
        "left, or as a folder of the Hugging Face Hub.",
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="SOURCE", help="a run's folder, a file of weights, or a model by name")
    parser.add_argument("--format", required=True, choices=("onnx", "pt2", "hub"), help="what to write")
    parser.add_argument("--out", required=True, type=Path, metavar="PATH", help="file to write; hub: a folder")
    size = "side, or height and width (default: the model's)"
    parser.add_argument("--img-size", nargs="+", type=positive, metavar="PIXELS", help=size)
    parser.add_argument("--softmax", action="store_true", help="onnx, pt2: probabilities in place of logits")
    parser.add_argument("--opset", type=positive, help="onnx: of its operators (default: torch's choice)")
    parser.add_argument("--push", metavar="USER/NAME", help="hub: also send the folder there")
    parser.add_argument("--license", metavar="NAME", help="hub: of the weights (default: apache-2.0)")
    parser.add_argument("--json", action="store_true", help="onnx, pt2: print JSON instead of lines")
    values = parser.parse_args(arguments)
    if values.img_size is not None and len(values.img_size) > 2:
        raise UsageError(f"img-size: expected a side, or height and width, got {len(values.img_size)} numbers")
    for option, formats in (
        ("push", ("hub",)),
        ("license", ("hub",)),
        ("softmax", ("onnx", "pt2")),
        ("json", ("onnx", "pt2")),
        ("opset", ("onnx",)),
    ):
        if getattr(values, option) and values.format not in formats:
            raise UsageError(f"--{option} has no meaning for the format {values.format}")
    if values.out.is_file() if values.format == "hub" else values.out.is_dir():
        wanted, found = ("folder", "file") if values.format == "hub" else ("file", "folder")
        raise UsageError(f"out: expected a {wanted} to write, {values.out} is a {found}")
    return values


def _write_program(source: Any, values: argparse.Namespace) -> None:
    from halonet.export import Exporter
    from halonet.export.source import program_metadata

    exporter = Exporter(source.model, softmax=values.softmax)
    written = exporter.write(values.out, format=values.format, opset=values.opset, metadata=program_metadata(source))
    if values.json:
        print(json.dumps(written.to_dict(), indent=2))
        return
    for item in written.comparisons:
        share = f"{item.relative:.1e} of the answer (at most {item.bound:.1e})"
        print(f"batch of {item.batch}: largest difference from the model {item.largest:.1e}, {share}")
    print(f"{written.path}: {written.megabytes:.1f} MB")


def _write_hub(source: Any, values: argparse.Namespace) -> None:
    from halonet.export.source import write_hub_folder
    from halonet.models.model_card import LICENSE

    facts = write_hub_folder(source, values.out, license=values.license or LICENSE, repo_id=values.push)
    print(values.out)
    if values.push:
        print(source.model.push_to_hub(values.push, model_card_kwargs=facts))
