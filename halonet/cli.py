"""The command line: the only argument parsing of the house.

A subcommand is a row of COMMANDS. What a user got wrong ends in one line and exit status 2;
HALONET_TRACEBACK=1 shows where it was raised. Lightning is imported by the commands that train, when they
run.
"""

import argparse
import difflib
import errno
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import halonet
from halonet.training.config import RunConfig

RECIPES = Path(__file__).parent / "recipes"
# What the extra `train` brings.
EXTRAS = ("jsonargparse", "lightning", "matplotlib", "rich", "sklearn", "tensorboard", "torchmetrics", "yaml")


class UsageError(ValueError):
    """A command line that cannot be understood."""


@dataclass(frozen=True)
class Command:
    """`run` gets the arguments after the command's name and returns the exit status."""

    help: str
    run: Callable[[Sequence[str]], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return its exit status: 0, 2 for a user's error,
    130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        print(f"halonet {halonet.__version__}")
        return 0
    try:
        return _command(arguments[0]).run(arguments[1:])
    except KeyboardInterrupt:
        print("\nhalonet: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader, as in `halonet models | head`, has seen enough; keep the interpreter from flushing into
        # the pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        message = _one_line(error)
        if message is None or os.environ.get("HALONET_TRACEBACK"):
            raise
        print(f"halonet: error: {message}", file=sys.stderr)
        return 2


def _command(name: str) -> Command:
    if name not in COMMANDS:
        raise UsageError(f"no command {name!r}{_nearest(name, COMMANDS)}; halonet --help lists them")
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


def _one_line(error: Exception) -> str | None:
    """The user's errors as one line; None for what can only be a defect of ours."""
    text = str(error)
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left on device" in text:
        where = getattr(error, "filename", None)
        return f"no space left on the disk{f' to write {where}' if where else ''}"
    package = (getattr(error, "name", None) or "").split(".")[0]
    if isinstance(error, ModuleNotFoundError) and package in EXTRAS:
        return f"this command needs {package}, which is not installed: pip install 'halonet[train]'"
    if not isinstance(error, ValueError | OSError):
        return None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if lines[0].startswith("Caught ") and "DataLoader worker" in lines[0]:
        # A loading process hands its traceback over as text; the last line says what was wrong.
        return lines[-1].split(": ", 1)[-1]
    return " ".join(lines)


def _nearest(name: str, names: Sequence[str] | Mapping[str, Any], *, cutoff: float = 0.5) -> str:
    close = difflib.get_close_matches(name, list(names), n=3, cutoff=cutoff)
    return f", did you mean {' or '.join(close)}?" if close else ""


def setting_names() -> tuple[str, ...]:
    """Every dotted setting that a recipe or the command line may give."""
    return tuple(_flatten(RunConfig().to_dict()))


def recipe_names() -> tuple[str, ...]:
    """The recipes that come with the package, by the name that --config takes."""
    return tuple(sorted(path.stem for path in RECIPES.glob("*.yaml")))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name != "model.overrides":
            flat |= _flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def _refuse_unknown(name: str, where: str, options: Sequence[str] = ()) -> None:
    known = (*setting_names(), *options)
    if name in known or name.startswith("model.overrides."):
        return
    # --lr means optim.lr: the last part alone may be what was remembered.
    same_end = [key for key in known if key.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]]
    hint = f", did you mean {' or '.join(same_end[:3])}?" if same_end else _nearest(name, known, cutoff=0.7)
    raise UsageError(f"{where}: no setting {name!r}{hint}")


def _read_recipe(name: str) -> Path:
    """The file that --config names: a path, or a recipe of the package."""
    path = Path(name)
    if not path.is_file():
        packaged = RECIPES / f"{name.removesuffix('.yaml')}.yaml"
        if not packaged.is_file():
            raise UsageError(f"--config: no file and no recipe {name!r}{_nearest(name, recipe_names())}")
        path = packaged
    import yaml

    try:
        contents = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--config: {path} is no YAML: {_one_line(ValueError(str(error)))}") from error
    if not isinstance(contents, dict):
        raise UsageError(f"--config: {path} holds no settings")
    for key, value in contents.items():
        if isinstance(getattr(RunConfig(), str(key), None), str | int | float | None) or isinstance(value, dict):
            continue
        raise UsageError(f"--config: {path}: {key} expects settings, got {value!r}")
    for key in _flatten(contents):
        _refuse_unknown(key, f"--config: {path}")
    return path


class _Parser(argparse.ArgumentParser):
    """argparse, with our one-line errors."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help tells more)")


def _parse_settings(
    command: str, arguments: Sequence[str], *, description: str, options: Mapping[str, str]
) -> tuple[RunConfig, dict[str, Any]]:
    """The merged settings and the values of the plain `options` (name -> help).

    Later beats earlier: defaults, the config.yaml of the run that --ckpt_path or --weights lies in (unless
    --config is given), --config, dotted overrides.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    given = [token[2:].split("=", 1)[0] for token in arguments if token.startswith("--")]
    extras = ("config", "print_config", "help", *options)
    for name in given:
        _refuse_unknown(name, f"halonet {command}", extras)
    parser = ArgumentParser(
        prog=f"halonet {command}",
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
        usage=f"halonet {command} [--config RECIPE] [--SETTING VALUE ...]",
    )
    parser.add_argument("--config", action="config", help="recipe of the package or YAML file")
    for name, text in options.items():
        parser.add_argument(f"--{name}", type=str | None, default=None, help=text)
    parser.add_class_arguments(RunConfig, None)
    try:
        values = parser.parse_args(_with_base_config(arguments, given)).as_dict()
    except ArgumentError as error:
        raise UsageError(f"halonet {command}: {_tidy(str(error))}") from error
    return RunConfig.from_dict(values), {name: values[name] for name in options}


def _with_base_config(arguments: Sequence[str], given: Sequence[str]) -> list[str]:
    """--config names made paths; without any, the settings of the run that is gone on from or judged."""
    resolved: list[str] = []
    values = _option_values(arguments)
    for position, token in enumerate(arguments):
        if token.startswith("--config="):
            token = f"--config={_read_recipe(token.split('=', 1)[1])}"
        elif position and arguments[position - 1] == "--config":
            token = str(_read_recipe(token))
        resolved.append(token)
    if "config" in given:
        return resolved
    base = values.get("ckpt_path") or values.get("weights")
    if base is None:
        return resolved
    from halonet.training.files import resolve_checkpoint, run_folder_of

    folder = run_folder_of(resolve_checkpoint(base, out=values.get("out") or RunConfig().out))
    return resolved if folder is None else ["--config", str(_read_recipe(str(folder / "config.yaml"))), *resolved]


def _option_values(arguments: Sequence[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for token, following in zip(arguments, [*arguments[1:], ""], strict=False):
        if token.startswith("--"):
            name, equals, value = token[2:].partition("=")
            values[name] = value if equals else following
    return values


def _tidy(message: str) -> str:
    """jsonargparse's text as "setting: expected ..., got ..."."""
    message = " ".join(message.split())
    message = re.sub(r'Parser key "([^"]+)":', r"\1:", message)
    message = re.sub(r"<class '(\w+)'>", r"\1", message)
    message = message.replace("typing.Literal", "one of ").replace("Expected a ", "expected ")
    message = re.sub(r"\. Got value: ", ", got ", message)
    union = re.fullmatch(r"(.*): Does not validate against any of the Union subtypes .* Given value: (.*)", message)
    if union is None:
        return message
    kinds = [kind.replace("NoneType", "null") for kind in re.findall(r"- expected (one of \[.*?\]|\w+)", message)]
    return f"{union[1]}: expected {' or '.join(kinds)}, got {union[2]}"


def _fit(arguments: Sequence[str]) -> int:
    options = {"ckpt_path": "checkpoint to go on from; last: of the newest run below --out"}
    description = "Train and test; without arguments the small default model on handwritten digits."
    config, values = _parse_settings("fit", arguments, description=description, options=options)
    from halonet.training.files import resolve_checkpoint
    from halonet.training.run import Interrupted, fit

    checkpoint = values["ckpt_path"] and resolve_checkpoint(values["ckpt_path"], out=config.out)
    try:
        folder = fit(config, checkpoint=checkpoint)
    except Interrupted as interrupted:
        print(f"\n{interrupted}", file=sys.stderr)
        return 130
    if folder is not None:
        print(folder)
    return 0


def _evaluate(command: str, arguments: Sequence[str]) -> int:
    options = {
        "weights": "safetensors file that `halonet fit` wrote",
        "ckpt_path": "or a checkpoint; last: of the newest run below --out",
    }
    part = "validation" if command == "validate" else "test"
    description = f"Loss and accuracy on the {part} images, printed as JSON."
    config, values = _parse_settings(command, arguments, description=description, options=options)
    from halonet.training.files import resolve_checkpoint
    from halonet.training.run import evaluate

    weights, checkpoint = values["weights"], values["ckpt_path"]
    figures = evaluate(
        config,
        split="val" if command == "validate" else "test",
        weights=weights and Path(weights),
        checkpoint=checkpoint and resolve_checkpoint(checkpoint, out=config.out),
    )
    print(json.dumps(figures, indent=2))
    return 0


def _predict(arguments: Sequence[str]) -> int:
    parser = _Parser(prog="halonet predict", description="Name the class of pictures.", allow_abbrev=False)
    parser.add_argument("images", nargs="+", metavar="IMAGE", type=Path)
    parser.add_argument("--weights", required=True, metavar="FILE", type=Path, help="that `halonet fit` wrote")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="classes to print (default 5)")
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a line an image")
    values = parser.parse_args(arguments)
    from halonet.training.predict import predict

    predictions = predict(values.weights, values.images, top=values.top)
    if values.json:
        print(json.dumps([prediction.to_dict() for prediction in predictions], indent=2))
    else:
        for prediction in predictions:
            print(prediction.to_line(), flush=True)
    return 0


def _summary(arguments: Sequence[str]) -> int:
    parser = _Parser(
        prog="halonet summary",
        description="Stages, parameters and multiply-adds of a model.",
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", help="a name that `halonet models` lists")
    parser.add_argument("--img-size", type=int, metavar="PIXELS", help="side of the image (default: the model's own)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    values = parser.parse_args(arguments)
    from halonet.analysis import summary

    table = summary(values.name, img_size=values.img_size)
    print(table.to_json() if values.json else table.render())
    return 0


def _models(arguments: Sequence[str]) -> int:
    parser = _Parser(prog="halonet models", description="Names of models.", allow_abbrev=False)
    parser.add_argument("pattern", nargs="?", default="*", help="such as 'halonet_h*' (default: all)")
    values = parser.parse_args(arguments)
    names = halonet.list_models(values.pattern)
    if not names:
        raise UsageError(f"no model matches {values.pattern!r}{_nearest(values.pattern, halonet.list_models())}")
    print("\n".join(names))
    return 0


def bench_parser() -> argparse.ArgumentParser:
    """The words of `halonet bench`."""
    parser = _Parser(prog="halonet bench", description="Speed beside peers, on this machine.", allow_abbrev=False)
    kinds = (
        "op, layer: at the stages of models; scaling: the op on growing maps; memory: the largest map that fits; "
        "vil: Vision Longformer's layer on growing maps, its figures 5 to 7; "
        "model: whole models"
    )
    parser.add_argument("kind", choices=("op", "layer", "scaling", "memory", "model", "vil"), help=kinds)
    parser.add_argument(
        "--models", nargs="+", metavar="NAME", help="of timm's registry; model: NAME@PIXELS:BACKEND too"
    )
    parser.add_argument("--peers", nargs="+", metavar="PEER", help="all but model: what to run beside each other")
    parser.add_argument("--sides", nargs="+", type=_positive, help="scaling, vil: of maps")
    parser.add_argument("--batch", type=_positive, default=4, help="images (default 4)")
    parser.add_argument("--rounds", type=_positive, default=7, help="of timing (default 7)")
    parser.add_argument("--device", default=None, help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: bfloat16 on a GPU")
    parser.add_argument("--threads", type=_positive, help="of a CPU (default: torch's)")
    parser.add_argument("--limit", type=_positive, metavar="GIB", help="memory: default all of a GPU, 4 on a CPU")
    parser.add_argument("--compile", action="store_true", help="model: under torch.compile")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures")
    parser.add_argument("--png", type=Path, metavar="FILE", help="also draw them")
    return parser


def _bench(arguments: Sequence[str]) -> int:
    values = bench_parser().parse_args(arguments)
    from halonet.analysis.speed.run import run

    run(**vars(values))
    return 0


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive int, got {text!r}")
    return int(text)


COMMANDS: dict[str, Command] = {
    "fit": Command("train and test a model; without arguments on handwritten digits", _fit),
    "validate": Command("judge weights on validation images", lambda rest: _evaluate("validate", rest)),
    "test": Command("judge weights on test images", lambda rest: _evaluate("test", rest)),
    "predict": Command("name the class of pictures", _predict),
    "summary": Command("stages, parameters and multiply-adds of a model", _summary),
    "models": Command("list the models", _models),
    "bench": Command("speed of the op and of models beside their peers, on this machine", _bench),
}
