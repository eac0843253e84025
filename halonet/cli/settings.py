"""The settings of a run: recipes, dotted overrides, and what a checkpoint's run was set to."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from halonet.cli.words import UsageError, nearest, one_line
from halonet.training.config import RunConfig
from halonet.training.settings import RECIPES, TABLES, flatten, recipe_names, setting_names

# Settings of a task other than classification, where no recipe names one.
TASK_RECIPES = {"stereo": "stereo_drawn", "detection": "detection_drawn"}


def _refuse_unknown(name: str, where: str, options: Sequence[str] = ()) -> None:
    known = (*setting_names(), *options)
    if name in known or name.startswith(tuple(f"{table}." for table in TABLES)):
        return
    # --lr means optim.lr: the last part alone may be what was remembered.
    same_end = [key for key in known if key.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]]
    hint = f", did you mean {' or '.join(same_end[:3])}?" if same_end else nearest(name, known, cutoff=0.7)
    raise UsageError(f"{where}: no setting {name!r}{hint}")


def _read_recipe(name: str) -> Path:
    """The file that --config names: a path, or a recipe of the package."""
    path = Path(name)
    if not path.is_file():
        packaged = RECIPES / f"{name.removesuffix('.yaml')}.yaml"
        if not packaged.is_file():
            raise UsageError(f"--config: no file and no recipe {name!r}{nearest(name, recipe_names())}")
        path = packaged
    import yaml

    try:
        contents = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--config: {path} is no YAML: {one_line(ValueError(str(error)))}") from error
    if not isinstance(contents, dict):
        raise UsageError(f"--config: {path} holds no settings")
    for key, value in contents.items():
        if isinstance(getattr(RunConfig(), str(key), None), str | int | float | None) or isinstance(value, dict):
            continue
        raise UsageError(f"--config: {path}: {key} expects settings, got {value!r}")
    for key in flatten(contents):
        _refuse_unknown(key, f"--config: {path}")
    return path


def parse_settings(
    command: str,
    arguments: Sequence[str],
    *,
    description: str,
    options: Mapping[str, str],
    flags: Mapping[str, str] | None = None,
) -> tuple[RunConfig, dict[str, Any]]:
    """The merged settings and the values of the plain `options` and, of which none takes a value, `flags` (name ->
    help).

    Later beats earlier: defaults, the config.yaml of the run that --ckpt_path or --weights lies in (unless
    --config is given), --config, dotted overrides.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    given = [token[2:].split("=", 1)[0] for token in arguments if token.startswith("--")]
    flags = flags or {}
    extras = ("config", "print_config", "help", *options, *flags)
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
    for name, text in flags.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    parser.add_class_arguments(RunConfig, None)
    try:
        values = parser.parse_args(_with_base_config(arguments, given)).as_dict()
    except ArgumentError as error:
        raise UsageError(f"halonet {command}: {_tidy(str(error))}") from error
    return RunConfig.from_dict(values), {name: values[name] for name in (*options, *flags)}


def fit_settings(arguments: Sequence[str]) -> RunConfig:
    """The settings of `halonet fit ARGUMENTS`, recipes and defaults included, for `halonet.training.run.fit`.

        folder = run.fit(fit_settings(["--data.root", "photos", "--optim.lr", "0.05"]))

    Raises:
        ValueError: what the command line refuses.
    """
    return parse_settings("fit", arguments, description="Train and test.", options={})[0]


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
        return resolved if _names_task(resolved) else [*_task_recipe(values), *resolved]
    base = values.get("ckpt_path") or values.get("weights")
    if base is None:
        return [*_task_recipe(values), *resolved]
    from halonet.training.files import resolve_checkpoint, run_folder_of

    folder = run_folder_of(resolve_checkpoint(base, out=values.get("out") or RunConfig().out))
    return resolved if folder is None else ["--config", str(_read_recipe(str(folder / "config.yaml"))), *resolved]


def _task_recipe(values: Mapping[str, str]) -> list[str]:
    """The recipe that a task other than the default one begins with."""
    recipe = TASK_RECIPES.get(values.get("task", ""))
    return [] if recipe is None else ["--config", str(_read_recipe(recipe))]


def _names_task(arguments: Sequence[str]) -> bool:
    """Whether one of the --config files says its task; arguments: with paths in place of names."""
    import yaml

    paths = [token.split("=", 1)[1] for token in arguments if token.startswith("--config=")]
    paths += [path for option, path in pairwise(arguments) if option == "--config"]
    return any("task" in yaml.safe_load(Path(path).read_text(encoding="utf-8")) for path in paths)


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
