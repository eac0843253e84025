"""Finding objects in pictures with trained weights; needs no trainer."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from halonet.analysis.detection_pictures import draw_detections, enlargement
from halonet.data import read_image
from halonet.detection import coco_results, load_detector
from halonet.files import replacing
from halonet.training.predicting import place_model

RESULTS, IMAGES = "detections.json", "images.json"


@dataclass(frozen=True)
class Detections:
    """Of one picture: what was found, the surest first, and the picture with what is at least as sure as `threshold`.

    objects: name, category_id, score (0 to 1) and box [x, y, width, height] in pixels.
    """

    path: str
    image_id: int
    objects: tuple[dict[str, Any], ...]
    picture: str
    threshold: float

    def to_dict(self) -> dict[str, object]:
        objects = list(self.objects)
        return {"path": self.path, "image_id": self.image_id, "objects": objects, "picture": self.picture}

    def to_line(self) -> str:
        counts = Counter(found["name"] for found in self.objects if found["score"] >= self.threshold)
        told = ", ".join(f"{count} {name}" for name, count in counts.most_common())
        return f"{self.path}: {told or 'nothing'}; {self.picture}"


@torch.inference_mode()
def predict(
    weights: Path,
    pictures: Sequence[Path],
    *,
    out: Path,
    score_threshold: float = 0.5,
    batch: int = 4,
    device: str | None = None,
) -> Iterator[Detections]:
    """Find objects in each picture, one after the other.

    Below `out` it leaves NAME_detections.png of each picture, and after the last one detections.json, all that the
    detector tells (from its own threshold of the score on) as COCO's results, and images.json, which picture has which
    `image_id`, with the categories: an image id is the number that is the picture's file name, if all have such names
    and they differ, else its place, from 1.

    weights: a safetensors file that `halonet fit` wrote. score_threshold: what is less sure is not drawn. batch:
    pictures in one pass. device: null: cuda where there is one, else the CPU. Raises ValueError if the file is not one,
    or for a device that is not there, UnreadableImageError for a picture.
    """
    if batch < 1:
        raise ValueError(f"batch: expected at least 1, got {batch}")
    if not 0 <= score_threshold <= 1:
        raise ValueError(f"score_threshold: expected 0 to 1, got {score_threshold}")
    model, metadata = load_detector(weights)
    categories = _categories(metadata, weights)
    place = place_model(model, device)
    image_ids, files = number_pictures(pictures), _picture_files(pictures, out)
    results: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    rest = list(zip(pictures, image_ids, files, strict=True))
    for start in range(0, len(rest), batch):
        rows = rest[start : start + batch]
        arrays = [np.array(read_image(path, in_chans=3)) for path, _, _ in rows]
        outputs = model([torch.from_numpy(array).permute(2, 0, 1).to(place).float() / 255 for array in arrays])
        for (path, image_id, file), array, output in zip(rows, arrays, outputs, strict=True):
            told = coco_results([output], [image_id], category_ids=[category["id"] for category in categories])
            results += told
            height, width = array.shape[:2]
            images.append({"id": image_id, "file_name": str(path), "width": width, "height": height})
            _draw(array, output, file, names=[category["name"] for category in categories], threshold=score_threshold)
            yield Detections(str(path), image_id, _objects(told, categories), str(file), score_threshold)
    _write(out / RESULTS, results)
    _write(out / IMAGES, {"images": images, "categories": categories})


def number_pictures(pictures: Sequence[Path]) -> list[int]:
    """The image id of each picture: its file name if every one is a number of its own (as COCO's are), else its place,
    from 1."""
    stems = [path.stem for path in pictures]
    if all(stem.isascii() and stem.isdigit() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(stems) + 1))


def _picture_files(pictures: Sequence[Path], out: Path) -> list[Path]:
    """NAME_detections.png of each; of pictures with one name the second is NAME_2_detections.png, and so on."""
    taken: dict[str, Path] = {}
    for path in pictures:
        name, number = path.stem, 1
        while name in taken:
            number += 1
            name = f"{path.stem}_{number}"
        taken[name] = out / f"{name}_detections.png"
    return list(taken.values())


def _categories(metadata: dict[str, str], weights: Path) -> list[dict[str, Any]]:
    if "categories" not in metadata:
        raise ValueError(f"{weights} has no categories in its metadata: not written by halonet fit")
    return json.loads(metadata["categories"])


def _objects(results: Sequence[dict[str, Any]], categories: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    names = {category["id"]: category["name"] for category in categories}
    found = [
        {
            "name": names[one["category_id"]],
            "category_id": one["category_id"],
            "score": one["score"],
            "box": one["bbox"],
        }
        for one in results
    ]
    return tuple(sorted(found, key=lambda one: -one["score"]))


def _draw(image: np.ndarray, output: Any, file: Path, *, names: Sequence[str], threshold: float) -> None:
    shown = output["scores"] >= threshold
    arrays = {name: values[shown].cpu().numpy() for name, values in output.items()}
    boxes, labels, scores, masks = (arrays.get(name) for name in ("boxes", "labels", "scores", "masks"))
    drawn = draw_detections(image, boxes, labels, scores, masks, names, enlarge=enlargement(*image.shape[:2]))
    with replacing(file) as beside:
        Image.fromarray(drawn).save(beside)


def _write(path: Path, values: Any) -> None:
    with replacing(path) as beside:
        beside.write_text(json.dumps(values) + "\n", encoding="utf-8")
