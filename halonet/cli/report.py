"""`halonet report`: a run or a study as one page."""

from collections.abc import Sequence
from pathlib import Path

from halonet.cli.commands import positive
from halonet.cli.words import Parser


def report(arguments: Sequence[str]) -> int:
    """Write the page."""
    parser = Parser(
        prog="halonet report",
        description="Write a run's folder, finished or not, or a study's as one HTML page that needs no other file; "
        "several runs as a page that compares them.",
        allow_abbrev=False,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="a run's folder, several, or a study's")
    where = "default: report.html in the folder, of several runs here"
    parser.add_argument("--out", type=Path, metavar="FILE", help=where)
    alone = "show what lies in the folder alone; otherwise a classifier's weights are asked again on its test images"
    parser.add_argument("--no-compute", dest="compute", action="store_false", help=alone)
    most = "most test images that the weights are asked about, spread evenly (default 2000)"
    parser.add_argument("--max-images", type=positive, default=2000, metavar="N", help=most)
    values = parser.parse_args(arguments)
    from halonet.report import Options, write_report

    options = Options(compute=values.compute, most_images=values.max_images)
    path = write_report(values.folders, values.out, options=options)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    return 0
