"""Crops and augmentation as the papers have them: against hand-cut pixels, TensorFlow's scales, and timm's DeiT."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import AugmentOp, rand_augment_transform
from timm.data.distributed_sampler import RepeatAugSampler
from timm.data.mixup import Mixup, mixup_target
from timm.loss import SoftTargetCrossEntropy
from torch.nn import functional as F

from halonet.data import EpochSampler, Preprocessing, eval_transform, train_transform
from halonet.data.randaugment import Cutout, SolarizeAdd, rand_augment, tensorflow_operations
from halonet.data.transforms import seeded
from halonet.training.classification.module import mixing
from tests.data.test_transforms import dataset

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIZES = (224, 256, 320, 384, 448, 512, 600)


def preprocessing(side: int, crop_pct: float | None = None, interpolation: str = "bicubic") -> Preprocessing:
    mean, std = IMAGENET
    return Preprocessing(side, 3, mean, std, side / (side + 32) if crop_pct is None else crop_pct, interpolation)


def ramp(width: int, height: int) -> np.ndarray:
    """(height, width, 3) uint8: red and green rise by one a pixel to the right and down, blue is their mix."""
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([columns % 256, rows % 256, (columns * 7 + rows * 13) % 256], axis=2).astype(np.uint8)


def pixels(tensor: torch.Tensor) -> np.ndarray:
    """A normalized tensor (3, H, W) as values 0 to 255."""
    mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    return ((tensor * std + mean) * 255).permute(1, 2, 0).numpy()


def photo(width: int = 300, height: int = 260) -> Image.Image:
    """Smooth colours with some noise on them."""
    columns, rows = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    noise = np.random.default_rng(0).normal(0, 20, (height, width, 3))
    values = np.stack([columns, rows, 255 - columns], axis=2) + noise
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("side", SIZES)
def test_the_crop_that_is_judged(side: int) -> None:
    """Of a picture whose short side is 32 pixels longer already: exactly its middle."""
    image = ramp(side + 71, side + 32)
    found = pixels(eval_transform(preprocessing(side))(Image.fromarray(image)))
    left = round(71 / 2)
    np.testing.assert_allclose(found, image[16 : 16 + side, left : left + side], atol=1e-3)


@pytest.mark.parametrize("side", SIZES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_crop_of_a_larger_picture(side: int, interpolation: str) -> None:
    """Of a picture twice as large whose red rises evenly from left to right: red at the places that the crop's pixels
    stand for; a pixel's centre is at its middle."""
    width, height = 2 * (side + 100), 2 * (side + 32)
    red = np.arange(width) * 255 / (width - 1)
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[...] = red.round()[None, :, None]
    found = pixels(eval_transform(preprocessing(side, interpolation=interpolation))(Image.fromarray(image)))
    places = 2 * (50 + np.arange(side) + 0.5) - 0.5
    expected = np.interp(places, np.arange(width), red)
    np.testing.assert_allclose(found, np.broadcast_to(expected[None, :, None], found.shape), atol=1.01)
    assert abs((found - expected[None, :, None]).mean()) < 0.25  # half a source pixel is 0.1 to 0.2 of red


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_resizing_is_the_cards(interpolation: str) -> None:
    """Of a noisy picture, where the filters differ: PIL's of that name, for the test and for random crops alike."""
    image = photo(300, 260)
    settings = preprocessing(98, interpolation=interpolation)
    resized = image.resize((int(130 * 300 / 260), 130), Image.Resampling[interpolation.upper()])
    expected = np.asarray(resized)[16 : 16 + 98, 26 : 26 + 98]
    np.testing.assert_allclose(pixels(eval_transform(settings)(image)), expected, atol=1e-3)
    theirs = create_transform(98, is_training=True, color_jitter=0.0, interpolation=interpolation)
    ours = train_transform(settings, augment="photo", randaugment=0, crop_scale=0.08)
    for seed in range(5):
        found = []
        for transform in (ours, theirs):
            with seeded(seed):
                found.append(transform(image))
        torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("side", "crop_pct", "short"), [(224, 0.875, 256), (384, 0.875, 439), (384, 1.0, 384)])
