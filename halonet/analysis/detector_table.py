"""`halonet analyse detectors`: what rows cost, part by part, and the published figures beside what gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from halonet.analysis.detector_cost import IMAGE_SIZE, PARTS, DetectorCost, detector_cost, own_size
from halonet.analysis.detector_rules import RULES, printed, ruled_cost
from halonet.analysis.speed.measuring import write_report
from halonet.detection import DETECTORS, detector_config, list_detectors
from halonet.detection.facts import DetectorFact, detector_facts
from halonet.models.config import nearest

UNITS = {"parameters": 1e6, "multiply_adds": 1e9}
_SIZES = {"parameters": "M", "multiply_adds": "G"}


def run_detectors(*, pattern: str = "*", size: tuple[int, int] | None = None, json: Path | None = None) -> None:
    """Prints the table of the rows that match, and writes it where a file is asked for.

    Args:
        pattern: of names of `list_detectors()`, with shell wildcards.
        size: (height, width) of the image in pixels; that of each row if None.
        json: file for everything, counts in whole numbers.

    Raises:
        ValueError: no row matches, or a size that is not positive.
    """
    names = list_detectors(pattern)
    if not names:
        raise ValueError(f"no detector matches {pattern!r}{nearest(pattern, DETECTORS)}")
    rows = []
    _print_heads(max(map(len, names)))
    for name in names:
        rows.append(row_of(name, size))
        _print_row(rows[-1], max(map(len, names)))
    print(
        "\nparameters in millions, multiply-adds in billions (one multiply-accumulate is 1) of what runs on one image: "
        "box head\non 1000 boxes, mask head on 100; a RetinaNet's two heads stand under proposals."
    )
    published = [figure for name in names for fact in detector_facts(name) for figure in figures_of(fact)]
    _print_published(published)
    facts = [fact for name in names for fact in detector_facts(name) if "box_ap" in fact.figures]
    _print_precisions(facts)
    if json:
        rules = {name: rule.what for name, rule in RULES.items()}
        report = {"rows": rows, "rules": rules, "published": published, "facts": [asdict(fact) for fact in facts]}
        write_report(report, json)


def row_of(name: str, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """A row's cost, ready for JSON: "parts" and "total" of parameters and multiply-adds in whole numbers."""
    cost: DetectorCost = detector_cost(name, image_size=size or own_size(name))
    row = {**asdict(cost), "parts": {part: asdict(count) for part, count in cost.parts.items()}}
    return {**row, "source": detector_config(name).source, "total": asdict(cost.total)}


def figures_of(fact: DetectorFact) -> list[dict[str, Any]]:
    """The sizes that a line prints, each beside what its rule gives and what runs at the size that it is said to be of.

    Returns:
        A dict a figure: "row", "source", "label", "quantity", "published", "by_rule" and "executed" in millions or
        billions, "difference" of the rule, "reproduced" (to the printed digit), "rule" and "note".
    """
    told = [quantity for quantity in UNITS if quantity in fact.figures]
    if not told or not fact.rule:
        return []
    ruled, runs = ruled_cost(fact.row, fact.rule), executed(fact)
    figures = []
    for quantity in told:
        value = fact.figures[quantity]
        by_rule = getattr(ruled, quantity) / UNITS[quantity]
        cuts = RULES[fact.rule].cuts and quantity == "multiply_adds"
        figures.append(
            {
                **{name: getattr(fact, name) for name in ("row", "source", "label", "rule")},
                "quantity": quantity,
                "published": value,
                "by_rule": by_rule,
                "difference": by_rule - value,
                "reproduced": printed(by_rule, value, cuts=cuts) == value,
                "executed": runs[quantity] / UNITS[quantity],
                "note": fact.note,
            }
        )
    return figures


def executed(fact: DetectorFact) -> dict[str, int]:
    """What the row of a fact has and does at the size that it was counted at: the backbone alone, or all of it."""
    alone = "backbone alone" in fact.setting
    cost = detector_cost(fact.row, image_size=own_size(fact.row) if alone else IMAGE_SIZE)
    count = cost.parts["backbone"] if alone else cost.total
    return asdict(count)


def _print_heads(width: int) -> None:
    heads = [part.split()[0] for part in PARTS if part != "dense head"]
    line = "".join(f"{head:>10}" for head in [*heads, "total"])
    print(f"{'':{width}} {'parameters, M':>22}{'multiply-adds, G':>28}")
    print(f"{'detector':{width}} {'backbone':>10}{'all':>10}{'image':>12}{line}")


def _print_row(row: Mapping[str, Any], width: int) -> None:
    parts = row["parts"]
    columns = ("backbone", "pyramid", "proposals", "box head", "mask head")
    counts = [parts.get(part) or (parts.get("dense head") if part == "proposals" else None) for part in columns]
    cells = ["-" if count is None else f"{count['multiply_adds'] / 1e9:.2f}" for count in [*counts, row["total"]]]
    sizes = [f"{count['parameters'] / 1e6:.3f}" for count in (parts["backbone"], row["total"])]
    image = "x".join(map(str, row["padded_size"]))
    print(
        f"{row['name']:{width}} {sizes[0]:>10}{sizes[1]:>10}{image:>12}{''.join(f'{c:>10}' for c in cells)}", flush=True
    )


def _print_published(figures: Sequence[Mapping[str, Any]]) -> None:
    if not figures:
        print("\npublished sizes: none of these rows")
        return
    print(f"\n{'published sizes':42}{'published':>14}{'by its rule':>13}{'difference':>12}{'what runs':>12}")
    for figure in figures:
        quantity = figure["quantity"]
        numbers = f"{figure['by_rule']:13.3f}{figure['difference']:+12.3f}{figure['executed']:12.3f}"
        verdict = "" if figure["reproduced"] else "  NOT MET"
        name = f"{figure['source']}, {figure['label']}"
        value = f"{figure['published']} {_SIZES[quantity]}"
        print(f"{name:42}{value:>14}{numbers}  {figure['rule']}{verdict}")
    print()
    for note in dict.fromkeys(f"{f['source']}, {f['label']}: {f['note']}" for f in figures if f["note"]):
        print(note)
    for name in dict.fromkeys(figure["rule"] for figure in figures):
        print(f"rule {name}: {RULES[name].what}")
    print("what runs: at 800x1333 (backbones of BoTNet: at their own size), filled up to multiples of 32, 91 classes")


def _print_precisions(facts: Sequence[DetectorFact]) -> None:
    if not facts:
        return
    print("\naverage precisions on COCO as published, %; none of them measured by us")
    for fact in facts:
        box, mask = (fact.figures.get(name) for name in ("box_ap", "mask_ap"))
        told = f"boxes {box:.1f}" + ("" if mask is None else f", masks {mask:.1f}")
        print(f"  {fact.row:45} {told:26} {fact.source}, {fact.label}{f', {fact.setting}' if fact.setting else ''}")
