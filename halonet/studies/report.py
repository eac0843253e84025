"""A study's results as text: for the terminal, as Markdown and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from halonet.studies.results import Difference, Measured, Results, RowResult
from halonet.studies.study import Study


def to_text(results: Results) -> str:
    """Headings, marks, the table and the statements, for a terminal."""
    table = [_headings(results), *(_cells(results, row) for row in results.rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    left = 2  # the first columns are words
    lines = []
    for line in table:
        cells = [
            cell.ljust(width) if column < left or column == len(widths) - 1 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join([*_opening(results), "", *lines, *_closing(results)])


def to_markdown(results: Results, *, picture: str | None) -> str:
    """The same as a page; picture: file name of the plot beside it."""
    table = [_headings(results), *(_cells(results, row) for row in results.rows)]
    rule = ["---" if column < 2 or column == len(table[0]) - 1 else "---:" for column in range(len(table[0]))]
    lines = [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in [table[0], rule, *table[1:]]]
    title, *opening = _opening(results)
    parts = [f"# {title}", *(f"- {line}" for line in opening)]
    closing = [f"- {line}" if line else "" for line in _closing(results)]
    drawn = [] if picture is None else ["", f"![published beside measured]({picture})"]
    return "\n".join([parts[0], "", *parts[1:], "", *lines, *closing, *drawn]) + "\n"


def to_json(results: Results) -> str:
    """Everything, for programs."""
    study = results.study
    values = {
        "study": study.name,
        "title": study.title,
        "source": study.source,
        "published_task": study.task,
        "measures": list(study.measures),
        "form": "small" if results.small else "paper",
        "marks": list(results.marks),
        "notes": _notes(results),
        "data": results.data,
        "settings_changed": dict(results.settings),
        "environment": dict(results.environment),
        "baselines": dict(study.baselines),
        "rows": [_row_values(row) for row in results.rows],
        "statements": [
            {
                "text": result.statement.text,
                "better": result.statement.better,
                "worse": result.statement.worse,
                "published_points": result.statement.by,
                "measured": _difference_values(result.difference),
                "verdict": result.verdict,
            }
            for result in results.statements
        ],
    }
    return json.dumps(values, indent=2) + "\n"


def list_studies(studies: Sequence[Study]) -> str:
    """A line a study."""
    width = max(len(study.name) for study in studies)
    return "\n".join(
        f"{study.name:{width}}  {len(study.rows):2} rows  {study.title}{' (another task)' if study.other_task else ''}"
        for study in studies
    )


def list_rows(study: Study) -> str:
    """A study's rows with what was published and what makes them, in both forms."""
    lines = [f"{study.name}: {study.title}", study.source, f"published: {study.task}", f"recipe: {study.recipe}"]
    lines += [f"note: {note}" for note in study.notes]
    for row in study.rows:
        series = f"{row.series}: " if row.series else ""
        lines += ["", f"{row.name}  ({series}{row.label})"]
        told = ", ".join(
            f"{measure} {_plain(value)}" for measure, value in zip(study.measures, row.published, strict=True)
        )
        lines.append(f"  published  {told}{f' ({row.note})' if row.note else ''}")
        for form, settings in (("paper", row.paper), ("small", row.small)):
            if isinstance(settings, str):
                lines.append(f"  {form}      not run: {settings}")
                continue
            words = " ".join(f"{name}={json.dumps(value)}" for name, value in {**row.settings, **settings}.items())
            lines.append(f"  {form}      {words or 'as the study'}")
    return "\n".join(lines)


def _opening(results: Results) -> list[str]:
    study = results.study
    lines = [f"{study.name}: {study.title}", f"published: {study.task}; {study.source}"]
    if results.data:
        lines.append(f"measured: top-1 accuracy on the test images of {results.data}")
    return [*lines, *(f"MARK: {mark}" for mark in results.marks)]


def _headings(results: Results) -> list[str]:
    measures = [f"published {measure}" for measure in results.study.measures]
    return ["row", "", *measures, "diff.", "measured %", "diff.", "parameters", "state"]


def _cells(results: Results, result: RowResult) -> list[str]:
    row, measured = result.row, result.measured
    base = row.name == results.study.baselines[row.series]
    mark = row.small_mark if results.small else row.mark
    label = row.label + (f" {mark}" if mark and mark not in row.label else "")
    apart = result.difference
    return [
        row.series or row.name,
        label,
        *(_plain(value) for value in row.published),
        "base" if base else show_signed(result.published_difference),
        show_measured(measured),
        "base" if base else show_signed(None if apart is None else apart.points),
        "-" if measured is None else f"{measured.parameters:,}",
        result.state,
    ]


def _closing(results: Results) -> list[str]:
    lines = []
    if results.statements:
        lines += ["", *(_statement_line(results, index) for index in range(len(results.statements)))]
    notes = _notes(results)
    if notes:
        lines += ["", *notes]
    return lines


def _notes(results: Results) -> list[str]:
    study = results.study
    lines = [*study.notes, *(study.small_notes if results.small else ())]
    if any(result.measured is not None and result.measured.n > 1 for result in results.rows):
        lines.append(
            "measured: mean and sample standard deviation over (n) seeds; error: standard error of a difference"
        )
    by_note: dict[str, list[str]] = {}
    for result in results.rows:
        if result.row.note:
            by_note.setdefault(result.row.note, []).append(result.row.name)
    every = len(results.rows)
    return lines + [f"{'all rows' if len(names) == every else ', '.join(names)}: {n}" for n, names in by_note.items()]


def _statement_line(results: Results, index: int) -> str:
    result = results.statements[index]
    said = "" if result.statement.by is None else f" (+{result.statement.by:g} published)"
    apart = result.difference
    if apart is None:
        return f"{result.statement.text}{said}: not run"
    error = "" if apart.error is None else f", error {apart.error:.2f}"
    return f"{result.statement.text}{said}: {apart.points:+.2f} here{error}: {result.verdict}"


def _row_values(result: RowResult) -> dict[str, Any]:
    row, measured = result.row, result.measured
    return {
        "name": row.name,
        "label": row.label,
        "series": row.series,
        "published": list(row.published),
        "published_difference": None if result.published_difference is None else round(result.published_difference, 4),
        "measured": None
        if measured is None
        else {
            "mean": measured.mean,
            "sample_standard_deviation": measured.deviation,
            "n": measured.n,
            "by_seed": {str(seed): value for seed, value in measured.by_seed.items()},
            "parameters": measured.parameters,
            "training_seconds": round(measured.seconds, 1),
        },
        "measured_difference": _difference_values(result.difference),
        "state": result.state or "done",
        "note": row.note,
    }


def _difference_values(apart: Difference | None) -> dict[str, Any] | None:
    return None if apart is None else asdict(apart)


def show_measured(measured: Measured | None) -> str:
    """ "97.31 ± 0.42 (3)": mean, sample standard deviation and seeds."""
    if measured is None:
        return "-"
    if measured.deviation is None:
        return f"{measured.mean:.2f} (1)"
    return f"{measured.mean:.2f} ± {measured.deviation:.2f} ({measured.n})"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def show_signed(value: float | None) -> str:
    """ "+0.42", or a dash for nothing."""
    return "-" if value is None else f"{value:+.2f}"