def test_other_shares(side: int, crop_pct: float, short: int) -> None:
    assert preprocessing(side, crop_pct).short_side == short
    image = ramp(short, short)
    found = pixels(eval_transform(preprocessing(side, crop_pct))(Image.fromarray(image)))
    first = round((short - side) / 2)
    np.testing.assert_allclose(found, image[first : first + side, first : first + side], atol=1e-3)


def test_random_crops_of_the_transfer_protocol() -> None:
    """The test's size at a random place, mirrored half of the time, nothing resized: whole pixels of the picture."""
    image = ramp(96, 72)  # the short side is what a crop of 40 out of 72 needs
    transform = train_transform(preprocessing(40), augment="crop", randaugment=0, crop_scale=0.08)
    places = set()
    for seed in range(40):
        with seeded(seed):
            found = pixels(transform(Image.fromarray(image))).round().astype(int)
        mirrored = bool(found[0, 0, 0] > found[0, 1, 0])
        found = found[:, ::-1] if mirrored else found
        left, top = found[0, 0, 0], found[0, 0, 1]
        np.testing.assert_array_equal(found, image[top : top + 40, left : left + 40])
        places.add((left, top, mirrored))
    assert len(places) > 30
    assert {mirrored for *_, mirrored in places} == {True, False}


def test_deit_is_timms() -> None:
    """The whole training transform, draw for draw: random resized crop, flip, RandAugment m9-mstd0.5-inc1, erasing."""
    ours = train_transform(
        preprocessing(64),
        augment="photo",
        randaugment=9,
        crop_scale=0.08,
        random_erasing=0.25,
        randaugment_form="deit",
    )
    theirs = create_transform(
        64,
        is_training=True,
        color_jitter=0.4,  # DeiT's, which timm leaves out beside RandAugment
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        re_prob=0.25,
        re_mode="pixel",
        re_count=1,
    )
    image, plain, erased = photo(), eval_transform(preprocessing(64))(photo()), 0
    for seed in range(40):
        found = []
        for transform in (ours, theirs):
            with seeded(seed):
                found.append(transform(image))
        torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6)
        assert not torch.allclose(found[0], plain, atol=0.1)
        erased += bool(((found[0] < -2.2) | (found[0] > 2.7)).any())  # noise beyond what a picture can hold
    assert 1 < erased < 25


def test_repeated_augmentation_is_timms() -> None:
    """The same images in the same order on each of two devices, where nothing is rounded off."""
    data = dataset()
    for rank in range(2):
        ours = EpochSampler(data, seed=0, num_replicas=2, rank=rank, repeats=3)
        theirs = RepeatAugSampler(data, num_replicas=2, rank=rank, num_repeats=3, selected_round=0)
        for epoch in range(3):
            ours.set_epoch(epoch)
            theirs.set_epoch(epoch)
            assert [index % len(data) for index in ours] == list(theirs)


def test_mixed_labels_are_timms() -> None:
    """Of two images, whose partner is the other in both libraries: the same targets, and so the same smoothed loss."""
    images, labels = torch.rand(2, 3, 24, 24), torch.tensor([1, 4])
    mix = mixing(mixup=0.8, cutmix=1.0, num_classes=6)
    assert mix is not None
    logits, kinds = torch.randn(2, 6), set()
    for seed in range(20):
        with seeded(seed):
            mixed, targets = mix(images, labels)
        share = float(targets[0, 1])
        expected = mixup_target(labels, 6, lam=share, smoothing=0.1)
        ours = F.cross_entropy(logits, targets, label_smoothing=0.1)
        torch.testing.assert_close(ours, SoftTargetCrossEntropy()(logits, expected))
        blended = share * images + (1 - share) * images.flip(0)
        if torch.allclose(mixed, blended, atol=1e-5):
            kinds.add("mixup")
        else:
            kinds.add("cutmix")
            pasted = (mixed == images.flip(0)).all(1)
            assert ((mixed == images).all(1) | pasted).all()
            torch.testing.assert_close(pasted.float().mean((1, 2)), torch.full((2,), 1 - share), rtol=0, atol=1e-5)
    assert kinds == {"mixup", "cutmix"}


