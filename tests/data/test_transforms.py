"""Transforms and the data set: shapes, values, and randomness that can be repeated."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from halonet.data import EpochSampler, ImageDataset, Preprocessing, eval_transform, train_transform
from halonet.data.pixels import Normalized
from halonet.data.source import SplitItems
from halonet.data.transforms import seeded

GREY = Preprocessing(img_size=8, in_chans=1, mean=(0.5,), std=(0.25,), crop_pct=1.0)
COLOUR = Preprocessing(img_size=8, in_chans=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2), crop_pct=0.875)


def picture(mode: str, size: tuple[int, int] = (12, 10)) -> Image.Image:
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8))


def dataset(seed: int = 0) -> ImageDataset:
    transform = train_transform(GREY, augment="affine", randaugment=0, crop_scale=1.0)
    split = SplitItems([picture("L")] * 4, [0, 1, 0, 1])
    return ImageDataset(split, in_chans=1, transform=transform, seed=seed)


def test_eval_normalizes() -> None:
    tensor = eval_transform(GREY)(Image.new("L", (5, 9), 255))
    assert tensor.shape == (1, 8, 8)
    torch.testing.assert_close(tensor, torch.full((1, 8, 8), 2.0))


def test_eval_cuts_the_centre() -> None:
    """Of a 16x8 picture whose outer quarters are white, only the black middle is left."""
    image = Image.new("L", (16, 8), 255)
    image.paste(0, (4, 0, 12, 8))
    assert (eval_transform(GREY)(image) == -2.0).all()


@pytest.mark.parametrize("augment", ["none", "affine", "photo"])
@pytest.mark.parametrize("randaugment", [0, 6, 31])
@pytest.mark.parametrize(("mode", "preprocessing"), [("L", GREY), ("RGB", COLOUR)])
def test_train_gives_the_same_shape(augment: str, randaugment: float, mode: str, preprocessing: Preprocessing) -> None:
    transform = train_transform(preprocessing, augment=augment, randaugment=randaugment, crop_scale=0.3)  # type: ignore[arg-type]
    for _ in range(12):  # two of RandAugment's fifteen operations are drawn each time
        tensor = transform(picture(mode))
        assert tensor.shape == (preprocessing.in_chans, 8, 8)
        assert tensor.isfinite().all()


def test_digits_are_never_flipped() -> None:
    """A picture brighter on its left stays so, whatever the affine augmentation draws."""
    image = Image.new("L", (8, 8))
    image.paste(255, (0, 0, 3, 8))
    transform = train_transform(GREY, augment="affine", randaugment=0, crop_scale=1.0)
    for _ in range(30):
        tensor = transform(image)
        assert tensor[..., :4].mean() > tensor[..., 4:].mean()


def test_large_magnitudes_are_not_clipped_at_ten() -> None:
    image = picture("RGB", (32, 32))

    def change(magnitude: float) -> float:
        transform = train_transform(COLOUR, augment="photo", randaugment=magnitude, crop_scale=1.0)
        plain = train_transform(COLOUR, augment="photo", randaugment=0, crop_scale=1.0)
        total = 0.0
        for seed in range(40):
            results = []
            for one in (transform, plain):
                random.seed(seed)
                np.random.seed(seed)
                torch.manual_seed(seed)
                results.append(one(image))
            total += float((results[0] - results[1]).abs().mean())
        return total

    assert change(31) > 1.2 * change(10)


def test_an_item_depends_on_seed_epoch_and_index_only() -> None:
    first = dataset()[5][0]
    torch.rand(3)
    random.random()
    data = dataset()
    data[2]
    torch.testing.assert_close(data[5][0], first, rtol=0, atol=0)
    assert not torch.equal(data[1][0], first)  # image 1 too, of epoch 0
    assert not torch.equal(dataset(seed=1)[5][0], first)


def test_reading_an_item_leaves_the_generators_alone() -> None:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    expected = torch.rand(1), random.random(), np.random.rand()
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    dataset()[3]
    assert (torch.rand(1), random.random(), np.random.rand()) == expected


def test_the_sampler_deals_out_every_image_once_an_epoch() -> None:
    data = dataset()
    drawn = []
    for rank in range(2):
        sampler = EpochSampler(data, seed=0, num_replicas=2, rank=rank)
        sampler.set_epoch(3)
        drawn += list(sampler)
    assert sorted(drawn) == [12, 13, 14, 15]


@pytest.mark.parametrize("replicas", [1, 2])
def test_repeated_augmentation(replicas: int) -> None:
    """Three copies of an image one after the other, dealt round, each with numbers of its own; as many as before."""
    data = dataset()
    shares = []
    for rank in range(replicas):
        sampler = EpochSampler(data, seed=0, num_replicas=replicas, rank=rank, repeats=3)
        sampler.set_epoch(2)
        shares.append(list(sampler))
        assert len(shares[-1]) == len(sampler) == 4 // replicas
        assert shares[-1] == list(sampler)
    drawn = [index for draws in zip(*shares, strict=True) for index in draws]
    assert len({index % 4 for index in drawn}) == 2  # four draws: one image three times, and the next
    assert [index // 4 for index in drawn] == [6, 7, 8, 6]
    assert not torch.equal(data[drawn[0]][0], data[drawn[1]][0])
    sampler.set_epoch(3)
    assert {index // 4 for index in sampler} <= {9, 10, 11}


def test_random_erasing() -> None:
    """A rectangle of noise in every image, the same for the same index; none in evaluation."""
    plain = train_transform(COLOUR, augment="affine", randaugment=0, crop_scale=1.0)
    erasing = train_transform(COLOUR, augment="affine", randaugment=0, crop_scale=1.0, random_erasing=1.0)
    image = Image.new("RGB", (8, 8), (90, 90, 90))
    tensors = []
    for transform in (plain, erasing, erasing):
        with seeded(3):
            tensors.append(transform(image))
    assert torch.equal(tensors[1], tensors[2])
    changed = (tensors[1] != tensors[0]).any(0)
    assert 0 < changed.sum() < 64
    rows, columns = changed.nonzero().unbind(1)
    assert changed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].float().mean() > 0.9
    none = train_transform(COLOUR, augment="none", randaugment=0, crop_scale=1.0, random_erasing=1.0)
    assert torch.equal(none(image), eval_transform(COLOUR)(image))


def test_metadata_round_trip() -> None:
    assert Preprocessing.from_metadata(COLOUR.to_metadata()) == COLOUR


def test_metadata_that_lacks_something() -> None:
    with pytest.raises(ValueError, match="without mean"):
        Preprocessing.from_metadata({k: v for k, v in COLOUR.to_metadata().items() if k != "mean"})


@pytest.mark.parametrize(("mode", "preprocessing"), [("L", GREY), ("RGB", COLOUR)])
def test_normalizing_is_torchvisions_to_the_last_bit(mode: str, preprocessing: Preprocessing) -> None:
    steps = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    expected = v2.Compose([*steps, v2.Normalize(list(preprocessing.mean), list(preprocessing.std))])
    image = picture(mode, (40, 30))
    ours = Normalized(mean=preprocessing.mean, std=preprocessing.std)(image)
    assert torch.equal(ours, expected(image).as_subclass(torch.Tensor))
    assert ours.is_contiguous()
