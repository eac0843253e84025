"""What a run's model costs, and its row's published figures beside what is counted."""

from __future__ import annotations

import json
from typing import Any

from halonet.analysis.cost import CONVENTIONS
from halonet.analysis.summary import ModelSummary, stage_cells, summary
from halonet.models.checkpoints import read_metadata
from halonet.models.facts import Figure
from halonet.report.markup import Markup, Number, Section, bullets, element, facts, fold, joined, paragraph, table
from halonet.report.run_files import RunFiles

UNITS = {"parameters": (1e6, "M"), "multiply_adds": (1e9, "G")}
STAGE_HEADS = ("", "output", "slot", "blocks", "block", "halo", "neighbourhood: seen", "heads", "channels")


def sizes_section(run: RunFiles) -> Section:
    """Stages of the model as it ran, and the paper's figures of the row it comes from."""
    try:
        content = _of_detector(run) if run.config.task == "detection" else _of_model(run)
    except ValueError as error:  # a model of another version, or options that leave no whole classifier
        content = paragraph(f"The model cannot be counted here: {error}", class_="mark")
    return Section("sizes", "Model and sizes", content)


def _of_model(run: RunFiles) -> Markup:
    model = run.config.model
    here = summary(model.name, **_own_options(run), **model.overrides)
    row = here if not _own_options(run) and not model.overrides else summary(model.name)
    channels, height, width = here.input_size
    opening = facts(
        (
            ("parameters", f"{here.total.parameters:,}"),
            ("multiply-adds, an image", f"{here.total.multiply_adds / 1e9:.3f} G"),
            ("image", f"{height} x {width} x {channels}"),
        )
    )
    heads = (*STAGE_HEADS, "parameters, M", "multiply-adds, G")
    lines = [_stage(stage_cells(stage)) for stage in here.stages]
    return joined([opening, fold("Stages", table(heads, lines)), *_published(row)])


def _stage(cells: tuple[str, ...]) -> list[Any]:
    return [*cells[:-2], *(Number(float(cell), cell) for cell in cells[-2:])]


def _own_options(run: RunFiles) -> dict[str, Any]:
    """Image size, channels and classes of the run, as its weights tell them; a run that has none yet may say the
    size."""
    if run.config.task != "classification":
        return {}
    if not run.weights.is_file():
        return {} if run.config.data.img_size is None else {"img_size": run.config.data.img_size}
    metadata = read_metadata(run.weights)
    told = {name: json.loads(metadata[name]) for name in ("img_size", "in_chans") if name in metadata}
    return told | ({"num_classes": len(json.loads(metadata["class_names"]))} if "class_names" in metadata else {})


def _published(row: ModelSummary) -> list[Markup]:
    title = element("h3", "Beside the paper's figures")
    if not row.published:
        return [title, paragraph(f"No paper gives sizes of {row.name}.", class_="soft")]
    size = f"{row.input_size[1]} x {row.input_size[2]}"
    words = f"Of the row {row.name} as it stands, with its own head, at {size}; counted here by halonet summary."
    lines = [_published_line(figure, row) for figure in row.published]
    notes = list(dict.fromkeys(figure.note for figure in row.published if figure.note))
    used = sorted({figure.convention for figure in row.published})
    notes += [f"as the paper counts ({name}): {CONVENTIONS[name]}" for name in used]
    heads = ("", "counted here", "as the paper counts", "published", "source")
    return [title, paragraph(words, class_="soft"), table(heads, lines), bullets(notes)]


def _published_line(figure: Figure, row: ModelSummary) -> list[Any]:
    factor, unit = UNITS[figure.quantity]
    counts = (row.total, row.by_convention[figure.convention])
    here, there = (getattr(count, figure.quantity) / factor for count in counts)
    published = "none" if figure.published is None else f"{figure.published:g} {unit}"
    return [
        figure.quantity.replace("_", "-"),
        Number(here, f"{here:.3f} {unit}"),
        Number(there, f"{there:.3f} {unit}"),
        Number(figure.published, published),
        f"{figure.source}{', not met' if figure.contradicted else ''}",
    ]


def _of_detector(run: RunFiles) -> Markup:
    from halonet.analysis.detector_cost import detector_cost, own_size
    from halonet.analysis.detector_table import figures_of
    from halonet.detection import DETECTORS
    from halonet.detection.facts import detector_facts

    name = run.config.model.name
    if name not in DETECTORS:
        return paragraph(f"{name} is no row with figures: its parts are not counted.", class_="soft")
    size = own_size(name)
    cost = detector_cost(name, image_size=size)
    lines = [
        [part, *(Number(value, f"{value:.3f}") for value in (count.parameters / 1e6, count.multiply_adds / 1e9))]
        for part, count in (*cost.parts.items(), ("all", cost.total))
    ]
    changed = " without the run's overrides" if run.config.model.overrides else ""
    words = f"The row {name} as it stands{changed}, on an image of {size[0]} x {size[1]}."
    told = [figure for fact in detector_facts(name) for figure in figures_of(fact)]
    published: list[Any] = [paragraph(f"No paper gives sizes of {name}.", class_="soft")]
    if told:
        heads = ("", "published", "by the paper's rule", "what runs", "source")
        published = [table(heads, [_detector_line(figure) for figure in told])]
        published.append(bullets(dict.fromkeys(figure["note"] for figure in told if figure["note"])))
    return joined(
        [
            paragraph(words, class_="soft"),
            table(("part", "parameters, M", "multiply-adds, G"), lines),
            element("h3", "Beside the paper's figures"),
            *published,
        ]
    )


def _detector_line(figure: dict[str, Any]) -> list[Any]:
    unit = UNITS[figure["quantity"]][1]
    numbers = [Number(figure[name], f"{figure[name]:.3f} {unit}") for name in ("by_rule", "executed")]
    verdict = "" if figure["reproduced"] else ", not met"
    published = Number(figure["published"], f"{figure['published']:g} {unit}")
    source = f"{figure['source']}, {figure['label']}{verdict}"
    return [figure["quantity"].replace("_", "-"), published, *numbers, source]
