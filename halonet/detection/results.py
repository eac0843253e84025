"""What detectors answer, as COCO's results: plain values that JSON holds and pycocotools reads."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from halonet.processes import gather

MASK_THRESHOLD = 0.5  # a pixel belongs to the object above it: Mask R-CNN's, and torchvision's


def coco_results(
    outputs: Sequence[Mapping[str, Tensor]],
    image_ids: Sequence[int],
    *,
    category_ids: Sequence[int],
    masks: bool = True,
) -> list[dict[str, Any]]:
    """Outputs of a detector in COCO's results form, one entry an object.

        "image_id", "category_id": int
        "bbox":                    [x, y, width, height] in pixels
        "score":                   0 to 1
        "segmentation":            {"size": [H, W], "counts": str}, COCO's compressed run lengths; where there are masks

    Masks are encoded one by one, so that nothing as large as all of them is made.

    Args:
        outputs: of each image, on any device and of any float dtype: boxes (N, 4) xyxy in pixels of the whole image,
            labels (N,) integers from 1, scores (N,), and where the detector has masks `masks` (N, 1, H, W) or
            (N, H, W): probabilities, cut at 0.5, or zeros and ones.
        image_ids: of the images, in the same order.
        category_ids: COCO's id of each label: label 1 is category_ids[0].
        masks: False leaves masks out, where there are any.

    Raises:
        ValueError: other numbers of images, labels without a category, or figures that are not finite.
    """
    if len(outputs) != len(image_ids):
        raise ValueError(f"image_ids: expected one for each of {len(outputs)} outputs, got {len(image_ids)}")
    results: list[dict[str, Any]] = []
    for output, image_id in zip(outputs, image_ids, strict=True):
        results += _of_image(output, int(image_id), category_ids=category_ids, masks=masks)
    return results


def _of_image(
    output: Mapping[str, Tensor], image_id: int, *, category_ids: Sequence[int], masks: bool
) -> list[dict[str, Any]]:
    boxes, scores = (output[name].detach().float().cpu() for name in ("boxes", "scores"))
    labels = output["labels"].tolist()
    wrong = [label for label in labels if not 1 <= label <= len(category_ids)]
    if wrong:
        raise ValueError(f"outputs: expected labels 1 to {len(category_ids)} in image {image_id}, got {wrong[0]}")
    if not (boxes.isfinite().all() and scores.isfinite().all()):
        raise ValueError(f"outputs: expected finite boxes and scores in image {image_id}, got others")
    corners = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)
    results: list[dict[str, Any]] = [
        {"image_id": image_id, "category_id": int(category_ids[label - 1]), "bbox": box, "score": score}
        for label, box, score in zip(labels, corners.tolist(), scores.tolist(), strict=True)
    ]
    if masks and "masks" in output:
        for result, mask in zip(results, output["masks"], strict=True):
            result["segmentation"] = encode_mask(mask)
    return results


def encode_mask(mask: Tensor) -> dict[str, Any]:
    """One mask (H, W) or (1, H, W), probabilities or zeros and ones -> COCO's run lengths, compressed, as text."""
    from pycocotools import mask as coco_mask

    inside = mask.detach().reshape(mask.shape[-2:]) > MASK_THRESHOLD
    # Run lengths go down the columns: the transposed map, read the other way round, lies as they want it.
    columns = inside.t().contiguous().cpu().numpy().T.view("uint8")
    encoded = coco_mask.encode(columns)
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def gather_results(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results of all processes, in every one of them: each image once, in rising order of `image_id`.

    A sampler that gives every process as many images hands some images to two of them; the first process's results
    are taken then. Without `torch.distributed` the results themselves, in order. Call it in every process, with an
    empty list too.
    """
    gathered: dict[int, list[dict[str, Any]]] = {}
    for part in gather(list(results)):
        of_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for result in part:
            of_image[result["image_id"]].append(result)
        gathered = {**of_image, **gathered}
    return [result for image_id in sorted(gathered) for result in gathered[image_id]]


def plain_figures(figures: Mapping[str, float]) -> dict[str, float | None]:
    """The figures as JSON has them: None for what is no number."""
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}
