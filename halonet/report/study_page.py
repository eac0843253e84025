"""A study's folder as a page: published beside measured, statements, deviations, curves of the trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from halonet.report.charts import plot_rows
from halonet.report.markup import Markup, Number, Section, bullets, element, facts, joined, paragraph, table
from halonet.report.pictures import chart, picture
from halonet.report.run_files import RunFiles, is_run, read_json, read_run
from halonet.studies.report import show_signed
from halonet.studies.writing import JSON, PICTURE, SMALL
from halonet.training.files import METRICS

VERDICT_CLASSES = {"agrees": "good", "one seed: agrees": "good", "disagrees": "bad", "one seed: disagrees": "bad"}


def results_files(folder: Path) -> list[Path]:
    """A study's results in a folder: of the paper's form, of the small one, or both."""
    return [path for name in (JSON, f"{SMALL}{JSON}") if (path := folder / name).is_file()]


def study_page(folder: Path) -> tuple[str, Markup, list[Section]]:
    """Title, head and sections. Raises ValueError if its results cannot be read."""
    forms = [_read(path) for path in results_files(folder)]
    first = forms[0]
    title = f"{first['study']}: {first['title']}"
    head = joined(
        [
            element("h1", title),
            element("p", element("span", "study", class_="state"), " ", element("code", str(folder)), class_="source"),
            paragraph(f"Published: {first['published_task']}; {first['source']}.", class_="soft"),
        ]
    )
    sections: list[Section] = []
    for values in forms:
        sections += _form(folder, values, several=len(forms) > 1)
    return title, head, sections


def _read(path: Path) -> dict[str, Any]:
    values = read_json(path)
    missing = [name for name in ("study", "rows", "statements", "form") if name not in values]
    if missing:
        raise ValueError(f"{path}: no results of a study, without {', '.join(missing)}")
    return values


def _form(folder: Path, values: Mapping[str, Any], *, several: bool) -> list[Section]:
    small = values["form"] == "small"
    after = (", small form" if small else ", the paper's form") if several else ""
    name = "small" if small else "paper"
    drawn = picture(folder / f"{SMALL if small else ''}{PICTURE}", alt="published beside measured", is_chart=True)
    runs, unread = _runs(folder, values["rows"])
    facts_of = [(key, value) for key, value in values["environment"].items()]
    return [
        Section(f"{name}-table", f"Published beside measured{after}", joined([_marks(values), _table(values), drawn])),
        Section(f"{name}-statements", f"What the paper says{after}", _statements(values["statements"])),
        Section(f"{name}-seeds", f"Seeds{after}", _seeds(values["rows"])),
        Section(
            f"{name}-runs", f"Trainings{after}", joined([_trainings(folder, values["rows"], runs), bullets(unread)])
        ),
        Section(
            f"{name}-notes",
            f"Notes and environment{after}",
            joined([bullets(values["notes"]), facts([*facts_of, ("measured on", values["data"])])]),
        ),
    ]


def _marks(values: Mapping[str, Any]) -> Markup:
    return joined(paragraph(mark, class_="mark") for mark in values["marks"])


def _table(values: Mapping[str, Any]) -> Markup:
    baselines = set(values["baselines"].values())
    has_series = any(row["series"] for row in values["rows"])
    rows = []
    for row in values["rows"]:
        base, measured, apart = row["name"] in baselines, row["measured"], row["measured_difference"]
        published = [Number(value, "-" if value is None else f"{value:g}") for value in row["published"]]
        cells: list[Any] = [row["series"]] if has_series else []
        cells += [row["label"], *published]
        cells.append("base" if base else _signed(row["published_difference"]))
        cells.append(Number(measured and measured["mean"], _measured(measured)))
        cells.append("base" if base else _signed(apart and apart["points"]))
        cells.append(Number(measured and measured["parameters"], f"{measured['parameters']:,}" if measured else "-"))
        cells.append("" if row["state"] == "done" else row["state"])
        rows.append(cells)
    heads = [*(["series"] if has_series else []), "row", *(f"published {measure}" for measure in values["measures"])]
    return table([*heads, "diff.", "measured %", "diff.", "parameters", ""], rows)


def _measured(measured: Mapping[str, Any] | None) -> str:
    if measured is None:
        return "-"
    deviation = measured["sample_standard_deviation"]
    return f"{measured['mean']:.2f}" + ("" if deviation is None else f" ± {deviation:.2f}") + f" ({measured['n']})"


def _signed(value: float | None) -> Number:
    return Number(value, show_signed(value))


def _statements(statements: Sequence[Mapping[str, Any]]) -> Markup:
    rows = []
    for told in statements:
        apart = told["measured"]
        error = None if apart is None else apart["error"]
        verdict = element("span", told["verdict"], class_=VERDICT_CLASSES.get(told["verdict"]))
        rows.append(
            (
                told["text"],
                _signed(told["published_points"]),
                _signed(apart and apart["points"]),
                Number(error, "-" if error is None else f"{error:.2f}"),
                verdict,
            )
        )
    heads = ("statement", "published, points", "measured", "standard error", "verdict")
    return table(heads, rows) if rows else Markup("")


def _seeds(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Every seed's accuracy, where there is more than one."""
    seeds = sorted({int(seed) for row in rows if row["measured"] for seed in row["measured"]["by_seed"]})
    if len(seeds) < 2:
        return Markup("")
    lines = []
    for row in rows:
        measured = row["measured"]
        if measured is None:
            continue
        by_seed = [measured["by_seed"].get(str(seed)) for seed in seeds]
        cells = [Number(value, "-" if value is None else f"{value:.2f}") for value in by_seed]
        deviation = measured["sample_standard_deviation"]
        lines.append((row["label"], *cells, Number(measured["mean"], f"{measured['mean']:.2f}"), _deviation(deviation)))
    heads = ("row", *(f"seed {seed}" for seed in seeds), "mean", "sample deviation")
    return table(heads, lines, sortable=True)


