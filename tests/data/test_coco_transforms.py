"""Boxes, masks and pictures stay of one kind through every transform; chance depends on a seed and an index alone."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

from halonet.data.coco import (
    Annotated,
    DetectionConfig,
    DetectionDataset,
    DrawnScenes,
    collate,
    eval_transform,
    train_transform,
)
from halonet.data.coco.dataset import as_tensors
from halonet.data.coco.source import tight_boxes
from halonet.data.coco.transforms import CropOrPad, ScaleJitter
from halonet.data.images import UnreadableImageError
from halonet.data.unreadable import UnreadableLog

JITTERS = ([0.8, 1.25], [0.5, 2.0], [0.1, 2.0])
GREY = [124, 116, 104]  # the mean colour of ImageNet


class Item:
    """An image that is held."""

    def __init__(self, annotated: Annotated, image_id: int = 7) -> None:
        self.annotated = annotated
        self.image_id = image_id

    def load(self) -> Annotated:
        return self.annotated


class Unreadable:
    image_id = 8

    def load(self) -> Annotated:
        raise UnreadableImageError("cannot read image x.jpg: the file is truncated")


def annotated(masks: np.ndarray, image: np.ndarray | None = None, *, crowds: tuple[int, ...] = ()) -> Annotated:
    """Objects of these masks, (N, H, W)."""
    count = len(masks)
    iscrowd = np.zeros(count, np.int64)
    iscrowd[list(crowds)] = 1
    return Annotated(
        image=np.zeros((*masks.shape[1:], 3), np.uint8) if image is None else image,
        boxes=tight_boxes(masks),
        labels=np.arange(1, count + 1),
        masks=masks.astype(np.uint8),
        iscrowd=iscrowd,
        area=masks.sum(axis=(1, 2), dtype=np.float32),
        annotation_ids=np.arange(count) + 100,
    )


def squares(size: tuple[int, int], *corners: tuple[int, int, int, int]) -> np.ndarray:
    masks = np.zeros((len(corners), *size), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, corners, strict=True):
        mask[top:bottom, left:right] = 1
    return masks


def plain(target: dict[str, Tensor], name: str) -> np.ndarray:
    return target[name].as_subclass(Tensor).numpy()


CROPS = st.tuples(st.integers(20, 110), st.integers(20, 110))
SIDES = st.integers(32, 90)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), height=SIDES, width=SIDES, jitter=st.sampled_from(JITTERS), crop=CROPS)
def test_boxes_are_those_of_their_masks(
    data: st.DataObject, height: int, width: int, jitter: list[float], crop: tuple[int, int]
) -> None:
    """Of rectangles, to less than the pixel that rounding a mask's border to the new grid makes."""
    corners = []
    for _ in range(data.draw(st.integers(0, 4))):
        left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
        corners.append((left, top, data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))))
    detection = DetectionConfig(scale_jitter=jitter, crop_size=list(crop))
    item = Item(annotated(squares((height, width), *corners)))
    dataset = DetectionDataset(
        [item], transform=train_transform(detection, largest=1), seed=data.draw(st.integers(0, 10**6))
    )
    _, target = dataset[0]
    boxes, masks = target["boxes"].numpy(), target["masks"].numpy()
    assert np.abs(boxes - tight_boxes(masks)).max(initial=0) < 1 + 1e-4


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), height=SIDES, width=SIDES, jitter=st.sampled_from(JITTERS), crop=CROPS)
def test_targets_are_whole(seed: int, height: int, width: int, jitter: list[float], crop: tuple[int, int]) -> None:
    """No object without pixels, no mask beyond its box or the crop, and as much told of every object."""
    detection = DetectionConfig(scale_jitter=jitter, crop_size=list(crop))
    items = DrawnScenes(3, seed, size=(height, width))
    dataset = DetectionDataset(items, transform=train_transform(detection, largest=1), seed=seed)
    for index in range(3):
        image, target = dataset[index]
        assert image.shape == (3, *crop)
        assert target["masks"].shape == (len(target["labels"]), *crop)
        boxes, masks = target["boxes"].numpy(), target["masks"].numpy()
        assert masks.any(axis=(1, 2)).all()
        beyond = (tight_boxes(masks) - boxes) * [-1, -1, 1, 1]
        assert beyond.max(initial=0) < 1 + 1e-4
        assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()
        assert (boxes >= 0).all()
        assert (boxes <= [crop[1], crop[0], crop[1], crop[0]]).all()
        np.testing.assert_array_equal(target["area"].numpy(), masks.sum(axis=(1, 2)))
        assert set(target["labels"].tolist()) <= set(items[index].load().labels.tolist())


