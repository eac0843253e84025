"""A classification's own sections: samples, classes, confusion, calibration, attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from halonet.analysis.attention import record_attention
from halonet.analysis.attention.mechanisms import KINDS
from halonet.analysis.attention.pictures import plot_attention
from halonet.analysis.classification import share
from halonet.analysis.confusion_plot import plot_calibration, plot_confusion
from halonet.analysis.overlay import contrasting_pixels, for_the_eye
from halonet.report.answers import Answers
from halonet.report.markup import Markup, Number, Section, bar, element, fold, joined, paragraph, table
from halonet.report.pictures import chart, drawn, picture, tile, tiles
from halonet.report.run_files import Judged, RunFiles
from halonet.training.classification.judge import CALIBRATION, CONFUSION

SHOWN = 12  # samples of a kind
OPEN_CLASSES = 30  # rows of a table that is not folded
MOST_CLASSES = 1000


def classification_sections(run: RunFiles, answers: Answers | None) -> list[Section]:
    """answers: None where nothing was computed; then what lies in the folder alone."""
    judged = own_judged(run)
    return [
        Section("samples", "Samples", _samples(run, answers)),
        Section("classes", "Classes", _classes(answers, judged)),
        Section("confusion", "Confusion and calibration", _confusion(answers, judged)),
        Section("attention", "Attention", _attention(run.folder, answers)),
        Section("elsewhere", "Judged besides", _elsewhere(run, judged)),
    ]


def own_judged(run: RunFiles) -> Judged | None:
    """What `halonet test` left of the run's own test images, all of them."""
    for judged in run.judged:
        values = judged.values
        own = values.get("split") == "test" and values.get("data") == run.data
        if own and values["images"] == values.get("of_images"):
            return judged
    return None


def _samples(run: RunFiles, answers: Answers | None) -> Markup:
    if answers is None:
        caption = "As the run left it: the mistakes first, surest first, then a sample of the rest."
        return picture(run.folder / "predictions.png", caption=caption, alt="test images with the answers given")
    which = "all" if answers.whole else f"{len(answers.numbers):,}, spread evenly, of the"
    told = f"Chosen among {which} {answers.total:,} test images; each with its answer and the probability of it."
    parts: list[Any] = [paragraph(told, class_="soft")]
    for title, places in (
        ("The surest mistakes", answers.surest_mistakes(SHOWN)),
        ("Right, and least sure", answers.least_sure_right(SHOWN)),
    ):
        parts += [element("h3", title), tiles([_tile(answers, place) for place in places]) or paragraph("None.")]
    return joined(parts)


def _tile(answers: Answers, place: int) -> Markup:
    told = answers.predictions
    answer, label = int(told.answers[place]), int(told.labels[place])
    name, truth = answers.class_names[answer], answers.class_names[label]
    sure = f"{100 * float(told.confidences[place]):.0f} %"
    pixels = _pixels(answers, place)
    if answer == label:
        return tile(pixels, caption=joined([element("span", name, class_="good"), sure], " "), alt=f"a {truth}")
    words = [element("span", name, class_="bad"), sure, element("br"), f"is {truth}"]
    return tile(pixels, caption=joined(words, " "), alt=f"a {truth}, taken for {name}")


def _pixels(answers: Answers, place: int) -> Any:
    """An image as it was before it was normalized, (S, S, 3)."""
    seen = answers.data.preprocessing
    return for_the_eye(answers.image(place), seen.mean, seen.std)


def _classes(answers: Answers | None, judged: Judged | None) -> Markup:
    if answers is not None and answers.whole:
        values, source = answers.judged(), "Computed for this page from the weights, on all test images."
    elif judged is not None:
        values, source = judged.values, f"From {judged.folder.name}, which halonet test left."
    else:
        return Markup("")
    rows = class_rows(values)
    shown = table(
        ("class", "", "right", "95 % interval", "images", "most often taken for"), rows[:MOST_CLASSES], sortable=True
    )
    left_out = f" The first {MOST_CLASSES} of {len(rows)}." if len(rows) > MOST_CLASSES else ""
    words = paragraph(f"{source} Bars are shares that are right, with their interval.{left_out}", class_="soft")
    return joined([words, shown if len(rows) <= OPEN_CLASSES else fold(f"{len(rows)} classes", shown)])


def class_rows(values: Mapping[str, Any]) -> list[Sequence[Any]]:
    """A row a class of judged.json, the worst first."""
    taken: dict[str, tuple[str, int]] = {}
    for pair in values["confused"]:
        taken.setdefault(pair["class"], (pair["answer"], pair["images"]))
    ranked = sorted(values["per_class"], key=lambda row: (row["accuracy"], -row["images"]))
    rows: list[Sequence[Any]] = []
    for row in ranked:
        low, high = row["interval"]
        answer, images = taken.get(row["class"], ("", 0))
        rows.append(
            (
                row["class"],
                bar(row["accuracy"], low=low, high=high),
                Number(row["accuracy"], f"{100 * row['accuracy']:.1f} %"),
                Number(low, f"{100 * low:.1f} to {100 * high:.1f}"),
                Number(row["images"], f"{row['images']:,}"),
                f"{answer} ({images})" if images else "",
            )
        )
    return rows


