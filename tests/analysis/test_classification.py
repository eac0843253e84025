"""Figures of a classifier, against cases worked out by hand, a naive loop, and other libraries."""

import math
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from scipy.stats import binomtest
from torchmetrics.functional.classification import multiclass_calibration_error

from halonet.analysis import confusion_plot
from halonet.analysis.classification import (
    BINS,
    Figures,
    confused_pairs,
    figures,
    most_confused,
    share,
    tally,
    wilson,
)


def logits_of(probabilities: list[list[float]]) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def test_a_mixed_case_by_hand() -> None:
    """Four images of three classes, labels 0, 0, 1, 2.

    Probabilities  .9 .05 .05 (answer 0, right), .2 .7 .1 (answer 1, wrong), .1 .78 .12 (answer 1, right), .5 .3 .2
    (answer 0, wrong). Top-1: 2 of 4. Classes: 0 has 1 of 2, 1 has 1 of 1, 2 has 0 of 1: mean 1/2. Loss:
    -(ln .9 + ln .2 + ln .78 + ln .2) / 4. Bins of 1/15: .5 in the 8th (.467 to .533), .7 in the 11th (.667 to .733),
    .78 in the 12th (.733 to .8), .9 in the 14th (.867 to .933), one image each, so that the distances are .5, .7, .22
    and .1: mean .38, largest .7.
    """
    told = figures(
        tally(
            logits_of([[0.9, 0.05, 0.05], [0.2, 0.7, 0.1], [0.1, 0.78, 0.12], [0.5, 0.3, 0.2]]),
            torch.tensor([0, 0, 1, 2]),
        )
    )
    assert (told.images, told.classes, told.without_answer) == (4, 3, 0)
    assert (told.accuracy.right, told.accuracy.total, told.accuracy.value) == (2, 4, 0.5)
    assert told.top5 is None
    assert told.class_images.tolist() == [2, 1, 1]
    assert told.class_right.tolist() == [1, 1, 0]
    assert told.mean_class_accuracy == pytest.approx(0.5)
    assert told.loss == pytest.approx(-math.log(0.9 * 0.2 * 0.78 * 0.2) / 4, rel=1e-6)
    assert told.confusion.to_dense().tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert [round(bin_.confidence, 6) for bin_ in told.bins] == [0.5, 0.7, 0.78, 0.9]
    assert [round(15 * bin_.high) for bin_ in told.bins] == [8, 11, 12, 14]
    assert [bin_.accuracy for bin_ in told.bins] == [0, 0, 1, 1]
    assert told.calibration_error == pytest.approx(0.38, abs=1e-6)
    assert told.max_calibration_error == pytest.approx(0.7, abs=1e-6)
    assert confused_pairs(told.confusion) == [(0, 1, 1), (2, 0, 1)]


def test_all_right_and_sure() -> None:
    """Confidence 1 stands in the last bin; nothing is off."""
    labels = torch.arange(7)
    told = figures(tally(100.0 * torch.eye(7), labels))
    assert told.accuracy == share(7, 7)
    assert told.top5 == share(7, 7)
    assert (told.mean_class_accuracy, told.calibration_error, told.max_calibration_error) == (1.0, 0.0, 0.0)
    assert told.loss == pytest.approx(0.0, abs=1e-6)
    assert [(bin_.high, bin_.images) for bin_ in told.bins] == [(1.0, 7)]
    assert confused_pairs(told.confusion) == []


def test_always_the_same_answer() -> None:
    """Class 2 for all of 6, 3 images each of the classes 0 and 2 alone: half right, and as sure as can be."""
    told = figures(tally(torch.tensor([[0.0, 0, 90, 0, 0, 0]]).expand(6, 6), torch.tensor([0, 0, 0, 2, 2, 2])))
    assert told.accuracy.value == told.mean_class_accuracy == 0.5
    assert told.classes == 2
    assert told.calibration_error == told.max_calibration_error == pytest.approx(0.5)
    assert told.loss == pytest.approx(45.0)
    assert confused_pairs(told.confusion) == [(0, 2, 3)]


def test_top5_counts_the_label_among_the_five_largest() -> None:
    """Seven classes with falling logits: labels 0 and 4 are in, 5 is not."""
    told = figures(tally(torch.arange(7.0).flip(0).expand(3, 7), torch.tensor([0, 4, 5])))
    assert told.top5 is not None
    assert (told.accuracy.right, told.top5.right) == (1, 2)


def test_an_answer_that_is_no_number_is_wrong() -> None:
    """Also where its label is the class that argmax would name."""
    logits = torch.tensor([[math.nan, 0.0], [math.inf, 0.0], [3.0, 0.0]])
    told = figures(tally(logits, torch.tensor([0, 0, 0])))
    assert (told.images, told.without_answer, told.accuracy.right) == (3, 2, 1)
    assert math.isnan(told.loss)
    assert sum(bin_.images for bin_ in told.bins) == int(told.confusion.to_dense().sum()) == 1


def test_nothing_to_judge() -> None:
    with pytest.raises(ValueError, match="at least one image, got none"):
        figures(tally(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)))


