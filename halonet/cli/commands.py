"""What each command reads and runs. Lightning is imported by the commands that train, when they run."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from halonet.cli.detectors import refuse_detector
from halonet.cli.settings import parse_settings
from halonet.cli.words import Parser


def fit(arguments: Sequence[str]) -> int:
    """Train and test."""
    options = {"ckpt_path": "checkpoint to go on from; last: of the newest run below --out"}
    description = "Train and test; without arguments the small default model on handwritten digits."
    config, values = parse_settings("fit", arguments, description=description, options=options)
    from halonet.training import run
    from halonet.training.files import resolve_checkpoint
    from halonet.training.interruption import Interrupted

    checkpoint = values["ckpt_path"] and resolve_checkpoint(values["ckpt_path"], out=config.out)
    try:
        folder = run.fit(config, checkpoint=checkpoint)
    except Interrupted as interrupted:
        if run.first_process():
            print(f"\n{interrupted}", file=sys.stderr)
        return interrupted.status
    if folder is not None:
        print(folder)
    return 0


def summary(arguments: Sequence[str]) -> int:
    """Print what a model is made of."""
    parser = Parser(
        prog="halonet summary",
        description="Stages, parameters and multiply-adds of a model.",
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", help="a name that `halonet models` lists")
    parser.add_argument("--img-size", type=int, metavar="PIXELS", help="side of the image (default: the model's own)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    values = parser.parse_args(arguments)
    refuse_detector(values.name, instead="halonet analyse detectors NAME tells what its parts cost")
    from halonet import analysis

    table = analysis.summary(values.name, img_size=values.img_size)
    print(table.to_json() if values.json else table.render())
    return 0


def analyse(arguments: Sequence[str]) -> int:
    """Print what a mechanism, or a detector, costs."""
    description = "What mechanisms and detectors cost, by formula and counted."
    parser = Parser(prog="halonet analyse", description=description, allow_abbrev=False)
    kinds = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    what = "factorized and conventional attention, as the paper prints it, as it should be, as it runs"
    formulas = kinds.add_parser("complexity", help=what, description=f"Costs of {what}.", allow_abbrev=False)
    formulas.add_argument("--side", type=positive, default=64, help="of the square map, in pixels (default 64)")
    formulas.add_argument("--channels", type=positive, default=64, help="of the map (default 64)")
    formulas.add_argument("--basis", type=positive, default=32, help="of the basis, or of keys (default 32)")
    formulas.add_argument("--value", type=positive, help="channels of values (default: those of the basis)")
    formulas.add_argument("--heads", type=positive, default=2, help="of the forms that have them (default 2)")
    formulas.add_argument("--no-measure", dest="measure", action="store_false", help="formulas alone")
    formulas.add_argument("--json", type=Path, metavar="FILE", help="also write the figures")
    formulas.add_argument("--png", type=picture_file, metavar="FILE", help="also draw the paper's figures 4 and 5")
    what = "detectors, part by part, and published figures beside what gives them"
    detectors = kinds.add_parser("detectors", help=what, description=f"Costs of {what}.", allow_abbrev=False)
    detectors.add_argument("pattern", nargs="?", default="*", help="such as 'maskrcnn_vil*' (default: all rows)")
    size = "of the image in pixels (default: the row's own)"
    detectors.add_argument("--size", nargs=2, type=positive, metavar=("H", "W"), help=size)
    detectors.add_argument("--json", type=Path, metavar="FILE", help="also write the figures")
    values = vars(parser.parse_args(arguments))
    if values.pop("what") == "detectors":
        from halonet.analysis.detector_table import run_detectors

        values["size"] = values["size"] and tuple(values["size"])
        run_detectors(**values)
        return 0
    from halonet.analysis.complexity_table import run_complexity

    run_complexity(**values)
    return 0


def bench_parser() -> argparse.ArgumentParser:
    """The words of `halonet bench`."""
    parser = Parser(prog="halonet bench", description="Speed beside peers, on this machine.", allow_abbrev=False)
    kinds = (
        "op, layer: at the stages of models; scaling: the op on growing maps; memory: the largest map that fits; "
        "vil: Vision Longformer's layer on growing maps, its figures 5 to 7; "
        "factorized: factorized beside non-local attention on growing maps; "
        "loader: reading and augmenting images; model: whole models; "
        "detection: backbones and whole detectors beside torchvision's, and the memory of their attention"
    )
    choices = ("op", "layer", "scaling", "memory", "model", "vil", "factorized", "loader", "detection")
    parser.add_argument("kind", choices=choices, help=kinds)
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="NAME",
        help="of timm's registry; model: NAME@PIXELS:BACKEND too; detection: rows",
    )
    parser.add_argument(
        "--peers", nargs="+", metavar="PEER", help="all but model: what to run beside each other, or of detection"
    )
    parser.add_argument(
        "--sides", nargs="+", type=positive, help="scaling, vil, factorized: of maps; detection: of images"
    )
    parser.add_argument("--batch", type=positive, help="images (default 4; loader: 64, detection: 1)")
    parser.add_argument("--rounds", type=positive, default=7, help="of timing (default 7)")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="loader: a data set (default: generated images)")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="loader: loading processes (default: as many as cores)"
    )
    parser.add_argument("--device", default=None, help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: bfloat16 on a GPU")
    parser.add_argument("--threads", type=positive, help="of a CPU (default: torch's)")
    limit = (
        "memory: default all of a GPU, 4 on a CPU; factorized: default half of what is free, 8 GB at most; detection: 4"
    )
    parser.add_argument("--limit", type=positive, metavar="GIB", help=limit)
    parser.add_argument("--compile", action="store_true", help="model: under torch.compile")
    modes = ("inference", "training step")
    parser.add_argument("--modes", nargs="+", choices=modes, help="model: which to measure (default: both)")
    apart = "model: one after the other, so that one alone is in memory (default: rounds over all)"
    parser.add_argument("--apart", action="store_true", help=apart)
    clock = "model: time of the processor in place of the clock, where a CPU does other things too"
    parser.add_argument("--processor-time", action="store_true", help=clock)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures")
    parser.add_argument("--png", type=picture_file, metavar="FILE", help="also draw them")
    return parser


def bench(arguments: Sequence[str]) -> int:
    """Measure on this machine."""
    values = bench_parser().parse_args(arguments)
    from halonet.analysis.speed.run import run

    run(**vars(values))
    return 0


def positive(text: str) -> int:
    """An argument such as "4"."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive int, got {text!r}")
    return int(text)


def picture_file(text: str) -> Path:
    """An argument such as "front.png": where a picture goes."""
    if not text.endswith((".png", ".svg")):
        raise argparse.ArgumentTypeError(f"expected a file that ends in .png or .svg, got {text!r}")
    return Path(text)
