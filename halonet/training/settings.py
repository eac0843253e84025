"""Settings by dotted name, and the recipes that come with the package."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halonet.training.config import RunConfig

RECIPES = Path(__file__).parents[1] / "recipes"
# Settings whose value is a table of the user's own names.
TABLES = ("model.overrides", "detection.annotations", "detection.images")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name, as {"optim.lr": 0.2}; `TABLES` stay whole."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name not in TABLES:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def setting_names() -> tuple[str, ...]:
    """Every dotted setting that a recipe or the command line may give."""
    return tuple(flatten(RunConfig().to_dict()))


def recipe_names() -> tuple[str, ...]:
    """The recipes that come with the package, by the name that --config takes."""
    return tuple(sorted(path.stem for path in RECIPES.glob("*.yaml")))
