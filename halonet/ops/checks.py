"""Checks of plain values that ops, layers and models share."""

from __future__ import annotations

from collections.abc import Iterable


def check_positive(name: str, value: object) -> None:
    """Raises ValueError unless the value is an int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive int, got {value!r}")


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raises ValueError unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
