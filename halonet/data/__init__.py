"""Data sets: the embedded digits and any image folder. Nothing here knows of a trainer."""

from halonet.data.config import DataConfig
from halonet.data.dataset import EpochSampler, ImageDataset
from halonet.data.digits import load_digits_source
from halonet.data.folder import load_folder_source
from halonet.data.images import UnreadableImageError, read_image
from halonet.data.source import ImageSource, Split
from halonet.data.splits import stratified_split
from halonet.data.transforms import Preprocessing, eval_transform, train_transform

__all__ = [
    "DataConfig",
    "EpochSampler",
    "ImageDataset",
    "ImageSource",
    "Preprocessing",
    "Split",
    "UnreadableImageError",
    "eval_transform",
    "load_digits_source",
    "load_folder_source",
    "open_source",
    "read_image",
    "stratified_split",
    "train_transform",
]


def open_source(config: DataConfig) -> ImageSource:
    """The data set that `config` names: the folder at `root`, or the digits. Raises ValueError if it cannot
    be used."""
    if config.root is None:
        if config.in_chans not in (None, 1):
            raise ValueError(f"data.in_chans: the digits are grey, expected 1, got {config.in_chans}")
        return load_digits_source(
            val_fraction=config.val_fraction, test_fraction=config.test_fraction, split_seed=config.split_seed
        )
    return load_folder_source(
        config.root,
        in_chans=config.in_chans or 3,
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
        split_seed=config.split_seed,
    )
