"""From a picture to the normalized tensor a network reads."""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import InterpolationMode, v2

from halonet.data.pixels import Normalized

ImageTransform = Callable[[Image.Image], torch.Tensor]


@dataclass(frozen=True)
class Preprocessing:
    """How a network wants its pictures: square side in pixels, channels, mean and std of values in 0 to 1,
    and the share of the resized picture that the centre crop keeps."""

    img_size: int
    in_chans: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float

    def to_metadata(self) -> dict[str, str]:
        """Every field as JSON text, for a safetensors header."""
        return {name: json.dumps(value) for name, value in asdict(self).items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "Preprocessing":
        """The other way round. Raises ValueError naming the fields that are missing."""
        missing = [name for name in cls.__dataclass_fields__ if name not in metadata]
        if missing:
            raise ValueError(f"weights without {', '.join(missing)} in their metadata: not written by halonet fit")
        fields: dict[str, Any] = {name: json.loads(metadata[name]) for name in cls.__dataclass_fields__}
        fields |= {name: tuple(fields[name]) for name in ("mean", "std")}
        return cls(**fields)


def eval_transform(preprocessing: Preprocessing) -> ImageTransform:
    """Resize the short side, cut the centre out, normalize: nothing random. Returns (in_chans, side, side)
    float32."""
    side = preprocessing.img_size
    short = max(side, round(side / preprocessing.crop_pct))
    return v2.Compose(
        [
            v2.Resize(short, interpolation=InterpolationMode.BICUBIC),
            v2.CenterCrop(side),
            *_to_tensor(preprocessing),
        ]
    )


def train_transform(
    preprocessing: Preprocessing,
    *,
    augment: Literal["none", "affine", "photo"],
    randaugment: float,
    crop_scale: float,
    random_erasing: float = 0.0,
) -> ImageTransform:
    """The training counterpart; arguments as in DataConfig, with "auto" and null decided. RandAugment comes
    with "affine" too where its magnitude is above 0. Nothing random, no erasing either, with "none"."""
    side = preprocessing.img_size
    if augment == "none":
        return eval_transform(preprocessing)
    steps: list[Callable[[Image.Image], Image.Image]]
    if augment == "affine":
        steps = [
            v2.Resize((side, side), interpolation=InterpolationMode.BICUBIC),
            v2.RandomAffine(
                10.0,
                translate=(0.06, 0.06),
                scale=(0.9, 1.1),
                shear=5.0,
                interpolation=InterpolationMode.BILINEAR,
            ),
        ]
    else:
        steps = [
            v2.RandomResizedCrop(side, scale=(crop_scale, 1.0), interpolation=InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(),
        ]
    if randaugment > 0:
        steps.append(_rand_augment(preprocessing, magnitude=randaugment))
    # Noise of a normalized image's own spread, a value a pixel and channel.
    erasing = [RandomErasing(random_erasing, mode="pixel", device="cpu")] if random_erasing else []
    return v2.Compose([*steps, *_to_tensor(preprocessing), *erasing])


def _rand_augment(preprocessing: Preprocessing, *, magnitude: float) -> Callable[[Image.Image], Image.Image]:
    """Two operations an image (RandAugment, Cubuk et al. 2019). The paper's magnitudes go up to 31, on the
    scale that TensorFlow's code extends beyond its nominal 10; timm clips there unless told a larger
    maximum."""
    grey = tuple(min(255, round(255 * value)) for value in preprocessing.mean)
    hparams: dict[str, Any] = {
        "translate_const": int(preprocessing.img_size * 0.45),
        "img_mean": grey[0] if len(grey) == 1 else grey,
        "magnitude_max": 31,
    }
    # The text form takes whole magnitudes only; the noise term is timm's usual one.
    return rand_augment_transform(f"rand-m{round(magnitude)}-n2-mstd0.5", hparams)


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
