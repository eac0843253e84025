"""Data sets: the embedded digits, folders, archives, shards and streams. Nothing here knows of a trainer."""

from halonet.data.config import DataConfig
from halonet.data.dataset import EpochSampler, ImageDataset
from halonet.data.digits import load_digits_source
from halonet.data.folder import load_folder_source
from halonet.data.images import UnreadableImageError, read_image
from halonet.data.open import open_source
from halonet.data.source import ImageSource, Split, SplitItems, StreamItems
from halonet.data.splits import stratified_split
from halonet.data.stream import StreamDataset
from halonet.data.transforms import Preprocessing, eval_transform, train_transform
from halonet.data.unreadable import TooManyUnreadableError, UnreadableLog

__all__ = [
    "DataConfig",
    "EpochSampler",
    "ImageDataset",
    "ImageSource",
    "Preprocessing",
    "Split",
    "SplitItems",
    "StreamDataset",
    "StreamItems",
    "TooManyUnreadableError",
    "UnreadableImageError",
    "UnreadableLog",
    "eval_transform",
    "load_digits_source",
    "load_folder_source",
    "open_source",
    "read_image",
    "stratified_split",
    "train_transform",
]
