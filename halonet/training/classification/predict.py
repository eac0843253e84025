"""Naming the class of pictures with trained weights; needs no trainer."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from halonet.data import Preprocessing, eval_transform, read_image
from halonet.models.checkpoints import load_model


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
def predict(weights: Path, images: Iterable[Path], *, top: int) -> Iterator[Prediction]:
    """The `top` likeliest classes (all, if there are fewer) of each picture, one after the other.

    weights: a safetensors file that `halonet fit` wrote. Raises ValueError if it is not one,
    UnreadableImageError for a picture.
    """
    if top < 1:
        raise ValueError(f"top: expected at least 1, got {top}")
    model, metadata = load_model(weights)
    if "class_names" not in metadata:
        raise ValueError(f"{weights} has no class_names in its metadata: not written by halonet fit")
    class_names: list[str] = json.loads(metadata["class_names"])
    preprocessing = Preprocessing.from_metadata(metadata)
    transform = eval_transform(preprocessing)
    model.eval()
    for path in images:
        tensor = transform(read_image(path, in_chans=preprocessing.in_chans))
        ranked = model(tensor[None])[0].float().softmax(0).topk(min(top, len(class_names)))
        names = tuple(class_names[int(i)] for i in ranked.indices)
        yield Prediction(str(path), names, tuple(ranked.values.tolist()))
