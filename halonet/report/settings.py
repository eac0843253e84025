"""A run's settings: what was changed, which recipe they agree with, and all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from halonet.report.markup import Markup, Section, element, fold, joined, paragraph, table
from halonet.training.config import RunConfig
from halonet.training.settings import RECIPES, flatten, recipe_names


@dataclass(frozen=True)
class Recipe:
    """A recipe of the package: its dotted settings, and the words that it opens with."""

    name: str
    settings: Mapping[str, Any]
    words: str


def changed(config: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Dotted settings that are not the defaults, as (default, here)."""
    defaults = flatten(RunConfig().to_dict())
    return {
        name: (defaults[name], value) for name, value in flatten(config.to_dict()).items() if value != defaults[name]
    }


def nearest_recipe(config: RunConfig) -> tuple[Recipe, list[str]] | None:
    """The recipe that a run was most likely started with, and those of its settings that do not hold here.

    A run does not record it, so this is a conclusion: of all recipes the one whose settings that hold and are no
    defaults outnumber those that do not hold by most; None if there is none.
    """
    here, defaults = flatten(config.to_dict()), flatten(RunConfig().to_dict())
    best: tuple[int, Recipe, list[str]] | None = None
    for name in recipe_names():
        recipe = _read(name)
        departs = [key for key, value in recipe.settings.items() if not _holds(value, here.get(key))]
        telling = [key for key, value in recipe.settings.items() if key not in departs and value != defaults.get(key)]
        lead = len(telling) - len(departs)
        if lead > 0 and (best is None or lead > best[0]):
            best = lead, recipe, departs
    return best and best[1:]


@cache
def _read(name: str) -> Recipe:
    contents = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    words = [line[1:].strip() for line in contents.splitlines() if line.startswith("#")]
    return Recipe(name, flatten(yaml.safe_load(contents)), "\n".join(words))


def _holds(told: Any, here: Any) -> bool:
    """Tables of a recipe may be added to."""
    if isinstance(told, Mapping):
        return isinstance(here, Mapping) and all(key in here and here[key] == value for key, value in told.items())
    return bool(told == here)


def settings_section(config: RunConfig) -> Section:
    """What differs from the defaults, then everything, folded."""
    different, found = changed(config), nearest_recipe(config)
    recipe, departs = found or (None, [])
    rows = [
        (
            element("code", name),
            show_setting(here),
            show_setting(default),
            _of_recipe(name, recipe, departs),
        )
        for name, (default, here) in different.items()
        if name != "out"
    ]
    everything = [(element("code", name), show_setting(value)) for name, value in flatten(config.to_dict()).items()]
    headings = ("setting", "here", "default", "") if recipe is not None else ("setting", "here", "default")
    shown = table(headings, [row[: len(headings)] for row in rows]) if rows else paragraph("All are the defaults.")
    content = joined(
        [
            _origin(recipe, departs),
            shown,
            fold(f"All {len(everything)} settings", table(("setting", "here"), everything)),
        ]
    )
    return Section("settings", "Settings", content)


def _of_recipe(name: str, recipe: Recipe | None, departs: Sequence[str]) -> str:
    if recipe is None or name not in recipe.settings:
        return ""
    return f"recipe: {show_setting(recipe.settings[name])}" if name in departs else "as in the recipe"


def _origin(recipe: Recipe | None, departs: Sequence[str]) -> Markup:
    if recipe is None:
        return paragraph("No recipe is recorded, and none of the package comes near these settings.", class_="soft")
    total = len(recipe.settings)
    hold = f"all its {total} settings hold" if not departs else f"{total - len(departs)} of its {total} settings hold"
    told = [
        "No recipe is recorded. The nearest of the package is ",
        element("code", recipe.name),
        f": {hold}",
        f"; not {', '.join(departs)}." if departs else ".",
    ]
    words = element("p", joined(recipe.words.splitlines(), "<br>"), class_="soft")
    return joined([paragraph(*told, class_="soft"), fold("What the recipe says of itself", words)])


def settings_apart(configs: Sequence[RunConfig]) -> list[tuple[str, list[Any]]]:
    """Dotted settings that several runs do not share, each with its values; where results go is left out."""
    flat = [flatten(config.to_dict()) for config in configs]
    told = [(name, [values[name] for values in flat]) for name in flat[0] if name not in ("out", "name")]
    return [(name, values) for name, values in told if any(value != values[0] for value in values)]


def show_setting(value: Any) -> str:
    """A value as YAML has it, on one line."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if value not in ({}, []) else "none"
