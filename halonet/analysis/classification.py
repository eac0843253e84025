"""Figures of a classifier, summed up a batch at a time: accuracy with its interval, calibration, confusion.

Logits and labels go in, a `Tally` comes out; tallies of batches add up, and `figures` reads them. Nothing holds the
logits of a whole data set: what is kept grows with the classes, not the images (pairs of truth and answer that occur).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor

BINS = 15  # of confidence, as Guo et al. 2017 draw them
Z95 = 1.959963984540054  # the standard normal's 97.5 % quantile


@dataclass(frozen=True)
class Tally:
    """Sums over images.

    images: how many. without_answer: those with a logit that is no finite number; they are wrong, and stand neither in
    the bins nor in `confusion`. loss: sum of cross entropies (nats). right_in_5: images whose class is among the five
    largest logits. class_images, class_right: of each true class, (K,) int64. bin_images, bin_right (int64),
    bin_confidence (float64): of each bin of confidence, (15,). confusion: sparse (K, K) int64, rows the true class,
    columns the answer.
    """

    images: int
    without_answer: int
    loss: float
    right_in_5: int
    class_images: Tensor
    class_right: Tensor
    bin_images: Tensor
    bin_right: Tensor
    bin_confidence: Tensor
    confusion: Tensor

    @property
    def num_classes(self) -> int:
        """K, the classes that are told apart."""
        return len(self.class_images)

    def __add__(self, other: Tally) -> Tally:
        sums = {field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)}
        return Tally(**{**sums, "confusion": sums["confusion"].coalesce()})


@torch.no_grad()
def tally(logits: Tensor, labels: Tensor) -> Tally:
    """Of one batch.

    Args:
        logits: (n, K) of any floating dtype, on any device; n may be 0.
        labels: (n,) int64, 0 to K - 1.
    """
    num_classes = logits.shape[1]
    logits, labels = logits.float(), labels.to(logits.device)
    of_label = logits.gather(1, labels[:, None])[:, 0]
    losses = (logits.logsumexp(1) - of_label).cpu().double()
    answered = logits.isfinite().all(1).cpu()
    confidence, answers = (part.cpu() for part in logits.softmax(1).max(1))
    in_5 = (logits.topk(min(5, num_classes), dim=1).indices == labels[:, None]).any(1).cpu()
    labels = labels.cpu()
    right = (answers == labels) & answered
    count = partial(torch.bincount, minlength=num_classes)
    # Of several bins with the upper edge in: ((m - 1) / M, m / M], as the paper defines them.
    sure = confidence[answered].double()
    bins = (torch.ceil(sure * BINS).long() - 1).clamp(0, BINS - 1)
    pairs = torch.stack([labels[answered], answers[answered]])
    confusion = torch.sparse_coo_tensor(
        pairs, torch.ones(pairs.shape[1], dtype=torch.long), (num_classes, num_classes), check_invariants=True
    )
    return Tally(
        images=len(labels),
        without_answer=int((~answered).sum()),
        loss=float(losses.sum()),
        right_in_5=int(((in_5 & answered) | right).sum()),  # among equal logits topk may leave the first out
        class_images=count(labels),
        class_right=count(labels[right]),
        bin_images=torch.bincount(bins, minlength=BINS),
        bin_right=torch.bincount(bins[right[answered]], minlength=BINS),
        bin_confidence=torch.bincount(bins, weights=sure, minlength=BINS),
        confusion=confusion.coalesce(),
    )


@dataclass(frozen=True)
class Share:
    """`right` of `total`, and the bounds of its interval; all shares 0 to 1."""

    right: int
    total: int
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.right / self.total


@dataclass(frozen=True)
class Bin:
    """Images whose confidence is above `low` and at most `high`: their mean confidence and the share that is right."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Figures:
    """What a tally amounts to.

    accuracy: top-1; top5: None with five classes or fewer. loss: mean cross entropy (nats). mean_class_accuracy: mean
    of the accuracies of the classes that have images, `classes` of them. mean_confidence: mean probability of the
    answers. calibration_error, max_calibration_error: mean and largest distance between confidence and accuracy of the
    bins, the mean weighted by images (0 to 1). bins: those with images, by rising confidence. The rest as in `Tally`.
    """

    images: int
    without_answer: int
    classes: int
    accuracy: Share
    top5: Share | None
    loss: float
    mean_class_accuracy: float
    mean_confidence: float
    calibration_error: float
    max_calibration_error: float
    bins: tuple[Bin, ...]
    class_images: Tensor
    class_right: Tensor
    confusion: Tensor


