"""`halonet models`: every row's size as it runs and what the papers say it reaches, as a table or as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from halonet.analysis.row_counts import row_count, row_size
from halonet.models.config import nearest
from halonet.models.facts import figures
from halonet.models.published import best_published, published


@dataclass(frozen=True)
class Column:
    """A column of the table.

    key: what `--sort` and the JSON call it.
    head, unit: its two lines of heading.
    width: in characters; numbers stand on the right of it, and nothing is cut off.
    digits: after the point; None for words.
    scale: what a value is divided by.
    """

    key: str
    head: str
    unit: str
    width: int
    digits: int | None = None
    scale: float = 1.0


_SIZES = (
    Column("parameters", "parameters", "M", 11, digits=2, scale=1e6),
    Column("multiply_adds", "multiply-adds", "G", 14, digits=2, scale=1e9),
    Column("image_size", "image", "pixels", 9),
)
_SOURCE = Column("source", "published in", "", 0)
# The columns beside the name, by task.
COLUMNS: Mapping[str, tuple[Column, ...]] = {
    "classification": (*_SIZES, Column("top1", "top-1", "%", 8, digits=2), _SOURCE),
    "stereo": (*_SIZES, Column("epe", "end-point error", "pixels", 17, digits=3), _SOURCE),
    "detection": (
        *_SIZES,
        Column("box_ap", "boxes", "AP %", 6, digits=1),
        Column("mask_ap", "masks", "AP %", 6, digits=1),
        _SOURCE,
    ),
}
NOTES: Mapping[str, str] = {
    "classification": (
        "Accuracies are published, none is ours: top-1 on ImageNet's validation images, the best that a paper prints\n"
        "of the row as it stands and at this size; 21k: pretrained on ImageNet-21k. A dash: no paper prints one.\n"
    ),
    "stereo": "Errors are published, none is ours: on Scene Flow's test pairs. A dash: no paper prints one.\n",
    "detection": (
        "Precisions are published, none is ours: on COCO's validation images, of each row the line with the best\n"
        "boxes, of those with masks (--json has all lines, and their schedules). A dash: no paper prints one.\n"
    ),
}
_COUNTED = {
    "classification": "Parameters and multiply-adds are counted by us: one image of this size, 1000 classes.",
    "stereo": "Parameters and multiply-adds are counted by us: what runs on one pair of this size.",
    "detection": "Parameters and multiply-adds are counted by us: what runs on one image, 1000 boxes and 100 masks.",
}


def sort_keys(task: str) -> tuple[str, ...]:
    """What the rows of a task can be sorted by."""
    return ("name", *(column.key for column in COLUMNS[task]))


def zoo_rows(names: Sequence[str], *, task: str = "classification") -> list[dict[str, Any]]:
    """Rows ready for JSON.

    Args:
        names: rows of the task.
        task: "classification", "stereo" or "detection".

    Returns:
        A dict a row: "name", "parameters" and "multiply_adds" in whole numbers as they run, "image_size" (height,
        width) in pixels, the published figures by the task's columns and their "source" (None where there are none),
        "published" with every line of the papers and "published_sizes" with the sizes that they print.
    """
    describe = _of_detector if task == "detection" else _of_model
    rows = []
    for name in names:
        count = row_count(name, task=task)
        size = row_size(name, task=task)
        rows.append({"name": name, **asdict(count), "image_size": list(size), **describe(name, task)})
    return rows


def sort_rows(rows: Sequence[Mapping[str, Any]], key: str, *, reverse: bool = False) -> list[Mapping[str, Any]]:
    """Rows by a column, smallest first unless `reverse`; rows without a value always last, equal ones by name.

    Raises:
        ValueError: no such column.
    """
    if rows and key not in rows[0]:
        known = [name for name in rows[0] if not name.startswith("published")]
        raise ValueError(f"sort: expected one of {', '.join(known)}, got {key!r}{nearest(key, known)}")
    in_order = sorted(rows, key=lambda row: str(row["name"]))
    told = [row for row in in_order if row[key] is not None]
    told.sort(key=lambda row: row[key], reverse=reverse)
    return told + [row for row in in_order if row[key] is None]


def render(rows: Sequence[Mapping[str, Any]], *, task: str = "classification") -> str:
    """The table as text, at most 110 columns wide (detectors, whose names are long: 125), with what its figures are."""
    columns = COLUMNS[task]
    width = max(len("model"), *(len(row["name"]) for row in rows))
    lines = []
    for title, attribute in (("", "head"), ("model", "unit")):
        heads = "".join(_place(getattr(column, attribute), column) for column in columns)
        lines.append(f"{title:{width}}{heads}".rstrip())
    for row in rows:
        cells = "".join(_place(_cell(row, column), column) for column in columns)
        lines.append(f"{row['name']:{width}}{cells}".rstrip())
    many = "row" if len(rows) == 1 else "rows"
    return "\n".join([*lines, "", f"{len(rows)} {many}. {_COUNTED[task]}", NOTES[task].rstrip()])


def _place(text: str, column: Column) -> str:
    return f"  {text}" if column.key == "source" else f"{text:>{column.width}}"


def _cell(row: Mapping[str, Any], column: Column) -> str:
    value = row[column.key]
    if value is None:
        return "" if column.key == "source" else "-"
    if column.key == "image_size":
        return str(value[0]) if value[0] == value[1] else f"{value[0]}x{value[1]}"
    if column.digits is None:
        return str(value)
    if column.scale != 1:
        return f"{value / column.scale:.{column.digits}f}"
    # Published figures with the digits that a paper prints, points below each other.
    missing = column.digits - len(str(value).partition(".")[2])
    return f"{value}{' ' * missing}"


def _of_model(name: str, task: str) -> dict[str, Any]:
    best = best_published(name)
    keys = [column.key for column in COLUMNS[task] if column not in (*_SIZES, _SOURCE)]
    told = {key: None if best is None else best.figures.get(key) for key in keys}
    pretrained = best is not None and "21k" in best.data
    source = None if best is None else f"{best.source}{' (21k)' if pretrained else ''}"
    return {
        **told,
        "source": source,
        "published": [asdict(line) for line in published(name)],
        "published_sizes": [asdict(figure) for figure in figures(name) if figure.published is not None],
    }


def _of_detector(name: str, task: str) -> dict[str, Any]:
    from halonet.detection.facts import detector_facts  # torchvision: not for every command

    facts = detector_facts(name)
    told = [fact for fact in facts if "box_ap" in fact.figures]
    # With masks where some line has them: a row's boxes and masks are of one training.
    best = max(told, key=lambda fact: ("mask_ap" in fact.figures, fact.figures["box_ap"]), default=None)
    return {
        **{key: None if best is None else best.figures.get(key) for key in ("box_ap", "mask_ap")},
        "source": None if best is None else best.source,
        "published": [asdict(fact) for fact in facts],
        "published_sizes": [
            {"source": fact.source, "quantity": quantity, "published": fact.figures[quantity]}
            for fact in facts
            for quantity in ("parameters", "multiply_adds")
            if quantity in fact.figures
        ],
    }