def _deviation(value: float | None) -> Number:
    return Number(value, "-" if value is None else f"{value:.2f}")


def _runs(folder: Path, rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, dict[int, RunFiles]], list[str]]:
    """The trainings that the results are of, by row and seed: those whose accuracy is the one told; and in words those
    that cannot be read, as an old one that another version left."""
    found: dict[str, dict[int, RunFiles]] = {}
    unread: list[str] = []
    for row in rows:
        by_seed = (row["measured"] or {}).get("by_seed", {})
        for path in sorted((folder / row["name"]).glob(f"seed*/*/{METRICS}")):
            if not is_run(path.parent):
                continue
            try:
                run = read_run(path.parent)
            except ValueError as error:
                unread.append(str(error))
                continue
            assert run.metrics is not None
            if by_seed.get(str(run.config.seed)) == 100.0 * run.metrics["test"]["accuracy"]:
                found.setdefault(row["name"], {})[run.config.seed] = run
    return found, unread


def _trainings(folder: Path, rows: Sequence[Mapping[str, Any]], runs: Mapping[str, Mapping[int, RunFiles]]) -> Markup:
    labels = {row["name"]: row["label"] for row in rows}
    several = len(set(labels.values())) < len(labels)
    histories = {
        (f"{labels[name]} ({name})" if several else labels[name]): [
            run.history for run in of_row.values() if run.history
        ]
        for name, of_row in runs.items()
    }
    histories = {label: told for label, told in histories.items() if told}
    if not histories:
        return Markup("")
    score = next(iter(next(iter(runs.values())).values())).score
    lines = [
        (labels[name], Number(seed, seed), Number(_seconds(run), f"{_seconds(run):.0f}"), _place(run.folder, folder))
        for name, of_row in runs.items()
        for seed, run in sorted(of_row.items())
    ]
    alt = "validation score of each row's trainings over epochs"
    return joined(
        [
            chart(lambda path: plot_rows(histories, path, score=score), alt=alt),
            table(("row", "seed", "seconds", "folder, in the study's"), lines, sortable=True),
        ]
    )


def _seconds(run: RunFiles) -> float:
    assert run.metrics is not None
    return float(run.metrics["training_seconds"])


def _place(path: Path, folder: Path) -> Markup:
    return element("code", str(path.relative_to(folder)))
