"""A classifier judged: figures with intervals, its worst and best classes, confusion, calibration; and their files."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from halonet.analysis.classification import Figures, Share, confused_pairs, share
from halonet.files import replacing
from halonet.training.judgement import Judgement

CONFUSION, CALIBRATION, PER_CLASS = "confusion.png", "calibration.png", "per_class.csv"
MOST_PAIRS = 100  # of classes taken for each other, in judged.json
MOST_CLASSES = 5  # worst, and best, in the terminal


def summary_figures(figures: Figures) -> dict[str, Any]:
    """Those that are single numbers, and the intervals, as metrics.json and judged.json name them."""
    told: dict[str, Any] = {
        "loss": figures.loss,
        "accuracy": figures.accuracy.value,
        "accuracy_interval": [figures.accuracy.low, figures.accuracy.high],
    }
    if figures.top5 is not None:
        told |= {"top5": figures.top5.value, "top5_interval": [figures.top5.low, figures.top5.high]}
    told |= {
        "mean_class_accuracy": figures.mean_class_accuracy,
        "mean_confidence": figures.mean_confidence,
        "calibration_error": figures.calibration_error,
        "max_calibration_error": figures.max_calibration_error,
    }
    return told


@dataclass(frozen=True)
class ClassRow:
    """One class that has images: its share that is right, and the wrong answer most often given for it ("" if none)."""

    name: str
    share: Share
    taken_for: str
    taken: int


@dataclass(frozen=True)
class ClassificationJudgement(Judgement):
    """A `Judgement` with figures and the names of the classes."""

    figures: Figures
    class_names: Sequence[str]

    def class_rows(self) -> list[ClassRow]:
        """The classes with images, in their order."""
        worst: dict[int, tuple[int, int]] = {}
        for truth, answer, images in confused_pairs(self.figures.confusion):
            worst.setdefault(truth, (answer, images))
        rows = []
        for index in self.figures.class_images.nonzero()[:, 0].tolist():
            answer, taken = worst.get(index, (-1, 0))
            own = share(int(self.figures.class_right[index]), int(self.figures.class_images[index]))
            rows.append(ClassRow(self.class_names[index], own, self.class_names[answer] if taken else "", taken))
        return rows

    def to_dict(self) -> dict[str, Any]:
        """See `Judgement`; with every class, every bin of confidence, and the most frequent mistakes."""
        names = self.class_names
        pairs = confused_pairs(self.figures.confusion)[:MOST_PAIRS]
        return {
            **super().to_dict(),
            "per_class": [
                {
                    "class": row.name,
                    "images": row.share.total,
                    "right": row.share.right,
                    "accuracy": row.share.value,
                    "interval": [row.share.low, row.share.high],
                }
                for row in self.class_rows()
            ],
            "calibration": [asdict(bin_) for bin_ in self.figures.bins],
            "confused": [{"class": names[a], "answer": names[b], "images": images} for a, b, images in pairs],
        }

    def render(self) -> str:
        """See `Judgement`."""
        return "\n".join([*self._head(), "", *self._figures(), "", *self._classes()])

    def write(self, folder: Path) -> list[str]:
        """See `Judgement`; per_class.csv, confusion.png and calibration.png."""
        from halonet.analysis.confusion_plot import plot_calibration, plot_confusion

        written = super().write(folder)
        with replacing(folder / PER_CLASS) as beside, beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["class", "images", "right", "accuracy", "low", "high", "taken_for", "taken_for_images"])
            for row in self.class_rows():
                figures = (f"{value:.6f}" for value in (row.share.value, row.share.low, row.share.high))
                writer.writerow([row.name, row.share.total, row.share.right, *figures, row.taken_for, row.taken])
        plot_confusion(self.figures, self.class_names, folder / CONFUSION)
        plot_calibration(self.figures, folder / CALIBRATION)
        return [*written, PER_CLASS, CONFUSION, CALIBRATION]

    def _head(self) -> Iterator[str]:
        about, figures, of_weights = self.about, self.figures, len(self.class_names)
        classes = f"{figures.classes} classes" if figures.classes != 1 else "1 class"
        which = classes if figures.classes == of_weights else f"{classes} of the {of_weights} that the weights know"
        yield str(about["weights"])
        yield f"{about['data']}, {about['part']}: {figures.images} images of {which}"
        if figures.images < about["of_images"]:
            yield f"only the first {figures.images} of {about['of_images']}, as trainer.limit_*_batches says"
        if figures.without_answer:
            yield f"{figures.without_answer} images got logits that are no numbers; they count as wrong"

    def _figures(self) -> Iterator[str]:
        figures = self.figures
        yield f"{'':20}{'':9}   95 % interval"
        for name, told in (("top-1 accuracy", figures.accuracy), ("top-5 accuracy", figures.top5)):
            if told is not None:
                yield f"{name:20}{_percent(told.value):>9}   {_counts(told)}"
        yield f"{'mean class accuracy':20}{_percent(figures.mean_class_accuracy):>9}"
        yield f"{'loss':20}{figures.loss:>7.4f}     cross entropy in nats"
        largest = f"largest of a bin {_percent(figures.max_calibration_error)}"
        sure = f"mean confidence {_percent(figures.mean_confidence)}"
        yield f"{'calibration error':20}{_percent(figures.calibration_error):>9}   {largest}, {sure}"

    def _classes(self) -> Iterator[str]:
        rows = sorted(self.class_rows(), key=lambda row: (row.share.value, -row.share.total, row.name))
        width = min(max(len(row.name) for row in rows), 30)
        parts = [("classes, worst first", rows)]
        if len(rows) > 2 * MOST_CLASSES:
            parts = [("worst classes", rows[:MOST_CLASSES]), ("best classes", rows[-MOST_CLASSES:])]
        for title, shown in parts:
            yield title
            for row in shown:
                mistake = f"   most often taken for {row.taken_for} ({row.taken})" if row.taken else ""
                yield f"  {row.name[:30]:{width}}{_percent(row.share.value):>9}   {_counts(row.share)}{mistake}"


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _counts(told: Share) -> str:
    return f"{100 * told.low:5.1f} to {100 * told.high:5.1f}   {told.right} of {told.total}"
