"""Which of the data's categories a detector's labels are: by name."""

from __future__ import annotations

from collections.abc import Sequence

from halonet.data.coco import DetectionSource

ELSEWHERE = -1  # id of a label whose category the data do not have
_MOST_TOLD = 5


def ids_of_labels(known: Sequence[str] | None, source: DetectionSource, *, labels: int, weights: object) -> list[int]:
    """The data's id of each label of a detector, ELSEWHERE for a category that the data do not have.

    known: names of the labels; None for weights that tell none: label 1 is the data's first category.

    Raises:
        ValueError: a category of the data that the weights do not know, or without names another number of them.
    """
    data = {category.name: category.id for category in source.categories}
    if known is None:
        if labels != len(data):
            raise ValueError(f"{weights} is of {labels} categories, {source.name} has {len(data)}")
        return list(data.values())
    unknown = [name for name in data if name not in known]
    if unknown:
        raise ValueError(
            f"data.root: {len(unknown)} of {len(data)} categories of {source.name} are unknown to {weights}: "
            f"{_some(unknown)}; it knows {_some(known)}"
        )
    return [data.get(name, ELSEWHERE) for name in known]


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _MOST_TOLD
    return ", ".join(names[:_MOST_TOLD]) + (f" and {rest} more" if rest > 0 else "")
