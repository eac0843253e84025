"""Data sets of the library `datasets`: saved to disk, as parquet, arrow or image files in a folder, or by name."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from halonet.data.config import DataConfig
from halonet.data.items import Items
from halonet.data.source import Encoded, ImageSource, Part, Sample, Split, SplitItems, StreamItems
from halonet.data.splits import cut
from halonet.data.web import SPLITS, held_out

SAVED_SHARDS = 64  # of a set that was saved to disk and is streamed; its files say nothing of its size
ROWS = 64  # read at a time


@dataclass(frozen=True)
class Columns:
    """Where images and labels are; names of the classes, None if there are only numbers."""

    image: str
    label: str
    class_names: tuple[str, ...] | None


@dataclass(frozen=True)
class HubImage(Encoded):
    """One row."""

    rows: Any
    column: str
    row: int
    where: str

    def read(self) -> bytes:
        return file_bytes(self.rows[self.row][self.column])

    def __str__(self) -> str:
        return f"{self.where}: row {self.row}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HubImage) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))


class HubImages(Items):
    """The rows of a part as images."""

    def __init__(self, rows: Any, column: str, where: str) -> None:
        self._rows, self._column, self._where = rows, column, where

    def __len__(self) -> int:
        return len(self._rows)

    def _item(self, index: int) -> HubImage:
        return HubImage(self._rows, self._column, index, self._where)


@dataclass(frozen=True)
class HubShards:
    """Shards `numbers` of a streamed part."""

    rows: Any
    columns: Columns
    where: str
    numbers: tuple[int, ...]
    counts: Sequence[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, shard: int, wanted: Sequence[int] | None) -> Iterator[tuple[int, Sample]]:
        """See `Shards`."""
        number = self.numbers[shard]
        rows = self.rows.shard(num_shards=self.rows.num_shards, index=number)
        chosen, last = (None, -1) if wanted is None else (set(wanted), wanted[-1])
        place = -1
        # Batches: row by row, the library would share the rows out between loading processes once more.
        for batch in rows.iter(ROWS):
            for image, label in zip(batch[self.columns.image], batch[self.columns.label], strict=True):
                place += 1
                if chosen is None or place in chosen:
                    yield place, Sample(f"{self.where}, shard {number}: row {place}", file_bytes(image), int(label))
            if chosen is not None and place >= last:
                return


def file_bytes(value: Mapping[str, Any]) -> bytes:
    """An image file as the library gives it undecoded: its bytes, or where it lies. Raises OSError."""
    data = value["bytes"]
    if data is not None:
        return bytes(data)
    if value["path"] is None:
        raise OSError("neither bytes nor a path")
    return Path(value["path"]).read_bytes()


def looks_like_hub(root: Path) -> bool:
    """Whether the folder was saved by the library, or holds parquet or arrow files."""
    if any((root / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return True
    return any(
        next(root.glob(f"{below}*.{suffix}"), None) for below in ("", "data/") for suffix in ("parquet", "arrow")
    )


def open_huggingface(config: DataConfig) -> ImageSource:
    """The set at `data.root`, a folder or a name; a stream with `data.streaming`.

    Raises:
        ValueError: the library cannot load it, or it has no column of images or of classes.
    """
    if config.root is None:
        raise ValueError("data.root: expected a folder or the name of a data set, got null")
    found = _load(config.root, streaming=config.streaming)
    columns = _columns(next(iter(found.values())).features, config.root)
    open_part = _streamed if config.streaming else _mapped
    splits: dict[Split, Part] = {}
    highest = -1
    for name, rows in found.items():
        split = SPLITS.get(name.lower())
        if split is None and len(found) > 1:
            continue
        part, labels = open_part(rows, columns, f"{config.root}, {name}")
        if len(labels) and labels.min() < 0:
            continue  # how images without a published class are marked
        splits[split or "train"] = part
        highest = max(highest, int(labels.max(initial=-1)))
    if not splits:
        raise ValueError(f"data.root: {config.root} has the parts {', '.join(found)}: expected train, validation, test")
    one_part = len(found) == 1 and not set(found) & SPLITS.keys()
    test_is_val = _complete(splits, config, one_part=one_part)
    names = columns.class_names or tuple(map(str, range(highest + 1)))
    return ImageSource(
        name=Path(config.root.rstrip("/")).name,
        class_names=names,
        in_chans=config.in_chans or 3,
        splits=splits,
        augment="photo",
        test_is_val=test_is_val,
        form="huggingface",
    )


def _load(root: str, *, streaming: bool) -> dict[str, Any]:
    """Its parts by name."""
    import datasets

    path = Path(root).expanduser()
    try:
        if path.is_dir() and any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
            loaded = datasets.load_from_disk(str(path))
            parts = dict(loaded) if isinstance(loaded, dict) else {"all": loaded}
            if streaming:
                parts = {
                    name: rows.to_iterable_dataset(num_shards=max(1, min(SAVED_SHARDS, len(rows))))
                    for name, rows in parts.items()
                }
            return parts
        return dict(datasets.load_dataset(str(path) if path.is_dir() else root, streaming=streaming))
    # The library reports what it cannot load as one of many unrelated types.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"data.root: the library datasets cannot load {root}: {reason}") from error


def _columns(features: Any, root: str) -> Columns:
    from datasets import ClassLabel, Image

    features = features or {}
    images = [name for name, kind in features.items() if isinstance(kind, Image)]
    labels = [name for name, kind in features.items() if isinstance(kind, ClassLabel)]
    plain = [name for name in ("label", "labels") if "int" in str(getattr(features.get(name), "dtype", ""))]
    if not images or not labels + plain:
        kinds = ", ".join(f"{name} {type(kind).__name__}" for name, kind in features.items()) or "no types at all"
        raise ValueError(
            f"data.root: {root}: expected a column of type Image and one of type ClassLabel, found {kinds}"
        )
    label = next((name for name in labels if name in ("label", "labels")), (labels or plain)[0])
    names = tuple(features[label].names) if label in labels else None
    return Columns(images[0], label, names)


def _undecoded(rows: Any, columns: Columns) -> Any:
    from datasets import Image

    return rows.select_columns([columns.image, columns.label]).cast_column(columns.image, Image(decode=False))


def _mapped(rows: Any, columns: Columns, where: str) -> tuple[SplitItems, np.ndarray]:
    labels = np.asarray(rows.select_columns([columns.label]).with_format("numpy")[:][columns.label], np.int64)
    only = _undecoded(rows, columns).select_columns([columns.image])
    return SplitItems(HubImages(only, columns.image, where), labels), labels


def _streamed(rows: Any, columns: Columns, where: str) -> tuple[StreamItems, np.ndarray]:
    """Counted by reading the labels, a column that is small."""
    numbers = range(rows.num_shards)
    labels = []
    for number in numbers:
        shard = rows.shard(num_shards=rows.num_shards, index=number).select_columns([columns.label])
        labels.append([label for batch in shard.iter(1024) for label in batch[columns.label]])
    counts = [len(of_shard) for of_shard in labels]
    shards = HubShards(_undecoded(rows, columns), columns, where, tuple(numbers), counts)
    return StreamItems(shards), np.array([label for of_shard in labels for label in of_shard], np.int64)


def _complete(splits: dict[Split, Part], config: DataConfig, *, one_part: bool) -> bool:
    """Cuts what is missing out of train, as a folder's parts are; whether validation serves as the test too."""
    train = splits.get("train")
    if "val" not in splits and train is not None:
        cut_test = one_part and "test" not in splits
        if isinstance(train, SplitItems):
            test_fraction = config.test_fraction if cut_test else 0.0
            splits |= cut(train, val_fraction=config.val_fraction, test_fraction=test_fraction, seed=config.split_seed)
        else:
            splits |= _cut_stream(train, config, test=cut_test)
    if "val" not in splits:
        splits["val"] = splits["test"]
    if "test" in splits:
        return False
    splits["test"] = splits["val"]
    return True


def _cut_stream(train: StreamItems, config: DataConfig, *, test: bool) -> dict[Split, StreamItems]:
    shards = train.shards
    assert isinstance(shards, HubShards)
    fractions = [config.val_fraction, *([config.test_fraction] if test else [])]
    held = held_out(len(shards), fractions, seed=config.split_seed)
    kept = sorted(set(range(len(shards))) - {number for numbers in held for number in numbers})
    names: tuple[Split, ...] = ("train", "val", "test")
    return {
        name: StreamItems(
            HubShards(
                shards.rows,
                shards.columns,
                shards.where,
                tuple(shards.numbers[number] for number in numbers),
                [shards.counts[number] for number in numbers],
            )
        )
        for name, numbers in zip(names, [kept, *held], strict=False)
    }
