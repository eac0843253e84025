"""From a picture to the normalized tensor a network reads."""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision.transforms import InterpolationMode, v2

from halonet.data.pixels import Normalized
from halonet.data.randaugment import RandAugmentForm, rand_augment

ImageTransform = Callable[[Image.Image], torch.Tensor]


@dataclass(frozen=True)
class Preprocessing:
    """How a network wants its pictures: square side in pixels, channels, mean and std of values in 0 to 1,
    the share of the resized picture's short side that the centre crop keeps, and how it is resized."""

    img_size: int
    in_chans: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    interpolation: str = "bicubic"

    @property
    def short_side(self) -> int:
        """Pixels of the resized picture's short side."""
        return max(self.img_size, round(self.img_size / self.crop_pct))

    @property
    def filter(self) -> InterpolationMode:
        """`interpolation` as torchvision names it."""
        return InterpolationMode(self.interpolation)

    def to_metadata(self) -> dict[str, str]:
        """Every field as JSON text, for a safetensors header."""
        return {name: json.dumps(value) for name, value in asdict(self).items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "Preprocessing":
        """The other way round; `interpolation`, which older files do not tell, may be missing. Raises ValueError naming
        the other fields that are."""
        missing = [item.name for item in fields(cls) if item.default is MISSING and item.name not in metadata]
        if missing:
            raise ValueError(f"weights without {', '.join(missing)} in their metadata: not written by halonet fit")
        values: dict[str, Any] = {
            item.name: json.loads(metadata[item.name]) for item in fields(cls) if item.name in metadata
        }
        values |= {name: tuple(values[name]) for name in ("mean", "std")}
        return cls(**values)


def eval_transform(preprocessing: Preprocessing) -> ImageTransform:
    """Resize the short side, cut the centre out, normalize: nothing random. Returns (in_chans, side, side)
    float32."""
    return v2.Compose(
        [
            v2.Resize(preprocessing.short_side, interpolation=preprocessing.filter),
            v2.CenterCrop(preprocessing.img_size),
            *_to_tensor(preprocessing),
        ]
    )


def train_transform(
    preprocessing: Preprocessing,
    *,
    augment: Literal["none", "affine", "photo", "crop"],
    randaugment: float,
    crop_scale: float,
    random_erasing: float = 0.0,
    randaugment_form: RandAugmentForm = "tensorflow",
) -> ImageTransform:
    """The training counterpart; arguments as in DataConfig, with "auto" and null decided. RandAugment comes
    with the others too where its magnitude is above 0. Nothing random, no erasing either, with "none"."""
    if augment == "none":
        return eval_transform(preprocessing)
    steps = _crop(preprocessing, augment=augment, crop_scale=crop_scale)
    if randaugment > 0:
        change = rand_augment(
            form=randaugment_form,
            magnitude=randaugment,
            side=preprocessing.img_size,
            mean=preprocessing.mean,
            interpolation=Image.Resampling[preprocessing.interpolation.upper()],
        )
        steps.append(change)
    # Noise of a normalized image's own spread, a value a pixel and channel.
    erasing = [RandomErasing(random_erasing, mode="pixel", device="cpu")] if random_erasing else []
    return v2.Compose([*steps, *_to_tensor(preprocessing), *erasing])


def _crop(
    preprocessing: Preprocessing, *, augment: Literal["affine", "photo", "crop"], crop_scale: float
) -> list[Callable[[Image.Image], Image.Image]]:
    """The steps that bring a picture to the network's size, with what is random about place, scale and side."""
    side, interpolation = preprocessing.img_size, preprocessing.filter
    if augment == "affine":
        affine = v2.RandomAffine(
            10.0,
            translate=(0.06, 0.06),
            scale=(0.9, 1.1),
            shear=5.0,
            interpolation=InterpolationMode.BILINEAR,
        )
        return [v2.Resize((side, side), interpolation=interpolation), affine]
    if augment == "crop":
        # As in the test, but anywhere: the transfer protocol's (HaloNet, section 4.5; ViL, section A.2).
        resize = v2.Resize(preprocessing.short_side, interpolation=interpolation)
        return [resize, v2.RandomCrop(side), v2.RandomHorizontalFlip()]
    crop = RandomResizedCropAndInterpolation(side, scale=(crop_scale, 1.0), interpolation=preprocessing.interpolation)
    return [crop, v2.RandomHorizontalFlip()]


def _to_tensor(preprocessing: Preprocessing) -> list[Callable[..., Any]]:
    return [Normalized(mean=preprocessing.mean, std=preprocessing.std)]


# NumPy's generators that no block has at the moment: making one takes longer than seeding it.
_IDLE: list[Any] = []


class seeded:
    """Within the block, Python's, NumPy's and torch's CPU generators start from `seed`; afterwards they go on
    from where they were (NumPy without the second of a pair of normal numbers, if it kept one)."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        # NumPy gets another generator for the block: to read and write the state of its own takes longer than an
        # image's flip and the rest of this together.
        numpy: Any = np.random
        self.inner = _IDLE.pop() if _IDLE else np.random.MT19937(0)
        self.states = random.getstate(), numpy.get_bit_generator(), torch.get_rng_state()
        random.seed(self.seed)
        np.random.RandomState(self.inner).seed(self.seed % 2**32)
        numpy.set_bit_generator(self.inner)
        torch.default_generator.manual_seed(self.seed)  # torch.manual_seed would also queue work for every device

    def __exit__(self, *_: object) -> None:
        python, outer, torch_state = self.states
        numpy: Any = np.random
        random.setstate(python)
        numpy.set_bit_generator(outer)
        torch.set_rng_state(torch_state)
        _IDLE.append(self.inner)
