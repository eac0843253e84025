"""What a classification leaves behind: weights that name their classes, answers, pictures."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from halonet.analysis.attention.mechanisms import KINDS
from halonet.analysis.score import Score
from halonet.data import ImageDataset, ImageSource, Preprocessing, StreamDataset
from halonet.models.checkpoints import save_weights
from halonet.training.classification.datamodule import ImageDataModule
from halonet.training.files import WEIGHTS

SHOWN_PREDICTIONS = 24


@dataclass(frozen=True)
class Predictions:
    """Of a whole part, in its order, (n,) each: answers and labels int64, confidences (of the answers) float32."""

    answers: Tensor
    confidences: Tensor
    labels: Tensor

    def right(self) -> Tensor:
        """Which answers are right, (n,) bool."""
        return self.answers == self.labels


def weights_metadata(source: ImageSource, preprocessing: Preprocessing) -> dict[str, str]:
    """What `halonet predict` and `validate` need beside the model."""
    ids = {} if source.class_ids is None else {"class_ids": json.dumps(source.class_ids)}
    return {"class_names": json.dumps(source.class_names), **ids, **preprocessing.to_metadata()}


def write_weights(model: nn.Module, data: ImageDataModule, folder: Path, *, extra: dict[str, str]) -> None:
    """The model with its class names and preprocessing, all that `halonet predict` needs."""
    metadata = {**weights_metadata(data.source, data.preprocessing), **extra}
    save_weights(model, folder / WEIGHTS, metadata=metadata)


@torch.inference_mode()
def predict_test(model: nn.Module, data: ImageDataModule, *, limit: int | float) -> Predictions:
    """Answers of the test part on the model's device. limit: as TrainerConfig.limit_test_batches."""
    loader = data.whole_loader("test")
    count = limit if isinstance(limit, int) else max(1, int(limit * len(loader)))
    device = next(model.parameters()).device
    model.eval()
    batches: list[tuple[Tensor, Tensor, Tensor]] = []
    for images, labels in islice(loader, count):
        confidences, answers = model(images.to(device)).float().softmax(1).max(1)
        batches.append((answers.cpu(), confidences.cpu(), labels))
    return joined(batches)


def joined(batches: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Predictions:
    """Of (answers, confidences, labels) of each batch."""
    return Predictions(*map(torch.cat, zip(*batches, strict=True)))


def draw_pictures(
    model: nn.Module,
    data: ImageDataModule,
    predictions: Predictions,
    history: Sequence[dict[str, float]],
    folder: Path,
    *,
    score: Score,
) -> list[str]:
    """curves.png, predictions.png and attention.png; returns the names of those drawn (a model without
    attention has no attention.png)."""
    from halonet.analysis.plots import plot_curves, plot_predictions

    dataset, preprocessing = data.dataset("test"), data.preprocessing
    chosen = _worth_showing(predictions)
    plot_curves(history, folder / "curves.png", score=score)
    plot_predictions(
        [_for_the_eye(dataset[index][0], data) for index in chosen],
        answers=predictions.answers[chosen],
        confidences=predictions.confidences[chosen],
        labels=predictions.labels[chosen],
        class_names=data.source.class_names,
        subtitle=_right_and_wrong(predictions),
        path=folder / "predictions.png",
    )
    if not _has_attention(model):
        return ["curves.png", "predictions.png"]
    from halonet.analysis.attention import record_attention
    from halonet.analysis.attention.pictures import plot_attention
    from halonet.analysis.overlay import contrasting_pixels, for_the_eye

    image = _richest(predictions, dataset)[None].to(next(model.parameters()).device)
    picture = for_the_eye(image[0], preprocessing.mean, preprocessing.std)
    plot_attention(record_attention(model, image), picture, contrasting_pixels(image[0]), folder / "attention.png")
    return ["curves.png", "predictions.png", "attention.png"]


def _worth_showing(predictions: Predictions) -> list[int]:
    """The mistakes, surest first, then an even sample of the rest."""
    wrong = (~predictions.right()).nonzero()[:, 0]
    wrong = wrong[predictions.confidences[wrong].argsort(descending=True)][: SHOWN_PREDICTIONS // 2]
    right = predictions.right().nonzero()[:, 0]
    count = min(SHOWN_PREDICTIONS - len(wrong), len(right))
    spread = right[torch.linspace(0, max(len(right) - 1, 0), count).long()] if count else right[:0]
    return [int(i) for i in torch.cat([wrong, spread])]


def _right_and_wrong(predictions: Predictions) -> str:
    right = int(predictions.right().sum())
    total = len(predictions.labels)
    return f"{right} of {total} test images right ({100 * right / total:.1f} %); mistakes first, surest first"


def _for_the_eye(tensor: Tensor, data: ImageDataModule) -> Tensor:
    """Normalized (C, S, S) back to values in 0 to 1."""
    shape = (-1, 1, 1)
    mean = torch.tensor(data.preprocessing.mean).view(shape)
    std = torch.tensor(data.preprocessing.std).view(shape)
    return (tensor * std + mean).clamp(0, 1)


def _has_attention(model: nn.Module) -> bool:
    return any(isinstance(module, KINDS) for module in model.modules())


def _richest(predictions: Predictions, dataset: ImageDataset | StreamDataset) -> Tensor:
    """Of the 32 test images with the surest answers the one (C, S, S) with most to see: the largest sum of steps
    between neighbouring pixels."""
    surest = predictions.confidences.argsort(descending=True)[:32]
    images = [dataset[int(i)][0] for i in surest]
    return max(images, key=lambda image: float(image.diff(dim=1).abs().sum() + image.diff(dim=2).abs().sum()))
