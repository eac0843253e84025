"""A run's folder as a page."""

from __future__ import annotations

import shlex
import statistics
from typing import Any

from halonet.analysis.plots import plot_curves
from halonet.report import classification, other_tasks
from halonet.report.answers import Answers, look_again
from halonet.report.charts import plot_steps, plot_throughput
from halonet.report.markup import Markup, Number, Section, bullets, element, facts, fold, joined, paragraph, table
from halonet.report.pictures import chart
from halonet.report.run_files import RunFiles
from halonet.report.settings import settings_section
from halonet.report.sizes import sizes_section
from halonet.training.effective import in_words
from halonet.training.files import CHECKPOINTS, LAST, kept_checkpoints

LONG_SILENCE = 1200.0  # seconds: twice the time between checkpoints, after which nothing is likely to be under way


def run_page(run: RunFiles, *, compute: bool, most_images: int) -> tuple[Markup, list[Section]]:
    """The head of the page and its sections. compute: whether to ask the weights again, see `write.Options`."""
    answers, missing = _asked(run, compute=compute, most_images=most_images)
    if run.config.task == "classification":
        own = classification.classification_sections(run, answers)
    elif run.config.task == "detection":
        own = other_tasks.detection_sections(run)
    else:
        own = other_tasks.stereo_sections(run)
    notes = [*_missing(run), *run.damaged, *missing]
    if answers is not None and (apart := classification.disagreement(run, answers)):
        notes.append(apart)
    return _head(run), [
        Section("missing", "What is missing", bullets(notes)),
        Section("curves", "Curves", _curves(run)),
        *own,
        Section("time", "Time and throughput", _time(run)),
        settings_section(run.config),
        sizes_section(run),
        Section("environment", "Environment", _environment(run)),
    ]


def _asked(run: RunFiles, *, compute: bool, most_images: int) -> tuple[Answers | None, list[str]]:
    """What the weights answer today, and a word where they were not asked although they could be."""
    if run.config.task != "classification" or run.metrics is None:
        return None, []
    if not compute:
        return None, ["The weights were not asked again (--no-compute): what the run left is shown."]
    try:
        return look_again(run, most=most_images), []
    except (ValueError, OSError, ModuleNotFoundError) as error:
        return None, [f"The weights were not asked again: {' '.join(str(error).split())}"]


def _head(run: RunFiles) -> Markup:
    words = "finished" if run.metrics is not None else _state(run)
    state = element("span", words, class_="state" if run.metrics is not None else "state open")
    parts: list[Any] = [
        element("h1", run.title),
        element("p", state, " ", element("code", str(run.folder)), class_="source"),
    ]
    if run.metrics is None:
        return joined([*parts, _reached(run)])
    told = classification if run.config.task == "classification" else other_tasks
    figure, beside = told.headline(run)
    parts.append(element("div", element("strong", figure), element("span", beside), class_="headline"))
    what = "pairs" if run.config.task == "stereo" else "images"
    epoch, epochs = run.metrics["epoch"], run.metrics["epochs"]
    best = f"With the weights of epoch {epoch}, the best of {epochs} on the validation {what}."
    warning = (
        f" The test {what} are these validation {what}: there was no test part." if run.metrics["test_is_val"] else ""
    )
    return joined([*parts, paragraph(best, warning, class_="soft")])


def _state(run: RunFiles) -> str:
    """No file tells a run that was killed from one that is under way."""
    return "not finished" if run.quiet_for > LONG_SILENCE else "not finished, or under way"


def _reached(run: RunFiles) -> Markup:
    total = (run.effective or {}).get("total_steps")
    step = int(run.steps[-1]["step"]) if run.steps else 0
    reached = f"step {step:,}" + (f" of {total:,}" if total else "")
    words = f"There is no test result yet. {len(run.history)} whole epochs, {reached}."
    if run.history:
        name, score = f"val/{run.score.name}", run.score
        rows = [row for row in run.history if name in row]
        if rows:
            best = rows[0]
            for row in rows[1:]:
                best = row if score.better(row[name], best[name]) else best
            words += f" Best on validation so far: {score.show_long(best[name])} (epoch {int(best['epoch'])})."
    return paragraph(words)


