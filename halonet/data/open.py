"""Which data set a run reads: a row a form, told by what lies at `data.root`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from halonet.data.class_map import with_class_map
from halonet.data.config import DataConfig
from halonet.data.digits import load_digits_source
from halonet.data.folder import load_folder_source
from halonet.data.hub import looks_like_hub, open_huggingface
from halonet.data.imagenet import (
    is_imagenet,
    is_imagenet21k,
    is_imagenetv2,
    open_imagenet,
    open_imagenet21k,
    open_imagenetv2,
)
from halonet.data.source import ImageSource, StreamItems
from halonet.data.web import looks_like_shards, open_webdataset


def _folder(config: DataConfig) -> ImageSource:
    if config.root is None:
        raise ValueError("data.root: expected a folder of images, got null")
    return load_folder_source(
        config.root,
        in_chans=config.in_chans or 3,
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
        split_seed=config.split_seed,
    )


@dataclass(frozen=True)
class Form:
    """fits: whether `data.root`, a folder that is there, looks like it. open: reads which images there are, or raises
    ValueError saying what does not fit."""

    fits: Callable[[Path], bool]
    open: Callable[[DataConfig], ImageSource]


# The first that fits is taken; a folder of classes is what is left.
FORMS: dict[str, Form] = {
    "huggingface": Form(looks_like_hub, open_huggingface),
    "imagenet": Form(is_imagenet, open_imagenet),
    "imagenet21k": Form(is_imagenet21k, open_imagenet21k),
    "imagenetv2": Form(is_imagenetv2, open_imagenetv2),
    "webdataset": Form(lambda root: looks_like_shards(str(root)), open_webdataset),
    "folder": Form(lambda root: True, _folder),
}


def open_source(config: DataConfig) -> ImageSource:
    """The data set that `config` names, or the digits. Raises ValueError if it cannot be used."""
    if config.root is None and config.dataset == "auto":
        if config.in_chans not in (None, 1):
            raise ValueError(f"data.in_chans: the digits are grey, expected 1, got {config.in_chans}")
        source = load_digits_source(
            val_fraction=config.val_fraction, test_fraction=config.test_fraction, split_seed=config.split_seed
        )
    else:
        form = form_of(config)
        if config.streaming and form != "huggingface":
            raise ValueError(f"data.streaming: expected a data set of huggingface, got one of the form {form}")
        source = FORMS[form].open(config)
    if config.repeats > 1 and isinstance(source.splits.get("train"), StreamItems):
        raise ValueError(f"data.repeats: a stream gives each image once, expected 1, got {config.repeats}")
    return source if config.class_map is None else with_class_map(source, config.class_map)


def form_of(config: DataConfig) -> str:
    """`data.dataset`, or for auto the row that what lies at `data.root` looks like."""
    if config.dataset != "auto":
        return config.dataset
    assert config.root is not None
    root = Path(config.root).expanduser()
    if not root.is_dir():
        return "webdataset" if looks_like_shards(config.root) else "folder"
    return next(name for name, form in FORMS.items() if form.fits(root))
