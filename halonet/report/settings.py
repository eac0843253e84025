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


def agreeing_recipe(config: RunConfig) -> Recipe | None:
    """Of the recipes whose every setting holds here the one with most; None if there is none.

    A run does not record the recipe it was started with, so this is a conclusion.
    """
    here = flatten(config.to_dict())
    best: Recipe | None = None
    for name in recipe_names():
        recipe = _read(name)
        if all(_holds(value, here.get(key)) for key, value in recipe.settings.items()) and (
            best is None or len(recipe.settings) > len(best.settings)
        ):
            best = recipe
    return best


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
    different, recipe = changed(config), agreeing_recipe(config)
    rows = [
        (
            element("code", name),
            show_setting(here),
            show_setting(default),
            "as in the recipe" if recipe is not None and name in recipe.settings else "",
        )
        for name, (default, here) in different.items()
        if name != "out"
    ]
    everything = [(element("code", name), show_setting(value)) for name, value in flatten(config.to_dict()).items()]
    headings = ("setting", "here", "default", "") if recipe is not None else ("setting", "here", "default")
    shown = table(headings, [row[: len(headings)] for row in rows]) if rows else paragraph("All are the defaults.")
    content = joined(
        [_origin(recipe), shown, fold(f"All {len(everything)} settings", table(("setting", "here"), everything))]
    )
    return Section("settings", "Settings", content)


def _origin(recipe: Recipe | None) -> Markup:
    if recipe is None:
        return paragraph("No recipe of the package agrees with them in all its settings.", class_="soft")
    told = "No recipe is recorded. Of those of the package whose every setting holds here, the one with most is "
    words = fold(
        "What the recipe says of itself", element("p", joined(recipe.words.splitlines(), "<br>"), class_="soft")
    )
    return joined(
        [paragraph(told, element("code", recipe.name), f" ({len(recipe.settings)} settings).", class_="soft"), words]
    )


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
