"""What a model's card tells beside its sizes: how its paper cut, changed and regularized what it was trained on.

One table, first match by name. A new row is a line. `create_model(name).default_cfg` carries the values, and
`halonet fit` takes them from there where the settings leave them open.
"""

from __future__ import annotations

import fnmatch
from dataclasses import asdict, dataclass
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

CROP_PADDING = 32  # pixels that EfficientNet's code resizes beyond the crop, at every size


@dataclass(frozen=True)
class Card:
    """A row's values.

    randaugment: magnitude, two operations an image; 0 for none.
    randaugment_form: "tensorflow" (EfficientNet's code) or "deit"; see `halonet.data.randaugment`.
    drop_rate: dropout before the classifier.
    drop_path_rate: stochastic depth of the last block, linear from 0 in the first.
    crop_pct: share of the resized picture's short side that the test crop keeps; None: side / (side + 32).
    interpolation: "bicubic" or "bilinear", of training and test crops.
    mean, std: of values in 0 to 1, one a channel. All the papers' public code has ImageNet's.
    """

    randaugment: float = 0.0
    randaugment_form: str = "tensorflow"
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    crop_pct: float | None = None
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD


# HaloNet: magnitudes of appendix C.3. Not published: dropout, here EfficientNet's from B0's 0.2 to B7's 0.5; stochastic
# depth, here EfficientNet's 0.2 for "our larger models" (section 4.2.1), read as those with d_f, which section 2.3
# calls so; test crops, here EfficientNet's 32 pixels. BoTNet, ResNet, SENet: crops the same; the rest is the recipes'.
# ViL: DeiT's form, crops and bicubic at 224 (section A.2); at 384 "+32", as the authors' public code has it.
CARDS: tuple[tuple[str, Card], ...] = (
    ("halonet_h4_base128_*", Card()),  # section 4.5: transfer "without the need for regularization"
    ("halonet_h0_*", Card(randaugment=6, drop_rate=0.2)),
    ("halonet_h1_*", Card(randaugment=8, drop_rate=0.2)),
    ("halonet_h2_*", Card(randaugment=10, drop_rate=0.3)),
    ("halonet_h3_*", Card(randaugment=14, drop_rate=0.3, drop_path_rate=0.2)),
    ("halonet_h4_*", Card(randaugment=17, drop_rate=0.4, drop_path_rate=0.2)),
    ("halonet_h5_*", Card(randaugment=19, drop_rate=0.4, drop_path_rate=0.2)),
    ("halonet_h6_*", Card(randaugment=24, drop_rate=0.5, drop_path_rate=0.2)),
    ("halonet_h7_*", Card(randaugment=31, drop_rate=0.5, drop_path_rate=0.2)),
    ("*_nano_*", Card(crop_pct=0.875)),  # ours; timm's usual crop
    ("vil_*_384", Card(randaugment_form="deit")),
    ("vil_*", Card(randaugment_form="deit", crop_pct=0.875)),
    ("msvit_*", Card(randaugment_form="deit", crop_pct=0.875)),
    ("evit_*", Card(randaugment_form="deit", crop_pct=0.875)),
    ("resnext*", Card(crop_pct=0.875, interpolation="bilinear")),  # of no paper here; torchvision's, whose weights fit
    ("*", Card()),
)

# What timm's own description of a model has no place for.
TRAINING_KEYS = ("randaugment", "randaugment_form", "drop_rate", "drop_path_rate")


def card_of(name: str, image_shape: tuple[int, int]) -> dict[str, Any]:
    """A model's card by name, with its test crop worked out for the image size that the row is meant for.

    Another size keeps the share: 32 pixels around a picture of 32 would be half of it.
    """
    card = next(card for pattern, card in CARDS if fnmatch.fnmatchcase(name, pattern))
    values = asdict(card)
    if card.crop_pct is None:
        side = min(image_shape)
        values["crop_pct"] = side / (side + CROP_PADDING)
    return values