def naive(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """The definitions, an image after the other in plain Python."""
    rows, truth = logits.softmax(1).tolist(), labels.tolist()
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    confusion = [[0] * logits.shape[1] for _ in range(logits.shape[1])]
    right = in_5 = 0
    for row, label in zip(rows, truth, strict=True):
        answer = max(range(len(row)), key=lambda k: row[k])
        right += answer == label
        in_5 += sum(other > row[label] for other in row) < 5
        confusion[label][answer] += 1
        number = next(m for m in range(BINS) if row[answer] <= (m + 1) / BINS or m == BINS - 1)
        bins[number].append((row[answer], answer == label))
    filled = [members for members in bins if members]
    gaps = [abs(sum(c for c, _ in members) - sum(r for _, r in members)) / len(members) for members in filled]
    own = [confusion[k][k] / sum(confusion[k]) for k in range(len(confusion)) if sum(confusion[k])]
    return {
        "right": right,
        "in_5": in_5,
        "confusion": confusion,
        "mean_class_accuracy": sum(own) / len(own),
        "calibration_error": sum(len(m) * gap for m, gap in zip(filled, gaps, strict=True)) / len(truth),
        "max_calibration_error": max(gaps),
    }


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(2, 9), st.integers(0, 2**31), st.lists(st.integers(0, 60), max_size=3))
def test_batches_add_up_to_the_naive_loop(images: int, classes: int, seed: int, cuts: list[int]) -> None:
    """However the images are cut into batches, empty ones among them."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, generator=generator)
    labels = torch.randint(classes, (images,), generator=generator)
    edges = [0, *sorted(min(cut, images) for cut in cuts), images]
    parts = [slice(a, b) for a, b in pairwise(edges)]
    told = figures(reduce(lambda a, b: a + b, [tally(logits[part], labels[part]) for part in parts]))
    expected = naive(logits, labels)
    assert told.accuracy.right == expected["right"]
    assert (told.top5.right if told.top5 else None) == (expected["in_5"] if classes > 5 else None)
    assert told.confusion.to_dense().tolist() == expected["confusion"]
    for name in ("mean_class_accuracy", "calibration_error", "max_calibration_error"):
        assert getattr(told, name) == pytest.approx(expected[name], abs=1e-6), name
    assert told.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-5)


@pytest.mark.parametrize(("norm", "name"), [("l1", "calibration_error"), ("max", "max_calibration_error")])
def test_calibration_as_torchmetrics_has_it(norm: Any, name: str) -> None:
    logits = 3 * torch.randn(400, 10, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(10, (400,), generator=torch.Generator().manual_seed(1))
    expected = multiclass_calibration_error(logits.softmax(1), labels, num_classes=10, n_bins=BINS, norm=norm)
    assert getattr(figures(tally(logits, labels)), name) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)],
)
def test_wilsons_interval(right: int, total: int, low: float, high: float) -> None:
    """By hand for 0 of 10: z^2 / (n + z^2) = 3.8415 / 13.8415 = 0.2775. 81 of 263: Newcombe 1998, table I."""
    assert wilson(right, total) == pytest.approx((low, high), abs=6e-5)


@given(st.integers(1, 100_000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
@settings(max_examples=30, deadline=None)
def test_the_interval_as_scipy_has_it(counts: tuple[int, int]) -> None:
    expected = binomtest(*counts).proportion_ci(0.95, method="wilson")
    low, high = wilson(*counts)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0 <= low <= counts[0] / counts[1] <= high <= 1


@pytest.mark.parametrize("counts", [(-1, 2), (3, 2), (0, 0)])
def test_counts_that_are_none(counts: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="0 <= right <= total"):
        wilson(*counts)


def with_mistakes(num_classes: int, mistakes: list[tuple[int, int, int]]) -> Figures:
    """One image of each class that is right, and (truth, answer, images) that are not."""
    pairs = [(k, k) for k in range(num_classes)] + [(a, b) for a, b, images in mistakes for _ in range(images)]
    labels, answers = torch.tensor(pairs).T
    return figures(tally(5 * torch.nn.functional.one_hot(answers, num_classes).float(), labels))


def test_the_most_confused_classes_are_shown() -> None:
    told = with_mistakes(40, [(3, 30, 5), (30, 3, 4), (7, 8, 3), (1, 2, 1)])
    assert most_confused(told, most=5) == [3, 7, 8, 30]
    assert most_confused(told, most=40) == list(range(40))
    assert most_confused(with_mistakes(40, []), most=5) == [0, 1, 2, 3, 4]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that would be written."""
    kept: list[Figure] = []
    monkeypatch.setattr(confusion_plot, "save_figure", lambda figure, path: kept.append(figure))
    return kept


def test_the_confusion_picture_counts(drawn: list[Figure]) -> None:
    confusion_plot.plot_confusion(with_mistakes(3, [(0, 2, 4)]), ["ant", "bee", "cow"], "unused")
    axis = drawn[0].axes[0]
    told = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axis.texts}
    assert told == {(0, 0): "1", (0, 2): "4", (1, 1): "1", (2, 2): "1"}
    assert [label.get_text() for label in axis.get_yticklabels()] == ["ant", "bee", "cow"]


def test_the_confusion_picture_of_many_classes_has_the_confused(drawn: list[Figure]) -> None:
    names = [f"class {number}" for number in range(100)]
    confusion_plot.plot_confusion(with_mistakes(100, [(3, 30, 5), (30, 3, 4)]), names, "unused")
    assert [label.get_text() for label in drawn[0].axes[0].get_yticklabels()] == ["class 3", "class 30"]


def test_the_calibration_picture_has_the_bins(drawn: list[Figure]) -> None:
    told = figures(tally(logits_of([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([0, 1])))
    confusion_plot.plot_calibration(told, "unused")
    heights = [patch.get_height() for patch in drawn[0].axes[0].patches]  # type: ignore[attr-defined]
    assert heights == [0, 100]
    assert [patch.get_height() for patch in drawn[0].axes[1].patches] == [1, 1]  # type: ignore[attr-defined]


def test_pictures_are_png_files(tmp_path: Path) -> None:
    told = with_mistakes(3, [(0, 2, 4)])
    confusion_plot.plot_confusion(told, ["a", "$^$", "$x_$"], tmp_path / "c.png")  # no formulas
    confusion_plot.plot_calibration(told, tmp_path / "r.png")
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())
