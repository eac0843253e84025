"""Handwritten digits that come with scikit-learn: 1797 scans, 8x8 pixels, 16 grey levels, ten classes.

The test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998, UCI repository), CC BY 4.0.
"""

import numpy as np
from PIL import Image

from halonet.data.source import ImageSource, Split, SplitItems
from halonet.data.splits import stratified_split

GREY_LEVELS = 16
# Twice the scans' side: through the default model's stride-2 stem an attention map has a scan's own 8x8 pixels.
IMG_SIZE = 16
# Over all 1797 scans, scaled to 0 to 1.
MEAN = 0.3053
STD = 0.3761


def load_digits_source(*, val_fraction: float, test_fraction: float, split_seed: int) -> ImageSource:
    """The digits in three stratified parts; ink is bright, paper dark."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    scans = np.rint(digits.images * (255 / GREY_LEVELS)).astype(np.uint8)
    labels = digits.target.tolist()
    indices = stratified_split(labels, val_fraction=val_fraction, test_fraction=test_fraction, seed=split_seed)
    names: tuple[Split, ...] = ("train", "val", "test")
    splits = {
        name: SplitItems([Image.fromarray(scans[i]) for i in part], [labels[i] for i in part])
        for name, part in zip(names, indices, strict=True)
    }
    return ImageSource(
        name="digits",
        class_names=tuple(str(digit) for digit in range(10)),
        in_chans=1,
        splits=splits,
        augment="affine",
        mean=(MEAN,),
        std=(STD,),
        crop_pct=1.0,
        img_size=IMG_SIZE,
    )
