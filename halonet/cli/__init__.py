"""The command line: the only argument parsing of the house.

A subcommand is a row of COMMANDS. What a user got wrong ends in one line and exit status 2;
HALONET_TRACEBACK=1 shows where it was raised.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import halonet
from halonet.cli import commands, judging
from halonet.cli.commands import bench_parser
from halonet.cli.data import data
from halonet.cli.explain import explain
from halonet.cli.explore import explore
from halonet.cli.export import export
from halonet.cli.plot import plot
from halonet.cli.report import report
from halonet.cli.settings import fit_settings, recipe_names, setting_names
from halonet.cli.study import study
from halonet.cli.words import UsageError, exit_status, nearest
from halonet.cli.zoo import models

__all__ = ["COMMANDS", "bench_parser", "fit_settings", "main", "recipe_names", "setting_names"]


@dataclass(frozen=True)
class Command:
    """`run` gets the arguments after the command's name and returns the exit status."""

    help: str
    run: Callable[[Sequence[str]], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return its exit status: 0, 2 for a user's error,
    130 for Ctrl-C, 143 for SIGTERM."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        print(f"halonet {halonet.__version__}")
        return 0
    return exit_status(lambda: _command(arguments[0]).run(arguments[1:]), prog="halonet")


def _command(name: str) -> Command:
    if name not in COMMANDS:
        raise UsageError(f"no command {name!r}{nearest(name, COMMANDS)}; halonet --help lists them")
    return COMMANDS[name]


def _overview() -> str:
    width = max(len(name) for name in COMMANDS)
    rows = "\n".join(f"  {name:{width}}  {command.help}" for name, command in COMMANDS.items())
    return (
        "usage: halonet COMMAND ...\n\nLocal self-attention for vision.\n\n"
        f"commands:\n{rows}\n\n"
        "halonet COMMAND --help tells more; halonet --version prints the version.\n"
        "HALONET_TRACEBACK=1 in the environment shows where an error was raised."
    )


COMMANDS: dict[str, Command] = {
    "fit": Command("train and test a model; without arguments on handwritten digits", commands.fit),
    "study": Command("run a paper's table or figure, published beside measured", study),
    "validate": Command(
        "judge weights on validation images, or on any labelled folder", lambda rest: judging.evaluate("validate", rest)
    ),
    "test": Command("judge weights on test images", lambda rest: judging.evaluate("test", rest)),
    "predict": Command(
        "name the class of pictures, find their objects, or tell the disparity of a pair", judging.predict
    ),
    "report": Command("a run, several of them, or a study as one page that needs no other file", report),
    "summary": Command("stages, parameters and multiply-adds of a model", commands.summary),
    "models": Command("the models: sizes, image sizes and published accuracies", models),
    "plot": Command("figures of the papers: published accuracy over size and speed", plot),
    "explain": Command("draw where a picture's pixels attend, or basis masks", explain),
    "explore": Command("see on a local page where a picture's pixels attend, and what a model answers", explore),
    "analyse": Command("what mechanisms and detectors cost, by formula and counted", commands.analyse),
    "data": Command("what a data set holds, what is wrong with annotations, shards and drawn scenes", data),
    "export": Command("write a model as ONNX, a torch.export program, or a folder of the Hugging Face Hub", export),
    "bench": Command("speed of the op and of models beside their peers, on this machine", commands.bench),
}