def test_mixing_is_drawn_as_timm_draws() -> None:
    """Beta of 0.8 for mixup, of 1 for cutmix, each half of the time: mean and spread of the first label's share."""
    images, labels = torch.zeros(2, 1, 24, 24), torch.tensor([0, 1])
    mix = mixing(mixup=0.8, cutmix=1.0, num_classes=2)
    assert mix is not None
    theirs = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5, label_smoothing=0.0, num_classes=2)
    with seeded(0):
        shares = torch.stack([mix(images, labels)[1][0, 0] for _ in range(2000)])
        timms = torch.stack([theirs(images.clone(), labels)[1][0, 0] for _ in range(2000)])
    # The standard error of a mean of 2000 shares is 0.0066, so four of the difference are 0.037.
    assert float(shares.mean() - timms.mean()) == pytest.approx(0, abs=0.037)
    assert float(shares.std() - timms.std()) == pytest.approx(0, abs=0.02)


def factor_of(name: str, magnitude: float, side: int = 224) -> float:
    """The size of what an operation is given at a magnitude, by TensorFlow's form."""
    (operation,) = [
        op
        for op in tensorflow_operations(magnitude, side=side, channels=3)
        if isinstance(op, AugmentOp) and op.name == name
    ]
    seen: list[float] = []
    operation.aug_fn = lambda image, *arguments, **_: seen.append(*arguments) or image
    operation(photo(8, 8))
    return abs(seen[0])


@pytest.mark.parametrize("magnitude", [6, 8, 10, 14, 17, 19, 24, 31])
def test_scales_of_tensorflow(magnitude: float) -> None:
    """EfficientNet's code: 30 degrees, shear 0.3, enhancement 0.1 to 1.9 at level 10, straight on beyond it;
    posterizing to level * 4 bits and solarizing above level * 256 reach 8 bits and 256, where they change nothing."""
    level = magnitude / 10
    assert factor_of("Rotate", magnitude) == pytest.approx(30 * level)
    for name in ("ShearX", "ShearY"):
        assert factor_of(name, magnitude) == pytest.approx(0.3 * level)
    for name in ("Color", "Contrast", "Brightness", "Sharpness"):
        assert factor_of(name, magnitude) == pytest.approx(1.8 * level + 0.1)
    for side in (224, 600):
        for name in ("TranslateXRel", "TranslateYRel"):
            assert factor_of(name, magnitude, side) * side == pytest.approx(100 * level)
    assert factor_of("TranslateXRel", magnitude, 64) * 64 == pytest.approx(100 * level * 64 / 224)
    assert factor_of("Posterize", magnitude) == int(level * 4)
    assert factor_of("Solarize", magnitude) == min(256, int(level * 256))
    found = tensorflow_operations(magnitude, side=448, channels=3)
    assert [op.addition for op in found if isinstance(op, SolarizeAdd)] == [int(level * 110)]
    assert [op.reach for op in found if isinstance(op, Cutout)] == [int(level * 40)]
    names = {getattr(op, "name", type(op).__name__) for op in found}
    enhancing = {"Color", "Contrast", "Brightness", "Sharpness"}
    moving = {"Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel", "Cutout"}
    assert names == enhancing | moving | {"AutoContrast", "Equalize", "Invert", "Posterize", "Solarize", "SolarizeAdd"}