def _missing(run: RunFiles) -> list[Any]:
    if run.metrics is not None:
        return []
    ago = f"The last file was written {_duration(run.quiet_for)} before this page."
    notes: list[Any] = [f"No metrics.json: the run is under way, or was stopped. {ago}"]
    checkpoint = run.folder / CHECKPOINTS / LAST
    if kept_checkpoints(checkpoint.parent):
        command = element("code", f"halonet fit --ckpt_path {shlex.quote(str(checkpoint))}")
        notes.append(joined(["If it was stopped, it goes on with", command], " "))
    else:
        notes.append("No checkpoint was written yet, so that the epochs' figures are not known.")
    notes.append("Test figures, pictures and the environment are written when a run ends.")
    return notes


def _curves(run: RunFiles) -> Markup:
    labels = dict(run.kind.curve_labels)
    drawn: list[Markup] = []
    complete = [row for row in run.history if {"train/loss", f"val/{run.score.name}", "lr"} <= set(row)]
    if complete:
        alt = f"loss, {run.score.title.lower()} and learning rate over epochs"
        drawn.append(chart(lambda path: plot_curves(complete, path, score=run.score, **labels), alt=alt))
    if run.steps:
        loss = labels.get("loss", "cross entropy (nats)")
        alt = "loss and learning rate over steps"
        drawn.append(chart(lambda path: plot_steps(run.steps, path, loss=loss), alt=alt))
    if not drawn:
        return paragraph("No step is finished yet.")
    return joined([*drawn, _epochs(run) if complete else ""])


def _epochs(run: RunFiles) -> Markup:
    """Every epoch's figures."""
    score = run.score
    rows = []
    for row in run.history:
        cells: list[Any] = [Number(row["epoch"], int(row["epoch"]))]
        for part in ("train", "val"):
            loss, value = row.get(f"{part}/loss"), row.get(f"{part}/{score.name}")
            cells.append(Number(loss, "" if loss is None else f"{loss:.4f}"))
            cells.append(Number(value, "" if value is None else score.show_long(value)))
        cells += [Number(row.get("lr"), f"{row['lr']:.3g}"), Number(row["seconds"], f"{row['seconds']:.1f}")]
        rows.append(cells)
    heads = ("epoch", "train loss", f"train {score.name}", "val loss", f"val {score.name}", "learning rate", "seconds")
    return fold(f"{len(rows)} epochs in figures", table(heads, rows, sortable=True))


def _time(run: RunFiles) -> Markup:
    of = (run.effective or {}).get("of", "images")
    rows: list[tuple[str, str]] = []
    if run.metrics is not None:
        rows.append(("training, all epochs", _duration(run.metrics["training_seconds"])))
    if run.history:
        seconds = [row["seconds"] for row in run.history]
        rows += [
            ("an epoch (median)", _duration(statistics.median(seconds))),
            ("the first epoch", _duration(seconds[0])),
        ]
    for name, words, show in (
        (
            "images_per_second",
            f"{of} a second (median)",
            lambda value: f"{value:,.0f}" if value >= 10 else f"{value:.2f}",
        ),
        ("waiting", "waiting for data (median)", lambda value: f"{value:.0%} of the time"),
        ("utilization", "utilization (median)", lambda value: f"{value:.0%}"),
        ("peak_memory_mib", "most memory", lambda value: f"{value:,.0f} MiB"),
    ):
        values = [row[name] for row in run.history if name in row]
        if values:
            rows.append((words, show(max(values) if name == "peak_memory_mib" else statistics.median(values))))
    if run.steps:
        rows.append(("a step (median)", f"{1000 * statistics.median(row['seconds'] for row in run.steps):.0f} ms"))
    drawn: Markup | str = ""
    timed = [row for row in run.history if "images_per_second" in row]
    if len(timed) > 1:
        alt = f"{of} a second and share of time spent waiting, over epochs"
        drawn = chart(lambda path: plot_throughput(timed, path, of=of), alt=alt)
    step = ""
    if run.effective is not None:
        step = bullets(in_words(run.effective))
    return joined([facts(rows), step, drawn])


def _environment(run: RunFiles) -> Markup:
    if run.metrics is None:
        return Markup("")
    names = {"device": "device", "threads": "threads", "python": "Python", "torch": "torch", "halonet": "halonet"}
    rows = [(words, str(run.metrics[name])) for name, words in names.items() if name in run.metrics]
    what = "pairs" if run.config.task == "stereo" else "images"
    counts = run.metrics.get(what) or {}
    parts = ", ".join(f"{count:,} {part}" for part, count in counts.items())
    return facts([*rows, ("data", run.data), (what, parts), ("seed", str(run.config.seed))])


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    if minutes < 100:
        return f"{minutes:.1f} min"
    hours = minutes / 60
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"