def figures(tally: Tally) -> Figures:
    """Raises ValueError for a tally of no images."""
    if not tally.images:
        raise ValueError("tally: expected at least one image, got none")
    seen = tally.class_images > 0
    bins, answered = _bins(tally), max(int(tally.bin_images.sum()), 1)
    gaps = [(bin_.images, abs(bin_.accuracy - bin_.confidence)) for bin_ in bins]
    right = int(tally.class_right.sum())
    return Figures(
        images=tally.images,
        without_answer=tally.without_answer,
        classes=int(seen.sum()),
        accuracy=share(right, tally.images),
        top5=share(tally.right_in_5, tally.images) if tally.num_classes > 5 else None,
        loss=tally.loss / tally.images,
        mean_class_accuracy=float((tally.class_right[seen].double() / tally.class_images[seen]).mean()),
        mean_confidence=float(tally.bin_confidence.sum()) / answered,
        calibration_error=sum(images * gap for images, gap in gaps) / answered,
        max_calibration_error=max((gap for _, gap in gaps), default=0.0),
        bins=bins,
        class_images=tally.class_images,
        class_right=tally.class_right,
        confusion=tally.confusion,
    )


def _bins(tally: Tally) -> tuple[Bin, ...]:
    sums = zip(tally.bin_images.tolist(), tally.bin_confidence.tolist(), tally.bin_right.tolist(), strict=True)
    return tuple(
        Bin(number / BINS, (number + 1) / BINS, images, confidence / images, right / images)
        for number, (images, confidence, right) in enumerate(sums)
        if images
    )


def share(right: int, total: int) -> Share:
    """A share with its 95 % interval."""
    return Share(right, total, *wilson(right, total))


def wilson(right: int, total: int, *, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a share of independent trials (Wilson 1927; Brown, Cai and DasGupta 2001).

    Args:
        right, total: 0 <= right <= total, at least one trial.
        z: quantile of the standard normal; the default's interval holds 95 %.

    Raises:
        ValueError: counts that are none.
    """
    if not 0 <= right <= total or total < 1:
        raise ValueError(f"right, total: expected 0 <= right <= total and at least one, got {right} and {total}")
    p, spread = right / total, z * z / total
    middle = (p + spread / 2) / (1 + spread)
    reach = z / (1 + spread) * math.sqrt(p * (1 - p) / total + spread / (4 * total))
    # At the ends the bound is the end itself; rounding would leave it a little inside.
    return (0.0 if right == 0 else middle - reach), (1.0 if right == total else middle + reach)


def confused_pairs(confusion: Tensor) -> list[tuple[int, int, int]]:
    """(true class, answer, images) of all mistakes that occur, most images first, then by class.

    confusion: as in `Tally`.
    """
    (truths, answers), counts = confusion.indices().tolist(), confusion.values().tolist()
    wrong = [row for row in zip(truths, answers, counts, strict=True) if row[0] != row[1] and row[2]]
    return sorted(wrong, key=lambda row: (-row[2], row[0], row[1]))


def most_confused(figures: Figures, *, most: int) -> list[int]:
    """Classes to show in a confusion picture, by rising number: all that have images or were answered if these are at
    most `most`, else the classes of the most frequent mistakes."""
    involved = (figures.class_images > 0).nonzero()[:, 0].tolist()
    chosen = {*involved, *figures.confusion.indices()[1].tolist()}
    if len(chosen) > most:
        chosen = set()
        for truth, answer, _ in confused_pairs(figures.confusion):
            if len(chosen | {truth, answer}) > most:
                break
            chosen |= {truth, answer}
        chosen = chosen or set(involved[:most])
    return sorted(chosen)
