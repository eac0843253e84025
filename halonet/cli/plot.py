"""`halonet plot`: pictures of what is published beside what is counted and measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from halonet.cli.commands import picture_file
from halonet.cli.words import Parser


def plot(arguments: Sequence[str]) -> int:
    """Draw figures of the papers."""
    parser = Parser(prog="halonet plot", description="Figures of the papers, drawn.", allow_abbrev=False)
    kinds = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    what = "published accuracy over parameters, multiply-adds, published or measured time, with Pareto fronts"
    chart = kinds.add_parser("pareto", help=what, description=f"Draw {what}.", allow_abbrev=False)
    figures = (
        "zoo (the default), halonet_figure4, halonet_figure8, botnet_figure7, botnet_figure8, botnet_figure9, "
        "vil_table4"
    )
    chart.add_argument("--figure", default="zoo", metavar="NAME", help=figures)
    axes = (
        "parameters, multiply_adds, step_time or train_time (published, TPU v3), speed or train_speed (measured); "
        "default: the figure's own"
    )
    chart.add_argument("--x", metavar="AXIS", help=axes)
    speed = "of `halonet bench model --json`, for a measured axis"
    chart.add_argument("--speed", nargs="+", type=Path, default=[], metavar="FILE", help=speed)
    chart.add_argument("--out", type=picture_file, default="pareto.png", metavar="FILE", help="default pareto.png")
    chart.add_argument("--json", type=Path, metavar="FILE", help="also write the points")
    values = parser.parse_args(arguments)
    from halonet.analysis.pareto import AXES, pareto
    from halonet.analysis.pareto_plot import draw
    from halonet.analysis.speed.measuring import write_report

    result = pareto(values.figure, axis=values.x, speed=values.speed)
    draw(result, values.out)
    write_report({"x": AXES[result.axis], "y": "published top-1, %", **asdict(result)}, values.json)
    on_front = [point.label for point in result.points if point.on_overall_front]
    print(f"{len(result.points)} points; on the front of all: {', '.join(on_front)}")
    for told in (*result.left_out, *result.notes):
        print(f"left out or different: {told}")
    print(values.out)
    return 0
