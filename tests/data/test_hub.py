"""Sets of the library `datasets`, made here and saved to disk, read whole and as streams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from halonet.data import DataConfig, ImageSource, SplitItems, StreamDataset, StreamItems, open_source
from halonet.data.images import decode_image, load_item
from tests.data.making import jpeg

datasets = pytest.importorskip("datasets")
NAMES = ("cat", "dog", "cow")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def rows(count: int, *, first: int = 0, label: int | None = None) -> Any:
    """`count` images that differ, with their numbers; columns in an order of their own."""
    features = datasets.Features(
        {
            "number": datasets.Value("int32"),
            "kind": datasets.ClassLabel(names=list(NAMES)),
            "picture": datasets.Image(),
        }
    )
    numbers = range(first, first + count)
    columns = {
        "number": list(numbers),
        "kind": [i % 3 if label is None else label for i in numbers],
        "picture": [{"bytes": jpeg(i), "path": None} for i in numbers],
    }
    return datasets.Dataset.from_dict(columns, features=features)


def content(source: ImageSource, part: str) -> dict[bytes, int]:
    items = source.splits[part]  # type: ignore[index]
    if isinstance(items, SplitItems):
        return {item.read(): int(label) for item, label in zip(items.items, items.labels, strict=True)}  # type: ignore[union-attr]
    samples = [sample for number in range(len(items.shards)) for _, sample in items.shards.read(number, None)]
    return {sample.data: items.label_of(sample) for sample in samples}


def expected(count: int, *, first: int = 0) -> dict[bytes, int]:
    return {jpeg(i): i % 3 for i in range(first, first + count)}


def saved(root: Path) -> None:
    parts = {"train": rows(12), "validation": rows(3, first=12), "test": rows(3, first=15, label=-1)}
    datasets.DatasetDict(parts).save_to_disk(root)


def parquet(root: Path) -> None:
    root.mkdir()
    for number in range(3):
        rows(4, first=4 * number).to_parquet(root / f"train-{number:05d}-of-00003.parquet")
    rows(3, first=12).to_parquet(root / "validation-00000-of-00001.parquet")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("write", [saved, parquet])
def test_columns_and_classes_are_found_by_their_types(tmp_path: Path, write: Any, streaming: bool) -> None:
    root = tmp_path / "pets"
    write(root)
    source = open_source(DataConfig(root=str(root), streaming=streaming))
    assert (source.form, source.name, source.class_names) == ("huggingface", "pets", NAMES)
    assert source.counts == {"train": 12, "val": 3, "test": 3}
    assert source.test_is_val, "a test part without classes is none"
    assert isinstance(source.splits["train"], StreamItems if streaming else SplitItems)
    assert content(source, "train") == expected(12)
    assert content(source, "val") == expected(3, first=12)


def test_a_shard_is_read_from_its_middle(tmp_path: Path) -> None:
    parquet(tmp_path / "pets")
    part = open_source(DataConfig(root=str(tmp_path / "pets"), streaming=True)).splits["train"]
    assert isinstance(part, StreamItems)
    assert part.shards.counts == [4, 4, 4]
    found = list(part.shards.read(1, [1, 3]))
    assert [(place, sample.data, sample.label) for place, sample in found] == [(1, jpeg(5), 2), (3, jpeg(7), 1)]
    assert "pets, train, shard 1: row 1" in found[0][1].name


def test_loading_processes_share_a_stream_out(tmp_path: Path) -> None:
    """The library, which would share rows out between processes itself, is kept from doing so once more."""
    parquet(tmp_path / "pets")
    part = open_source(DataConfig(root=str(tmp_path / "pets"), streaming=True)).splits["train"]
    assert isinstance(part, StreamItems)

    def mean(image: Image.Image) -> torch.Tensor:
        return torch.tensor([float(np.asarray(image).mean())])

    expected = sorted(float(mean(decode_image(jpeg(i), name=i, in_chans=3))) for i in range(12))
    options: dict[str, Any] = {"in_chans": 3, "transform": mean, "seed": 0, "batch_size": 2, "shuffle": True}
    for workers in (0, 2):
        loader = DataLoader(StreamDataset(part, **options, buffer=4), batch_size=None, num_workers=workers)
        assert sorted(float(value) for values, _ in loader for value in values) == expected


@pytest.mark.parametrize("streaming", [False, True])
def test_one_part_alone_is_cut(tmp_path: Path, streaming: bool) -> None:
    rows(30).save_to_disk(tmp_path / "whole")
    source = open_source(DataConfig(root=str(tmp_path / "whole"), streaming=streaming, val_fraction=0.2))
    assert source.counts == {"train": 18, "val": 6, "test": 6}
    parts = [content(source, part) for part in source.splits]
    assert {data: label for part in parts for data, label in part.items()} == expected(30)


def test_a_folder_of_image_files(tmp_path: Path) -> None:
    """As the library reads it: files, not bytes."""
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(4):
            (tmp_path / "train" / name / f"{number}.jpg").write_bytes(jpeg(number))
    source = open_source(DataConfig(root=str(tmp_path), dataset="huggingface", val_fraction=0.25))
    assert source.class_names == ("cat", "dog")
    assert source.counts == {"train": 6, "val": 2, "test": 2}
    part = source.splits["train"]
    assert isinstance(part, SplitItems)
    assert isinstance(load_item(part.items[0], in_chans=3), Image.Image)


def test_no_image_column(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"a": [1], "label": [0]}).save_to_disk(tmp_path / "words")
    with pytest.raises(ValueError, match="expected a column of type Image and one of type ClassLabel, found a Value"):
        open_source(DataConfig(root=str(tmp_path / "words")))


def test_streaming_is_for_such_sets_alone(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with pytest.raises(ValueError, match=r"data\.streaming: expected a data set of huggingface, got one of the form"):
        open_source(DataConfig(root=str(tmp_path), streaming=True))