@pytest.mark.parametrize("jitter", JITTERS)
@pytest.mark.parametrize("size", [(40, 60), (60, 40), (90, 30)])
def test_jitter_counts_from_the_size_that_fits_the_crop(jitter: list[float], size: tuple[int, int]) -> None:
    """Sizes over many draws lie between the two factors of it, and come near both."""
    step, whole = ScaleJitter((64, 48), (jitter[0], jitter[1])), torch.zeros(3, *size)
    heights = np.array([step(whole).shape[-2] for _ in range(200)])
    fit = min(48 / size[0], 64 / size[1]) * size[0]
    assert heights.min() >= int(jitter[0] * fit)
    assert heights.max() <= jitter[1] * fit
    low, high = np.quantile(heights / fit, (0.1, 0.9))
    tenth = 0.1 * (jitter[1] - jitter[0])
    assert abs(low - jitter[0] - tenth) < tenth
    assert abs(high - jitter[1] + tenth) < tenth


def test_a_crop_is_told_as_height_and_width() -> None:
    """40 x 60 into 48 x 64: by 64 / 60, to 42 x 64 (rounded down), and padded below."""
    detection = DetectionConfig(scale_jitter=[1.0, 1.0], crop_size=[48, 64])
    whole = Item(annotated(squares((40, 60), (0, 0, 60, 40))))
    image, target = DetectionDataset([whole], transform=train_transform(detection, largest=1), seed=0)[0]
    assert image.shape == (3, 48, 64)
    assert target["boxes"].tolist() == [[0, 0, 64, 42]]
    square_crop = train_transform(DetectionConfig(scale_jitter=[1.0, 1.0]), largest=32)
    assert DetectionDataset([whole], transform=square_crop, seed=0)[0][0].shape == (3, 32, 32)


def test_a_narrow_picture_keeps_a_pixel() -> None:
    assert min(ScaleJitter((64, 64), (0.1, 0.1))(torch.zeros(3, 2, 400)).shape) == 1


def test_smaller_pictures_are_padded_below_and_to_the_right() -> None:
    image = np.full((4, 6, 3), 200, np.uint8)
    picture, target = CropOrPad((7, 6))(*as_tensors(annotated(squares((4, 6), (1, 1, 6, 3)), image)))
    assert (picture[:, :4] == 200).all()
    assert picture[:, 4:].flatten(1).unique(dim=1).tolist() == [[value] for value in GREY]
    assert target["boxes"].tolist() == [[1, 1, 6, 3]]
    assert plain(target, "masks").sum() == 10
    assert tuple(target["boxes"].canvas_size) == (7, 6)


def test_larger_pictures_are_cut_anywhere() -> None:
    """Every place of 4 columns out of 8 is met, and red tells which; the row is padded at the same time."""
    image = np.zeros((2, 8, 3), np.uint8)
    image[:, :, 0] = np.arange(8)
    starts = set()
    for _ in range(100):
        picture, target = CropOrPad((3, 4))(*as_tensors(annotated(squares((2, 8), (3, 0, 5, 2)), image)))
        start = int(picture[0, 0, 0])
        starts.add(start)
        assert picture[0, 0].tolist() == list(range(start, start + 4))
        left, right = max(3 - start, 0), min(5 - start, 4)
        assert target["boxes"].tolist() == ([[left, 0, right, 2]] if right > left else [[0, 0, 0, 0]])
    assert starts == {0, 1, 2, 3, 4}


def test_a_cut_object_has_the_box_of_what_is_left() -> None:
    """An L whose foot is cut off: what is left is the upright, 2 wide, where the whole's box would be 4 wide."""
    corner = np.zeros((1, 8, 8), np.uint8)
    corner[0, :8, 0:2] = corner[0, 6:, 0:6] = 1
    boxes = set()
    for _ in range(60):
        _, target = CropOrPad((5, 8))(*as_tensors(annotated(corner)))
        boxes.add(tuple(target["boxes"][0].tolist()))
    assert boxes == {(0, 0, 2, 5), (0, 0, 6, 5)}


def test_what_vanishes_is_taken_out_with_all_that_is_told_of_it() -> None:
    masks = squares((40, 40), (0, 0, 20, 20), (30, 30, 33, 33), (0, 20, 40, 40))
    transform = train_transform(DetectionConfig(scale_jitter=[0.2, 0.2], crop_size=[40, 40], flip=0.0), largest=1)
    dataset = DetectionDataset([Item(annotated(masks))], transform=transform, seed=0)
    _, target = dataset[0]
    assert target["labels"].tolist() == [1, 3]
    assert target["boxes"].tolist() == [[0, 0, 4, 4], [0, 4, 8, 8]]
    assert target["area"].tolist() == [16, 32]
    assert len(target["masks"]) == len(target["iscrowd"]) == 2
    assert target["image_id"].item() == 7


