"""`halonet explore`: a local page on which one sees where a picture's pixels attend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from halonet.cli.commands import positive
from halonet.cli.words import Parser


def explore(arguments: Sequence[str]) -> int:
    """Serve the page until Ctrl-C."""
    parser = Parser(
        prog="halonet explore",
        description="Show in a browser where a picture's pixels attend, what another block or halo would cost, and "
        "what a model answers. The page is served to this machine alone (127.0.0.1); nothing is sent anywhere.",
        allow_abbrev=False,
    )
    parser.add_argument("image", nargs="?", metavar="IMAGE", type=Path, help="to begin with (default: a drawn scene)")
    parser.add_argument(
        "--weights", nargs="+", default=[], metavar="FILE", type=Path, help="that `halonet fit` wrote, of any task"
    )
    parser.add_argument(
        "--model", nargs="+", default=[], metavar="NAME", help="models or detectors to offer first, with random weights"
    )
    parser.add_argument(
        "--img-size", type=positive, metavar="PIXELS", help="side of the picture at first (default: of the model)"
    )
    parser.add_argument("--port", type=int, metavar="N", help="of 127.0.0.1 (default 7861, or the next that is free)")
    parser.add_argument("--no-open", dest="open_browser", action="store_false", help="do not open a browser")
    values = vars(parser.parse_args(arguments))
    from halonet.explore import explore
    from halonet.explore.worker import leave

    explore(values.pop("image"), models=values.pop("model"), **values)
    leave()
    return 0