def test_two_operations_are_always_applied() -> None:
    """Of TensorFlow's form, where the probability that is drawn there is never used; of DeiT's half of them."""
    options: dict[str, Any] = {"side": 224, "mean": IMAGENET[0], "interpolation": Image.Resampling.BICUBIC}
    applied = {}
    for form in ("tensorflow", "deit"):
        change: Any = rand_augment(form=form, magnitude=9, **options)  # type: ignore[arg-type]
        count = [0]

        def counting(image: Image.Image, *_: Any, count: list[int] = count, **__: Any) -> Image.Image:
            count[0] += 1
            return image

        change.ops = [op for op in change.ops if isinstance(op, AugmentOp)]
        for op in change.ops:
            op.aug_fn = counting
        with seeded(0):
            for _ in range(200):
                change(photo(4, 4))
        applied[form] = count[0]
    assert applied["tensorflow"] == 400
    assert 150 < applied["deit"] < 250


def test_solarize_add() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for image in (Image.fromarray(values), Image.fromarray(np.stack([values] * 3, axis=2))):
        for addition in (0, 66, 341):
            found = np.asarray(SolarizeAdd(addition)(image)).astype(int)
            given = np.asarray(image).astype(int)
            np.testing.assert_array_equal(found, np.where(given < 128, np.minimum(given + addition, 255), given))


def test_cutout() -> None:
    """A grey square around a pixel that may lie anywhere, cut off at the border."""
    image = Image.new("RGB", (20, 16), (10, 20, 30))
    for seed in range(30):
        random.seed(seed)
        x, y = random.randrange(20), random.randrange(16)
        random.seed(seed)
        found = np.asarray(Cutout(4, fill=(128, 128, 128))(image))
        expected = np.tile(np.array([10, 20, 30]), (16, 20, 1))
        expected[max(0, y - 4) : y + 4, max(0, x - 4) : x + 4] = 128
        np.testing.assert_array_equal(found, expected)
    assert np.asarray(Cutout(0, fill=(128, 128, 128))(image)).max() == 30
    assert image.getpixel((3, 3)) == (10, 20, 30)


def test_shifts_do_not_leave_the_picture() -> None:
    """At H7's 600 pixels and magnitude 31 a shift is 310 pixels; as a share, as timm has it, it would be 837."""
    image = Image.new("RGB", (600, 600), (200, 0, 0))
    for name in ("TranslateXRel", "TranslateYRel"):
        ours = [op for op in tensorflow_operations(31, side=600, channels=3) if getattr(op, "name", "") == name]
        red = (np.asarray(ours[0](image))[..., 0] == 200).mean()
        assert red == pytest.approx(290 / 600, abs=0.01)
    timms: Any = rand_augment_transform("rand-m31-p1.0-mmax31", {"translate_const": 270, "img_mean": (128,) * 3})
    (shift,) = [op for op in timms.ops if op.name == "TranslateXRel"]
    assert (np.asarray(shift(image))[..., 0] != 200).all()


def test_grey_pictures() -> None:
    grey = Preprocessing(32, 1, (0.5,), (0.25,), 1.0)
    image = photo(40, 40).convert("L")
    for form in ("tensorflow", "deit"):
        transform = train_transform(
            grey,
            augment="photo",
            randaugment=9.5,
            crop_scale=0.5,
            randaugment_form=form,  # type: ignore[arg-type]
        )
        for seed in range(20):
            with seeded(seed):
                assert transform(image).shape == (1, 32, 32)


@pytest.mark.parametrize(("form", "magnitude"), [("deit", 10.0), ("tensorflow", 0.0), ("tensorflow", 2.0)])
def test_posterizing_may_leave_no_bits(form: Any, magnitude: float) -> None:
    """Pillow 13 refuses 0 bits, which DeiT's form asks for at the end of its scale, TensorFlow's at its beginning."""
    options = {"form": form, "magnitude": magnitude, "side": 8, "mean": (0.5,) * 3}
    change: Any = rand_augment(**options, interpolation=Image.Resampling.BICUBIC)
    (operation,) = [one for one in change.ops if getattr(one, "name", "").startswith("Posterize")]
    operation.prob, operation.magnitude_std = 1.0, 0.0
    assert operation(Image.new("RGB", (8, 8), (200, 100, 50))).getextrema() == ((0, 0),) * 3
