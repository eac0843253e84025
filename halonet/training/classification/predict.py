"""Naming the class of pictures with trained weights; needs no trainer."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from halonet.data import Preprocessing, eval_transform, read_image
from halonet.models.checkpoints import load_model
from halonet.training.predicting import place_model


@dataclass(frozen=True)
class Prediction:
    """Of one picture: the classes in falling probability."""

    path: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]

    def to_dict(self) -> dict[str, object]:
        ranked = zip(self.classes, self.probabilities, strict=True)
        return {"path": self.path, "classes": [{"name": name, "probability": p} for name, p in ranked]}

    def to_line(self) -> str:
        ranked = zip(self.classes, self.probabilities, strict=True)
        return f"{self.path}: " + ", ".join(f"{name} {100 * p:.1f} %" for name, p in ranked)


@torch.inference_mode()
def predict(
    weights: Path, images: Iterable[Path], *, top: int, batch: int = 1, device: str | None = None
) -> Iterator[Prediction]:
    """The `top` likeliest classes (all, if there are fewer) of each picture, one after the other.

    weights: a safetensors file that `halonet fit` wrote. batch: pictures in one pass. device: null: cuda where there is
    one, else the CPU. Raises ValueError if the file is not one, or for a device that is not there,
    UnreadableImageError for a picture.
    """
    for name, value in (("top", top), ("batch", batch)):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    model, metadata = load_model(weights)
    if "class_names" not in metadata:
        raise ValueError(f"{weights} has no class_names in its metadata: not written by halonet fit")
    class_names: list[str] = json.loads(metadata["class_names"])
    preprocessing = Preprocessing.from_metadata(metadata)
    transform = eval_transform(preprocessing)
    place = place_model(model, device)
    rest = iter(images)
    while paths := list(islice(rest, batch)):
        tensors = [transform(read_image(path, in_chans=preprocessing.in_chans)) for path in paths]
        probabilities = model(torch.stack(tensors).to(place)).float().softmax(1)
        ranked = probabilities.topk(min(top, len(class_names)), dim=1)
        for path, indices, values in zip(paths, ranked.indices.tolist(), ranked.values.tolist(), strict=True):
            yield Prediction(str(path), tuple(class_names[index] for index in indices), tuple(values))
