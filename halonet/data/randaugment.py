"""RandAugment in the two forms that the papers trained with: TensorFlow's EfficientNet code, and DeiT's."""

import random
from collections.abc import Callable, Sequence
from typing import Any, Literal

from PIL import Image
from timm.data.auto_augment import (
    AugmentOp,
    RandAugment,
    rand_augment_choices,
    rand_augment_ops,
)
from timm.data.auto_augment import posterize as timm_posterize

RandAugmentForm = Literal["tensorflow", "deit"]
ImageChange = Callable[[Image.Image], Image.Image]

MAX_LEVEL = 10.0  # the level that the scales of both forms are written for; TensorFlow's go on beyond it
TENSORFLOW_GREY = 128
# Pixels at level 10, the same at every image size; on images smaller than ImageNet's 224 they shrink with the image.
TRANSLATE_PIXELS, CUTOUT_PIXELS, NOMINAL_SIDE = 100, 40, 224
LARGEST_MAGNITUDE = 31.0


def rand_augment(
    *,
    form: RandAugmentForm,
    magnitude: float,
    side: int,
    mean: Sequence[float],
    interpolation: Image.Resampling,
) -> ImageChange:
    """Two operations an image of `side` pixels (Cubuk et al. 2019, arXiv 1909.13719), by timm's operations.

    "tensorflow": 16 operations, drawn evenly, each applied as drawn, at exactly `magnitude`, which may go beyond the
    nominal 10 up to 31: angles, shears, shifts, holes and the factors of colour, contrast, brightness and sharpness
    grow on linearly; posterizing and solarizing weaken with the magnitude and end in nothing. What comes in from
    outside is grey. Shifts are in pixels: 100 at level 10, whatever the image size.
    "deit": `rand-m9-mstd0.5-inc1` of timm, at `magnitude` instead of 9: 15 operations that all grow stronger, each
    applied half of the time, with noise of 0.5 on the magnitude, which ends at 10. Shifts are a share of the image.

    mean: of values in 0 to 1, one a channel; DeiT fills what comes in with it.
    """
    grey = tuple(min(255, round(255 * value)) for value in mean)
    if form == "deit":
        hparams: dict[str, Any] = {
            "translate_const": int(side * 0.45),
            "img_mean": grey[0] if len(grey) == 1 else grey,
            "interpolation": interpolation,
            "magnitude_std": 0.5,
        }
        names = rand_augment_choices("", increasing=True)
        operations = rand_augment_ops(magnitude, hparams=hparams, transforms=names)
        return RandAugment(_with_no_bits(operations), num_layers=2)
    return RandAugment(tensorflow_operations(magnitude, side=side, channels=len(grey)), num_layers=2)


def tensorflow_operations(magnitude: float, *, side: int, channels: int) -> list[ImageChange]:
    """The operations that EfficientNet's code draws from, at one magnitude (0 to 31) for images of one size."""
    shrink = min(1.0, side / NOMINAL_SIDE)
    fill: int | tuple[int, ...] = TENSORFLOW_GREY if channels == 1 else (TENSORFLOW_GREY,) * channels
    hparams = {
        "translate_pct": TRANSLATE_PIXELS * shrink / side,
        "img_mean": fill,
        "magnitude_max": LARGEST_MAGNITUDE,
    }
    names = [name for name in rand_augment_choices("", increasing=False) if name != "SolarizeAdd"]
    level = magnitude / MAX_LEVEL
    operations = _with_no_bits([AugmentOp(name, prob=1.0, magnitude=magnitude, hparams=hparams) for name in names])
    return [*operations, SolarizeAdd(int(level * 110)), Cutout(int(level * CUTOUT_PIXELS * shrink), fill=fill)]


def _with_no_bits(operations: list[AugmentOp]) -> list[AugmentOp]:
    """The same operations, of which posterizing may leave a picture no bits: it is black then, as Pillow made it before
    version 13, which refuses. DeiT's form asks for it where noise takes the magnitude to 10."""
    for operation in operations:
        if operation.name.startswith("Posterize"):
            operation.aug_fn = posterize
    return operations


def posterize(image: Image.Image, bits: int, **rest: Any) -> Image.Image:
    """As timm's; black for 0 bits."""
    return image.point(lambda value: 0) if bits == 0 else timm_posterize(image, bits, **rest)


class SolarizeAdd:
    """Adds to values below 128 and stops at white. timm's stops at an addition of 128, at magnitude 11.6."""

    def __init__(self, addition: int) -> None:
        self.addition = addition
        self.table = [min(255, value + addition) if value < 128 else value for value in range(256)]

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.point(self.table * len(image.getbands()))


class Cutout:
    """Greys a square of twice `reach` pixels around a pixel drawn evenly; at the border what lies inside."""

    def __init__(self, reach: int, *, fill: int | tuple[int, ...]) -> None:
        self.reach = reach
        self.fill = fill

    def __call__(self, image: Image.Image) -> Image.Image:
        x, y = random.randrange(image.width), random.randrange(image.height)
        left, top = max(0, x - self.reach), max(0, y - self.reach)
        right, bottom = min(image.width, x + self.reach), min(image.height, y + self.reach)
        image = image.copy()
        if self.reach:
            image.paste(self.fill, (left, top, right, bottom))
        return image
