"""What a run reads, and how it is cut and changed on the way in."""

from dataclasses import dataclass
from typing import Literal


@dataclass
class DataConfig:
    """The images.

    Args:
        root: image folder: one sub-folder per class, or train/, val/ and test/ that hold them; or what `dataset`
            names; null: the embedded handwritten digits (1797 real 8x8 scans)
        dataset: auto: told by what lies at root; folder; imagenet: class folders, or the original tar files with the
            devkit; imagenet21k: class folders or tar files; imagenetv2; webdataset: shards, paths or addresses with
            {000..146}; huggingface: a data set on disk or by name, for the library `datasets`
        streaming: huggingface: read while it comes, keep nothing on disk
        shuffle_buffer: images that shards and streams are mixed among
        class_map: JSON or text file that gives classes (folders, ids) other names, in the order of their numbers
        on_error: what an unreadable image does: raise: end the run; skip: another takes its place, and it is reported
        max_error_fraction: share of the images that may be skipped before the run ends all the same
        batch_size: images per device in one pass
        num_workers: loading processes; null: 0 for the digits, up to 8 for a folder
        img_size: side in pixels the network sees; null: 16 for the digits, the model's own for a folder
        in_chans: 1 for grey, 3 for colour; null: 1 for the digits, 3 for a folder
        val_fraction: share of each class held out to choose by, where the data have no val/ of their own
        test_fraction: share of each class held out to judge by, where a folder is not split already
        split_seed: seed of that split; apart from the training's seed, so that the judges stay the same
        augment: auto: affine for the digits, photo for a folder; affine: small turns, shifts and scalings;
            photo: random resized crop, left-right flip, RandAugment; crop: the test's crop at a random place, and
            flip; none: nothing random
        crop_pct: share of the resized picture that the centre crop of validation and test keeps; null: of the data or
            the model
        randaugment: RandAugment magnitude 0 to 31 (TensorFlow scale, two operations an image); null: the
            model's own
        crop_scale: smallest share of the picture a random crop may keep (photo)
        random_erasing: probability that a rectangle of an image is replaced by noise
        mixup: alpha of mixup, which blends the images of a batch and their labels; 0: none
        cutmix: alpha of cutmix, which pastes rectangles of others; 0: none; with both one is drawn each batch
        repeats: augmented copies of an image in an epoch of as many images (repeated augmentation)
    """

    root: str | None = None
    dataset: Literal["auto", "folder", "imagenet", "imagenet21k", "imagenetv2", "webdataset", "huggingface"] = "auto"
    streaming: bool = False
    shuffle_buffer: int = 5000
    class_map: str | None = None
    on_error: Literal["raise", "skip"] = "raise"
    max_error_fraction: float = 0.001
    batch_size: int = 32
    num_workers: int | None = None
    img_size: int | None = None
    in_chans: Literal[1, 3] | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    split_seed: int = 2021
    augment: Literal["auto", "none", "affine", "photo", "crop"] = "auto"
    crop_pct: float | None = None
    randaugment: float | None = None
    crop_scale: float = 0.08
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    repeats: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"data.batch_size: expected at least 1, got {self.batch_size}")
        if self.num_workers is not None and self.num_workers < 0:
            raise ValueError(f"data.num_workers: expected at least 0, got {self.num_workers}")
        if self.img_size is not None and self.img_size < 1:
            raise ValueError(f"data.img_size: expected at least 1, got {self.img_size}")
        for name in ("val_fraction", "test_fraction"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"data.{name}: expected a share between 0 and 1, got {getattr(self, name)}")
        if self.val_fraction + self.test_fraction >= 1:
            total = self.val_fraction + self.test_fraction
            raise ValueError(f"data.val_fraction + data.test_fraction: expected less than 1, got {total:g}")
        if self.shuffle_buffer < 1:
            raise ValueError(f"data.shuffle_buffer: expected at least 1, got {self.shuffle_buffer}")
        if not 0 <= self.max_error_fraction <= 1:
            raise ValueError(f"data.max_error_fraction: expected 0 to 1, got {self.max_error_fraction}")
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise ValueError(f"data.crop_pct: expected more than 0 and at most 1, got {self.crop_pct}")
        if self.randaugment is not None and not 0 <= self.randaugment <= 31:
            raise ValueError(f"data.randaugment: expected 0 to 31, got {self.randaugment}")
        if not 0 < self.crop_scale <= 1:
            raise ValueError(f"data.crop_scale: expected more than 0 and at most 1, got {self.crop_scale}")
        if not 0 <= self.random_erasing <= 1:
            raise ValueError(f"data.random_erasing: expected 0 to 1, got {self.random_erasing}")
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ValueError(f"data.{name}: expected at least 0, got {getattr(self, name)}")
        if self.repeats < 1:
            raise ValueError(f"data.repeats: expected at least 1, got {self.repeats}")