@pytest.mark.parametrize("detection", [DetectionConfig(), DetectionConfig(scale_jitter=[0.1, 2.0])])
def test_an_image_of_nothing_stays_one(detection: DetectionConfig) -> None:
    dataset = DetectionDataset(
        [Item(annotated(np.zeros((0, 9, 7), np.uint8)))], transform=train_transform(detection, largest=12), seed=0
    )
    image, target = dataset[0]
    side = (9, 7) if detection.scale_jitter is None else (12, 12)
    assert image.shape == (3, *side)
    assert {name: tuple(value.shape) for name, value in target.items()} == {
        "boxes": (0, 4), "labels": (0,), "masks": (0, *side), "area": (0,), "iscrowd": (0,), "image_id": ()
    }  # fmt: skip


def test_crowd_regions_are_left_out_in_training_only() -> None:
    items = [Item(annotated(squares((8, 8), (0, 0, 4, 4), (4, 4, 8, 8)), crowds=(0,)))]
    trained = DetectionDataset(items, transform=train_transform(DetectionConfig(), largest=8), seed=0)
    judged = DetectionDataset(items, transform=eval_transform(), seed=0)
    assert trained[0][1]["labels"].tolist() == [2]
    assert judged[0][1]["iscrowd"].tolist() == [1, 0]


def test_a_picture_flipped_twice_is_the_same() -> None:
    items = DrawnScenes(4, 3, size=(40, 50))
    flip = train_transform(DetectionConfig(flip=1.0), largest=1)
    flipped = DetectionDataset(items, transform=flip, seed=0)
    for index, item in enumerate(items):
        image, target = as_tensors(item.load())
        once, again = flip(image, target), flip(*flip(image, target))
        assert torch.equal(again[0], image)
        for name, value in target.items():
            assert torch.equal(again[1][name], value), name
        np.testing.assert_array_equal(once[0].numpy(), image.numpy()[:, :, ::-1])
        np.testing.assert_array_equal(tight_boxes(plain(once[1], "masks")), plain(once[1], "boxes"))
        torch.testing.assert_close(flipped[index][0], once[0].as_subclass(Tensor) / 255)


def test_a_sample_is_what_torchvision_takes() -> None:
    scenes = DrawnScenes(2, 0, size=(32, 40))
    dataset = DetectionDataset(scenes, transform=eval_transform(), seed=0)
    image, target = dataset[1]
    assert type(image) is Tensor
    np.testing.assert_allclose(image.numpy() * 255, scenes[1].load().image.transpose(2, 0, 1), atol=1e-4)
    dtypes = {
        "boxes": torch.float32, "labels": torch.int64, "masks": torch.uint8, "area": torch.float32,
        "iscrowd": torch.int64, "image_id": torch.int64,
    }  # fmt: skip
    assert {name: value.dtype for name, value in target.items()} == dtypes
    assert all(type(value) is Tensor for value in target.values())


def test_what_is_held_is_not_written_to() -> None:
    held = annotated(squares((8, 8), (1, 1, 5, 5)))
    image, target = DetectionDataset([Item(held)], transform=eval_transform(), seed=0)[0]
    for value in (image, *target.values()):
        value.fill_(7)
    again = annotated(squares((8, 8), (1, 1, 5, 5)))
    for item in fields(Annotated):
        np.testing.assert_array_equal(getattr(held, item.name), getattr(again, item.name))


def samples(seed: int, indices: list[int], *, workers: int = 0) -> list[tuple[Tensor, Tensor]]:
    detection = DetectionConfig(scale_jitter=[0.5, 2.0])
    dataset = DetectionDataset(
        DrawnScenes(3, 0, size=(32, 40)), transform=train_transform(detection, largest=32), seed=seed
    )
    loader = DataLoader(dataset, sampler=indices, batch_size=2, collate_fn=collate, num_workers=workers)
    return [
        (image, target["boxes"]) for images, targets in loader for image, target in zip(images, targets, strict=True)
    ]


def test_chance_depends_on_seed_and_index_alone() -> None:
    """Neither on what ran before nor on loading processes: image 1 in epochs 0 and 2 of 3 images."""
    whole = samples(5, list(range(9)))
    torch.manual_seed(123)
    for alone, index in zip(samples(5, [7, 1], workers=2), (7, 1), strict=True):
        assert torch.equal(alone[0], whole[index][0])
        assert torch.equal(alone[1], whole[index][1])
    assert not torch.equal(whole[1][0], whole[7][0])
    assert not torch.equal(samples(6, [1])[0][0], whole[1][0])


def test_unreadable_images_are_passed_over_where_that_is_allowed() -> None:
    items = [Unreadable(), Item(annotated(squares((8, 8), (0, 0, 4, 4))))]
    with pytest.raises(UnreadableImageError, match=r"x\.jpg"):
        DetectionDataset(items, transform=eval_transform(), seed=0)[0]
    log = UnreadableLog(part="train", total=2, most=0.5)
    assert DetectionDataset(items, transform=eval_transform(), seed=0, unreadable=log)[0][1]["image_id"].item() == 7
    assert len(log.lines()) == 1
    log.close()
