"""What a classifier's weights answer on their run's own test images, looked at again for a report."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor, nn

from halonet.analysis.classification import Figures, figures, tally
from halonet.data import ImageDataset
from halonet.report.run_files import RunFiles
from halonet.training.classification.datamodule import ImageDataModule
from halonet.training.classification.judge import ClassificationJudgement, summary_figures
from halonet.training.classification.results import Predictions, joined
from halonet.training.predicting import place_model
from halonet.training.task import Judging
from halonet.training.trainer import limit_threads


@dataclass(frozen=True)
class Answers:
    """model: on its device. data: where images come from. numbers: of the images looked at, in the test part of
    `total`. predictions: of these. figures: of these. class_names: of the weights."""

    model: nn.Module
    data: ImageDataModule
    numbers: list[int]
    total: int
    predictions: Predictions
    figures: Figures
    class_names: list[str]

    @property
    def whole(self) -> bool:
        """Whether every test image was looked at."""
        return len(self.numbers) == self.total

    def judged(self) -> dict[str, Any]:
        """As judged.json has it."""
        return ClassificationJudgement({}, summary_figures(self.figures), self.figures, self.class_names).to_dict()

    def image(self, place: int) -> Tensor:
        """The one at a place of `numbers`, as the model sees it, (C, S, S)."""
        return self.data.dataset("test")[self.numbers[place]][0]

    def surest_mistakes(self, most: int) -> list[int]:
        """Places of wrong answers, surest first."""
        return self._ranked(~self.predictions.right(), most, descending=True)

    def least_sure_right(self, most: int) -> list[int]:
        """Places of right answers, least sure first."""
        return self._ranked(self.predictions.right(), most, descending=False)

    def _ranked(self, chosen: Tensor, most: int, *, descending: bool) -> list[int]:
        places = chosen.nonzero()[:, 0]
        order = self.predictions.confidences[places].argsort(descending=descending, stable=True)
        found: list[int] = places[order][:most].tolist()
        return found


@torch.inference_mode()
def look_again(run: RunFiles, *, most: int) -> Answers:
    """Answers on the test images of a finished run; of more than `most` on as many, spread evenly.

    Raises:
        ValueError: the weights, or the data of the run, are not there, do not fit, or are a stream.
    """
    if not run.weights.is_file():
        raise ValueError(f"there is no {run.weights.name}")
    limit_threads(run.kind.threads(run.config))
    parts: Any = run.kind.from_weights(run.config, run.weights, judging=Judging("test"))
    dataset = parts.data.dataset("test")
    if not isinstance(dataset, ImageDataset):
        raise ValueError("the test images are a stream, in which none can be found again")
    total = len(dataset)
    numbers = torch.linspace(0, total - 1, min(most, total)).round().long().tolist()
    place = place_model(parts.model, None)
    tallies, batches = [], []
    batch = run.config.data.batch_size
    for start in range(0, len(numbers), batch):
        images, labels = zip(*(dataset[number] for number in numbers[start : start + batch]), strict=True)
        truth = torch.tensor(labels)
        logits = parts.model(torch.stack(images).to(place)).float()
        confidences, answers = (part.cpu() for part in logits.softmax(1).max(1))
        tallies.append(tally(logits, truth))
        batches.append((answers, confidences, truth))
    return Answers(
        model=parts.model,
        data=parts.data,
        numbers=numbers,
        total=total,
        predictions=joined(batches),
        figures=figures(reduce(add, tallies)),
        class_names=list(parts.source.class_names),
    )
