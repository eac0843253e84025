"""What the papers say about the sizes of our rows: the committed table `facts.json`.

HaloNet is arXiv 2103.12731, BoTNet arXiv 2101.11605, Vision Longformer arXiv 2103.15358, PSMNet arXiv 1803.08669,
Shen et al. arXiv 1812.01243.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

QUANTITIES = ("parameters", "multiply_adds")


@dataclass(frozen=True)
class Figure:
    """One figure of a row, as a paper prints it and as it was counted again.

    Parameters are in millions, multiply-adds in billions for one image.

    quantity: "parameters" or "multiply_adds".
    image_size: side of the square image in pixels; None where it makes no difference.
    published: the printed value; None where the paper gives none.
    tolerance: largest difference between printed and counted that the printing allows; None where they do not meet,
        which the note explains.
    convention: the paper's way of counting, see `halonet.analysis.cost.CONVENTIONS`.
    counted: the value of an independent count by that convention, to its last digit; None where there was none.
    source: paper and table, or "computed".
    note: where the paper leaves something open or contradicts itself.
    options: what `create_model` is to be given beside the row's name.
    """

    quantity: str
    image_size: int | None
    published: float | None
    tolerance: float | None
    convention: str
    counted: float | None
    source: str
    note: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def contradicted(self) -> bool:
        """Whether the printed figure cannot be met by what the paper describes."""
        return self.published is not None and self.tolerance is None


def figures(name: str) -> tuple[Figure, ...]:
    """The figures known of a row of the zoo; empty for a row that no paper speaks of."""
    return _table().get(name, ())


def known_rows() -> list[str]:
    """Names of the rows that have figures, sorted."""
    return sorted(_table())


@cache
def _table() -> dict[str, tuple[Figure, ...]]:
    text = resources.files("halonet.models").joinpath("facts.json").read_text(encoding="utf-8")
    return {name: tuple(Figure(**figure) for figure in row) for name, row in json.loads(text).items()}