def _confusion(answers: Answers | None, judged: Judged | None) -> Markup:
    alts = ("true classes by answers, in images", "share right by confidence, over a histogram of confidence")
    drawn: list[Markup] = []
    if answers is not None and answers.whole:
        told, names = answers.figures, answers.class_names
        drawn = [
            chart(lambda path: plot_confusion(told, names, path), alt=alts[0]),
            chart(lambda path: plot_calibration(told, path), alt=alts[1]),
        ]
    elif judged is not None:
        files = (CONFUSION, CALIBRATION)
        pairs = zip(files, alts, strict=True)
        drawn = [picture(judged.folder / name, alt=alt, is_chart=True) for name, alt in pairs]
    if not any(drawn):
        return Markup("")
    words = (
        "Blue cells are shares of a class that are right, orange ones mistakes. "
        "A model is calibrated whose bars meet the dashed line."
    )
    return joined([element("div", *drawn, class_="side"), paragraph(words, class_="soft")])


def _attention(folder: Path, answers: Answers | None) -> Markup:
    caption = "As the run left it: a test image that it is sure of, and where some pixels attend, layer by layer."
    alt = "attention of some pixels, layer by layer"
    left = picture(folder / "attention.png", caption=caption, alt=alt)
    if answers is None or not any(isinstance(module, KINDS) for module in answers.model.modules()):
        return left
    folds = [
        fold(f"Of the {words}", _attention_of(answers, place))
        for words, places in (
            ("surest mistake", answers.surest_mistakes(1)),
            ("right answer that is least sure", answers.least_sure_right(1)),
        )
        for place in places
    ]
    return joined([left, *folds])


def _attention_of(answers: Answers, place: int) -> Markup:
    image = answers.image(place)
    device = next(answers.model.parameters()).device
    record = record_attention(answers.model, image[None].to(device))
    told, names = answers.predictions, answers.class_names
    alt = f"attention of some pixels of a {names[int(told.labels[place])]}, layer by layer"
    words = f"A {names[int(told.labels[place])]}; the answer is {names[int(told.answers[place])]}."
    pixels = contrasting_pixels(image)
    return drawn(lambda path: plot_attention(record, _pixels(answers, place), pixels, path), caption=words, alt=alt)


def _elsewhere(run: RunFiles, own: Judged | None) -> Markup:
    rows = []
    for judged in run.judged:
        values = judged.values
        if judged is own:
            continue
        low, high = values["accuracy_interval"]
        rows.append(
            (
                values["data"],
                values["part"],
                Number(values["accuracy"], f"{100 * values['accuracy']:.2f} %"),
                Number(low, f"{100 * low:.1f} to {100 * high:.1f}"),
                Number(values["images"], f"{values['images']:,}"),
                Number(values["calibration_error"], f"{100 * values['calibration_error']:.1f} %"),
            )
        )
    heads = ("data", "which", "right", "95 % interval", "images", "calibration error")
    return table(heads, rows) if rows else Markup("")


def headline(run: RunFiles) -> tuple[str, str]:
    """The figure, and the words beside it."""
    assert run.metrics is not None
    test = run.metrics["test"]
    words = []
    total, limited = run.metrics.get("images", {}).get("test"), repr(run.config.trainer.limit_test_batches) != "1.0"
    if limited:
        words.append("of a part of the test images (trainer.limit_test_batches) right")
    elif total:
        words.append(f"of {total:,} test images right")
    if test.get("accuracy_interval"):
        low, high = test["accuracy_interval"]
        words.append(f"95 % interval {100 * low:.1f} to {100 * high:.1f} %")
    return run.score.show_long(test["accuracy"]), ", ".join(words)


def disagreement(run: RunFiles, answers: Answers) -> str:
    """A word where the weights do not answer as metrics.json says; empty where they do or where it cannot be told."""
    assert run.metrics is not None
    if not answers.whole or repr(run.config.trainer.limit_test_batches) != "1.0":
        return ""
    here, there = answers.figures.accuracy, run.metrics["test"]["accuracy"]
    if here.right == round(there * here.total):
        return ""
    told = share(round(there * here.total), here.total)
    return (
        f"The weights answered {here.right} of {here.total} test images right when this page was made, and "
        f"{told.right} when the run ended: another device, backend or version rounds otherwise, or the data changed."
    )
