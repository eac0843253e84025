"""The sections of detection and stereo: figures of the test, and the pictures that the run left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from halonet.report.markup import Markup, Number, Section, element, facts, joined, paragraph, table
from halonet.report.pictures import picture
from halonet.report.run_files import RunFiles
from halonet.training.detection.results import PICTURES, PRECISION

# Figures of a detector's test, in words, in the order of COCO's table.
PRECISIONS = {
    "ap": "AP, mean over IoU 0.50 to 0.95",
    "ap50": "AP at IoU 0.50",
    "ap75": "AP at IoU 0.75",
    "ap_small": "AP, small objects",
    "ap_medium": "AP, medium objects",
    "ap_large": "AP, large objects",
    "ar1": "recall, 1 detection an image",
    "ar10": "recall, 10 detections",
    "ar100": "recall, 100 detections",
    "ar_small": "recall, small objects",
    "ar_medium": "recall, medium objects",
    "ar_large": "recall, large objects",
}
ERRORS = {
    "epe": ("end-point error", 1.0, "px"),
    "bad1": ("off by more than 1 px", 100.0, "%"),
    "bad3": ("off by more than 3 px", 100.0, "%"),
    "d1": ("off by more than 3 px and 5 % (D1)", 100.0, "%"),
}


def detection_sections(run: RunFiles) -> list[Section]:
    """Average precision, whole and by category, and detections beside the truth."""
    test = {} if run.metrics is None else run.metrics["test"]
    alt = "test images with what is on them and what was found"
    caption = "Some test images: at the left what is on them, at the right what the detector tells."
    return [
        Section("precision", "Average precision", _precision(run, test)),
        Section("categories", "Categories", _categories(test.get("per_category") or {})),
        Section("samples", "Samples", picture(run.folder / PICTURES, caption=caption, alt=alt)),
    ]


def _precision(run: RunFiles, test: Mapping[str, Any]) -> Markup:
    if not test:
        return Markup("")
    kinds = [kind for kind in ("box", "mask") if f"{kind}_ap" in test]
    rows = [
        (words, *(percent(test.get(f"{kind}_{name}")) for kind in kinds))
        for name, words in PRECISIONS.items()
        if any(f"{kind}_{name}" in test for kind in kinds)
    ]
    curve = picture(run.folder / PRECISION, alt="precision over recall at three thresholds of the IoU", is_chart=True)
    heads = ("on the test images", *({"box": "boxes", "mask": "masks"}[kind] for kind in kinds))
    return joined([table(heads, rows), curve])


def _categories(by_name: Mapping[str, Mapping[str, float | None]]) -> Markup:
    if not by_name:
        return Markup("")
    names = list(dict.fromkeys(name for figures in by_name.values() for name in figures))
    rows = [(category, *(percent(figures.get(name)) for name in names)) for category, figures in by_name.items()]
    heads = ("category", *(name.replace("_", " ") for name in names))
    return table(heads, rows, sortable=True)


def percent(value: float | None) -> Number:
    """A share as a cell; a dash where there was nothing to find."""
    return Number(value, "-" if value is None else f"{100 * value:.1f} %")


def stereo_sections(run: RunFiles) -> list[Section]:
    """Errors beside those of a constant answer, disparities, and basis masks."""
    alt = "pairs with their true disparity, the one told, and the error"
    words = "Some test pairs: the left picture, its true disparity, the one told, and where it errs."
    disparities = picture(run.folder / "disparities.png", caption=words, alt=alt)
    masks = picture(run.folder / "basis.png", caption="Basis masks of factorized attention.", alt="basis masks")
    return [
        Section("errors", "Errors", _errors(run)),
        Section("samples", "Samples", disparities),
        Section("attention", "Attention", masks),
    ]


def _errors(run: RunFiles) -> Markup:
    if run.metrics is None:
        return Markup("")
    test, constant = run.metrics["test"], run.metrics.get("constant") or {}
    rows = []
    for name, (words, factor, unit) in ERRORS.items():
        if test.get(name) is not None:
            rows.append((words, f"{factor * test[name]:.2f} {unit}"))
    parts: list[Any] = [facts(rows)]
    if constant.get("epe") is not None:
        parts += [
            element("h3", "What an answer without looking would err by"),
            facts(
                (
                    ("the mean disparity of the training pairs", f"{constant['disparity']:.2f} px"),
                    ("telling it everywhere", f"{constant['epe']:.2f} px"),
                    ("telling each pair's own mean", f"{constant['own_epe']:.2f} px"),
                )
            ),
        ]
    return joined(
        [*parts, paragraph("Means over the test pairs, each over its pixels of known disparity.", class_="soft")]
    )


def headline(run: RunFiles) -> tuple[str, str]:
    """The figure that judges a detector or a stereo network, and the words beside it."""
    assert run.metrics is not None
    test, constant = run.metrics["test"], run.metrics.get("constant") or {}
    value = test.get(run.score.name)
    figure = "none" if value is None else run.score.show_long(value)
    if run.config.task == "stereo":
        beside = f", where a constant errs by {constant['epe']:.2f}" if constant.get("epe") is not None else ""
        return figure, f"mean error of disparity on the test pairs{beside}"
    masks = "" if test.get("mask_ap") is None else f", of masks {100 * test['mask_ap']:.1f} %"
    return figure, f"average precision of boxes on the test images{masks}"
