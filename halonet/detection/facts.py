"""What the papers print of detectors: the committed table `facts.json`, as published, none of it measured by us.

HaloNet is arXiv 2103.12731, BoTNet arXiv 2101.11605, Vision Longformer arXiv 2103.15358, Factorized Attention arXiv
1812.01243.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

# Quantities by name: average precisions on COCO's validation images in per cent, sizes and times.
QUANTITIES: Mapping[str, str] = {
    **{
        f"{kind}_ap{suffix}": f"average precision of {what}{meaning}, %"
        for kind, what in (("box", "boxes"), ("mask", "masks"))
        for suffix, meaning in {
            "": "",
            "50": " at an overlap of 0.5",
            "75": " at an overlap of 0.75",
            "_small": ", small objects",
            "_medium": ", medium objects",
            "_large": ", large objects",
        }.items()
    },
    "parameters": "millions",
    "multiply_adds": "billions, of one image",
    "memory": "GB, in training",
    "backbone_ms": "of 32 images on two TPU v3 cores",
    "step_ms": "of a training step on TPU v3",
    "train_hours": "on eight TPU v3 cores",
}


@dataclass(frozen=True)
class DetectorFact:
    """A line of a paper's table.

    row: of DETECTORS.
    source: paper and table.
    label: what the line is called there.
    setting: schedule, image size and jitter, as far as they set lines of the same row apart.
    figures: by QUANTITIES, as printed; a quantity that the table has no entry for is left out.
    rule: how sizes seem to have been counted, see `halonet.analysis.detector_rules.RULES`; "" where there are none, or
        no rule was found.
    unmet: quantities that the rule does not reproduce to the printed digit.
    note: where the paper leaves something open or contradicts itself.
    """

    row: str
    source: str
    label: str
    setting: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    rule: str = ""
    unmet: tuple[str, ...] = ()
    note: str = ""


def detector_facts(pattern: str = "*") -> tuple[DetectorFact, ...]:
    """Published lines of the rows that match, in the order of papers and tables.

    pattern: of names in DETECTORS, with shell wildcards.
    """
    return tuple(fact for fact in _table() if fnmatch.fnmatch(fact.row, pattern))


@cache
def _table() -> tuple[DetectorFact, ...]:
    text = resources.files("halonet.detection").joinpath("facts.json").read_text(encoding="utf-8")
    lines: list[dict[str, Any]] = json.loads(text)
    return tuple(DetectorFact(**{**line, "unmet": tuple(line.get("unmet", ()))}) for line in lines)
