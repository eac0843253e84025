"""Several runs of one task on one page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from halonet.report import classification, other_tasks
from halonet.report.charts import plot_runs
from halonet.report.markup import Markup, Number, Section, bullets, element, joined, paragraph, table
from halonet.report.pictures import chart
from halonet.report.run_files import RunFiles
from halonet.report.settings import settings_apart, show_setting


def compare_page(runs: Sequence[RunFiles]) -> tuple[str, Markup, list[Section]]:
    """Title, head and sections. Raises ValueError for runs of several tasks."""
    tasks = {run.config.task for run in runs}
    if len(tasks) > 1:
        raise ValueError(f"RUN: expected runs of one task, got {', '.join(sorted(tasks))}")
    title = f"{len(runs)} runs of {runs[0].config.task}"
    keys = [chr(ord("A") + number) if number < 26 else str(number + 1) for number in range(len(runs))]
    names = [f"{key}: {run.title}" for key, run in zip(keys, runs, strict=True)]
    lines = [joined([f"{key}: ", element("code", str(run.folder))], "") for key, run in zip(keys, runs, strict=True)]
    head = joined([element("h1", title), bullets(lines)])
    return (
        title,
        head,
        [
            Section("results", "Results", _results(keys, runs)),
            Section("curves", "Curves", _curves(names, runs)),
            Section("settings", "Settings that differ", _settings(keys, runs)),
        ],
    )


def _results(keys: Sequence[str], runs: Sequence[RunFiles]) -> Markup:
    told = classification if runs[0].config.task == "classification" else other_tasks
    rows: list[list[Any]] = []
    for key, run in zip(keys, runs, strict=True):
        metrics = run.metrics
        cells: list[Any] = [key, run.config.model.name, run.data]
        if metrics is None:
            rows.append([*cells, Number(None, "not finished"), "", *[Number(None, "")] * 3])
            continue
        figure, words = told.headline(run)
        seconds = metrics["training_seconds"]
        cells += [Number(metrics["test"].get(run.score.name), figure), words]
        cells += [Number(metrics["parameters"], f"{metrics['parameters']:,}")]
        cells += [Number(metrics["epochs"], metrics["epochs"]), Number(seconds, f"{seconds:.0f}")]
        rows.append(cells)
    heads = ("", "model", "data", runs[0].score.name, "", "parameters", "epochs", "seconds")
    apart = {(run.data, str((run.metrics or {}).get("images"))) for run in runs if run.metrics is not None}
    warning = "Not all are tested on the same data: these figures cannot be compared." if len(apart) > 1 else ""
    return joined([paragraph(warning, class_="mark") if warning else "", table(heads, rows, sortable=True)])


def _curves(names: Sequence[str], runs: Sequence[RunFiles]) -> Markup:
    histories = {name: run.history for name, run in zip(names, runs, strict=True) if run.history}
    if not histories:
        return Markup("")
    score = runs[0].score
    return chart(
        lambda path: plot_runs(histories, path, score=score), alt="validation score and training loss, a line a run"
    )


def _settings(keys: Sequence[str], runs: Sequence[RunFiles]) -> Markup:
    rows = settings_apart([run.config for run in runs])
    if not rows:
        return paragraph("None.")
    lines = [(element("code", name), *map(show_setting, values)) for name, values in rows]
    return table(("setting", *keys), lines)
